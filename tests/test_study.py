"""
tests/test_study.py: the laws of lab/study.py and lab/report.py. A study here trains by a little
script that leaves what train.py would.
"""
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exam.questions import EXTRA, GENEVAL, MME, MMVP
from lab import claims, intervals, regimes, report, study
from lab.conflict import DRAWS, MATRICES, ROWS
from lab.dots import HUES
from lab.intervals import draw_grid, draw_intervals
from lab.regimes import COLUMNS as OUR_COLUMNS
from lab.regimes import REGIMES as OUR_REGIMES
from lab.report import T95, interval, is_kept, verdict
from lab.studies import CLAIMS as OUR_CLAIMS
from lab.studies import STUDIES as ALL_STUDIES
from systems import flags, plan
from toy.words import KINDS

TRAIN = """
import json, os, pathlib, sys, time
words = dict(zip(sys.argv[1::2], sys.argv[2::2] + [""]))
out = pathlib.Path(words["--out"])
with open("said", "a") as f:
    print("begins", out.name, "resumes" if "--resume" in sys.argv else "", file=f)
if "--fail" in words:
    print("train:  30%|###   | 3/10 [00:01<00:02]", end=chr(13))
    print("no luck today")
    sys.exit("train:  30%|###   | 3/10 [00:01<00:02]")
if "--init_from" in words:
    assert pathlib.Path(words["--init_from"], "scores.json").exists(), "too early"
out.mkdir(exist_ok=True)
if "--resume" in sys.argv:
    words = json.loads((out / "ckpt.pt").read_text())
else:
    (out / "ckpt.pt").write_text(json.dumps(words))
    if "--stop" in words:
        sys.exit("stopped")
for _ in range(400):  # until as many are on their way as the test waits for
    if pathlib.Path("said").read_text().count("begins") >= int(os.environ.get("WAIT_FOR", 0)):
        break
    time.sleep(.05)
steps, seed = int(words["--steps"]), int(words["--seed"])
right = .9 + .01 * seed + float(words.get("--gain", 0))
curve = {"mean": [right, 0.], "std": [.02, .04]}
other = {"mean": [0., seed + 1.], "std": [0., 0.]}
history = [{"step": step, "phase": 0, "val": {"generate": 1.5 - right}, "generate": curve,
            "understand": other} for step in (0, steps)]
history.insert(1, history[0] | {"val": {"generate": 1.4 - right}})  # it was better once
history[-1] = history[-1] | {"val": {"generate": 1.3 - right}}  # of other rows
(out / "interaction.json").write_text(json.dumps({"history": history}))
summary = {"answered": {"run": right, "chance": .25}}
if "--gain" in words:
    summary["more"] = {"run": .123}
(out / "scores.json").write_text(json.dumps({
    "summary": summary, "loss": {"generate": {"run": 1.5 - right}}}))
with open("said", "a") as f:
    print("ends", out.name, file=f)
print("1.5 minutes of training; in", out)
"""

ASSESS = """
import json, pathlib, sys
source, _, out, _, *words = sys.argv[1:]
if "--fail" in words:
    sys.exit("no luck today")
assert pathlib.Path(source, "scores.json").exists(), "too early"
pathlib.Path(out).mkdir()
pathlib.Path(out, "meta.json").write_text("{}")
with open("drawn", "a") as f:
    print(pathlib.Path(source).name, "--seed", *words, file=f)
"""

ARMS = {"plain": {"flags": "", "steps": 100},
        "better": {"flags": "--gain 0.05", "steps": 40, "from": "plain"},
        "aims": {"flags": "", "steps": 20, "aim": "plain,better"},
        "marked": {"flags": "", "steps": 20, "from": "plain", "marks": "--control shuffled"},
        "unmarked": {"flags": "", "steps": 20, "from": "plain", "marks": "--fail"},
        "stops": {"flags": "--stop yes", "steps": 100},
        "fails": {"flags": "--fail yes", "steps": 100}}
BEST = ("summary/answered", "loss/generate", "summary/other", "best/generate")
CLAIMS = {"right": ("It is right.", "we"), "better": ("It is better.", "a paper"),
          "well": ("All is well.", "nobody")}
