"""
lab/report.py: what came out of a study, as a page and a picture. lab/study.py calls it in the end.

Means and standard deviations are over seeds. A difference between two arms is of runs of the same
seed, its 95 % interval by Student's t (Student 1908).
"""
import json
from statistics import mean, stdev

from tools.dots import draw_dots

# half the width of a 95 % interval of a mean, in standard errors, by degrees of freedom from 1 on
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
       2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
       2.052, 2.048, 2.045, 2.042)

RULE = ("*Reproduced*: the 95 % interval of the paired difference lies on the claimed side of zero. "
        "*Refuted*: it does not, and excludes the smallest difference worth having. "
        "*Unclear*: neither; more seeds would tell.")
KEPT = "*Kept*: the mean over seeds and the worst seed reach what is promised of them."


def write_report(name, study, runs, folder):
    """
    NAME.md and NAME.png in a folder: verdicts, then every number of the exam, then the losses by
    step, then how it was made.
    """
    runs = [run for run in runs if run.arm in study["arms"]]
    scores = {run: read(run.folder / "scores.json") for run in runs}
    parts = [f"# {study['question']}",
             f"`python -m lab.study {name}`. " + how_made(runs),
             f"![every seed a dot]({name}.png)"]
    if "promise" in study:
        parts += ["## What is promised", KEPT, promises(study["promise"], scores)]
    if "rivals" in study:
        parts += ["## The verdict", f"The claim: {study['claim']} {RULE}"]
        parts += [differences(arm, rival, study["measures"], scores)
                  for arm, rival in study["rivals"]]
    parts += ["## Every number", every_number(scores), "## Losses by step", losses(runs)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text("\n\n".join(parts) + "\n")
    measures = study.get("promise") or study["measures"]
    draw_dots(rows_of_dots(measures, study, scores), folder / f"{name}.png")


def read(file):
    return json.loads(file.read_text())


# ---------------------------------------------------------------------------------------------
# numbers


def value_of(scores, measure, row="run"):
    """A number of a run's scores, by "benchmark/column"; None if it has none."""
    benchmark, column = measure.split("/")
    return scores.get(benchmark, {}).get(column, {}).get(row)


def values_of(scores, arm, measure):
    """{seed: the number} of an arm's runs."""
    values = {run.seed: value_of(of_run, measure) for run, of_run in scores.items()
              if run.arm == arm}
    return {seed: value for seed, value in values.items() if value is not None}


def better_if_less(measure):
    return measure.split("/")[0] in ("loss", "distance")


def interval(differences):
    """The mean of some numbers, and half the width of its 95 % interval (infinite of one)."""
    n = len(differences)
    if n < 2:
        return mean(differences), float("inf")
    t = T95[min(n - 1, len(T95)) - 1]
    return mean(differences), t * stdev(differences) / n ** .5


def verdict(gain, half, worth):
    """By RULE. gain: the mean difference, in the claim's direction; half: of its interval."""
    if gain - half > 0:
        return "reproduced"
    if gain + half < worth:
        return "refuted"
    return "unclear"


def written(value):
    if value is None:
        return ""
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def spread(values):
    """Mean ± standard deviation."""
    values = list(values)
    if len(values) < 2:
        return written(values[0]) if values else ""
    return f"{written(mean(values))} ± {written(stdev(values))}"


# ---------------------------------------------------------------------------------------------
# tables


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def title(measure):
    """How a measure is called: "toy-GenEval", "answered: position"."""
    benchmark, column = measure.split("/")
    return column if benchmark == "summary" else f"{benchmark}: {column}"


def promises(promise, scores):
    arm = next(iter(scores)).arm
    rows = []
    for measure, (of_mean, of_all) in promise.items():
        values = list(values_of(scores, arm, measure).values())
        kept = values and mean(values) >= of_mean and min(values) >= of_all
        rows.append([title(measure), written(of_mean), written(of_all), spread(values),
                     written(min(values, default=None)), "kept" if kept else "**broken**"])
    return table(["", "mean, at least", "each seed, at least", "mean", "worst seed", ""], rows)


def differences(arm, rival, measures, scores):
    """Of each measure what both arms have, and by how much they differ."""
    rows = []
    for measure, worth in measures.items():
        ours = values_of(scores, arm, measure)
        theirs = values_of(scores, rival, measure)
        both = sorted(set(ours) & set(theirs))
        if not both:
            continue
        sign = -1 if better_if_less(measure) else 1
        gain, half = interval([sign * (ours[seed] - theirs[seed]) for seed in both])
        rows.append([title(measure), spread(theirs.values()), spread(ours.values()),
                     f"{sign * gain:+.4f} ± {half:.4f}", written(worth),
                     verdict(gain, half, worth)])
    return table(["", rival, arm, "difference, 95 %", "worth having", "verdict"], rows)


def every_number(scores):
    """A table a benchmark: for each arm the mean and the seeds, then the rows that all share."""
    first = next(iter(scores.values()))
    parts = []
    for benchmark, columns in first.items():
        rows = []
        for arm in dict.fromkeys(run.arm for run in scores):
            of_arm = {run.seed: one for run, one in scores.items() if run.arm == arm}
            values = {column: values_of(scores, arm, f"{benchmark}/{column}")
                      for column in columns}
            rows.append([f"**{arm}**"] + [spread(values[c].values()) for c in columns])
            for seed in of_arm:
                rows.append([f"seed {seed}"] + [written(values[c].get(seed)) for c in columns])
        for row in ("chance", "ceiling"):
            cells = [written(value_of(first, f"{benchmark}/{c}", row)) for c in columns]
            if any(cells):
                rows.append([row, *cells])
        parts.append(table([benchmark, *columns], rows))
    return "\n\n".join(parts)


def losses(runs):
    """Validation losses at each evaluation, the mean over seeds, and the worst seed at the end."""
    parts = []
    for arm in dict.fromkeys(run.arm for run in runs):
        histories = [read(run.folder / "interaction.json")["history"]
                     for run in runs if run.arm == arm]
        steps = [f"{measured['step']:,}" for measured in histories[0]]
        rows = []
        for task in histories[0][0]["val"]:
            at = zip(*[[measured["val"][task] for measured in history] for history in histories])
            rows.append([task] + [spread(values) for values in at])
        parts.append(table([arm, *steps], rows))
    return "\n\n".join(parts)


def how_made(runs):
    """The line on seeds, revision, machine and time."""
    about = [read(run.about) for run in runs]
    seeds = sorted({run.seed for run in runs})

    def all_of(name):
        return ", ".join(sorted({str(one[name]) for one in about}))

    return (f"Seeds {', '.join(map(str, seeds))}; revision {all_of('revision')}; "
            f"{all_of('cores')} cores of {all_of('machine')}, {all_of('jobs')} runs at a time; "
            f"torch {all_of('torch')}; {all_of('date')}. After ± stands the standard deviation "
            "over seeds, unless it says 95 %.")


def rows_of_dots(measures, study, scores):
    """What draw_dots() draws: [(label, {arm: values}, what is promised or None)]."""
    rows = []
    for measure in measures:
        values = {arm: list(values_of(scores, arm, measure).values()) for arm in study["arms"]}
        line = study["promise"][measure][0] if "promise" in study else None
        rows.append((title(measure), values, line))
    return rows
