"""
tools/curves.py: the picture of interaction curves, one panel a run, drawn with Pillow.

A run is the dict that train.py writes as interaction.json, and may have notes:

  history    [{"step": ..., "phase": 0 or 1, task: {"mean": [L], "std": [L]}, ...}, ...], a
             measurement each, of L layers
  reference  {task: {"curve": [L], ...}, ...}, or None
  notes      lines to be written above the panel
"""
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TASKS = ("generate", "understand")

INK = (40, 40, 46)
GRID = (226, 226, 230)
HUE = {"generate": (217, 95, 2), "understand": (31, 98, 180)}
FAINT = 110  # opacities, of 255
BAND = 36

# how a line goes between two layers: the shares of the way on which there is ink
SOLID = [(0, 1)]
DASHED = [(k / 12, (k + 1) / 12) for k in range(0, 12, 2)]

# (text, task, width, length of each of three dashes that lie 10 pixels apart)
LEGEND = [
    ("generate: picture to text", "generate", 3, 10),
    ("reference", None, 2, 5),
    ("understand: answer to picture", "understand", 3, 10),
    ("where its second phase began", None, 1, 10),
]

# pixels
HEADER = 46  # above a panel: its title, and room between
NOTE = 16    # a line of notes, above it too
PLOT = 234   # a panel's height
FOOTER = 50  # below it: the layers' numbers


def draw_curves(runs, path):
    """
    Writes a PNG of runs [(title, run)]. Per task: a solid line is the curve now, with a band of
    one standard deviation over samples (or over seeds, see aia.py), a thin one the curve where
    training began (or its second phase, if it has one), a dashed one the reference.
    """
    width = 400 if len(runs) < 5 else 250  # of a panel with its margins
    n_notes = max(len(run.get("notes", ())) for _, run in runs)
    top = HEADER + NOTE * n_notes
    legend = top + PLOT + FOOTER  # where it begins
    legend_height = 64 if len(runs) == 1 else 30  # below one run alone it takes more lines
    high = highest(runs)

    pen = Pen(width * len(runs), legend + legend_height)
    for i, (title, run) in enumerate(runs):
        left = i * width + 56
        panel = Panel(left, top, width - 76, n_layers(run), high)
        draw_axes(pen, panel)
        draw_titles(pen, panel, title, run.get("notes", ()))
        if i == 0:
            pen.write(8, top - 24, "interaction", "la")
        draw_run(pen, panel, run)
    draw_legend(pen, legend + 10)
    pen.save(path)


# ---------------------------------------------------------------------------------------------
# what is drawn


def begun(run):
    """The measurement where the second phase began, and AIA with it; without one, the first."""
    for measured in run["history"]:
        if measured["phase"] == 1:
            return measured
    return run["history"][0]


def reference_of(run):
    return run.get("reference") or {}


def n_layers(run):
    now = run["history"][-1]
    task = "generate" if "generate" in now else "understand"
    return len(now[task]["mean"])


def highest(runs):
    """Where the axis of all panels ends: the next tenth above everything that is drawn."""
    values = [.1]
    for _, run in runs:
        for measured in (begun(run), run["history"][-1]):
            for task in TASKS:
                if task in measured:
                    values += list(np.add(measured[task]["mean"], measured[task]["std"]))
        for task in TASKS:
            if task in reference_of(run):
                values += reference_of(run)[task]["curve"]
    return np.ceil(max(values) * 10) / 10


# ---------------------------------------------------------------------------------------------
# where it is drawn


