"""
exam/marks.py: from what was drawn and answered to marks, and from marks to the printed table.
Read it after rules.py.

Marks stand in columns (a tag of GenEval, a split of POPE, ...), and a column has four rows:

  run       the network
  chance    what guessing would get
  oracle    the judge on true pictures
  ceiling   the judge on pictures that went through the image tokenizer and back

A row of marks is an array (1 + resamples,): the mark, then what it is on each bootstrap resample
of the prompts or pictures (Efron 1979). Only the run has resamples.
"""
from collections import Counter
from itertools import zip_longest

import numpy as np

from exam.questions import EXTRA, GENEVAL, POPE
from exam.rules import check, mme_points, mme_says, pope_rates, pope_says, truth

COIN_TOSSES = 100  # for each question, so that a coin's luck does not show in the row "chance"
MISTAKES = 16      # shown, of drawing and of answers each

# ---------------------------------------------------------------------------------------------
# marks with an interval


def shares(rows, n=1000):
    """
    Marks that are a share of something. rows {row: (numerators, denominators)}, each (units,), or
    one denominator for all; units are what is resampled. Gives {row: sum of numerators / sum of
    denominators}, for the run also that of n bootstrap resamples.
    """
    marks = {}
    for row, (numerators, denominators) in rows.items():
        numerators, denominators = np.broadcast_arrays(numerators, denominators)
        units = len(numerators)
        chosen = np.arange(units)[None]                        # (1, units): each one once
        if row == "run":
            resamples = np.random.default_rng(0).integers(units, size=(n, units))
            chosen = np.vstack([chosen, resamples])            # (1 + n, units)
        above = numerators[chosen].sum(1)
        below = denominators[chosen].sum(1)
        marks[row] = above / np.maximum(below, 1e-9)           # POPE's may be 0
    return marks


def average(columns):
    """Columns of marks -> the column of their means."""
    return {row: np.mean([column[row] for column in columns], 0) for row in columns[0]}


def total(columns):
    """Columns of marks -> the column of their sums."""
    return {row: np.sum([column[row] for column in columns], 0) for row in columns[0]}


def as_numbers(columns):
    """Columns of marks as they are saved: {column: {row: number}}, with the ends of the run's 95 %
    interval as rows "low" and "high"."""
    out = {}
    for name, column in columns.items():
        numbers = {row: float(marks[0]) for row, marks in column.items()}
        low, high = np.quantile(column["run"][1:], (.025, .975))
        numbers["low"] = float(low)
        numbers["high"] = float(high)
        out[name] = numbers
    return out


# ---------------------------------------------------------------------------------------------
# drawing


