"""
toy/own.py: your own pictures as a data set (python data.py --json PAIRS --images FOLDER).

Records are read by toy/records.py. A gpt turn with "<image>" makes a picture to generate from the
human's words; anything else is a talk to understand, of one or more turns. Records that cannot be
used are reported and skipped. Stands on data.py, tools/, toy/dataset.py and toy/tokenizer.py.
"""
import os
import stat
import sys
import warnings
from collections import namedtuple
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from data import TARGET, TASKS, encoding_of, make_row
from tools.files import first_line
from tools.flags import printable
from toy.dataset import data_folder, finish_dataset, new_dataset, only_maker, write_rows
from toy.merges import learn_merges
from toy.records import Fault, Report, load_records, understand
from toy.tokenizer import train_image_tokenizer

# a usable record: the number of its picture, then either a prompt or [(question, answer)]
Pair = namedtuple("Pair", "picture prompt turns")
# a row of the data set to be: its ids, its roles, and the number of its picture
Row = namedtuple("Row", "ids roles picture")

CANVAS = {"nano": 48, "small": 64, "base": 64}  # pixels a side, by the size of the network
SIDE = 8    # image tokens side by side
ROOM = 128  # tokens of text in a row, those that frame the picture included; more is cut
LONGEST = SIDE * SIDE + ROOM


def build_real(file, images, out, size="nano", seed=0, steps=3000):
    """
    Your own pictures as a data set in the folder `out`. Exits with one line if none is usable.

    file    the records; images: the folder that their "image" is relative to
    size    of the network: "nano", "small" or "base"; it decides the canvas
    steps   to train the image tokenizer
    """
    records = load_records(file)
    if not Path(images).is_dir():
        sys.exit(f"--images {images}: is no folder; name the one that 'image' is relative to")
    out = data_folder(out)
    with only_maker(out):  # before pictures are read, which may take minutes
        make_real(records, file, images, out, CANVAS[size], seed, steps)


