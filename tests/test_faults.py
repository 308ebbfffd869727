"""
tests/test_faults.py: nothing is lost, and nothing goes on in silence that should not: a run knows
its data, and what cannot be is refused in one line.
"""
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from runpy import run_path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from data import VERSION, ImageTokenizer, checksum, load_dataset
from systems.runs import load_checkpoint, load_model, read_config
from tests.common import HERE, free_ports, run, same, short_run, train, weights
from tools.faults import end, in_one_line
from tools.files import load_state, locked, save_state
from tools.flags import printable
from toy import build, own
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
    """A run on a copy of a data set that was killed in its fifth step and saved after its third."""
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


SIX_STEPS = ("--steps", 6, "--eval_every", 3, "--ratio", "1:1")  # so that two share the rows


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
    file = folder / "mine" / "tokenizer.pt"
    save_tokenizer(file, ImageTokenizer())
    meta = json.loads((folder / "mine" / "meta.json").read_text())
    (folder / "mine" / "meta.json").write_text(json.dumps(meta | {"tokenizer": checksum(file)}))
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


def test_who_stops_a_run_whose_data_set_was_moved_is_told_where_it_is(stopped, monkeypatch):
    (stopped / "mine").rename(stopped / "moved")
    monkeypatch.setattr(Muon, "step", lambda _: signal.raise_signal(signal.SIGINT))
    flags = f"--out {stopped / 'run'} --resume --data {stopped / 'moved'}"
    said = run("train.py", *flags.split())
    assert said == f"\nstopped; go on with: python train.py {flags}"


def test_a_data_set_that_was_made_anew_is_not_called_another_place(short, tmp_path):
    folder = copy_of(short, tmp_path)
    config = json.loads((folder / "run" / "config.json").read_text())
    config["train"]["data"] = str(folder / "mine")
    (folder / "run" / "config.json").write_text(json.dumps(config))
    shutil.rmtree(folder / "mine")
    build_toy(folder / "mine", "nano", n=48, seed=5)
    said = run("train.py", "--out", folder / "run", "--resume")
    assert one_line(said, "--resume", folder / "run", "was made anew", "make that data set again")


def test_a_run_knows_its_image_tokenizer(short, tmp_path):
    out = copy_of(short, tmp_path) / "run"
    save_tokenizer(out / "tokenizer.pt", ImageTokenizer())
    said = run("sample.py", out, "--prompt", "a red circle")
    assert one_line(said, out / "tokenizer.pt", "is not the one", short / "mine")
    config = json.loads((out / "config.json").read_text())
    del config["data"]["tokenizer"]  # as older runs have it
    (out / "config.json").write_text(json.dumps(config))
    assert load_model(out)


def test_a_run_is_not_branched_on_other_words(short, tmp_path):
    folder = copy_of(short, tmp_path)
    meta = json.loads((folder / "mine" / "meta.json").read_text())
    meta["merges"][0], meta["merges"][1] = meta["merges"][1], meta["merges"][0]
    (folder / "mine" / "meta.json").write_text(json.dumps(meta))
    mine = load_dataset(folder / "mine")
    said = train(mine, folder / "branch", "--init_from", folder / "run")
    assert one_line(said, "its words are cut into other tokens")


def hostile(folder, array, name="train_generate_ids.npy"):
    """A data set whose rows are something else, under a checksum that fits."""
    if array is None:
        (folder / name).write_bytes(b"")
    else:
        np.save(folder / name, array, allow_pickle=True)
    meta = json.loads((folder / "meta.json").read_text())
    meta["files"][name]["sha256"] = checksum(folder / name)
    (folder / "meta.json").write_text(json.dumps(meta))


def rows_of(*shape, fill=0, dtype=np.uint16):
    return np.full(shape, fill, dtype)


@pytest.mark.parametrize("array", [
    np.array([{}], object), None, rows_of(0, 90), rows_of(), rows_of(4, 90), rows_of(48, 3),
    "fractions", "words of another vocabulary"], ids=str)
