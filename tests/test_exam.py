"""
tests/test_exam.py: the laws of the exam, one a test. No network is needed for any: the pupils
examined here are a few lines each, and stand in for what sample.py would draw and answer.
"""
import ast
import csv
import functools
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import data
import exam
from exam import __main__ as command
from exam import files, marks, questions, rules
from exam.rules import check, truth
from toy.judge import judge
from toy.words import TAGS
from toy.world import GROUND, HELD_OUT, Object, relations, render_all

N = 2  # prompts a tag: a small exam
TOY = SimpleNamespace(meta={"kind": "toy", "canvas": 48}, enc=None)


# ---------------------------------------------------------------------------------------------
# pupils


@pytest.fixture(scope="module")
def tok():
    return data.load_tokenizer(data.ASSETS / "tokenizer-48.pt")


@functools.cache
def scene_of_prompt():
    prompts = questions.geneval_prompts(N) + questions.geneval_prompts(N, held_out=True)
    return {record["prompt"]: scene for record, scene in prompts}


class Judge:
    """A pupil without fault: it draws the scene that a prompt was made from, and sees by the
    judge's rules."""

    def __init__(self, tok):
        self.tok = tok

    def draw(self, model, enc, prompts, cfg):
        scenes = [self.imagine(prompt) for prompt in prompts]
        return self.tok.encode(render_all(scenes))

    def imagine(self, prompt):
        return scene_of_prompt()[prompt]

    def answer(self, model, enc, codes, talks, pixels):
        scenes = judge(pixels)
        assert scenes == judge(self.tok.decode(codes)), "one picture, as pixels and as tokens"
        return [truth(scene, talk[-1][0]) for scene, talk in zip(scenes, talks)]

    def prefer(self, model, enc, codes, talks, offers, pixels):
        answers = self.answer(model, enc, codes, talks, pixels)
        return [offer.index(answer) for offer, answer in zip(offers, answers)]


class Silent(Judge):
    """A pupil that draws nothing, says nothing, and takes the first of two answers."""

    def imagine(self, prompt):
        return []

    def answer(self, model, enc, codes, talks, pixels):
        return [""] * len(talks)

    def prefer(self, model, enc, codes, talks, offers, pixels):
        return [0] * len(talks)


class OneCrayon(Judge):
    """A pupil that draws everything in red."""

    def imagine(self, prompt):
        return [o._replace(color="red") for o in scene_of_prompt()[prompt]]


def examine(pupil, monkeypatch, folder, task="both"):
    for name in ("draw", "answer", "prefer"):
        monkeypatch.setattr(exam.sample, name, getattr(pupil, name))
    return exam.examine(None, TOY, pupil.tok, task, N, folder=folder)


# ---------------------------------------------------------------------------------------------
# rules


def test_the_rules_of_geneval():
    red = Object("circle", "red", "small", 10, 24)
    blue = Object("circle", "blue", "small", 40, 24)

    def circles(count, **more):
        return {"include": [{"class": "circle", "count": count, **more}], "exclude": []}

    assert check(circles(1), [red, blue]) == (True, ""), "extras are allowed"
    counting = circles(2) | {"exclude": [{"class": "circle", "count": 3}]}
    assert check(counting, [red, blue])[0]
    assert not check(counting, [red, blue, blue])[0], "but not in counting"
    missed = (False, "expected green circle >= 1, found 0")
    assert check(circles(1, color="green"), [red]) == missed
    small = {"class": "object", "count": 2, "size": "small"}
    assert check({"include": [small], "exclude": []}, [red, blue])[0], "an object is anything"
    large = small | {"size": "large"}
    assert not check({"include": [large], "exclude": []}, [red, blue])[0]


