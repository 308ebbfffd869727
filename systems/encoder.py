"""
systems/encoder.py: eyes that are an encoder of pixels and an adapter, as Janus-Pro (Chen et al.
2025, arXiv 2501.17811), BAGEL (Deng et al. 2025, arXiv 2505.14683) and UTAMoE (Zhang et al. 2025,
arXiv 2506.03591) have them.

What comes in: pixels. What goes out: a vector for each image token, in its place in the row. The
papers' encoders were trained before, on many pictures. This one is small and starts from nothing.
"""
from dataclasses import replace

import torch
import torch.nn as nn

from model import Block, Layout, RMSNorm
from systems.patches import cut, scaled


class VisionTransformer(nn.Module):
    """Patches as vectors that know their places, and one block in which each sees all others."""

    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.side = round(config.n_image ** .5)
        self.patch = nn.Linear(3 * config.patch ** 2, C)
        self.place = nn.Embedding(config.n_image, C)
        self.block = Block(replace(config, split=()))
        self.norm = RMSNorm(C)

    def forward(self, pixels):  # (B, S, S, 3) -> (B n_image, C)
        B = len(pixels)
        n_image = self.side ** 2
        patches = cut(scaled(pixels), self.side)  # (B, side, side, pixels of a patch)
        x = self.patch(patches).view(B, n_image, -1) + self.place.weight
        every = torch.ones(1, 1, n_image, n_image, dtype=torch.bool, device=x.device)
        x, _, _ = self.block(x.flatten(0, 1), Layout(B, n_image, mask=every))
        return self.norm(x)


class Encoder(nn.Module):
    """pixels (B, S, S, 3) uint8 -> (B, n_image, C): the encoder, then an MLP as an adapter"""

    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.encoder = VisionTransformer(config)
        self.adapter = nn.Sequential(nn.Linear(C, C), nn.GELU(), nn.Linear(C, C))

    def forward(self, pixels):
        features = self.encoder(pixels)  # (B n_image, C)
        return self.adapter(features).view(len(pixels), -1, features.size(-1))

    def frame(self, ids, roles):
        """Rows as they are: there are no markers."""
        return ids, roles
