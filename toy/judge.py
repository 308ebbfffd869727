"""
toy/judge.py: the judge reads a picture back into a scene, by exact rules and without a network.

It is the toy counterpart of GenEval's object detector: what a network has drawn is judged by it.
Its own score on true pictures and on reconstructed ones says how far its verdict can be trusted.
Stands on toy/world.py.
"""
import functools

import numpy as np
import torch
import torch.nn.functional as F

from toy.world import COLORS, GROUND, SHAPES, SIZES, Object, in_order, shape_mask

COLOR_NAMES = list(COLORS)
GROUND_COLOR = torch.tensor(GROUND).float()                               # (3,)
AXES = torch.tensor(list(COLORS.values())) - GROUND_COLOR                 # (8, 3): ground to colour

DIFFERS = 60   # how far (of RGB, 0 .. 255) from the ground a pixel must be to belong to an object
SPECK = .005   # a share of the canvas: what is smaller (a fifth of a small square) does not count
BIG = .055     # a share of the canvas: a blob that is larger counts as large
MATCH = .7     # how well an object must match a template


def judge(pictures):
    """
    Pictures back to scenes: (N, S, S, 3) uint8 -> N lists of Objects, in reading order.

    object   connected pixels that differ from the ground
    colour   the palette's nearest to the median of those of its pixels that differ most
    shape    the template (a shape in a size) that it matches best; Object("blob", ...) if none
    place    the centre of that template
    """
    return [read_scene(picture) for picture in pictures]


@torch.no_grad()
def read_scene(picture):
    """One picture (S, S, 3) uint8 -> a list of Objects."""
    canvas = picture.shape[0]
    offset = torch.from_numpy(picture.astype(np.float32)) - GROUND_COLOR  # (S, S, 3)
    distance = offset.norm(dim=-1)                                        # (S, S)
    label = connected_components(distance > DIFFERS)
    scene = []
    for number in label.unique().tolist():
        own = label == number                                             # (S, S) bool
        if number == 0 or own.sum() < SPECK * canvas * canvas:
            continue
        scene.append(read_object(own, offset, distance))
    return in_order(scene)


def connected_components(mask):
    """
    (S, S) bool -> (S, S) labels: 0 outside the mask, else one number for all pixels that hang
    together, corners included. Every pixel starts with a label of its own and takes the largest
    of its neighbourhood, until nothing changes.
    """
    mask = mask.float()
    label = mask * torch.arange(1, mask.numel() + 1).view(mask.shape)
    while True:
        grown = spread(label) * mask
        if torch.equal(grown, label):
            return label
        label = grown


def spread(x):
    """(S, S): every pixel becomes the largest of itself and its eight neighbours."""
    return F.max_pool2d(x[None], kernel_size=3, stride=1, padding=1)[0]


def read_object(own, offset, distance):
    """
    The Object that a connected component is.

    own       (S, S) bool: its pixels
    offset    (S, S, 3): from the ground's colour to the picture's
    distance  (S, S): the length of that
    """
    canvas = own.shape[0]
    rows, columns = torch.nonzero(own, as_tuple=True)
    x = int(columns.min() + columns.max() + 1) // 2                       # the middle of its box
    y = int(rows.min() + rows.max() + 1) // 2

    # the colour, by the half that differs most: edges are mixed with the ground and differ less
    core = offset[own][distance[own] >= distance[own].median()]           # (n, 3)
    typical = core.median(0).values
    color = int((AXES - typical).norm(dim=-1).argmin())

    # how far each pixel, the object's faint rim included, has gone from the ground to that colour
    axis = AXES[color]
    coverage = (offset @ axis / (axis @ axis)).clamp(0, 1)                # (S, S)
    half = templates(canvas)[0].size(1) // 2
    with_rim = spread(crop(own.float(), x, y, half))
    coverage = crop(coverage, x, y, half) * with_rim                      # (w, w)

    found, score = best_template(coverage, canvas)
    shape, size, dx, dy = found
    if score < MATCH:
        shape = "blob"
        size = "large" if len(rows) > BIG * canvas * canvas else "small"
        dx = dy = 0
    x = round((x + dx) * 48 / canvas)
    y = round((y + dy) * 48 / canvas)
    return Object(shape, COLOR_NAMES[color], size, x, y)


def crop(image, x, y, half):
    """(S, S) -> (2 half + 1, 2 half + 1) around (x, y); beyond the edges there are zeros."""
    image = F.pad(image, (half, half, half, half))
    return image[y:y + 2 * half + 1, x:x + 2 * half + 1]


def best_template(coverage, canvas):
    """
    The template that overlaps a coverage (w, w) best, by soft intersection over union: (shape,
    size, dx, dy), and how well it does so, 0 .. 1.
    """
    masks, names = templates(canvas)
    both = torch.minimum(coverage, masks).sum((1, 2))                     # (72,)
    either = coverage.sum() + masks.sum((1, 2)) - both
    score, best = (both / either).max(0)
    return names[best], score


@functools.cache
def templates(canvas):
    """
    Every shape and size, also up to one pixel off the centre: 72 in all.

    Returns masks (72, w, w) in 0 .. 1, and [(shape, size, dx, dy)], what each of them is.
    """
    masks = []
    names = []
    for shape in SHAPES:
        for size in SIZES:
            mask = np.array(shape_mask(shape, size, canvas)) / 255
            mask = torch.from_numpy(mask).float()
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    masks.append(F.pad(mask, (1 + dx, 1 - dx, 1 + dy, 1 - dy)))
                    names.append((shape, size, dx, dy))
    return torch.stack(masks), names


def same_scene(a, b):
    """Whether two scenes are equal: as many objects, and each of a found in b."""
    if len(a) != len(b):
        return False
    return all(any(same_object(o, p) for p in b) for o in a)


def same_object(o, p):
    """Alike, and in one place but for one pixel (objects of one scene are further apart)."""
    alike = (o.shape, o.color, o.size) == (p.shape, p.color, p.size)
    return alike and abs(o.x - p.x) <= 1 and abs(o.y - p.y) <= 1
