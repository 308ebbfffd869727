"""
model.py: the transformer and its dial. Read it after data.py; aia.py comes next.

  1. the table         every published way to take the network apart, a row a paper
  2. copies            weights that exist more than once, of which each token uses its own
  3. the transformer   a plain modern decoder: RMSNorm, rotary positions, QK-norm, squared ReLU, no biases, fused attention
  4. around it         optimisers, devices, loading
  5. what it costs     the dial turned by flags; parameters, FLOPs, time, cache

With nothing taken apart this is the purely unified baseline, `emu3`: nothing in it depends on the task, and on the modality only two tables do
(where in the picture an image token stands, what its digits are). The one unusual thing is `key`: given which tokens are the keys of the
interaction, attention also returns how much of its weight they receive, from the same call (see Attention).

    python model.py                  # the table of presets with what each costs, measured here
"""
import argparse, json, re, sys, time
from collections import namedtuple
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.tensor import DTensor, Replicate
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from data import CANVAS, TASKS, Help, frame

VERSION = 2  # of what weights mean: a run of another version is refused, never misread
# n_layer, n_head, n_embd: nano for a laptop's CPU, small for minutes on one GPU, base for an afternoon on it
SIZES = {"nano": (6, 4, 128), "small": (8, 8, 512), "base": (12, 12, 768)}

# ---------------------------------------------------------------------------------------------------------------------
# 1. the table


ROUTERS = "learned", "supervised", "oracle"


@dataclass
class Config:
    n_layer: int = 6        # blocks
    n_head: int = 4         # attention heads; n_embd / n_head channels each, an even number (rotary turns pairs)
    n_embd: int = 128       # channels of the residual stream
    block_size: int = 124   # tokens of the longest sequence
    vocab_size: int = 1472  # text ids, special ids, image ids, in this order, padded to a multiple of 64
    first_image: int = 436  # the first image id: a token's modality is a comparison
    n_image: int = 64       # image tokens a picture, always the same
    levels: tuple = (8, 5, 5, 5)  # values of each digit of an image token (see data.ImageTokenizer)
    patch: int = 6          # pixels a side of what an image token stands for
    # the dial
    split: tuple = ()       # what exists in copies: any of norm, qkv (and the output projection), ffn, ends (embeddings, final norm, head)
    route: str = "modality" # who takes the second copy: modality (image tokens) | generated (those being drawn) | task (all, when drawing);
                            # or ffn copies are experts, chosen by a router: learned | supervised (it learns to tell the task) | oracle (it is told)
    experts: int = 1        # by a router: how many to choose from, supervised and oracle: for each task
    shared: bool = False    # by a router: one more expert that every token takes
    see: str = "tokens"     # how a picture to understand comes in: tokens | patches (two convolutions on pixels) | encoder (a small one, and an MLP)
    own_head: bool = False  # whether drawing has an embedding and a head of its own

    DIAL = "split", "route", "experts", "shared", "see", "own_head"  # the names of these six, which are flags too

    def routed(self):
        return "ffn" in self.split and self.route in ROUTERS


# A preset is what it changes in Config; deviations from its paper are said here. A stage is the share of the steps it takes, what trains in it
# (a pattern of weights' names; all else is frozen), and what else it changes: generate:understand rows, learning rate, route. The papers' stages
# start from a trained language model, these from a trained emu3 (--init_from); learning rates are milder than theirs, as these runs are short.
ALL = ("norm", "qkv", "ffn")
SECOND = r"(norm[12]|qkv|proj|ffn)\.1\."  # the names of second copies
PRESETS = {
    # Wang et al. 2024, arXiv 2409.18869: everything is a token
    "emu3": {},
    # Chen et al. 2025, arXiv 2501.17811: two encoders, two heads, one transformer. The encoder that sees starts from nothing, not from SigLIP
    "januspro": {"see": "encoder", "own_head": True, "stages": [
        {"share": .1, "train": r"eyes\.adapter|own_", "ratio": "3:1"},
        {"share": .5, "train": r"^(?!eyes\.(patch|place|block|norm))", "ratio": "5:2"},
        {"share": .4, "train": "", "ratio": "4:5", "lr": .5}]},
    # Diao et al. 2025, arXiv 2502.06788: all weights by modality. The paper only sees; here it draws as emu3 does. <|cls|> and <|row|> are rows
    # of the embedding, so they train in the last stage only
    "evev2": {"split": ALL, "route": "modality", "see": "patches", "stages": [
        {"share": .1, "train": r"eyes", "ratio": "0:1"},
        {"share": .3, "train": r"eyes|" + SECOND},
        {"share": .6, "train": ""}]},
    # Deng et al. 2025, arXiv 2505.14683: all weights by whether a token is of a picture being drawn. This is a discrete variant: the paper draws
    # by flow, attends both ways within a picture, and splits the final norm too
    "bagel": {"split": ALL, "route": "generated", "see": "encoder", "stages": [
        {"share": .1, "train": r"eyes\.adapter", "ratio": "0:1"},
        {"share": .9, "train": ""}]},
    # Zhang et al. 2025, arXiv 2506.03591: experts per task in a Janus-Pro, and a shared one. The second stage trains all at half the learning
    # rate, in LoRA's place
    "utamoe": {"split": ("ffn",), "route": "supervised", "experts": 2, "shared": True, "see": "encoder", "own_head": True, "stages": [
        {"share": .4, "train": r"experts|shared|router|mix", "route": "oracle"},
        {"share": .6, "train": "", "lr": .5}]},
    # the control: a plain mixture of experts that is told nothing (Fedus et al. 2021, arXiv 2101.03961)
    "moe": {"split": ("ffn",), "route": "learned", "experts": 4},
    # the far end: two single-task networks that share nothing (but the clipping of their gradients)
    "separate": {"split": ALL + ("ends",), "route": "task"},
}