def test_rows_that_are_none_are_refused(short, tmp_path, array):
    folder = copy_of(short, tmp_path) / "mine"
    ids = np.load(folder / "train_generate_ids.npy")
    if isinstance(array, str):
        array = ids.astype(float) if array == "fractions" else np.full_like(ids, 60_000)
    hostile(folder, array)
    with pytest.raises(SystemExit) as refused:
        load_dataset(folder)
    assert one_line(refused.value.code, "no rows that can be read", folder, "remove")


def test_roles_and_pixels_are_as_many_as_ids(short, tmp_path):
    folder = copy_of(short, tmp_path) / "mine"
    for array in ("pixels", "roles"):
        name = f"train_understand_{array}.npy"
        hostile(folder, np.load(folder / name)[:-1], name)
        with pytest.raises(SystemExit, match="they do not fit together"):
            load_dataset(folder)


@pytest.mark.parametrize("name, value, why", [
    ("files", [], "has no files"), ("merges", 3, "has no merges"),
    ("merges", [3], "its merges are none"), ("canvas", "48", "has no canvas"),
    ("files", {"train_generate_ids.npy": {}}, "differs from its checksum"),
    ("files", {"train_generate_ids.npy": 3}, "is no file of a data set")])
def test_a_meta_json_with_something_else_in_it_is_refused(short, tmp_path, name, value, why):
    folder = copy_of(short, tmp_path) / "mine"
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {name: value}))
    with pytest.raises(SystemExit) as refused:
        load_dataset(folder)
    assert one_line(refused.value.code, why, folder)


@pytest.mark.parametrize("meta, why", [
    ("[]", "is no object"), ("null", "is no object"), ("{}", "version None"),
    (f'{{"version": {VERSION}}}', "has no kind"), ("[" * 100_000, "not JSON")])
def test_a_meta_json_that_is_none_is_refused(tmp_path, meta, why):
    (tmp_path / "meta.json").write_text(meta)
    with pytest.raises(SystemExit) as refused:
        load_dataset(tmp_path)
    assert one_line(refused.value.code, why, tmp_path)


def test_rows_that_nothing_validates_are_refused(short, tmp_path):
    folder = copy_of(short, tmp_path) / "mine"
    meta = json.loads((folder / "meta.json").read_text())
    meta["files"] = {name: about for name, about in meta["files"].items() if "val_" not in name}
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(SystemExit) as refused:
        load_dataset(folder)
    assert one_line(refused.value.code, "none of that task to validate", folder, "remove")


def test_a_data_set_knows_its_image_tokenizer(short, tmp_path):
    folder = copy_of(short, tmp_path) / "mine"
    (folder / "tokenizer.pt").write_bytes(b"another's")
    with pytest.raises(SystemExit, match="tokenizer.pt: differs from its checksum"):
        load_dataset(folder)


def test_a_branch_does_not_begin_from_weights_after_aia(toy, trained, tmp_path):
    """And it takes the data set of the run that it branches from."""
    shutil.copytree(trained, tmp_path / "run")
    flags = ("--steps", 1, "--exam", 0, "--reference", "paper", "--size", "nano", "--device", "cpu")
    first = ("train.py", "--init_from", tmp_path / "run", "--out", tmp_path / "first", *flags)
    assert run(*first) is None
    config = json.loads((tmp_path / "first" / "config.json").read_text())
    assert config["train"]["data"] == str(toy.folder)
    (tmp_path / "run" / "pretrained.pt").unlink()
    second = ("train.py", "--init_from", tmp_path / "run", "--out", tmp_path / "second", *flags)
    assert one_line(run(*second), "--init_from", tmp_path / "run", "pretrained.pt is missing")


def test_no_file_outside_of_a_data_set_is_read(short, tmp_path):
    folder = copy_of(short, tmp_path) / "mine"
    meta = json.loads((folder / "meta.json").read_text())
    meta["files"]["../../../dev/zero"] = {"sha256": "0"}
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(SystemExit, match="is no file of a data set"):
        load_dataset(folder)


