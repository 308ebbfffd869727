"""
exam/questions.py: what is asked. Read it first here; rules.py, marks.py and files.py follow.

The toy counterparts of the field's benchmarks, made from seeds that no data set is made from:

  GenEval   prompts to draw                                    geneval_prompts
  POPE      is there an object that is, or is not, there?      pope_questions
  MME       a question answered yes and one answered no        mme_questions
  MMVP      near twins, one question, two answers              mmvp_questions
  answered  every kind of question of the training data        kind_questions

All but the first give the scenes to look at and, group by group, its Questions about them.
"""
from collections import namedtuple
from itertools import product
from math import ceil

import numpy as np

from data import WATCHED
from exam.rules import truth
from toy.words import KINDS, TAGS, an, caption, has_held_out, plural, questions, the
from toy.world import COLORS, HELD_OUT, SHAPES, make_scenes, relations

SEED = 2**31  # of everyone examined; data sets are made from seeds below it

GENEVAL = tuple(tag for tag in TAGS if tag != "dense")  # GenEval's own six tags
EXTRA = ("dense", "held-out")                           # and two of ours
POPE = ("random", "popular", "adversarial")
MME = ("existence", "count", "position", "color", "numerical_calculation")
MMVP = (
    "Color & Appearance",
    "Structural & Physical Characteristics",
    "Quantity & Count",
    "Presence of Specific Features",
    "Positional & Relational Context",
)

Question = namedtuple("Question", "scene text answer")  # scene: its number; answer: the right one


# ---------------------------------------------------------------------------------------------
# what to draw


def geneval_prompts(n=100, held_out=False, seed=SEED):
    """
    toy-GenEval: [(record, a scene it is true of)], at most n a tag. As GenEval's own file was
    made, n are drawn a tag, and then none stays twice.

    held_out: only prompts that name a pair of colour and shape never named in training.
    seed: another gives other scenes; but of short prompts there are few, so many are the same.
    """
    rng = np.random.default_rng([seed, held_out])
    pairs_of = {tag: [] for tag in TAGS}
    for scene in make_scenes(60 * n, [seed, held_out, 1], held_out):
        for tag, pairs in pairs_of.items():
            if len(pairs) == n:
                continue
            record = caption(scene, rng, tag)
            if record is None:
                continue
            if held_out:
                if not names_held_out(record):
                    continue
                record["tag"] = "held-out"
            pairs.append((record, scene))

    prompts = []
    for pairs in pairs_of.values():
        once = {}  # a prompt that comes again takes its first place, and its last scene
        for record, scene in pairs:
            once[record["prompt"]] = (record, scene)
        prompts += once.values()
    return prompts


def names_held_out(record):
    """Whether the record's prompt names a pair of colour and shape that is held out."""
    return any((item.get("color"), item["class"]) in HELD_OUT for item in record["include"])


# ---------------------------------------------------------------------------------------------
# what to ask


def question_sets(n=100):
    """All that is asked, {set: (scenes, {group: [Question]})}. n = 100 is the full size."""
    return {
        "answered": kind_questions(3 * n),
        "toy-POPE": pope_questions(5 * n),
        "toy-MME": mme_questions(ceil(3 * n / 10)),
        "toy-MMVP": mmvp_questions(ceil(3 * n / 20)),
    }


def gather(sets):
    """
    question_sets() as one list each, as all is answered in one go: scenes, Questions about them,
    and {(set, group): the slice of the Questions that is the group's}.
    """
    scenes, asked, places = [], [], {}
    for name, (some, groups) in sets.items():
        for group, rows in groups.items():
            places[name, group] = slice(len(asked), len(asked) + len(rows))
            for question in rows:
                asked.append(question._replace(scene=len(scenes) + question.scene))
        scenes += some
    return scenes, asked, places


