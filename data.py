"""
data.py: pictures, words, and the tokens that both become. Read this file first; model.py comes next.

  1. the toy world     scenes of coloured shapes, drawn; captions and questions about them
  2. the judge         a picture back to a scene, by exact rules: the toy counterpart of GenEval's detector
  3. image tokens      a small FSQ autoencoder, trained once and then frozen
  4. text tokens       a tiktoken.Encoding whose merges are learned here
  5. sequences         both tasks as rows of one vocabulary, and the roles of their tokens
  6. data sets         folders of memory-mapped rows, from the toy world or from your own pictures

    python data.py                                                          # the toy world -> data/toy-nano
    python data.py --json pairs.json --images pictures/ --out data/mine     # your own pictures
    python data.py --train_tokenizer                                        # the image tokenizer in assets/, anew
"""
import argparse, ctypes, functools, hashlib, json, os, re, shutil, signal, sys, warnings
from collections import Counter, namedtuple
from contextlib import contextmanager, nullcontext
from itertools import chain, pairwise
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tiktoken
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError
from tqdm import tqdm

VERSION = 4  # of the data: a data set of another version is refused, never misread
CANVAS = {"nano": 48, "small": 64, "base": 64}  # pixels a side; always 8 x 8 patches, so 64 tokens a picture
ASSETS = Path(__file__).parent / "assets"
# freed memory stays with the process: to fetch a step's large tensors anew each time takes a tenth of nano's time on a CPU
if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
    libc.mallopt(-1, -1), libc.mallopt(-4, 0)  # M_TRIM_THRESHOLD: never; M_MMAP_MAX: none


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """--help that tells a default where there is one to tell."""
    def _get_help_string(self, action):
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


# ---------------------------------------------------------------------------------------------------------------------
# 1. the toy world

GROUND = (236, 236, 230)
COLORS = {"red": (214, 39, 40), "blue": (38, 84, 214), "green": (36, 158, 62), "yellow": (247, 208, 30),
          "purple": (126, 46, 172), "orange": (255, 127, 14), "pink": (250, 100, 178), "black": (24, 24, 28)}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = {"small": 5, "large": 8}  # radius, as all lengths of a scene in 48ths of the canvas: only render and judge know of pixels
STEP = 3  # centres are multiples of it: 169 places, at 48 and at 64 pixels alike 2 x 2 ways to stand in a patch, so that few patches mean much
NUMBERS = ("zero", "one", "two", "three", "four")
# POPE asks for absent objects that are random, frequent, or that often go together with a present one. The three differ
# only in a world with habits: colours and shapes are unequally frequent, and each has a companion it likes to be near.
P_COUNT, P_COLOR, P_SHAPE = (.22, .53, .15, .10), (.21, .18, .15, .13, .11, .09, .07, .06), (.34, .28, .22, .16)
P_COMPANION, P_SAME_SHAPE = .3, .22  # the second makes scenes of one shape, which counting captions need
# Never drawn in training: a network that has learned to bind, rather than to remember, can draw these all the same.
HELD_OUT = (("red", "cross"), ("blue", "triangle"), ("green", "square"), ("yellow", "circle"), ("black", "triangle"))

Object = namedtuple("Object", "shape color size x y")  # x, y: the centre, from the top left