def test_a_position_is_where_the_centres_lie():
    red = Object("circle", "red", "small", 10, 24)
    blue = Object("circle", "blue", "small", 40, 24)

    def left_of(one, other):
        first = {"class": "circle", "count": 1, "color": other}
        second = {"class": "circle", "count": 1, "color": one, "position": ["left of", 0]}
        return {"include": [first, second], "exclude": []}

    assert check(left_of("red", "blue"), [red, blue])[0]
    is_right, why = check(left_of("blue", "red"), [red, blue])
    assert not is_right and why == "expected blue circle left of circle"
    # 45 degrees apart both sides are true; within a tenth of the extents neither is
    assert relations(red, blue._replace(x=40, y=54)) == {"left of", "above"}
    assert relations(red, red._replace(x=red.x + 2)) == set()


@pytest.mark.parametrize("question, answer", [
    ("is there a red circle?", "yes"),
    ("is there a red cross?", "no"),
    ("how many red objects are there?", "one"),
    ("how many crosses are there?", "zero"),
    ("is the number of circles one?", "yes"),
    ("are there more circles than crosses?", "yes"),
    ("is the circle blue?", "no"),
    ("is the red object a circle?", "yes"),
    ("what shape is the red object?", "circle"),
    ("describe the picture.", "small red circle"),
    # what is not there has no colour and no place; what is no question has no answer
    ("what color is the cross?", None),
    ("is the cross blue?", None),
    ("is the red circle above the blue cross?", None),
    ("where is the red circle, seen from the blue cross?", None),
    ("is the red circle inside the red circle?", None),
    ("where is love?", None),
    ("", None),
])
def test_the_oracle_answers_from_the_scene_or_not_at_all(question, answer):
    assert truth([Object("circle", "red", "small", 10, 10)], question) == answer


def test_the_oracle_has_words_up_to_four_and_needs_a_clear_side():
    red = Object("circle", "red", "small", 10, 10)
    blue = red._replace(color="blue", y=40)
    assert truth([red, blue], "is the red circle above the blue circle?") == "yes"
    assert truth([red, blue], "where is the blue circle, seen from the red circle?") == "below"
    near = red._replace(color="blue", x=red.x + 2)
    assert truth([red, near], "where is the blue circle, seen from the red circle?") is None
    assert truth([red] * 4, "how many circles are there?") == "four"
    assert truth([red] * 5, "how many circles are there?") is None
    assert truth([red] * 5, "is the number of circles four?") == "no"


def test_pope_s_rules():
    said = ("no", "No, there is none.", "there is not one", "yes", "nothing. no", "")
    heard = ["no", "no", "no", "yes", "yes", "yes"]
    assert [rules.pope_says(text) for text in said] == heard

    def rates(said, label):
        return {name: (a / b).item() for name, (a, b) in rules.pope_rates(said, label).items()}

    label = np.array([[True, False, True, False]])
    half = rates(np.array([[True, True, False, False]]), label)
    assert half == {"accuracy": .5, "precision": .5, "recall": .5, "F1": .5, "yes ratio": .5}
    always = rates(np.ones((1, 4), bool), label)
    assert always == {"accuracy": .5, "precision": .5, "recall": 1, "F1": 2 / 3, "yes ratio": 1}


def test_mme_s_rules():
    said = ("Yes.", "no", "  no", "red", "well yes")
    assert [rules.mme_says(text) for text in said] == ["yes", "no", "no", "other", "other"]
    right = np.array([[1, 1], [1, 0], [0, 0], [0, 1]], bool)
    assert rules.mme_points(right).mean() == 100 * .5 + 100 * .25, "accuracy and accuracy+"


# ---------------------------------------------------------------------------------------------
# what the benchmarks are made of


def test_prompts_come_once_and_are_true_of_their_scenes():
    prompts = questions.geneval_prompts(20)
    texts = [record["prompt"] for record, _ in prompts]
    assert len(set(texts)) == len(texts)
    assert {record["tag"] for record, _ in prompts} == set(TAGS)
    assert all(check(record, scene)[0] for record, scene in prompts)


