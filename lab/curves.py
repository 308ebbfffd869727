"""
lab/curves.py: the command `python aia.py`: the curves of runs, as a table and as one picture.
"""
import json
import os
import sys
from pathlib import Path

import numpy as np

from aia import correlation, distance
from data import TASKS
from systems.runs import latest_run
from tools.curves import draw_curves
from tools.faults import expect_faults
from tools.files import first_line
from tools.flags import Parser, speak_plainly
from tools.sheet import refuse_no_picture

# ---------------------------------------------------------------------------------------------
# runs, and several runs as one


def load_run(folder):
    """
    The curves of a run's folder, as draw_curves() wants them, with "notes" on its network, its
    "scores", as far as there are any, and its "shape" (see check_curves). Exits with one line if
    there are no curves.
    """
    file = Path(folder) / "interaction.json"
    if not file.exists():
        sys.exit(f"{file}: no such file; wanted is the folder of a run that measured its curves")
    remedy = "train the run again"
    try:  # file, remedy: of what is read at the moment
        run = json.loads(file.read_text())
        run["shape"] = check_curves(run)
        file = Path(folder) / "config.json"
        config = read_json(file)
        run["notes"] = notes_on_network(config["model"]) if config else []
        remedy = "remove it; python -m exam makes it anew"
        file = Path(folder) / "scores.json"
        summary = read_json(file).get("summary", {})
        run["scores"] = {name: float(rows["run"]) for name, rows in summary.items()}
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as e:
        sys.exit(f"{file}: is damaged, or another's ({type(e).__name__}: {first_line(e)}); "
                 f"{remedy}")
    return run


def check_curves(run):
    """
    Fails with some error if this is not what train.py writes as interaction.json. Returns what
    runs that have a mean have in common: steps, tasks and layers.
    """
    curves = []
    steps = []
    tasks = []
    for measured in run["history"]:
        float(measured["phase"])
        steps.append(int(measured["step"]))
        tasks = [task for task in TASKS if task in measured]
        for task in tasks:
            curves += [measured[task]["mean"], measured[task]["std"]]
    if not curves or len(curves) != 2 * len(tasks) * len(steps):
        raise ValueError("a task is missing in its measurements")
    reference = run.get("reference") or {}
    for task in set(TASKS) & set(reference):
        curves.append(reference[task]["curve"])
    if np.array(curves, float).ndim != 2 or not np.isfinite(curves).all():
        raise ValueError("a layer is no number, or there is no layer")
    return steps, tasks, len(curves[0])


def read_json(file):
    """What is in a JSON file; {} without one, as runs that were stopped have no scores."""
    return json.loads(file.read_text()) if file.exists() else {}


def mean_run(folders):
    """
    Runs that differ by their seed as one: the mean of their curves, with the standard deviation
    over seeds, not over samples, and notes on what they are.
    """
    runs = [load_run(folder) for folder in folders]
    if any(run["shape"] != runs[0]["shape"] for run in runs):
        sys.exit(f"{','.join(folders)}: runs of different steps, tasks or layers have no mean; "
                 "name them apart")
    references = [run.get("reference") or {} for run in runs]
    histories = zip(*[run["history"] for run in runs])
    history = [mean_measurement(measured, references) for measured in histories]
    same = all(reference == references[0] for reference in references)
    return {"history": history, "reference": references[0] if same else None,
            "notes": notes_on(runs)}


def mean_measurement(measured, references):
    """
    The measurements of several runs at one step, as one. Its "distance" is the mean of theirs, each
    to its own reference; that of the mean curve would be less, as what seeds differ in cancels.
    """
    mean = dict(measured[0])
    distances = [distance(one, reference) for one, reference in zip(measured, references)]
    mean["distance"] = {task: np.mean([of_run[task] for of_run in distances]) for task in TASKS
                        if all(task in of_run for of_run in distances)}
    if len(measured) == 1:
        return mean
    for task in TASKS:
        if task in mean:
            curves = np.array([one[task]["mean"] for one in measured])  # (runs, L)
            mean[task] = {"mean": curves.mean(0).tolist(), "std": curves.std(0, ddof=1).tolist()}
    return mean