def prompts_to_watch(data, n=16):
    """
    Prompts of which pictures are drawn while a network trains. Of the toy world: two of each tag,
    and two of held-out pairs. Otherwise what was said of the first validation pictures.
    """
    if data.meta["kind"] == "toy":
        records = geneval_prompts(2) + geneval_prompts(2, held_out=True)
        return [record["prompt"] for record, _ in records][:n]
    if "generate" not in data.rows["val"]:
        return []
    prompts = []
    ids, roles = data.rows["val"]["generate"]
    for row, role in zip(ids[:n], roles[:n]):
        prompts.append(data.enc.decode(row[(role & WATCHED) > 0].tolist()))
    return prompts


def kind_questions(n):
    """Each of n scenes is asked all that the training data ask: scenes, {kind: [Question]}."""
    rng = np.random.default_rng(SEED + 1)
    scenes = make_scenes(n, SEED + 1)
    asked = {kind: [] for kind in KINDS}
    for number, scene in enumerate(scenes):
        for kind, text, answer in questions(scene, rng):
            asked[kind].append(Question(number, text, answer))
    return scenes, asked


def pope_questions(n=500):
    """
    toy-POPE (Li et al. 2023, arXiv 2305.10355): scenes, {split: [Question]}.

    n scenes of at least three different objects, and about each six questions of existence in
    every split: three about what is there, each followed by one about what is not.
    """
    rng = np.random.default_rng(SEED + 2)
    world = make_scenes(30 * n, SEED + 2)
    pairs = [pair for pair in product(COLORS, SHAPES) if pair not in HELD_OUT]
    has = presence(world, pairs)                               # (scenes, pairs)
    together = has.T.astype(int) @ has                         # (pairs, pairs): in how many scenes
    used = np.flatnonzero(has.sum(1) >= 3)[:n]

    asked = {split: [] for split in POPE}
    for split, rows in asked.items():
        for number, here in enumerate(has[used]):
            absent = np.flatnonzero(~here).tolist()
            for present in rng.permutation(np.flatnonzero(here))[:3]:
                missing = choose_absent(split, absent, present, together, rng)
                absent.remove(missing)                         # asked for once a scene
                rows.append(Question(number, f"is there {an(*pairs[present])}?", "yes"))
                rows.append(Question(number, f"is there {an(*pairs[missing])}?", "no"))
    return [world[i] for i in used], asked


def presence(scenes, pairs):
    """(scenes, pairs) bool: which pairs of colour and shape a scene shows."""
    rows = []
    for scene in scenes:
        shown = {(o.color, o.shape) for o in scene}
        rows.append([pair in shown for pair in pairs])
    return np.array(rows)


def choose_absent(split, absent, present, together, rng):
    """
    The absent pair that POPE asks for after a present one. Pairs go by their numbers.

      random        any
      popular       the most frequent in the world
      adversarial   the one most often together with the present one
    """
    if split == "random":
        return rng.choice(absent)
    if split == "popular":
        frequency = together.diagonal()
    else:
        frequency = together[:, present]
    return absent[frequency[absent].argmax()]


def mme_questions(n=30):
    """
    toy-MME (Fu et al. 2023, arXiv 2306.13394): scenes, {subtask: [Question]}.

    n pictures a subtask, two questions each: the answer of the first is yes, of the other no.
    """
    rng = np.random.default_rng(SEED + 3)
    scenes = []
    asked = {subtask: [] for subtask in MME}
    for scene in make_scenes(20 * n, SEED + 3):
        found = closed_questions(scene, rng)
        used = False
        for subtask, rows in asked.items():
            if len(rows) == 2 * n or len(found[subtask]) < 2:
                continue
            for answer in ("yes", "no"):
                rows.append(Question(len(scenes), found[subtask][answer], answer))
            used = True
        if used:
            scenes.append(scene)
    return scenes, asked


def closed_questions(scene, rng):
    """{subtask of MME: {"yes": a question so answered, "no": another}}, as far as any came up."""
    found = {subtask: {} for subtask in MME}
    for _ in range(12):
        for kind, text, answer in questions(scene, rng):
            subtask = "numerical_calculation" if "more" in text else kind
            if subtask in MME and answer in ("yes", "no"):
                found[subtask].setdefault(answer, text)
    return found


