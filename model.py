"""
model.py: the transformer, shared by both tasks or taken apart. Read it after data.py; then aia.py.

  1. the table         every published way to take the network apart, a row a paper
  2. copies            weights that exist more than once, of which each token uses its own
  3. the layers        attention, which also measures the interaction; feed-forward; a block
  4. the transformer   eyes, trunk, hand

With nothing taken apart this is the purely unified baseline, `emu3`: a plain modern decoder with
RMSNorm, rotary positions, QK-norm, squared ReLU, no biases and fused attention. The one unusual
thing is what attention returns beside its output: how much the watched tokens receive (see attend).

Some functions come from tools/, as how they are computed is not the subject. rms_norm(x) scales
the last axis to a root mean square of 1, or of a given gain. rotate(x, rotary) turns pairs of
channels by an angle that grows with the position. squared_relu(x) is relu(x) ** 2. attention(q, k,
v, mask, scale) is softmax(scale q k') v, causal if there is no mask; plain_attention() also returns
the softmax.

A picture to understand comes in through the eyes, one to be drawn goes out through the hand. Here
both are tokens; other eyes and hands are a file each in systems/.
"""
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import data
from tools.fast import attention, plain_attention, rms_norm, rotate, squared_relu

# nano for a laptop's CPU, small for minutes on one GPU, base for an afternoon on it
SIZES = {"nano": (6, 4, 128), "small": (8, 8, 512), "base": (12, 12, 768)}  # layer, head, embd

# ---------------------------------------------------------------------------------------------
# 1. the table

ROUTERS = ("learned", "supervised", "oracle")


@dataclass
class Config:
    n_layer: int = 6              # blocks
    n_head: int = 4               # attention heads; n_embd / n_head must be even (rotary)
    n_embd: int = 128             # channels of the residual stream
    block_size: int = 96          # tokens of the longest sequence
    vocab_size: int = 1472        # text, special, image ids, padded to a multiple of 64
    first_image: int = 446        # the first image id: a token's modality is a comparison
    n_image: int = 36             # image tokens a picture, always the same
    levels: tuple = (8, 5, 5, 5)  # values of each digit of an image token
    patch: int = 8                # pixels a side of what an image token stands for

    # the dial: which weights exist in copies, and which token takes which
    split: tuple = ()        # what has copies: any of norm, qkv (with QK-norm and the output
                             # projection), ffn, and ends (embedding, final norm, head)
    route: str = "modality"  # if anything has: which tokens take the second copy. modality: image
                             # tokens | generated: those being drawn | task: all that leads to a
                             # picture. Or the copies of ffn are experts, and a router chooses.
                             # learned | supervised: it learns to tell the task | oracle: is told
    outer: int = 0           # copies in so many of the first and of the last layers alone; and
    last: int = 0            # in so many of the last alone. 0: in all
    experts: int = 1         # of a router; supervised and oracle: so many for each task
    shared: bool = False     # of a router: one more expert, which every token takes
    see: str = "tokens"      # the eyes: tokens | patches | encoder | latents
    draw: str = "tokens"     # the hand: tokens | flow | features | queries
    own_head: bool = False   # of tokens: an embedding and a head of its own for what is drawn
    noise: str = "flow"      # these are of other hands; their files tell what they mean
    causal: bool = False
    queries: int = 16
    connector: str = "enc-proj"
    condition: str = "queries"
    full: bool = False       # a picture to understand: each token attends to all of it
    cues: bool = True        # special tokens differ; else that a picture or an answer begins or
                             # ends is one and the same token, and does not tell the task
    aligned: bool = True     # an image token means the same seen or drawn; else not

    DIAL = ("split", "route", "outer", "last", "experts", "shared", "see", "draw", "own_head",
            "noise", "causal", "queries", "connector", "condition", "full", "cues", "aligned")

    @property
    def n_codes(self):
        return prod(self.levels)

    def routed(self):
        return "ffn" in self.split and self.route in ROUTERS

    def of_layer(self, layer):
        """The Config of one layer, without copies where there are none"""
        is_inner = self.outer and self.outer <= layer < self.n_layer - self.outer
        is_early = self.last and layer < self.n_layer - self.last
        return replace(self, split=()) if is_inner or is_early else self


