"""
toy/words.py: what can be said and asked about a scene: captions, and questions with their answers.

The captions are of GenEval's six kinds and one of our own; the questions are those that POPE, MME
and MMVP need, and "describe the picture.", whose answer names everything: a dense answer is what
makes a small network learn to bind colours to shapes. Stands on toy/world.py.
"""
import re
from collections import Counter
from itertools import combinations

from toy.world import COLORS, HELD_OUT, SHAPES, relations

# kinds of captions: GenEval's six tags, and one of our own
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr", "dense")
# kinds of questions
KINDS = ("existence", "count", "color", "shape", "place", "position", "describe")
NUMBERS = ("zero", "one", "two", "three", "four")
WORDINGS = ("a photo of {}", "a picture of {}", "draw {}", "{}")


# -------------------------------------------------------------------------------------------------
# words

def an(*words):
    """The words after "a" or "an"."""
    phrase = " ".join(words)
    article = "an" if phrase[0] in "aeiou" else "a"
    return f"{article} {phrase}"


def plural(shape):
    ending = "es" if shape.endswith("s") else "s"
    return shape + ending


def dense(scene):
    """Everything in the scene, in reading order: "small red circle, large blue cross"."""
    return ", ".join(f"{o.size} {o.color} {o.shape}" for o in scene)


def told(scene):
    """Everything in the scene, and where: "small red circle top left, large blue cross middle"."""
    return ", ".join(f"{o.size} {o.color} {o.shape} {place_of(o)}" for o in scene)


# -------------------------------------------------------------------------------------------------
# chance

def toss(rng):
    """Heads or tails."""
    return rng.random() < .5


def pick(rng, items):
    return items[rng.integers(len(items))]


# -------------------------------------------------------------------------------------------------
# captions

def caption(scene, rng, tag=None):
    """
    A true caption of the scene that mentions every object, as a GenEval record:

      tag      one of TAGS; one that fits the scene is drawn if none is given
      include  what the picture must have: [{"class", "count", maybe "color", "size", "position"}]
      exclude  what it must not have: as many of these, or more
      prompt   the caption

    None if the given tag does not fit the scene.
    """
    fitting = fitting_tags(scene)
    if tag is None:
        tag = draw_tag(fitting, rng)
    elif tag != "dense" and tag not in fitting:
        return None

    if tag == "dense":
        include, exclude, text = list_objects(scene)
    elif tag == "counting":
        include, exclude, text = count_objects(scene)
    elif tag == "position":
        include, exclude, text = relate_objects(scene, rng)
    else:
        include, exclude, text = name_objects(scene, with_color=tag.startswith("color"))
    wording = "{}" if tag == "dense" else pick(rng, WORDINGS)
    return {"tag": tag, "include": include, "exclude": exclude, "prompt": wording.format(text)}


def fitting_tags(scene):
    """
    The tags, but for dense, of captions that mention every object. The hard ones stand often, and
    color_attr most often, as silent_caption() refuses many of its captions.
    """
    if len(scene) == 1:
        return ["single_object", "colors"]
    if len({o.shape for o in scene}) == 1:
        return ["counting"]
    if len(scene) > 2:
        return []
    one, two = scene
    fitting = ["two_object"]
    if relations(one, two):
        fitting += ["position"] * 3
    if one.color != two.color:
        fitting += ["color_attr"] * 10
    return fitting


def draw_tag(fitting, rng):
    """A tenth of the captions are dense, and all those of scenes that no other tag fits."""
    if not fitting:
        return "dense"
    if rng.random() < .1:
        return "dense"
    return pick(rng, fitting)


def name_objects(scene, with_color):
    """
    Each object by its shape, or by its colour and shape, in reading order. (In any order a picture
    could begin with either, and the first token be of a red circle or of a blue square, but of no
    red square. No sum of what each digit of a token weighs says that, so it is hard to learn.)
    Returns include, exclude, text.
    """
    include = []
    names = []
    for o in scene:
        if with_color:
            include.append({"class": o.shape, "count": 1, "color": o.color})
            names.append(an(o.color, o.shape))
        else:
            include.append({"class": o.shape, "count": 1})
            names.append(an(o.shape))
    return include, [], " and ".join(names)


def count_objects(scene):
    """How many there are of the scene's only shape. Returns include, exclude, text."""
    n = len(scene)
    shape = scene[0].shape
    include = [{"class": shape, "count": n}]
    exclude = [{"class": shape, "count": n + 1}]
    return include, exclude, f"{NUMBERS[n]} {plural(shape)}"