def check_all(prompts, scenes):
    """
    GenEval's rule for many pictures: [(whether right, the reasons if not)]. prompts as from
    geneval_prompts(); scenes, what the judge saw: as many for each prompt, one prompt's together.
    """
    scenes_a_prompt = len(scenes) // len(prompts)
    verdicts = []
    for i, scene in enumerate(scenes):
        record, _ = prompts[i // scenes_a_prompt]
        verdicts.append(check(record, scene))
    return verdicts


def mark_drawings(prompts, verdicts):
    """verdicts {row: as from check_all()} -> {tag: column}. Of a prompt its share of right
    pictures counts, and prompts are what is resampled."""
    right = {}
    for row, given in verdicts.items():
        flags = np.array([is_right for is_right, _ in given])
        right[row] = flags.reshape(len(prompts), -1).mean(1)   # (prompts,)

    tag_of = np.array([record["tag"] for record, _ in prompts])
    columns = {}
    for tag in (*GENEVAL, *EXTRA):
        columns[tag] = shares({row: (share[tag_of == tag], 1) for row, share in right.items()})
    return columns


def sum_up_drawings(columns):
    """GenEval's six tags weigh the same, whatever their number of prompts."""
    return {"toy-GenEval": average([columns[tag] for tag in GENEVAL])}


def wrong_drawings(prompts, pictures, verdicts):
    """{tag: [(picture, what was wanted and what is wrong)]}: of a prompt the first wrong one."""
    pictures_a_prompt = len(pictures) // len(prompts)
    wrong = {tag: [] for tag in (*GENEVAL, *EXTRA)}
    for i, (record, _) in enumerate(prompts):
        first = i * pictures_a_prompt
        for n in range(first, first + pictures_a_prompt):
            is_right, reasons = verdicts[n]
            if not is_right:
                wrong[record["tag"]].append((pictures[n], f"{record['prompt']}: {reasons}"))
                break
    return wrong


# ---------------------------------------------------------------------------------------------
# answers


def read_answers(scenes, asked):
    """What is answered from scenes, as the judge saw them; "" where the scene does not tell."""
    return [truth(scenes[question.scene], question.text) or "" for question in asked]


def hear(name, texts):
    """Answers as the parser of their benchmark hears them, (texts,). The rest word for word."""
    if name == "toy-POPE":
        texts = [pope_says(text) for text in texts]
    elif name == "toy-MME":
        texts = [mme_says(text) for text in texts]
    return np.array(texts)


def mark_answers(asked, said, places):
    """
    asked and places as from gather(), said {row: [text]} one for each Question -> {benchmark:
    {group: column}}, but of POPE {"toy-POPE split": {number: column}}.
    """
    # one coin for each question, whatever benchmark it belongs to
    tossed = np.random.default_rng(0).random((COIN_TOSSES, len(asked))) < .5
    columns = {"answered": {}, "toy-MME": {}, "toy-MMVP": {}}
    for (name, group), place in places.items():
        right = np.array([question.answer for question in asked[place]])
        given = {row: hear(name, texts[place]) for row, texts in said.items()}
        coins = tossed[:, place].ravel()
        if name == "toy-POPE":
            columns[f"toy-POPE {group}"] = mark_pope(given, right, coins)
        elif name == "toy-MME":
            columns[name][group] = mark_mme(given, right, coins)
        elif name == "toy-MMVP":
            columns[name][group] = mark_mmvp(given, right, coins)
        else:
            columns[name][group] = mark_kind(given, right)
    return columns


def mark_kind(given, right):
    """Word for word. Chance always gives the commonest answer to this kind of question."""
    correct = {row: answers == right for row, answers in given.items()}
    commonest, _ = Counter(right.tolist()).most_common(1)[0]
    correct["chance"] = right == commonest
    return shares({row: (flags, 1) for row, flags in correct.items()})


def mark_pope(given, right, coins):
    """POPE's numbers, {number: column}. Six questions a picture; chance says what the coin says."""
    label = (right == "yes").reshape(-1, 6)                    # (pictures, 6)
    rates = {}
    for row, answers in given.items():
        rates[row] = pope_rates((answers == "yes").reshape(-1, 6), label)
    rates["chance"] = pope_rates(coins.reshape(-1, 6), np.tile(label, (COIN_TOSSES, 1)))
    columns = {}
    for number in rates["run"]:
        columns[number] = shares({row: rate[number] for row, rate in rates.items()})
    return columns


def mark_mme(given, right, coins):
    """MME's points. Two questions a picture; chance is right if the coin says so."""
    correct = {row: answers == right for row, answers in given.items()}
    correct["chance"] = coins
    points = {row: mme_points(flags.reshape(-1, 2)) for row, flags in correct.items()}
    return shares({row: (of_picture, 1) for row, of_picture in points.items()})


def mark_mmvp(given, right, coins):
    """A pair counts if both of its answers are right; chance is right if the coin says so."""
    correct = {row: answers == right for row, answers in given.items()}
    correct["chance"] = coins
    both = {row: flags.reshape(-1, 2).all(1) for row, flags in correct.items()}
    return shares({row: (of_pair, 1) for row, of_pair in both.items()})


def sum_up_answers(columns):
    """A number a benchmark: POPE's mean F1, the sum of MME's points, means of the others."""
    f1 = [columns[f"toy-POPE {split}"]["F1"] for split in POPE]
    return {
        "toy-POPE F1": average(f1),
        "toy-MME": total(list(columns["toy-MME"].values())),
        "toy-MMVP": average(list(columns["toy-MMVP"].values())),
        "answered": average(list(columns["answered"].values())),
    }


def wrong_answers(asked, said, places, pictures):
    """{(set, group): [(picture, the question, what was said, what is right)]}, of the run."""
    wrong = {}
    for (name, group), place in places.items():
        mistakes = []
        for question, text, answer in zip(asked[place], said[place], hear(name, said[place])):
            if answer != question.answer:
                line = f"{question.text} said: {text}; right: {question.answer}"
                mistakes.append((pictures[question.scene], line))
        wrong[name, group] = mistakes
    return wrong


def by_turns(groups):
    """The first mistakes to show, from each group of mistakes by turns."""
    shown = []
    for turn in zip_longest(*groups.values()):
        shown += [mistake for mistake in turn if mistake is not None]
    return shown[:MISTAKES]


# ---------------------------------------------------------------------------------------------
# the table

ROWS = {
    "run": "this run",
    "half": "  95 % interval ±",
    "chance": "chance",
    "first": "at step 0",
    "oracle": "oracle",
    "ceiling": "tokenizer ceiling",
}


def table(scores):
    """
    Scores {benchmark: {column: {row: number}}} as text, a table a benchmark. Under the run stands
    half the width of its interval. A row that no column has is left out.
    """
    tables = []
    for name, columns in scores.items():
        heads = [shorten(column) for column in columns]
        widths = [max(len(head), 8) + 2 for head in heads]
        lines = [as_line(name, heads, widths)]
        for row, label in ROWS.items():
            cells = [as_cell(row, column) for column in columns.values()]
            if any(cell != "-" for cell in cells):
                lines.append(as_line(label, cells, widths))
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def shorten(column):
    """MMVP's patterns are known by their first word."""
    if "&" in column or " of " in column:
        return column.split()[0]
    return column


def as_cell(row, column):
    """A column of points has one digit after the point, of shares or losses three."""
    number = column.get(row)
    if row == "half" and "low" in column:
        number = (column["high"] - column["low"]) / 2
    if number is None:
        return "-"
    return f"{number:.1f}" if max(column.values()) >= 10 else f"{number:.3f}"


def as_line(label, cells, widths):
    line = f"{label:20}"
    for cell, width in zip(cells, widths):
        line += f"{cell:>{width}}"
    return line