def test_a_run_on_your_own_pictures_is_examined_where_its_data_was_moved(short, tmp_path):
    folder = copy_of(short, tmp_path)
    config = json.loads((folder / "run" / "config.json").read_text())
    meta = json.loads((folder / "mine" / "meta.json").read_text())
    for about in (config["data"], meta):
        about["kind"] = "real"
    (folder / "run" / "config.json").write_text(json.dumps(config))
    (folder / "mine" / "meta.json").write_text(json.dumps(meta))
    shutil.move(folder / "mine", folder / "moved")
    config["train"]["data"] = str(folder / "mine")
    (folder / "run" / "config.json").write_text(json.dumps(config))
    words = ("exam/__main__.py", folder / "run", "--device", "cpu")
    assert one_line(run(*words), folder / "mine", "say where it is: --data FOLDER")
    assert run(*words, "--data", folder / "moved") is None
    scores = json.loads((folder / "run" / "scores.json").read_text())
    assert 0 <= scores["summary"]["answered"]["run"] <= 1


# ---------------------------------------------------------------------------------------------
# what was saved stays


def diverge_after(n, monkeypatch):
    """From the n-th loss on each is no number."""
    real = F.cross_entropy
    calls = []

    def diverge(*args, **more):
        calls.append(1)
        loss = real(*args, **more)
        return loss * float("nan") if len(calls) > n else loss

    monkeypatch.setattr(F, "cross_entropy", diverge)


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(toy, tmp_path, monkeypatch):
    diverge_after(20, monkeypatch)
    said = train(toy, tmp_path / "run", "--steps", 20, "--eval_every", 2)
    assert one_line(said, "the loss is no number", "--lr", tmp_path / "run")
    saved = load_state(tmp_path / "run" / "ckpt.pt")
    assert saved["step"] > 0
    assert all(weight.isfinite().all() for weight in saved["model"].values())


def test_a_run_that_diverged_before_its_second_phase_begins_leaves_no_weights(toy, tmp_path,
                                                                            monkeypatch):
    diverge_after(4, monkeypatch)  # an evaluation and a step, of two tasks
    said = train(toy, tmp_path / "run", "--steps", 4, "--eval_every", 4)
    assert one_line(said, "step 2: the loss is no number")
    assert not (tmp_path / "run" / "pretrained.pt").exists()


@pytest.mark.parametrize("name", ["ckpt.pt", "tokenizer.pt"])
def test_a_flipped_byte_is_noticed(short, tmp_path, name):
    """torch.load() would take it: it looks at no sum."""
    folder = copy_of(short, tmp_path) / "run"
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 255
    (folder / name).write_bytes(content)
    said = run("sample.py", folder, "--prompt", "a red circle")
    assert one_line(said, folder / name if name == "tokenizer.pt" else "ckpt.pt")


def test_a_damaged_checkpoint_gives_way_to_the_one_before(toy, stopped, tmp_path, capsys):
    out = stopped / "run"
    assert load_state(out / "ckpt.pt")["step"] == 3
    assert load_state(out / "ckpt-before.pt")["step"] == 0
    (out / "ckpt.pt").write_bytes((out / "ckpt.pt").read_bytes()[:-5000])
    assert one_line(run("sample.py", out, "--prompt", "x"), "is damaged", f"--out {out} --resume")
    assert run("train.py", "--out", out, "--resume") is None
    said = capsys.readouterr().out
    assert "ckpt.pt: is damaged" in said and "going on from the checkpoint before" in said
    assert train(toy, tmp_path / "whole", *SIX_STEPS) is None
    assert same(weights(out), weights(tmp_path / "whole"))
    assert (out / "log.csv").read_text() == (tmp_path / "whole" / "log.csv").read_text()


def test_of_two_damaged_checkpoints_none_is_gone_on_from(stopped, capsys):
    for name in ("ckpt.pt", "ckpt-before.pt"):
        (stopped / "run" / name).write_bytes(b"damage")
    said = run("train.py", "--out", stopped / "run", "--resume")
    assert one_line(said, "no checkpoint that can be read")
    assert "going on" not in capsys.readouterr().out


