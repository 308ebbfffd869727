"""
systems/siglip.py: the toy world's SigLIP (Zhai et al. 2023, arXiv 2303.15343), from which the
encoder in systems/encoder.py has its first weights. Read that file first.

    python -m systems.siglip    # makes assets/encoder.pt and results/siglip.md

Two towers, one for pictures and one for words, turn each into a direction. Of all pairs of a
picture and a saying in a batch each is asked alone whether the two belong together (eq. 1):

    loss = -1/B sum_ij log sigmoid(z_ij (scale x_i y_j + bias))    z_ij = 1 if they do, else -1

Scale and bias are learned. At first the scale is 10, and the bias log(p / (1 - p)) of p = 1/B, as
one of B pairs belongs together. What is kept is the tower of pictures; the other is thrown away.

No picture here shows a held-out pair, and no saying names one: what a network makes of them
later it has not from here.
"""
import sys
import time
from math import log
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from tqdm import tqdm

from model import Block, Config, Layout, RMSNorm
from systems import init_weights
from systems.encoder import FILE, N_HEAD, WIDTH, VisionTransformer
from tools.device import (find_device, keep_freed_memory, name_of, name_of_processor,
                          set_products)
from tools.files import save_state
from tools.flags import Parser, refuse_beyond, speak_plainly
from tools.muon import optimizers
from toy.words import place_of, told
from toy.world import COLORS, SHAPES, SIZES, make_scenes, render_all

PAIRS = 256  # a step
SEED = 3  # beside the user's: of scenes that are no data set's
PLACES = ("top", "bottom", "left", "right", "middle")
WORDS = ("", ",", *SIZES, *COLORS, *SHAPES, *PLACES)  # the first stands where nothing is said
LONGEST = 4 * 5 + 3  # four objects of up to five words, and commas


def as_words(sayings):
    """Sayings, see words.told(), as numbers of WORDS (N, LONGEST)"""
    ids = torch.zeros(len(sayings), LONGEST, dtype=torch.long)
    for i, text in enumerate(sayings):
        numbers = [WORDS.index(word) for word in text.replace(",", " ,").split()]
        ids[i, :len(numbers)] = torch.tensor(numbers)
    return ids


# ---------------------------------------------------------------------------------------------
# the towers


class TextTower(nn.Module):
    """Words that know their places, and blocks in which each sees all others of its saying."""

    def __init__(self):
        super().__init__()
        self.word = nn.Embedding(len(WORDS), WIDTH)
        self.place = nn.Embedding(LONGEST, WIDTH)
        config = Config(2, N_HEAD, WIDTH)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(WIDTH)

    def forward(self, ids):
        """ids (B, T) -> the mean of a saying's words (B, WIDTH)"""
        n, T = ids.shape
        is_said = ids > 0
        x = (self.word(ids) + self.place.weight).flatten(0, 1)
        # what is not said is seen by itself alone: a softmax over nothing would be nan
        itself = torch.eye(T, dtype=torch.bool, device=ids.device)
        layout = Layout(n, T, mask=is_said[:, None, None] | itself)
        for block in self.blocks:
            x, _, _ = block(x, layout)
        x = self.norm(x).view(n, T, -1) * is_said[..., None]
        return x.sum(1) / is_said.sum(1, keepdim=True)


class SigLIP(nn.Module):
    def __init__(self):
        super().__init__()
        self.towers = nn.ModuleDict({"pictures": VisionTransformer(), "words": TextTower()})
        self.from_pictures = nn.Linear(WIDTH, WIDTH)
        self.from_words = nn.Linear(WIDTH, WIDTH)
        self.scale = nn.Parameter(torch.tensor(log(10.)))
        self.bias = nn.Parameter(torch.tensor(log(1 / (PAIRS - 1))))
        init_weights(self)

    def forward(self, pixels, ids):
        """
        Pictures (N, S, S, 3) uint8 and sayings (M, LONGEST) -> logits (N, M) of whether the two
        belong together
        """
        x = self.towers["pictures"](pixels).mean(1)  # (N, WIDTH)
        x = F.normalize(self.from_pictures(x), dim=-1)
        y = F.normalize(self.from_words(self.towers["words"](ids)), dim=-1)
        scale = self.scale.exp().clamp(max=100)
        return scale * x @ y.T + self.bias