# A preset is what it changes in Config, and maybe the weight of its loss to draw, and stages of
# training. A stage has
#   share    of the steps
#   train    only weights with one of these in their name train; or freeze: all but these
#   ratio    of rows, generate:understand
#   lr       a factor of the learning rate
#   route    in place of Config's
# The papers' stages start from a trained language model, these from a trained emu3 (--init_from);
# their learning rates are milder than the papers', as these runs are short.
ALL = ("norm", "qkv", "ffn")
# second copies' weights; qkv.1. is copy 1 of qkv
SECOND_COPIES = ("norm1.1.", "norm2.1.", "qkv.1.", "qk_norm.1.", "proj.1.", "ffn.1.")
PRESETS = {
    # Wang et al. 2024, arXiv 2409.18869: everything is a token
    "emu3": {},
    # Chen et al. 2025, arXiv 2501.17811: two encoders, two heads, one transformer
    "januspro": {"see": "encoder", "own_head": True, "stages": [
        {"share": .1, "train": ("eyes.adapter", "hand."), "ratio": "3:1"},
        {"share": .5, "freeze": ("eyes.encoder",), "ratio": "5:2"},
        {"share": .4, "ratio": "4:5", "lr": .5}]},
    # Diao et al. 2025, arXiv 2502.06788: all weights by modality. The paper only sees; here it
    # draws as emu3 does. Two tokens that its eyes put around a picture, <|cls|> and <|row|>, are
    # embedded as all others are, so they train last
    "evev2": {"split": ALL, "route": "modality", "see": "patches", "stages": [
        {"share": .1, "train": ("eyes",), "ratio": "0:1"},
        {"share": .3, "train": ("eyes", *SECOND_COPIES)},
        {"share": .6}]},
    # Deng et al. 2025, arXiv 2505.14683: all weights by whether a token is of a picture being
    # drawn. The paper splits the final norm too, and has a drawn picture twice, with noise and
    # clean, for what is said behind it: here nothing is
    "bagel": {"split": ALL, "route": "generated", "see": "encoder", "draw": "flow", "full": True,
              "draw_weight": 4., "stages": [
        {"share": .1, "train": ("eyes.adapter",), "ratio": "0:1"},
        {"share": .9}]},
    # Zhou et al. 2024, arXiv 2408.11039: one network foretells words and takes noise from pictures.
    # The paper adds noise to pictures to understand, too
    "transfusion": {"see": "latents", "draw": "flow", "full": True, "draw_weight": 5.},
    # Shi et al. 2024, arXiv 2412.15188: copies by modality. The words' stay as they are in a
    # network of text alone (--init_from)
    "lmfusion": {"split": ALL, "route": "modality", "see": "latents", "draw": "flow", "full": True,
                 "draw_weight": 5., "stages": [
        {"share": 1., "train": (*SECOND_COPIES, "hand.", "row.", "column.")}]},
    # the same paper, section 5.3: a network that sees already learns to draw, and answers as before
    "llavafusion": {"split": ALL, "route": "generated", "draw": "flow", "stages": [
        {"share": 1., "train": (*SECOND_COPIES, "hand."), "ratio": "1:0"}]},
    # Tong et al. 2024, arXiv 2412.14164: features of an encoder in and out; here as many as image
    # tokens, not 64
    "metamorph": {"see": "encoder", "draw": "features", "stages": [
        {"share": .1, "train": ("eyes.adapter",), "ratio": "0:1"},
        {"share": .9, "freeze": ("eyes.encoder",)}]},
    # Wang et al. 2024, arXiv 2412.06673: features in, tokens that stand for features out, as in a
    # data set of systems/semantic.py. At first the paper trains no words' embedding
    "illume": {"see": "encoder", "stages": [
        {"share": .1, "train": ("eyes.adapter", "embed.", "head.")},
        {"share": .4, "freeze": ("eyes.encoder",)},
        {"share": .5, "lr": .5}]},
    # Pan et al. 2025, arXiv 2504.06256: a network that stays as it is, asked by learned queries. It
    # sees as --init_from does; the paper's by an encoder
    "metaquery": {"draw": "queries", "stages": [
        {"share": 1., "train": ("hand.",), "ratio": "1:0"}]},
    # Zhang et al. 2025, arXiv 2506.03591: experts per task in a Janus-Pro, and a shared one. The
    # second stage trains all at half the learning rate, in LoRA's place
    "utamoe": {"split": ("ffn",), "route": "supervised", "experts": 2, "shared": True,
               "see": "encoder", "own_head": True, "stages": [
        {"share": .4, "train": ("experts", "shared", "router", "mix"), "route": "oracle"},
        {"share": .6, "lr": .5}]},
    # the control: a plain mixture of experts that is told nothing (Fedus et al. 2021, 2101.03961)
    "moe": {"split": ("ffn",), "route": "learned", "experts": 4},
    # the far end: two single-task networks that share nothing (but the clipping of gradients)
    "separate": {"split": ALL + ("ends",), "route": "task"},
}