STUDIES = {
    "promise": {"question": "Is it right?", "arms": ["plain"], "seeds": 3,
                "promise": {"summary/answered": (.91, .905), "loss/generate": (.6, .6)},
                "tests": {"right": "promise"}},
    "both": {"question": "Are both right?", "arms": ["plain", "better"], "seeds": 1,
             "promise": {"summary/answered": (.92, .92)}, "tests": {"right": "promise"}},
    "rivals": {"question": "Is it better?", "arms": ["plain", "better"], "seeds": 3,
               "rivals": [("better", "plain")],
               "measures": dict.fromkeys((*BEST, "distance/generate"), .01),
               "tests": {"better": ([("better", "plain")], ["loss/generate"])}},
    "opposed": {"question": "Do its curves run against each other?", "arms": ["plain"], "seeds": 3,
                "rivals": [("plain", "zero")], "measures": {"correlation/over layers": .1},
                "tests": {"better": ([("plain", "zero")], ["correlation/over layers"])}},
    "conflict": {"question": "Are they in conflict?", "arms": ["plain"], "seeds": 3,
                 "rivals": [("plain", "zero")],
                 "measures": dict.fromkeys(("conflict qkv/layer 0", "conflict qkv/ends - middle",
                                            "conflict qkv/mean", "conflict ffn/layer 1"), .1),
                 "tests": {}},
    "spread": {"question": "Does it spread?", "arms": ["plain"], "seeds": 2,
               "promise": {"spread/generate": (.04, .04)}, "tests": {}},
    "aims": {"question": "Does it aim?", "arms": ["aims"], "seeds": 1,
             "promise": {"summary/answered": (.5, .5)}, "tests": {}},
    "marked": {"question": "Is it marked?", "arms": ["marked"], "seeds": 1,
               "promise": {"summary/answered": (.5, .5)}, "tests": {}},
    "unmarked": {"question": "Can it be?", "arms": ["unmarked", "better"], "seeds": 1,
                 "promise": {"summary/answered": (.5, .5)}, "tests": {}},
    "stops": {"question": "Does it go on?", "arms": ["stops"], "seeds": 1,
              "promise": {"summary/answered": (.5, .5)}, "tests": {}},
    "fails": {"question": "Does it end?", "arms": ["fails", "plain"], "seeds": 2,
              "promise": {"summary/answered": (.5, .5)}, "tests": {}}}