# ---------------------------------------------------------------------------------------------------------------------
# 2. copies


class Copies(nn.ModuleList):
    """
    One module, or several of the same shape of which each token uses one. Tokens come sorted by copy, so that each copy's are a slice: none is
    computed twice or masked, and where the sizes follow from the shape of a row (all routes but routers) nothing waits for data.
    """
    def forward(self, x, sizes):
        """x (N, C): sizes[0] tokens of copy 0, then sizes[1] of copy 1, ... -> the same rows (N, C')"""
        if len(self) == 1:
            return self[0](x)
        return torch.cat([copy(part) for copy, part in zip(self, x.split(sizes)) if len(part)])


def sort_by(copy):
    """copy (N,): each token's copy -> order (N,) that sorts the tokens by it, and back (N,), its inverse."""
    order = copy.argsort(stable=True)
    return order, torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


class FFN(nn.Module):
    def __init__(self, c, hidden):
        super().__init__()
        self.up, self.down = nn.Linear(c.n_embd, hidden, bias=False), nn.Linear(hidden, c.n_embd, bias=False)

    def forward(self, x):
        x = F.relu(self.up(x))
        return self.down(x * x)


class Experts(nn.Module):
    """
    FFN copies chosen per token by a router. An expert is as wide as the dense FFN, or with a shared expert both are half as wide: an FFN is a sum
    over its hidden units, so what a token costs is the dense network's. The chosen one's weight is 1 in value, its probability p in gradient.
      learned      one softmax over all experts; loss: E sum_i f_i p_i (Fedus et al. 2021, eq. 4), p_i the mean probability of expert i in this task,
                   f_i its share of the tokens of both tasks: the load is to be even over all, so that an expert may still be one task's
      supervised   first the task, by a router that learns it from its label (cross-entropy, for this router alone), then one of that task's experts
      oracle       the same, but the label itself decides
    After a forward: .aux, the router's loss, and .load (E,), the share of tokens (padding too) that each expert took.
    """
    def __init__(self, c):
        super().__init__()
        self.c, self.n = c, c.experts * (1 if c.route == "learned" else 2)
        hidden = 4 * c.n_embd // (2 if c.shared else 1)
        self.experts = Copies(FFN(c, hidden) for _ in range(self.n))
        self.router = nn.Linear(c.n_embd, self.n, bias=False)
        if c.route == "learned":
            self.register_buffer("last", torch.full((2, self.n), 1 / self.n))  # each task's load in the last training step
        else:
            self.task_router = nn.Linear(c.n_embd, 2, bias=False)
        if c.shared:
            self.shared, self.mix = FFN(c, hidden), nn.Parameter(torch.ones(2))

    def forward(self, x, drawn):  # x (N, C), all of one task
        scores = self.router(x).float()  # (N, E)
        if self.c.route != "learned":
            guess, task = self.task_router(x.detach()).float(), torch.full((len(x),), int(drawn), device=x.device)  # (N, 2), (N,)
            self.aux = F.cross_entropy(guess, task)
            task = guess.argmax(-1) if self.c.route == "supervised" else task
            other = torch.arange(self.n, device=x.device) // self.c.experts != task[:, None]
            scores = scores.masked_fill(other, float("-inf"))
        p = scores.softmax(-1)
        best, expert = p.max(-1)
        count = (expert[:, None] == torch.arange(self.n, device=x.device)).sum(0)
        self.load = count / len(x)
        if self.c.route == "learned":
            if torch.is_grad_enabled():
                self.last[int(drawn)] = self.load
            self.aux = self.n * (self.last.mean(0) * p.mean(0)).sum()
        pad = -count % (64 if torch.is_grad_enabled() else 1)  # in training to few different sizes, as a kernel is prepared for each
        at = sort_by(expert)[1] + (pad.cumsum(0) - pad)[expert]  # each token's place in the rows of all experts
        sizes = (count + pad).tolist()  # the one place where the host waits for data: how many chose which
        parts = x.new_zeros(sum(sizes), x.size(1)).index_copy(0, at, x).split(sizes)
        y = torch.cat([own(part) for own, part in zip(self.experts, parts)]).index_select(0, at)  # idle ones' gradients are zero, not none
        y = y * (best / best.detach())[:, None].to(y.dtype)
        return self.mix[0] * y + self.mix[1] * self.shared(x) if self.c.shared else y