def test_held_out_prompts_name_what_is_never_named_in_training():
    for record, scene in questions.geneval_prompts(5, held_out=True):
        named = [(item.get("color"), item["class"]) for item in record["include"]]
        assert record["tag"] == "held-out"
        assert set(named) & set(HELD_OUT), record["prompt"]
        assert check(record, scene)[0]


@pytest.mark.parametrize("name", ["answered", "toy-POPE", "toy-MME", "toy-MMVP"])
def test_every_right_answer_follows_from_its_scene(name):
    scenes, groups = questions.question_sets(10)[name]
    for asked in groups.values():
        assert asked
        for question in asked:
            assert truth(scenes[question.scene], question.text) == question.answer


def test_pope_s_splits_differ_in_what_is_absent():
    scenes, splits = questions.pope_questions(20)
    kinds_absent = {}
    for split, asked in splits.items():
        assert [question.answer for question in asked] == ["yes", "no"] * 60
        for number in range(20):
            texts = {question.text for question in asked if question.scene == number}
            assert len(texts) == 6, "no question comes twice"
        absent = {question.text for question in asked if question.answer == "no"}
        kinds_absent[split] = len(absent)
    # the frequent, what goes with what is there, anything
    assert kinds_absent["popular"] < kinds_absent["adversarial"] < kinds_absent["random"]


def test_what_is_absent_is_frequent_or_goes_with_what_is_there():
    together = np.array([[9, 0, 1, 5],
                         [0, 8, 3, 0],
                         [1, 3, 4, 0],
                         [5, 0, 0, 6]])
    assert questions.choose_absent("popular", [1, 2, 3], 0, together, None) == 1
    assert questions.choose_absent("adversarial", [1, 2, 3], 0, together, None) == 3
    rng = np.random.default_rng(0)
    drawn = {int(questions.choose_absent("random", [1, 3], 0, together, rng)) for _ in range(20)}
    assert drawn == {1, 3}


def test_mme_asks_for_a_yes_and_a_no_about_each_picture():
    _, subtasks = questions.mme_questions(4)
    for asked in subtasks.values():
        assert [question.answer for question in asked] == ["yes", "no"] * 4
        pictures = [question.scene for question in asked]
        assert pictures[::2] == pictures[1::2] and len(set(pictures)) == 4


def test_mmvp_s_twins_are_near_and_differ_in_the_answer():
    scenes, patterns = questions.mmvp_questions(3)
    for asked in patterns.values():
        for one, twin in zip(asked[::2], asked[1::2]):
            assert one.text == twin.text and one.answer != twin.answer
            # an object is lost, one is changed, or two change places
            differ = set(scenes[one.scene]) ^ set(scenes[twin.scene])
            assert len(differ) <= (4 if "seen from" in one.text else 2)
            if "seen from" in one.text:
                assert len({o.size for o in differ}) == 1, "or one might not fit there"


def test_everyone_is_asked_the_same():
    for make in (questions.geneval_prompts, questions.question_sets):
        assert make(2) == make(2)


# ---------------------------------------------------------------------------------------------
# marks


def test_an_interval_is_as_wide_as_statistics_say():
    right = np.arange(400) % 2                                 # a share of .5, of 400
    numbers = marks.as_numbers({"share": marks.shares({"run": (right, 1)})})["share"]
    assert numbers["run"] == .5 and numbers["low"] < .5 < numbers["high"]
    width = 2 * 1.96 * (.5 * .5 / 400) ** .5
    assert abs(numbers["high"] - numbers["low"] - width) < .1 * width


