"""
lab/dots.py: the picture of a study, a row a measure, a dot a run, drawn with Pillow.

A row is (label, {arm: [values]}, promised): promised is where a mark stands, or None. Each row has
its own axis, from the least of its numbers to the greatest, but at least a twentieth of that wide,
so that what hardly differs lies close.
"""
from tools.curves import GRID, INK, Pen

# of the arms, as many as a study may have
HUES = ((31, 98, 180), (217, 95, 2), (34, 139, 84), (150, 60, 160), (120, 120, 126),
        (200, 160, 20), (200, 40, 60), (60, 180, 190), (240, 130, 180), (120, 80, 40),
        (130, 190, 50), (25, 35, 110), (170, 140, 230), (20, 20, 24))

# pixels
LABEL = 210     # the column of labels
ROW = 34        # the height of a row with one arm
ARM = 14        # and of each more
WIDTH = 430     # of the axes
END = 64        # for the numbers at an axis' ends
LEGEND = 34


def draw_dots(rows, path):
    """Writes a PNG of rows, with a legend if there are several arms."""
    arms = list(rows[0][1])
    height = ROW + ARM * (len(arms) - 1)
    has_marks = any(row[2] is not None for row in rows)
    lines = [arms[i:i + 4] for i in range(0, len(arms), 4)] if len(arms) > 1 else []
    below = LEGEND * (len(lines) + has_marks) or 8
    end = 12 + height * len(rows)
    pen = Pen(LABEL + WIDTH + 2 * END + 12, end + below)
    for i, row in enumerate(rows):
        draw_row(pen, 12 + i * height, height, row)
    for i, line in enumerate(lines):
        draw_legend(pen, end + LEGEND * (i + .5), line, HUES[4 * i:])
    if has_marks:
        y = end + LEGEND * (len(lines) + .5)
        pen.line((LABEL + END, y - 8), (LABEL + END, y + 8), INK, 1)
        pen.write(LABEL + END + 10, y, "promised of the mean", "lm")
    pen.save(path)


def draw_row(pen, top, height, row):
    label, values, promised = row
    numbers = [value for of_arm in values.values() for value in of_arm]
    if promised is not None:
        numbers.append(promised)
    high = max(numbers)
    low = min(*numbers, high - abs(high) / 20)
    left = LABEL + END
    middle = top + height / 2

    def x(value):
        share = (value - low) / (high - low) if high > low else .5
        return left + share * WIDTH

    pen.write(LABEL - 10, middle, label, "rm")
    pen.write(left - 12, middle, short(low), "rm")
    pen.write(left + WIDTH + 12, middle, short(high), "lm")
    pen.line((left, middle), (left + WIDTH, middle), GRID, 1)
    if promised is not None:
        pen.line((x(promised), top + 5), (x(promised), top + height - 5), INK, 1)
    for i, of_arm in enumerate(values.values()):
        y = middle + (i - (len(values) - 1) / 2) * ARM
        for value in of_arm:
            draw_dot(pen, x(value), y, HUES[i])


def draw_dot(pen, x, y, color):
    """Half transparent, so that dots on one another are darker."""
    r = 5
    box = pen.enlarge([(x - r, y - r), (x + r, y + r)])
    pen.drawing.ellipse(box, (*color, 150))


def draw_legend(pen, y, arms, hues):
    """A line of it."""
    x = LABEL + END
    for arm, hue in zip(arms, hues):
        draw_dot(pen, x, y, hue)
        pen.write(x + 12, y, arm, "lm")
        x += pen.width_of(arm) + 40


def short(value):
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.3f}"
