"""
toy/world.py: the toy world. A scene is one to four coloured shapes on a plain ground.

Here scenes are made up (make_scenes), drawn (render) and looked at for who stands left of whom
(relations). toy/words.py puts them into words, toy/judge.py reads them back from pictures.
This file stands at the bottom of toy/ and imports nothing of ours.

All lengths of a scene are in 48ths of the canvas; only shape_mask(), render() and the judge know
how many pixels the canvas has.
"""
import functools
import math
from collections import namedtuple

import numpy as np
from PIL import Image, ImageDraw

# Pixels a side, by the size of the network. There are always 6 x 6 patches, so 36 image tokens.
CANVAS = {"nano": 48, "small": 72, "base": 72}
PATCHES = 6  # a side

GROUND = (236, 236, 230)
PALE = 18  # of a pale shade each of red, green and blue is so much more or less
COLORS = {
    "red": (214, 39, 40),
    "blue": (38, 84, 214),
    "green": (36, 158, 62),
    "yellow": (247, 208, 30),
    "purple": (126, 46, 172),
    "orange": (255, 127, 14),
    "pink": (250, 100, 178),
    "black": (24, 24, 28),
}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = {"small": 4, "large": 7}  # radius

# Centres are corners of patches, so that an object is four patches wherever it stands, and no two
# objects share one. There are few kinds of patches, and each means much.
STEP = 48 // PATCHES
GAP = 2  # objects are at least this far apart, across or down

# POPE asks for absent objects that are random, frequent, or often seen with a present one. The
# three differ only in a world with habits: colours and shapes are unequally frequent, and each
# likes to be followed by a companion.
P_COUNT = (.15, .50, .20, .15)  # of one, two, three, four objects
P_COLOR = (.21, .18, .15, .13, .11, .09, .07, .06)
P_SHAPE = (.34, .28, .22, .16)
P_COMPANION = .3
P_SAME_SHAPE = (0, .1, .5, .5)  # scenes of one shape only: captions that count need them

# Pairs that are shown in training, but never named (see toy/words.py). A network that has learned
# what either word means, rather than to remember pairs, can draw them all the same when asked.
HELD_OUT = (
    ("red", "cross"),
    ("blue", "triangle"),
    ("green", "square"),
    ("yellow", "circle"),
    ("black", "triangle"),
)

Object = namedtuple("Object", "shape color size x y")  # x, y: the centre, from the top left


# -------------------------------------------------------------------------------------------------
# scenes are made up

def make_scenes(n, seed, held_out=False):
    """
    n scenes, each a list of 1 to 4 Objects in reading order. The same seed gives the same scenes.

    seed      whatever np.random.default_rng() takes: a number, or several
    held_out  False: no object is a held-out pair. True: the first one drawn always is, and the
              others may be

    All scenes are drawn side by side, as arrays with four places a scene. Where a scene has fewer
    objects, its last places are drawn too, and not used.
    """
    rng = np.random.default_rng(seed)
    count = rng.choice(4, n, p=P_COUNT) + 1                  # (n,)
    exists = np.arange(4) < count[:, None]                   # (n, 4): which places are used
    shape, color = draw_shapes_and_colors(count, rng, held_out)  # (n, 4) each
    size, center = place_objects(exists, rng)                # (n, 4) and (n, 4, 2)

    # from numbers to names
    shape = np.array(SHAPES)[shape].tolist()
    color = np.array(list(COLORS))[color].tolist()
    size = np.array(list(SIZES))[size].tolist()
    center = center.tolist()
    scenes = []
    for i in range(n):
        scene = []
        for k in range(count[i]):
            x, y = center[i][k]
            scene.append(Object(shape[i][k], color[i][k], size[i][k], x, y))
        scenes.append(in_order(scene))
    return scenes


def draw_shapes_and_colors(count, rng, held_out):
    """
    For scenes of count (n,) objects two arrays (n, 4): the objects' shapes as places in SHAPES,
    their colours in COLORS.
    """
    n = len(count)
    is_held_out = np.zeros((len(COLORS), len(SHAPES)), bool)
    for color_name, shape_name in HELD_OUT:
        is_held_out[list(COLORS).index(color_name), SHAPES.index(shape_name)] = True

    shape = np.zeros((n, 4), int)
    color = np.zeros((n, 4), int)
    one_shape_only = rng.random(n) < np.array(P_SAME_SHAPE)[count - 1]
    for k in range(4):
        wanted = np.ones(n, bool)  # the scenes whose k-th object is still to be drawn
        while wanted.any():
            new_shape = rng.choice(len(SHAPES), n, p=P_SHAPE)
            new_color = rng.choice(len(COLORS), n, p=P_COLOR)
            if k > 0:
                new_shape = invite_companion(new_shape, shape[:, k - 1], 1, len(SHAPES), rng)
                new_color = invite_companion(new_color, color[:, k - 1], 3, len(COLORS), rng)
                new_shape = np.where(one_shape_only, shape[:, 0], new_shape)
            elif held_out:
                pairs = np.argwhere(is_held_out)             # (5, 2)
                pairs = pairs[rng.integers(len(pairs), size=n)]
                new_color = pairs[:, 0]
                new_shape = pairs[:, 1]
            shape[wanted, k] = new_shape[wanted]
            color[wanted, k] = new_color[wanted]
            if held_out:
                break  # any pair will do
            wanted &= is_held_out[color[:, k], shape[:, k]]
    return shape, color


def invite_companion(new, before, step, n_kinds, rng):
    """Now and then the companion of the object before takes the place of what was drawn. (n,)"""
    companion = (before + step) % n_kinds
    return np.where(rng.random(len(new)) < P_COMPANION, companion, new)