def test_a_pupil_without_fault_scores_everything(tok, tmp_path, monkeypatch):
    scores = examine(Judge(tok), monkeypatch, tmp_path)
    assert list(scores["summary"]) == ["toy-GenEval", "toy-POPE F1", "toy-MME", "toy-MMVP",
                                       "answered"]
    for benchmark, columns in scores.items():
        for column, rows in columns.items():
            most = 1
            if column == "yes ratio":
                most = .5
            elif benchmark == "toy-MME":
                most = 200
            elif column == "toy-MME":
                most = 1000
            for row in ("run", "low", "high", "oracle", "ceiling"):
                assert rows[row] == pytest.approx(most), (benchmark, column, row)
            assert rows["chance"] < most or column == "yes ratio", (benchmark, column)
    assert not (tmp_path / "mistakes.png").exists()


def test_a_silent_pupil_scores_what_silence_is_worth(tok, tmp_path, monkeypatch):
    scores = examine(Silent(tok), monkeypatch, tmp_path)
    run = {column: rows["run"] for column, rows in scores["summary"].items()}
    assert run["toy-GenEval"] == run["answered"] == run["toy-MME"] == 0
    assert run["toy-MMVP"] == 0, "one answer for both of a pair is never right of both"
    # POPE hears a yes in all that is no no
    pope = {column: rows["run"] for column, rows in scores["toy-POPE random"].items()}
    assert pope == pytest.approx({"accuracy": .5, "precision": .5, "recall": 1, "F1": 2 / 3,
                                  "yes ratio": 1})
    assert Image.open(tmp_path / "mistakes.png").width > 500


def test_only_what_was_trained_for_is_examined(tok, tmp_path, monkeypatch):
    draws = examine(Judge(tok), monkeypatch, tmp_path / "draws", "generate")
    answers = examine(Judge(tok), monkeypatch, tmp_path / "answers", "understand")
    assert list(draws) == ["summary", "toy-GenEval"]
    assert "toy-GenEval" not in answers and "answered" in answers
    assert not (tmp_path / "answers" / "toy-geneval").exists()


def test_a_pupil_with_one_crayon_fails_where_colours_count(tok, tmp_path, monkeypatch):
    scores = examine(OneCrayon(tok), monkeypatch, tmp_path, "generate")
    run = {tag: rows["run"] for tag, rows in scores["toy-GenEval"].items()}
    assert run["single_object"] == run["two_object"] == run["counting"] == run["position"] == 1
    assert run["color_attr"] == run["dense"] == 0


def test_mistakes_are_shown_from_each_group_by_turns():
    groups = {"a": ["a1", "a2", "a3"], "b": [], "c": ["c1"]}
    assert marks.by_turns(groups) == ["a1", "c1", "a2", "a3"]
    assert len(marks.by_turns({"a": list(range(100))})) == marks.MISTAKES


def test_a_prompt_shows_one_mistake():
    prompts = [({"tag": "counting", "prompt": prompt}, None) for prompt in ("a circle", "a cross")]
    verdicts = [(True, ""), (False, "none"), (False, "two"), (True, "")]  # two pictures each
    wrong = marks.wrong_drawings(prompts, ["p0", "p1", "p2", "p3"], verdicts)
    assert wrong["counting"] == [("p1", "a circle: none"), ("p2", "a cross: two")]
    verdicts = [(False, "none")] * 4
    wrong = marks.wrong_drawings(prompts, ["p0", "p1", "p2", "p3"], verdicts)
    assert [picture for picture, _ in wrong["counting"]] == ["p0", "p2"]


def test_of_real_pictures_the_share_answered_word_for_word_counts(monkeypatch, tmp_path):
    ids = np.arange(600)[:, None]

    def answered(model, ids, roles, pixels):
        return ids[:, 0] % 4 == 0

    monkeypatch.setattr(exam.sample, "answered", answered)
    rows = {"val": {"understand": (ids, ids, ids)}}
    real = SimpleNamespace(meta={"kind": "real"}, enc=None, rows=rows)
    scores = exam.examine(None, real, None, folder=tmp_path)
    assert list(scores) == ["summary"] and list(scores["summary"]) == ["answered"]
    assert scores["summary"]["answered"]["run"] == .25
    assert exam.examine(None, real, None, "generate", folder=tmp_path) == {}


