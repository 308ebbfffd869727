"""
lab/regimes.py: where AIA was tried, and what it changed, as one table and one picture:
results/regimes.md and .png. lab/study.py writes them with every page of a study in results/. What
is a regime stands in lab/of_aia.py.
"""
from lab.intervals import draw_intervals
from lab.measures import read_found
from lab.of_aia import REGIMES
from lab.report import table

COLUMNS = {"loss/understand": "loss to see", "loss/generate": "loss to draw",
           "summary/toy-GenEval": "toy-GenEval", "summary/answered": "answered"}
INTRODUCTION = (
    "Written by `python -m lab.study`, with every page of a study. Each row is AIA against the same "
    "training without it, from the same weights: the difference of runs of the same seed, with its "
    "95 % interval (Student's t). small and paper are the targets, and a number is AIA's weight; "
    "without one it is 1, on every step, but in the main job 0.1, on every fourth. Of losses less is better, of toy-GenEval and answers more. In the "
    "picture the unit is what each study calls the smallest difference worth having, and right is "
    "better; grey: refuted, that is, the interval lies below it.")
MANY = ("These are many intervals, and one of twenty misses: a single row that leaves zero is not "
        "much yet, a column that leans to one side is.")


def write_regimes(folder):
    """regimes.md and regimes.png in the folder of the studies' pages, from their .json files."""
    rows = []
    missing = []
    groups = {name: [] for name in COLUMNS.values()}
    for words, study, arm, rival in REGIMES:
        file = folder / f"{study}.json"
        if not file.exists():
            missing.append(f"`python -m lab.study {study}`")
            continue
        found = {one["measure"]: one for one in read_found(file, study)
                 if (one["arm"], one.get("rival")) == (arm, rival)}
        cells = []
        for measure, name in COLUMNS.items():
            one = found[measure]
            cells.append(one["difference"])
            groups[name].append((words, one["gain"] / one["worth"], one["half"] / one["worth"],
                                 one["verdict"]))
        seeds = found["loss/generate"]["seeds"]
        rows.append([words, f"[{study}]({study}.md)", str(seeds), *cells])
    if not rows:
        return
    parts = ["# Where AIA was tried, and what it changed", INTRODUCTION,
             "![every regime with its interval](regimes.png)",
             table(["regime", "study", "seeds", *COLUMNS.values()], rows), MANY]
    if missing:
        parts.append(f"Nothing yet of {', '.join(dict.fromkeys(missing))}.")
    (folder / "regimes.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    draw_intervals(list(groups.items()), folder / "regimes.png")
