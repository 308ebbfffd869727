"""
lab/report.py: what came out of a study, as a page and a picture. lab/study.py calls it in the end.

Means and standard deviations are over seeds. A difference between two arms is of runs of the same
seed, its 95 % interval by Student's t (Student 1908).
"""
from statistics import mean, stdev

from lab.conflict import BEGIN, MATRICES
from lab.conflict import draw as draw_cosines
from lab.curves import mean_run
from lab.dots import draw_dots
from lab.drawings import draw_rows
from lab.intervals import draw_intervals
from lab.measures import is_of_conflict, read, scores_of, sign_of, value_of, values_of
from lab.studies import CLAIMS
from tools.curves import draw_curves
from tools.files import save_json

# half the width of a 95 % interval of a mean, in standard errors, by degrees of freedom from 1 on
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
       2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
       2.052, 2.048, 2.045, 2.042)

KEPT = "*Kept*: the mean over the seeds and the worst of them reach what is promised."
RULE = ("*Reproduced*: the 95 % interval of the difference between runs of the same seed lies on "
        "the claimed side of zero. *Refuted*: it does not, and lies below the smallest difference "
        "worth having; *the opposite*, in the picture, if it lies on the other side of zero. "
        "*Not worth having*: reproduced, but the interval lies below that difference. *Unclear*: "
        "none of these, or fewer than three seeds.")
CAVEAT = ("All seeds sit the same exam, so ± and intervals say how runs differ, not how much luck "
          "is in what was asked. Of many intervals of 95 % one in twenty misses, and those beside "
          "one rival share its runs, and so its luck.")
CURVES = "The mean over seeds, with a band of one standard deviation."
COSINES = ("Without noise (see lab/conflict.py), where the second phase begins. The mean over "
           "seeds, with its 95 % interval as a band.")
DRAWN = "Of the runs of seed 0, each prompt's first picture."
STEPS = "Nats a token; the last over 1,000 rows a task, the others over 250."


def write_report(name, study, runs, folder, command):
    """
    NAME.md and NAME.png in a folder: verdicts, then every number of the exam, then the losses by
    step. With rivals there is a picture of the verdicts, too, NAME-intervals.png, and if it is
    about the curves one of these, NAME-curves.png. What was found is in NAME.json, of which
    lab/claims.py makes its page. command: the one that was typed.
    """
    runs = [run for run in runs if run.arm in study["arms"]]
    measures = [*study.get("promise", ()), *study.get("measures", ())]
    asked = {measure.split("/")[0] for measure in measures}
    scores = {run: scores_of(run, asked) for run in runs}
    found = [kept(arm, measure, study, scores)
             for arm in study["arms"] for measure in study.get("promise", ())]
    parts = [f"# {study['question']}", how_made(command, runs), f"![every seed a dot]({name}.png)"]
    if "promise" in study:
        parts += ["## What is promised", KEPT, promises(found)]
    if "rivals" in study:
        parts += ["## The verdict", RULE, claims(study["tests"]),
                  f"![every difference with its interval]({name}-intervals.png)"]
        for arm, rival in study["rivals"]:
            compared = [compare(arm, rival, measure, worth, scores)
                        for measure, worth in study["measures"].items()]
            parts.append(differences(arm, rival, compared))
            found += compared
    if is_of_conflict(study):
        parts += ["## Cosines of the two tasks' gradients", COSINES,
                  f"![cosine per layer and matrix]({name}-cosines.png)"]
    is_of_curves = asked & {"distance", "correlation", "spread"}
    if is_of_curves:
        parts += ["## Curves", CURVES, f"![interaction per layer]({name}-curves.png)"]
    if "prompts" in study:
        parts += ["## What each draws", DRAWN, f"![a row each]({name}-drawings.png)"]
        draw_rows([first_run(arm, runs) for arm in study["arms"]], study["prompts"],
                  folder / f"{name}-drawings.png")
    parts += [study.get("note", ""), CAVEAT, "## Scores", every_score(study["arms"], scores),
              "## Validation losses by step", STEPS, losses(study["arms"], runs)]
    folder.mkdir(parents=True, exist_ok=True)
    page = "\n\n".join(part for part in parts if part) + "\n"
    (folder / f"{name}.md").write_text(page, encoding="utf-8")
    save_json(folder / f"{name}.json", {"command": command, "found": found})
    draw_dots(rows_of_dots(study, scores), folder / f"{name}.png")
    groups = groups_of_intervals(study, found)
    if groups:
        draw_intervals(groups, folder / f"{name}-intervals.png")
    if is_of_conflict(study):
        draw_cosines(cosines(study["arms"], runs), folder / f"{name}-cosines.png", "over seeds")
    if is_of_curves:
        draw_curves(curves(study["arms"], runs), folder / f"{name}-curves.png")