def test_the_exam_knows_no_network():
    """Questions, rules, marks and files take pictures and texts, and import nothing above toy/."""
    for module in (questions, rules, marks, files):
        tree = ast.parse(Path(module.__file__).read_text())
        imported = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
        assert imported <= set(sys.stdlib_module_names) | {"numpy", "PIL", "data", "exam", "toy"}


# ---------------------------------------------------------------------------------------------
# files


def read_lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def summary_scores(results):
    """What GenEval's evaluation/summary_scores.py prints last: of each tag the mean of `correct`,
    and of these the mean."""
    correct = {}
    for line in results:
        correct.setdefault(line["tag"], []).append(line["correct"])
    return np.mean([np.mean(flags) for flags in correct.values()])


def test_geneval_s_own_script_says_our_number(tok, tmp_path, monkeypatch):
    scores = examine(OneCrayon(tok), monkeypatch, tmp_path, "generate")
    ours = scores["summary"]["toy-GenEval"]["run"]
    results = read_lines(tmp_path / "toy-geneval" / "results.jsonl")
    extra = read_lines(tmp_path / "toy-geneval" / "extra.jsonl")
    assert 0 < ours < 1
    assert summary_scores(results) == pytest.approx(ours)
    assert {line["tag"] for line in results} == set(questions.GENEVAL)
    assert {line["tag"] for line in extra} == {"dense", "held-out"}
    assert summary_scores(results + extra) != pytest.approx(ours), "why extra.jsonl is one"


def test_drawings_lie_as_geneval_wants_them(tok, tmp_path, monkeypatch):
    examine(OneCrayon(tok), monkeypatch, tmp_path, "generate")
    place = tmp_path / "toy-geneval"
    lines = read_lines(place / "results.jsonl") + read_lines(place / "extra.jsonl")
    fields = ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
    for line in lines:
        assert list(line) == fields
        picture = place / line["filename"]
        assert Image.open(picture).size == (48, 48)
        record = json.loads((picture.parents[1] / "metadata.jsonl").read_text())
        assert record == json.loads(line["metadata"])
        assert line["correct"] == (line["reason"] == "")
    prompts = scene_of_prompt()
    assert len(lines) == 4 * len(prompts) == len(list(place.glob("*/samples/*.png")))


def answer_from(picture, question):
    """What the judge would answer from a picture on disk."""
    scene, = judge(np.asarray(Image.open(picture))[None])
    return truth(scene, question)


def test_pope_s_files_tell_picture_question_and_answer(tok, tmp_path, monkeypatch):
    examine(Silent(tok), monkeypatch, tmp_path, "understand")
    place = tmp_path / "toy-pope"
    for split in questions.POPE:
        for number, line in enumerate(read_lines(place / f"toy_pope_{split}.json"), 1):
            assert list(line) == ["question_id", "image", "text", "label", "answer"]
            assert line["question_id"] == number and line["answer"] == ""
            assert answer_from(place / line["image"], line["text"]) == line["label"]