REGIMES = [("here", "rivals", "better", "plain"), ("there", "elsewhere", "better", "plain"),
           ("nowhere", "rivals", "worse", "plain")]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a train.py and studies of its own."""
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "data/toy-nano").mkdir(parents=True)
    (tmp_path / "data/toy-nano/meta.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "HERE", tmp_path)
    monkeypatch.setattr(study, "ARMS", ARMS)
    for module in (study, claims):
        monkeypatch.setattr(module, "STUDIES", STUDIES)
    for module in (report, claims):
        monkeypatch.setattr(module, "CLAIMS", CLAIMS)
    monkeypatch.setattr(regimes, "REGIMES", REGIMES)
    monkeypatch.setattr(regimes, "COLUMNS", {"loss/generate": "loss to draw"})
    monkeypatch.setattr(study, "revision", lambda: "abc")
    monkeypatch.setattr(study, "lock", lambda _: True)
    monkeypatch.setattr(study.signal, "signal", lambda *_: None)
    monkeypatch.setattr(study.time, "sleep", lambda _, wait=study.time.sleep: wait(.02))
    return tmp_path


def run(monkeypatch, *words):
    """A study as a command. Returns what it exits with; None: all is well."""
    monkeypatch.setattr(sys, "argv", ["study", *words])
    try:
        study.main()
    except SystemExit as e:
        return e.code


def begun(place):
    lines = (place / "said").read_text().splitlines()
    return [line.removeprefix("begins ").strip() for line in lines if line.startswith("begins")]


def remove(folder):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


# ---------------------------------------------------------------------------------------------
# running


def test_a_study_runs_what_is_missing_and_no_more(place, monkeypatch):
    assert run(monkeypatch, "promise") is None
    assert sorted(begun(place)) == ["plain-0", "plain-1", "plain-2"]
    remove(place / "out/study/plain-1")
    assert run(monkeypatch, "promise") is None
    assert begun(place)[3:] == ["plain-1"]
    assert run(monkeypatch, "promise") is None
    assert len(begun(place)) == 4


def test_a_run_that_was_stopped_goes_on(place, monkeypatch):
    assert "stopped" in run(monkeypatch, "stops")
    assert run(monkeypatch, "stops") is None
    assert begun(place) == ["stops-0", "stops-0 resumes"]


@pytest.mark.parametrize("jobs", [1, 3])
def test_as_many_runs_at_a_time_as_there_are_jobs(place, monkeypatch, jobs):
    monkeypatch.setenv("WAIT_FOR", str(jobs))
    run(monkeypatch, "promise", "--jobs", str(jobs))
    at_a_time = most = 0
    for line in (place / "said").read_text().splitlines():
        at_a_time += 1 if line.startswith("begins") else -1
        most = max(most, at_a_time)
    assert most == jobs


def test_studies_share_the_runs_of_an_arm(place, monkeypatch):
    run(monkeypatch, "promise")
    run(monkeypatch, "rivals")
    assert len(begun(place)) == len(set(begun(place))) == 6


def test_a_run_that_fails_says_why_and_stops_no_other(place, monkeypatch):
    said = run(monkeypatch, "fails")
    assert "fails-0: no luck today; out/study/fails-1: no luck today" in said
    assert "\n" not in said
    for name in ("plain-0", "plain-1"):
        assert (place / "out/study" / name / "scores.json").exists()


# ---------------------------------------------------------------------------------------------
# what is not mixed


def test_runs_of_other_code_are_not_mixed(place, monkeypatch):
    run(monkeypatch, "promise")
    monkeypatch.setattr(study, "revision", lambda: "def")
    assert run(monkeypatch, "promise") is None, "all are there, and of one revision"
    remove(place / "out/study/plain-1")
    assert "def (this code), abc (out/study/plain-2)" in run(monkeypatch, "promise")
    assert run(monkeypatch, "promise", "--mix") is None
    assert "revision abc, def;" in (place / "results/promise.md").read_text()


def test_a_run_of_other_flags_or_none_that_are_known_is_refused(place, monkeypatch):
    run(monkeypatch, "promise")
    record = place / "out/study/plain-0.json"
    record.write_text(record.read_text().replace('"100"', '"200"'))
    assert "other flags" in run(monkeypatch, "promise")
    record.unlink()
    assert "nothing says how it was made" in run(monkeypatch, "promise")


def test_a_branch_of_weights_that_were_made_anew_is_refused(place, monkeypatch):
    run(monkeypatch, "rivals")
    record = place / "out/study/plain-0.json"
    about = json.loads(record.read_text())
    record.write_text(json.dumps(about | {"begun": "later"}))
    assert "was made before" in run(monkeypatch, "rivals")


def test_a_branch_of_weights_that_are_gone_is_named_not_they(place, monkeypatch):
    run(monkeypatch, "rivals")
    remove(place / "out/study/plain-0")
    (place / "out/study/plain-0.json").unlink()
    said = run(monkeypatch, "rivals")
    assert "better-0: was made before" in said
    assert said.endswith("rm -r out/study/better-0 out/study/better-0.*")


def test_a_run_of_another_data_set_is_refused(place, monkeypatch):
    run(monkeypatch, "promise")
    (place / "data/toy-nano/meta.json").write_text('{"seed": 1}')
    assert "plain-0: was made with another data set" in run(monkeypatch, "promise")


def test_an_arm_may_train_on_marks_of_what_its_source_draws(place, monkeypatch):
    (place / "lab").mkdir()
    (place / "lab/assess.py").write_text(ASSESS)
    assert run(monkeypatch, "marked") is None
    assert begun(place) == ["plain-0", "marked-0"]
    assert (place / "drawn").read_text().splitlines() == ["plain-0 --seed 0 --control shuffled"]
    record = json.loads((place / "out/study/marked-0.json").read_text())
    assert record["words"][-2:] == ["--init_from", "out/study/plain-0"]
    assert "--data out/study/marked-0.data" in " ".join(record["words"])
    assert not (place / "out/study/marked-0.data").exists(), "it is large, and was learned from"


def test_a_source_that_was_made_anew_draws_anew(place, monkeypatch):
    (place / "lab").mkdir()
    (place / "lab/assess.py").write_text(ASSESS)
    assert run(monkeypatch, "marked") is None
    remove(place / "out/study/marked-0")
    data = place / "out/study/marked-0.data"  # of a run that was stopped before it saved anything
    data.mkdir()
    (data / "meta.json").write_text("old")
    os.utime(data / "meta.json", (0, 0))
    assert run(monkeypatch, "marked") is None
    assert len((place / "drawn").read_text().splitlines()) == 2


def test_who_cannot_be_marked_says_why_and_stops_no_other(place, monkeypatch):
    (place / "lab").mkdir()
    (place / "lab/assess.py").write_text(ASSESS)
    said = run(monkeypatch, "unmarked")
    assert "out/study/unmarked-0: no luck today" in said
    assert (place / "out/study/better-0/scores.json").exists()


def test_an_arm_may_aim_at_the_runs_of_others(place):
    runs = study.runs_of({"arms": ["aims"]}, 2, Path("out"))
    assert [(one.arm, one.seed) for one in runs] == [
        (arm, seed) for seed in (0, 1) for arm in ("plain", "better", "aims")]
    assert "--reference out/plain-1,out/better-1" in " ".join(runs[-1].words)
    assert not study.can_start(runs[-1])


def test_a_stranger_is_of_another_seed_whatever_the_number_of_seeds(place, monkeypatch):
    monkeypatch.setitem(study.ARMS, "stranger", study.ARMS["plain"] | {"stranger": "better"})
    for n_seeds in (2, 3):
        runs = study.runs_of({"arms": ["stranger"]}, n_seeds, Path("out"))
        aims = [one.sources[-1].seed for one in runs if one.arm == "stranger"]
        assert aims == [1, 0, 1][:n_seeds]
        assert len({str(one.folder) for one in runs}) == len(runs), "each is made once"


def test_whoever_aims_at_a_run_is_refused_once_that_was_made_anew(place, monkeypatch):
    run(monkeypatch, "aims")
    record = place / "out/study/better-0.json"
    about = json.loads(record.read_text())
    record.write_text(json.dumps(about | {"begun": "later"}))
    assert "aims-0: was made before" in run(monkeypatch, "aims")


def test_the_revision_is_that_of_the_code_not_of_words_about_it(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "HERE", tmp_path)

    def git(*words):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x", *words], cwd=tmp_path,
                       check=True, capture_output=True)

    def commit(name, text):
        (tmp_path / name).write_text(text)
        git("add", "-A")
        git("commit", "-m", name)

    git("init")
    commit("model.py", "1")
    first = study.revision()
    commit("README.md", "words")
    assert study.revision() == first
    (tmp_path / "model.py").write_text("2")
    changed = study.revision()
    (tmp_path / "model.py").write_text("3")
    assert len({first, changed, study.revision()}) == 3
    commit("model.py", "4")
    assert study.revision() not in (first, changed)
    assert "+" not in study.revision()


# ---------------------------------------------------------------------------------------------
# the page


def test_a_page_says_what_is_promised_and_kept(place, monkeypatch):
    run(monkeypatch, "promise")
    page = (place / "results/promise.md").read_text()
    assert "| answered | 0.910 | 0.905 | 0.910 ± 0.010 | 0.900 | **broken** |" in page
    assert "| loss: generate | 0.600 | 0.600 | 0.590 ± 0.010 | 0.600 | kept |" in page
    assert "| chance | 0.250 |" in page
    assert "| generate | 0.590 ± 0.010 | 0.490 ± 0.010 | 0.390 ± 0.010 |" in page


def test_a_promise_is_of_each_arm(place, monkeypatch):
    run(monkeypatch, "both")
    page = (place / "results/both.md").read_text()
    assert "| plain, answered | 0.920 | 0.920 | 0.900 | 0.900 | **broken** |" in page
    assert "| better, answered | 0.920 | 0.920 | 0.950 | 0.950 | kept |" in page


def test_a_promise_is_of_the_mean_and_of_each_seed():
    values = {0: .9, 1: .95}
    assert is_kept(values, .92, .9, 1)
    assert not is_kept(values, .93, .9, 1)
    assert not is_kept(values, .92, .91, 1)
    assert is_kept(values, .93, .95, -1)
    assert not is_kept(values, .92, .95, -1)


def test_every_arm_of_a_study_has_a_colour_of_its_own():
    assert max(len(of_study["arms"]) for of_study in ALL_STUDIES.values()) <= len(set(HUES))


def test_arms_are_compared_seed_by_seed(place, monkeypatch):
    """Both arms' seeds differ by 0.01, their difference not at all: pairing takes that out."""
    assert run(monkeypatch, "rivals") is None
    page = (place / "results/rivals.md").read_text()
    assert ("| answered | 0.910 ± 0.010 | 0.960 ± 0.010 | 3 | +0.0500 ± 0.0000 | 0.010 | "
            "reproduced |" in page)
    assert ("| loss: generate | 0.590 ± 0.010 | 0.540 ± 0.010 | 3 | -0.0500 ± 0.0000 | 0.010 | "
            "reproduced |" in page)
    assert "| other |  |  | 0 |  | 0.010 | not measured |" in page
    assert "| best: generate | 0.490 ± 0.010 | 0.440 ± 0.010 | 3 |" in page, "before the end"
    assert "- **It is better.** (a paper). What counts: loss: generate; of better - plain." in page
    assert "| **better** | 0.960 ± 0.010 | 0.123 ± 0.000 |" in page


