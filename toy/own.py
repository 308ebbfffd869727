"""
toy/own.py: your own pictures as a data set (python data.py --json PAIRS --images FOLDER).

The records are LLaVA-style JSON, a list of

    {"image": "cat.jpg", "conversations": [{"from": "human", "value": "what is on the sofa?"},
                                           {"from": "gpt", "value": "a cat"}]}

A gpt turn of "<image>" makes a picture to generate from the human's words; anything else is a
talk to understand, of one or more turns. Records that cannot be used are reported and skipped.
Stands on data.py, toy/dataset.py and toy/tokenizer.py.
"""
import json
import sys
import warnings
from collections import namedtuple
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from data import TARGET, TASKS, encoding_of, make_row
from toy.dataset import data_folder, finish_dataset, new_dataset, write_rows
from toy.merges import learn_merges
from toy.tokenizer import train_image_tokenizer
from toy.world import CANVAS

# a usable record: the number of its picture, then either a prompt or [(question, answer)]
Pair = namedtuple("Pair", "picture prompt turns")
# a row of the data set to be: its ids, its roles, and the number of its picture
Row = namedtuple("Row", "ids roles picture")

ROOM = 128  # tokens of text in a row, those that frame the picture included; more is cut


def build_real(file, images, out, size="nano", seed=0, steps=3000):
    """
    Your own pictures as a data set in the folder `out`. Exits with one line if none is usable.

    file    the records; images: the folder that their "image" is relative to
    size    of the network: "nano", "small" or "base"; it decides the canvas
    steps   to train the image tokenizer
    """
    records = load_records(file)
    out = data_folder(out)
    canvas = CANVAS[size]
    pictures, pairs = read_pairs(records, images, canvas)
    print(f"{file}: {len(pairs)} of {len(records)} records are usable, "
          f"{len(records) - len(pairs)} skipped; {len(pictures)} pictures")
    if not pairs:
        sys.exit(f"{file}: no usable record; correct the reasons above "
                 "(--images is the folder that 'image' is relative to)")

    # both tokenizers learn from what is there
    pictures = np.stack(pictures)                            # (N, canvas, canvas, 3) uint8
    tok = train_image_tokenizer(pictures, steps, canvas // 8, seed=seed)
    codes = tok.encode(pictures).numpy()                     # (N, n_image)
    merges = learn_merges(texts_of(pairs), 1024)
    enc = encoding_of({"merges": merges})

    # rows, some of them held out for validation
    held_out = choose_held_out(len(pictures), seed)
    rows, n_cut = make_rows(pairs, codes, enc, held_out)
    longest = codes.shape[1] + ROOM
    if not any(rows["train", task] for task in TASKS):
        sys.exit(f"{file}: no usable record; the questions are longer than the {longest} tokens "
                 "that a row holds, and leave no room for an answer")
    validate_on_something(rows)

    sizes = sizes_of(rows)
    with new_dataset(out, sizes, canvas) as part:
        for split, task in sizes:
            some = rows[split, task]
            pixels = None
            if task == "understand":
                pixels = pictures[[row.picture for row in some]]
            ids_and_roles = [(row.ids, row.roles) for row in some]
            pad = enc._special_tokens["<|pad|>"]
            write_rows(part, split, task, 0, ids_and_roles, pad, pixels)
        about = {"kind": "real", "seed": seed, "canvas": canvas, "n_image": codes.shape[1]}
        finish_dataset(part, out, about, merges, tok, sizes)

    if n_cut:
        print(f"{n_cut} texts were longer than the {longest} tokens that a row holds and were "
              "cut, or left out where no answer remained")
    sheet = out / "tokenizer.png"
    compare_pictures(pictures, codes, tok, sheet)
    counts = [f"{len(some)} {task} rows to {split}" for (split, task), some in rows.items()]
    print(f"{out}: {', '.join(counts)}")
    print(f"{sheet}: originals over reconstructions, "
          f"{len(np.unique(codes))} of {tok.n_codes} codes in use")
    print(f"next: python train.py --data {out}")


# -------------------------------------------------------------------------------------------------
# reading

def load_records(file):
    """The list in a JSON file. Exits with one line if there is none."""
    try:
        records = json.loads(Path(file).read_text("utf-8-sig"))
    except FileNotFoundError:
        sys.exit(f"{file}: no such file; --json names a LLaVA-style list of records")
    except (ValueError, OSError) as e:
        sys.exit(f"{file}: not JSON ({e})")
    if not isinstance(records, list):
        sys.exit(f"{file}: holds a {type(records).__name__}, not a list of records")
    return records


def read_pairs(records, images, canvas):
    """Every picture once, [(canvas, canvas, 3) uint8], and [Pair]. Reports what it skips."""
    pictures = []
    pairs = []
    number_of = {}  # a picture's number, by its path
    for i, record in enumerate(tqdm(records, desc="reading pictures")):
        fault = fault_of(record)
        if fault is not None:
            report(i, record, fault)
            continue
        path = Path(images) / record["image"]
        if path not in number_of:
            try:
                pictures.append(read_picture(path, canvas))
            except ValueError as e:
                report(i, record, e)
                continue
            number_of[path] = len(pictures) - 1
        prompt, turns = read_talk(record["conversations"])
        pairs.append(Pair(number_of[path], prompt, turns))
    return pictures, pairs


def report(number, record, fault):
    """Prints, above the progress bar, why a record is skipped."""
    what = record.get("image", "") if isinstance(record, dict) else record
    tqdm.write(f"record {number}: {repr(what)[:40]}: {fault}")


def fault_of(record):
    """Why a record cannot be used; None if it can."""
    if not isinstance(record, dict):
        return f"is a {type(record).__name__}, not an object"
    image = record.get("image")
    talk = record.get("conversations")
    if not isinstance(image, str) or not image:
        return "'image' is no file name"
    if not isinstance(talk, list) or not talk or len(talk) % 2 == 1:
        return "'conversations' is no list of human and gpt turns in pairs"
    for i, turn in enumerate(talk):
        who = ("human", "gpt")[i % 2]
        if not is_turn(turn, who):
            return f"a turn is not {{'from': '{who}', 'value': text}}"
    asked, told = texts_in(talk)
    if not all(asked + told):
        return "a turn has an empty text"
    if "<image>" in told and len(talk) > 2:
        return "a generation pair has one human and one gpt turn"
    return None


def is_turn(turn, who):
    if not isinstance(turn, dict):
        return False
    return turn.get("from") == who and isinstance(turn.get("value"), str)


def texts_in(talk):
    """What the human says, without the mark of the picture, and what gpt says: two lists."""
    asked = [turn["value"].replace("<image>", "").strip() for turn in talk[::2]]
    told = [turn["value"].strip() for turn in talk[1::2]]
    return asked, told


def read_talk(talk):
    """A faultless talk -> a prompt and no turns, or None and [(question, answer)]."""
    asked, told = texts_in(talk)
    if told == ["<image>"]:
        return asked[0], []
    return None, list(zip(asked, told))


def read_picture(path, canvas):
    """
    The centre square of a picture in any format that Pillow reads, reduced: (canvas, canvas, 3)
    uint8. What is transparent becomes white. Raises ValueError with the reason if it is unusable.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            picture = Image.open(path)
            refuse_huge(picture)
            picture = ImageOps.exif_transpose(picture).convert("RGBA")
    except FileNotFoundError:
        raise ValueError("no such file")
    except UnidentifiedImageError:
        raise ValueError("no picture that Pillow can read")
    except Image.DecompressionBombError:
        raise ValueError("picture with far too many pixels; reduce it first")
    except ValueError:
        raise
    except Exception as e:  # Pillow's readers raise whatever a broken file makes them trip over
        raise ValueError(f"broken picture ({e})")
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("RGB")
    return np.asarray(ImageOps.fit(picture, (canvas, canvas), Image.LANCZOS))


def refuse_huge(picture):
    """Raises ValueError before the pixels are read."""
    width, height = picture.size
    if max(width, height) > 10_000:
        raise ValueError(f"picture of {width} x {height} pixels, more than 10,000 a side; "
                         "reduce it first")


def texts_of(pairs):
    """All prompts, questions and answers, one after the other."""
    texts = []
    for pair in pairs:
        if pair.prompt:
            texts.append(pair.prompt)
        for turn in pair.turns:
            texts.extend(turn)
    return texts


# -------------------------------------------------------------------------------------------------
# rows

def choose_held_out(n_pictures, seed):
    """
    The numbers of the pictures to validate on: one in twenty, at most 500. A picture is held out
    of both tasks, or it would be seen in training after all.
    """
    order = np.random.default_rng(seed).permutation(n_pictures)
    return set(order[:min(500, n_pictures // 20)].tolist())


def make_rows(pairs, codes, enc, held_out):
    """
    rows[split, task] = [Row], and how many texts were cut because a row holds only so many tokens.
    A row in which the question leaves no room for an answer is left out.
    """
    rows = {(split, task): [] for split in ("train", "val") for task in TASKS}
    n_cut = 0
    for pair in pairs:
        picture = codes[pair.picture]
        if pair.prompt:
            task = "generate"
            ids, roles, was_cut = prompt_row(enc, picture, pair.prompt)
        else:
            task = "understand"
            ids, roles, was_cut = talk_row(enc, picture, pair.turns)
        n_cut += was_cut
        has_target = any(role & TARGET for role in roles)
        if has_target:
            split = "val" if pair.picture in held_out else "train"
            rows[split, task].append(Row(ids, roles, pair.picture))
    return rows, n_cut


def prompt_row(enc, picture, prompt):
    """ids and roles of a row to generate, and whether its prompt had to be cut."""
    room = ROOM - 2  # <|bos|> and <|boi|>
    text = enc.encode_ordinary(prompt)
    ids, roles = make_row(enc, enc.n_vocab, picture, enc.decode(text[:room]))
    return ids, roles, len(text) > room


def talk_row(enc, picture, turns):
    """ids and roles of a row to understand, and whether it had to be cut."""
    longest = len(picture) + ROOM + 1  # one more: the last token is only predicted
    ids, roles = make_row(enc, enc.n_vocab, picture, turns=turns)
    return ids[:longest], roles[:longest], len(ids) > longest


def validate_on_something(rows):
    """Where there are too few pictures to hold any out, training rows stand in for them."""
    for task in TASKS:
        if rows["train", task] and not rows["val", task]:
            print(f"no {task} pair is held out (there are few): validation uses training pairs")
            rows["val", task] = rows["train", task][:100]


def sizes_of(rows):
    """The `sizes` of toy/dataset.py, of the splits and tasks that have rows."""
    longest = dict.fromkeys(TASKS, 0)
    for (_, task), some in rows.items():
        for row in some:
            longest[task] = max(longest[task], len(row.ids))
    return {(split, task): (len(some), longest[task])
            for (split, task), some in rows.items() if some}


def compare_pictures(pictures, codes, tok, path):
    """A sheet of the first pictures over what the image tokenizer makes of them, twice as large."""
    rebuilt = tok.decode(torch.from_numpy(codes[:12]))
    sheet = np.vstack([np.hstack(pictures[:12]), np.hstack(rebuilt)])
    ImageOps.scale(Image.fromarray(sheet), 2).save(path)