def test_mme_s_files_have_two_lines_a_picture(tok, tmp_path, monkeypatch):
    examine(Silent(tok), monkeypatch, tmp_path, "understand")
    place = tmp_path / "toy-mme"
    for subtask in questions.MME:
        text = (place / f"{subtask}.txt").read_text()
        lines = [line.split("\t") for line in text.splitlines()]
        assert [right for _, _, right, _ in lines] == ["Yes", "No"] * (len(lines) // 2)
        for file, question, right, _ in lines:
            assert answer_from(place / file, question) == right.lower()
        files_named = [file for file, *_ in lines]
        assert files_named[::2] == files_named[1::2]


def test_mmvp_s_table_offers_the_answers_of_both_twins(tmp_path):
    scenes, patterns = questions.mmvp_questions(2)
    said = {}
    for pattern, asked in patterns.items():
        said[pattern] = [first for first, _ in questions.offers_of(asked)]
    files.write_mmvp(tmp_path, render_all(scenes), patterns, said)

    with open(tmp_path / "Questions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["Index"]) for row in rows] == list(range(1, 21))
    assert {row["Answer"] for row in rows} == {"(a)"}, "always the first of the two"
    pictures = sorted(tmp_path.glob("*.png"))                  # a scene, its twin, and so on
    for i in range(0, 20, 2):
        one, twin = rows[i], rows[i + 1]
        a = answer_from(pictures[i], one["Question"])
        b = answer_from(pictures[i + 1], twin["Question"])
        assert one["Options"] == twin["Options"] == f"(a) {a} (b) {b}"
        assert (one["Correct Answer"], twin["Correct Answer"]) == ("(a)", "(b)")


def test_an_answer_of_several_lines_stays_one_record(tmp_path):
    picture = np.full((1, 48, 48, 3), GROUND, np.uint8)
    asked = {"count": [questions.Question(0, "how many?", "yes")]}
    files.write_mme(tmp_path, picture, asked, {"count": ["no\n\tnever"]})
    assert (tmp_path / "count.txt").read_text() == "00000.png\thow many?\tYes\tno never\n"


# ---------------------------------------------------------------------------------------------
# the table and the command


def test_the_table_shows_the_run_its_interval_and_what_there_is_to_compare():
    scores = {
        "summary": {"toy-MME": {"run": 810., "low": 802., "high": 817., "oracle": 1000.},
                    "answered": {"run": .891, "low": .88, "high": .9}},
        "toy-MMVP": {"Color & Appearance": {"run": 1.}},
    }
    assert marks.table(scores) == "\n".join([
        "summary                toy-MME  answered",
        "this run                 810.0     0.891",
        "  95 % interval ±          7.5     0.010",
        "oracle                  1000.0         -",
        "",
        "toy-MMVP                 Color",
        "this run                 1.000",
    ])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run whose network is nobody, with the loss that train.py left."""
    shutil.copy(data.ASSETS / "tokenizer-48.pt", tmp_path / "tokenizer.pt")
    (tmp_path / "scores.json").write_text('{"loss": {"generate": {"run": 0.2}}}')
    config = {"data": TOY.meta | {"merges": []}, "train": {"task": "generate"}}
    monkeypatch.setattr(command, "load_model", lambda folder, device: (None, config))
    return tmp_path


def call(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["exam", *map(str, args), "--device", "cpu"])
    command.main()


def test_the_command_adds_its_scores_to_those_of_the_run(run, monkeypatch, capsys):
    got = {}

    def examine(model, data, tok, task, cfg, folder):
        got.update(kind=data.meta["kind"], task=task, cfg=cfg, folder=folder)
        return {"summary": {"toy-GenEval": {"run": .5}}}

    monkeypatch.setattr(command, "examine", examine)
    call(monkeypatch, run, "--cfg", 3)
    assert got == {"kind": "toy", "task": "generate", "cfg": 3, "folder": run}
    scores = json.loads((run / "scores.json").read_text())
    assert scores == {"loss": {"generate": {"run": .2}}, "summary": {"toy-GenEval": {"run": .5}}}
    printed = capsys.readouterr()
    assert printed.out == marks.table(scores) + "\n" and f"run: {run}" in printed.err


def test_the_command_refuses_in_one_line(run, monkeypatch):
    (run / "scores.json").write_text("{")
    for args, why in (((run, "--cfg", "nan"), "--cfg nan: wanted"), ((run,), "holds no scores")):
        with pytest.raises(SystemExit, match=why) as refused:
            call(monkeypatch, *args)
        assert "\n" not in refused.value.code


def test_the_command_needs_a_run(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="no run here"):
        call(monkeypatch, tmp_path / "nowhere")