def place_objects(exists, rng):
    """
    Sizes (n, 4), as places in SIZES, and centres (n, 4, 2), for the objects that exist (n, 4).

    Both are drawn anew until nothing overlaps.
    """
    radii = np.array(list(SIZES.values()))
    size = np.zeros(exists.shape, int)
    center = np.zeros((*exists.shape, 2), int)
    waiting = np.arange(len(exists))  # the scenes, by number, that have not come out well yet
    while len(waiting) > 0:
        new_size = rng.integers(len(radii), size=(len(waiting), 4))
        radius = radii[new_size]                             # (m, 4)
        first = -(-radius // STEP)                           # the outermost places, in steps,
        last = (48 - radius) // STEP                         # that keep an object on the canvas
        shape = (len(waiting), 4, 2)
        steps = rng.integers(first[..., None], last[..., None], size=shape, endpoint=True)
        new_center = STEP * steps

        fits = ~crowded(new_center, radius, exists[waiting])
        done = waiting[fits]
        size[done] = new_size[fits]
        center[done] = new_center[fits]
        waiting = waiting[~fits]
    return size, center


def crowded(center, radius, exists):
    """(m,) bool: in which of m scenes two of the objects that exist are nearer than GAP."""
    apart = np.abs(center[:, :, None] - center[:, None])     # (m, 4, 4, 2): across and down
    gap = apart.max(-1) - radius[:, :, None] - radius[:, None]
    both_exist = exists[:, :, None] & exists[:, None]
    different = ~np.eye(4, dtype=bool)
    too_near = (gap < GAP) & both_exist & different          # (m, 4, 4)
    return too_near.any((1, 2))


def in_order(scene):
    """Reading order: from the top, and side by side from left to right."""
    # rounded, as the judge may see an object a pixel off its row
    return sorted(scene, key=lambda o: (round(o.y / STEP), o.x))


# -------------------------------------------------------------------------------------------------
# scenes are drawn

@functools.cache
def shape_mask(shape, size, canvas):
    """
    The antialiased mask of a shape, a square Pillow picture of mode "L" with the shape's centre in
    its middle (19 pixels a side on a canvas of 48). It is drawn 8 times as large, then reduced.
    """
    half = 9 * canvas // 48
    side = 8 * (2 * half + 1)
    big = Image.new("L", (side, side))
    draw = ImageDraw.Draw(big)
    m = side // 2                             # the middle
    r = SIZES[size] * canvas / 48 * 8         # the radius
    if shape == "circle":
        draw.ellipse((m - r, m - r, m + r, m + r), fill=255)
    elif shape == "square":
        r = r * .95
        draw.rectangle((m - r, m - r, m + r, m + r), fill=255)
    elif shape == "triangle":
        draw.polygon([(m, m - r), (m + r, m + r * .8), (m - r, m + r * .8)], fill=255)
    elif shape == "cross":
        thick = r * .36
        draw.rectangle((m - r, m - thick, m + r, m + thick), fill=255)
        draw.rectangle((m - thick, m - r, m + thick, m + r), fill=255)
    return big.reduce(8)


def render(scene, canvas=48):
    """A scene as a Pillow picture of canvas x canvas pixels."""
    picture = Image.new("RGB", (canvas, canvas), GROUND)
    for o in scene:
        mask = shape_mask(o.shape, o.size, canvas)
        left = round(o.x * canvas / 48) - mask.width // 2
        top = round(o.y * canvas / 48) - mask.width // 2
        picture.paste(COLORS[o.color], (left, top), mask)
    return picture


def render_all(scenes, canvas=48, speckle=None):
    """Scenes as pictures (N, canvas, canvas, 3) uint8. speckle: a seed, see speckled(); or None"""
    pictures = np.stack([np.asarray(render(scene, canvas)) for scene in scenes])
    return pictures if speckle is None else speckled(pictures, np.random.default_rng(speckle))


def speckled(pictures, rng):
    """
    The same pictures, but each patch that is all ground has one of eight pale shades, at random: so
    a picture has much in it that nobody can foretell. To the judge the shades are ground.
    """
    n, canvas = pictures.shape[:2]
    side = canvas // PATCHES
    patches = pictures.reshape(n, PATCHES, side, PATCHES, side, 3)
    is_ground = (patches == GROUND).all((2, 4, 5), keepdims=True)  # (n, 6, 1, 6, 1, 1)
    shade = PALE * rng.choice((-1, 1), (n, PATCHES, 1, PATCHES, 1, 3))
    shaded = np.where(is_ground, patches + shade, patches)
    return shaded.astype(np.uint8).reshape(pictures.shape)


# -------------------------------------------------------------------------------------------------
# scenes are looked at

def relations(a, b):
    """
    Where a is, seen from b: a set of none, one or two of "left of", "right of", "above", "below".

    GenEval's rule (Ghosh et al. 2023, arXiv 2310.11513): the offset of the centres, less a tenth
    of the two objects' extents together, divided by its length, must be over a half.
    """
    right = a.x - b.x
    down = a.y - b.y
    slack = .1 * 2 * (SIZES[a.size] + SIZES[b.size])
    distance = max(math.hypot(right, down), 1e-9)
    beside = max(abs(right) - slack, 0) / distance > .5
    over = max(abs(down) - slack, 0) / distance > .5

    sides = set()
    if beside:
        sides.add("right of" if right > 0 else "left of")
    if over:
        sides.add("below" if down > 0 else "above")
    return sides