# ---------------------------------------------------------------------------------------------
# near twins


def mmvp_questions(n=15):
    """
    toy-MMVP (Tong et al. 2024, arXiv 2401.06209): scenes, {pattern: [Question]}.

    n pairs a pattern: by turns a scene and its near twin, of which the same question has
    another answer.
    """
    rng = np.random.default_rng(SEED + 4)
    pool = iter(make_scenes(400 * n, SEED + 4))
    scenes = []
    asked = {pattern: [] for pattern in MMVP}
    for pattern, rows in asked.items():
        while len(rows) < 2 * n:
            scene = next(pool)
            one = scene[rng.integers(len(scene))]
            other = scene[rng.integers(len(scene))]
            question, twin = make_twin(pattern, scene, one, other, rng)
            if question is None or has_held_out(twin):
                continue
            answer = truth(scene, question)
            answer_of_twin = truth(twin, question)
            if answer == answer_of_twin:
                continue
            rows.append(Question(len(scenes), question, answer))
            rows.append(Question(len(scenes) + 1, question, answer_of_twin))
            scenes += [scene, twin]
    return scenes, asked


def make_twin(pattern, scene, one, other, rng):
    """
    A question about one object of the scene, and the scene's twin of which the answer may differ.
    The question is None if the scene does not suit the pattern. Random numbers are drawn even
    then, so that a scene does not change what comes after it.
    """
    if pattern == "Color & Appearance":
        return change_color(scene, one, rng)
    if pattern == "Structural & Physical Characteristics":
        return change_shape(scene, one, rng)
    if pattern == "Quantity & Count":
        return remove_counted(scene, one)
    if pattern == "Presence of Specific Features":
        return remove_named(scene, one)
    return swap_places(scene, one, other)


def change_color(scene, one, rng):
    color = str(rng.choice(list(COLORS)))
    twin = without(scene, one) + [one._replace(color=color)]
    if not is_only(scene, one, "shape"):
        return None, twin
    return f"what color is the {one.shape}?", twin


def change_shape(scene, one, rng):
    shape = str(rng.choice(SHAPES))
    twin = without(scene, one) + [one._replace(shape=shape)]
    if not is_only(scene, one, "color"):
        return None, twin
    return f"what shape is the {one.color} object?", twin


def remove_counted(scene, one):
    twin = without(scene, one)
    if not twin:
        return None, twin
    return f"how many {plural(one.shape)} are there?", twin


def remove_named(scene, one):
    twin = without(scene, one)
    if not twin or not is_only(scene, one, "color", "shape"):
        return None, twin
    return f"is there {an(one.color, one.shape)}?", twin


def swap_places(scene, one, other):
    """Two of one size change places."""
    moved = one._replace(x=other.x, y=other.y)
    other_moved = other._replace(x=one.x, y=one.y)
    twin = without(without(scene, one), other) + [moved, other_moved]
    have_names = is_only(scene, one, "color", "shape") and is_only(scene, other, "color", "shape")
    one_answer = len(relations(one, other)) == 1
    if not have_names or not one_answer or one.size != other.size:
        return None, twin
    return f"where is {the(one)}, seen from {the(other)}?", twin


def without(scene, one):
    return [x for x in scene if x is not one]


def is_only(scene, one, *attributes):
    """Whether no other object of the scene has all these attributes of this one."""
    sharing = 0
    for x in scene:
        sharing += all(getattr(x, name) == getattr(one, name) for name in attributes)
    return sharing == 1


def of_mmvp(places):
    """The slice of gather()'s Questions that is toy-MMVP's: its patterns stand side by side."""
    first = places["toy-MMVP", MMVP[0]]
    last = places["toy-MMVP", MMVP[-1]]
    return slice(first.start, last.stop)


def offers_of(asked):
    """The two answers that MMVP offers with each Question: what is right of it and its twin."""
    offers = []
    for first, second in zip(asked[::2], asked[1::2]):
        both = (first.answer, second.answer)
        offers += [both, both]
    return offers
