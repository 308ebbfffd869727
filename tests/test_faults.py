"""
tests/test_faults.py: nothing is lost, and nothing goes on in silence that should not: a run knows its
data, and what cannot be is refused in one line.
"""
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from data import ImageTokenizer, load_dataset
from tests.common import run, same, train, weights
from toy.build import build_toy
from tools.muon import Muon
from toy.tokenizer import save_tokenizer

pytest_plugins = "tests.fixtures"


def one_line(said, *words):
    """Whether a command refused in one line that holds these words."""
    assert isinstance(said, str), "it went on"
    assert "\n" not in said.strip()
    for word in words:
        assert str(word) in said, said
    return True


# ---------------------------------------------------------------------------------------------
# a run knows its data


@pytest.fixture(scope="module")
def short(toy, tmp_path_factory):
    """A run of a few steps on a data set that is a copy."""
    folder = tmp_path_factory.mktemp("short")
    shutil.copytree(toy.folder, folder / "mine")
    mine = load_dataset(folder / "mine")
    assert train(mine, folder / "run", "--steps", 4, "--eval_every", 2) is None
    return folder


class Killed(Exception):
    pass


@pytest.fixture
def stopped(toy, tmp_path, monkeypatch):
    """A run that was killed in its fifth step, and saved after its third; its data set is a copy."""
    shutil.copytree(toy.folder, tmp_path / "mine")
    step = Muon.step
    taken = []

    def step_until_killed(self):
        taken.append(1)
        if len(taken) == 5:
            raise Killed
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Muon, "step", step_until_killed)
        with pytest.raises(Killed):
            train(load_dataset(tmp_path / "mine"), tmp_path / "run", *SIX_STEPS)
    return tmp_path


SIX_STEPS = ("--steps", 6, "--eval_every", 3)


def copy_of(short, tmp_path):
    shutil.copytree(short, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_run_does_not_go_on_with_other_rows(short, tmp_path):
    folder = copy_of(short, tmp_path)
    build_toy(folder / "other", "nano", n=48, seed=5)
    said = run("train.py", "--out", folder / "run", "--resume", "--data", folder / "other")
    assert one_line(said, "--resume", folder / "run", "another data set", "--data FOLDER")


def test_a_run_does_not_go_on_with_another_image_tokenizer(short, tmp_path):
    folder = copy_of(short, tmp_path)
    save_tokenizer(folder / "mine" / "tokenizer.pt", ImageTokenizer())
    flags = ("--out", folder / "run", "--resume", "--data", folder / "mine")
    assert one_line(run("train.py", *flags), "its image tokenizer is another")
    mine = load_dataset(folder / "mine")
    said = train(mine, folder / "branch", "--init_from", folder / "run")
    assert one_line(said, "--init_from", "its image tokenizer is another")
    said = train(mine, folder / "other", "--aia", 1, "--reference", folder / "run")
    assert one_line(said, "--reference", "its image tokenizer is another")


def test_a_run_goes_on_with_its_data_set_where_it_was_moved(toy, stopped, tmp_path):
    (stopped / "mine").rename(stopped / "moved")
    said = run("train.py", "--out", stopped / "run", "--resume")
    assert one_line(said, "is not in", stopped / "mine", "--data FOLDER")
    flags = ("--out", stopped / "run", "--resume", "--data", stopped / "moved")
    assert run("train.py", *flags) is None
    assert train(toy, tmp_path / "whole", *SIX_STEPS) is None
    assert same(weights(stopped / "run"), weights(tmp_path / "whole"))


def test_a_run_is_not_branched_on_other_words(short, tmp_path):
    folder = copy_of(short, tmp_path)
    meta = json.loads((folder / "mine" / "meta.json").read_text())
    meta["merges"][0], meta["merges"][1] = meta["merges"][1], meta["merges"][0]
    (folder / "mine" / "meta.json").write_text(json.dumps(meta))
    mine = load_dataset(folder / "mine")
    said = train(mine, folder / "branch", "--init_from", folder / "run")
    assert one_line(said, "its words are cut into other tokens")
