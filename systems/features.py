"""
systems/features.py: a hand that draws the features of an encoder, as MetaMorph (Tong et al. 2024,
arXiv 2412.14164) does. Read systems/encoder.py first.

A picture is drawn from left to right, as with tokens, but what comes next is no token: it is the
direction in which the encoder's next feature f points. With p, what the network says,

    loss = 1 - p f / (|p| |f|)

What comes in is the feature that was said last, through the adapter of the eyes: what is seen and
what is drawn come in alike. Nothing is left to chance: the same prompt gives the same picture, and
where several features could come next, what is said lies between them. A cosine of 0.7 to 0.8 is
what such networks end with; it does not mean that they failed.

Features are no picture yet. The painter makes pixels of them; it was trained apart:

    python -m systems.features    # makes assets/painter.pt, and says what it is worth
"""
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
from tqdm import tqdm

from data import ASSETS, Block, ImageTokenizer, load_tokenizer, pad_left, window
from systems.encoder import PATCH, SIDE, WIDTH, VisionTransformer, as_many, load_encoder
from systems.losses import mean_of_rows
from tools.device import find_device, keep_freed_memory
from tools.files import first_line, load_state, save_state
from tools.flags import Parser, speak_plainly
from toy.judge import judge, same_scene
from toy.tokenizer import ScenePictures, tokenizer_path
from toy.world import make_scenes

FILE = ASSETS / "painter.pt"
SEED = 4  # beside the user's: of scenes that are no data set's


class Painter(nn.Module):
    """features (B, SIDE ** 2, WIDTH), as directions -> (B, 3, S, S) in [-1, 1], about"""

    def __init__(self, n_ch=128):
        super().__init__()
        self.into = nn.Linear(WIDTH, n_ch)
        self.blocks = nn.Sequential(Block(n_ch), Block(n_ch), Block(n_ch), nn.LayerNorm(n_ch))
        self.unpatchify = nn.ConvTranspose2d(n_ch, 3, PATCH, PATCH)

    def forward(self, features):
        x = self.into(directions(features)).view(len(features), SIDE, SIDE, -1)
        return self.unpatchify(self.blocks(x).permute(0, 3, 1, 2))


def directions(features):
    """
    Features (..., WIDTH) without their length. They are so long that the mean squared error of two
    is 1 - their cosine, which is half the square of the distance of two directions.
    """
    return F.normalize(features, dim=-1) * (features.size(-1) / 2) ** .5


# ---------------------------------------------------------------------------------------------
# the hand


class Features(nn.Module):
    """
    What it knows already, and what no training changes: the encoder, the image tokenizer, so that
    pictures which the data set has as tokens become pixels and drawings tokens, and the painter.
    """

    def __init__(self, config, eyes):
        super().__init__()
        C = config.n_embd
        self.config = config
        tokenizer = ImageTokenizer(config.patch, levels=tuple(config.levels))
        self.frozen = nn.ModuleDict({"encoder": VisionTransformer(), "tokenizer": tokenizer,
                                     "painter": Painter()})
        self.eyes = [eyes]  # in a list, as it is not the hand's own
        self.say_next = nn.Sequential(nn.Linear(C, C), nn.GELU(), nn.Linear(C, WIDTH))

    def load(self, tokenizer):
        """Takes over the weights of what was trained before, and a data set's image tokenizer."""
        load_encoder(self.frozen["encoder"])
        load_painter(self.frozen["painter"])
        self.frozen["tokenizer"].load_state_dict(tokenizer.state_dict())

    @torch.no_grad()
    def features(self, codes):
        """The features of pictures, codes (n, n_image) -> (n, n_image, WIDTH)"""
        tok = self.frozen["tokenizer"]
        side = round(self.config.n_image ** .5)
        digits = codes.view(-1, side, side, 1) // tok.worth % tok.L
        pixels = tok.decode_digits(digits).clamp(-1, 1).permute(0, 2, 3, 1)
        features = self.frozen["encoder"].look(pixels.contiguous())
        return directions(as_many(features, self.config.n_image))

    def prepare(self, batch, rng=None):
        """
        A batch with the "features" of pictures being drawn (B, T, WIDTH), and what is "wanted": the
        next token's. It is said one place before, as a token is ("draws").
        """
        if not batch["n_generated"]:
            return batch
        generated = batch["generated"]
        codes = batch["ids"][generated] - self.config.first_image
        known = self.features(codes.view(-1, self.config.n_image))
        features = torch.zeros(*generated.shape, WIDTH, device=known.device)
        features = features.masked_scatter(generated[..., None], known)
        draws = batch["loss"] & batch["next_generated"]
        return batch | {"features": features, "wanted": features.roll(-1, 1), "draws": draws,
                        "loss": batch["loss"] & ~draws,
                        "loss_sizes": [batch["loss_sizes"][0], 0]}

    def embed(self, x, batch):
        """(B, T, C), whatever x was"""
        return self.eyes[0].adapter(batch["features"])

    def say(self, x, batch):
        """The trunk's x (B, T, C) -> directions of the m features that come next (m, WIDTH)"""
        return directions(self.say_next(x[batch["draws"]]).float())

    def off(self, said, batch):
        """(B,), 1 - the cosine, the mean over a row's features"""
        places = batch["draws"]
        return mean_of_rows((said - batch["wanted"][places]).square().mean(-1), places)

    @torch.no_grad()
    def draw(self, model, starts, seeds, cfg=1.):
        """
        Codes (n, n_image) of n pictures behind the first n rows of starts, see Flow.draw(). There
        is no guidance, and no chance that a seed could change.
        """
        starts = starts[:len(seeds)]
        device = model.rotary.device
        n_image = self.config.n_image
        ids, roles, pad = pad_left(starts, n_image, self.config.first_image)
        first = ids.shape[1] - n_image
        row = model.describe(ids, roles)
        cache = model.new_cache(torch.tensor(pad, device=device), first + n_image)
        features = []
        for at in range(first, first + n_image):
            batch = window(row, cache.used, at, device)
            draws = torch.zeros_like(batch["loss"])
            draws[:, -1] = True
            batch |= {"draws": draws, "loss": ~(draws | True), "loss_sizes": [0, 0]}
            if features:
                batch["features"] = features[-1][:, None]  # (n, 1, WIDTH)
            features.append(model(batch, cache=cache).drawn)
            cache.used = at
        features = torch.stack(features, 1)  # (n, n_image, WIDTH)
        return self.codes(features).cpu()

    def codes(self, features):
        """Features are painted, and the painting is put into tokens."""
        tok = self.frozen["tokenizer"]
        pixels = self.frozen["painter"](as_many(features, SIDE ** 2))
        size = round(self.config.n_image ** .5) * self.config.patch
        if pixels.size(-1) != size:
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        digits = tok.encode_digits(pixels.clamp(-1, 1)).round().long()
        return (digits * tok.worth).sum(-1).flatten(1)


