"""
systems/patches.py: eyes that are two convolutions on pixels, with markers between the rows of a
picture (EVEv2: Diao et al. 2025, arXiv 2502.06788, fig. 3).

What comes in: pixels. What goes out: a vector for each image token, in its place in the row.
"""
import numpy as np
import torch.nn as nn
import torch.nn.functional as F

from data import TARGET, WATCHED


def cut(x, n):
    """x (B, S, S, C) in n x n cells -> (B, n, n, what is in a cell)"""
    B, S = x.shape[:2]
    cells = x.view(B, n, S // n, n, S // n, -1)
    return cells.transpose(2, 3).flatten(3)


def scaled(pixels):
    """uint8 -> from -1 to 1"""
    return pixels.float() / 127.5 - 1


class Patches(nn.Module):
    """
    pixels (B, S, S, 3) uint8 -> (B, n_image, C). A convolution whose stride is its width is a
    matrix on patches: the first is on half patches, the second joins four of its outputs.
    """

    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.side = round(config.n_image ** .5)  # patches side by side
        self.n_image = config.n_image
        self.cls = config.first_image + config.n_codes  # ids behind those of the image tokens
        self.row = self.cls + 1
        self.first_image = config.first_image
        self.fine = nn.Linear(3 * (config.patch // 2) ** 2, C)
        self.join = nn.Linear(4 * C, C)

    def forward(self, pixels):
        B = len(pixels)
        halves = cut(scaled(pixels), 2 * self.side)  # (B, 2 side, 2 side, pixels of a half patch)
        halves = F.gelu(self.fine(halves))
        return self.join(cut(halves, self.side)).view(B, self.n_image, -1)

    def frame(self, ids, roles):
        """
        Rows (B, T) with markers: before each picture to understand <|cls|>, and <|row|> after each
        of its rows of patches. They belong to the picture, so they are WATCHED as its tokens are.
        The rows of a batch must hold equally many such pictures.
        """
        framed_ids = []
        framed_roles = []
        for row, role in zip(ids, roles):
            places, markers = self.markers(row, role)
            framed_ids.append(np.insert(row, places, markers))
            framed_roles.append(np.insert(role, places, WATCHED))
        return np.stack(framed_ids), np.stack(framed_roles)

    def markers(self, row, role):
        """Before which tokens of a row markers go, and which ones."""
        is_seen = (row >= self.first_image) & (role & TARGET == 0)
        pictures = np.flatnonzero(is_seen).reshape(-1, self.n_image)
        places = []
        markers = []
        for first in pictures[:, 0]:
            ends = first + self.side * np.arange(1, self.side + 1)  # of the rows of patches
            places += [first, *ends]
            markers += [self.cls] + [self.row] * self.side
        return places, markers