# ---------------------------------------------------------------------------------------------
# 2. copies


class Copies(nn.ModuleList):
    """
    One module, or several of the same shape of which each token uses one. Tokens come sorted by
    copy, so that each copy's are a slice: no token is computed twice, none is masked.
    """

    def forward(self, x, sizes):
        """x (N, C): sizes[0] tokens of copy 0, then sizes[1] of copy 1 -> (N, C'), same order"""
        if len(self) == 1:
            return self[0](x)
        shares = zip(self, x.split(sizes))
        return torch.cat([copy(share) for copy, share in shares if len(share)])


def sort_by(copy):
    """copy (N,): each token's copy -> order (N,), which sorts the tokens by it, and its inverse"""
    order = copy.argsort(stable=True)
    back = torch.empty_like(order)
    back.scatter_(0, order, torch.arange(len(order), device=order.device))
    return order, back


class Layout(NamedTuple):
    """B rows of T tokens, as all layers work on them: one list of N = B T, sorted by copy."""
    B: int
    T: int
    sizes: list = None               # tokens of copy 0, of copy 1
    order: torch.Tensor = None       # (N,) sorts the tokens by copy; None: they stand sorted
    back: torch.Tensor = None        # (N,) its inverse
    rotary: torch.Tensor = None      # (T, 1, 1, D / 2, 2) cosines and sines of the positions
    mask: torch.Tensor = None        # (B, 1, T, S) who sees whom; None: causal
    watched: torch.Tensor = None     # (B, S) the tokens whose received attention is measured
    explicit: object = False         # attention as one would first write it; "maps": and its maps
    dropout: float = 0.              # share of what a layer adds that is left out
    route: str = None                # these three are for routers: who chooses,
    drawing: torch.Tensor = None     # (N,) each token's task,
    any_generated: bool = False      # and whether any picture is being generated

    def sort(self, x):
        return x if self.order is None else x.index_select(0, self.order)

    def unsort(self, x):
        return x if self.back is None else x.index_select(0, self.back)


class FFN(nn.Module):
    def __init__(self, config, hidden):
        super().__init__()
        self.up = nn.Linear(config.n_embd, hidden, bias=False)
        self.down = nn.Linear(hidden, config.n_embd, bias=False)

    def forward(self, x):
        return self.down(squared_relu(self.up(x)))