# ---------------------------------------------------------------------------------------------
# numbers


def interval(differences):
    """The mean of some numbers, and half the width of its 95 % interval (infinite of one)."""
    n = len(differences)
    if n < 2:
        return mean(differences), float("inf")
    t = T95[min(n - 1, len(T95)) - 1]
    return mean(differences), t * stdev(differences) / n ** .5


def verdict(gain, half, worth, n):
    """By RULE. gain: the mean of n differences, in the claim's direction; half: of its interval."""
    if n < 3:
        return "unclear"
    if gain - half > 0:
        return "not worth having" if gain + half < worth else "reproduced"
    return "refuted" if gain + half < worth else "unclear"


def is_kept(values, of_mean, of_each, sign):
    """Whether {seed: number} keep a promise: (what the mean, what each seed is to reach)."""
    better = [sign * value for value in values.values()]
    return mean(better) >= sign * of_mean and min(better) >= sign * of_each


def written(value, like=None):
    """A number with as many decimals as one that is like it has."""
    if value is None:
        return ""
    like = value if like is None else like
    return f"{value:.1f}" if abs(like) >= 10 else f"{value:.3f}"


def spread(values):
    """Mean ± standard deviation."""
    values = list(values)
    if len(values) < 2:
        return written(values[0]) if values else ""
    middle = mean(values)
    return f"{written(middle)} ± {written(stdev(values), like=middle)}"


def first_run(arm, runs):
    """An arm's run of the first seed"""
    return min((run for run in runs if run.arm == arm), key=lambda run: run.seed)


# ---------------------------------------------------------------------------------------------
# what was found


def kept(arm, measure, study, scores):
    """Whether an arm keeps a promise, as a dict."""
    of_mean, of_each = study["promise"][measure]
    n_runs = sum(run.arm == arm for run in scores)
    found = {"arm": arm, "measure": measure, "of mean": of_mean, "of each": of_each,
             "seeds": n_runs, "value": "", "worst": "", "verdict": "not measured"}
    values = values_of(scores, arm, measure)
    if len(values) < n_runs:
        return found
    sign = sign_of(measure)
    worst = sign * min(sign * value for value in values.values())
    said = "kept" if is_kept(values, of_mean, of_each, sign) else "broken"
    return found | {"value": spread(values.values()), "worst": written(worst), "verdict": said}


def compare(arm, rival, measure, worth, scores):
    """
    What two arms have, and by how much they differ, as a dict. The rival "zero" has 0. A measure
    that a run lacks is not measured: who has none is not chosen by chance.
    """
    n_runs = sum(run.arm == arm for run in scores)
    ours = values_of(scores, arm, measure)
    theirs = dict.fromkeys(ours, 0.) if rival == "zero" else values_of(scores, rival, measure)
    both = sorted(set(ours) & set(theirs))
    found = {"arm": arm, "rival": rival, "measure": measure, "worth": worth, "seeds": len(both),
             "rival's": spread(theirs.values()), "value": spread(ours.values()),
             "difference": "", "verdict": "not measured"}
    if len(both) < n_runs:
        return found
    sign = sign_of(measure)
    gain, half = interval([sign * (ours[seed] - theirs[seed]) for seed in both])
    return found | {"difference": f"{sign * gain:+.4f} ± {half:.4f}", "gain": gain, "half": half,
                    "verdict": verdict(gain, half, worth, len(both))}


# ---------------------------------------------------------------------------------------------
# tables


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def title(measure):
    """How a measure is called: "toy-GenEval", "answered: position"."""
    benchmark, column = measure.split("/")
    return column if benchmark == "summary" else f"{benchmark}: {column}"


def claims(tests):
    """A line for each claim that a study with rivals tests, with what counts for it."""
    lines = []
    for name, (pairs, measures) in tests.items():
        claim, whose = CLAIMS[name]
        who = ", ".join(f"{arm} - {rival}" for arm, rival in pairs)
        what = ", ".join(title(measure) for measure in measures)
        lines.append(f"- **{claim}** ({whose}). What counts: {what}; of {who}.")
    return "\n".join(lines)


def promises(found):
    several = len({one["arm"] for one in found}) > 1
    rows = []
    for one in found:
        who = f"{one['arm']}, " if several else ""
        said = f"**{one['verdict']}**" if one["verdict"] == "broken" else one["verdict"]
        rows.append([who + title(one["measure"]), written(one["of mean"]), written(one["of each"]),
                     one["value"], one["worst"], said])
    return table(["", "promised: mean", "each seed", "mean", "worst seed", ""], rows)


def differences(arm, rival, found):
    rows = [[title(one["measure"]), one["rival's"], one["value"], str(one["seeds"]),
             one["difference"], written(one["worth"]), one["verdict"]] for one in found]
    return table(["", rival, arm, "pairs", "difference, 95 %", "worth having", "verdict"], rows)


