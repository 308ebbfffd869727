"""
lab/bench.py: what AIA costs, and how fast the transformer is beside a plain one.

    python -m lab.bench
    python -m lab.bench --parts   # what some things cost that the plain one does not have

Whole training steps of 4,096 random tokens in rows of T, four ways by turns:

  plain     a decoder as nanoGPT has it, trained by AdamW
  none      ours without AIA
  AIA       ours with it, on every N-th step (--aia_every)
  explicit  ours with it on every step, from the matrix of attention weights, as the paper's
            released code has it

README.md tells how to read the table; results/bench.json gets the numbers.
"""
import argparse
import re
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import aia
from data import TARGET
from model import SIZES, Config
from systems import build
from systems.dial import cost
from tools.device import (find_device, gpu_name, keep_freed_memory, name_of, peak_flops,
                          set_products)
from tools.faults import expect_faults
from tools.files import save_json
from tools.flags import Parser
from tools.muon import optimizers
from tools.timing import by_turns

TOKENS = 4096   # a step
LENGTHS = (64, 128, 256, 1024, 4096)
OF_PARTS = (128, 1024)
PARTS = ("RMSNorm", "QK-norm", "rotary", "squared ReLU", "float32 logits", "Muon")
LONGEST = 1024  # of explicit maps: at 4,096 they alone would take gigabytes
ROUNDS = 5
N_IMAGE = 36    # tokens of the picture at the end of each row; all before is its prompt
RESULT = Path("results/bench.json")

# ---------------------------------------------------------------------------------------------
# the yardstick