def make_real(records, file, images, out, canvas, seed, steps):
    """build_real() of records that are read, where nobody else makes a data set."""
    pictures, pairs, report = read_pairs(records, images, canvas)
    print(f"{file}: {len(pairs)} of {len(records)} records are usable, "
          f"{len(records) - len(pairs)} skipped; {len(pictures)} pictures")
    if not pairs:
        sys.exit(f"{file}: no usable record; correct the reasons above "
                 "(--images is the folder that 'image' is relative to)")

    # both tokenizers learn from what is there; that of images takes minutes
    pictures = np.stack(pictures)                            # (N, canvas, canvas, 3) uint8
    merges = learn_merges(texts_of(pairs), 1024)
    enc = encoding_of({"merges": merges})
    held_out = choose_held_out(len(pictures), seed)
    refuse_long_questions(file, pairs, len(pictures), enc, held_out)
    tok = train_image_tokenizer(pictures, steps, canvas // SIDE, seed=seed)
    codes = tok.encode(pictures).numpy()                     # (N, SIDE * SIDE)

    # rows, some of them held out for validation
    rows, n_cut = make_rows(pairs, codes, enc, held_out)
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
        about = {"kind": "real", "seed": seed, "canvas": canvas, "n_image": SIDE * SIDE}
        report.save(part / "skipped.txt")
        compare_pictures(pictures, codes, tok, part / "tokenizer.png")
        finish_dataset(part, out, about, merges, tok, sizes)

    if report.lines:
        print(f"{out / 'skipped.txt'}: why records were skipped, all {len(report.lines):,}")
    if n_cut:
        print(f"{n_cut} texts were longer than the {LONGEST} tokens that a row holds and were "
              "cut, or left out where no answer remained")
    counts = [f"{len(some)} {task} rows to {split}" for (split, task), some in rows.items()]
    print(f"{out}: {', '.join(counts)}")
    print(f"{out / 'tokenizer.png'}: originals over reconstructions, "
          f"{len(np.unique(codes))} of {tok.n_codes} codes in use")
    print(f"next: python train.py --data {out}")


# -------------------------------------------------------------------------------------------------
# reading

def read_pairs(records, images, canvas):
    """
    Every picture once, [(canvas, canvas, 3) uint8]; [Pair]; and a Report of what is skipped, which
    it prints.
    """
    pictures = []
    pairs = []
    report = Report()
    number_of = {}  # a picture's number, by its path
    for i, record in enumerate(tqdm(records, desc="reading pictures")):
        talk, fault = understand(record)
        if fault:
            report.skip(i, record, fault)
            continue
        path = Path(images) / talk.image
        if path not in number_of:
            try:
                pictures.append(read_picture(path, canvas))
            except ValueError as e:
                kind, _, detail = str(e).partition(": ")
                if kind == "no such file":
                    detail = f"looked for in {images}"
                named = record | {"image": talk.image}  # it may be named in a turn
                report.skip(i, named, Fault(kind, detail))
                continue
            number_of[path] = len(pictures) - 1
        pairs.append(Pair(number_of[path], talk.prompt, talk.turns))
    report.close()
    return pictures, pairs, report


def read_picture(path, canvas):
    """
    The centre square of a picture in any format that Pillow reads, reduced: (canvas, canvas, 3)
    uint8. What is transparent becomes white. Raises ValueError with the reason if it is unusable.
    """
    refuse_no_file(path)
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            picture = Image.open(path)
            refuse_huge(picture)
            if max(picture.size) > 2000:  # what can be is reduced while it is decoded
                picture.draft("RGB", (2 * canvas, 2 * canvas))
            picture = ImageOps.exif_transpose(picture)
            picture = in_eight_bits(picture).convert("RGBA")
    except PermissionError as e:
        raise ValueError(f"cannot be read: {e.strerror}")
    except UnidentifiedImageError:
        raise ValueError("no picture that Pillow can read")
    except Image.DecompressionBombError:
        raise ValueError("picture with far too many pixels; reduce it first")
    except ValueError:
        raise
    except Exception as e:  # Pillow's readers raise whatever a broken file makes them trip over
        raise ValueError(f"broken picture: {printable(first_line(e))}")
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("RGB")
    return np.asarray(ImageOps.fit(picture, (canvas, canvas), Image.LANCZOS))


def refuse_no_file(path):
    """Raises ValueError unless there is an ordinary file of this name."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError("no such file")
    except OSError as e:  # its name is too long, for one
        raise ValueError(f"cannot be read: {e.strerror}")
    except ValueError:  # half a character in it, or none that this system's names may have
        raise ValueError("a name that is no file name here")
    if not stat.S_ISREG(mode):  # a folder, or something that is read for ever
        raise ValueError("no file")


def refuse_huge(picture):
    """Raises ValueError before the pixels are read."""
    width, height = picture.size
    if max(width, height) > 10_000:
        raise ValueError(f"picture of {width} x {height} pixels, more than 10,000 a side; "
                         "reduce it first")


def in_eight_bits(picture):
    """
    A picture in a mode that Pillow converts as one would expect. Grey of 16 or 32 bits, or in
    floating point (depth, X-ray), is spread over its own range: Pillow would cut it at 255.
    """
    if picture.mode in ("LAB", "HSV"):
        return picture.convert("RGB")
    if picture.mode == "La":  # grey that is multiplied by how opaque it is
        return picture.convert("LA")
    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;16"):
        return picture
    grey = np.asarray(picture).astype(float)
    known = grey[np.isfinite(grey)]
    if len(known) == 0:
        raise ValueError("picture without a single number in it")
    low, high = known.min(), known.max()
    spread = (np.nan_to_num(grey, nan=low) - low) / max(high - low, 1e-12)
    return Image.fromarray((spread.clip(0, 1) * 255).round().astype(np.uint8))


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


def refuse_long_questions(file, pairs, n_pictures, enc, held_out):
    """Exits with one line if no row has room for an answer, whatever its picture's codes are."""
    no_codes = np.zeros((n_pictures, SIDE * SIDE), int)
    rows, _ = make_rows(pairs, no_codes, enc, held_out)
    if not any(rows.values()):
        sys.exit(f"{file}: no usable record; the questions are longer than the {LONGEST} tokens "
                 "that a row holds, and leave no room for an answer")


def prompt_row(enc, picture, prompt):
    """ids and roles of a row to generate, and whether its prompt had to be cut."""
    room = ROOM - 2  # <|bos|> and <|boi|>
    text = enc.encode_ordinary(prompt)
    ids, roles = make_row(enc, enc.n_vocab, picture, enc.decode(text[:room], errors="ignore"))
    return ids, roles, len(text) > room


def talk_row(enc, picture, turns):
    """ids and roles of a row to understand, and whether it had to be cut."""
    longest = len(picture) + ROOM + 1  # one more: the last token is only predicted
    ids, roles = make_row(enc, enc.n_vocab, picture, turns=turns)
    return ids[:longest], roles[:longest], len(ids) > longest


def validate_on_something(rows):
    """Where pictures are too few to be held out, or all are, the same rows serve for both."""
    for task in TASKS:
        train, val = rows["train", task], rows["val", task]
        if bool(train) != bool(val):
            print(f"no {task} pair is held out (there are few): validation uses training pairs")
            rows["train", task] = train or val
            rows["val", task] = (train or val)[:100]


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
