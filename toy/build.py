"""
toy/build.py: the toy world as a data set (python data.py).

Scenes are made up a chunk at a time, with their captions and questions, from one stream of random
numbers. Pieces of a chunk are then drawn, put into tokens and written, by processes side by side;
in which order does not matter, as each piece knows its rows. Meanwhile the next chunk is made up.
Stands on data.py, tools/ and the rest of toy/.
"""
import signal
import sys
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import product
from multiprocessing import get_context

import numpy as np
import torch
from tqdm import tqdm

from data import TASKS, WATCHED, encoding_of, load_tokenizer, make_row
from tools.device import keep_freed_memory
from tools.processes import die_with_parent
from toy.dataset import data_folder, finish_dataset, new_dataset, write_rows
from toy.merges import learn_merges
from toy.tokenizer import tokenizer_path, train_toy_tokenizer
from toy.words import (can_be_silent, caption, has_held_out, questions, says_held_out,
                       silent_caption)
from toy.words import told as words_of
from toy.world import CANVAS, COLORS, SHAPES, SIZES, make_scenes, render_all

CHUNK = 40_000  # scenes that are made up at a time; there must be memory for twice as many
PIECE = 1000    # scenes of a chunk that a process takes at a time
STOPPING = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and kill

# a chunk or a piece: scenes number first .. first + n - 1 of a split ("train" or "val")
Span = namedtuple("Span", "split first n")
# what is said of a scene: a caption, and [(question, answer)]
Told = namedtuple("Told", "scene prompt turns")


