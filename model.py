"""
model.py: the transformer. Read it after data.py; aia.py comes next.

A plain modern decoder (RMSNorm, rotary positions, QK-norm, squared ReLU, no biases, fused attention) over text and image
tokens alike. Nothing in it depends on the task, and on the modality only two tables do (where in the picture an image token stands, what its digits are): this is the purely unified `emu3`
baseline, from which every published way to take a network apart will differ by one `if`.

The one unusual thing is `key`: given which tokens are the keys of the interaction, attention also returns how much of its
weight they receive, from the same fused call (see Attention).
"""
import json, sys
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

# n_layer, n_head, n_embd: nano for a laptop's CPU, small for minutes on one GPU, base for an afternoon on it
SIZES = {"nano": (6, 4, 128), "small": (8, 8, 512), "base": (12, 12, 768)}


@dataclass
class Config:
    n_layer: int = 6        # blocks
    n_head: int = 4         # attention heads; n_embd / n_head channels each, an even number (rotary turns pairs)
    n_embd: int = 128       # channels of the residual stream
    block_size: int = 123   # tokens of the longest sequence
    vocab_size: int = 1472  # text ids, special ids, image ids, in this order, padded to a multiple of 64
    first_image: int = 434  # the first image id: a token's modality is a comparison
    n_image: int = 64       # image tokens a picture, always the same
    levels: tuple = (8, 5, 5, 5)  # values of each digit of an image token (see data.ImageTokenizer)


def norm(x):
    return F.rms_norm(x, (x.size(-1),))


def rotate(x, cos, sin):
    """Rotary positions (Su et al. 2021, arXiv 2104.09864, eq. 34): channel pairs turn by position times frequency. x: (B, H, T, D)"""
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x1 * sin + x2 * cos), dim=-1)


class Attention(nn.Module):
    """
    Causal self-attention which, asked for it, also says where it looks.

    The weight that a query puts on a set S of keys is itself an attention output: give the values one more channel that is 1
    on S and 0 elsewhere, and that channel of softmax(QK')V is the sum over S of the weights. Exact, differentiable, and no T x T
    matrix ever exists. Kernels want q, k and v equally wide, so q and k get zero channels, which change no logit; eight at a time, as
    GPU kernels like multiples of eight.
    """
    def __init__(self, c):
        super().__init__()
        self.n_head = c.n_head
        self.qkv = nn.Linear(c.n_embd, 3 * c.n_embd, bias=False)
        self.proj = nn.Linear(c.n_embd, c.n_embd, bias=False)

    def forward(self, x, rope, key=None, explicit=False, cache=None, mask=None):
        """
        x (B, T, C) -> y (B, T, C), mass (B, T) or None: the weight each query puts on the tokens where key (B, T) is True, mean over heads.
        explicit: by the full softmax matrix, as one would first write it; for reading and for the tests.
        cache: (k, v, start): (B, H, S, D) each, filled up to position start; mask (B, 1, T, S) says what may be seen there.
        """
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)  # 3 x (B, H, T, D)
        q, k = rotate(norm(q), *rope), rotate(norm(k), *rope)
        D, mass = q.size(-1), None
        if cache is not None:
            K, V, start = cache
            K[:, :, start:start + T], V[:, :, start:start + T] = k, v
            k, v = K[:, :, :start + T], V[:, :, :start + T]  # (B, H, start + T, D)
        if explicit:
            seen = mask if mask is not None else torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
            weights = (q @ k.mT * D ** -.5).masked_fill(~seen, float("-inf")).softmax(-1)  # (B, H, T, T)
            y = weights @ v
            if key is not None:
                mass = (weights * key[:, None, None]).sum(-1).mean(1)  # (B, H, T, T) -> (B, T)
        else:
            if key is not None:
                indicator = key[:, None, :, None].to(v.dtype).expand(-1, self.n_head, -1, -1)
                v = torch.cat((v, F.pad(indicator, (0, 7))), dim=-1)  # (B, H, T, D + 8)
                q, k = F.pad(q, (0, 8)), F.pad(k, (0, 8))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=D ** -.5)
            if key is not None:
                y, mass = y[..., :D], y[..., D].float().mean(1)  # (B, T)
        return self.proj(y.transpose(1, 2).reshape(B, T, C)), mass


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.attn = Attention(c)
        self.up = nn.Linear(c.n_embd, 4 * c.n_embd, bias=False)
        self.down = nn.Linear(4 * c.n_embd, c.n_embd, bias=False)
        self.norm1, self.norm2 = nn.RMSNorm(c.n_embd), nn.RMSNorm(c.n_embd)

    def forward(self, x, *args):
        y, mass = self.attn(self.norm1(x), *args)
        x = x + y
        return x + self.down(F.relu(self.up(self.norm2(x))).square()), mass