def test_what_one_seed_lacks_is_not_measured(place, monkeypatch):
    """Who has none is not chosen by chance."""
    run(monkeypatch, "rivals")
    file = place / "out/study/better-1/scores.json"
    scores = json.loads(file.read_text())
    del scores["summary"]["answered"]
    file.write_text(json.dumps(scores))
    run(monkeypatch, "rivals")
    page = (place / "results/rivals.md").read_text()
    assert "| 2 |  | 0.010 | not measured |" in page


def test_a_study_of_distances_shows_the_curves(place, monkeypatch):
    shown = {}
    monkeypatch.setattr(report, "draw_curves", lambda runs, path: shown.update({path.name: runs}))
    run(monkeypatch, "rivals")
    run(monkeypatch, "promise")
    (picture, panels), = shown.items()
    assert picture in (place / "results/rivals.md").read_text()
    assert [title for title, _ in panels] == ["plain, 3 seeds", "better, 3 seeds"]
    for (_, of_arm), middle in zip(panels, (.91, .96)):
        assert of_arm["history"][-1]["generate"]["mean"] == pytest.approx([middle, 0])
        assert of_arm["history"][-1]["generate"]["std"] == pytest.approx([.01, 0])


def test_what_was_not_planned_is_no_result(place, monkeypatch):
    """With fewer seeds the worst of them is better."""
    run(monkeypatch, "promise", "--seeds", "2")
    assert (place / "out/study/promise.md").exists()
    monkeypatch.setitem(STUDIES["promise"], "seeds", 4)
    run(monkeypatch, "promise", "--quick")
    assert (place / "out/study/quick/promise.md").exists()
    assert not (place / "out/study/quick/plain-3").exists(), "a lecture has time for three"
    assert '"--steps": "10"' in (place / "out/study/quick/plain-0/ckpt.pt").read_text()
    assert not (place / "results").exists()