class Experts(nn.Module):
    """
    FFN copies chosen per token by a router.

      learned      one softmax over all experts, held even by a loss (Fedus et al. 2021, eq. 4)
      supervised   first the task, by a router that learns it from its label; then one of that
                   task's experts
      oracle       the same, but the label itself decides

    An expert is as wide as the dense FFN. With a shared expert both are half as wide: an FFN is a
    sum over its hidden units, so what a token costs is the dense network's.
    """

    def __init__(self, config):
        super().__init__()
        self.per_task = config.experts
        self.n = config.experts if config.route == "learned" else 2 * config.experts
        hidden = 2 * config.n_embd if config.shared else 4 * config.n_embd
        self.experts = Copies(FFN(config, hidden) for _ in range(self.n))
        self.router = nn.Linear(config.n_embd, self.n, bias=False)
        if config.route == "learned":
            even = torch.full((2, self.n), 1 / self.n)
            self.register_buffer("last", even)  # the load of the last batch of each task
        else:
            self.task_router = nn.Linear(config.n_embd, 2, bias=False)
        self.shared = None
        if config.shared:
            self.shared = FFN(config, hidden)
            self.mix = nn.Parameter(torch.ones(2))

    def forward(self, x, layout):
        """x (N, C) -> y (N, C); the router's loss; load (E,), the share each expert took"""
        scores = self.router(x).float()  # (N, E)
        if layout.route != "learned":
            task, loss = self.choose_task(x, layout)
            others = torch.arange(self.n, device=x.device) // self.per_task != task[:, None]
            scores = scores.masked_fill(others, float("-inf"))
        p = scores.softmax(-1)
        best, expert = p.max(-1)  # (N,)
        count = (expert[:, None] == torch.arange(self.n, device=x.device)).sum(0)
        load = count / len(x)
        if layout.route == "learned":
            loss = self.balance_loss(load, p, layout)
        y = self.dispatch(x, expert, count)
        # the chosen one weighs 1, but with the gradient of its log-probability: the router learns
        weight = best / best.detach()
        y = y * weight[:, None].to(y.dtype)
        if self.shared is not None:
            y = self.mix[0] * y + self.mix[1] * self.shared(x)
        return y, loss, load

    def choose_task(self, x, layout):
        """(N,): 1 to generate, 0 to understand; and the cross-entropy of the guess at it"""
        label = layout.drawing.long()
        guess = self.task_router(x.detach()).float()  # its loss teaches this router alone
        loss = F.cross_entropy(guess, label)
        if layout.route == "oracle":
            return label, loss
        return guess.argmax(-1), loss

    def balance_loss(self, load, p, layout):
        """
        E sum_i f_i p_i: p_i of this batch; f_i the mean load of the last batch to draw and the last
        to understand, as a batch holds one task only
        """
        if torch.is_grad_enabled():
            self.last[int(layout.any_generated)] = load
        return self.n * (self.last.mean(0) * p.mean(0)).sum()

    def dispatch(self, x, expert, count):
        """Each token through its expert."""
        # the experts' shares lie end to end. In training each is filled up with zeros to a multiple
        # of 64: a kernel is prepared for each size, so there should be few
        multiple = 64 if torch.is_grad_enabled() else 1
        padding = -count % multiple
        shift = padding.cumsum(0) - padding  # zeros before each expert's share
        _, rank = sort_by(expert)  # where a token stands among all, sorted by expert
        slot = rank + shift[expert]
        sizes = (count + padding).tolist()  # a GPU is waited for
        shares = x.new_zeros(sum(sizes), x.size(1)).index_copy(0, slot, x).split(sizes)
        # idle experts run too, on nothing: so their gradients are zero, not none
        y = torch.cat([own(share) for own, share in zip(self.experts, shares)])
        return y.index_select(0, slot)


# ---------------------------------------------------------------------------------------------
# 3. the layers


def attend(q, k, v, watched=None, mask=None, explicit=False):
    """
    Attention, and what of it the watched tokens receive.

    q (B, H, T, D); k, v (B, H, S, D); watched (B, S) bool or None; mask (B, 1, T, S) or None:
    causal -> y (B, H, T, D) and mass (B, H, T): the weight that each query puts on the watched
    tokens; None if nothing is watched.

    That weight is itself an output of attention. Give the values one more channel, 1 on the
    watched tokens and 0 elsewhere: this channel of softmax(q k') v is the sum of the weights on
    the watched tokens. So it is exact but for rounding, has a gradient, and comes from the same
    fused kernel, in which no T x T matrix ever exists. (Where that kernel is slow, tools/fast.py
    takes another way.)

    explicit: the same from the matrix of weights, as one would first write it; "maps": the mass
    is not summed over the watched tokens, (B, H, T, S).
    """
    H, D = q.size(1), q.size(-1)
    scale = D ** -.5
    if explicit:
        y, weights = plain_attention(q, k, v, mask, scale)  # weights (B, H, T, S)
        if watched is None:
            return y, None
        maps = weights * watched[:, None, None]  # (B, H, T, S)
        return y, maps if explicit == "maps" else maps.sum(-1)
    if watched is None:
        if v.requires_grad:
            v = v.contiguous()  # a copy: as a view it would keep all of qkv for the backward pass
        return attention(q, k, v, mask, scale), None

    room = 8 if q.is_cuda else 1  # GPU kernels want widths that are multiples of eight
    indicator = watched[:, None, :, None].to(v.dtype)  # (B, 1, S, 1)
    indicator = F.pad(indicator, (0, room - 1)).expand(-1, H, -1, -1)
    v = torch.cat((v, indicator), -1)  # (B, H, S, D + room)
    q = F.pad(q, (0, room))  # the kernel wants equal widths; zeros change no logit
    k = F.pad(k, (0, room))
    y = attention(q, k, v, mask, scale)
    y, mass = y.split((D, room), -1)
    return y, mass[..., 0].float().contiguous()  # a copy: a view would keep all of y