def build_toy(out, size="nano", n=40_000, seed=0, is_speckled=False, is_told=False,
              tok=None):
    """
    n scenes of the toy world, and up to 1,000 more for validation, as a data set in the folder
    `out`. Each scene is one row to generate and one to understand. All follows from the seed.

    size         of the network: "nano", "small" or "base"; it decides the canvas
    is_speckled  see world.speckled()
    is_told      no scene is drawn, each is told in words, see told_row(): rows for a network of
                 text alone, with the same text tokenizer
    tok          another image tokenizer than the toy world's, see systems/semantic.py
    """
    out = data_folder(out)
    canvas = CANVAS[size]
    is_semantic = tok is not None
    tok = tok or tokenizer_for(canvas, is_speckled)
    n_image = (canvas // tok.patch) ** 2
    counts = {"train": n, "val": min(n, 1000)}
    chunks = cut("train", 0, counts["train"], CHUNK) + cut("val", 0, counts["val"], CHUNK)

    # the first chunk also teaches the text tokenizer
    rng = np.random.default_rng(seed)
    told = make_up(chunks[0], seed, rng)
    merges = learn_merges(texts_of(told[:5000]), 512)
    enc = encoding_of({"merges": merges})

    sizes = {}
    for split, n_rows in counts.items():
        for task in ("understand",) if is_told else TASKS:
            sizes[split, task] = (n_rows, longest_row(task, enc, n_image))

    with new_dataset(out, sizes, canvas) as folder:
        if is_told:
            work = partial(write_told, folder=folder, enc=enc, canvas=canvas, sizes=sizes)
        else:
            work = partial(write_piece, folder=folder, tok=tok, enc=enc, canvas=canvas,
                           sizes=sizes, speckle=[seed] if is_speckled else None)
        bar = tqdm(total=sum(counts.values()), desc="toy world", unit=" scenes")
        with bar, start_workers(n) as pool:
            for i, chunk in enumerate(chunks):
                done = begin(pool, work, chunk, told)
                if i + 1 < len(chunks):  # meanwhile, the next chunk
                    told = make_up(chunks[i + 1], seed, rng)
                for n_scenes in done:
                    bar.update(n_scenes)
        kind = "told" if is_told else "toy"
        about = {"kind": kind, "seed": seed, "canvas": canvas, "n_image": n_image}
        if is_speckled:
            about["speckled"] = True
        if is_semantic:
            about["semantic"] = True
        finish_dataset(folder, out, about, merges, tok, sizes)


def tokenizer_for(canvas, is_speckled):
    """The toy world's image tokenizer in assets/; it is trained first if it is not there."""
    path = tokenizer_path(canvas, is_speckled)
    if not path.exists():
        print(f"{path} is missing: training the image tokenizer for {canvas} x {canvas} pixels "
              "first")
        train_toy_tokenizer(path, canvas, is_speckled=is_speckled)
    return load_tokenizer(path)


def cut(split, first, n, length):
    """n scenes from number `first` on, as Spans of at most `length`."""
    spans = []
    for start in range(first, first + n, length):
        spans.append(Span(split, start, min(length, first + n - start)))
    return spans


# -------------------------------------------------------------------------------------------------
# scenes and words

def make_up(chunk, seed, rng):
    """[Told]: the scenes of a chunk, and what is said of each."""
    chunk_seed = [seed, chunk.split == "val", chunk.first // CHUNK]
    scenes = make_scenes(chunk.n, chunk_seed)
    # a held-out pair takes the place of every fifth scene, as long as there are some of which
    # something can be said: so about every sixth shows one
    held_out = make_scenes(chunk.n // 5, [*chunk_seed, 1], held_out=True)
    held_out = [scene for scene in held_out if can_be_silent(scene)]
    for i, scene in enumerate(held_out):
        scenes[5 * i] = scene
    return [Told(scene, *tell(scene, rng)) for scene in scenes]


def tell(scene, rng):
    """
    A caption of a scene, and [(question, answer)]. Most scenes are asked about, some are described,
    and some both. Nothing that is said names a held-out pair.

    To look an object up among others is learned last. So of three and more objects up to two are
    asked for by place, and where one is, seen from another, twice, if there are as many twos; what
    a row has no room for is left out.

    Where a scene lets us choose, its caption does not even have both words of one. If "red",
    "cross", "orange" and "circle" always meant a red circle and an orange cross, that is what the
    network would learn, rather than which word goes with which.
    """
    record = silent_caption(scene, rng) if can_be_silent(scene) else caption(scene, rng)
    n_place = 2 if len(scene) > 2 else 1
    asked = questions(scene, rng, n_place=n_place, n_position=2)
    turns = [(question, answer) for _, question, answer in asked]
    if has_held_out(scene):
        return record["prompt"], [turn for turn in turns if not says_held_out(*turn)]
    what = rng.random()
    if what < .1:
        turns = turns[-1:]  # the description
    elif what > .4:
        turns = turns[:-1]  # all but the description
    return record["prompt"], turns


def texts_of(told):
    """All captions, questions and answers, one after the other."""
    texts = []
    for _, prompt, turns in told:
        texts.append(prompt)
        for turn in turns:
            texts.extend(turn)
    return texts


def longest_row(task, enc, n_image):
    """
    How many tokens a row of this task may have. None to generate is longer: no caption has more
    words than four objects, each with its longest. Of the talks, of up to eight turns, many do not
    fit as they are; fitting_row() shortens them.
    """
    longest_object = 0
    for size, color, shape in product(SIZES, COLORS, SHAPES):
        tokens = enc.encode_ordinary(f", {size} {color} {shape}")
        longest_object = max(longest_object, len(tokens))
    words = 4 * longest_object - 1            # the first has no comma before it
    if task == "generate":
        return 2 + n_image + words            # 2: <|bos|> and <|boi|>
    # 5: <|bos|> <|boi|> <|eoi|> <|answer|> <|end|>
    described = len(enc.encode_ordinary("describe the picture.")) + words + 5
    return n_image + max(60, described)


# -------------------------------------------------------------------------------------------------
# pieces, by processes side by side

def start_workers(n):
    """A pool of processes. For few scenes there is none, and `with ... as pool` gives None."""
    if n <= 10 * PIECE:
        return nullcontext()
    workers = min(torch.get_num_threads(), 8)
    return ProcessPoolExecutor(workers, get_context("spawn"), become_worker)


def become_worker():
    """One thread a process; Ctrl-C is for the process that started it, and its end is ours."""
    die_with_parent()
    keep_freed_memory()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # see undisturbed()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def begin(pool, work, chunk, told):
    """Hands out a chunk in pieces. Gives, piece by piece, how many scenes are done."""
    pieces = []
    for span in cut(chunk.split, chunk.first, chunk.n, PIECE):
        start = span.first - chunk.first
        pieces.append((span, told[start:start + span.n]))
    if pool is None:
        return map(work, pieces)  # here, and not before it is asked for
    with undisturbed():
        jobs = [pool.submit(work, piece) for piece in pieces]  # the first also starts the workers
    return results_of(jobs)


@contextmanager
def undisturbed():
    """
    Ctrl-C and kill wait meanwhile: a pool that is half started cannot be stopped. They are blocked
    so that the workers, which inherit that, start undisturbed; and they are noted, as another
    thread of this process may take them all the same.
    """
    noted = []
    handlers = {}
    for number in STOPPING:
        handlers[number] = signal.signal(number, lambda number, frame: noted.append(number))
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    yield
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if noted:
        signal.raise_signal(noted[0])


def results_of(jobs):
    """Results as they come. Exits with one line if a worker was killed, or found the disk full."""
    try:
        for job in as_completed(jobs):
            yield job.result()
    except BrokenProcessPool:
        sys.exit("a process that draws scenes was killed, perhaps for want of memory; "
                 "nothing was written. Try again, or with a smaller --n")


def write_piece(piece, folder, tok, enc, canvas, sizes, speckle):
    """Draws the scenes of a piece and writes their rows of both tasks. Returns how many."""
    span, told = piece
    if speckle:
        speckle = [*speckle, span.split == "val", span.first]
    pixels = render_all([t.scene for t in told], canvas, speckle)  # (N, canvas, canvas, 3)
    codes = tok.encode(pixels).numpy()                       # (N, n_image)
    _, longest = sizes[span.split, "understand"]
    to_generate = []
    to_understand = []
    for t, picture in zip(told, codes):
        to_generate.append(make_row(enc, enc.n_vocab, picture, t.prompt))
        to_understand.append(fitting_row(enc, picture, t.turns, longest))
    pad = enc._special_tokens["<|pad|>"]
    write_rows(folder, span.split, "generate", span.first, to_generate, pad)
    write_rows(folder, span.split, "understand", span.first, to_understand, pad, pixels)
    return span.n


def fitting_row(enc, picture, turns, longest, make_row=make_row):
    """A row to understand, of as many turns as fit. The last, which may describe, always does."""
    while True:
        ids, roles = make_row(enc, enc.n_vocab, picture, turns=turns)
        if len(ids) <= longest:
            return ids, roles
        turns = turns[:-2] + turns[-1:]


def write_told(piece, folder, enc, canvas, sizes):
    """
    Writes the scenes of a piece as they are told; for one that shows a held-out pair, which nothing
    may name, another stands. There are no pictures: pixels are 0. Returns how many.
    """
    span, told = piece
    _, longest = sizes[span.split, "understand"]
    silent = [t for t in told if not has_held_out(t.scene)]
    rows = []
    for i in range(span.n):
        t = silent[i % len(silent)]
        rows.append(fitting_row(enc, t.scene, t.turns, longest, told_row))
    pixels = np.zeros((span.n, canvas, canvas, 3), np.uint8)
    write_rows(folder, span.split, "understand", span.first, rows, enc._special_tokens["<|pad|>"],
               pixels)
    return span.n


def told_row(enc, first_image, scene, turns):
    """
    data.make_row() of a scene that is told: words stand between <|boi|> and <|eoi|>, in the place
    of a picture.
    """
    ids, roles = make_row(enc, first_image, (), turns=turns)
    words = enc.encode_ordinary(words_of(scene))
    return ids[:2] + words + ids[2:], roles[:2] + [WATCHED] * len(words) + roles[2:]