def load_painter(painter):
    """Gives a Painter the weights in FILE. Exits with one line if it cannot."""
    try:
        painter.load_state_dict({name: w.float() for name, w in load_state(FILE).items()})
    except Exception as e:  # what is damaged may trip torch anywhere
        sys.exit(f"{FILE}: no painter that can be read ({first_line(e)}); make it anew: "
                 "python -m systems.features")


# ---------------------------------------------------------------------------------------------
# the painter learns


def train_painter(painter, encoder, steps, seed, device, lr=2e-3):
    """
    To make of an encoder's features the pixels that they are of: by L1 plus L2, and, as paintings
    become tokens in the end, by how far their digits are off those of the picture.
    """
    tok = load_tokenizer(tokenizer_path(SIDE * PATCH), device).requires_grad_(False)
    pictures = ScenePictures(make_scenes(50_000, [seed, SEED]), SIDE * PATCH, speckled=False)
    opt = torch.optim.AdamW(painter.parameters(), lr, betas=(.9, .98), weight_decay=1e-4)
    bar = tqdm(range(steps), desc="painter")
    for step in bar:
        opt.param_groups[0]["lr"] = lr * min(1, (step + 1) / 100, (steps - step) / steps * 1.5)
        numbers = torch.randint(len(pictures), (32,), generator=torch.Generator().manual_seed(step))
        pixels = torch.from_numpy(pictures[numbers.numpy()]).to(device)
        wanted = pixels.permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            features = encoder(pixels)
        painted = painter(features)
        off = painted - wanted
        off_digits = tok.encode_digits(painted) - tok.encode_digits(wanted)
        loss = off.abs().mean() + off.square().mean() + .03 * off_digits.abs().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")


@torch.no_grad()
def share_read_back(painter, encoder, seed, device, n=1000):
    """The share of scenes that the judge reads as they are from the tokens of their paintings."""
    scenes = make_scenes(n, [seed, SEED, 1])
    pixels = ScenePictures(scenes, SIDE * PATCH, speckled=False)[torch.arange(n).numpy()]
    painted = painter(encoder(torch.from_numpy(pixels).to(device)))
    painted = ((painted.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    tok = load_tokenizer(tokenizer_path(SIDE * PATCH))
    return sum(map(same_scene, scenes, judge(tok.decode(tok.encode(painted))))) / n


def main():
    p = Parser(prog="python -m systems.features",
               description="Trains the painter, which makes pixels of an encoder's features.")
    p.add_argument("--steps", type=int, default=2000, help="of the optimiser")
    p.add_argument("--seed", type=int, default=0, help="everything follows from it")
    p.add_argument("--device", help="cpu | cuda | mps (default: what is there)")
    speak_plainly()
    args = p.parse_args()
    if not 1 <= args.steps <= 10**8:
        sys.exit(f"--steps {args.steps}: wanted is a number from 1 to {10**8:,}")
    if not 0 <= args.seed < 2**31:
        sys.exit(f"--seed {args.seed}: wanted is a number from 0 to {2**31 - 1:,}")
    keep_freed_memory()
    device = find_device(args.device)
    encoder = VisionTransformer().to(device)
    load_encoder(encoder)
    torch.manual_seed(args.seed)
    painter = Painter().to(device)
    train_painter(painter, encoder, args.steps, args.seed, device)
    share = share_read_back(painter, encoder, args.seed, device)
    save_state(FILE, {name: weight.half() for name, weight in painter.state_dict().items()})
    print(f"{FILE}: of 1,000 new scenes the judge reads {share:.1%} from their paintings")


if __name__ == "__main__":
    main()
