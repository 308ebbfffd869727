"""
systems/features.py: a hand that draws the features of an encoder, as MetaMorph (Tong et al. 2024,
arXiv 2412.14164) does. Read systems/encoder.py first.

A picture is drawn from left to right, as with tokens, but what comes next is no token: it is the
direction in which the encoder's next feature f points. With p, what the network says,

    loss = 1 - p f / (|p| |f|)

What comes in is the feature that was said last, through the adapter of the eyes: what is seen and
what is drawn come in alike. The encoder is that of the eyes, too, and never trains, or what is
wanted would move. Nothing is left to chance: the same prompt gives the same picture, and where
several features could come next, what is said lies between them.

Features are no picture yet. The painter makes pixels of them; it was trained apart, see
systems/painter.py.
"""
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F

from data import ASSETS, Block, ImageTokenizer, pad_left, window
from systems.encoder import PATCH, SIDE, WIDTH, as_many, directions
from systems.losses import mean_of_rows
from tools.files import first_line, load_state

FILE = ASSETS / "painter.pt"


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


# ---------------------------------------------------------------------------------------------
# the hand


class Features(nn.Module):
    """
    What it knows already, and no training changes: the image tokenizer, by which pictures that the
    data set has as tokens become pixels, and drawings tokens; and the painter.
    """

    def __init__(self, config, eyes):
        super().__init__()
        C = config.n_embd
        self.config = config
        tokenizer = ImageTokenizer(config.patch, levels=tuple(config.levels))
        self.frozen = nn.ModuleDict({"tokenizer": tokenizer, "painter": Painter()})
        self.eyes = [eyes]  # in a list, as it is not the hand's own
        self.say_next = nn.Sequential(nn.Linear(C, C), nn.GELU(), nn.Linear(C, WIDTH))

    def load(self, tokenizer):
        """Takes over a data set's image tokenizer, and the painter as it was trained."""
        load_painter(self.frozen["painter"])
        self.frozen["tokenizer"].load_state_dict(tokenizer.state_dict())

    @torch.no_grad()
    def features(self, codes):
        """The features of pictures, codes (n, n_image) -> (n, n_image, WIDTH)"""
        tok = self.frozen["tokenizer"]
        side = round(self.config.n_image ** .5)
        digits = codes.view(-1, side, side, 1) // tok.worth % tok.L
        pixels = tok.decode_digits(digits).clamp(-1, 1).permute(0, 2, 3, 1)
        features = self.eyes[0].encoder.look(pixels.contiguous())
        return directions(as_many(features, self.config.n_image))

    def prepare(self, batch, seeds=None):
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
            nowhere = torch.zeros_like(batch["loss"])
            draws = nowhere.clone()
            draws[:, -1] = True
            batch |= {"draws": draws, "loss": nowhere, "loss_sizes": [0, 0]}
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
                 "python -m systems.painter")