def relate_objects(scene, rng):
    """Where one of two objects is, seen from the other. Returns include, exclude, text."""
    first, other = scene
    if toss(rng):
        first, other = other, first
    side = pick(rng, sorted(relations(first, other)))
    include = [
        {"class": other.shape, "count": 1},
        {"class": first.shape, "count": 1, "position": [side, 0]},  # 0: seen from include[0]
    ]
    return include, [], f"{an(first.shape)} {side} {an(other.shape)}"


def list_objects(scene):
    """Exactly these objects, with size and colour. Returns include, exclude, text."""
    include = []
    alike = Counter((o.shape, o.color, o.size) for o in scene)
    for (shape, color, size), n in alike.items():
        include.append({"class": shape, "count": n, "color": color, "size": size})
    exclude = [{"class": "object", "count": len(scene) + 1}]
    return include, exclude, dense(scene)


# -------------------------------------------------------------------------------------------------
# held-out pairs


def has_held_out(scene):
    """Whether an object of the scene is a held-out pair."""
    return any((o.color, o.shape) in HELD_OUT for o in scene)


def can_be_silent(scene):
    """Whether something can be said of all objects without their colours."""
    return len(scene) <= 2 or len({o.shape for o in scene}) == 1


def says_held_out(*texts):
    """Whether both words of a held-out pair are said, side by side or not."""
    said = re.findall(r"\w+", " ".join(texts))
    for color, shape in HELD_OUT:
        if color in said and (shape in said or plural(shape) in said):
            return True
    return False


def silent_caption(scene, rng):
    """A caption without both words of a held-out pair; only for a scene that can_be_silent()."""
    while True:
        record = caption(scene, rng)
        if not says_held_out(record["prompt"]):
            return record


# -------------------------------------------------------------------------------------------------
# questions


def questions(scene, rng, hidden=frozenset(HELD_OUT), n_place=1, n_position=1):
    """
    [(kind, question, answer)] in random order: the exam asks each question alone, so each kind has
    to have stood first. Only "describe" is always last, as no answer may be read off an
    earlier one. At most one for each of KINDS, but of place at most n_place, each about another
    object, and of position at most n_position, each about another two.

    Many are yes/no questions, with yes and no equally likely; the others are open.
    hidden: pairs that are never asked for in vain, or the network would learn to say no to them.
    """
    some_object = pick(rng, scene)
    asked = [
        ask_existence(scene, rng, some_object, hidden),
        ask_count(scene, rng, some_object),
        ask_color(scene, rng, hidden),
        ask_shape(scene, rng, hidden),
        *(ask_place(scene, rng) for _ in range(n_place)),
        *ask_positions(scene, rng, n_position),
    ]
    asked = [question for question in dict.fromkeys(asked) if question is not None]
    shuffled = [asked[i] for i in rng.permutation(len(asked))]
    return shuffled + [("describe", "describe the picture.", dense(scene))]


def claim(rng, truth, others):
    """What a yes/no question supposes, and its answer: the truth, and yes; or another, and no."""
    if toss(rng):
        return truth, "yes"
    return pick(rng, others), "no"


def ask_existence(scene, rng, some_object, hidden):
    """
    A yes/no question for a pair of colour and shape. An absent pair often shares its colour or
    its shape with an object that is there, or a glance would do to say no.
    """
    present = {(o.color, o.shape) for o in scene}
    absent = []
    for color in COLORS:
        for shape in SHAPES:
            if (color, shape) not in present and (color, shape) not in hidden:
                absent.append((color, shape))
    similar = []
    for color, shape in absent:
        if color == some_object.color or shape == some_object.shape:
            similar.append((color, shape))
    if similar and toss(rng):
        absent = similar

    pair, answer = claim(rng, (some_object.color, some_object.shape), absent)
    return "existence", f"is there {an(*pair)}?", answer