def every_score(arms, scores):
    """A table a benchmark: for each arm the mean and the seeds, then the rows that all share."""
    columns_of = {}  # of a benchmark, as any run has them
    for of_run in scores.values():
        for benchmark, columns in of_run.items():
            columns_of.setdefault(benchmark, dict.fromkeys(columns)).update(columns)
    parts = []
    for benchmark, columns in columns_of.items():
        rows = []
        for arm in arms:
            values = [values_of(scores, arm, f"{benchmark}/{column}") for column in columns]
            rows.append([f"**{arm}**"] + [spread(of_column.values()) for of_column in values])
            for seed in sorted({run.seed for run in scores if run.arm == arm}):
                rows.append([f"seed {seed}"] + [written(of_column.get(seed))
                                                for of_column in values])
        first = next(iter(scores.values()))
        for row in ("chance", "oracle", "ceiling"):
            cells = [written(value_of(first, f"{benchmark}/{column}", row)) for column in columns]
            if any(cells):
                rows.append([row, *cells])
        parts.append(table([benchmark, *columns], rows))
    return "\n\n".join(parts)


def losses(arms, runs):
    """Validation losses at each evaluation: mean and standard deviation over seeds."""
    parts = []
    for arm in arms:
        histories = [read(run.folder / "interaction.json")["history"]
                     for run in runs if run.arm == arm]
        steps = [f"{measured['step']:,}" for measured in histories[0]]
        rows = []
        for task in histories[0][0]["val"]:
            by_run = [[measured["val"][task] for measured in history] for history in histories]
            rows.append([task] + [spread(values) for values in zip(*by_run, strict=True)])
        parts.append(table([arm, *steps], rows))
    return "\n\n".join(parts)


def curves(arms, runs):
    """What draw_curves() draws: [(title, the mean of an arm's runs)]."""
    panels = []
    for arm in arms:
        folders = [str(run.folder) for run in runs if run.arm == arm]
        panels.append((f"{arm}, {len(folders)} seeds", mean_run(folders)))
    return panels


def cosines(arms, runs):
    """What lab.conflict's draw() draws: {title: layers}, each cosine an arm's mean over seeds."""
    panels = {}
    for arm in arms:
        measured = [read(run.folder / "conflict.json")["moments"][BEGIN]
                    for run in runs if run.arm == arm]
        layers = []
        for of_runs in zip(*measured, strict=True):  # the same layer of each run
            layers.append({matrix: mean_cosine([of_layer[matrix]["cosine"] for of_layer in of_runs])
                           for matrix in MATRICES})
        panels[f"{arm}, {len(measured)} seeds"] = layers
    return panels


def mean_cosine(values):
    """With the ends of its interval over seeds; unknown if it is all noise in any of them."""
    if None in values:
        return {"cosine": None}
    middle, half = interval(values)
    return {"cosine": middle, "low": middle - half, "high": middle + half}


def how_made(command, runs):
    """The line on the command, seeds, revision and machine."""
    records = [read(run.record) for run in runs]
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))

    def all_of(name):
        return ", ".join(sorted({str(record[name]) for record in records}))

    days = sorted({record["begun"].split()[0] for record in records})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    minutes = sum(run.minutes() for run in runs)
    return (f"`{command}`: seeds {seeds}; revision {all_of('revision')}; {all_of('machine')}, "
            f"{all_of('jobs')} runs at a time; torch {all_of('torch')}; {when}; {minutes:.0f} "
            f"minutes of training, the {len(runs)} runs' together. After ± stands the standard "
            "deviation over seeds, but where it says 95 %.")


def rows_of_dots(study, scores):
    """What draw_dots() draws: [(label, {arm: values}, what is promised of the mean, or None)]."""
    rows = []
    promise = study.get("promise", {})
    for measure in [*promise, *study.get("measures", {})]:
        if "/layer " in measure:  # is in the picture of the cosines
            continue
        values = {arm: list(values_of(scores, arm, measure).values()) for arm in study["arms"]}
        if any(values.values()):
            rows.append((title(measure), values, promise.get(measure, (None,))[0]))
    return rows


def groups_of_intervals(study, found):
    """What draw_intervals() draws: [(heading, [(label, gain, half, verdict)])]."""
    groups = []
    for arm, rival in study.get("rivals", ()):
        rows = []
        for one in found:
            of_pair = (one["arm"], one.get("rival")) == (arm, rival)
            if of_pair and "gain" in one and "/layer " not in one["measure"]:
                worth = one["worth"]
                rows.append((title(one["measure"]), one["gain"] / worth, one["half"] / worth,
                             one["verdict"]))
        if rows:
            groups.append((f"{arm} - {rival}", rows))
    return groups