def test_curves_are_compared_with_zero_and_their_spread_is_a_promise(place, monkeypatch):
    """Two layers, one up and one down: a correlation of -1. Rows differ by 0.03, layers by 0.9."""
    run(monkeypatch, "opposed")
    run(monkeypatch, "spread")
    page = (place / "results/opposed.md").read_text()
    assert "| -1.000 ± 0.000 | 3 | -1.0000 ± 0.0000 | 0.100 | reproduced |" in page
    page = (place / "results/spread.md").read_text()
    assert "| spread: generate | 0.040 | 0.040 | 0.033 ± 0.000 | 0.033 | kept |" in page


def test_a_study_of_conflict_looks_at_each_run_once(place, monkeypatch):
    looked = []

    def look_at(folder):
        """The first layers of qkv are in conflict, ffn is all noise in one of the seeds."""
        looked.append(folder.name)
        seed = len(looked) - 1
        layers = [{matrix: {"cosine": cosine, "ratio": 2.} for matrix in MATRICES}
                  for cosine in (-.3 - seed / 100, -.1, -.1, -.1)]
        if seed == 1:
            layers[1] = layers[1] | {"ffn": {"cosine": None, "ratio": None}}
        about = {"moments": {"second phase": layers}, "draws": DRAWS, "rows": ROWS}
        (folder / "conflict.json").write_text(json.dumps(about))

    shown = {}
    monkeypatch.setattr(study, "look_at", look_at)
    monkeypatch.setattr(report, "draw_cosines", lambda panels, path, band: shown.update(panels))
    assert run(monkeypatch, "conflict") is None
    assert run(monkeypatch, "conflict") is None
    assert looked == ["plain-0", "plain-1", "plain-2"]
    page = (place / "results/conflict.md").read_text()
    assert "qkv: layer 0 | 0.000 ± 0.000 | -0.310 ± 0.010 | 3 | -0.3100 ± 0.0248" in page
    assert "| conflict qkv: ends - middle | 0.000 ± 0.000 | -0.105 ± 0.005 | 3 | -0.1050" in page
    assert "| conflict qkv: mean | 0.000 ± 0.000 | -0.152 ± 0.003 | 3 | -0.1525" in page
    assert "| 2 |  | 0.100 | not measured |" in page, "ffn is all noise in one seed"
    assert "| **plain** | 2.000 ± 0.000 |" in page, "the norms' ratio"
    first, second = shown["plain, 3 seeds"][:2]
    assert first["qkv"] == pytest.approx({"cosine": -.31, "low": -.3348, "high": -.2852}, abs=1e-4)
    assert second["ffn"]["cosine"] is None

    file = place / "out/study/plain-1/conflict.json"
    file.write_text(file.read_text().replace(f'"draws": {DRAWS}', '"draws": 5'))
    run(monkeypatch, "conflict")
    assert looked[3:] == ["plain-1"], "it was looked at otherwise"


