"""
tests/test_study.py: the laws of lab/study.py and lab/report.py. A study here trains by a little
script that writes what train.py would.
"""
import json
import sys

import numpy as np
import pytest
from PIL import Image

from lab import study
from lab.report import interval, verdict

TRAIN = """
import json, pathlib, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if "--fail" in words:
    sys.exit("no luck today")
if "--init_from" in words:
    assert pathlib.Path(words["--init_from"], "scores.json").exists(), "too early"
out = pathlib.Path(words["--out"])
out.mkdir()
steps, seed = int(words["--steps"]), int(words["--seed"])
right = .9 + .01 * seed + float(words.get("--gain", 0))
(out / "log.csv").write_text("step,loss" + chr(10) + f"{steps},1")
history = [{"step": step, "val": {"generate": 1.5 - right}} for step in (0, steps)]
(out / "interaction.json").write_text(json.dumps({"history": history}))
(out / "scores.json").write_text(json.dumps({
    "summary": {"answered": {"run": right, "chance": .25}},
    "loss": {"generate": {"run": 1.5 - right}}}))
with open("started", "a") as f:
    print(out.name, file=f)
"""

ARMS = {"plain": {"flags": "", "steps": 100},
        "better": {"flags": "--gain 0.05", "steps": 40, "from": "plain"},
        "broken": {"flags": "--fail yes", "steps": 100}}
STUDIES = {
    "promise": {"question": "Is it right?", "arms": ["plain"], "seeds": 3,
                "promise": {"summary/answered": (.9, .905)}},
    "rivals": {"question": "Is it better?", "arms": ["plain", "better"], "seeds": 3,
               "claim": "It is.", "rivals": [("better", "plain")],
               "measures": {"summary/answered": .01, "loss/generate": .01}},
    "fails": {"question": "Does it end?", "arms": ["broken"], "seeds": 2}}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a train.py and studies of its own; study(...) runs there."""
    (tmp_path / "train.py").write_text(TRAIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "HERE", tmp_path)
    monkeypatch.setattr(study, "ARMS", ARMS)
    monkeypatch.setattr(study, "STUDIES", STUDIES)
    monkeypatch.setattr(study, "revision", lambda: "abc")
    monkeypatch.setattr(study, "make_if_missing", lambda *_: None)
    monkeypatch.setattr(study.time, "sleep", lambda _, wait=study.time.sleep: wait(.02))
    return tmp_path


def run(monkeypatch, *words):
    """A study as a command. Returns what it exits with; None: all is well."""
    monkeypatch.setattr(sys, "argv", ["study", *words])
    try:
        study.main()
    except SystemExit as e:
        return e.code


def test_a_study_runs_what_is_missing_and_no_more(place, monkeypatch):
    assert run(monkeypatch, "promise") is None
    assert len((place / "started").read_text().split()) == 3
    (place / "out/study/plain-1/scores.json").unlink()
    (place / "out/study/plain-1/log.csv").unlink()
    (place / "out/study/plain-1/interaction.json").unlink()
    (place / "out/study/plain-1").rmdir()
    assert run(monkeypatch, "promise") is None
    assert (place / "started").read_text().split()[3:] == ["plain-1"]
    assert run(monkeypatch, "promise") is None
    assert len((place / "started").read_text().split()) == 4


def test_a_page_says_what_is_promised_and_kept(place, monkeypatch):
    run(monkeypatch, "promise")
    page = (place / "results/promise.md").read_text()
    assert "| answered | 0.900 | 0.905 | 0.910 ± 0.010 | 0.900 | **broken** |" in page
    assert "| chance | 0.250 |" in page
    assert Image.open(place / "results/promise.png").width > 500


def test_arms_are_compared_seed_by_seed(place, monkeypatch):
    """Both arms' seeds differ by 0.01, their difference not at all: pairing takes that out."""
    assert run(monkeypatch, "rivals") is None
    page = (place / "results/rivals.md").read_text()
    assert ("| answered | 0.910 ± 0.010 | 0.960 ± 0.010 | +0.0500 ± 0.0000 | 0.010 | reproduced |"
            in page)
    assert ("| loss: generate | 0.590 ± 0.010 | 0.540 ± 0.010 | -0.0500 ± 0.0000 | 0.010 | "
            "reproduced |" in page)


def test_studies_share_the_runs_of_an_arm(place, monkeypatch):
    run(monkeypatch, "promise")
    run(monkeypatch, "rivals")
    started = (place / "started").read_text().split()
    assert sorted(started) == sorted(set(started))


def test_runs_of_other_code_or_flags_are_not_mixed(place, monkeypatch):
    run(monkeypatch, "promise")
    monkeypatch.setattr(study, "revision", lambda: "def")
    assert "revision abc, this is def" in run(monkeypatch, "promise")
    assert run(monkeypatch, "promise", "--mix") is None
    about = place / "out/study/plain-0.json"
    about.write_text(about.read_text().replace("100", "200"))
    assert "other flags" in run(monkeypatch, "promise", "--mix")


def test_a_run_that_fails_ends_the_study_in_one_line(place, monkeypatch):
    said = run(monkeypatch, "fails")
    assert "no luck today" in said
    assert "\n" not in said


def test_an_interval_holds_the_truth_in_19_of_20_cases():
    rng = np.random.default_rng(0)
    held = 0
    for differences in rng.normal(1., 2., size=(4000, 4)):
        middle, half = interval(differences.tolist())
        held += abs(middle - 1) <= half
    assert .94 < held / 4000 < .96


@pytest.mark.parametrize("gain, half, said", [
    (.03, .02, "reproduced"), (.002, .001, "reproduced"), (.01, .02, "unclear"),
    (.0, .005, "refuted"), (-.03, .02, "refuted"), (0., float("inf"), "unclear")])
def test_a_verdict_goes_by_the_interval(gain, half, said):
    assert verdict(gain, half, worth=.01) == said


def test_every_study_of_ours_can_be_planned():
    for about in study.STUDIES.values():
        runs = study.runs_of(about, about["seeds"], quick=True)
        assert {one.arm for one in runs} >= set(about["arms"])
        assert len({one.folder for one in runs}) == len(runs)
        for one in runs:
            assert one.start is None or one.start in [other.folder for other in runs]
