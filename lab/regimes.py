"""
lab/regimes.py: where AIA was tried, and what it changed, as one table and one picture:
results/regimes.md and .png. lab/study.py writes them with every page of a study in results/. What
is a regime stands in lab/of_aia.py.
"""
from lab.intervals import draw_grid
from lab.measures import read_found
from lab.of_aia import REGIMES
from lab.report import table

COLUMNS = {"loss/understand": "loss to see", "loss/generate": "loss to draw",
           "summary/toy-GenEval": "toy-GenEval", "summary/answered": "answered"}
INTRODUCTION = (
    "Written by `python -m lab.study`, with every page of a study. Each row is AIA against the "
    "same training without it: the difference of runs of the same seed, with its 95 % interval "
    "(Student's t). Of losses less is better, of toy-GenEval and answers more.\n\n"
    "*small* aims at the curves of single-task networks, *paper* at the paper's table. A number "
    "at the end is AIA's weight; without one it is 1. AIA acts on every step; but in the main job "
    "on every fourth, with a weight of 0.1.\n\n"
    "In the picture right is better, and the unit is what each study calls the smallest "
    "difference worth having. Green: AIA helps; blue: but less than that. Grey: it is refuted "
    "that it helps so much. Red: it harms. Orange: unclear. Losses are those at the end of "
    "training; where scenes are few they were lower before, and who stops there is the fairer "
    "rival ([few.md](few.md)).")
MANY = (
    "These are many intervals, and one of twenty misses. That most rows of a measure lean to one "
    "side says more than one row; but rows with the same rival share its runs, and so its luck.")


def write_regimes(folder):
    """regimes.md and regimes.png in the folder of the studies' pages, from their .json files."""
    rows = []
    missing = []
    drawn = []
    for words, study, arm, rival in REGIMES:
        file = folder / f"{study}.json"
        if not file.exists():
            missing.append(f"`python -m lab.study {study}`")
            continue
        found = {one["measure"]: one for one in read_found(file, study)
                 if (one["arm"], one.get("rival")) == (arm, rival)}
        seeds = ""
        cells = []
        intervals = []
        for measure in COLUMNS:
            one = found.get(measure, {})
            cells.append(one.get("difference", ""))
            interval = None
            if "gain" in one:  # else it was not measured
                interval = one["gain"] / one["worth"], one["half"] / one["worth"], one["verdict"]
                seeds = str(one["seeds"])
            intervals.append(interval)
        drawn.append((words, intervals))
        rows.append([words, f"[{study}]({study}.md)", seeds, *cells])
    if not rows:
        return
    parts = ["# Where AIA was tried, and what it changed", INTRODUCTION,
             "![every regime with its interval](regimes.png)",
             table(["regime", "study", "seeds", *COLUMNS.values()], rows), MANY]
    if missing:
        parts.append(f"Nothing yet of {', '.join(dict.fromkeys(missing))}.")
    (folder / "regimes.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    draw_grid(list(COLUMNS.values()), drawn, folder / "regimes.png")