# ---------------------------------------------------------------------------------------------------------------------
# 3. the transformer


class Norm(torch.autograd.Function):
    """
    RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4) without its gain, y = r x. Its derivative, r (g - y mean(g y)), is written out: so it
    keeps y, which a gain keeps too, and r, a number a row; autograd would keep x besides.
    """
    @staticmethod
    def forward(ctx, x):  # in float32 at least
        ctx.dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
        r = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) ** 2 / x.size(-1) + 1e-6).rsqrt()
        y = x * r
        ctx.save_for_backward(y, r)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        y, r = ctx.saved_tensors
        return (torch.addcmul(g, y, (g * y).mean(-1, keepdim=True), value=-1) * r).to(ctx.dtype)


class RMSNorm(nn.RMSNorm):
    def forward(self, x):
        return Norm.apply(x) * self.weight


def rotate(x, rotary):
    """
    Rotary positions (Su et al. 2021, arXiv 2104.09864, eq. 34): neighbouring channels of x (..., D) are complex numbers, turned by position times
    frequency: rotary (..., D / 2, 2). On a CPU it is one pass over memory so; what compiles, for a GPU, knows only real numbers, and fuses them.
    """
    x = x.unflatten(-1, (-1, 2))
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        return torch.view_as_real(torch.view_as_complex(x) * torch.view_as_complex(rotary)).flatten(-2)
    (a, b), (cos, sin) = x.unbind(-1), rotary.unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


# B rows of T tokens, as all layers work on them: the copies' sizes, what sorts the B T tokens by copy, and back (None: they stand sorted)
Layout = namedtuple("Layout", "B T sizes order back")


