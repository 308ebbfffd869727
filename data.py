"""
data.py: pictures and words become tokens, tokens become rows, rows become batches.
Read this file first; model.py comes next. It imports nothing of ours (but for a tokenizer of
systems/, when it is to load one).

  1. image tokens   a small autoencoder, trained once and then frozen
  2. text tokens    a tiktoken.Encoding whose merges are learned from the data set's own text
  3. rows           both tasks as sequences over one vocabulary, and the roles of their tokens
  4. batches        all that a network is told of each token
  5. data sets      folders of memory-mapped rows

Data sets of the toy world and of your own pictures are made in toy/, and their tokenizers too:

    python data.py                                                       # the toy world
    python data.py --json pairs.json --images pictures/ --out data/mine  # your own pictures
"""
import hashlib
import json
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tiktoken
import torch
import torch.nn as nn
import torch.nn.functional as F

VERSION = 8  # of the data's format and words: a data set of another is refused, never misread
ASSETS = Path(__file__).parent / "assets"
TASKS = ("generate", "understand")

# ---------------------------------------------------------------------------------------------
# 1. image tokens


class Block(nn.Module):
    """A residual block on a grid of tokens: a convolution looks around, then an MLP thinks."""

    def __init__(self, n_ch, kernel=3):
        super().__init__()
        self.conv = nn.Conv2d(n_ch, n_ch, kernel, padding=kernel // 2, groups=n_ch)
        self.norm = nn.LayerNorm(n_ch)
        self.up = nn.Linear(n_ch, 2 * n_ch)
        self.down = nn.Linear(2 * n_ch, n_ch)

    def forward(self, x):  # (B, H, W, C)
        around = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        hidden = F.gelu(self.up(self.norm(around)))
        return x + self.down(hidden)


class ImageTokenizer(nn.Module):
    """
    An autoencoder with finite scalar quantisation (Mentzer et al. 2023, arXiv 2309.15505).

    A patch of pixels becomes a few numbers, and each number is rounded to one of `levels` values:
    a digit. All digits of a patch together are its code, the image token. So the codebook is a
    grid that is given, not learned, and cannot collapse.

    The encoder looks at one patch at a time: the same patch is the same token wherever it stands,
    which makes the sequences easy to learn. The decoder looks around, to join the patches.
    """

    def __init__(self, patch=8, n_ch=128, levels=(8, 5, 5, 5)):
        super().__init__()
        self.config = {"patch": patch, "n_ch": n_ch, "levels": list(levels)}
        self.patch = patch
        self.levels = tuple(levels)
        self.n_codes = int(np.prod(levels))
        self.patchify = nn.Conv2d(3, n_ch, patch, patch)
        self.encoder = nn.Sequential(Block(n_ch, 1), Block(n_ch, 1), nn.LayerNorm(n_ch),
                                     nn.Linear(n_ch, len(levels)))
        self.decoder = nn.Sequential(nn.Linear(len(levels), n_ch), Block(n_ch), Block(n_ch),
                                     Block(n_ch), nn.LayerNorm(n_ch))
        self.unpatchify = nn.ConvTranspose2d(n_ch, 3, patch, patch)
        # levels, and what a digit is worth in a code, as the places of a number
        worth = torch.tensor([1, *levels[:-1]]).cumprod(0)
        self.register_buffer("L", torch.tensor(levels).float(), persistent=False)
        self.register_buffer("worth", worth, persistent=False)

    def quantize(self, z):
        """Squeezed into (-1/2, L - 1/2) and rounded to 0 .. L - 1; gradients pass straight on."""
        z = torch.sigmoid(z) * (self.L - 1e-3) - .5 + 5e-4
        return z + (z.round() - z).detach()

    def encode_digits(self, x):
        """x (B, 3, S, S) in [-1, 1] -> digits (B, h, w, D), D = len(levels)"""
        patches = self.patchify(x).permute(0, 2, 3, 1)
        return self.quantize(self.encoder(patches))

    def decode_digits(self, digits):
        """digits (B, h, w, D) -> (B, 3, S, S) in [-1, 1], about"""
        centred = digits / (self.L - 1) * 2 - 1
        return self.unpatchify(self.decoder(centred).permute(0, 3, 1, 2))

    def pixels(self, pictures):
        """(B, S, S, 3) uint8 -> (B, 3, S, S) in [-1, 1], on the network's device"""
        x = torch.from_numpy(np.array(pictures)).to(self.L.device)
        return x.permute(0, 3, 1, 2) / 127.5 - 1

    @torch.no_grad()
    def encode(self, pictures, batch=256):
        """(N, S, S, 3) uint8 -> codes (N, n_image), row by row from the top left"""
        codes = []
        for i in range(0, len(pictures), batch):
            digits = self.encode_digits(self.pixels(pictures[i:i + batch])).round().long()
            code = (digits * self.worth).sum(-1)  # (B, h, w)
            codes.append(code.flatten(1).cpu())
        return torch.cat(codes)

    @torch.no_grad()
    def decode(self, codes, batch=256):
        """codes (N, n_image) -> (N, S, S, 3) uint8; the picture is square"""
        side = int(codes.shape[1] ** .5)
        pictures = []
        for part in codes.split(batch):
            code = part.to(self.L.device).view(-1, side, side, 1)
            digits = code // self.worth % self.L
            x = (self.decode_digits(digits) + 1) * 127.5
            pictures.append(x.clamp(0, 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(pictures)


def shifted(codes, levels):
    """Codes of image tokens with each digit larger by one; the largest becomes 0."""
    new = torch.zeros_like(codes)
    worth = 1
    for n_values in levels:
        new += (codes // worth + 1) % n_values * worth
        worth *= n_values
    return new


def load_tokenizer(path, device="cpu"):
    """The image tokenizer in a file, frozen. Exits with one line if there is none to read."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load() checks no checksum
            if archive.testzip():
                raise ValueError("a part differs from its checksum")
        saved = torch.load(path, weights_only=True, map_location=device)
        kind = ImageTokenizer
        if saved["config"].get("semantic"):
            from systems.semantic import SemanticTokenizer  # only when there is one to be read
            kind = SemanticTokenizer
        tok = kind(**saved["config"]).to(device)
        tok.load_state_dict({name: w.float() for name, w in saved["weights"].items()})
    except Exception as e:  # a damaged file may trip torch anywhere
        remedy = "copy it from the data set, or make that again"
        if Path(path).parent == ASSETS:
            remedy = "make it anew: python data.py --train_tokenizer, with the --size that needs it"
            if "speckled" in Path(path).name:
                remedy += " and --speckled"
            if "semantic" in Path(path).name:
                remedy = "make it anew: python -m systems.semantic"
        sys.exit(f"{path}: no image tokenizer that can be read ({type(e).__name__}); {remedy}")
    return tok.eval()


# ---------------------------------------------------------------------------------------------
# 2. text tokens
#
# One vocabulary for all: first the text ids, then the special ids, then the image ids.

PATTERN = r" ?\w+| ?[^\w\s]+|\s+"  # words: no token reaches over the end of one
SPECIAL = ("<|bos|>", "<|boi|>", "<|eoi|>", "<|answer|>", "<|end|>", "<|null|>", "<|pad|>")


def special_id(name, first_image):
    """The id of a special token, which follows from where the image ids begin."""
    return first_image - len(SPECIAL) + SPECIAL.index(name)


def encoding_of(meta):
    """
    A data set's text tokenizer, a tiktoken.Encoding with the special tokens inside. Its
    encode_ordinary() never makes special ones, whatever a user types. Its tokens are the 256 bytes,
    so that any text can be spelled, and what was often found side by side in the data set's text
    (byte pair encoding, see toy/merges.py).
    """
    tokens = [bytes([b]) for b in range(256)]
    tokens += [merged.encode("latin-1") for merged in meta["merges"]]
    ranks = {token: i for i, token in enumerate(tokens)}
    special = {name: len(tokens) + i for i, name in enumerate(SPECIAL)}
    return tiktoken.Encoding("nanoaia", pat_str=PATTERN, mergeable_ranks=ranks,
                             special_tokens=special)


# ---------------------------------------------------------------------------------------------
# 3. rows

TARGET, WATCHING, WATCHED = 1, 2, 4  # roles of a token, bits of one byte


def make_row(enc, first_image, codes, prompt=None, turns=()):
    """
    One sequence: ids and roles, two lists. TARGET: is predicted in this task. WATCHED and
    WATCHING: the interaction is the attention that WATCHED tokens receive from WATCHING ones.

    generate, given a prompt (caption): image tokens watch the text.
        position   0        1        2        3         4         5        6    ...  39   40
        token      <|bos|>  a        ⎵red     ⎵circle   <|boi|>   img      img  ...  img  img
        TARGET                                                    x        x    ...  x    x
        WATCHED             x        x        x
        WATCHING                                        x         x        x    ...  x

    understand, given turns [(question, answer), ...]: answers watch the image tokens.
        position   0        1        2    ...  37   38       39    ...  44  45          46   47
        token      <|bos|>  <|boi|>  img  ...  img  <|eoi|>  what  ...  ?   <|answer|>  red  <|end|>
        TARGET                                                                          x    x
        WATCHED                      x    ...  x
        WATCHING                                                            x           x

    WATCHING is where a target is predicted, which is one place before it: `red` at <|answer|>, and
    <|end|> at `red`. (The paper takes the answer's own places: it would miss the first, where a
    one-word answer is decided.)
    """
    special = enc._special_tokens
    image = [first_image + int(code) for code in codes]
    parts = [([special["<|bos|>"]], 0)]  # (ids, their role)
    if prompt is not None:
        parts.append((enc.encode_ordinary(prompt), WATCHED))
        parts.append(([special["<|boi|>"]], 0))
        parts.append((image, TARGET))
    else:
        parts.append(([special["<|boi|>"]], 0))
        parts.append((image, WATCHED))
        parts.append(([special["<|eoi|>"]], 0))
        for question, answer in turns:
            parts.append(([*enc.encode_ordinary(question), special["<|answer|>"]], 0))
            parts.append(([*enc.encode_ordinary(answer), special["<|end|>"]], TARGET))
    ids = []
    roles = []
    for tokens, role in parts:
        ids += tokens
        roles += [role] * len(tokens)
    for i in range(len(roles) - 1):
        if roles[i + 1] & TARGET:
            roles[i] |= WATCHING
    return ids, roles


# ---------------------------------------------------------------------------------------------
# 4. batches


def describe(ids, roles, first_image, n_codes, n_image, route=None):
    """
    All that a network is told of each token, so that it counts nothing itself and a row may hold
    any pieces of text and any number of pictures, in any order. ids, roles (B, T) -> a dict of
    arrays (B, T):

      ids        the tokens
      place      where in its picture it stands: 0 .. n_image - 1, and n_image if in none
      picture    which picture of its row it belongs to: 0, 1, ...; -1 if to none
      is_target  whether it is to be predicted
      generated  whether it belongs to a picture that is being generated (not one to understand)
      drawing    its task: whether what is predicted next, from it on, is of a picture
      copy       which copy of the weights it takes: 0 or 1
      watched    whether the interaction sums the attention that it receives
      watching   whether it is one of the tokens whose attention is looked at

    route, for a network whose weights exist twice, picks the copy: "modality" | "generated" |
    "task". Otherwise all take copy 0.
    """
    is_code = (ids >= first_image) & (ids < first_image + n_codes)
    nth = is_code.cumsum(1) - 1  # how many image tokens stand before this one
    is_target = (roles & TARGET) > 0
    generated = is_target & is_code
    row = {
        "ids": ids,
        "place": np.where(is_code, nth % n_image, n_image),
        "picture": np.where(is_code, nth // n_image, -1),
        "is_target": is_target,
        "generated": generated,
        "drawing": draws_next(is_target, generated),
        "watched": (roles & WATCHED) > 0,
        "watching": (roles & WATCHING) > 0,
    }
    if route == "modality":
        row["copy"] = ids >= first_image
    elif route == "generated":
        row["copy"] = generated
    elif route == "task":
        row["copy"] = row["drawing"]
    else:
        row["copy"] = np.zeros_like(is_code)
    return row


def draws_next(is_target, generated):
    """
    (B, T): whether the next target after a token, however far, is of a picture. After the last
    target: whether that one was.
    """
    B, T = is_target.shape
    last = np.where(is_target, np.arange(T), -1).max(1)  # (B,)
    ahead = generated[np.arange(B), last]
    result = np.empty((B, T), bool)
    for t in reversed(range(T)):
        result[:, t] = ahead
        ahead = np.where(is_target[:, t], generated[:, t], ahead)
    return result


def pad_left(starts, n, stand_in):
    """
    B rows of different lengths, each a pair of lists: ids, roles; padded on the left, so that all
    go on at the same place, and longer by n targets of the id `stand_in`. Returns ids and roles
    (B, T), and how many tokens of each are padding, a list.
    """
    longest = max(len(ids) for ids, _ in starts)
    shape = (len(starts), longest + n)
    ids = np.full(shape, stand_in)
    roles = np.full(shape, TARGET)
    pad = []
    for b, (start_ids, start_roles) in enumerate(starts):
        first = longest - len(start_ids)
        pad.append(first)
        ids[b, :first] = 0
        ids[b, first:longest] = start_ids
        roles[b, :first] = 0
        roles[b, first:longest] = start_roles
    return ids, roles, pad


def window(row, first, last, device="cpu"):
    """
    Tokens first .. last - 1 of described rows, as the network takes them: tensors (B, T) on the
    device, named as in describe(), but for is_target. What each of them is to predict stands one
    further:

      targets         the next token
      loss            whether the next token is a target: its prediction counts in the loss
      next_generated  whether the next token belongs to a picture that is being generated

    And three counts, plain numbers, so that no GPU is waited for:

      copy_sizes   [how many tokens take copy 0, how many copy 1]
      loss_sizes   [how many targets are words, how many are of a picture being generated]
      n_generated  how many tokens belong to a picture that is being generated
    """
    now = slice(first, last)
    after = slice(first + 1, last + 1)
    batch = {}
    for name in ("ids", "place", "picture", "generated", "drawing", "copy", "watched", "watching"):
        batch[name] = row[name][:, now]
    batch["targets"] = row["ids"][:, after]
    batch["loss"] = row["is_target"][:, after]
    batch["next_generated"] = row["generated"][:, after]
    second = int(batch["copy"].sum())
    copy_sizes = [batch["copy"].size - second, second]
    drawn = int((batch["loss"] & batch["next_generated"]).sum())
    loss_sizes = [int(batch["loss"].sum()) - drawn, drawn]
    n_generated = int(batch["generated"].sum())
    batch = {name: send(torch.from_numpy(x), device) for name, x in batch.items()}
    return batch | {"copy_sizes": copy_sizes, "loss_sizes": loss_sizes, "n_generated": n_generated}


def send(x, device):
    if "cuda" in str(device):
        return x.pin_memory().to(device, non_blocking=True)  # is copied while the GPU computes
    return x.contiguous().to(device)


def to_batch(ids, roles, first_image, n_codes, n_image, route=None, pixels=None, drop=None,
             device="cpu", whole=False):
    """
    Stored rows, ids and roles (B, T + 1), as the network and the losses take them: a dict, see
    window(). The next four arguments are those of describe().

    pixels  (P, S, S, 3) uint8: the pictures to understand, in the order in which they stand in
            the rows; only a network that sees pixels looks at them
    drop    (B,) bool: rows whose prompt becomes <|null|>, for classifier-free guidance; they
            have no watched tokens
    whole   whether a picture being drawn is wanted to its last token, which foretells nothing
    """
    ids = ids.astype(np.int64)
    roles = np.array(roles)
    any_generated = (((roles & TARGET) > 0) & (ids >= first_image)).any()
    if (whole or route is not None) and any_generated:
        # window() takes no last column, where the longest rows have an image token, the others
        # padding; with one column more all keep all of their picture. (Where there are copies, as
        # their shares are to have the same sizes in every batch: each size costs time anew)
        ids = np.pad(ids, ((0, 0), (0, 1)))
        roles = np.pad(roles, ((0, 0), (0, 1)))
    row = describe(ids, roles, first_image, n_codes, n_image, route)
    if drop is not None:
        hidden = row["watched"] & drop[:, None]
        row["ids"][hidden] = special_id("<|null|>", first_image)
        row["watched"] &= ~hidden
    batch = window(row, 0, ids.shape[1] - 1, device)
    if pixels is not None:
        batch["pixels"] = send(torch.from_numpy(np.array(pixels)), device)
    return batch


# ---------------------------------------------------------------------------------------------
# 5. data sets
#
# A data set is a folder: meta.json, tokenizer.pt (of images) and, for each split and task, these
# arrays as SPLIT_TASK_ARRAY.npy. The pixels are for networks that see them.

ARRAYS = {"generate": ("ids", "roles"), "understand": ("ids", "roles", "pixels")}
FILES = [f"{split}_{task}_{array}.npy" for split in ("train", "val") for task in TASKS
         for array in ARRAYS[task]] + ["tokenizer.pt"]
META = {"kind": str, "canvas": int, "n_image": int, "block_size": int, "vocab_size": int,
        "first_image": int, "merges": list, "files": dict}


def checksum(file):
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def refuse(folder, file, why):
    sys.exit(f"{file}: {why}; remove {folder} and make the data set again")


def refuse_damaged(folder, meta):
    """Exits with one line if a file is not what a data set's meta.json says of it."""
    files = meta["files"]
    if "tokenizer" in meta:  # older data sets do not know theirs
        files = files | {"tokenizer.pt": {"sha256": meta["tokenizer"]}}
    for name, about in files.items():
        file = folder / name
        if name not in FILES or not isinstance(about, dict):
            refuse(folder, file, "is no file of a data set")
        if not file.is_file():
            refuse(folder, file, "is missing")
        if checksum(file) != about.get("sha256"):
            refuse(folder, file, "differs from its checksum")


def read_meta(folder):
    """What a data set's meta.json says. Exits with one line if it cannot be used."""
    file = folder / "meta.json"
    try:
        meta = json.loads(file.read_text())
    except FileNotFoundError:
        sys.exit(f"{folder}: no data set here (no meta.json); "
                 f"make one with: python data.py --out {folder}")
    except (ValueError, RecursionError) as e:
        refuse(folder, file, f"not JSON ({e})")
    if not isinstance(meta, dict):
        refuse(folder, file, "is no object")
    version = meta.get("version")
    if version != VERSION:
        refuse(folder, file, f"of a data set of version {version}, this code reads {VERSION}")
    for name, kind in META.items():
        if not isinstance(meta.get(name), kind):
            refuse(folder, file, f"has no {name}")
    return meta


def load_dataset(folder):
    """
    A data set: .meta, .enc (its text tokenizer), .folder, and .rows[split][task], a tuple of its
    ARRAYS, memory-mapped. Exits with one line if it cannot be read.
    """
    folder = Path(folder)
    meta = read_meta(folder)
    refuse_damaged(folder, meta)
    try:
        enc = encoding_of(meta)
    except Exception as e:  # what is no text may trip tiktoken anywhere
        refuse(folder, folder / "meta.json", f"its merges are none ({e})")
    rows = {"train": {}, "val": {}}
    for split, tasks in rows.items():
        for task, arrays in ARRAYS.items():
            files = [folder / f"{split}_{task}_{array}.npy" for array in arrays]
            if files[0].name not in meta["files"]:
                continue
            try:
                tasks[task] = tuple(np.load(file, mmap_mode="r") for file in files)
                ids, roles = tasks[task][:2]
                fits = ids.shape == roles.shape and len(ids) == len(tasks[task][-1])
                if not fits or ids.dtype.kind != "u" or ids.max() >= meta["vocab_size"]:
                    raise ValueError("they do not fit together")
            except Exception as e:  # damage may trip numpy anywhere
                refuse(folder, files[0], f"no rows that can be read ({e})")
    if rows["train"].keys() != rows["val"].keys():
        refuse(folder, folder, "has rows to train on, and none of that task to validate")
    return SimpleNamespace(meta=meta, enc=enc, rows=rows, folder=folder)


if __name__ == "__main__":
    from toy.command import main
    main()