def test_what_studies_found_is_said_beside_what_is_claimed(place, monkeypatch):
    run(monkeypatch, "rivals")
    page = (place / "results/claims.md").read_text()
    right, better, well = page.split("## ")[1:]
    assert "Nothing yet of `python -m lab.study promise`" in right
    assert "| better - plain | loss: generate | -0.0500 ± 0.0000 | 3 | reproduced |" in better
    assert "answered" not in better, "does not count for it"
    assert "Nothing yet of `python -m lab.study opposed`" in better
    assert "No study of it yet." in well
    run(monkeypatch, "promise")
    page = (place / "results/claims.md").read_text()
    assert ("| plain | answered | 0.910 ± 0.010, worst 0.900; promised 0.910, each 0.905 | 3 | "
            "broken |") in page
    assert "-0.0500" in page, "of the page that was made before"


def test_what_a_study_found_is_no_run_that_could_be_removed(place, monkeypatch):
    run(monkeypatch, "promise")
    for content in ("{", "[]", "{}", "null", '{"found": 5}', '{"found": [{}]}'):
        (place / "results/promise.json").write_text(content)
        for words in (("--list",), ("rivals",)):
            said = run(monkeypatch, *words)
            assert said.endswith("remove it; python -m lab.study promise writes it anew")


def test_the_list_says_what_was_spent_and_found(place, monkeypatch, capsys):
    run(monkeypatch, "promise")
    run(monkeypatch, "--list")
    said = capsys.readouterr().out
    assert "3 of 3 runs are there (4 minutes), 300 steps in all; found: 1 broken, 1 kept" in said
    assert "0 of 1 runs are there, 100 steps in all; found: nothing yet" in said
    assert "4 minutes of training" in (place / "results/promise.md").read_text()