class RMSNorm(nn.Module):
    """RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4)"""

    def __init__(self, n_embd):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_embd))

    def forward(self, x):
        return rms_norm(x) * self.weight


class QKNorm(nn.Module):
    """
    RMSNorm of queries and keys, with a gain for each head's queries and one for its keys. Their
    product says how sharply the head looks (Henry et al. 2020, arXiv 2010.04245): no logit passes
    that times the root of D. At 1, with 32 channels a head, a token gets three quarters of the
    weight at most if 99 others are at 0.
    """

    def __init__(self, n_head):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2, n_head, 1))

    def forward(self, qk):  # (N, 2, H, D)
        return rms_norm(qk, self.gain)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        n = 2 if "qkv" in config.split else 1
        self.n_head = config.n_head
        self.qkv = Copies(nn.Linear(C, 3 * C, bias=False) for _ in range(n))
        self.qk_norm = Copies(QKNorm(config.n_head) for _ in range(n))
        self.proj = Copies(nn.Linear(C, C, bias=False) for _ in range(n))

    def forward(self, x, layout, cache=None, layer=None):
        """x (N, C), sorted by copy -> (N, C), mass (B, H, T) or None"""
        B, T, H = layout.B, layout.T, self.n_head
        qkv = self.qkv(x, layout.sizes)  # (N, 3 C)
        # split, not sliced: a slice's gradient is as large as the whole, and mostly zeros
        qk, v = qkv.view(B * T, 3, H, -1).split((2, 1), 1)  # (N, 2, H, D), (N, 1, H, D)
        qk = self.qk_norm(qk, layout.sizes)  # while tokens are sorted: each copy has its gains
        # attention is joint: tokens return to their places
        qk = layout.unsort(qk).view(B, T, 2, H, -1)
        v = layout.unsort(v).view(B, T, H, -1)
        if layout.rotary is not None:
            qk = rotate(qk, layout.rotary)
        q, k = qk.to(v.dtype).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        v = v.transpose(1, 2)  # (B, H, T, D)
        if cache is not None:
            k, v = cache.extend(layer, k, v)  # (B, H, S, D)
        y, mass = attend(q, k, v, layout.watched, layout.mask, layout.explicit)
        y = y.transpose(1, 2).reshape(B * T, -1)  # (N, C)
        return self.proj(layout.sort(y), layout.sizes), mass


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        n_norm = 2 if "norm" in config.split else 1
        n_ffn = 2 if "ffn" in config.split else 1
        self.routed = config.routed()
        self.attn = Attention(config)
        if self.routed:
            self.ffn = Experts(config)
        else:
            self.ffn = Copies(FFN(config, 4 * C) for _ in range(n_ffn))
        self.norm1 = Copies(RMSNorm(C) for _ in range(n_norm))
        self.norm2 = Copies(RMSNorm(C) for _ in range(n_norm))

    def forward(self, x, layout, cache=None, layer=None):
        """x (N, C) -> (N, C); mass (B, H, T) or None; (router's loss, load (E,)) or None"""
        y, mass = self.attn(self.norm1(x, layout.sizes), layout, cache, layer)
        x = x + dropped(y, layout.dropout)
        y = self.norm2(x, layout.sizes)
        if not self.routed:
            return x + dropped(self.ffn(y, layout.sizes), layout.dropout), mass, None
        y, loss, load = self.ffn(y, layout)
        return x + dropped(y, layout.dropout), mass, (loss, load)