def make_scenes(n, seed, held_out=False):
    """n scenes, lists of 1 to 4 Objects. Held-out pairs never occur, unless held_out=True: then the first object drawn is always one."""
    rng = np.random.default_rng(seed)
    count = rng.choice(4, n, p=P_COUNT) + 1
    alive = np.arange(4) < count[:, None]  # (n, 4): which of the four places are taken
    shape, color, size = np.zeros((3, n, 4), int)
    forbidden = np.array([[(c, s) in HELD_OUT for s in SHAPES] for c in COLORS])
    same = rng.random(n) < P_SAME_SHAPE
    for k in range(4):
        todo = np.ones(n, bool)
        while todo.any():  # draw again whatever came out as a held-out pair
            s, c = rng.choice(len(SHAPES), n, p=P_SHAPE), rng.choice(len(COLORS), n, p=P_COLOR)
            if k:
                s = np.where(rng.random(n) < P_COMPANION, (shape[:, k - 1] + 1) % len(SHAPES), s)
                c = np.where(rng.random(n) < P_COMPANION, (color[:, k - 1] + 3) % len(COLORS), c)
                s = np.where(same, shape[:, 0], s)
            elif held_out:
                c, s = np.argwhere(forbidden)[rng.integers(len(HELD_OUT), size=n)].T
            shape[todo, k], color[todo, k] = s[todo], c[todo]
            todo &= forbidden[color[:, k], shape[:, k]] & (not held_out)
    place, radii, todo = np.zeros((n, 4, 2), int), np.array(list(SIZES.values())), np.arange(n)
    while len(todo):  # sizes and centres are drawn anew until nothing overlaps: crowded scenes end up with small objects
        sz = rng.integers(len(radii), size=(len(todo), 4))
        r = radii[sz]
        xy = STEP * rng.integers(-(-r // STEP)[..., None], ((48 - r) // STEP)[..., None], size=(len(todo), 4, 2), endpoint=True)
        gap = np.abs(xy[:, :, None] - xy[:, None]).max(-1) - r[:, :, None] - r[:, None]  # (m, 4, 4)
        clash = (gap < 3) & alive[todo][:, :, None] & alive[todo][:, None] & ~np.eye(4, dtype=bool)
        fits = ~clash.any((1, 2))
        size[todo[fits]], place[todo[fits]] = sz[fits], xy[fits]
        todo = todo[~fits]
    names, sizes = list(COLORS), list(SIZES)
    return [in_order([Object(SHAPES[shape[i, k]], names[color[i, k]], sizes[size[i, k]], *place[i, k].tolist()) for k in range(count[i])])
            for i in range(n)]


def in_order(scene):
    """Reading order: thirds of the canvas from the top, then left to right."""
    return sorted(scene, key=lambda o: (o.y // 16, o.x))


@functools.cache
def shape_mask(shape, size, canvas):
    """The antialiased mask of a shape, an 'L' picture around its centre (19 pixels a side at 48): drawn 8 times as large, then reduced."""
    half = 9 * canvas // 48
    big = Image.new("L", (16 * half + 8, 16 * half + 8))
    draw, m, r = ImageDraw.Draw(big), 8 * half + 4, SIZES[size] * canvas / 48 * 8
    if shape == "circle":
        draw.ellipse((m - r, m - r, m + r, m + r), fill=255)
    elif shape == "square":
        draw.rectangle((m - r * .95, m - r * .95, m + r * .95, m + r * .95), fill=255)
    elif shape == "triangle":
        draw.polygon([(m, m - r), (m + r, m + r * .8), (m - r, m + r * .8)], fill=255)
    else:  # cross
        draw.rectangle((m - r, m - r * .36, m + r, m + r * .36), fill=255)
        draw.rectangle((m - r * .36, m - r, m + r * .36, m + r), fill=255)
    return big.reduce(8)


def render(scene, canvas=48):
    """A scene as a Pillow picture of canvas x canvas pixels."""
    picture = Image.new("RGB", (canvas, canvas), GROUND)
    for o in scene:
        mask = shape_mask(o.shape, o.size, canvas)
        x, y = (round(v * canvas / 48) - mask.width // 2 for v in (o.x, o.y))
        picture.paste(COLORS[o.color], (x, y), mask)
    return picture


def render_all(scenes, canvas=48):
    """Scenes as pictures (N, canvas, canvas, 3) uint8."""
    return np.stack([np.asarray(render(s, canvas)) for s in scenes])


def relations(a, b):
    """Where a is, seen from b. GenEval's rule: of the centres' offset, less a tenth of the summed extents, what is over half its length counts."""
    d = np.array([a.x - b.x, a.y - b.y], float)
    slack = .1 * 2 * (SIZES[a.size] + SIZES[b.size])
    d = np.sign(d) * np.maximum(np.abs(d) - slack, 0) / max(np.hypot(*d), 1e-9)
    sides = {"left of": d[0] < -.5, "right of": d[0] > .5, "above": d[1] < -.5, "below": d[1] > .5}
    return {name for name, on in sides.items() if on}


TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr", "dense")  # GenEval's six, and one of our own
KINDS = ("existence", "count", "color", "shape", "position", "describe")
WORDINGS = ("a photo of {}", "a picture of {}", "draw {}", "{}")


def an(*words):
    words = " ".join(words)
    return ("an " if words[0] in "aeiou" else "a ") + words


def dense(scene):
    return ", ".join(f"{o.size} {o.color} {o.shape}" for o in scene)


def caption(scene, rng, tag=None):
    """A true caption of the scene, every object mentioned, as a GenEval record (tag, include, exclude, prompt); None if the tag does not fit."""
    first, other = (scene[-1], scene[0]) if rng.random() < .5 else (scene[0], scene[-1])
    fits, sides = [], sorted(relations(first, other))
    if len(scene) == 1:
        fits = ["single_object", "colors"]
    elif len({o.shape for o in scene}) == 1:
        fits = ["counting"]
    elif len(scene) == 2:
        fits = ["two_object"] + ["position"] * 2 * bool(sides) + ["color_attr"] * (first.color != other.color)  # the hardest twice
    if tag is None:  # a third are dense, and all of what no other tag can say, as that teaches binding
        tag = fits[rng.integers(len(fits))] if fits and rng.random() > .35 else "dense"
    elif tag not in fits + ["dense"]:
        return None
    exclude = []
    if tag in ("single_object", "two_object", "colors", "color_attr"):
        colored, objects = tag.startswith("color"), [first, other][:len(scene)]
        include = [{"class": o.shape, "count": 1} | ({"color": o.color} if colored else {}) for o in objects]
        text = " and ".join(an(o.color, o.shape) if colored else an(o.shape) for o in objects)
    elif tag == "counting":
        include = [{"class": first.shape, "count": len(scene)}]
        exclude = [{"class": first.shape, "count": len(scene) + 1}]
        text = f"{NUMBERS[len(scene)]} {plural(first.shape)}"
    elif tag == "position":
        side = sides[rng.integers(len(sides))]
        include = [{"class": other.shape, "count": 1}, {"class": first.shape, "count": 1, "position": [side, 0]}]
        text = f"{an(first.shape)} {side} {an(other.shape)}"
    else:  # dense: exactly these objects
        kinds = Counter(o[:3] for o in scene)
        include = [{"class": s, "count": n, "color": c, "size": z} for (s, c, z), n in kinds.items()]
        exclude, text = [{"class": "object", "count": len(scene) + 1}], dense(scene)
    wording = WORDINGS[rng.integers(len(WORDINGS))] if tag != "dense" else "{}"
    return {"tag": tag, "include": include, "exclude": exclude, "prompt": wording.format(text)}


def plural(shape):
    return shape + ("es" if shape.endswith("s") else "s")


def questions(scene, rng, hidden=frozenset(HELD_OUT)):
    """
    [(kind, question, answer)] in random order, at most one for each of KINDS. About half are yes/no questions, balanced; the others are open.
    Pairs in `hidden` are never asked for in vain, or 'no' would be learned for them.
    """
    out, coin, pick = [], lambda: rng.random() < .5, lambda items: items[rng.integers(len(items))]

    def ask(kind, closed, truth, others, opened=None):
        """The open question, whose answer is the truth; or the closed one about the truth (yes) or about one of the others (no)."""
        if opened and coin():
            out.append((kind, opened, truth.removesuffix(" of")))
        else:
            yes = coin()
            out.append((kind, closed(truth if yes else pick([x for x in others if x != truth])), "yes" if yes else "no"))

    shapes, colors, pairs = Counter(o.shape for o in scene), Counter(o.color for o in scene), Counter((o.color, o.shape) for o in scene)
    o = pick(scene)
    # existence: the absent object often shares its colour or its shape with a present one, or a glance would do
    absent = [(c, s) for c in COLORS for s in SHAPES if (c, s) not in pairs and (c, s) not in hidden]
    near = [p for p in absent if p[0] == o.color or p[1] == o.shape]
    ask("existence", lambda p: f"is there {an(*p)}?", (o.color, o.shape), near if near and coin() else absent)
    # count: of a shape or of a colour, now and then of an absent one; or which of two there is more of
    names, n, own, say = (SHAPES, shapes, o.shape, plural) if coin() else (list(COLORS), colors, o.color, "{} objects".format)
    uneven = [x for x in names if n[x] != n[own]]
    if uneven and rng.random() < .25:
        less, more = sorted((own, pick(uneven)), key=lambda x: n[x])
        ask("count", lambda p: f"are there more {say(p[0])} than {say(p[1])}?", (more, less), [(less, more)])
    else:
        what = pick(names) if rng.random() < .25 else own
        ask("count", lambda m: f"is the number of {say(what)} {m}?", NUMBERS[n[what]], NUMBERS, f"how many {say(what)} are there?")
    # colour and shape: of an object that the other attribute names uniquely
    if lone := [o for o in scene if shapes[o.shape] == 1]:
        o = pick(lone)
        ask("color", lambda c: f"is the {o.shape} {c}?", o.color, [c for c in COLORS if (c, o.shape) not in hidden], f"what color is the {o.shape}?")
    if lone := [o for o in scene if colors[o.color] == 1]:
        o = pick(lone)
        ask("shape", lambda s: f"is the {o.color} object {an(s)}?", o.shape, [s for s in SHAPES if (o.color, s) not in hidden],
            f"what shape is the {o.color} object?")
    # position: 'no' is the opposite side, so that no answer hangs on a borderline; the open question has one answer only
    lone = [o for o in scene if pairs[o.color, o.shape] == 1]
    if seen := [(p, q, sides) for p in lone for q in lone if p is not q and (sides := sorted(relations(p, q)))]:
        p, q, sides = pick(seen)
        one, two, side = f"the {p.color} {p.shape}", f"the {q.color} {q.shape}", pick(sides)
        opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[side]
        ask("position", lambda s: f"is {one} {s} {two}?", side, [opposite], f"where is {one}, seen from {two}?" if len(sides) == 1 else None)
    # last, as earlier turns must not be answerable by reading it
    return [out[i] for i in rng.permutation(len(out))] + [("describe", "describe the picture.", dense(scene))]


# ---------------------------------------------------------------------------------------------------------------------
# 2. the judge

@functools.cache
def templates(canvas):
    """Every shape and size, also one pixel off the centre: masks (72, w, w) in 0 .. 1, and what each one is."""
    what = [(s, z, dx, dy) for s in SHAPES for z in SIZES for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return torch.stack([F.pad(torch.from_numpy(np.array(shape_mask(s, z, canvas)) / 255).float(), (1 + dx, 1 - dx, 1 + dy, 1 - dy))
                        for s, z, dx, dy in what]), what


@torch.no_grad()
def judge(pictures):
    """
    Pictures back to scenes: (N, S, S, 3) uint8 -> N lists of Objects. What is no clean object becomes Object("blob", ...).
      colour   connected pixels that differ from the ground are one object; its colour is the palette's nearest to the median
               of the half that differs most (antialiased edges are mixtures with the ground, so they differ less)
      shape    how far each pixel has gone from the ground to that colour is its coverage; the template (shape and size) that
               overlaps it best, by soft intersection over union, wins, if it reaches 0.7
      place    the centre of that template
    A speck of less than a tenth of a small square does not count.
    """
    S, scenes = pictures.shape[1], []
    masks, what = templates(S)
    half = masks.size(1) // 2
    ground = torch.tensor(GROUND).float()
    axes = torch.tensor(list(COLORS.values())) - ground  # (8, 3): the ways from the ground to the colours
    for picture in pictures:
        off, scene = torch.from_numpy(picture.astype(np.float32)) - ground, []  # (S, S, 3)
        far = off.norm(dim=-1)
        mask = (far > 60).float()
        label = mask * torch.arange(1, S * S + 1).view(S, S)
        while not torch.equal(label, grown := F.max_pool2d(label[None], 3, 1, 1)[0] * mask):
            label = grown  # every pixel takes its neighbourhood's largest label until nothing changes: one label an object
        for l in label.unique().tolist():
            own = label == l
            ys, xs = torch.nonzero(own, as_tuple=True)
            if l == 0 or len(ys) < .005 * S * S:
                continue
            cy, cx = int(ys.min() + ys.max() + 1) // 2, int(xs.min() + xs.max() + 1) // 2
            core = off[own][far[own] >= far[own].median()]
            color = int((axes - core.median(0).values).norm(dim=-1).argmin())
            coverage = (off @ axes[color] / (axes[color] @ axes[color])).clamp(0, 1)
            coverage, own = F.pad(torch.stack([coverage, own.float()]), (half,) * 4)[:, cy:cy + 2 * half + 1, cx:cx + 2 * half + 1]
            coverage = coverage * F.max_pool2d(own[None], 3, 1, 1)[0]  # of the object with its faint rim
            both = torch.minimum(coverage, masks).sum((1, 2))
            score, best = (both / (coverage.sum() + masks.sum((1, 2)) - both)).max(0)
            shape, size, dx, dy = what[best] if score >= .7 else ("blob", "large" if len(ys) > .055 * S * S else "small", 0, 0)
            scene.append(Object(shape, list(COLORS)[color], size, round((cx + dx) * 48 / S), round((cy + dy) * 48 / S)))
        scenes.append(in_order(scene))
    return scenes


def same_scene(a, b):
    """Whether two scenes are equal: as many objects, and each of a in b within one pixel (a's own are further apart)."""
    return len(a) == len(b) and all(any(o[:3] == p[:3] and abs(o.x - p.x) <= 1 and abs(o.y - p.y) <= 1 for p in b) for o in a)


# ---------------------------------------------------------------------------------------------------------------------
# 3. image tokens

class Block(nn.Module):
    """A residual block at token resolution: depthwise convolution (look around), then an MLP (think)."""
    def __init__(self, n_ch, kernel=3):
        super().__init__()
        self.conv = nn.Conv2d(n_ch, n_ch, kernel, padding=kernel // 2, groups=n_ch)
        self.norm = nn.LayerNorm(n_ch)
        self.up, self.down = nn.Linear(n_ch, 2 * n_ch), nn.Linear(2 * n_ch, n_ch)

    def forward(self, x):  # (B, H, W, C)
        h = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.down(F.gelu(self.up(self.norm(h))))


class ImageTokenizer(nn.Module):
    """
    An autoencoder with finite scalar quantisation (Mentzer et al. 2023, arXiv 2309.15505): a patch becomes len(levels) numbers, each rounded to one
    of a few values, so the codebook is a grid that is given and cannot collapse. The encoder looks at one patch at a time: the same patch is the same
    token wherever it stands, which makes the sequences easy to learn (trial on an earlier toy world, one seed: 70 nats a picture after 400 steps;
    36 tokens of 8-pixel patches that had looked around, 114 after 600). The decoder looks around to join the patches.
    """
    def __init__(self, patch=6, n_ch=128, levels=(8, 5, 5, 5)):
        super().__init__()
        self.config = {"patch": patch, "n_ch": n_ch, "levels": list(levels)}
        self.patch, self.levels, self.n_codes = patch, tuple(levels), int(np.prod(levels))
        self.patchify = nn.Conv2d(3, n_ch, patch, patch)
        self.encoder = nn.Sequential(Block(n_ch, 1), Block(n_ch, 1), nn.LayerNorm(n_ch), nn.Linear(n_ch, len(levels)))
        self.decoder = nn.Sequential(nn.Linear(len(levels), n_ch), Block(n_ch), Block(n_ch), Block(n_ch), nn.LayerNorm(n_ch))
        self.unpatchify = nn.ConvTranspose2d(n_ch, 3, patch, patch)
        self.register_buffer("L", torch.tensor(levels).float(), persistent=False)
        self.register_buffer("base", torch.tensor([1, *levels[:-1]]).cumprod(0), persistent=False)  # what a digit is worth in a code

    def quantize(self, z):
        """Bounded to (-1/2, L - 1/2) and rounded: each channel is a digit 0 .. L-1. Gradients pass straight through."""
        z = torch.sigmoid(z) * (self.L - 1e-3) - .5 + 5e-4
        return z + (z.round() - z).detach()

    def encode_digits(self, x):  # (B, 3, S, S) in [-1, 1] -> (B, h, w, D)
        return self.quantize(self.encoder(self.patchify(x).permute(0, 2, 3, 1)))

    def decode_digits(self, d):  # (B, h, w, D) -> (B, 3, S, S)
        return self.unpatchify(self.decoder(d / (self.L - 1) * 2 - 1).permute(0, 3, 1, 2))

    def pixels(self, pictures):
        """(B, S, S, 3) uint8 -> (B, 3, S, S) in [-1, 1], on the network's device."""
        return torch.from_numpy(np.array(pictures)).to(self.L.device).permute(0, 3, 1, 2) / 127.5 - 1

    @torch.no_grad()
    def encode(self, pictures, batch=256):
        """(N, S, S, 3) uint8 -> (N, tokens) codes, row by row from the top left; a code's digits are in base `levels`."""
        digits = (self.encode_digits(self.pixels(pictures[i:i + batch])) for i in range(0, len(pictures), batch))
        return torch.cat([(d.round().long() * self.base).sum(-1).flatten(1).cpu() for d in digits])

    @torch.no_grad()
    def decode(self, codes, batch=256):
        """(N, tokens) codes -> (N, S, S, 3) uint8; the picture is square."""
        side = int(codes.shape[1] ** .5)
        digits = (c.to(self.L.device).view(-1, side, side, 1) // self.base % self.L for c in codes.split(batch))
        return np.concatenate([((self.decode_digits(d) + 1) * 127.5).clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy() for d in digits])


def train_image_tokenizer(get, n, steps, patch, lr=2e-3, seed=0):
    """Trains on n pictures, get(some of their numbers) -> (B, S, S, 3) uint8, with L1 plus L2 loss. Returns the tokenizer, in eval mode."""
    torch.manual_seed(seed)
    tok = ImageTokenizer(patch).to("cuda" if torch.cuda.is_available() else "cpu")
    opt = torch.optim.AdamW(tok.parameters(), lr=lr, betas=(.9, .98), weight_decay=1e-4, fused=True)
    for step in (bar := tqdm(range(steps), desc="image tokenizer")):
        opt.param_groups[0]["lr"] = lr * min(1, (step + 1) / 100, (steps - step) / steps * 1.5)
        x = tok.pixels(get(np.random.default_rng([seed, step]).integers(n, size=32)))
        y = tok.decode_digits(tok.encode_digits(x))
        loss = (x - y).abs().mean() + (x - y).square().mean()
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tok.parameters(), 1.)
        opt.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
    return tok.eval()


# ---------------------------------------------------------------------------------------------------------------------
# 4. text tokens

PATTERN = r" ?\w+| ?[^\w\s]+|\s+"  # merges stay inside words
SPECIAL = ("<|bos|>", "<|boi|>", "<|eoi|>", "<|answer|>", "<|end|>", "<|null|>", "<|pad|>")


def learn_merges(texts, n_text):
    """Byte pair encoding (Sennrich et al. 2016): up to n_text tokens, the 256 bytes first, so any text encodes. Returns the others, as Latin-1."""
    tokens = [chr(b) for b in range(256)]
    spell = lambda word: [tokens[ord(x)] for x in word]  # in a word, the character chr(i) stands for token i: so a merge is a replace()
    words = Counter(w.encode().decode("latin-1") for t in texts for w in re.findall(PATTERN, t))
    while len(tokens) < n_text and any(len(word) > 1 for word in words):
        pairs = Counter()
        for word, n in words.items():
            for i in range(len(word) - 1):
                pairs[word[i:i + 2]] += n
        best = max(pairs, key=lambda p: (pairs[p], spell(p)))  # ties by bytes: the same texts give the same merges anywhere
        words = {word.replace(best, chr(len(tokens))): n for word, n in words.items()}
        tokens.append("".join(spell(best)))
    return tokens[256:]


def encoding_of(meta):
    """A data set's tiktoken.Encoding, special tokens inside. encode_ordinary() never makes special ones, whatever a user types."""
    tokens = [bytes([b]) for b in range(256)] + [m.encode("latin-1") for m in meta["merges"]]
    return tiktoken.Encoding("nanoaia", pat_str=PATTERN, mergeable_ranks={t: i for i, t in enumerate(tokens)},
                             special_tokens={s: len(tokens) + i for i, s in enumerate(SPECIAL)})


# ---------------------------------------------------------------------------------------------------------------------
# 5. sequences

TASKS = ("generate", "understand")
TARGET, QUERY, KEY = 1, 2, 4  # roles of a token, bits of one byte


def make_row(enc, first_image, codes, prompt=None, turns=()):
    """
    One sequence: ids and roles. TARGET: predicted in this task. KEY and QUERY: a key and a query of the interaction.

    generate, given a prompt (caption): image tokens from text.
        position   0        1      2        3         4         5             6             ...   68
        token      <|bos|>  a      ⎵red     ⎵circle   <|boi|>   img           img           ...   img
        roles      -        KEY    KEY      KEY       QUERY     TARGET+QUERY  TARGET+QUERY  ...   TARGET

    understand, given turns [(question, answer), ...]: answers from image tokens.
        position   0        1        2     ...  65    66       67    68      69   70    71       72  73          74            75       76
        token      <|bos|>  <|boi|>  img   ...  img   <|eoi|>  what  ⎵color  ⎵is  ⎵the  ⎵circle  ?   <|answer|>  red           <|end|>  is ...
        roles      -        -        KEY   ...  KEY   -        -     -       -    -     -        -   QUERY       TARGET+QUERY  TARGET   -

    A query is a place from which a target is predicted, one before it: a one-word answer is decided at <|answer|>, and its own place would only
    tell how <|end|> was found. (The paper takes the answer's own tokens, which for long answers is the same but for one.)
    """
    sp, text = enc._special_tokens, enc.encode_ordinary
    image = [first_image + int(c) for c in codes]
    if prompt is not None:
        parts = [([sp["<|bos|>"]], 0), (text(prompt), KEY), ([sp["<|boi|>"]], 0), (image, TARGET)]
    else:
        parts = [([sp["<|bos|>"], sp["<|boi|>"]], 0), (image, KEY), ([sp["<|eoi|>"]], 0)]
        for question, answer in turns:
            parts += [([*text(question), sp["<|answer|>"]], 0), ([*text(answer), sp["<|end|>"]], TARGET)]
    ids, roles = [i for tokens, _ in parts for i in tokens], [role for tokens, role in parts for _ in tokens]
    return ids, [r | QUERY if n & TARGET else r for r, n in zip(roles, roles[1:] + [0])]


def pack(rows, length, pad):
    """Rows to two arrays (N, length), padded on the right: ids (uint16) and roles (uint8)."""
    ids, roles = np.full((len(rows), length), pad, np.uint16), np.zeros((len(rows), length), np.uint8)
    for i, (t, r) in enumerate(rows):
        ids[i, :len(t)], roles[i, :len(r)] = t, r
    return ids, roles


def to_batch(ids, roles, pixels=None, drop=None, null=None, device="cpu", c=None):
    """
    What the model and the losses need of rows (B, T + 1): idx (B, T) inputs, targets (B, T), masks (B, T): at (a target follows), query, key;
    their task; to understand also pixels (B, S, S, 3) uint8. c: the Config of a model that wants its rows otherwise.
    drop (B,): rows whose prompt becomes <|null|> (for classifier-free guidance); they have no keys.
    """
    if c and pixels is not None:
        ids, roles = frame(ids, c), frame(roles, c, KEY)
    elif c and c.split:  # the last image token is an input too, though nothing follows it, so that every row has as many
        ids, roles = (np.pad(x, ((0, 0), (0, 1))) for x in (ids, roles))
    ids, roles = torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(np.array(roles))
    key = roles & KEY > 0
    if drop is not None:
        gone = key & torch.from_numpy(drop)[:, None]
        ids, key = ids.masked_fill(gone, null), key & ~gone
    out = {"idx": ids[:, :-1], "targets": ids[:, 1:], "at": roles[:, 1:] & TARGET > 0, "query": roles[:, :-1] & QUERY > 0, "key": key[:, :-1]}
    out |= {} if pixels is None else {"pixels": torch.from_numpy(np.array(pixels))}
    # from pinned memory a copy goes on beside the computing
    ready = torch.Tensor.pin_memory if "cuda" in str(device) else torch.Tensor.contiguous
    return {k: ready(v).to(device, non_blocking=True) for k, v in out.items()} | {"task": TASKS[pixels is not None]}


def frame(row, c, fill=None):
    """Rows (..., T) with what `evev2` adds to a picture to understand, or `fill` there: <|cls|> before it and <|row|> after each row of patches."""
    if c.see != "patches":
        return row
    side, cls = round(c.n_image ** .5), c.first_image + int(np.prod(c.levels))  # image tokens, their ids right after the codes'
    at = np.arange(2, 3 + c.n_image, side)  # after <|bos|> <|boi|>, and so on
    return np.insert(row, at, [cls] + [cls + 1] * side if fill is None else fill, axis=-1)


# ---------------------------------------------------------------------------------------------------------------------
# 6. data sets

# a data set is a folder: meta.json, tokenizer.pt and, per split and task, these arrays as .npy (pixels are for networks that see them: model.PRESETS)
ARRAYS = {"generate": ("ids", "roles"), "understand": ("ids", "roles", "pixels")}


def save_json(path, value):
    """Atomically: a reader sees the old file or the new one, never half of one."""
    Path(f"{path}.part").write_text(json.dumps(value, indent=1))
    os.replace(f"{path}.part", path)


def save_tokenizer(path, tok, half=False):
    torch.save({"config": tok.config, "weights": {k: v.half() if half else v for k, v in tok.state_dict().items()}}, f"{path}.part")
    os.replace(f"{path}.part", path)


def load_tokenizer(path, device="cpu"):
    try:
        saved = torch.load(path, weights_only=True, map_location=device)
        tok = ImageTokenizer(**saved["config"]).to(device)
        tok.load_state_dict({k: v.float() for k, v in saved["weights"].items()})
        return tok.eval()
    except FileNotFoundError:
        sys.exit(f"{path}: no image tokenizer here; make one with: python data.py --train_tokenizer")
    except Exception as e:
        sys.exit(f"{path}: not a readable image tokenizer ({type(e).__name__}); restore it, or make it anew: python data.py --train_tokenizer")


def data_folder(out):
    """The folder a data set may be written to: a new one, or an empty one; anything else would be lost."""
    out = Path(out).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "a data set" if (out / "meta.json").exists() else "something"
        sys.exit(f"--out {out}: holds {what} already, which would be lost; remove it, or name a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        sys.exit(f"--out {out}: cannot be made ({e.strerror}); name another folder")
    return out


@contextmanager
def new_dataset(out, meta, merges, tok, sizes):
    """Gives a folder whose arrays, sizes[split, task] = (rows, longest row), await write_rows(), and in the end makes it the data set `out`."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        shapes, S, first_image = {}, meta["canvas"], encoding_of({"merges": merges}).n_vocab
        for (split, task), (n, longest) in sizes.items():
            for kind in ARRAYS[task]:
                shape = shapes[f"{split}_{task}_{kind}.npy"] = (n, S, S, 3) if kind == "pixels" else (n, longest)
                np.lib.format.open_memmap(part / f"{split}_{task}_{kind}.npy", "w+", np.uint16 if kind == "ids" else np.uint8, shape)
        yield part
        save_tokenizer(part / "tokenizer.pt", tok)
        save_json(part / "meta.json", meta | {
            "version": VERSION, "block_size": max(longest for _, longest in sizes.values()), "first_image": first_image,
            "vocab_size": -(-(first_image + tok.n_codes + 2) // 64) * 64, "n_codes": tok.n_codes, "merges": merges,
            "files": {name: {"shape": shape, "sha256": checksum(part / name)} for name, shape in shapes.items()}})
        shutil.rmtree(out, ignore_errors=True)
        os.replace(part, out)
    finally:  # an interrupted build leaves nothing half made
        shutil.rmtree(part, ignore_errors=True)


def write_rows(part, split, task, at, rows, pad, pixels=None):
    """Rows [(ids, roles)], and to understand their pictures (N, S, S, 3) uint8, into the arrays of new_dataset() from row `at` on."""
    arrays = [np.load(part / f"{split}_{task}_{kind}.npy", mmap_mode="r+") for kind in ARRAYS[task]]
    for array, new in zip(arrays, (*pack(rows, arrays[0].shape[1], pad), pixels)):
        array[at:at + len(rows)] = new


def checksum(file):
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def load_dataset(folder):
    """A data set: .meta, .enc (text tokenizer) and .rows[split][task] = its ARRAYS, memory-mapped. Exits with one line if it is damaged."""
    folder = Path(folder)
    try:
        meta = json.loads((folder / "meta.json").read_text())
    except FileNotFoundError:
        sys.exit(f"{folder}: no data set here (no meta.json); make one with: python data.py --out {folder}")
    except ValueError as e:
        sys.exit(f"{folder}/meta.json: not JSON ({e}); remove the folder and make the data set again")
    if meta.get("version") != VERSION:
        sys.exit(f"{folder}: a data set of version {meta.get('version')}, this code reads {VERSION}; remove the folder and make it again")
    for name, about in meta["files"].items():
        file = folder / name
        if not file.exists() or checksum(file) != about["sha256"]:
            sys.exit(f"{file}: {'differs from its checksum' if file.exists() else 'is missing'}; remove {folder} and make the data set again")
    rows = {split: {task: tuple(np.load(folder / f"{split}_{task}_{kind}.npy", mmap_mode="r") for kind in ARRAYS[task])
                    for task in TASKS if f"{split}_{task}_ids.npy" in meta["files"]} for split in ("train", "val")}
    return SimpleNamespace(meta=meta, enc=encoding_of(meta), rows=rows, folder=folder)


CHUNK = 40_000  # scenes that are made up at a time: there must be memory for twice as many
PIECE = 1000  # of them, a process draws and puts into tokens at a time


def toy_rows(piece, part, tok, enc, canvas, longest):
    """piece (split, at, [(scene, prompt, turns, alone)]): draws the scenes and writes their rows, both tasks', from `at` on."""
    split, at, work = piece
    pixels, pad = render_all([w[0] for w in work], canvas), enc._special_tokens["<|pad|>"]
    drawn, seen = [], []
    for codes, (_, prompt, turns, alone) in zip(tok.encode(pixels).numpy(), work):
        drawn.append(make_row(enc, enc.n_vocab, codes, prompt))
        turns = turns[-1:] if alone else turns
        while len((row := make_row(enc, enc.n_vocab, codes, turns=turns))[0]) > longest:  # describing alone always fits
            turns = turns[:-2] + turns[-1:]
        seen.append(row)
    write_rows(part, split, "generate", at, drawn, pad)
    write_rows(part, split, "understand", at, seen, pad, pixels)
    return len(work)


def become_worker():
    """One thread a process; Ctrl-C is for the process that started it."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def build_toy(out, size="nano", n=40_000, seed=0):
    """The toy world as a data set: n scenes, each as one generate row and one understand row, and up to 1,000 more for validation."""
    out, canvas, rng = data_folder(out), CANVAS[size], np.random.default_rng(seed)
    path = ASSETS / f"tokenizer-{canvas}.pt"
    if not path.exists():
        print(f"{path} is missing: training the image tokenizer for {canvas} x {canvas} pixels first")
        train_toy_tokenizer(path, canvas)
    tok, counts = load_tokenizer(path), {"train": n, "val": min(n, 1000)}

    def chunks():
        for split, m in counts.items():
            for at in range(0, m, CHUNK):
                scenes = make_scenes(min(CHUNK, m - at), [seed, split == "val", at // CHUNK])
                prompts = [caption(s, rng)["prompt"] for s in scenes]
                turns = [[t[1:] for t in questions(s, rng)] for s in scenes]
                alone = rng.random(len(scenes)) < .15  # only described: or it would learn to describe only at the end of a conversation
                work = list(zip(scenes, prompts, turns, alone))
                yield [(split, at + i, work[i:i + PIECE]) for i in range(0, len(work), PIECE)]

    todo = chunks()
    first = next(todo)
    known = [w for _, _, work in first for w in work][:5000]
    merges = learn_merges([text for _, prompt, turns, _ in known for text in (prompt, *chain(*turns))], 512)
    todo = chain([first], todo)
    del first, known  # or they would be kept in memory to the end
    enc, n_image = encoding_of({"merges": merges}), (canvas // tok.patch) ** 2
    # nothing to draw is longer than four objects with the longest words; all that is asked about a picture fits as a rule: up to six turns
    words = 4 * max(len(enc.encode_ordinary(f", {z} {c} {s}")) for z in SIZES for c in COLORS for s in SHAPES) - 1
    longest = n_image + max(60, len(enc.encode_ordinary("describe the picture.")) + words + 5)
    sizes = {(split, task): (m, longest if task == "understand" else 2 + n_image + words) for split, m in counts.items() for task in TASKS}
    meta = {"kind": "toy", "seed": seed, "canvas": canvas, "n_image": n_image}
    workers = min(torch.get_num_threads(), 8) if n > 10 * PIECE else 0
    with (new_dataset(out, meta, merges, tok, sizes) as part, tqdm(total=sum(counts.values()), desc="toy world", unit=" scenes") as bar,
          get_context("spawn").Pool(workers, become_worker) if workers else nullcontext() as pool):
        make = functools.partial(toy_rows, part=part, tok=tok, enc=enc, canvas=canvas, longest=longest)
        jobs = ((pool.imap_unordered if pool else map)(make, chunk) for chunk in todo)
        for job, _ in pairwise(chain(jobs, [None])):  # asks for the next chunk, which is made up here meanwhile, before it waits for this one
            for k in job:
                bar.update(k)


def read_picture(path, canvas):
    """Any file that Pillow reads -> RGB, its centre square, canvas x canvas; transparency on white. Raises ValueError with the reason."""
    reasons = {FileNotFoundError: "no such file", UnidentifiedImageError: "no picture that Pillow can read",
               Image.DecompressionBombError: "picture with far too many pixels; reduce it first"}
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            picture = Image.open(path)
            if max(picture.size) > 10_000:
                raise ValueError(f"picture of {picture.size[0]} x {picture.size[1]} pixels, more than 10,000 a side; reduce it first")
            picture = ImageOps.exif_transpose(picture).convert("RGBA")
    except ValueError:
        raise
    except Exception as e:  # Pillow's readers raise whatever a broken file makes them trip over
        raise ValueError(reasons.get(type(e), f"broken picture ({e})"))
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(ImageOps.fit(Image.alpha_composite(white, picture).convert("RGB"), (canvas, canvas), Image.LANCZOS))


def read_record(record, images):
    """One LLaVA-style record -> (picture file, prompt or None, turns). Raises ValueError with the reason if it is unusable."""
    def need(ok, reason):
        if not ok:
            raise ValueError(reason)

    need(isinstance(record, dict), f"is a {type(record).__name__}, not an object")
    image, talk = record.get("image"), record.get("conversations")
    need(image and isinstance(image, str), "'image' is no file name")
    need(isinstance(talk, list) and talk and len(talk) % 2 == 0, "'conversations' is no list of human and gpt turns in pairs")
    for turn, who in zip(talk, ("human", "gpt") * len(talk)):
        said = isinstance(turn, dict) and turn.get("from") == who and isinstance(turn.get("value"), str)
        need(said, f"a turn is not {{'from': '{who}', 'value': text}}")
    asked, told = [t["value"].replace("<image>", "").strip() for t in talk[::2]], [t["value"].strip() for t in talk[1::2]]
    need(all(asked + told), "a turn has an empty text")
    draws = "<image>" in told
    need(not draws or len(talk) == 2, "a generation pair has one human and one gpt turn")
    return Path(images) / image, asked[0] if draws else None, [] if draws else list(zip(asked, told))


def build_real(file, images, out, size="nano", seed=0, steps=3000):
    """Your own pictures as a data set (design: LLaVA-style JSON). Bad records are reported and skipped; none left is an error."""
    try:
        records = json.loads(Path(file).read_text("utf-8-sig"))
    except FileNotFoundError:
        sys.exit(f"{file}: no such file; --json names a LLaVA-style list of records")
    except (ValueError, OSError) as e:
        sys.exit(f"{file}: not JSON ({e})")
    if not isinstance(records, list):
        sys.exit(f"{file}: holds a {type(records).__name__}, not a list of records")
    out, canvas, pictures, where, good = data_folder(out), CANVAS[size], [], {}, []
    for number, record in enumerate(tqdm(records, desc="reading pictures")):
        try:
            path, prompt, turns = read_record(record, images)
            if path not in where:
                pictures.append(read_picture(path, canvas))
                where[path] = len(pictures) - 1
            good.append((where[path], prompt, turns))
        except ValueError as e:
            tqdm.write(f"record {number}: {record.get('image', '') if isinstance(record, dict) else record!r:.40}: {e}")
    print(f"{file}: {len(good)} of {len(records)} records are usable, {len(records) - len(good)} skipped; {len(pictures)} pictures")
    if not good:
        sys.exit(f"{file}: no usable record; correct the reasons above (--images is the folder that 'image' is relative to)")
    pictures = np.stack(pictures)
    tok = train_image_tokenizer(lambda some: pictures[some], len(pictures), steps, canvas // 8, seed=seed)
    merges = learn_merges([text for _, prompt, turns in good for text in ([prompt] if prompt else chain(*turns))], 1024)
    enc, codes = encoding_of({"merges": merges}), tok.encode(pictures).numpy()
    n_image, cut = codes.shape[1], 0
    longest = n_image + 128  # tokens; more is cut, and counted
    rows = {(split, task): [] for split in ("train", "val") for task in TASKS}  # of each its ids and roles, and the number of its picture
    held = set(np.random.default_rng(seed).permutation(len(pictures))[:min(500, len(pictures) // 20)])  # by picture: both tasks the same
    for i, prompt, turns in good:
        if prompt:
            text = enc.encode_ordinary(prompt)
            cut += len(text) > longest - n_image - 2
            ids, roles = make_row(enc, enc.n_vocab, codes[i], enc.decode(text[:longest - n_image - 2]))
        else:
            ids, roles = make_row(enc, enc.n_vocab, codes[i], turns=turns)
            cut += len(ids) > longest + 1
            ids, roles = ids[:longest + 1], roles[:longest + 1]
        if any(r & TARGET for r in roles):  # else the question alone filled it
            rows["val" if i in held else "train", "generate" if prompt else "understand"].append(((ids, roles), i))
    if not any(rows["train", task] for task in TASKS):
        sys.exit(f"{file}: no usable record; the questions are longer than the {longest} tokens that a row holds, and leave no room for an answer")
    for task in TASKS:  # too few pictures to hold any out: validate on what is there
        if rows["train", task] and not rows["val", task]:
            print(f"no {task} pair is held out (there are few): validation uses training pairs")
            rows["val", task] = rows["train", task][:100]
    widths = {task: max((len(ids) for split in ("train", "val") for (ids, _), _ in rows[split, task]), default=0) for task in TASKS}
    sizes = {(split, task): (len(some), widths[task]) for (split, task), some in rows.items() if some}
    with new_dataset(out, {"kind": "real", "seed": seed, "canvas": canvas, "n_image": n_image}, merges, tok, sizes) as part:
        for split, task in sizes:
            some, of = zip(*rows[split, task])
            write_rows(part, split, task, 0, some, enc._special_tokens["<|pad|>"], pictures[list(of)] if task == "understand" else None)
    if cut:
        print(f"{cut} texts were longer than the {longest} tokens that a row holds and were cut, or left out where no answer remained")
    sheet = np.vstack([np.hstack(x[:12]) for x in (pictures, tok.decode(torch.from_numpy(codes[:12])))])
    ImageOps.scale(Image.fromarray(sheet), 2).save(out / "tokenizer.png")
    print(f"{out}: {', '.join(f'{len(some)} {task} rows to {split}' for (split, task), some in rows.items())}\n"
          f"{out / 'tokenizer.png'}: originals over reconstructions, {len(np.unique(codes))} of {tok.n_codes} codes in use\n"
          f"next: python train.py --data {out}")


def ceiling(tok, canvas, n=2000, seed=2**31 + 1):
    """Shares of true and of reconstructed pictures that the judge parses exactly, and of codes in use: what no drawing can beat."""
    scenes = make_scenes(n, seed)
    pictures = render_all(scenes, canvas)
    codes = tok.encode(pictures)
    shares = [float(np.mean([same_scene(s, j) for s, j in zip(scenes, judge(p))])) for p in (pictures, tok.decode(codes))]
    return *shares, len(codes.unique()) / tok.n_codes


def train_toy_tokenizer(path, canvas, steps=3000, seed=0):
    """The toy world's image tokenizer for a canvas, saved in half precision. Prints what the judge makes of it."""
    scenes = make_scenes(50_000, [seed, 2])
    get = lambda some: render_all([scenes[i] for i in some], canvas)
    save_tokenizer(path, train_image_tokenizer(get, len(scenes), steps, canvas // 8, seed=seed), half=True)
    true, rebuilt, used = ceiling(load_tokenizer(path), canvas)
    print(f"{path}: the judge parses {true:.2%} of true and {rebuilt:.2%} of reconstructed pictures exactly; {used:.0%} of the codes in use")


if __name__ == "__main__":
    p = argparse.ArgumentParser(description="Make a data set: the toy world by default, or your own pictures with --json.", formatter_class=Help)
    p.add_argument("--size", choices=CANVAS, default="nano", help="canvas: nano 48 x 48 pixels, small and base 64 x 64")
    p.add_argument("--n", type=int, default=40_000, help="toy world: scenes to train on")
    p.add_argument("--seed", type=int, default=0, help="everything follows from it")
    p.add_argument("--out", help="folder to write (default: data/toy-SIZE; with --json: data/ and the file's name)")
    p.add_argument("--json", help="LLaVA-style list of records; 'gpt' saying <image> makes a generation pair, else a dialogue")
    p.add_argument("--images", default=".", help="folder that the records' 'image' is relative to")
    p.add_argument("--train_tokenizer", action="store_true", help="train the toy world's image tokenizer anew, into assets/")
    p.add_argument("--tokenizer_steps", type=int, default=3000, help="steps to train an image tokenizer")
    args = p.parse_args()
    if args.n < 1 or args.tokenizer_steps < 1:
        sys.exit(f"--n {args.n} --tokenizer_steps {args.tokenizer_steps}: at least 1 is wanted")
    signal.signal(signal.SIGINT, lambda *_: sys.exit("\nstopped before anything was written"))
    if args.train_tokenizer:
        train_toy_tokenizer(ASSETS / f"tokenizer-{CANVAS[args.size]}.pt", CANVAS[args.size], args.tokenizer_steps, args.seed)
    elif args.json:
        build_real(args.json, args.images, args.out or f"data/{Path(args.json).stem}", args.size, args.seed, args.tokenizer_steps)
    else:
        out = args.out or f"data/toy-{args.size}"
        build_toy(out, args.size, args.n, args.seed)
        print(f"{out}: {args.n} scenes, each to draw and to ask about\nnext: python train.py --data {out}")