def test_every_run_is_a_dot(place, monkeypatch):
    run(monkeypatch, "rivals")
    drawn = np.asarray(Image.open(place / "results/rivals.png").convert("RGB")).astype(int)
    blue = drawn[:, :, 2] - drawn[:, :, 0] > 80
    orange = drawn[:, :, 0] - drawn[:, :, 2] > 80
    assert blue.sum() > 100 and orange.sum() > 100
    assert (place / "results/rivals-intervals.png").exists()


def test_what_is_gained_lies_on_the_right_and_beyond_the_band(tmp_path):
    """
    Green is reproduced, orange unclear, red the opposite of what is claimed. An interval that no
    page has room for is cut.
    """
    rows = [("large", 5., 1., "reproduced"), ("none", 0., .5, "unclear"),
            ("huge", 90., 95., "unclear"), ("harm", -5., 1., "refuted"),
            ("out", -50., 10., "refuted"), ("of one seed", 0., math.inf, "unclear")]
    draw_intervals([("ours - theirs", rows)], tmp_path / "drawn.png")
    drawn = np.asarray(Image.open(tmp_path / "drawn.png").convert("RGB")).astype(int)
    red, green, blue = drawn.transpose(2, 0, 1)
    middle = intervals.LABEL + intervals.WIDTH / 2
    unit = intervals.WIDTH / 2 / intervals.FURTHEST
    top = 8 + intervals.HEADING
    for i, (first, last) in enumerate(((4, 6), (-.5, .5), (-5, 12), (-6, -4),
                                      (-12, -12), (-12, 12))):
        line = slice(top + i * intervals.ROW, top + (i + 1) * intervals.ROW)
        is_ink = (green - red > 50) if i == 0 else (red - blue > 100)
        columns = is_ink[line].any(0).nonzero()[0]
        assert columns.min() == pytest.approx(middle + first * unit, abs=7)
        assert columns.max() == pytest.approx(middle + last * unit, abs=7)


def test_a_grid_has_a_row_a_regime_and_a_column_a_measure(tmp_path):
    """A gain lies on the right of its own column and row, and what was not measured nowhere."""
    gain, harm = (4., 1., "reproduced"), (-4., 1., "refuted")
    rows = [("here", [gain, None]), ("there", [None, harm])]
    draw_grid(["see", "draw"], rows, tmp_path / "drawn.png", reach=8)
    drawn = np.asarray(Image.open(tmp_path / "drawn.png").convert("RGB")).astype(int)
    red, green, blue = drawn.transpose(2, 0, 1)
    unit = intervals.COLUMN / 16
    middles = [intervals.LABEL + intervals.COLUMN / 2 + i * (intervals.COLUMN + intervals.GAP)
               for i in (0, 1)]
    for is_ink, i, side in ((green - red > 50, 0, 4), (red - green > 100, 1, -4)):
        y, x = is_ink.nonzero()
        top = intervals.HEADING + i * intervals.ROW
        assert top <= y.min() and y.max() < top + intervals.ROW
        assert x.mean() == pytest.approx(middles[i] + side * unit, abs=3)


@pytest.mark.parametrize("name", [
    "plain-0.json", "plain-1/scores.json", "plain-2/interaction.json"])
def test_a_damaged_file_is_named_in_one_line(place, monkeypatch, name):
    run(monkeypatch, "promise")
    monkeypatch.setattr(study, "was_scored", lambda _: True)
    (place / "out/study" / name).write_text("{")
    said = run(monkeypatch, "promise")
    assert f"out/study/{name}: cannot be read" in said
    assert "\n" not in said


# ---------------------------------------------------------------------------------------------
# statistics


def test_an_interval_holds_the_truth_in_19_of_20_cases():
    rng = np.random.default_rng(0)
    held = 0
    for differences in rng.normal(1., 2., size=(4000, 4)):
        middle, half = interval(differences.tolist())
        held += abs(middle - 1) <= half
    assert .94 < held / 4000 < .96