class PlainBlock(nn.Module):
    """Attention, then an MLP, each behind a norm and added to the stream."""

    def __init__(self, n_embd, n_head):
        super().__init__()
        self.n_head = n_head
        self.norm1 = nn.LayerNorm(n_embd)
        self.qkv = nn.Linear(n_embd, 3 * n_embd, bias=False)
        self.proj = nn.Linear(n_embd, n_embd, bias=False)
        self.norm2 = nn.LayerNorm(n_embd)
        self.up = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.down = nn.Linear(4 * n_embd, n_embd, bias=False)

    def forward(self, x):  # (B, T, C)
        B, T, C = x.shape
        qkv = self.qkv(self.norm1(x)).view(B, T, 3, self.n_head, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Plain(nn.Module):
    """A plain decoder as nanoGPT has it: LayerNorm, learned positions, GELU, tied head."""

    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.embed = nn.Embedding(config.vocab_size, C)
        self.position = nn.Embedding(config.block_size, C)
        self.blocks = nn.ModuleList(PlainBlock(C, config.n_head) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(C)

    def forward(self, ids):
        """ids (B, T) -> logits (B, T, V)"""
        x = self.embed(ids) + self.position.weight[:ids.size(1)]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embed.weight)


# ---------------------------------------------------------------------------------------------
# four ways to take a step


def random_batch(net, T, device):
    """Rows of random tokens with a picture at the end; every token but the first is predicted."""
    c = net.config
    B = max(1, TOKENS // T)
    ids = np.random.default_rng(0).integers(0, c.first_image, (B, T + 1))
    ids[:, -N_IMAGE:] = np.random.default_rng(1).integers(c.first_image, c.first_image + c.n_codes,
                                                          (B, N_IMAGE))
    batch = net.to_batch(ids, np.full(ids.shape, TARGET, np.uint8))
    batch["watched"] = batch["ids"] < c.first_image
    batch["watching"] = ~batch["watched"]
    return batch


def loss_of(way, net, batch, act=True):
    """The loss of a step. act: whether AIA acts in it"""
    if way == "plain":
        logits = net(batch["ids"]).flatten(0, 1)
        return F.cross_entropy(logits.float(), batch["targets"].flatten())
    watch = way == "explicit" or way == "AIA" and act
    output = net(batch, watch=watch, explicit=way == "explicit")
    loss = F.cross_entropy(output.logits.float(), batch["targets"][batch["loss"]])
    if not watch:
        return loss
    intensity = aia.interaction(output.mass, batch["watching"]).mean(-1)  # (L, B)
    target = torch.full_like(intensity[:, :1], .2)
    threshold = torch.full_like(target, .05)
    valid = batch["watched"].any(1)
    return loss + .1 * aia.aia_loss(intensity, valid, target, threshold, len(valid))


def take_steps(way, net, opts, batch, args):
    """As many steps as AIA acts on one of."""
    for i in range(args.aia_every):
        with autocast(args):
            loss = loss_of(way, net, batch, act=i == 0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.)
        for opt in opts:
            opt.step()
            opt.zero_grad()


def autocast(args):
    """Matrix products in what --dtype says."""
    kind = torch.device(args.device).type
    return torch.autocast(kind, torch.bfloat16, enabled=args.dtype == "bfloat16")


def bytes_kept(way, net, batch, args):
    """How much the forward pass of a step with AIA keeps for the backward pass."""
    sizes = {}  # of each piece of memory, by where it is: tensors may share one

    def note(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def give_back(tensor):
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, give_back), autocast(args):
        loss_of(way, net, batch)
    return sum(sizes.values())


def kernel_of_attention(net, batch, args):
    """The name of what attention runs in, with AIA."""
    with torch.profiler.profile(acc_events=True) as seen, autocast(args):
        loss_of("AIA", net, batch)
    for event in seen.key_averages():
        if re.match("aten::_scaled_dot_product_.*(flash|efficient|cudnn|math)", event.key):
            return event.key.removeprefix("aten::")
    return "the whole matrix"


def adamw(net):
    """The optimiser of nanoGPT and its betas, but with one decay, PyTorch's default, for all"""
    return [torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(.9, .95), fused=True)]


# ---------------------------------------------------------------------------------------------
# parts


class Untouched(nn.Module):
    def forward(self, x, sizes):
        return x


def without(parts, config):
    """Our network without AIA and without some of PARTS, and its optimisers."""
    net = build(config)
    if "RMSNorm" in parts:  # LayerNorm in its place
        norms = [net.norm]
        for block in net.blocks:
            norms += [block.norm1, block.norm2]
        for norm in norms:
            norm[0] = nn.LayerNorm(config.n_embd)
    if "QK-norm" in parts:
        for block in net.blocks:
            block.attn.qk_norm = Untouched()
    if "rotary" in parts:
        lay_out = net.lay_out
        net.lay_out = lambda *args: lay_out(*args)._replace(rotary=None)
    if "squared ReLU" in parts:  # GELU in its place
        for block in net.blocks:
            ffn = block.ffn[0]
            ffn.forward = partial(with_gelu, ffn)
    if "float32 logits" in parts:  # in what the other products are in
        net.predict = lambda x, drawing: F.linear(net.norm[0](x), net.head[0]())
    return net, adamw(net) if "Muon" in parts else optimizers(net, .01)


def with_gelu(ffn, x):
    return ffn.down(F.gelu(ffn.up(x)))


def measure_parts(T, args):
    """
    A step of ours, without AIA, takes so many times one without a part: {the part: the ratio}.
    Then one without all parts; and one of the plain decoder.
    """
    torch.compiler.reset()
    config = Config(*SIZES[args.size], T, n_image=N_IMAGE)
    plain = Plain(config)
    nets = {
        "nothing": without((), config),
        **{part: without((part,), config) for part in PARTS},
        "all of these": without(PARTS, config),
        "plain decoder": (plain, adamw(plain)),
    }
    ours, _ = nets["nothing"]
    batch = random_batch(ours.to(args.device), T, args.device)
    works = {}
    for name, (net, opts) in nets.items():
        net.to(args.device)
        if args.compile:
            for block in net.blocks:
                block.compile(dynamic=False)
        way = "plain" if net is plain else "none"
        works[name] = partial(take_steps, way, net, opts, batch, args)
    seconds = by_turns(works, ROUNDS, args.device)
    return {name: ratio(seconds, "nothing", name) for name in works if name != "nothing"}


def print_parts(args):
    print("a step of ours takes so many times one without, and one of the plain decoder\n")
    for T in OF_PARTS:
        cost_of = measure_parts(T, args)
        if T == OF_PARTS[0]:
            print(f"{'T':>7}  " + "  ".join(cost_of))
        cells = [f"{cost:{len(name)}.3f}" for name, cost in cost_of.items()]
        print(f"{T:>7,}  " + "  ".join(cells), flush=True)


# ---------------------------------------------------------------------------------------------
# the table

COLUMNS = ("T", "rows", "tokens/s", "MFU", "time AIA/none", "explicit/none", "plain/AIA",
           "memory AIA/none", "memory explicit/none")


def measure(T, args):
    """A line of the table: {column: value}, and the kernel"""
    torch.compiler.reset()  # all ways share the layers' code, of which few versions are kept
    config = Config(*SIZES[args.size], T, n_image=N_IMAGE)
    ways = ["plain", "none", "AIA"]
    if T <= LONGEST:
        ways.append("explicit")
    nets = {}
    for way in ways:
        net = Plain(config) if way == "plain" else build(config)
        nets[way] = net.to(args.device)
    batch = random_batch(nets["none"], T, args.device)

    kept = {way: bytes_kept(way, net, batch, args) for way, net in nets.items()}
    if args.compile:
        for net in nets.values():
            for block in net.blocks:
                block.compile(dynamic=False)
    works = {}
    for way, net in nets.items():
        opts = adamw(net) if way == "plain" else optimizers(net, .01)
        works[way] = partial(take_steps, way, net, opts, batch, args)
    seconds = by_turns(works, ROUNDS, args.device)

    # a round is as many steps as AIA acts on one of
    speed = batch["ids"].numel() * args.aia_every / median(seconds["AIA"])
    peak = peak_flops(args.device, args.dtype)
    explicit_memory = kept["explicit"] / kept["none"] if "explicit" in kept else None
    values = [T, len(batch["ids"]), round(speed),
              speed * cost(config)["flops"] / peak if peak else None,
              ratio(seconds, "AIA", "none"), ratio(seconds, "explicit", "none"),
              ratio(seconds, "plain", "AIA"),
              kept["AIA"] / kept["none"], explicit_memory]
    return dict(zip(COLUMNS, values)) | {"kernel": kernel_of_attention(nets["AIA"], batch, args)}


def ratio(seconds, a, b):
    """The median of the ratios within rounds; None if a was not timed."""
    if a not in seconds:
        return None
    return median(x / y for x, y in zip(seconds[a], seconds[b]))


def written(value):
    """A number as it stands in the table; n/a for what was not measured."""
    if value is None:
        return "n/a"
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}"