def dropped(y, share):
    return F.dropout(y, share) if share else y


class Table(nn.Module):
    """
    A vector per token of the vocabulary, to embed it or to score it. An image token's is its own
    plus one for each of its digits: codes that share a digit stand for similar patches, so what
    is learned of one serves the others.
    """

    def __init__(self, config):
        super().__init__()
        levels = config.levels
        self.own = nn.Embedding(config.vocab_size, config.n_embd)
        self.digit = nn.Embedding(sum(levels), config.n_embd)  # the digits' values, end to end
        code = torch.arange(config.n_codes)
        digit_ids = []
        for i, n_values in enumerate(levels):
            value = code // prod(levels[:i]) % n_values
            digit_ids.append(value + sum(levels[:i]))
        digit_ids = torch.stack(digit_ids, 1)  # (codes, digits)
        self.register_buffer("digit_ids", digit_ids, persistent=False)
        self.n_before = config.first_image
        self.n_after = config.vocab_size - config.first_image - config.n_codes

    def forward(self):  # (V, C)
        digits = F.embedding_bag(self.digit_ids, self.digit.weight, mode="sum")  # (codes, C)
        # all other tokens have no digits: zeros above and below
        return self.own.weight + F.pad(digits, (0, 0, self.n_before, self.n_after))


# ---------------------------------------------------------------------------------------------
# 4. the transformer


class Output(NamedTuple):
    logits: torch.Tensor              # (n, V) at the n places where the batch has a loss
    mass: torch.Tensor = None         # (L, B, H, T) attention on the watched tokens
    drawn: torch.Tensor = None        # what another hand than tokens says of what it draws,
    off: torch.Tensor = None          # (B,) and how far it is off in each row
    router_loss: torch.Tensor = None  # mean over layers
    load: torch.Tensor = None         # (E,) the share of tokens each expert took, mean over layers


class Cache:
    """The keys and values of what was read: (L, B, H, length, D), of which `used` are filled."""

    def __init__(self, config, pad, length, like):
        D = config.n_embd // config.n_head
        shape = (2, config.n_layer, len(pad), config.n_head, length, D)
        self.k, self.v = torch.zeros(shape, device=like.device, dtype=like.dtype)
        self.pad = pad  # (B,) so many tokens of each row are padding, on the left
        self.picture = torch.full((len(pad), length), -1, device=like.device)
        self.watched = torch.zeros((len(pad), length), device=like.device, dtype=torch.bool)
        self.used = 0

    def extend(self, layer, k, v):
        """One layer's new keys and values (B, H, T, D), put behind the old -> all of them"""
        end = self.used + k.size(2)
        self.k[layer][:, :, self.used:end] = k
        self.v[layer][:, :, self.used:end] = v
        return self.k[layer][:, :, :end], self.v[layer][:, :, :end]