def test_the_table_of_student_s_t_is_right():
    """By integrating its density: 95 % lie between -t and t."""
    for df, t in enumerate(T95, 1):
        x = np.linspace(-t, t, 20_001)
        log_c = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - .5 * math.log(df * math.pi)
        density = np.exp(log_c - (df + 1) / 2 * np.log1p(x ** 2 / df))
        assert abs(np.trapezoid(density, x) - .95) < 1e-4


@pytest.mark.parametrize("gain, half, n, said", [
    (.03, .02, 5, "reproduced"), (.002, .001, 5, "not worth having"),
    (.01, .02, 5, "unclear"), (0., .005, 5, "refuted"), (-.03, .02, 5, "refuted"),
    (.03, 0., 2, "unclear")])
def test_a_verdict_goes_by_the_interval(gain, half, n, said):
    assert verdict(gain, half, .01, n) == said


def test_where_aia_was_tried_is_one_table_whatever_is_missing(place, monkeypatch):
    run(monkeypatch, "promise")
    assert not (place / "results/regimes.md").exists(), "of no regime there is a page yet"
    run(monkeypatch, "rivals")
    page = (place / "results/regimes.md").read_text()
    found = json.loads((place / "results/rivals.json").read_text())["found"]
    difference, = [one["difference"] for one in found if one["measure"] == "loss/generate"]
    assert f"| here | [rivals](rivals.md) | 3 | {difference} |" in page
    assert "Nothing yet of `python -m lab.study elsewhere`." in page
    assert "| nowhere | [rivals](rivals.md) |  |  |" in page
    assert (place / "results/regimes.png").exists()


def test_every_regime_is_of_a_study_that_measures_it():
    for _, name, arm, rival in OUR_REGIMES:
        about = ALL_STUDIES[name]
        assert (arm, rival) in about["rivals"]
        assert set(OUR_COLUMNS) <= set(about["measures"])


# ---------------------------------------------------------------------------------------------
# our own studies


@pytest.mark.parametrize("name", study.STUDIES)
def test_every_study_of_ours_measures_what_there_is(name, tmp_path):
    about = study.STUDIES[name]
    runs = study.runs_of(about, about["seeds"], tmp_path)
    assert len({one.folder for one in runs}) == len(runs)
    for place, one in enumerate(runs):
        assert all(source in runs[:place] for source in one.sources)
    summary = ("toy-GenEval", "toy-POPE F1", "toy-MME", "toy-MMVP", "answered")
    losses = ("generate", "understand")
    layers = [f"layer {layer}" for layer in range(6)]
    of_conflict = [*layers, "mean", "ends - middle"]
    columns = {"summary": summary, "toy-GenEval": GENEVAL + EXTRA, "answered": KINDS,
               "toy-MME": MME, "toy-MMVP": MMVP, "correlation": ("over layers",),
               "both tasks": ("loss",),
               **dict.fromkeys(("loss", "best", "distance", "spread"), losses),
               **{f"conflict {matrix}": of_conflict for matrix in MATRICES}}
    for measure in [*about.get("promise", ()), *about.get("measures", ())]:
        benchmark, column = measure.split("/")
        assert column in columns[benchmark]
    for arm, rival in about.get("rivals", ()):
        assert {arm, rival} <= {*about["arms"], "zero"}


@pytest.mark.parametrize("name", study.STUDIES)
def test_what_counts_for_a_claim_is_compared_by_its_study(name):
    about = study.STUDIES[name]
    for claim, counts in about["tests"].items():
        assert claim in OUR_CLAIMS
        if counts == "promise":
            assert about["promise"]
        else:
            pairs, measures = counts
            assert pairs and set(pairs) <= set(about["rivals"])
            assert measures and set(measures) <= set(about["measures"])


@pytest.mark.parametrize("arm", study.ARMS)
def test_the_flags_of_every_arm_are_flags_of_training(arm, monkeypatch, tmp_path):
    of_source = {"train": {"whole": 5500}, "model": {"see": "tokens", "full": False}}
    monkeypatch.setattr(plan, "read_config", lambda _: of_source)
    one = study.add_run({}, arm, 0, tmp_path, quick=False)
    monkeypatch.setattr(sys, "argv", ["train.py", *one.words])
    assert flags.read_flags().steps == one.steps