class Attention(nn.Module):
    """
    Causal self-attention which, given key, also returns mass: the weight that each query puts on the tokens where key is True, mean over heads.

    That weight is itself an attention output: give the values one more channel that is 1 on these keys and 0 elsewhere, and that channel of
    softmax(QK')V is the sum over them of the weights. Exact, differentiable, and from the fused kernel, in which no T x T matrix ever exists. It
    wants q, k and v equally wide: zero channels change no logit; on a GPU eight, as kernels there like multiples of eight.
    """
    def __init__(self, c):
        super().__init__()
        self.n_head, n = c.n_head, 2 if "qkv" in c.split else 1
        self.qkv = Copies(nn.Linear(c.n_embd, 3 * c.n_embd, bias=False) for _ in range(n))
        self.proj = Copies(nn.Linear(c.n_embd, c.n_embd, bias=False) for _ in range(n))

    def forward(self, x, layout, rotary=None, key=None, explicit=False, cache=None, mask=None):
        """
        x (N, C), sorted by copy -> y (N, C), mass (B, T) or None. key (B, S); mask (B, 1, T, S), or None: causal. cache: (k, v, start): (B, H, S, D)
        each, filled up to position start. explicit: mass from the matrix of weights, as one would first write it.
        """
        B, T, sizes, order, back = layout
        H, D = self.n_head, x.size(-1) // self.n_head
        room = 0 if key is None or explicit else 8 if x.is_cuda else 1
        qkv = self.qkv(x, sizes)  # (N, 3 C)
        qkv = qkv if back is None else qkv.index_select(0, back)  # attention is joint: tokens return to their places
        qk, v = qkv.view(B, T, 3, H, D).split((2, 1), 2)  # split, not sliced: a slice's gradient is as large as the whole, mostly zeros
        qk = Norm.apply(qk) if rotary is None else rotate(Norm.apply(qk), rotary)
        q, k = qk.to(v.dtype).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        v = v.squeeze(2).transpose(1, 2)
        if cache is not None:
            K, V, start = cache
            K[:, :, start:start + T], V[:, :, start:start + T] = k, v
            k, v = K[:, :, :start + T], V[:, :, :start + T]  # (B, H, S, D), S = start + T
        if room:
            q, k = F.pad(q, (0, room)), F.pad(k, (0, room))  # (B, H, T or S, D + room)
            indicator = F.pad(key[:, None, :, None].to(v.dtype), (0, room - 1)).expand(-1, H, -1, -1)
            v = torch.cat((v, indicator), -1)  # (B, H, S, D + room)
        elif cache is None:
            v = v.contiguous()  # or all of qkv would be kept for the backward pass
        # On a CPU in bfloat16 the fused kernel is slow with short rows (3.7 times the matrix's time at 123 tokens, results/bench.md)
        if explicit or x.device.type == "cpu" and v.dtype == torch.bfloat16 and k.size(2) <= 512:
            seen = mask if mask is not None else torch.ones(T, k.size(2), dtype=torch.bool, device=x.device).tril()
            hidden = torch.zeros_like(seen, dtype=q.dtype).masked_fill(~seen, float("-inf"))  # added, as filling has a derivative to pay for
            weights = ((q * D ** -.5) @ k.mT + hidden).softmax(-1)  # (B, H, T, S)
            y = weights @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=D ** -.5)
        mass = None
        if room:
            y, mass = y.split((D, room), -1)
            mass = mass[..., 0].float().mean(1)  # (B, T)
        elif key is not None:
            mass = (weights * key[:, None, None]).sum(-1).mean(1)  # (B, H, T, S) -> (B, T)
        y = y.transpose(1, 2).reshape(B * T, H * D)
        return self.proj(y if order is None else y.index_select(0, order), sizes), mass


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        n = lambda part: 2 if part in c.split else 1
        self.attn = Attention(c)
        self.routed = c.routed()
        self.ffn = Experts(c) if self.routed else Copies(FFN(c, 4 * c.n_embd) for _ in range(n("ffn")))
        self.norm1, self.norm2 = (Copies(RMSNorm(c.n_embd, eps=1e-6) for _ in range(n("norm"))) for _ in range(2))

    def forward(self, x, layout, drawn=None, **how):
        y, mass = self.attn(self.norm1(x, layout.sizes), layout, **how)
        x = x + y
        return x + self.ffn(self.norm2(x, layout.sizes), drawn if self.routed else layout.sizes), mass