class Pen:
    """
    Draws on a white page, with sizes and places in pixels. The page is twice as large until it is
    saved: Pillow's lines have no antialiasing, reducing them gives them some.
    """

    SCALE = 2

    def __init__(self, width, height):
        self.width = width
        self.height = height
        self.page = Image.new("RGB", (width * self.SCALE, height * self.SCALE), "white")
        self.drawing = ImageDraw.Draw(self.page, "RGBA")
        self.font = ImageFont.load_default(12 * self.SCALE)
        self.title_font = ImageFont.load_default(15 * self.SCALE)

    def enlarge(self, points):
        return [(x * self.SCALE, y * self.SCALE) for x, y in points]

    def line(self, start, end, color, width):
        self.drawing.line(self.enlarge([start, end]), color, width * self.SCALE)

    def fill(self, corners, color):
        self.drawing.polygon(self.enlarge(corners), color)

    def write(self, x, y, text, anchor, font=None):
        """anchor: which point of the text is at (x, y); see Pillow's documentation"""
        place = (x * self.SCALE, y * self.SCALE)
        # spacing: lines of notes are NOTE pixels apart
        self.drawing.text(place, text, INK, font or self.font, anchor, spacing=8, align="center")

    def width_of(self, text):
        return int(self.drawing.textlength(text, self.font)) / self.SCALE

    def save(self, path):
        page = self.page.resize((self.width, self.height), Image.LANCZOS)
        page.save(path)


@dataclass
class Panel:
    """The part of the page where a run's curves go, and its axes: layers and interaction."""
    left: int
    top: int
    width: int
    n_layer: int
    high: float

    def x(self, layer):
        return self.left + self.width * layer / max(self.n_layer - 1, 1)

    def y(self, value):
        return self.top + PLOT - PLOT * min(value, self.high) / self.high

    def points(self, values):
        """values: a number a layer"""
        return [(self.x(layer), self.y(value)) for layer, value in enumerate(values)]

    def middle(self):
        return self.x((self.n_layer - 1) / 2)


# ---------------------------------------------------------------------------------------------
# drawing it


def draw_axes(pen, panel):
    left = panel.x(0)
    right = panel.x(panel.n_layer - 1)
    below = panel.y(0)
    apart = .1 if panel.high <= .6 else .2
    for value in np.arange(0, panel.high + .01, apart):
        y = panel.y(value)
        pen.line((left, y), (right, y), GRID, 1)
        pen.write(left - 10, y, f"{value:.1f}", "rm")
    for layer in range(0, panel.n_layer, max(1, panel.n_layer // 8)):
        pen.write(panel.x(layer), below + 6, str(layer), "ma")
    pen.write(panel.middle(), below + 23, "layer", "ma")


def draw_titles(pen, panel, title, notes):
    pen.write(panel.middle(), 10, title, "ma", pen.title_font)
    pen.write(panel.middle(), 30, "\n".join(notes), "ma")


def draw_run(pen, panel, run):
    first = begun(run)
    now = run["history"][-1]
    reference = reference_of(run)
    for task in TASKS:
        color = HUE[task]
        if task in now:
            mean = np.array(now[task]["mean"])
            std = np.array(now[task]["std"])
            draw_band(pen, panel, mean - std, mean + std, (*color, BAND))
            draw_line(pen, panel, first[task]["mean"], (*color, FAINT), 1)
            draw_line(pen, panel, mean, color, 3)
        if task in reference:
            draw_line(pen, panel, reference[task]["curve"], color, 2, DASHED)


def draw_band(pen, panel, low, high, color):
    above = panel.points(high)
    below = panel.points(np.maximum(low, 0))
    pen.fill(above + below[::-1], color)


def draw_line(pen, panel, values, color, width, stretches=SOLID):
    for a, b in pairwise(panel.points(values)):
        for begin, end in stretches:
            pen.line(between(a, b, begin), between(a, b, end), color, width)


def between(a, b, share):
    """The point that is a share of the way from point a to point b."""
    x = a[0] + (b[0] - a[0]) * share
    y = a[1] + (b[1] - a[1]) * share
    return x, y


def draw_legend(pen, y):
    x = 20
    for text, task, width, length in LEGEND:
        color = HUE[task] if task else INK
        taken = pen.width_of(text) + 56
        if x + taken > pen.width:  # a new line
            x = 20
            y += 18
        for dash in (x, x + 10, x + 20):
            pen.line((dash, y), (dash + length, y), color, width)
        pen.write(x + 36, y, text, "lm")
        x += taken
