"""
exam/rules.py: when a picture, and when an answer, is right. Read it after questions.py.

The rules are the benchmarks' own, word for word where they can be: GenEval's for pictures, with
what the judge sees in the place of what its detector found; the parsers of POPE and MME for
answers, and the numbers they make of them. truth() is the oracle: it answers questions from a
scene.
"""
import re

import numpy as np

from toy.words import NUMBERS, dense, place_of, plural
from toy.world import relations

SIDES = ("left of", "right of", "above", "below")

# ---------------------------------------------------------------------------------------------
# is the picture right? (GenEval)


def check(record, scene):
    """
    GenEval's rule for one picture: (whether the scene that the judge saw satisfies the record,
    the reasons if not). Source: Ghosh et al. 2023, arXiv 2310.11513, evaluate_images.py.

    Every item of "include" must be found, as often as it says, and on the right side of an
    earlier item if it has a position. Extras are forbidden by "exclude" only.

    GenEval takes the objects its detector is surest of; here any that fit will do, as the judge
    is always sure.
    """
    reasons = []
    found = []  # for each item of "include", the objects that fit it
    for item in record["include"]:
        hits = fitting(scene, item)
        found.append(hits)
        if len(hits) < item["count"]:
            reasons.append(f"expected {name_of(item)} >= {item['count']}, found {len(hits)}")
        elif "position" in item:
            side, target = item["position"]
            if not any_beside(hits, side, found[target]):
                target_class = record["include"][target]["class"]
                reasons.append(f"expected {name_of(item)} {side} {target_class}")

    for item in record["exclude"]:
        hits = fitting(scene, item)
        if len(hits) >= item["count"]:
            reasons.append(f"expected {item['class']} < {item['count']}, found {len(hits)}")
    return not reasons, "; ".join(reasons)


def fitting(scene, item):
    """The objects of a scene that an item of a record describes. The class "object" is any."""
    hits = []
    for o in scene:
        right_class = item["class"] in (o.shape, "object")
        right_color = item.get("color", o.color) == o.color
        right_size = item.get("size", o.size) == o.size
        if right_class and right_color and right_size:
            hits.append(o)
    return hits


def name_of(item):
    words = (item.get("size"), item.get("color"), item["class"])
    return " ".join(word for word in words if word)


def any_beside(objects, side, others):
    """Whether any of the objects is on that side of any of the others."""
    for one in objects:
        for other in others:
            if side in relations(one, other):
                return True
    return False


# ---------------------------------------------------------------------------------------------
# what is the right answer? (the oracle)


def truth(scene, question):
    """
    The true answer to a question of the toy world, by its words. None if the scene lacks what
    is asked about, or if the question is none of the toy world's.
    """
    question = re.sub(r" objects?\b|[.,?]", "", question)  # "the red object" is "the red"
    match question.split():
        case ["describe", "the", "picture"]:
            return dense(scene)
        case ["is", "there", "a" | "an", color, shape]:
            return is_there(scene, color, shape)
        case ["how", "many", name, "are", "there"]:
            return how_many(scene, name)
        case ["is", "the", "number", "of", name, number]:
            return is_number(scene, name, number)
        case ["are", "there", "more", name, "than", other]:
            return are_more(scene, name, other)
        case ["what", "color" | "shape" as attribute, "is", "the", name]:
            return what_is(scene, attribute, name)
        case ["is", "the", name, claim] | ["is", "the", name, "a" | "an", claim]:
            return is_so(scene, name, claim)
        case ["is", "the", color, shape, *side, "the", other_color, other_shape]:
            name, other = f"{color} {shape}", f"{other_color} {other_shape}"
            return is_beside(scene, name, " ".join(side), other)
        case ["where", "is", "the", color, shape]:
            return in_which_part(scene, f"{color} {shape}")
        case ["where", "is", "the", color, shape, "seen", "from", "the", other_color, other_shape]:
            return where_is(scene, f"{color} {shape}", f"{other_color} {other_shape}")
    return None


def is_there(scene, color, shape):
    return yes_or_no(any((o.color, o.shape) == (color, shape) for o in scene))


def how_many(scene, name):
    n = count(scene, name)
    return NUMBERS[n] if n < len(NUMBERS) else None


def is_number(scene, name, number):
    if number not in NUMBERS:
        return None
    return yes_or_no(count(scene, name) == NUMBERS.index(number))


def are_more(scene, name, other):
    return yes_or_no(count(scene, name) > count(scene, other))


def what_is(scene, attribute, name):
    o = find(scene, name)
    return None if o is None else getattr(o, attribute)


def is_so(scene, name, claim):
    o = find(scene, name)
    if o is None:
        return None
    return yes_or_no(claim in (o.shape, o.color))


def is_beside(scene, name, side, other_name):
    one = find(scene, name)
    other = find(scene, other_name)
    if one is None or other is None or side not in SIDES:
        return None
    return yes_or_no(side in relations(one, other))


def in_which_part(scene, name):
    o = find(scene, name)
    return None if o is None else place_of(o)


def where_is(scene, name, other_name):
    """One side, without its "of": the first by the alphabet, should two be true."""
    one = find(scene, name)
    other = find(scene, other_name)
    if one is None or other is None:
        return None
    sides = relations(one, other)
    if not sides:
        return None
    return min(sides).removesuffix(" of")


def find(scene, name):
    """The first object that is called so: by its shape, its colour, or both. None if none is."""
    for o in scene:
        if name in (o.shape, o.color, f"{o.color} {o.shape}"):
            return o
    return None


def count(scene, name):
    """How many are called so: by a colour, or by a shape in the plural."""
    return sum(name in (o.color, plural(o.shape)) for o in scene)


def yes_or_no(is_true):
    return "yes" if is_true else "no"


# ---------------------------------------------------------------------------------------------
# what was answered, and what is it worth? (POPE and MME)


def pope_says(text):
    """POPE's parser: "no" if the first sentence has the word No, no or not; else "yes"."""
    first_sentence = text.split(".")[0]
    words = first_sentence.replace(",", "").split(" ")
    if "No" in words or "no" in words or "not" in words:
        return "no"
    return "yes"


def pope_rates(said, label):
    """
    POPE's numbers. said, label (pictures, questions) bool: whether yes was said, and is right.
    Gives {name: (numerator, denominator)}, both (pictures,), so that pictures can be resampled.
    """
    true_yes = (said & label).sum(1)
    false_yes = (said & ~label).sum(1)
    false_no = (~said & label).sum(1)
    right = (said == label).sum(1)
    asked = np.full(len(said), said.shape[1])
    return {
        "accuracy": (right, asked),
        "precision": (true_yes, true_yes + false_yes),
        "recall": (true_yes, true_yes + false_no),
        "F1": (2 * true_yes, 2 * true_yes + false_yes + false_no),
        "yes ratio": (true_yes + false_yes, asked),
    }


def mme_says(text):
    """MME's parser: the first four characters decide; "yes", "no" or "other"."""
    beginning = text.lower()[:4]
    if "yes" in beginning:
        return "yes"
    if "no" in beginning:
        return "no"
    return "other"


def mme_points(right):
    """
    MME's points of each picture. right (pictures, 2) bool: its two answers. 100 for the share of
    right ones, and 100 if both are. Their mean is 100 accuracy + 100 accuracy+, as in the paper.
    """
    share = right.mean(1)
    both = right.all(1)
    return 100 * share + 100 * both
