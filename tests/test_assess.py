"""tests/test_assess.py: lab/assess.py, a network that learns from marks of its own drawings."""
import json

import numpy as np

from data import load_dataset
from exam.rules import check
from lab.assess import captions, dialogue, marked
from tests.common import as_if_trained_for, run, train
from toy.words import says_held_out
from toy.world import Object

pytest_plugins = "tests.fixtures"

RED = Object("circle", "red", "small", 8, 8)
BLUE = Object("square", "blue", "large", 32, 32)


def record(*include, exclude=()):
    return {"include": list(include), "exclude": list(exclude), "prompt": "it"}


def test_a_mark_names_what_is_wrong():
    circle = {"class": "circle", "count": 1, "color": "red", "size": "small"}
    right_of = {"class": "square", "count": 1, "position": ["right of", 0]}
    asked = record(circle, right_of, exclude=[{"class": "circle", "count": 2}])
    for scene, mark in (([RED, BLUE], "yes"),
                        ([BLUE], "no, the object is wrong"),
                        ([RED._replace(color="pink"), BLUE], "no, the color is wrong"),
                        ([RED._replace(size="large"), BLUE], "no, the size is wrong"),
                        ([RED._replace(x=40), BLUE._replace(x=8)], "no, the place is wrong"),
                        ([RED, RED._replace(x=40), BLUE], "no, the count is wrong"),
                        ([], "no, the object is wrong")):
        assert marked(asked, scene) == mark
    assert marked(record({"class": "circle", "count": 2}), [RED, BLUE]) == "no, the count is wrong"


def test_a_caption_s_own_scene_is_right_and_of_another_s_something_is_missing():
    """What is said to be wrong is what the exam's reasons are about."""
    records, scenes = captions(200, 0)
    others = scenes[1:] + scenes[:1]
    for one, scene, other in zip(records, scenes, others):
        assert marked(one, scene) == "yes"
        is_right, reasons = check(one, other)
        mark = marked(one, other)
        assert (mark == "yes") == is_right
        if mark == "no, the object is wrong":
            shapes = {o.shape for o in other}
            assert any(item["class"] not in shapes for item in one["include"])
        if mark == "no, the place is wrong":
            assert any(side in reasons for side in ("left of", "right of", "above", "below"))


def test_a_dialogue_tells_what_the_drawing_shows_and_names_no_held_out_pair():
    rng = np.random.default_rng(0)
    turns = dialogue(record(), "no, the color is wrong", [RED, BLUE], rng)
    assert turns[0] == ("does it show it?", "no, the color is wrong")
    assert turns[-1] == ("describe the picture.", "small red circle, large blue square")
    hidden = {"prompt": "small red circle, small blue cross"}  # it names none: only both words
    turns = dialogue(hidden, "yes", [RED._replace(shape="cross"), BLUE], rng)
    assert turns[0][1] == "yes" and len(turns) > 1
    assert not any(says_held_out(*turn) for turn in turns[1:])
    for strange in ([], [RED] * 5, [RED._replace(shape="blob")]):
        assert len(dialogue(record(), "no", strange, rng)) == 1


def test_its_drawings_join_the_data_set_and_training_goes_on_from_there(trained, toy, tmp_path):
    out = tmp_path / "assessed"
    assert run("lab/assess.py", trained, "--n", 6, "--out", out) is None
    joined = load_dataset(out)
    assert joined.meta["assessed"] == 6
    for split in ("train", "val"):
        for task, arrays in toy.rows[split].items():
            more = 6 if (split, task) == ("train", "understand") else 0
            for old, new in zip(arrays, joined.rows[split][task]):
                assert len(new) == len(old) + more
                assert np.array_equal(new[:len(old)], old)
    for row in joined.rows["train"]["understand"][0][-6:].tolist():
        words = [i for i in row if i < toy.meta["first_image"]]
        assert "does it show" in toy.enc.decode(words)
    more = tmp_path / "more"
    assert train(toy, more, "--data", out, "--init_from", trained) is None
    assert json.loads((more / "config.json").read_text())["train"]["data"] == str(out)


def test_a_control_changes_what_it_says_and_nothing_else(trained, toy, tmp_path):
    rows = {}
    for name, *flags in (("plain",), ("shuffled", "--control", "shuffled"),
                         ("true", "--control", "true")):
        assert run("lab/assess.py", trained, "--n", 8, "--out", tmp_path / name, *flags) is None
        rows[name] = [array[-8:] for array in load_dataset(tmp_path / name).rows["train"]
                      ["understand"]]
    assert np.array_equal(rows["plain"][2], rows["shuffled"][2]), "the same drawings"
    true = [toy.enc.decode([i for i in row if i < toy.meta["first_image"]])
            for row in rows["true"][0].tolist()]
    assert all("?<|answer|>yes<|end|>" in row for row in true), "true pictures show their captions"
    assert not np.array_equal(rows["true"][2], rows["plain"][2])


def test_a_run_of_one_task_has_nothing_to_be_marked_or_to_learn_from(trained, tmp_path):
    one = as_if_trained_for("generate", trained, tmp_path / "one")
    assert "name another run" in run("lab/assess.py", one, "--n", 6, "--out", tmp_path / "x")
