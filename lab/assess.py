"""
lab/assess.py: a network learns from marks of its own drawings, as ILLUME does (Wang et al. 2024,
arXiv 2412.06673, section 3.3: self-assessment).

    python -m lab.assess out/run                                          # makes data/assessed-run
    python train.py --init_from out/run --data data/assessed-run --out out/assessed

It draws captions of the kind that it was trained with. The judge, in the paper GPT-4o, reads what
each drawing shows and holds it against the caption: objects, their number, colours and sizes, and
places. Each drawing, right or wrong, becomes a row to understand:

    does it show a red circle?    no, the color is wrong
    what color is the circle?     blue
    ...

The first question is of the drawing and its caption, the others of what the drawing shows, if it
shows anything that the toy world has. These rows join those of the data set. The paper's own words
are not known; it has no sizes, and to a wrong drawing a second turn, with a right one.
"""
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data import ARRAYS, encoding_of, load_dataset, load_tokenizer, make_row
from exam import pictures_of
from exam.rules import any_beside, check, fitting
from sample import draw
from systems.runs import latest_run, load_model, refuse_other_data
from tools.device import find_device
from tools.faults import expect_faults
from tools.flags import Parser, refuse_beyond, speak_plainly
from toy.dataset import data_folder, finish_dataset, new_dataset, write_rows
from toy.judge import judge
from toy.words import (can_be_silent, caption, has_held_out, questions, says_held_out,
                       silent_caption)
from toy.world import SHAPES, make_scenes, render_all

SEED = 6  # beside the user's: of captions that are no data set's


def marked(record, scene):
    """What is said of a drawing that shows a scene, held against the record of its caption."""
    is_right, _ = check(record, scene)
    return "yes" if is_right else f"no, the {what_is_wrong(record, scene)} is wrong"


def what_is_wrong(record, scene):
    """The first of the criteria that a drawing misses: object, count, color, size, place."""
    found = []
    for item in record["include"]:
        alike = fitting(scene, {"class": item["class"]})
        if not alike:
            return "object"
        if len(alike) < item["count"]:
            return "count"
        for attribute in ("color", "size"):
            if attribute in item:
                alike = fitting(alike, {"class": "object", attribute: item[attribute]})
            if len(alike) < item["count"]:
                return attribute
        found.append(alike)
        if "position" in item:
            side, target = item["position"]
            if not any_beside(alike, side, found[target]):
                return "place"
    return "count"  # there is more than was asked for


def dialogue(record, mark, scene, rng):
    """
    [(question, answer)] about a drawing: whether it shows its caption, and, if it shows anything
    that the toy world has, what that is.
    """
    turns = [(f"does it show {record['prompt']}?", mark)]
    if 1 <= len(scene) <= 4 and all(o.shape in SHAPES for o in scene):
        asked = [(question, answer) for _, question, answer in questions(scene, rng)]
        if has_held_out(scene):  # which nothing names
            asked = [turn for turn in asked if not says_held_out(*turn)]
        turns += asked
    return turns


def row_of(enc, picture, turns, longest):
    """A row to understand, of as many turns as fit, the first in any case."""
    while True:
        ids, roles = make_row(enc, enc.n_vocab, picture, turns=turns)
        if len(ids) <= longest:
            return ids, roles
        turns = turns[:-1]


def captions(n, seed):
    """n records of captions, and the scenes that they are of"""
    rng = np.random.default_rng([seed, SEED, 1])
    scenes = make_scenes(n, [seed, SEED])
    records = [silent_caption(scene, rng) if can_be_silent(scene) else caption(scene, rng)
               for scene in scenes]
    return records, scenes


def with_rows(data, tok, out, rows, pixels):
    """A data set in the folder `out`: another one's rows, and more of them to understand."""
    meta = data.meta
    sizes = {}
    for split, tasks in data.rows.items():
        for task, arrays in tasks.items():
            more = len(rows) if (split, task) == ("train", "understand") else 0
            sizes[split, task] = (len(arrays[0]) + more, arrays[0].shape[1])
    with new_dataset(out, sizes, meta["canvas"]) as part:
        for split, task in sizes:
            for kind, array in zip(ARRAYS[task], data.rows[split][task]):
                copy = np.load(part / f"{split}_{task}_{kind}.npy", mmap_mode="r+")
                copy[:len(array)] = array
        first = len(data.rows["train"]["understand"][0])
        pad = encoding_of(meta)._special_tokens["<|pad|>"]
        write_rows(part, "train", "understand", first, rows, pad, pixels)
        kept = ("kind", "seed", "canvas", "n_image", "speckled", "semantic")
        about = {name: meta[name] for name in kept if name in meta} | {"assessed": len(rows)}
        finish_dataset(part, out, about, meta["merges"], tok, sizes)


def main():
    p = Parser(prog="python -m lab.assess",
               description="A run draws, the judge marks it, and what was said joins its data set.")
    p.add_argument("run", nargs="?", help="folder of a run (default: the latest under out/)")
    p.add_argument("--n", type=int, default=4000, help="drawings")
    p.add_argument("--control", choices=("true", "shuffled"),
                   help="true pictures in place of drawings; or each drawing marked as another is")
    p.add_argument("--out", help="folder of the new data set (default: data/assessed-RUN)")
    p.add_argument("--seed", type=int, default=0, help="everything follows from it")
    p.add_argument("--device", help="cpu | cuda | mps (default: what is there)")
    speak_plainly()
    expect_faults("take fewer drawings (--n)")
    args = p.parse_args()
    refuse_beyond(args, "n", 2, 10**6)
    refuse_beyond(args, "seed", 0, 2**31 - 1)
    run = args.run or latest_run()
    device = find_device(args.device)
    model, config = load_model(run, device)
    if config["train"]["task"] != "both" or config["data"]["kind"] != "toy":
        sys.exit(f"{run}: was not trained on both tasks of the toy world; name another run")
    data = load_dataset(config["train"]["data"])
    refuse_other_data(run, config, data, "lab.assess")
    out = data_folder(args.out or f"data/assessed-{Path(run).name}")
    tok = load_tokenizer(data.folder / "tokenizer.pt", device)

    # drawings
    records, scenes = captions(args.n, args.seed)
    prompts = [record["prompt"] for record in records]
    if args.control == "true":
        codes = tok.encode(render_all(scenes, *pictures_of(data.meta)))
    else:
        codes = draw(model, data.enc, prompts, seed=args.seed)
    pixels = tok.decode(codes)                                 # (n, S, S, 3)

    # marks
    seen = judge(pixels)
    marks = [marked(record, scene) for record, scene in zip(records, seen)]
    right = sum(mark == "yes" for mark in marks) / args.n
    if args.control == "shuffled":
        order = np.random.default_rng([args.seed, SEED, 2]).permutation(args.n)
        marks = [marks[i] for i in order]

    # rows
    rng = np.random.default_rng([args.seed, SEED, 3])
    longest = data.rows["train"]["understand"][0].shape[1]
    rows = []
    for picture, record, mark, scene in zip(tqdm(codes, "marking"), records, marks, seen):
        turns = dialogue(record, mark, scene, rng)
        rows.append(row_of(data.enc, picture, turns, longest))
    with_rows(data, tok, out, rows, pixels)
    print(f"{out}: {args.n} drawings, {right:.1%} of them right, joined {data.folder}\n"
          f"next: python train.py --init_from {run} --data {out} --out out/assessed")


if __name__ == "__main__":
    main()
