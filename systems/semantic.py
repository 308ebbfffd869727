"""
systems/semantic.py: image tokens that stand for meaning, as ILLUME (Wang et al. 2024, arXiv
2412.06673) draws them. Read systems/features.py first.

The image tokenizer of data.py rounds what a small network sees in a patch of pixels, and learns to
rebuild the pixels. This one rounds, in the same way, the features of an encoder that was trained
with words (systems/siglip.py), and learns to rebuild these features:

    loss = 1 - the cosine of each feature and what is rebuilt of it

A painter, trained apart, makes pixels of rebuilt features. All else is as with other tokens: a data
set has them in its rows, and a network foretells them.

    python -m systems.semantic    # makes assets/semantic.pt anew
    python data.py --semantic     # makes a data set with it: data/semantic-nano
    python train.py --arch illume
"""
from math import prod

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from tqdm import tqdm

from data import ASSETS, Block
from systems.encoder import PATCH, SIDE, WIDTH, VisionTransformer, directions, load_encoder
from systems.features import Painter
from systems.painter import share_read_back, train_painter
from tools.device import find_device, keep_freed_memory
from tools.faults import expect_faults
from tools.flags import Parser, refuse_beyond, speak_plainly
from toy.tokenizer import ScenePictures, save_tokenizer
from toy.world import make_scenes, render_all

FILE = ASSETS / "semantic.pt"
SEED = 5  # beside the user's: of scenes that are no data set's


class SemanticTokenizer(nn.Module):
    """
    To whoever uses it an ImageTokenizer, see data.py. semantic: by this word in its config
    data.load_tokenizer() knows it.
    """

    def __init__(self, levels=(8, 5, 5, 5), n_ch=128, semantic=True):
        super().__init__()
        self.config = {"levels": list(levels), "n_ch": n_ch, "semantic": semantic}
        self.levels = tuple(levels)
        self.patch = PATCH
        self.n_codes = prod(levels)
        self.encoder = VisionTransformer()
        self.into = nn.Sequential(nn.Linear(WIDTH, n_ch), nn.GELU(), nn.Linear(n_ch, len(levels)))
        self.rebuild = nn.Sequential(nn.Linear(len(levels), n_ch), Block(n_ch), Block(n_ch),
                                     nn.LayerNorm(n_ch), nn.Linear(n_ch, WIDTH))
        self.painter = Painter()
        worth = torch.tensor([1, *levels[:-1]]).cumprod(0)
        self.register_buffer("L", torch.tensor(levels).float(), persistent=False)
        self.register_buffer("worth", worth, persistent=False)

    def digits(self, features):
        """features (B, n, WIDTH) -> digits (B, n, D); gradients pass straight on, as in data.py"""
        z = torch.sigmoid(self.into(directions(features))) * (self.L - 1e-3) - .5 + 5e-4
        return z + (z.round() - z).detach()

    def features(self, digits):
        """digits (B, n, D) -> directions of features (B, n, WIDTH)"""
        centred = digits / (self.L - 1) * 2 - 1
        grid = centred.unflatten(1, (SIDE, SIDE))  # (B, SIDE, SIDE, D)
        return directions(self.rebuild(grid).flatten(1, 2))

    @torch.no_grad()
    def encode(self, pictures, batch=256):
        """(N, S, S, 3) uint8 -> codes (N, n_image), row by row from the top left"""
        codes = []
        for i in range(0, len(pictures), batch):
            pixels = torch.from_numpy(np.array(pictures[i:i + batch])).to(self.L.device)
            digits = self.digits(self.encoder(pixels)).round().long()
            codes.append((digits * self.worth).sum(-1).cpu())
        return torch.cat(codes)

    @torch.no_grad()
    def decode(self, codes, batch=256):
        """codes (N, n_image) -> (N, S, S, 3) uint8"""
        pictures = []
        for part in codes.split(batch):
            digits = part.to(self.L.device)[..., None] // self.worth % self.L
            x = (self.painter(self.features(digits)) + 1) * 127.5
            pictures.append(x.clamp(0, 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(pictures)


def train(tok, steps, seed, device, lr=2e-3):
    """To rebuild the encoder's features from their digits"""
    pictures = ScenePictures(make_scenes(50_000, [seed, SEED]), SIDE * PATCH, speckled=False)
    learned = [*tok.into.parameters(), *tok.rebuild.parameters()]
    opt = torch.optim.AdamW(learned, lr, betas=(.9, .98), weight_decay=1e-4)
    bar = tqdm(range(steps), desc="semantic tokenizer")
    for step in bar:
        opt.param_groups[0]["lr"] = lr * min(1, (step + 1) / 100, (steps - step) / steps * 1.5)
        numbers = np.random.default_rng([seed, step]).integers(len(pictures), size=32)
        with torch.no_grad():
            features = tok.encoder(torch.from_numpy(pictures[numbers]).to(device))
        off = tok.features(tok.digits(features)) - directions(features)
        loss = off.square().mean()  # 1 - cosine, see directions()
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")


def main():
    p = Parser(prog="python -m systems.semantic",
               description="Trains the semantic tokenizer anew, into assets/semantic.pt.")
    p.add_argument("--steps", type=int, default=2000, help="of the optimiser, each of two times")
    p.add_argument("--seed", type=int, default=0, help="everything follows from it")
    p.add_argument("--device", help="cpu | cuda | mps (default: what is there)")
    speak_plainly()
    expect_faults("end what else runs on this machine")
    args = p.parse_args()
    refuse_beyond(args, "steps", 1, 10**8)
    refuse_beyond(args, "seed", 0, 2**31 - 1)
    keep_freed_memory()
    make_tokenizer(args.steps, args.seed, find_device(args.device))
    print("next: python data.py --semantic")


def make_tokenizer(steps, seed, device):
    torch.manual_seed(seed)
    tok = SemanticTokenizer().to(device)
    load_encoder(tok.encoder)
    train(tok, steps, seed, device)

    def rebuilt(pixels):
        return tok.features(tok.digits(tok.encoder(pixels)))

    train_painter(tok.painter, rebuilt, steps, seed, device)
    save_tokenizer(FILE, tok, half=True)
    share = share_read_back(lambda pixels: tok.decode(tok.encode(pixels)), seed)
    print(f"{FILE}: the cosine of features and what is rebuilt of them is {cosine(tok, seed):.3f}; "
          f"of 1,000 new scenes the judge reads {share:.1%} from their tokens")


@torch.no_grad()
def cosine(tok, seed, n=1000):
    """The mean cosine of features of new pictures and what is rebuilt of them"""
    pixels = torch.from_numpy(render_all(make_scenes(n, [seed, SEED, 1]))).to(tok.L.device)
    features = tok.encoder(pixels)
    return F.cosine_similarity(tok.features(tok.digits(features)), features, dim=-1).mean().item()


if __name__ == "__main__":
    main()
