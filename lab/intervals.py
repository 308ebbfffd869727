"""
lab/intervals.py: pictures of verdicts, drawn with Pillow: the 95 % interval of a difference as a
line, its mean as a dot. Of a study for each rival a row a measure; of many studies a grid, a row a
regime and a column a measure.

All share one axis, whose unit is each measure's smallest difference worth having: what lies within
the grey band is too small. The right is the side that is claimed.
"""
from math import ceil

from tools.curves import GRID, INK, Pen

HUES = {"reproduced": (34, 139, 84), "refuted": (120, 120, 126), "unclear": (217, 95, 2),
        "not worth having": (31, 98, 180)}
OPPOSITE = (200, 40, 60)  # see RULE in lab/report.py
BAND = (240, 240, 243)
FURTHEST = 12  # units; what reaches further ends in an arrow

# pixels
LABEL = 170    # the column of labels
WIDTH = 420    # of the axis
VERDICT = 130  # the column of verdicts
HEADING = 30   # the height of a rival's heading
ROW = 20
FOOTER = 42
COLUMN = 170   # a column of a grid
GAP = 24


def draw_intervals(groups, path):
    """
    Writes a PNG of groups [(heading, [(label, gain, half, verdict)])]: gain and half the width of
    its interval, in units of what is worth having.
    """
    reach = max(abs(gain) + half for _, rows in groups for _, gain, half, _ in rows)
    reach = ceil(min(max(2, reach), FURTHEST))  # of one seed alone it is infinite
    height = sum(HEADING + ROW * len(rows) for _, rows in groups)
    pen = Pen(LABEL + WIDTH + VERDICT, 8 + height + FOOTER)

    def x(units):
        return LABEL + (1 + units / reach) * WIDTH / 2

    band = [(x(-1), 8), (x(1), 8), (x(1), 8 + height), (x(-1), 8 + height)]
    pen.fill(band, BAND)
    pen.line((x(0), 8), (x(0), 8 + height), INK, 1)
    y = 8
    for heading, rows in groups:
        pen.write(10, y + HEADING - 12, heading, "lm", pen.title_font)
        y += HEADING
        for row in rows:
            draw_row(pen, y + ROW / 2, x, reach, row)
            y += ROW
    for units in (-reach, -1, 0, 1, reach):
        pen.write(x(units), y + 12, f"{units:+d}" if units else "0", "mm")
    pen.write(LABEL + WIDTH / 2, y + 30,
              "difference, in units of the smallest worth having; right: as claimed", "mm")
    pen.save(path)


def draw_grid(columns, rows, path, reach=8):
    """
    Writes a PNG of rows [(label, [(gain, half, verdict), or None])], a cell for each of the named
    columns; gain and half are as above. reach: of every axis, in units
    """
    height = ROW * len(rows)
    pen = Pen(LABEL + (COLUMN + GAP) * len(columns), HEADING + height + FOOTER)
    for j, (label, _) in enumerate(rows):
        pen.write(LABEL - 10, HEADING + ROW * (j + .5), label, "rm")
    for i, name in enumerate(columns):
        left = LABEL + (COLUMN + GAP) * i
        draw_column(pen, left, name, [cells[i] for _, cells in rows], reach)
    pen.write(LABEL + (COLUMN + GAP) * len(columns) / 2, HEADING + height + 30,
              "difference, in units of the smallest worth having; right: better", "mm")
    pen.save(path)


def draw_column(pen, left, name, cells, reach):
    """A column of a grid: its name, its band, an interval in each cell that has one, its axis."""
    bottom = HEADING + ROW * len(cells)

    def x(units):
        return left + (1 + units / reach) * COLUMN / 2

    pen.write(x(0), HEADING - 14, name, "mm", pen.title_font)
    pen.fill([(x(-1), HEADING), (x(1), HEADING), (x(1), bottom), (x(-1), bottom)], BAND)
    pen.line((x(0), HEADING), (x(0), bottom), INK, 1)
    for j, cell in enumerate(cells):
        y = HEADING + ROW * (j + .5)
        pen.line((left, y + ROW / 2), (left + COLUMN, y + ROW / 2), GRID, 1)
        if cell is not None:
            gain, half, verdict = cell
            draw_interval(pen, y, x, reach, gain, half, hue_of(gain, half, verdict))
    for units in (-reach, 0, reach):
        pen.write(x(units), bottom + 12, f"{units:+d}" if units else "0", "mm")


def draw_row(pen, y, x, reach, row):
    label, gain, half, verdict = row
    hue = hue_of(gain, half, verdict)
    pen.write(LABEL - 10, y, label, "rm")
    pen.line((LABEL, y + ROW / 2), (LABEL + WIDTH, y + ROW / 2), GRID, 1)
    draw_interval(pen, y, x, reach, gain, half, hue)
    pen.write(LABEL + WIDTH + 12, y, "the opposite" if hue == OPPOSITE else verdict, "lm")


def hue_of(gain, half, verdict):
    is_opposite = verdict == "refuted" and gain + half < 0
    return OPPOSITE if is_opposite else HUES[verdict]


def draw_interval(pen, y, x, reach, gain, half, hue):
    """x: where on the axis so many units are; what lies beyond its reach ends in an arrow"""
    low, high = [max(-reach, min(reach, end)) for end in (gain - half, gain + half)]
    pen.line((x(low), y), (x(high), y), hue, 2)
    if gain - half < -reach:
        draw_arrow(pen, x(-reach), y, -6, hue)
    if gain + half > reach:
        draw_arrow(pen, x(reach), y, 6, hue)
    if abs(gain) <= reach:
        r = 4
        pen.drawing.ellipse(pen.enlarge([(x(gain) - r, y - r), (x(gain) + r, y + r)]), hue)


def draw_arrow(pen, x, y, length, hue):
    """To the right, or if its length is below 0 to the left."""
    pen.fill([(x + length, y), (x, y - 4), (x, y + 4)], hue)