def sigmoid_loss(logits, ids):
    """
    Of logits (B, B), where pair i is of picture i and saying i, ids (B, T). Two pictures of which
    the same is said both belong to it.
    """
    belong = (ids[:, None] == ids).all(-1)  # (B, B)
    sign = belong * 2. - 1
    return -F.logsigmoid(sign * logits).sum() / len(ids)


# ---------------------------------------------------------------------------------------------
# training


def pairs(seed, n=PAIRS):
    """n scenes, their pictures (n, S, S, 3) uint8, and what is said of them (n, LONGEST)"""
    scenes = make_scenes(n, seed)
    pixels = torch.from_numpy(render_all(scenes))
    return scenes, pixels, as_words([told(scene) for scene in scenes])


def train(model, steps, seed, lr, device):
    """Returns the last step's loss. lr: Muon's highest; it falls in the last two thirds."""
    device_type = torch.device(device).type
    dtype = set_products(device_type)
    opts = optimizers(model, lr)
    bar = tqdm(range(steps), desc="SigLIP")
    for step in bar:
        _, pixels, ids = pairs([seed, SEED, step])
        pixels, ids = pixels.to(device), ids.to(device)
        with torch.autocast(device_type, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(pixels, ids)
        loss = sigmoid_loss(logits.float(), ids)
        loss.backward()
        height = min(1, (step + 1) / 50, (steps - step) / steps * 1.5)
        for opt, peak in zip(opts, (lr, lr * .4)):
            for group in opt.param_groups:
                group["lr"] = peak * height
            opt.step()
            opt.zero_grad()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return loss.item()


# ---------------------------------------------------------------------------------------------
# what it is worth


@torch.no_grad()
def retrieval(model, device, seed=0, n=1000, among=100):
    """
    Shares of n pictures for which of `among` sayings their own is the likeliest, and of n sayings
    for which their own picture is. Where several are the same, any of them will do.
    """
    found = torch.zeros(2)
    for i in range(n // among):
        _, pixels, ids = pairs([seed, SEED, 1, i], among)
        ids = ids.to(device)
        logits = model(pixels.to(device), ids)
        belong = (ids[:, None] == ids).all(-1)  # (among, among)
        nth = torch.arange(among, device=device)
        found[0] += belong[nth, logits.argmax(1)].sum().cpu()
        found[1] += belong[logits.argmax(0), nth].sum().cpu()
    return (found / (n // among * among)).tolist()


def attributes(scenes):
    """{attribute: (N, classes) of 0 and 1}: which of them are there, or how many objects."""
    def there(names, of_object):
        has = [[any(of_object(o) == name for o in scene) for name in names] for scene in scenes]
        return torch.tensor(has).float()

    counts = torch.tensor([len(scene) for scene in scenes])
    all_places = [f"{row} {column}".strip() or "middle" for row in ("top", "", "bottom")
                  for column in ("left", "", "right")]
    return {
        "color": there(COLORS, lambda o: o.color),
        "shape": there(SHAPES, lambda o: o.shape),
        "size": there(SIZES, lambda o: o.size),
        "color and shape": there([(c, s) for c in COLORS for s in SHAPES],
                                 lambda o: (o.color, o.shape)),
        "place": there(all_places, place_of),
        "count": F.one_hot(counts - 1, 4).float(),
    }


@torch.no_grad()
def probe(encoder, device, n_train=4000, n_test=1000, seed=0):
    """
    What one linear map reads from the mean of an encoder's features, for each of attributes():
    (share that is right, share right of a guess that looks at no picture). Of the count the most
    likely counts, of all others whether each is there.
    """
    sets = []
    for part, n in ((2, n_train), (3, n_test)):
        scenes, pixels, _ = pairs([seed, SEED, part], n)
        features = torch.cat([encoder(chunk.to(device)).mean(1).float().cpu()
                              for chunk in pixels.split(500)])
        features = F.pad(features, (0, 1), value=1.)  # for a bias
        sets.append((features.double(), attributes(scenes)))
    (x, known), (x_test, wanted) = sets
    gram = x.T @ x + 1e-3 * torch.eye(x.size(1))
    found = {}
    for name, labels in known.items():
        weights = torch.linalg.solve(gram, x.T @ labels.double())
        guess = labels.double().mean(0).expand(len(x_test), -1)
        found[name] = [right(name, said, wanted[name]) for said in (x_test @ weights, guess)]
    return found


def right(name, said, wanted):
    if name == "count":
        return (said.argmax(1) == wanted.argmax(1)).double().mean().item()
    return ((said > .5) == (wanted > .5)).double().mean().item()


def page(found, probed, from_nothing, about):
    """results/siglip.md"""
    lines = ["# What the encoder has learned", about,
             f"Of 100 sayings the right one is the likeliest for {found[0]:.1%} of 1,000 pictures; "
             f"of 100 pictures the right one for {found[1]:.1%} of 1,000 sayings. Chance is 1 %.",
             "What one linear map reads from the mean of its features, of 1,000 pictures that it "
             "was not fitted to. Of the count the likeliest one counts, of all others whether each "
             "(each colour, each colour of each shape) is there. *From nothing*: the same of an "
             "encoder as it is before training. *Blind*: a guess that looks at no picture.",
             "| | trained | from nothing | blind |\n| --- | --- | --- | --- |\n"
             + "\n".join(f"| {name} | {ours:.3f} | {from_nothing[name][0]:.3f} | {blind:.3f} |"
                         for name, (ours, blind) in probed.items())]
    return "\n\n".join(lines) + "\n"


def main():
    p = Parser(prog="python -m systems.siglip",
               description="Trains the toy world's encoder of pictures, into assets/encoder.pt.")
    p.add_argument("--steps", type=int, default=1200, help="of the optimiser")
    p.add_argument("--seed", type=int, default=0, help="everything follows from it")
    p.add_argument("--lr", type=float, default=.004, help="peak learning rate of Muon")
    p.add_argument("--device", help="cpu | cuda | mps (default: what is there)")
    speak_plainly()
    args = p.parse_args()
    refuse_beyond(args, "steps", 1, 10**8)
    refuse_beyond(args, "seed", 0, 2**31 - 1)
    if not 0 < args.lr < 1:
        sys.exit(f"--lr {args.lr}: wanted is more than 0 and less than 1")
    keep_freed_memory()
    device = find_device(args.device)
    torch.manual_seed(args.seed)
    model = SigLIP().to(device)
    from_nothing = probe(model.towers["pictures"], device)
    started = time.perf_counter()
    loss = train(model, args.steps, args.seed, args.lr, device)
    minutes = (time.perf_counter() - started) / 60
    found = retrieval(model, device)
    probed = probe(model.towers["pictures"], device)
    weights = model.towers["pictures"].state_dict()
    save_state(FILE, {name: weight.half() for name, weight in weights.items()})
    machine = name_of_processor() if device == "cpu" else name_of(device)
    command = " ".join(["python -m systems.siglip", *sys.argv[1:]])
    about = (f"`{command}`: {minutes:.0f} minutes with {torch.get_num_threads()} threads on "
             f"{machine}, torch {torch.__version__}; the last step's loss is {loss:.3f}.")
    text = page(found, probed, from_nothing, about)
    file = Path(__file__).parent.parent / "results" / "siglip.md"
    file.write_text(text, encoding="utf-8")
    print(f"{text}\nwritten: {FILE}, {file}")


if __name__ == "__main__":
    main()