class Table(nn.Module):
    """
    A vector per token of the vocabulary, to embed it or to score it. An image token's is its own plus one for each of its digits: codes that
    share a digit stand for similar patches, so what is learned of one serves the others (trial on an earlier toy world, nano, 300 steps, one seed: validation loss
    1.11 -> 0.91 to draw, 0.45 -> 0.37 to see).
    """
    def __init__(self, c):
        super().__init__()
        self.own, self.digit = nn.Embedding(c.vocab_size, c.n_embd), nn.Embedding(sum(c.levels), c.n_embd)
        base, code = [prod(c.levels[:i]) for i in range(len(c.levels))], torch.arange(prod(c.levels))
        rows = [code // b % l + sum(c.levels[:i]) for i, (b, l) in enumerate(zip(base, c.levels))]
        self.register_buffer("rows", torch.stack(rows, 1), persistent=False)  # (codes, digits): which rows of self.digit are a code's
        self.around = (0, 0, c.first_image, c.vocab_size - c.first_image - prod(c.levels))

    def forward(self):  # (V, C)
        return self.own.weight + F.pad(self.digit(self.rows).sum(1), self.around)


class Transformer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config = c
        self.embed = Table(c)
        self.side = round(c.n_image ** .5)  # tokens a row of the picture
        self.row, self.column = nn.Embedding(self.side, c.n_embd), nn.Embedding(self.side, c.n_embd)  # where in the picture an image token stands
        self.blocks = nn.ModuleList([Block(c) for _ in range(c.n_layer)])
        self.norm = nn.RMSNorm(c.n_embd)
        self.head = Table(c)
        D = c.n_embd // c.n_head
        turns = torch.arange(c.block_size)[:, None] * 1000. ** (-torch.arange(0, D, 2) / D)  # (T, D/2) radians
        self.register_buffer("cos", turns.cos(), persistent=False)
        self.register_buffer("sin", turns.sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:  # what writes into the residual stream starts silent, and the logits nearly so
                std = 0. if name.endswith(("proj.weight", "down.weight")) else .002 if name.startswith("head") else p.size(1) ** -.5
                nn.init.normal_(p, std=std)

    def forward(self, idx, key=None, at=None, explicit=False, cache=None):
        """
        idx (B, T) token ids -> logits (B, T, V), mass (L, B, T) or None (see Attention). With a cache from new_cache(), idx continues it.
        at: a mask (B, T) of the n places whose logits are wanted, then (n, V): the head is a seventh of nano's matrix work, and most places have no loss.
        """
        T, start, mask = idx.size(1), 0, None
        image = idx >= self.config.first_image  # (B, T): the modality of each token
        nth = image.cumsum(1)
        if cache is not None:
            start = cache["start"]
            nth = nth + cache["n_image"]
            cache["start"], cache["n_image"] = start + T, nth[:, -1:]
            k = torch.arange(start + T, device=idx.device)
            q = k[start:, None]
            mask = (k == q) | (k <= q) & (k >= cache["pad"][:, None, None, None])  # (B, 1, T, start + T); padding sees itself, or it would be nan
        # each picture has n_image tokens, so counting them modulo n_image is the position in the picture
        place = (nth - 1) % self.config.n_image
        x = F.embedding(idx, self.embed()) + (self.row(place // self.side) + self.column(place % self.side)) * image[..., None]  # (B, T, C)
        rope = self.cos[start:start + T].to(x.dtype), self.sin[start:start + T].to(x.dtype)
        masses = []
        for i, block in enumerate(self.blocks):
            x, mass = block(x, rope, key, explicit, cache and (cache["k"][i], cache["v"][i], start), mask)
            masses.append(mass)
        x = self.norm(x if at is None else x[at])
        return F.linear(x, self.head()), torch.stack(masses) if key is not None else None

    def new_cache(self, pad, length):
        """A cache for len(pad) sequences of at most `length` tokens, of which the first pad[b] are padding on the left."""
        c = self.config
        shape = c.n_layer, len(pad), c.n_head, length, c.n_embd // c.n_head
        new = lambda: torch.zeros(shape, device=self.embed.own.weight.device, dtype=self.embed.own.weight.dtype)
        return {"k": new(), "v": new(), "start": 0, "n_image": torch.zeros_like(pad)[:, None], "pad": pad}

    def flops_per_token(self):
        """Floating-point operations a token of training: 6 a matrix weight, and 12 L C T for attention (Chowdhery et al. 2022, appendix B)."""
        c = self.config
        matrices = sum(p.numel() for n, p in self.named_parameters() if p.dim() == 2 and (n.startswith("blocks") or n == "head.own.weight"))
        return 6 * matrices + 12 * c.n_layer * c.n_embd * c.block_size


def latest_run():
    """The folder under out/ with the newest checkpoint."""
    found = sorted(Path("out").glob("*/ckpt.pt"), key=lambda f: f.stat().st_mtime)
    return str(found[-1].parent) if found else sys.exit("out/: no run here yet; train one: python train.py --aia 0.1")


def load_model(folder, device="cpu", file="ckpt.pt"):
    """A run's folder -> its model in eval mode, and its config.json. Exits with one line if there is none to read."""
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        model = Transformer(Config(**config["model"])).to(device)
        model.load_state_dict(torch.load(folder / file, map_location=device, weights_only=True)["model"])
    except FileNotFoundError as e:
        sys.exit(f"{folder}: no run here ({Path(e.filename).name} is missing); train one: python train.py --out {folder}")
    except Exception as e:
        sys.exit(f"{folder}: not a run that this version reads ({type(e).__name__}: {str(e).splitlines()[0]}); train it again")
    return model.eval(), config