class Transformer(nn.Module):
    """
    The trunk, with eyes and a hand that are tokens. systems.build(config) makes a network: it
    puts other eyes and another hand here if the config asks for them, and sets the weights.
    """

    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        n_ends = 2 if "ends" in config.split else 1
        self.config = config
        self.route = config.route     # a stage may let the label choose the experts
        self.checkpoint = False       # whether layers are computed again in the backward pass
        self.dropout = 0.             # in training
        self.eyes = None              # tokens
        self.hand = None              # tokens
        self.frozen = ()              # how the names of weights begin that never train
        side = round(config.n_image ** .5)
        self.embed = Copies(Table(config) for _ in range(n_ends))
        self.row = Copies(nn.Embedding(side, C) for _ in range(n_ends))  # where in its picture
        self.column = Copies(nn.Embedding(side, C) for _ in range(n_ends))
        self.blocks = nn.ModuleList(Block(config.of_layer(i)) for i in range(config.n_layer))
        self.norm = Copies(RMSNorm(C) for _ in range(n_ends))
        self.head = Copies(Table(config) for _ in range(n_ends))
        # rotary positions (Su et al. 2021, arXiv 2104.09864, eq. 15); 1000 where they have 10000,
        # as these sequences are short
        D = C // config.n_head
        frequency = 1000. ** (-torch.arange(0, D, 2) / D)
        angle = torch.arange(config.block_size)[:, None] * frequency  # (T, D / 2) radians
        rotary = torch.stack((angle.cos(), angle.sin()), -1)[:, None, None]
        self.register_buffer("rotary", rotary, persistent=False)  # (T, 1, 1, D / 2, 2)

    def forward(self, batch, watch=False, explicit=False, cache=None):
        """
        batch (see data.window) -> Output. watch: measure what the batch's watched tokens receive;
        explicit: how, see attend().
        cache, from new_cache(): the batch continues what the cache holds.
        """
        B, T = batch["ids"].shape
        layout = self.lay_out(batch, watch, explicit, cache)
        x = self.embed_tokens(batch)  # (B, T, C)
        x = layout.sort(x.flatten(0, 1))  # (N, C)

        masses = []
        routings = []
        for layer, block in enumerate(self.blocks):
            run = block
            if self.checkpoint and torch.is_grad_enabled():  # less memory: forget, recompute
                run = partial(checkpoint, block, use_reentrant=False)
            x, mass, routing = run(x, layout, cache, layer if cache else None)
            masses.append(mass)
            routings.append(routing)

        x = layout.unsort(x).view(B, T, -1)
        output = Output(self.logits(x[batch["loss"]], batch))  # not all places have a loss
        if "draws" in batch:
            drawn = self.hand.say(x, batch)
            off = self.hand.off(drawn, batch) if "wanted" in batch else None
            output = output._replace(drawn=drawn, off=off)
        if watch:
            output = output._replace(mass=torch.stack(masses))
        if self.config.routed():
            losses, loads = zip(*routings)
            output = output._replace(router_loss=torch.stack(losses).mean(),
                                     load=torch.stack(loads).mean(0))
        return output

    def lay_out(self, batch, watch, explicit, cache):
        B, T = batch["ids"].shape
        order = back = None
        if 0 not in batch["copy_sizes"]:  # both copies have tokens
            order, back = sort_by(batch["copy"].flatten())
        start = cache.used if cache else 0
        end = start + T
        watched = batch["watched"]
        if cache:  # what is in the cache may be watched, too
            cache.watched[:, start:end] = watched
            watched = cache.watched[:, :end]
        return Layout(
            B, T, batch["copy_sizes"], order, back, self.rotary[start:end],
            mask=self.attention_mask(batch, cache),
            watched=watched if watch else None,
            explicit=explicit,
            dropout=self.dropout if torch.is_grad_enabled() else 0.,
            route=self.route,
            drawing=batch["drawing"].flatten(),
            any_generated=batch["n_generated"] > 0)

    def attention_mask(self, batch, cache):
        """(B, 1, T, S) bool: which token sees which. None: all see what stands before them."""
        c = self.config
        draws_full = c.draw == "flow" and not c.causal and batch["n_generated"] > 0
        if cache is None and not c.full and not draws_full:
            return None
        start = cache.used if cache else 0
        end = start + batch["ids"].size(1)
        key = torch.arange(end, device=batch["ids"].device)  # (S,)
        query = key[start:, None]  # (T, 1)
        sees = key <= query  # (T, S)
        if cache:
            # padding on the left sees itself alone: a softmax over nothing would be nan
            is_real = key >= cache.pad[:, None, None, None]  # (B, 1, 1, S)
            sees = (sees & is_real) | (key == query)
        if c.full or draws_full:
            both_ways = torch.where(batch["generated"], draws_full, c.full)  # (B, T)
            picture = batch["picture"].masked_fill(~both_ways, -1)
            pictures = picture
            if cache:
                cache.picture[:, start:end] = picture
                pictures = cache.picture[:, :end]  # (B, S)
            same = picture[:, None, :, None] == pictures[:, None, None, :]  # (B, 1, T, S)
            in_picture = (picture >= 0)[:, None, :, None]  # (B, 1, T, 1)
            sees = sees | (same & in_picture)
        return sees

    def embed_tokens(self, batch):
        """(B, T, C). An image token also says where in its picture it stands."""
        ids, place = self.ids_told(batch), batch["place"]
        vocabulary = torch.cat([table() for table in self.embed])
        grid = torch.cat([self.grid(i) for i in range(len(self.embed))])
        if len(self.embed) == 2:  # the second copy's table stands behind the first's
            second = batch["copy"].long()
            ids = ids + second * self.config.vocab_size
            place = place + second * (self.config.n_image + 1)
        x = F.embedding(ids, vocabulary)
        generated = batch["generated"][..., None]  # (B, T, 1)
        seen = (batch["picture"] >= 0)[..., None] & ~generated
        if self.hand is not None and batch["n_generated"]:
            x = torch.where(generated, self.hand.embed(x, batch), x)
        if self.config.see == "latents":
            x = torch.where(seen, self.hand.see(batch["ids"]), x)
        if self.eyes is not None and "pixels" in batch:
            x = x.masked_scatter(seen, self.eyes(batch["pixels"]).to(x.dtype))
        return x + F.embedding(place, grid)

    def ids_told(self, batch):
        """Its tokens (B, T), but for what the network is not to be told."""
        ids, c = batch["ids"], self.config
        if not c.cues:
            begins, ends = [data.special_id(name, c.first_image) for name in ("<|boi|>", "<|end|>")]
            ids = ids.masked_fill((ids >= begins) & (ids <= ends), begins)  # with what is between
        if not c.aligned:  # each digit of a picture that is seen is shifted by one
            seen = (batch["picture"] >= 0) & ~batch["generated"]
            other = data.shifted(ids - c.first_image, c.levels)
            ids = torch.where(seen, c.first_image + other, ids)
        return ids

    def grid(self, i):
        """(n_image + 1, C): a vector for each place in a picture; the last is 0: in none"""
        places = self.row[i].weight[:, None] + self.column[i].weight  # (side, side, C)
        return F.pad(places.flatten(0, 1), (0, 0, 0, 1))

    def logits(self, x, batch):
        """x (n, C) -> (n, V): a picture's tokens may be predicted otherwise than words"""
        words, drawn = batch["loss_sizes"]
        if drawn == 0:
            return self.predict(x, drawing=False)
        if words == 0:
            return self.predict(x, drawing=True)
        if self.hand is None and len(self.head) == 1:
            return self.predict(x, drawing=False)  # one head does both
        order, back = sort_by(batch["next_generated"][batch["loss"]])
        of_words, of_pictures = x.index_select(0, order).split([words, drawn])
        logits = (self.predict(of_words, drawing=False), self.predict(of_pictures, drawing=True))
        return torch.cat(logits).index_select(0, back)

    def predict(self, x, drawing):
        which = 1 if drawing and len(self.head) == 2 else 0
        x = self.norm[which](x)
        head = self.head[which]()  # (V, C)
        with torch.autocast(x.device.type, enabled=False):  # logits in bfloat16 are too coarse
            x = x.to(head.dtype)
            if drawing and self.config.own_head:
                return self.hand.logits(x, head)
            return F.linear(x, head)

    def to_batch(self, ids, roles, pixels=None, drop=None, noise=None):
        """data.to_batch() for this network; noise: in training, a seed of it for each row"""
        if self.eyes is None:
            pixels = None
        if pixels is not None:
            ids, roles = self.eyes.frame(ids, roles)
        other = self.config.draw != "tokens"
        batch = data.to_batch(ids, roles, *self.kinds(), pixels, drop, self.rotary.device, other)
        return self.hand.prepare(batch, noise) if other else batch

    def describe(self, ids, roles):
        """data.describe() for this network"""
        return data.describe(ids, roles, *self.kinds())

    def kinds(self):
        """first_image, n_codes, n_image, route: how data.describe() tells its tokens apart"""
        c = self.config
        route = c.route if c.split and not c.routed() else None  # routers choose for themselves
        return c.first_image, c.n_codes, c.n_image, route

    def new_cache(self, pad, length):
        """For len(pad) rows of at most `length` tokens, pad (B,) of them padding on the left"""
        return Cache(self.config, pad, length, self.embed[0].own.weight)
