"""
lab/measures.py: what a study measures: the numbers of a run, by "benchmark/column". Those of our
own, which are not in scores.json, are told of in lab/studies.py.
"""
import json
import sys
from statistics import mean

from aia import correlation
from lab.conflict import BEGIN, MATRICES
from tools.files import first_line


def scores_of(run, asked):
    """A run's scores.json, and of the benchmarks of our own (see lab/studies.py) what is asked."""
    scores = read(run.folder / "scores.json")
    if "both tasks" in asked:
        losses = [of_task["run"] for of_task in scores["loss"].values()]
        scores["both tasks"] = {"loss": {"run": sum(losses)}}
    if asked & {"best", "correlation", "spread"}:
        history = read(run.folder / "interaction.json")["history"]
        scores |= of_curves(history)
    if any(benchmark.startswith("conflict") for benchmark in asked):
        scores |= of_conflict(read(run.folder / "conflict.json")["moments"][BEGIN])
    return scores


def of_curves(history):
    """The benchmarks that interaction.json tells of."""
    last = history[-1]
    best = {}
    spread_over_rows = {}
    for task in last["val"]:
        best[task] = {"run": min(measured["val"][task] for measured in history[:-1])}
        curve = last[task]["mean"]
        over_layers = max(curve) - min(curve)
        spread_over_rows[task] = {"run": mean(last[task]["std"]) / over_layers}
    return {"best": best, "spread": spread_over_rows,
            "correlation": {"over layers": {"run": correlation(last)}}}


def of_conflict(layers):
    """Those that conflict.json tells of; None where the gradients are all noise."""
    scores = {}
    for matrix in MATRICES:
        cosines = [of_layer[matrix]["cosine"] for of_layer in layers]
        columns = {f"layer {layer}": cosine for layer, cosine in enumerate(cosines)}
        columns |= dict.fromkeys(("mean", "ends - middle"))
        if None not in cosines:
            n = len(cosines)
            middle = mean(cosines[n // 2 - 1:n // 2 + 1])
            columns["mean"] = mean(cosines)
            columns["ends - middle"] = mean((cosines[0], cosines[-1])) - middle
        scores[f"conflict {matrix}"] = {name: {"run": value} for name, value in columns.items()}
        scores[f"norms {matrix}"] = {f"layer {layer}": {"run": of_layer[matrix]["ratio"]}
                                     for layer, of_layer in enumerate(layers)}
    return scores


def is_of_conflict(study):
    """Whether lab/conflict.py is to look at the study's runs, too."""
    return any(measure.startswith("conflict") for measure in study.get("measures", ()))


def value_of(scores, measure, row="run"):
    """A number of a run's scores, by "benchmark/column"; None if it has none."""
    benchmark, column = measure.split("/")
    return scores.get(benchmark, {}).get(column, {}).get(row)


def values_of(scores, arm, measure):
    """{seed: the number}, of an arm's runs that have it."""
    values = {}
    for run, of_run in scores.items():
        value = value_of(of_run, measure)
        if run.arm == arm and value is not None:
            values[run.seed] = value
    return values


def sign_of(measure):
    """-1 where less is better, or is claimed."""
    less = ("loss", "both", "best", "distance", "correlation", "spread", "conflict")
    return -1 if measure.split("/")[0].split()[0] in less else 1


def read(file, remedy="remove that run, and it is made anew"):
    """What stands in a JSON file, of a run most often. Exits with one line if it cannot be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        sys.exit(f"{file}: cannot be read ({first_line(e)}); {remedy}")


def read_found(file, study):
    """What a study found, as report.py leaves it. Exits with one line if it cannot be read."""
    remedy = f"remove it; python -m lab.study {study} writes it anew"
    try:
        found = read(file, remedy)["found"]
        if all(one["verdict"] and one["measure"] for one in found):
            return found
    except (LookupError, TypeError):
        pass
    sys.exit(f"{file}: is no study's; {remedy}")