def ask_count(scene, rng, some_object):
    """Of a shape or of a colour: how many there are, or which of two there are more of."""
    if toss(rng):
        names = SHAPES
        own = some_object.shape
        count = Counter(o.shape for o in scene)
    else:
        names = list(COLORS)
        own = some_object.color
        count = Counter(o.color for o in scene)

    unequal = [name for name in names if count[name] != count[own]]
    if unequal and rng.random() < .25:
        return compare_counts(rng, count, own, pick(rng, unequal))

    asked_for = own
    if rng.random() < .25:
        asked_for = pick(rng, names)  # often there is none
    truth = NUMBERS[count[asked_for]]
    if toss(rng):
        return "count", f"how many {objects_called(asked_for)} are there?", truth
    others = [number for number in NUMBERS if number != truth]
    number, answer = claim(rng, truth, others)
    return "count", f"is the number of {objects_called(asked_for)} {number}?", answer


def compare_counts(rng, count, one, two):
    """A yes/no question about two shapes or colours that do not occur equally often."""
    more, less = one, two
    if count[one] < count[two]:
        more, less = two, one
    (a, b), answer = claim(rng, (more, less), [(less, more)])
    return "count", f"are there more {objects_called(a)} than {objects_called(b)}?", answer


def objects_called(name):
    """Objects by their shape or colour: "circles", "red objects"."""
    if name in SHAPES:
        return plural(name)
    return f"{name} objects"


def ask_color(scene, rng, hidden):
    """The colour of an object whose shape no other has; None if there is no such object."""
    count = Counter(o.shape for o in scene)
    unique = [o for o in scene if count[o.shape] == 1]
    if not unique:
        return None
    o = pick(rng, unique)
    if toss(rng):
        return "color", f"what color is the {o.shape}?", o.color
    others = []
    for color in COLORS:
        if color != o.color and (color, o.shape) not in hidden:
            others.append(color)
    color, answer = claim(rng, o.color, others)
    return "color", f"is the {o.shape} {color}?", answer


def ask_shape(scene, rng, hidden):
    """The shape of an object whose colour no other has; None if there is no such object."""
    count = Counter(o.color for o in scene)
    unique = [o for o in scene if count[o.color] == 1]
    if not unique:
        return None
    o = pick(rng, unique)
    if toss(rng):
        return "shape", f"what shape is the {o.color} object?", o.shape
    others = []
    for shape in SHAPES:
        if shape != o.shape and (o.color, shape) not in hidden:
            others.append(shape)
    shape, answer = claim(rng, o.shape, others)
    return "shape", f"is the {o.color} object {an(shape)}?", answer


def ask_place(scene, rng):
    """Where an object is that can be named uniquely; None if there is none."""
    unique = named_uniquely(scene)
    if not unique:
        return None
    o = pick(rng, unique)
    return "place", f"where is {the(o)}?", place_of(o)


def the(o):
    return f"the {o.color} {o.shape}"


def place_of(o):
    """The part of the picture that an object stands in: "top left", "top", ... "middle"."""
    row = side_of_canvas(o.y, "top", "bottom")
    column = side_of_canvas(o.x, "left", "right")
    return f"{row} {column}".strip() or "middle"


def side_of_canvas(center, first, last):
    """What a centre in the outer thirds of the canvas, 48 wide, is called; else nothing."""
    if center < 16:
        return first
    if center > 32:
        return last
    return ""


def named_uniquely(scene):
    """The objects whose colour and shape no other has together."""
    count = Counter((o.color, o.shape) for o in scene)
    return [o for o in scene if count[o.color, o.shape] == 1]


def ask_positions(scene, rng, n):
    """
    For n twos of objects, if there are as many that can be named uniquely and are clearly beside or
    above each other: where one is, seen from the other, or whether it is on a certain side of it.
    """
    apart = [two for two in combinations(named_uniquely(scene), 2) if relations(*two)]
    return [ask_position(rng, *apart[i]) for i in rng.permutation(len(apart))[:n]]


def ask_position(rng, a, b):
    """An open question, only if it has one answer, or one to be answered by yes or no."""
    if toss(rng):
        a, b = b, a
    sides = sorted(relations(a, b))
    if len(sides) == 1 and toss(rng):
        return "position", f"where is {the(a)}, seen from {the(b)}?", sides[0].removesuffix(" of")
    side, answer = claim(rng, pick(rng, sides), wrong_sides(a, b))
    return "position", f"is {the(a)} {side} {the(b)}?", answer


def wrong_sides(a, b):
    """The sides of b on which a is not even by a little: no answer hangs on a borderline."""
    sides = []
    if a.x >= b.x:
        sides.append("left of")
    if a.x <= b.x:
        sides.append("right of")
    if a.y >= b.y:
        sides.append("above")
    if a.y <= b.y:
        sides.append("below")
    return sides