def notes_on_network(model):
    """Lines that tell what is taken apart. model: the Config's, as in config.json"""
    copies = "nothing split"
    if model["split"]:
        copies = f"{'+'.join(model['split'])} by {model['route']}"
    eyes = "by an encoder" if model["see"] == "encoder" else model["see"]
    hand = ", own head" if model["own_head"] else ""
    if model.get("draw", "tokens") != "tokens":  # an older run does not say
        hand = f", draws by {model['draw']}"
    return [copies, f"sees {eyes}{hand}"]


def notes_on(runs):
    """Lines that tell a network and its scores."""
    notes = list(runs[0]["notes"])
    for name in ("toy-GenEval", "answered"):
        if all(name in run["scores"] for run in runs):
            values = [run["scores"][name] for run in runs]
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            notes.append(f"{name} {np.mean(values):.3f}{spread}")
    return notes


def title_of(folders):
    """The name of a run, or what the names of several begin with."""
    names = [Path(folder).name for folder in folders]
    if len(names) == 1:
        return names[0]
    return f"{os.path.commonprefix(names).rstrip('-_')}, {len(names)} seeds"


# ---------------------------------------------------------------------------------------------
# the table


def print_table(title, run):
    now = run["history"][-1]
    reference = run.get("reference") or {}
    print(f"\n{title}, step {now['step']}, reference: {reference.get('name', 'none')}")
    print(f"{'layer':>6}" + "".join(f"{task:>18}{'reference':>11}" for task in TASKS))
    n_layer = max(len(now[task]["mean"]) for task in TASKS if task in now)
    for layer in range(n_layer):
        line = f"{layer:>6}"
        for task in TASKS:
            line += f"{measured(now, task, layer):>18}{aimed_at(reference, task, layer):>11}"
        print(line)
    for then in (run["history"][0], now):
        print(summary(then))


def measured(now, task, layer):
    """A cell of the table: mean and standard deviation; empty if the task was not measured."""
    if task not in now:
        return ""
    return f"{now[task]['mean'][layer]:>9.3f} ± {now[task]['std'][layer]:.3f} "


def aimed_at(reference, task, layer):
    """A cell of the table: the reference's curve; empty if there is none."""
    if task not in reference:
        return ""
    return f"{reference[task]['curve'][layer]:.3f}"


def summary(then):
    """A line on the curves as a whole, at one step."""
    r = correlation(then)
    off = then["distance"]
    r = "n/a" if r is None else f"{r:+.2f}"
    off = ", ".join(f"{task} {value:.3f}" for task, value in off.items()) or "n/a"
    return (f"step {then['step']:>4}: correlation of the two curves {r}; "
            f"distance to the reference {off}")


def main():
    """Prints a table a run, or a group of runs, and draws all of them side by side."""
    p = Parser(
        prog="aia.py", description="The interaction curves of runs: a table and one picture.")
    p.add_argument("out", nargs="*",
                   help="folders of runs; those joined by commas are seeds of one, shown as their "
                        "mean (default: the latest)")
    p.add_argument("--png", help="where the picture goes (default: interaction.png in the run, or "
                                 "out/interaction.png for several)")
    speak_plainly()
    expect_faults("name fewer runs")
    args = p.parse_args()
    groups = [names.split(",") for names in args.out or [latest_run()]]
    for names, folders in zip(args.out, groups):
        if "" in folders:
            sys.exit(f"{names}: a folder's name is empty; wanted is OUT, or OUT1,OUT2 for a mean")
        if len(folders) > len({Path(folder).resolve() for folder in folders}):
            sys.exit(f"{names}: a folder is named twice; each seed counts once")
    png = picture_of(groups, args.png)
    runs = [(title_of(folders), mean_run(folders)) for folders in groups]
    for title, run in runs:
        print_table(title, run)

    try:
        draw_curves(runs, png)
    except OSError as e:
        sys.exit(f"--png {png}: cannot be written ({e})")
    print(f"\npicture: {png}")


def picture_of(groups, named):
    """Where the picture goes, a place that can be written."""
    if named:
        refuse_no_picture("--png", named)
        return Path(named)
    if len(groups) == 1 and len(groups[0]) == 1:
        return Path(groups[0][0]) / "interaction.png"
    Path("out").mkdir(exist_ok=True)
    return Path("out/interaction.png")