def read_flags():
    """The flags, with what the machine decides where they say nothing."""
    p = Parser(
        prog="python -m lab.bench",
        description="What AIA costs, and the speed beside a plain decoder's; writes "
                    "results/bench.json.")
    p.add_argument("--size", choices=SIZES,
                   help="shape of the network (default: nano without a GPU, else small)")
    p.add_argument("--aia_every", type=int, default=4, help="AIA acts on every N-th step")
    p.add_argument("--device", help="cpu | cuda | mps (default: what is there)")
    p.add_argument("--dtype", choices=("float32", "bfloat16"),
                   help="of the matrix products (default: bfloat16 where there are instructions "
                        "for it, else float32)")
    p.add_argument("--compile", action=argparse.BooleanOptionalAction,
                   help="compile the layers with torch.compile (default: on a GPU)")
    p.add_argument("--parts", action="store_true",
                   help="what some things cost that a plain decoder does not have; writes nothing")
    args = p.parse_args()
    if args.aia_every < 1:
        p.exit(1, f"--aia_every {args.aia_every}: wanted is at least 1\n")
    args.device = find_device(args.device)
    on_gpu = torch.device(args.device).type == "cuda"
    args.size = args.size or ("small" if on_gpu else "nano")
    args.compile = on_gpu if args.compile is None else args.compile
    args.dtype = set_products("cuda" if on_gpu else args.device, args.dtype)
    return args


def main():
    """Prints a line for each length, and keeps them all as JSON; or what the parts cost."""
    args = read_flags()
    expect_faults("take a smaller --size")
    keep_freed_memory()
    torch.manual_seed(0)
    print(f"{name_of(args.device)}, {args.dtype}, torch {torch.__version__}, size {args.size}\n")
    if args.parts:
        return print_parts(args)
    widths = [max(7, len(column) + 2) for column in COLUMNS]
    print("".join(f"{column:>{width}}" for column, width in zip(COLUMNS, widths)))
    lines = []
    for T in LENGTHS:
        line = measure(T, args)
        cells = [written(line[column]) for column in COLUMNS]
        print("".join(f"{cell:>{width}}" for cell, width in zip(cells, widths)), flush=True)
        lines.append(line)

    RESULT.parent.mkdir(exist_ok=True)
    save_json(RESULT, {
        "device": gpu_name(args.device) or args.device, "dtype": args.dtype,
        "compiled": args.compile, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "size": args.size, "aia_every": args.aia_every, "lengths": lines})
    kernels = ", ".join(f"{line['kernel']} (T = {line['T']:,})" for line in lines)
    print(f"AIA on every step: explicit, and for all memory; else on one of {args.aia_every}. "
          "Memory: what the forward pass keeps for the backward pass. "
          f"Attention with AIA by {kernels}; {RESULT} has the numbers")


if __name__ == "__main__":
    main()