@contextmanager
def another_writer(folder):
    """Another process that holds the lock of a folder until it is killed."""
    code = ("import sys, time; from tools.files import lock; assert lock(sys.argv[1]); "
            "print('locked', flush=True); time.sleep(60)")
    folder.mkdir(exist_ok=True)
    other = subprocess.Popen([sys.executable, "-c", code, folder], cwd=HERE,
                             stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"locked\n"
    yield
    other.kill()
    other.communicate()


def test_a_data_set_has_one_maker(tmp_path):
    with another_writer(tmp_path / "new.part"):
        said = run("data.py", "--n", 4, "--out", tmp_path / "new")
        assert one_line(said, "another process makes a data set there")
    assert run("data.py", "--n", 4, "--out", tmp_path / "new") is None


def test_a_run_has_one_writer_and_the_second_changes_nothing(toy, tmp_path):
    """Neither begun in a folder where another run begins, nor resumed beside it."""
    out = tmp_path / "run"
    with another_writer(out):
        (out / "config.json").write_text("the first run's")
        assert one_line(train(toy, out, "--steps", 2), "another process trains there", out)
        assert [file.name for file in out.iterdir()] == ["config.json"]
        assert (out / "config.json").read_text() == "the first run's"


def test_a_run_is_not_resumed_beside_itself(stopped):
    out = stopped / "run"
    while locked:  # this process took the lock, and did not really end
        _, handle = locked.popitem()
        os.close(handle)
    before = (out / "log.csv").read_bytes()
    with another_writer(out):
        said = run("train.py", "--out", out, "--resume")
        assert one_line(said, "another process trains there", out)
    assert (out / "log.csv").read_bytes() == before
    assert run("train.py", "--out", out, "--resume") is None


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    said = run("data.py", "--n", 4, "--out", tmp_path / "x" / "toy")
    assert one_line(said, "the disk is full", tmp_path / "x" / "toy")
    assert not list((tmp_path / "x").iterdir())


def test_a_checkpoint_that_does_not_fit_leaves_the_old_one(tmp_path, monkeypatch):
    save_state(tmp_path / "a.pt", {"x": torch.zeros(2)})

    def no_room(state, path):
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos\nmore")

    monkeypatch.setattr(torch, "save", no_room)
    with pytest.raises(SystemExit) as refused:
        save_state(tmp_path / "a.pt", {"x": torch.ones(2)})
    assert one_line(refused.value.code, "cannot be written", "what was there is kept")
    monkeypatch.undo()
    assert torch.equal(load_state(tmp_path / "a.pt")["x"], torch.zeros(2))
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def fail_with(fault):
    def fail(*_, **__):
        raise fault
    return fail


NO_ROOM = OSError(errno.ENOSPC, "No space left on device")
NO_ROOM_FOR_TORCH = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")


def test_a_second_build_of_own_pictures_ends_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(own, "train_image_tokenizer", fail_with(AssertionError("it trains")))
    flags = of_one_picture(tmp_path)
    with another_writer(tmp_path / "mine.part"):
        assert one_line(run("data.py", *flags), "another process makes a data set there")
        assert (tmp_path / "mine.part").exists()


def of_one_picture(folder):
    """Flags of data.py"""
    Image.new("RGB", (48, 48)).save(folder / "a.png")
    record = {"image": "a.png", "conversations": [{"from": "human", "value": "what?"},
                                                  {"from": "gpt", "value": "black"}]}
    (folder / "pairs.json").write_text(json.dumps([record]))
    return ("--json", folder / "pairs.json", "--images", folder, "--tokenizer_steps", 1,
            "--out", folder / "mine")


@pytest.mark.parametrize("owner, name, fault", [(torch, "save", NO_ROOM_FOR_TORCH),
                                                (own, "compare_pictures", NO_ROOM)])
def test_own_pictures_that_fill_the_disk_leave_nothing(tmp_path, monkeypatch, owner, name, fault):
    flags = of_one_picture(tmp_path)
    monkeypatch.setattr(owner, name, fail_with(fault))
    said = run("data.py", *flags)
    assert one_line(said, "the disk is full; nothing was written", tmp_path / "mine")
    assert not list(tmp_path.glob("mine*"))


def test_a_run_is_not_begun_where_nothing_can_be_written(toy, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    denied = PermissionError(errno.EACCES, "Permission denied", "x")
    monkeypatch.setattr(tempfile, "TemporaryFile", fail_with(denied))
    said = train(toy, tmp_path / "run")
    assert one_line(said, "--out", tmp_path / "run", "cannot be written (Permission denied)")


def test_what_may_not_be_read_is_not_called_damaged(short, monkeypatch):
    denied = PermissionError(errno.EACCES, "Permission denied", "run/ckpt.pt")
    with monkeypatch.context() as patch:
        patch.setattr("zipfile.ZipFile", fail_with(denied))
        with pytest.raises(PermissionError):
            load_model(short / "run")
        with pytest.raises(PermissionError):
            load_checkpoint(short / "run", "cpu")
    monkeypatch.setattr("pathlib.Path.read_text", fail_with(denied))
    for load in (read_config, load_dataset):
        with pytest.raises(PermissionError):
            load(short / {read_config: "run", load_dataset: "mine"}[load])


@pytest.mark.parametrize("fault, said", [
    (NO_ROOM, "the disk is full: make room; what was saved stays"),
    (OSError(errno.EDQUOT, "Disk quota exceeded", "x.png"), "x.png: the disk is full"),
    (OSError(errno.ENOSPC, "No space left", "from.pt", None, "to.pt"), "to.pt: the disk is full"),
    (NO_ROOM_FOR_TORCH, "the disk is full"),
    (PermissionError(errno.EACCES, "Permission denied", "a\nb.pt"),
     "a\\nb.pt: cannot be read or written (Permission denied); change that, or name another"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "x"), "x: cannot be")])
def test_a_fault_of_the_disk_is_said_in_one_line(fault, said):
    assert one_line(in_one_line(fault, "take less"), said)


def test_a_reader_that_has_enough_ends_a_command_in_silence():
    """As head does in: python -m exam | head"""
    much = "from tools.faults import expect_faults; expect_faults('take less')\n" \
           "for _ in range(100_000): print('a line')"
    command = subprocess.Popen([sys.executable, "-c", much], cwd=HERE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    command.stdout.close()
    assert command.stderr.read() == b""
    assert command.wait() == 1


def test_a_killed_worker_ends_the_build(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "PIECE", 4)
    monkeypatch.setattr(build, "become_worker", kill_me)
    said = run("data.py", "--n", 64, "--out", tmp_path / "toy")
    assert one_line(said, "was killed", "--n")
    assert not list(tmp_path.glob("toy*"))


def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_build_that_is_told_to_end_leaves_nothing(tmp_path):
    building = subprocess.Popen([sys.executable, "data.py", "--out", tmp_path / "toy"], cwd=HERE,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_until((tmp_path / "toy.part").exists)
    building.terminate()
    said, _ = building.communicate(timeout=60)
    assert building.returncode == 1
    assert b"stopped before anything was written" in said and b"Traceback" not in said
    assert not list(tmp_path.iterdir())


def wait_until(true, seconds=60):
    end = time.time() + seconds
    while not true():
        assert time.time() < end, "it never came"
        time.sleep(.05)


# ---------------------------------------------------------------------------------------------
# several processes


def one_of_two(words, rank, port, dies=False):
    """One of two processes that train together, which may be killed in its fifth step."""
    code = f"from tests.test_faults import take_part; take_part({dies})"
    environment = os.environ | {"WORLD_SIZE": "2", "RANK": str(rank), "OMP_NUM_THREADS": "1",
                                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], cwd=HERE,
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def take_part(dies):
    step = Muon.step
    taken = []

    def step_until_killed(self):
        taken.append(1)
        if len(taken) == 5:
            kill_me()
        return step(self)

    if dies:
        Muon.step = step_until_killed
    run_path("train.py", run_name="__main__")


def two(words, dies=False):
    """What the first of two processes printed on stderr, in lines, and how both ended."""
    port = free_ports(1)[0]
    jobs = [one_of_two(words, 0, port), one_of_two(words, 1, port, dies)]
    errors = [job.communicate(timeout=120)[1].decode() for job in jobs]
    return errors[0].strip().splitlines(), [job.returncode for job in jobs]


def test_a_killed_process_ends_all_in_one_line_and_they_can_be_resumed(toy, tmp_path):
    words = [*short_run(toy, tmp_path / "run"), *SIX_STEPS, "--aia", .5]
    said, ended = two(words, dies=True)
    assert ended == [1, -signal.SIGKILL]
    assert "Traceback" not in "".join(said)
    assert any("another of the processes is gone" in line and "--resume" in line for line in said)
    assert load_state(tmp_path / "run" / "ckpt.pt")["step"] == 3

    said, ended = two([*words[:4], "--resume"])
    assert ended == [0, 0], said
    said, ended = two([*short_run(toy, tmp_path / "whole"), *SIX_STEPS, "--aia", .5])
    assert ended == [0, 0], said
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    logs = [(tmp_path / name / "log.csv").read_text() for name in ("run", "whole")]
    assert logs[0] == logs[1]


@pytest.mark.skipif(sys.platform != "linux", reason="it takes Linux to end with one's parent")
def test_a_reference_does_not_train_on_when_its_run_was_killed(toy, tmp_path):
    shutil.copytree(toy.folder, tmp_path / "mine")
    meta = json.loads((tmp_path / "mine" / "meta.json").read_text())
    meta["kind"] = "real"  # nothing is shipped for it
    (tmp_path / "mine" / "meta.json").write_text(json.dumps(meta))
    words = [*short_run(load_dataset(tmp_path / "mine"), tmp_path / "run"), "--aia", 1,
             "--reference", "small", "--steps", 5000, "--eval_every", 5]
    training = subprocess.Popen([sys.executable, "train.py", *map(str, words)], cwd=HERE,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    saved = tmp_path / "mine" / "reference-nano-5000-generate" / "ckpt.pt"
    wait_until(saved.exists)
    training.kill()
    training.wait()
    wait_until(lambda: can_be_locked(saved.parent), 5)


def can_be_locked(folder):
    """Whether no process writes there: asked by one that ends at once."""
    code = "import sys; from tools.files import lock; sys.exit(not lock(sys.argv[1]))"
    return subprocess.run([sys.executable, "-c", code, folder], cwd=HERE).returncode == 0


# ---------------------------------------------------------------------------------------------
# faults of the machine


@pytest.mark.parametrize("fault", ["torch.empty(2**50)", "numpy.empty(2**50)"])
def test_no_memory_is_said_in_one_line_with_what_to_do(fault):
    code = ("import torch, numpy; from tools.faults import expect_faults; "
            f"expect_faults('take less'); {fault}")
    ended = subprocess.run([sys.executable, "-c", code], cwd=HERE, stderr=subprocess.PIPE)
    assert ended.returncode == 1
    assert ended.stderr == b"out of memory: take less\n"


def test_a_fault_that_may_be_ours_keeps_its_traceback():
    code = "from tools.faults import expect_faults; expect_faults('take less'); 1 / 0"
    ended = subprocess.run([sys.executable, "-c", code], cwd=HERE, stderr=subprocess.PIPE)
    assert ended.stderr.startswith(b"Traceback") and b"ZeroDivisionError" in ended.stderr


def test_a_missing_compiler_is_said_at_once(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    said = train(toy, tmp_path / "run", "--compile")
    assert one_line(said, "--compile", "no C compiler", "leave the flag out")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name, content", [
    ("interaction.json", "[]"), ("interaction.json", "[" * 100_000),
    ("interaction.json", '{"history": [1]}'), ("interaction.json", '{"history": {}}'),
    ("interaction.json", '{"history": [{"step": 0, "phase": 0}]}'),
    ("interaction.json", '{"history": [{"step": 0, "phase": 0, "generate": '
                         '{"mean": ["x"], "std": [0]}}]}'),
    ("interaction.json", '{"history": [{"step": 0, "phase": 0, "generate": '
                         '{"mean": [NaN], "std": [0]}}]}'),
    ("scores.json", "[]"), ("scores.json", '{"summary": {"answered": {}}}'),
    ("config.json", '{"model": {}}')])
def test_damaged_curves_are_refused_in_one_line(trained, tmp_path, name, content):
    for file in ("interaction.json", "config.json", "scores.json"):
        shutil.copy(trained / file, tmp_path / file)
    (tmp_path / name).write_text(content)
    assert one_line(run("aia.py", tmp_path), name, "damaged", tmp_path)


def test_ctrl_c_is_no_fault(tmp_path, capsys):
    end("take less", "", KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "\nstopped\n"


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, '{"loss": 1}', '{"loss": {"a": 1}}'])
def test_damaged_scores_are_refused_before_anything_is_drawn(trained, tmp_path, content):
    for file in ("ckpt.pt", "config.json", "tokenizer.pt"):
        (tmp_path / file).symlink_to(trained / file)
    (tmp_path / "scores.json").write_text(content)
    said = run("exam/__main__.py", tmp_path, "--device", "cpu")
    assert one_line(said, tmp_path / "scores.json", "holds no scores", "remove it")


# ---------------------------------------------------------------------------------------------
# a hundred bad inputs

RUN = "RUN"    # stands for the folder of a run
TOY = "TOY"    # stands for a data set
FILE = "FILE"  # stands for a file of text
PIPE = "PIPE"  # stands for what is read for ever
NEW = "NEW"    # stands for a folder that is not there

BAD_FLAGS = {
    "train.py": [
        *[(f"--{name}", value) for name in ("steps", "batch_size", "accumulate", "eval_every",
                                            "aia_every") for value in (0, -1)],
        *[(f"--{name}", value) for name in ("aia", "lr", "aia_start")
          for value in (-1, "nan", "inf")],
        ("--seed", -1), ("--seed", 2**64), ("--exam", -1), ("--aia_start", 1.01),
        ("--ratio", "1"), ("--ratio", "1:1:1"), ("--ratio", "0:0"),
        ("--ratio", "a:b"), ("--batch_size", 1), ("--batch_size", 6, "--accumulate", 4),
        ("--data", ""), ("--data", "nowhere"), ("--data", FILE), ("--out", ""), ("--out", RUN),
        ("--out", FILE), ("--out", "FILE/x"), ("--init_from", "nowhere"), ("--init_from", FILE),
        ("--init_from", ""), ("--reference", "nowhere"), ("--reference", ""),
        ("--reference", "RUN,nowhere"), ("--reference", ","), ("--reference", "RUN,RUN,RUN"),
        ("--split", "ffm"), ("--split", "ends"),
        ("--split", "qkv", "--route", "learned"), ("--route", "task"), ("--experts", 2),
        ("--experts", 0), ("--split", "ffn", "--route", "learned", "--experts", 10**6),
        ("--device", "cpu:7"), ("--shared",), ("--fsdp",), ("--device", "cuda:99"),
        ("--device", "abacus"), ("--device", ""), ("--device", "tpu"), ("--lr", 0),
        ("--step", 4), ("--learning_rate", .1), ("--steps", "many"), ("--out", "two\nlines"),
        ("--data", "\033[2J"), ("--size", "huge"), ("word",), ("--out", "x" * 300),
        ("--ratio", "0:1"), ("--aia", 1, "--aia_start", 1),
        ("--out", TOY), ("--task", "generate", "--ratio", "1:2"),
        ("--arch", "evev2", "--see", "tokens", "--stages", "on"), ("--resume", "--out", "nowhere"),
        ("--resume", "--out", RUN), ("--resume", "--out", RUN, "--lr", 1)],
    "sample.py": [
        ("nowhere", "--prompt", "x"), (FILE, "--prompt", "x"), (TOY, "--prompt", "x"),
        (RUN, "--prompt", ""), (RUN, "--prompt", " "), (RUN, "--prompt", "cat " * 300),
        *[(RUN, "--prompt", "x", flag, value) for flag, value in (
            ("--n", 0), ("--n", -1), ("--n", 10**9), ("--cfg", -1), ("--cfg", "nan"),
            ("--cfg", "inf"),
            ("--temperature", -1), ("--temperature", "nan"), ("--top_k", -1), ("--top_p", 0),
            ("--top_p", 2), ("--seed", -1), ("--seed", 2**64), ("--png", ""), ("--png", "FILE/x"),
            ("--png", "x.nothing"), ("--png", "NEW/x.png"), ("--png", RUN),
            ("--device", "abacus"))],
        (RUN, "--prompts", FILE, "--folder", RUN), (RUN, "--prompts", PIPE),
        ("two\nlines", "--prompt", "x"), (RUN, "--image", "two\nlines"),
        (RUN, "--prompts", "nowhere"), (RUN, "--prompts", TOY), (RUN, "--ask", "what?"),
        (RUN, "--image", FILE), (RUN, "--image", FILE, "--ask", "what?"),
        (RUN, "--image", "nowhere.png", "--ask", "what?"), (RUN, "--image", TOY, "--ask", "what?"),
        (RUN, "--image", "assets/scene.png", "--ask", " "),
        (RUN, "--image", "assets/scene.png", "--ask", "what " * 300), (RUN, "--score",)],
    "aia.py": [("nowhere",), (FILE,), (TOY,), ("RUN,nowhere",), ("RUN,",), ("RUN,RUN",),
               (RUN, "--png", "FILE/x"), (RUN, "--png", "x.nothing"), (RUN, "--png", "NEW/x.png"),
               (RUN, "--png", RUN)],
    "data.py": [
        ("--n", 0), ("--n", -5), ("--n", 10**20), ("--seed", -1), ("--seed", 2**31),
        ("--tokenizer_steps", 0),
        ("--out", TOY), ("--out", FILE), ("--out", "FILE/x"), ("--out", ""), ("--json", "nowhere"),
        ("--json", FILE), ("--json", PIPE), ("--json", "two\nlines"), ("--json", TOY),
        ("--images", "pictures"), ("--json", ""), ("--json", FILE, "--n", 5),
        ("--tokenizer_steps", 5), ("--train_tokenizer", "--out", "NEW"),
        ("--train_tokenizer", "--json", FILE)],
}
CASES = [(script, flags) for script, cases in BAD_FLAGS.items() for flags in cases]


def test_there_are_a_hundred():
    assert len(CASES) >= 100


@pytest.mark.parametrize("script, flags", CASES, ids=str)
def test_bad_input_is_refused_in_one_line(script, flags, toy, trained, tmp_path):
    """It names the flag or the file and its value, and comes before anything long begins."""
    file = tmp_path / "text.txt"
    file.write_text("some words")
    os.mkfifo(tmp_path / "pipe")
    places = {RUN: trained, TOY: toy.folder, FILE: file, PIPE: tmp_path / "pipe",
              NEW: tmp_path / "new"}
    words = []
    for flag in flags:
        for name, place in places.items():
            flag = str(flag).replace(name, str(place))
        words.append(flag)
    if script == "train.py" and "--resume" not in words:
        defaults = ("--data", toy.folder, "--out", tmp_path / "out", "--size", "nano",
                    "--device", "cpu", "--reference", "paper")
        words = [*defaults, *words]
    said = run(script, *words)
    assert isinstance(said, str), "it went on"
    assert said.strip() == printable(said.strip())
    assert len(said) < 700
    assert not (tmp_path / "out").exists() and not (tmp_path / "new").exists()
    named = [part.strip() for word in words[-len(flags):] for part in word.split(",")]
    named = [printable(part) for part in named]
    assert any(part.lstrip("-")[:40] in said for part in named if part), said
