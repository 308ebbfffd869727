"""
exam: the field's benchmarks in the toy world. README.md explains them and their numbers.

  questions.py   what is asked
  rules.py       when it is right
  marks.py       what it is worth
  files.py       the exam on disk, in the benchmarks' own formats
  this file      the exam itself

The exam knows no network. Here, and only here, one is handed to sample.py, whose draw, answer,
prefer and answered give pictures, texts, choices, and yes or no; all else takes those.

    python -m exam OUT
"""
import numpy as np

import sample
from exam import files, marks, questions
from tools.sheet import sheet
from toy.judge import judge
from toy.world import make_scenes, render_all

PICTURES_A_PROMPT = 4  # as GenEval draws
CHANCE_SCENES = 100    # for each prompt
DIALOGUES = 500        # of a data set of real pictures, at most


def examine(model, data, tok, task="both", n=100, cfg=sample.GUIDANCE, *, folder):
    """
    The scores of a network: {benchmark: {column: {row: number}}}. The rows are "run", "low" and
    "high", the ends of its 95 % interval, "chance", "oracle" and "ceiling" (see marks.py).

      model, data, tok   the network, its data set (of the toy world's .meta and .enc will do),
                         its image tokenizer
      task               what it was trained for: "both", "generate" or "understand"
      n                  the size of the exam, in prompts a tag; 100 is the full size
      cfg                classifier-free guidance
      folder             a Path: gets the benchmarks' files and mistakes.png
    """
    if data.meta["kind"] != "toy":
        return {} if task == "generate" else examine_real(model, data)

    columns, overall, mistakes = {}, {}, []
    if task != "understand":
        drawing, wrong = examine_drawing(model, data, tok, n, cfg, folder)
        columns["toy-GenEval"] = drawing
        overall |= marks.sum_up_drawings(drawing)
        mistakes += marks.by_turns(wrong)
    if task != "generate":
        answers, wrong = examine_answers(model, data, tok, n, folder)
        columns |= answers
        overall |= marks.sum_up_answers(answers)
        mistakes += marks.by_turns(wrong)

    if mistakes:
        pictures, texts = zip(*mistakes)
        sheet(pictures, texts, folder / "mistakes.png")
    scores = {"summary": marks.as_numbers(overall)}
    for benchmark, some in columns.items():
        scores[benchmark] = marks.as_numbers(some)
    return scores


def examine_drawing(model, data, tok, n, cfg, folder):
    """toy-GenEval: {tag: column of marks}, and its mistakes as from marks.wrong_drawings()."""
    # prompts, and the network's pictures of them
    prompts = questions.geneval_prompts(n)
    prompts += questions.geneval_prompts(n, held_out=True)
    texts = []
    for record, _ in prompts:
        texts += [record["prompt"]] * PICTURES_A_PROMPT
    codes = sample.draw(model, data.enc, texts, cfg)           # (texts, n_image)
    pictures = tok.decode(codes)                               # (texts, S, S, 3)

    # what the judge sees in them, and what the other rows are judged by
    true_scenes = [scene for _, scene in prompts]
    true = render_all(true_scenes, *pictures_of(data.meta))    # (prompts, S, S, 3)
    rebuilt = tok.decode(tok.encode(true))
    seen = {
        "run": judge(pictures),
        "chance": make_scenes(CHANCE_SCENES, questions.SEED + 5) * len(prompts),
        "oracle": judge(true),
        "ceiling": judge(rebuilt),
    }

    # marks
    verdicts = {row: marks.check_all(prompts, scenes) for row, scenes in seen.items()}
    place = folder / "toy-geneval"
    files.write_drawings(place, prompts, pictures, seen["run"], verdicts["run"])
    wrong = marks.wrong_drawings(prompts, pictures, verdicts["run"])
    return marks.mark_drawings(prompts, verdicts), wrong


def pictures_of(meta):
    """How a data set's pictures look: canvas, speckle, see world.render_all()"""
    return meta["canvas"], questions.SEED + 6 if meta.get("speckled") else None


def examine_answers(model, data, tok, n, folder):
    """All that is asked: {benchmark: {column: marks}}, and its mistakes as from
    marks.wrong_answers()."""
    # questions about pictures
    sets = questions.question_sets(n)
    scenes, asked, places = questions.gather(sets)
    pictures = render_all(scenes, *pictures_of(data.meta))     # (scenes, S, S, 3)
    codes = tok.encode(pictures)                               # (scenes, n_image)

    # the network's answers, a dialogue of one question each
    number = np.array([question.scene for question in asked])
    talks = [[(question.text, "")] for question in asked]
    texts = sample.answer(model, data.enc, codes[number], talks, pictures[number])

    # MMVP offers two answers: what was said there gives way to the one that is preferred
    place = questions.of_mmvp(places)
    number = number[place]
    offers = questions.offers_of(asked[place])
    taken = sample.prefer(model, data.enc, codes[number], talks[place], offers, pictures[number])
    texts[place] = [offer[choice] for offer, choice in zip(offers, taken)]

    # marks
    rebuilt = tok.decode(codes)
    said = {
        "run": texts,
        "oracle": marks.read_answers(judge(pictures), asked),
        "ceiling": marks.read_answers(judge(rebuilt), asked),
    }
    files.write_answers(folder, sets, places, pictures, texts)
    wrong = marks.wrong_answers(asked, texts, places, pictures)
    return marks.mark_answers(asked, said, places), wrong


def examine_real(model, data):
    """
    Real pictures, and scenes that are told, have no judge: the share of held-out dialogues that are
    answered word for word.
    """
    rows = data.rows["val"]["understand"]
    ids, roles, pixels = [np.array(array[:DIALOGUES]) for array in rows]
    right = sample.answered(model, ids, roles, pixels)         # (dialogues,)
    column = marks.shares({"run": (right, 1)})
    return {"summary": marks.as_numbers({"answered": column})}