class Table(nn.Module):
    """
    A vector per token of the vocabulary, to embed it or to score it. An image token's is its own plus one for each of its digits: codes that share
    a digit stand for similar patches, so what is learned of one serves the others (trial on an earlier toy world, nano, 300 steps, one seed:
    validation loss 1.11 -> 0.91 to draw, 0.45 -> 0.37 to see).
    """
    def __init__(self, c):
        super().__init__()
        self.own, self.digit = nn.Embedding(c.vocab_size, c.n_embd), nn.Embedding(sum(c.levels), c.n_embd)
        code = torch.arange(prod(c.levels))
        rows = [code // prod(c.levels[:i]) % l + sum(c.levels[:i]) for i, l in enumerate(c.levels)]
        self.register_buffer("rows", torch.stack(rows, 1), persistent=False)  # (codes, digits): which rows of self.digit are a code's
        self.around = 0, 0, c.first_image, c.vocab_size - c.first_image - len(code)

    def forward(self):  # (V, C)
        return self.own.weight + F.pad(F.embedding_bag(self.rows, self.digit.weight, mode="sum"), self.around)


class Eyes(nn.Module):
    """
    How a picture to understand comes in when not as tokens: pixels (B, S, S, 3) uint8 -> (B, n_image, C), a vector a patch. A convolution whose
    stride is its width is a matrix on patches.
      patches   two of them with a GELU between (EVEv2, fig. 3)
      encoder   one, a block that attends both ways, and an MLP adapter (as Janus-Pro and BAGEL have them, in small)
    """
    def __init__(self, c):
        super().__init__()
        self.c, C = c, c.n_embd
        if c.see == "patches":
            self.fine, self.join = nn.Linear(3 * (c.patch // 2) ** 2, C), nn.Linear(4 * C, C)
        else:
            self.patch, self.place = nn.Linear(3 * c.patch ** 2, C), nn.Embedding(c.n_image, C)
            self.block, self.norm = Block(replace(c, split=())), RMSNorm(C, eps=1e-6)
            self.adapter = nn.Sequential(nn.Linear(C, C), nn.GELU(), nn.Linear(C, C))

    def forward(self, pixels):
        B, S, n = *pixels.shape[:2], self.c.n_image
        side = S // self.c.patch
        cut = lambda x, n: x.view(B, n, x.size(1) // n, n, x.size(2) // n, -1).transpose(2, 3).flatten(3)  # (B, n, n, what is in a cell)
        x = pixels.float() / 127.5 - 1
        if self.c.see == "patches":
            return self.join(cut(F.gelu(self.fine(cut(x, 2 * side))), side)).view(B, n, -1)
        x = self.patch(cut(x, side)).view(B, n, -1) + self.place.weight
        every = torch.ones(1, 1, n, n, dtype=torch.bool, device=x.device)
        x, _ = self.block(x.flatten(0, 1), Layout(B, n, None, None, None), mask=every)
        return self.adapter(self.norm(x)).view(B, n, -1)


class Transformer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config, self.checkpoint, C = c, False, c.n_embd  # checkpoint: compute layers anew in the backward pass
        self.side = round(c.n_image ** .5)  # tokens a row of the picture
        ends = lambda make: Copies(make() for _ in range(2 if "ends" in c.split else 1))
        self.embed = ends(lambda: Table(c))
        self.row, self.column = (ends(lambda: nn.Embedding(self.side, C)) for _ in range(2))  # where in the picture an image token stands
        self.blocks = nn.ModuleList([Block(c) for _ in range(c.n_layer)])
        self.norm = ends(lambda: RMSNorm(C, eps=1e-6))
        self.head = ends(lambda: Table(c))
        if c.see != "tokens":
            self.eyes = Eyes(c)
        if c.own_head:  # Janus-Pro: an MLP behind the embedding of what is drawn, and one before its head
            self.own_embed, self.own_head = nn.Sequential(nn.Linear(C, C), nn.GELU(), nn.Linear(C, C)), nn.Linear(C, C)
        D = C // c.n_head
        angle = torch.arange(c.block_size)[:, None] * 1000. ** (-torch.arange(0, D, 2) / D)  # (T, D / 2) radians
        self.register_buffer("rotary", torch.stack((angle.cos(), angle.sin()), -1)[:, None, None], persistent=False)  # (T, 1, 1, D / 2, 2)
        for name, p in self.named_parameters():
            if p.dim() == 2:  # what writes into the residual stream starts silent, and the logits nearly so
                std = 0. if re.search(r"\b(proj|down)\b", name) else .002 if name.startswith("head") else p.size(1) ** -.5
                nn.init.normal_(p, std=std)

    def forward(self, idx, key=None, at=None, task=None, pixels=None, explicit=False, cache=None):
        """
        idx (B, T) token ids -> logits (B, T, V), mass (L, B, T) or None (see Attention). With a cache from new_cache(), idx continues it.
        at: a mask (B, T) of the n places whose logits are wanted, then (n, V): the head is a seventh of nano's products, and most places have no loss.
        task, of all rows: generate or understand (emu3 need not know). pixels (B, S, S, 3) uint8 of a picture in idx, for a network that sees pixels.
        """
        c, (B, T), start, mask = self.config, idx.shape, 0, None
        drawn, after = task == "generate", c.first_image + prod(c.levels)
        end = int(drawn) if "ends" in c.split else 0
        image = idx >= c.first_image  # (B, T): the modality of each token
        code = image & (idx < after)  # those that stand somewhere in the picture
        nth = code.cumsum(1)
        if cache is not None:
            start, nth = cache.start, nth + cache.n_image
            cache.start, cache.n_image = start + T, nth[:, -1:]
            k = torch.arange(start + T, device=idx.device)
            q = k[start:, None]
            mask = (k == q) | (k <= q) & (k >= cache.pad[:, None, None, None])  # (B, 1, T, start + T); padding sees itself, or it would be nan
        x = F.embedding(idx, self.embed[end]())  # (B, T, C)
        if c.own_head and drawn:
            x = torch.where(code[..., None], self.own_embed(x), x)
        if pixels is not None and c.see != "tokens":
            x = x.masked_scatter(code[..., None], self.eyes(pixels).to(x.dtype))
        # each picture has n_image tokens, so counting them modulo n_image is the position in it; the last row of the table is for all else
        place = ((nth - 1) % c.n_image).masked_fill(~code, c.n_image)
        x = x + F.embedding(place, F.pad((self.row[end].weight[:, None] + self.column[end].weight).flatten(0, 1), (0, 0, 0, 1)))
        # how many tokens of each row take the second copy, as many in every row
        if not c.split or c.routed() or c.route == "generated" and not drawn:
            n = 0
        elif c.route == "task":
            n = T if drawn else 0
        elif cache is not None:
            n = int(image[0].sum())
        else:  # a training row holds one whole picture: known without looking
            n = c.n_image + (self.side + 1) * (c.see == "patches" and not drawn)
        x, order, back = x.flatten(0, 1), None, None  # (B T, C)
        if 0 < n < T:
            order, back = sort_by(image.flatten())
            x = x.index_select(0, order)  # its gradient is cheaper than that of x[order]
        layout, masses = Layout(B, T, [B * (T - n), B * n], order, back), []
        how = {"drawn": drawn, "rotary": self.rotary[start:start + T], "key": key, "explicit": explicit, "mask": mask}
        for i, block in enumerate(self.blocks):
            how["cache"] = cache and (cache.k[i], cache.v[i], start)
            x, mass = checkpoint(block, x, layout, **how, use_reentrant=False) if self.checkpoint and torch.is_grad_enabled() else block(x, layout, **how)
            masses.append(mass)
        x = (x if back is None else x.index_select(0, back)).view(B, T, -1)
        x, head = self.norm[end](x if at is None else x[at]), self.head[end]()
        with torch.autocast(x.device.type, enabled=False):  # logits in bfloat16 are coarse (results/aia.md)
            x = x.to(head.dtype)
            if c.own_head and drawn:  # image ids only; the others' logits are -inf
                logits = F.linear(F.gelu(self.own_head(x)), head[c.first_image:after])
                logits = F.pad(logits, (c.first_image, c.vocab_size - after), value=float("-inf"))
            else:
                logits = F.linear(x, head)
        return logits, torch.stack(masses) if key is not None else None

    def new_cache(self, pad, length):
        """A cache for len(pad) sequences of at most `length` tokens, of which the first pad[b] are padding on the left."""
        c, like = self.config, self.embed[0].own.weight
        k, v = torch.zeros(2, c.n_layer, len(pad), c.n_head, length, c.n_embd // c.n_head, device=like.device, dtype=like.dtype)
        return SimpleNamespace(k=k, v=v, start=0, n_image=torch.zeros_like(pad)[:, None], pad=pad)

    def router_loss(self):
        """The routers' loss in the last forward, mean over layers; 0 without routers."""
        aux = [b.ffn.aux for b in self.blocks if b.routed]
        return torch.stack(aux).mean() if aux else 0.

    def start_from(self, dense):
        """
        Takes over the weights (a state_dict) of a network without copies: a second copy starts as its first, experts as the FFN (beside a shared
        one, which has the first half of the hidden units, as the second half), and what has no counterpart stays as it was made. Without new eyes
        or ends it computes at first what the dense one did.
        """
        own = self.state_dict()  # the very weights, not copies
        for name, p in own.items():
            sources = name, re.sub(r"ffn\.(experts\.\d+|shared)\.", "ffn.0.", name), re.sub(r"\.\d+\.(\w+\.)?weight$", r".0.\1weight", name)
            if source := next((x for x in sources if x in dense), None):
                w, half = dense[source], 1 if "experts" in name else 0
                for dim in (d for d in range(w.dim()) if source != name and w.size(d) == 2 * p.size(d)):
                    w = w.chunk(2, dim)[half]
                p.copy_(w)


# ---------------------------------------------------------------------------------------------------------------------
# 4. around it: optimisers, devices, loading


class Muon(torch.optim.Muon):
    """
    Jordan et al. 2024: momentum whose singular values are driven to about 1 by five Newton-Schulz steps, so that every direction of a matrix
    learns alike. The step is torch.optim.Muon's, bit for bit on a CPU, but matrices of one shape take it as one batch.
    """
    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            train = [p for p in g["params"] if p.grad is not None]
            for rows, cols in dict.fromkeys(p.shape for p in train):
                ps = [p for p in train if p.shape == (rows, cols)]
                grads, past = [p.grad for p in ps], [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in ps]
                torch._foreach_lerp_(past, grads, 1 - g["momentum"])
                x = torch.stack([u.lerp(m, g["momentum"]).bfloat16() for u, m in zip(grads, past)])  # (N, rows, cols), Nesterov's
                if isinstance(x, DTensor):  # in shards, with --fsdp: each process takes the step of whole matrices
                    x = x.redistribute(placements=[Replicate()])
                x = x.mT if rows > cols else x  # tall ones lie down meanwhile
                x = x / torch.stack(torch._foreach_norm(x.unbind())).clamp(min=1e-7)[:, None, None]
                for _ in range(5):
                    a = x @ x.mT
                    x = torch.baddbmm(x, torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
                steps = (x.mT if rows > cols else x).unbind()
                steps = [u.redistribute(placements=p.placements) if isinstance(u, DTensor) else u for u, p in zip(steps, ps)]
                torch._foreach_mul_(ps, 1 - g["lr"] * g["weight_decay"])
                torch._foreach_add_(ps, steps, alpha=-g["lr"] * max(1, rows / cols) ** .5)


def optimizers(model, lr):
    """Muon for the matrices between the ends, AdamW for embeddings, heads, routers and gains, at 0.4 of its learning rate."""
    matrices, rest = [], []
    for name, p in model.named_parameters():
        muon = p.dim() == 2 and re.match("blocks|eyes|own", name) and not re.search("router|place", name)
        (matrices if muon else rest).append(p)
    return [Muon(matrices, lr, weight_decay=.01), torch.optim.AdamW(rest, lr=lr * .4, betas=(.9, .95), weight_decay=0., fused=True)]


def find_device(name=None):
    """A device that works: the one named, or the best there is. Exits with one line if it does not."""
    name = name or ("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as e:
        sys.exit(f"--device {name}: cannot be used here ({str(e).splitlines()[0]})")
    return name


def set_products(kind, dtype=None):
    """
    What the matrix products of training are in on a cuda, cpu or mps: by default bfloat16 where there are instructions for it, else float32. In
    bfloat16 runs those that stay in float32, such as the logits, may be in TF32 on a GPU; on a CPU they go by oneDNN, which takes half of MKL's time
    on an AMD EPYC (and may round what goes in, not what comes out, where there is AMX). Returns the dtype's name.
    """
    can = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch cannot tell
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if kind == "cuda" else kind == "cpu" and any(map(can.get, ("avx512_bf16", "amx_bf16")))
    dtype = dtype or ("bfloat16" if fast else "float32")
    torch.set_float32_matmul_precision("highest" if dtype == "float32" else "high" if kind == "cuda" else "medium")
    return dtype


def latest_run():
    """The folder under out/ with the newest checkpoint."""
    found = sorted(Path("out").glob("*/ckpt.pt"), key=lambda f: f.stat().st_mtime)
    return str(found[-1].parent) if found else sys.exit("out/: no run here yet; train one: python train.py --aia 0.1")


def load_model(folder, device="cpu", file="ckpt.pt"):
    """A run's folder -> its model in eval mode, and its config.json. Exits with one line if there is none to read."""
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        if config.get("version") != VERSION:
            raise ValueError(f"version {config.get('version')}, this code reads {VERSION}")
        model = Transformer(Config(**config["model"])).to(device)
        model.load_state_dict(torch.load(folder / file, map_location=device, weights_only=True)["model"])
    except FileNotFoundError as e:
        sys.exit(f"{folder}: no run here ({Path(e.filename).name} is missing); train one: python train.py --out {folder}")
    except Exception as e:
        sys.exit(f"{folder}: {file} or config.json is damaged, or of another version ({' '.join(str(e).split())[:100]}); train it again")
    return model.eval(), config


# ---------------------------------------------------------------------------------------------------------------------
# 5. what it costs


MATCH = {"active": "flops", "parameters": "active", "total": "total"}  # what of cost() a width is chosen by


def turn(c, arch, match=None, **flags):
    """Config c as a preset has it, then as flags (of DIAL; None says nothing) have it. Raises ValueError if they contradict each other."""
    flags = {k: v for k, v in flags.items() if v is not None}
    new = replace(c, **{k: v for k, v in PRESETS[arch].items() if k != "stages"} | flags)
    router = new.route in ROUTERS
    for wrong, why in ((set(new.split) - set(ALL + ("ends",)), "split is any of norm, qkv, ffn, ends"),
                       ("route" in flags and not new.split, "nothing exists in copies that could be routed; give --split"),
                       (router and tuple(new.split) != ("ffn",), "routers choose among copies of ffn alone"),
                       ("ends" in new.split and new.route != "task", "ends go by task"),
                       (not router and (new.experts > 1 or new.shared) or new.experts < 1, "experts, at least 1, and a shared one need a router "
                        "(--route learned | supervised | oracle), or --experts 1 --no-shared")):
        if wrong:
            raise ValueError(f"split {','.join(new.split) or 'none'}, route {new.route}, experts {new.experts}{', shared' * new.shared}: {why}")
    if new.see == "patches":
        new = replace(new, block_size=new.block_size + round(c.n_image ** .5) + 1)  # <|cls|>, and <|row|> after each row
    if match:
        which, want, step = MATCH[match], cost(c), 2 * c.n_head
        guess = round(c.n_embd * (want[which] / cost(new)[which]) ** .5 / step)  # most of the cost goes by the square of the width
        near = (replace(new, n_embd=step * w) for w in range(max(1, guess - 1), guess + 2))
        new = min(near, key=lambda x: abs(cost(x)[which] / want[which] - 1))
    return new


def example(c, task, B, device="cpu"):
    """Rows of random tokens of the longest length, as a forward takes them."""
    text = torch.randint(c.first_image, (B, c.block_size))
    image = torch.randint(c.first_image, c.first_image + prod(c.levels), (B, c.n_image))
    if task == "generate":
        return {"idx": torch.cat((text[:, c.n_image:], image), 1).to(device), "task": task}
    idx = torch.from_numpy(frame(torch.cat((text[:, :2], image, text[:, c.n_image + 2:]), 1).numpy(), c))[:, :c.block_size]
    side = round(c.n_image ** .5) * c.patch
    return {"idx": idx.to(device), "task": task, "pixels": torch.randint(256, (B, side, side, 3), dtype=torch.uint8, device=device)}


@torch.no_grad()
def cost(c):
    """
    Parameters, total and active (those that a token has a use for), and FLOPs a token of training: three times those of a forward over one long row
    of each task, all its places predicted, counted as it runs; per token of the row as emu3 has it, so that what a frame adds shows.
    """
    model = Transformer(c)
    count = lambda m: sum(p.numel() for p in m.parameters())
    idle = sum(count(m) * (1 - 1 / len(m)) for m in model.modules() if isinstance(m, Copies))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:  # as matrix products, which the counter knows on every device
        for task in TASKS:
            model(**example(c, task, 1))
    rows = 2 * (c.block_size - (model.side + 1 if c.see == "patches" else 0))
    return {"total": count(model), "active": round(count(model) - idle), "flops": 3 * flops.get_total_flops() / rows}


def by_turns(works, rounds, device):
    """Runs {name: function} by turns, twice to warm up, then `rounds` times: {name: [seconds]}. Ratios within a round do not drift with the machine."""
    took = {name: [] for name in works}
    for i in tqdm(range(rounds + 2), desc="timing", unit="round", leave=False):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if device != "cpu":
                torch.accelerator.synchronize()
            took[name] += [time.perf_counter() - start] * (i > 1)
    return took


if __name__ == "__main__":
    p = argparse.ArgumentParser(description="The presets and what each costs: parameters, FLOPs, step time here, cache.", formatter_class=Help)
    p.add_argument("--size", choices=SIZES, default="nano", help="shape of the network")
    p.add_argument("--match", choices=MATCH, help="scale each width so that FLOPs a token, active or all parameters come nearest to emu3's")
    p.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the matrix products (default: as train.py's)")
    args, B, rounds = p.parse_args(), 16, 9
    device, base = find_device(), Config(*SIZES[args.size], patch=CANVAS[args.size] // 8)
    configs, dtype = {a: turn(base, a, args.match) for a in PRESETS}, set_products(device, args.dtype)

    def step(net, opts, batches):
        for b in batches:  # both tasks, forward and backward (of something as dear as the loss), and the optimisers
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
                logits = net(**b)[0]
            (logits.float().logsumexp(-1).mean() + .01 * net.router_loss()).backward()
        for o in opts:
            o.step()
            o.zero_grad()

    nets = {a: Transformer(c).to(device) for a, c in configs.items()}
    works = {a: partial(step, net, optimizers(net, .01), [example(net.config, t, B, device) for t in TASKS]) for a, net in nets.items()}
    took = by_turns(works, rounds, device)
    print(f"{args.size}, {B} rows of each task, {device}, {dtype}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
          f"step time: emu3's is 1, median of {rounds} rounds\n\n"
          f"{'preset':10}{'split':20}{'route':12}{'sees':9}{'draws by':10}{'width':>5}{'total M':>9}{'active M':>10}{'MFLOP/token':>13}{'step time':>11}"
          f"{'cache B/token':>15}")
    for a, c in configs.items():
        k, ratio = cost(c), median(t / e for t, e in zip(took[a], took["emu3"]))
        print(f"{a:10}{','.join(c.split) or '-':20}{c.route if c.split else '-':12}{c.see:9}{'own head' if c.own_head else 'head':10}{c.n_embd:>5}"
              f"{k['total'] / 1e6:>9.2f}{k['active'] / 1e6:>10.2f}{k['flops'] / 1e6:>13.2f}{ratio:>11.2f}{2 * c.n_layer * c.n_embd * 4:>15,}")
