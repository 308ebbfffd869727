"""
systems/encoder.py: eyes that are an encoder of pixels and an adapter, as Janus-Pro (Chen et al.
2025, arXiv 2501.17811), BAGEL (Deng et al. 2025, arXiv 2505.14683) and UTAMoE (Zhang et al. 2025,
arXiv 2506.03591) have them.

What comes in: pixels. What goes out: a vector for each image token, in its place in the row.

The papers' encoders were trained before, with words, on many pictures. So was this one, which is
small: systems/siglip.py makes assets/encoder.pt. It learns on at a tenth of the learning rate, or
not at all (MetaMorph). With --no-pretrained it starts from nothing.
"""
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F

from data import ASSETS
from model import Block, Config, Layout, RMSNorm
from systems.patches import cut, scaled
from tools.files import first_line, load_state

FILE = ASSETS / "encoder.pt"

# it has a size and a resolution of its own, whatever the network's
N_LAYER, N_HEAD, WIDTH = 3, 4, 96
SIDE = 6   # patches side by side
PATCH = 8  # pixels a side


class VisionTransformer(nn.Module):
    """Patches as vectors that know their places, and blocks in which each sees all others."""

    def __init__(self, n_layer=N_LAYER):
        super().__init__()
        self.patch = nn.Linear(3 * PATCH ** 2, WIDTH)
        self.place = nn.Embedding(SIDE ** 2, WIDTH)
        config = Config(n_layer, N_HEAD, WIDTH)
        self.blocks = nn.ModuleList(Block(config) for _ in range(n_layer))
        self.norm = RMSNorm(WIDTH)

    def forward(self, pixels):
        """pixels (B, S, S, 3) uint8 -> features (B, SIDE ** 2, WIDTH)"""
        return self.look(scaled(pixels))

    def look(self, pixels):
        """The same of pixels from -1 to 1"""
        B, n = len(pixels), SIDE ** 2
        x = cut(resized(pixels), SIDE)  # (B, SIDE, SIDE, pixels of a patch)
        x = self.patch(x).view(B, n, WIDTH) + self.place.weight
        every = torch.ones(1, 1, n, n, dtype=torch.bool, device=x.device)
        layout = Layout(B, n, mask=every)
        x = x.flatten(0, 1)
        for block in self.blocks:
            x, _, _ = block(x, layout)
        return self.norm(x).view(B, n, WIDTH)


def resized(x):
    """Pictures x (B, S, S, 3), whatever their size, as the encoder sees them."""
    S = SIDE * PATCH
    if x.size(1) == S:
        return x
    x = F.interpolate(x.permute(0, 3, 1, 2), (S, S), mode="bilinear", antialias=True)
    return x.permute(0, 2, 3, 1).contiguous()


def directions(features):
    """
    Features (..., WIDTH) without their length. They are so long that the mean squared error of two
    is 1 - their cosine, which is half the square of the distance of two directions.
    """
    return F.normalize(features, dim=-1) * (features.size(-1) / 2) ** .5


class Encoder(nn.Module):
    """pixels (B, S, S, 3) uint8 -> (B, n_image, C): the encoder, then an MLP as an adapter"""

    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.n_image = config.n_image
        self.as_drawn = config.draw == "features"  # then features come in as they go out
        # the last block, which learned what a whole picture is called, is left out, as in LLaVA
        # (Liu et al. 2023, arXiv 2304.08485); also from nothing, so that both have one size
        self.encoder = VisionTransformer(N_LAYER if self.as_drawn else N_LAYER - 1)
        self.adapter = nn.Sequential(nn.Linear(WIDTH, C), nn.GELU(), nn.Linear(C, C))

    def forward(self, pixels):
        features = as_many(self.encoder(pixels), self.n_image)
        return self.adapter(directions(features) if self.as_drawn else features)

    def frame(self, ids, roles):
        """Rows as they are: there are no markers."""
        return ids, roles


def as_many(features, n):
    """A picture's features (B, n', C) as n of them: between those that there are."""
    if features.size(1) == n:
        return features
    before, after = [round(number ** .5) for number in (features.size(1), n)]
    grid = features.mT.unflatten(2, (before, before))  # (B, C, before, before)
    return F.interpolate(grid, (after, after), mode="bilinear").flatten(2).mT


def load_encoder(encoder):
    """
    Gives a VisionTransformer the weights in FILE, as many blocks as it has. Exits with one line if
    it cannot.
    """
    try:
        saved = load_state(FILE)  # in half precision
        encoder.load_state_dict({name: saved[name].float() for name in encoder.state_dict()})
    except Exception as e:  # what is damaged may trip torch anywhere
        sys.exit(f"{FILE}: no encoder that can be read ({first_line(e)}); make it anew: "
                 "python -m systems.siglip, or start from nothing: --no-pretrained")
