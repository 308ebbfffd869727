"""
toy/dataset.py: writing a data set, the folder that data.load_dataset() reads.

    with new_dataset(out, sizes, canvas) as part:   # a folder OUT.part with empty arrays
        write_rows(part, ...)                       # as often as it takes
        finish_dataset(part, out, ...)              # OUT.part becomes OUT

Whatever stops it before the end, Ctrl-C too, no half-made folder is left, but by kill -9.
toy/build.py and toy/own.py write so; what takes minutes before may stand under only_maker(out).
Stands on data.py and tools/.

`sizes` says which arrays there are: sizes[split, task] = (rows, tokens of the longest row), with
split "train" or "val", and task "generate" or "understand".
"""
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from data import ARRAYS, VERSION, checksum, encoding_of
from tools.faults import is_full
from tools.files import lock, refuse_unwritable, save_json
from toy.tokenizer import save_tokenizer


def data_folder(out):
    """
    The folder to write, as an absolute path: a new one, or an empty one. Exits with one line if
    it holds anything, which would be lost, or if its parent cannot be made.
    """
    out = Path(out).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "a data set" if (out / "meta.json").exists() else "something"
        sys.exit(f"--out {out}: holds {what} already, which would be lost; "
                 "remove it, or name a new folder")
    refuse_unwritable("--out", out)
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


@contextmanager
def only_maker(out):
    """
    Gives a folder beside `out` that no other process makes a data set in meanwhile. In the end,
    what is left of it is removed.
    """
    part = out.with_name(out.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    if not lock(part):
        sys.exit(f"--out {out}: another process makes a data set there; wait for it, "
                 "or name another folder")
    try:
        yield part
    except (OSError, RuntimeError) as e:
        if not is_full(e):
            raise
        sys.exit(f"--out {out}: the disk is full; nothing was written. "
                 "Make room, or name a folder elsewhere")
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def new_dataset(out, sizes, canvas):
    """Gives the folder of only_maker() with empty arrays."""
    with only_maker(out) as part:
        for file in part.iterdir():  # of an attempt that was killed
            file.unlink()
        for name, shape in array_shapes(sizes, canvas).items():
            dtype = np.uint16 if name.endswith("_ids.npy") else np.uint8
            np.lib.format.open_memmap(part / name, "w+", dtype, shape)
            reserve(part / name)
        yield part


def reserve(file):
    """
    Room on the disk for all of a file. Without it a full disk is found out when a page of memory
    is to be written, which ends the process without a word.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with open(file, "r+b") as f:
        os.posix_fallocate(f.fileno(), 0, os.fstat(f.fileno()).st_size)


def array_shapes(sizes, canvas):
    """{file name: shape} of all arrays of a data set."""
    shapes = {}
    for (split, task), (n_rows, longest) in sizes.items():
        for kind in ARRAYS[task]:
            shape = (n_rows, longest)
            if kind == "pixels":
                shape = (n_rows, canvas, canvas, 3)
            shapes[f"{split}_{task}_{kind}.npy"] = shape
    return shapes


def write_rows(part, split, task, first, rows, pad, pixels=None):
    """
    Writes rows from number `first` on.

    rows    [(ids, roles)], as data.make_row() makes them
    pad     the id that fills the rest of a row
    pixels  (N, S, S, 3) uint8, only with rows to understand: their pictures
    """
    arrays = {}
    for kind in ARRAYS[task]:
        arrays[kind] = np.load(part / f"{split}_{task}_{kind}.npy", mmap_mode="r+")
    here = slice(first, first + len(rows))
    longest = arrays["ids"].shape[1]
    ids, roles = pack(rows, longest, pad)
    arrays["ids"][here] = ids
    arrays["roles"][here] = roles
    if task == "understand":
        arrays["pixels"][here] = pixels


def pack(rows, length, pad):
    """Rows [(ids, roles)] -> ids (N, length) uint16 and roles (N, length) uint8, padded right."""
    all_ids = np.full((len(rows), length), pad, np.uint16)
    all_roles = np.zeros((len(rows), length), np.uint8)
    for i, (ids, roles) in enumerate(rows):
        all_ids[i, :len(ids)] = ids
        all_roles[i, :len(roles)] = roles
    return all_ids, all_roles


def finish_dataset(part, out, about, merges, tok, sizes):
    """
    Adds the image tokenizer and meta.json to the arrays, and makes the folder `part` the data set
    `out`.

    about   what meta.json says first: kind, seed, canvas, n_image
    merges  of the text tokenizer
    tok     the image tokenizer
    """
    save_tokenizer(part / "tokenizer.pt", tok)

    files = {}
    for name, shape in array_shapes(sizes, about["canvas"]).items():
        files[name] = {"shape": shape, "sha256": checksum(part / name)}
    first_image = encoding_of({"merges": merges}).n_vocab
    n_used = first_image + tok.n_codes + 2  # two more: <|cls|> and <|row|>, which evev2 needs
    meta = about | {
        "version": VERSION,
        "block_size": max(longest for _, longest in sizes.values()),
        "first_image": first_image,
        "vocab_size": 64 * -(-n_used // 64),  # a multiple of 64, which products like
        "n_codes": tok.n_codes,
        "tokenizer": checksum(part / "tokenizer.pt"),  # runs keep it, and know theirs by it
        "merges": merges,
        "files": files,
    }
    save_json(part / "meta.json", meta)

    if out.exists() and any(out.iterdir()):  # see data_folder(): it was empty
        sys.exit(f"--out {out}: was filled by something else meanwhile; name another folder")
    shutil.rmtree(out, ignore_errors=True)
    os.replace(part, out)
