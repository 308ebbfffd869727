"""
train.py: one loop, from arguments to checkpoint. The last file to read.

    python train.py --aia 0.1                               # the main job: pre-train on both tasks, then fine-tune with AIA
    python train.py --init_from out/run --aia 0.1           # only the second phase, from the weights where another run's began
    python train.py --task generate                         # a single-task network
    python train.py --arch evev2 --init_from out/run        # taken apart, from a unified network's weights (see model.py's table)
    torchrun --nproc_per_node=4 train.py --aia 0.1          # a process a GPU, each with its share of the rows
    python train.py --bench                                 # what AIA costs
"""
import argparse, csv, json, os, re, shutil, signal, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map
from tqdm import tqdm

from aia import aia_loss, distance, draw_curves, interaction, measure, reference
from data import KEY, TASKS, Help, load_dataset, load_tokenizer, save_json, save_tokenizer, to_batch
from model import (MATCH, PRESETS, ROUTERS, SIZES, VERSION, Config, Transformer, by_turns, cost, example, find_device, latest_run, load_model, optimizers,
                   set_products, turn)
from sample import draw, geneval_prompts, score, sheet, table

# ---------------------------------------------------------------------------------------------------------------------
# arguments

p = argparse.ArgumentParser(description="Train one network to draw and to see.", formatter_class=Help)
p.add_argument("--arch", choices=PRESETS, default="emu3", help="how far the network is taken apart: a row of the table in model.py")
p.add_argument("--split", type=lambda x: tuple(y for y in x.split(",") if y != "none"),
               help="what exists in copies, instead of the preset's: any of norm,qkv,ffn,ends, or none")
p.add_argument("--route", choices=("modality", "generated", "task", *ROUTERS),
               help="who takes which copy, instead of the preset's")
p.add_argument("--experts", type=int, help="experts a router chooses from (supervised, oracle: for each task), instead of the preset's")
p.add_argument("--shared", action=argparse.BooleanOptionalAction, help="a shared expert beside the chosen one, instead of the preset's choice")
p.add_argument("--see", choices=("tokens", "patches", "encoder"), help="how a picture to understand comes in, instead of the preset's")
p.add_argument("--own_head", action=argparse.BooleanOptionalAction, help="an embedding and a head of its own for drawing, instead of the preset's choice")
p.add_argument("--match", choices=MATCH, help="scale the width so that FLOPs a token, active or all parameters come nearest to emu3's")
p.add_argument("--stages", choices=("on", "off"), help="train in the preset's stages, if it has any, or everything jointly (default: on with --init_from, "
               "as they start from a trained network, else off)")
p.add_argument("--aia", type=float, default=0., help="weight of the AIA loss; 0 is off, bit for bit")
p.add_argument("--aia_start", type=float, help="share of the steps after which the second phase begins: a fresh learning-rate schedule, in which "
               "AIA acts; 0 is from scratch (default: 0.6, or 0 with --init_from)")
p.add_argument("--aia_every", type=int, default=4, help="AIA acts on every N-th step of its phase, with N times the weight (measured for 4: "
               "results/aia.md); the paper's acts on every step")
p.add_argument("--init_from", help="folder of a run to start from: its weights at the end of its first phase; for another --arch, whose copies start from "
               "them, one without copies")
p.add_argument("--reference", default="small", help="whose curves are the target: small | paper | a run's folder (or two: OUT1,OUT2)")
p.add_argument("--task", choices=("both",) + TASKS, default="both", help="train on both tasks or on one")
p.add_argument("--ratio", help="generate:understand rows in a batch (default: 1:1, or what a stage says)")
p.add_argument("--size", choices=SIZES, help="shape of the network (default: nano without a GPU, else small)")
p.add_argument("--data", help="folder of a data set (default: data/toy-SIZE, made if missing)")
p.add_argument("--out", help="folder of the run (default: out/ and what it is, such as out/aia-nano or out/evev2-nano)")
p.add_argument("--steps", type=int, help="optimiser steps (default: nano 4800, small 4000, base 10000)")
p.add_argument("--batch_size", type=int, default=32, help="rows a step")
p.add_argument("--accumulate", type=int, default=1, help="parts that a step's rows are taken in, one after the other: the same step in less memory")
p.add_argument("--checkpoint", action="store_true", help="keep each layer's input only and compute the layer again in the backward pass: less "
               "memory, one more forward pass")
p.add_argument("--compile", action=argparse.BooleanOptionalAction,
               help="compile the layers with torch.compile (default: on a GPU, but for networks with routers)")
p.add_argument("--fsdp", action="store_true", help="with torchrun: weights, gradients and optimiser states in shards, a part a process, for "
               "networks that outgrow one GPU")
p.add_argument("--lr", type=float, default=.05, help="peak learning rate of Muon; AdamW's is 0.4 of it")
p.add_argument("--seed", type=int, default=0, help="of weights and of the order of the data")
p.add_argument("--device", help="cpu | cuda | mps (default: what is there)")
p.add_argument("--dtype", choices=("float32", "bfloat16"),
               help="of the matrix products (default: bfloat16 where there are instructions for it, else float32)")
p.add_argument("--eval_every", type=int, help="steps between evaluations, which also save (default: a tenth of the steps)")
p.add_argument("--exam", type=int, default=100, help="size of the toy world's final exam, in prompts a tag: 100 is the benchmarks' own size, 0 is none")
p.add_argument("--bench", action="store_true",
               help="train nothing: measure what AIA costs, and the speed beside a plain decoder's; writes results/bench.json")
p.add_argument("--resume", action="store_true", help="go on with the run in --out (default: the latest), exactly where it was saved and with the "
               "flags it was begun with (but for --accumulate, --checkpoint, --compile and --fsdp, which may be given anew)")
args = p.parse_args()
args.branch = False
rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # torchrun starts one process a GPU, and tells each who it is
if rank:
    sys.stdout = open(os.devnull, "w")  # the first one speaks, and writes, for all
anew = "accumulate", "checkpoint", "compile", "no-compile", "fsdp"  # how a step is taken, not which: a resumed run may choose again
if args.resume:
    if more := [x for x in sys.argv[1:] if x.startswith("--") and x.split("=")[0] not in ("--resume", "--out", "--device", *(f"--{k}" for k in anew))]:
        sys.exit(f"--resume: goes on with the flags that the run was begun with; leave out {' '.join(more)}")
    args.out = args.out or latest_run()
    _, saved_config = load_model(args.out)
    vars(args).update({k: v for k, v in saved_config["train"].items() if k not in ("out", "device", "resume", *anew)})
least = {"steps": 1, "batch_size": 1, "accumulate": 1, "eval_every": 1, "aia_every": 1, "exam": 0, "aia": 0, "aia_start": 0, "lr": 0, "seed": 0}
for name, low in least.items():
    if (value := getattr(args, name)) is not None and not low <= value <= (1 if name == "aia_start" else float("inf")):
        sys.exit(f"--{name} {value}: wanted is {'a share from 0 to 1' if name == 'aia_start' else f'at least {low}'}")


def rows_of_tasks(ratio):
    """How many rows of each task a batch has."""
    try:
        n_gen, n_und = (int(x) for x in ratio.split(":"))
        assert min(n_gen, n_und) >= 0 < n_gen + n_und
    except (ValueError, AssertionError):
        sys.exit(f"--ratio {ratio}: wanted is generate:understand, such as 1:1 or 2:1")
    share = n_gen / (n_gen + n_und) if args.task == "both" else float(args.task == "generate")
    n_gen, parts = round(args.batch_size * share), world * args.accumulate
    if 0 < share < 1 and n_gen in (0, args.batch_size):
        sys.exit(f"--batch_size {args.batch_size}: too few rows for both tasks at --ratio {ratio}; take more, or one --task")
    if n_gen % parts or args.batch_size % parts:
        sys.exit(f"--batch_size {args.batch_size}: {n_gen} rows to generate and {args.batch_size - n_gen} to understand; both are to be multiples "
                 f"of {parts} ({world} processes x --accumulate {args.accumulate}), so that each part weighs the same")
    return {"generate": n_gen, "understand": args.batch_size - n_gen}


stages = [{"share": 1., "train": ""}]
if "stages" in PRESETS[args.arch] and (args.stages or ("on" if args.init_from else "off")) == "on":
    stages = PRESETS[args.arch]["stages"]
stages = [s | {"rows": rows_of_tasks(args.ratio or s.get("ratio", "1:1"))} for s in stages]
rows_of_task = rows_of_tasks(args.ratio or "1:1")

device = find_device(args.device)
if device == "cuda" and world > 1:
    device = f"cuda:{os.environ['LOCAL_RANK']}"
    torch.cuda.set_device(device)
kind = torch.device(device).type  # cuda:1 is a cuda
if world > 1:
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
args.size = args.size or ("small" if kind == "cuda" else "nano")
args.data = args.data or f"data/toy-{args.size}"
turned = [("+".join(v) or "none") if k == "split" else str(v) for k in ("split", "route", "experts", "see") if (v := getattr(args, k)) is not None]
turned += [k if v else f"no-{k}" for k in ("shared", "own_head") if (v := getattr(args, k)) is not None]
name = ["aia"] * bool(args.aia) + [args.task] * (args.task != "both") + [args.arch] * (args.arch != "emu3") + turned
name += [f"match-{args.match}"] * bool(args.match)
args.out = args.out or f"out/{'-'.join(name or ['both'])}-{args.size}"
args.steps = args.steps or {"nano": 4800, "small": 4000, "base": 10000}[args.size]
args.eval_every = args.eval_every or max(1, args.steps // 10)
if args.aia_start is None:
    args.aia_start = 0. if args.init_from else .6
out, begin = Path(args.out), round(args.steps * args.aia_start)  # begin: the step at which the second phase begins
if args.aia and begin >= args.steps:
    sys.exit(f"--aia_start {args.aia_start}: leaves none of the {args.steps} steps to AIA; take less")
if (out / "ckpt.pt").exists() and not (args.resume or args.bench) or out.exists() and not out.is_dir():
    sys.exit(f"--out {out}: holds {'a run' if out.is_dir() else 'something else'} already, which would be lost; name another folder, or remove it"
             + ", or go on with its run: --resume" * out.is_dir())


def stop(*_):
    """Ctrl-C: says how to go on."""
    saved = (out / "ckpt.pt").exists() and not args.bench
    sys.exit(rank or "\nstopped" + (f"; go on with: python train.py --out {out} --resume" if saved else " before anything was saved"))


signal.signal(signal.SIGINT, stop)
dtype = args.dtype = set_products(kind, args.dtype)
# dense peaks in bfloat16, as published; a device that is not here has no share of it
PEAK = {"H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
gpu = torch.cuda.get_device_name(device) if kind == "cuda" else ""
peak_flops = next((v for k, v in PEAK.items() if dtype == "bfloat16" and re.search(rf"\b{k}\b", gpu)), None)
compiled = kind == "cuda" if args.compile is None else args.compile
if args.fsdp and world == 1:
    sys.exit("--fsdp: shards are for several processes; start them with: torchrun --nproc_per_node=N train.py --fsdp ...")
print(f"{device}{f' ({gpu})' * bool(gpu)}, {dtype}, torch {torch.__version__}, size {args.size}, run in {out}" + f", {world} processes" * (world > 1))

# ---------------------------------------------------------------------------------------------------------------------
# what AIA costs (--bench; to be skipped at the first reading)


class Plain(torch.nn.Module):
    """The yardstick: a plain decoder of the same shape, as nanoGPT has it (LayerNorm, learned positions, GELU, tied head)."""
    def __init__(self, c):
        super().__init__()
        C, norm, linear = c.n_embd, torch.nn.LayerNorm, lambda a, b: torch.nn.Linear(a, b, bias=False)
        self.n_head, self.embed, self.place, self.norm = c.n_head, torch.nn.Embedding(c.vocab_size, C), torch.nn.Embedding(c.block_size, C), norm(C)
        self.blocks = torch.nn.ModuleList(torch.nn.ModuleDict({"norm1": norm(C), "qkv": linear(C, 3 * C), "proj": linear(C, C), "norm2": norm(C),
                                                               "up": linear(C, 4 * C), "down": linear(4 * C, C)}) for _ in range(c.n_layer))

    def forward(self, idx, *_, **__):
        B, T = idx.shape
        x = self.embed(idx) + self.place.weight[:T]
        for b in self.blocks:
            q, k, v = b["qkv"](b["norm1"](x)).view(B, T, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)
            x = x + b["proj"](F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, -1))
            x = x + b["down"](F.gelu(b["up"](b["norm2"](x))))
        return F.linear(self.norm(x), self.embed.weight), None


def bench(rounds=5):
    """
    Steps of 4,096 random tokens in rows of T, four ways by turns: a plain decoder, ours without AIA, with it (on every N-th step, --aia_every), and
    with it on every step from explicit attention maps, as the paper's released code has it. Medians of ratios within a round.
    """
    def forward(way, idx, key, act=True):
        with torch.autocast(kind, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits, mass = nets[way](idx, key if act and way in ("AIA", "explicit") else None, explicit=way == "explicit")
            loss = F.cross_entropy(logits.flatten(0, 1).float(), F.pad(idx[:, 1:], (0, 1), value=-100).flatten())
            return loss if mass is None else loss + .1 * aia_loss(interaction(mass, ~key), key.any(1), *aim)

    def steps(way, idx, key):
        for i in range(args.aia_every):
            forward(way, idx, key, act=i == 0 or way == "explicit").backward()
            torch.nn.utils.clip_grad_norm_(nets[way].parameters(), 1.)
            for o in opts[way]:
                o.step()
                o.zero_grad()

    names = "T", "rows", "tokens/s", "MFU", "time AIA/none", "explicit/none", "plain/AIA", "memory AIA/none", "memory explicit/none"
    wide, lines = [max(7, len(k) + 2) for k in names], []
    print("\n" + "".join(f"{k:>{w}}" for k, w in zip(names, wide)))
    for T in (64, 256, 1024, 4096):
        torch.compiler.reset()  # the layers of all ways are one piece of code, of which the compiler keeps eight versions
        c, B, kept = Config(*SIZES[args.size], T, n_image=36), max(1, 4096 // T), {}
        idx = example(c, "generate", B, device)["idx"]
        key, aim = idx < c.first_image, [torch.full((c.n_layer, 1), x, device=device) for x in (.2, .05)]
        ways = ["plain", "none", "AIA"] + ["explicit"] * (T <= 1024)  # at 4,096 its maps alone would take gigabytes
        nets = {way: (Plain if way == "plain" else Transformer)(c).to(device) for way in ways}
        for way, net in nets.items():
            sizes = {}  # bytes of the tensors kept for the backward pass, by where they are
            note = lambda t: sizes.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t
            with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
                forward(way, idx, key)
            kept[way] = sum(sizes.values())
            if compiled:
                for part in [net] if way == "plain" else net.blocks:
                    part.compile(dynamic=False)
        opts = {way: optimizers(net, .01) for way, net in nets.items()}
        took = by_turns({way: partial(steps, way, idx, key) for way in ways}, rounds, device)
        ratio = lambda a, b: median(x / y for x, y in zip(took[a], took[b])) if a in took else None
        speed = B * T * args.aia_every / median(took["AIA"])
        line = [T, B, round(speed), speed * cost(c)["flops"] / peak_flops if peak_flops else None, ratio("AIA", "none"), ratio("explicit", "none"),
                ratio("plain", "AIA"), kept["AIA"] / kept["none"], kept["explicit"] / kept["none"] if "explicit" in kept else None]
        print("".join(f"{'n/a' if v is None else f'{v:.2f}' if isinstance(v, float) else f'{v:,}':>{w}}" for v, w in zip(line, wide)), flush=True)
        with torch.profiler.profile(acc_events=True) as seen:
            forward("AIA", idx, key)
        kernel = (e.key for e in seen.key_averages() if re.match("aten::_scaled_dot_product_.*(flash|efficient|cudnn|math)", e.key))
        lines.append(dict(zip(names, line)) | {"kernel": next(kernel, "the whole matrix").removeprefix("aten::")})
    Path("results").mkdir(exist_ok=True)
    save_json("results/bench.json", {"device": gpu or device, "dtype": dtype, "compiled": compiled, "threads": torch.get_num_threads(),
                                     "torch": torch.__version__, "size": args.size, "aia_every": args.aia_every, "lengths": lines})
    print(f"AIA on every step: explicit, and for all memory; else on one of {args.aia_every}. Memory: what the forward pass keeps for the backward pass. "
          "Attention with AIA by "
          + ", ".join(f"{l['kernel']} (T = {l['T']:,})" for l in lines) + "; results/bench.json has the numbers")


if args.bench:
    bench()
    sys.exit()

# ---------------------------------------------------------------------------------------------------------------------
# data, model, reference


def child(*args, **how):
    """Runs a Python file and returns its exit status. Ctrl-C reaches the file too, which tidies up and says so; meanwhile it is nothing to us."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    status = subprocess.run([sys.executable, *args], **how).returncode
    signal.signal(signal.SIGINT, before)
    return status


if not (Path(args.data) / "meta.json").exists():
    if args.data != f"data/toy-{args.size}":
        sys.exit(f"{args.data}: no data set here; make it with: python data.py --json PAIRS.json --images FOLDER --out {args.data}")
    print(f"{args.data} is missing: making the toy world first")
    if rank == 0 and child(Path(__file__).with_name("data.py"), "--size", args.size, "--out", args.data, stdout=subprocess.DEVNULL):
        sys.exit(f"{args.data}: could not be made (the reason is above)")
if world > 1:
    dist.barrier()
data = load_dataset(args.data)
tok, meta = load_tokenizer(data.folder / "tokenizer.pt", device), data.meta
tasks = TASKS if args.task == "both" else (args.task,)
for task in tasks:
    if task not in data.rows["train"]:
        sys.exit(f"{args.data}: has no {task} rows; train with --task {TASKS[1 - TASKS.index(task)]}")

torch.manual_seed(args.seed)
L, H, C = SIZES[args.size]
config = Config(L, H, C, meta["block_size"], meta["vocab_size"], meta["first_image"], meta["n_image"], list(tok.levels), tok.patch)
try:
    config = turn(config, args.arch, args.match, **{k: getattr(args, k) for k in config.DIAL})
except ValueError as e:
    sys.exit(f"--arch {args.arch}, with its flags: {e}")
model = Transformer(config).to(device)
if args.init_from and not args.resume:
    # a run of two phases is branched where its second began
    file = "pretrained.pt" if (Path(args.init_from) / "pretrained.pt").exists() else "ckpt.pt"
    other, about = load_model(args.init_from, device, file)
    mine = json.loads(json.dumps(asdict(config)))
    alike = all(mine[k] == v for k, v in about["model"].items() if k not in (*config.DIAL, "block_size")) and about["data"]["merges"] == meta["merges"]
    if not alike or about["model"] != mine and about["model"]["split"]:
        sys.exit(f"--init_from {args.init_from}: a network of another shape or data set ({about['train']['arch']}, {about['train']['size']}, "
                 f"{about['train']['data']}); train with its --size and --data, and with its --arch (or --split, --route) if it has copies")
    model.start_from(other.state_dict())
    args.branch = about["model"] == mine
    print(f"starting from {args.init_from}/{file}")
elif "stages" in PRESETS[args.arch] and len(stages) == 1 and not args.stages:
    print(f"{args.arch}: its stages start from a trained network, and no --init_from names one: everything is trained jointly")
if args.branch:  # from a network of this very architecture: its earlier stages are behind it
    stages = [stages[-1] | {"share": 1.}]
for s in stages:
    if not any(re.search(s["train"], n) for n, _ in model.named_parameters()):
        sys.exit(f"--arch {args.arch}: its stage that trains {s['train']!r} finds no such weights in what the flags made of it; turn --stages off")

ref = reference(args.reference, L, args.size, args.steps, data, device)
if args.aia and args.reference == "small":
    # a single-task network of the same shape, which sees as many rows of its task as this run does
    for task in (t for t in tasks if t not in (ref or {}) and world == 1):
        run = f"{data.folder}/reference-{args.size}-{args.steps}-{task}"
        shutil.rmtree(run, ignore_errors=True)  # of an attempt that was cut short
        print(f"no reference to {task} for {args.data} at size {args.size} yet: training a single-task network in {run}")
        if child(__file__, "--task", task, "--out", run, "--batch_size", str(max(1, rows_of_task[task])), "--seed", str(args.seed), "--exam", "0",
                 *(x for k in ("data", "size", "steps", "lr", "device", "dtype") if (v := getattr(args, k)) for x in (f"--{k}", str(v)))):
            sys.exit(f"{run}: the reference could not be trained (the reason is above)")
        known = {t: ref[t]["curve"] for t in TASKS if t in (ref or {})}
        save_json(data.folder / f"reference-{args.size}-{args.steps}.json", known | {task: reference(run, L, data=data, device=device)[task]["curve"]})
        ref = reference("small", L, args.size, args.steps, data)
if args.aia and (missing := [t for t in tasks if t not in (ref or {})]):
    sys.exit(f"--reference {args.reference}: says nothing of {missing[0]}; name a run trained on it too: OUT1,OUT2"
             + " (one process alone would train it)" * (world > 1))
if ref:
    targets = {t: [torch.tensor(ref[t][k], device=device)[:, None] for k in ("T", "d")] for t in TASKS if t in ref}  # (L, 1) each
price = cost(config)
print(f"{' '.join([args.arch] + turned)}: {price['total'] / 1e6:.2f}M parameters, {price['active'] / 1e6:.2f}M active, {price['flops'] / 1e6:.1f} MFLOP a token of training")
model.checkpoint = args.checkpoint
if compiled and not (args.compile is None and config.routed()):  # a router's slices differ in size with each batch
    torch._dynamo.config.recompile_limit = 64  # one graph serves all layers; there is one for each task, with AIA and without, in each stage
    for block in model.blocks:
        block.compile(dynamic=False)  # what is around the layers is little, and differs in shape from batch to batch
if args.fsdp:  # a layer's weights are whole only while it computes
    mesh = init_device_mesh(kind, (world,))
    for part in (*model.blocks, model):
        fully_shard(part, mesh=mesh)
opts = optimizers(model, args.lr)

# ---------------------------------------------------------------------------------------------------------------------
# evaluation


def row_losses(logits, b):
    """Next-token loss of each row (B,): its mean over the row's targets, so that a picture and an answer weigh the same."""
    nll = F.cross_entropy(logits.float(), b["targets"][b["at"]], reduction="none")
    return nll.new_zeros(b["at"].shape).masked_scatter(b["at"], nll).sum(1) / b["at"].sum(1).clamp(min=1)


@torch.compiler.set_stance("force_eager")  # batches have other shapes here; compiling anew for each would take longer than it saves
@torch.no_grad()
def evaluate(n):
    """Validation loss per task, over the same first n rows whatever the batch size; the interaction; and what is drawn for the prompts."""
    losses = {}
    for task in tasks:
        m, total = min(n, len(data.rows["val"][task][0])), 0.
        for i in range(0, m, 100):
            b = to_batch(*(x[i:min(i + 100, m)] for x in data.rows["val"][task]), device=device, c=config)
            total += row_losses(model(b["idx"], None, b["at"], b["task"], b.get("pixels"))[0], b).sum().item()
        losses[task] = total / m
    draws = args.task != "understand" and (rank == 0 or args.fsdp)
    return losses, measure(model, data), tok.decode(draw(model, data.enc, meta, prompts)) if draws else None


if meta["kind"] == "toy":  # two prompts a tag and two of held-out pairs; or what was said of the first validation pictures
    prompts = [r["prompt"] for held in (False, True) for r, _ in geneval_prompts(2, held)][:16]
elif args.task != "understand":
    ids, roles = (x[:16] for x in data.rows["val"]["generate"])
    prompts = [data.enc.decode(i[r & KEY > 0].tolist()) for i, r in zip(ids, roles)]

# ---------------------------------------------------------------------------------------------------------------------
# the loop

if rank == 0:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        sys.exit(f"--out {out}: cannot be made ({e.strerror}); name another folder")
first_step, history, minutes = 0, [], 0.
columns = ["step", "phase", "lr"] + [f"{k}_{t}" for k in ("loss", "aia", "val", "distance") for t in TASKS]
columns += [f"load_{t}" for t in TASKS] * config.routed()  # share of tokens each expert took, mean over layers
if args.resume:
    saved = torch.load(out / "ckpt.pt", map_location=device, weights_only=True)
    if "opts" not in saved:
        sys.exit(f"{out}: this run is finished; score it with: python sample.py {out} --score")
    first_step, history, minutes = saved["step"], saved["history"], saved["minutes"]
    like = lambda x, p: distribute_tensor(x, p.device_mesh, p.placements, src_data_rank=None) if isinstance(p, DTensor) and x.shape == p.shape else x
    model.load_state_dict({k: like(saved["model"][k], p) for k, p in model.state_dict().items()})
    for o, state in zip(opts, saved["opts"]):
        ps = [p for g in o.param_groups for p in g["params"]]
        o.load_state_dict(state | {"state": {i: {k: like(v, ps[i]) for k, v in s.items()} for i, s in state["state"].items()}})
    kept = [r for r in csv.reader(open(out / "log.csv")) if r[0] == "step" or int(r[0]) < first_step]
else:
    kept = [columns]
    if rank == 0:
        save_json(out / "config.json", {"version": VERSION, "model": asdict(config), "train": vars(args), "data": {k: v for k, v in meta.items() if k != "files"}})
        save_tokenizer(out / "tokenizer.pt", tok)
log_file = open(os.devnull if rank else out / "log.csv", "w", newline="")
log = csv.writer(log_file)
log.writerows(kept)
log_file.flush()


def record(**values):
    log.writerow([f"{v:.6g}" if isinstance(v := values.get(c, ""), float) else v for c in columns])


def save(name, **more):
    all_of_it = tree_map(lambda x: x.full_tensor().cpu() if isinstance(x, DTensor) else x, {"model": dict(model.state_dict()), **more})
    if rank == 0:
        torch.save(all_of_it, out / f"{name}.part")
        os.replace(out / f"{name}.part", out / name)


def rows_of(step):
    """
    The rows of a step: for each part of them that this process takes, and each task: (task, batch, samples of AIA in all parts). They depend on
    the seed and the phase's step alone: a resumed run goes on with the very rows, so does a branch, and any number of processes shares them out.
    """
    phase = int(begin <= step and begin < args.steps)
    rng, null = np.random.default_rng([args.seed, phase, step - phase * begin]), data.enc._special_tokens["<|null|>"]
    n_of, parts, chosen = stage_at(step)["rows"], world * args.accumulate, {}
    for task in (t for t in tasks if n_of[t]):
        at = np.sort(rng.integers(len(data.rows["train"][task][0]), size=n_of[task]))
        chosen[task] = at, (rng.random(n_of[task]) < .1) & (task == "generate")  # condition dropout, for classifier-free guidance
    return [(task, to_batch(*(x[at[i::parts]] for x in data.rows["train"][task]), drop=drop[i::parts], null=null, device=device, c=config), (~drop).sum())
            for i in range(rank, parts, world) for task, (at, drop) in chosen.items()]


until = np.round(np.cumsum([s["share"] for s in stages]) * args.steps)
stage_at = lambda step: stages[min(np.searchsorted(until, step, "right"), len(stages) - 1)]
clock, waited, evaluating, stage, route = time.time(), 0., 0., None, config.route
rows_tokens = args.batch_size * sum(data.rows["train"][t][0].shape[1] - 1 for t in tasks) / len(tasks)  # a step, about
reader = ThreadPoolExecutor(1)  # the next step's rows are read while this one computes
coming = reader.submit(rows_of, first_step)
bar = tqdm(total=args.steps, initial=first_step, desc="train", smoothing=.05, disable=rank > 0)
for step in range(first_step, args.steps + 1):
    phase = int(begin <= step and begin < args.steps)
    if stage is not (new := stage_at(step)):
        stage = new
        for n, q in model.named_parameters():
            q.requires_grad_(bool(re.search(stage["train"], n)))  # what does not train has no gradient, and no optimiser touches it
        model.config.route = stage.get("route", route) if route == "supervised" else route  # every layer reads it there
        some = bool(config.split or config.own_head or config.see != "tokens")  # whether a task may leave some weights out
        net = model if world == 1 or args.fsdp else DistributedDataParallel(model, find_unused_parameters=some)  # it averages the processes' gradients
        if len(stages) > 1:
            trains = sum(q.numel() for q in model.parameters() if q.requires_grad)
            tqdm.write(f"step {step}: {trains / 1e6:.2f}M weights train, {' and '.join(f'{n} rows to {t}' for t, n in stage['rows'].items())} a step")
    # once in a while: evaluate, save, draw
    if step == begin and 0 < step < args.steps:
        save("pretrained.pt")
        opts = optimizers(model, args.lr)  # a fresh schedule starts with fresh moments
    if step % args.eval_every == 0 or step in (begin, args.steps):
        start = time.time()
        val, now, pictures = evaluate(1000 if step == args.steps else 250)
        d = distance(now, ref or {})
        history.append({"step": step, "phase": phase, **now, "val": val})
        save("ckpt.pt", opts=[o.state_dict() for o in opts], step=step, history=history[:-1], minutes=minutes + (time.time() - clock) / 60)
        if rank == 0:
            save_json(out / "interaction.json", {"history": history, "reference": ref})
            draw_curves([(out.name, {"history": history, "reference": ref})], out / "interaction.png")
            if pictures is not None:
                sheet(pictures, prompts, out / "samples.png")
        record(step=step, phase=phase, **{f"val_{t}": v for t, v in val.items()}, **{f"distance_{t}": v for t, v in d.items()})
        log_file.flush()
        evaluating += time.time() - start
        tqdm.write(f"step {step}: validation loss " + ", ".join(f"{t} {v:.3f}" for t, v in val.items())
                   + (";  distance to the reference " + ", ".join(f"{t} {v:.3f}" for t, v in d.items()) if d else ""))
    if step == args.steps:
        break

    # each phase has its own schedule: a short warm-up, then down to nothing; the second, on a trained network, at half the height
    first, last = (begin, args.steps) if phase else (0, begin)
    lr = min(1, (step - first + 1) / 50, (last - step) / (last - first) * 1.5) * (.5 if first or args.init_from else 1) * stage.get("lr", 1)
    for o, peak in zip(opts, (args.lr, args.lr * .4)):
        for g in o.param_groups:
            g["lr"] = lr * peak

    start = time.time()
    batches = coming.result()
    waited += time.time() - start
    coming = reader.submit(rows_of, min(step + 1, args.steps - 1))
    each, load = {}, {}
    align = args.aia and phase == 1 and not stage["train"] and (step - begin) % args.aia_every == 0  # AIA waits until nothing is frozen
    for i, (task, b, n_aligned) in enumerate(batches):  # one after the other, as tasks differ in length; the gradients add up
        if args.fsdp:
            model.set_requires_gradient_sync(i == len(batches) - 1)  # processes wait for each other once a step
        elif world > 1:
            net.require_backward_grad_sync = i == len(batches) - 1  # what DDP's no_sync() sets
        with torch.autocast(kind, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits, mass = net(b["idx"], b["key"] if align else None, b["at"], task, b.get("pixels"))
        loss = row_losses(logits, b).mean() / args.accumulate
        terms = {f"loss_{task}": loss}
        if align:
            valid = b["key"].any(1) & b["query"].any(1)
            terms[f"aia_{task}"] = aia_loss(interaction(mass, b["query"]), valid, *targets[task], n_aligned / world)
            loss = loss + args.aia * args.aia_every * terms[f"aia_{task}"]
        if config.routed():
            # the weight of Fedus et al. 2021; the task router's own loss touches nothing else, so its weight does not matter
            loss, load[task] = loss + .01 * model.router_loss() / args.accumulate, torch.stack([b.ffn.load for b in model.blocks]).mean(0)
        if loss.requires_grad:  # a stage may train nothing that this task uses
            (loss * stage["rows"][task] / args.batch_size).backward()
        for k, v in terms.items():
            each[k] = each.get(k, 0) + v.detach()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
    for o in opts:
        o.step()
        o.zero_grad()
    bar.update()
    if (step - first) % 20 == 0:
        mean = torch.stack(list(each.values()))
        if world > 1:
            dist.all_reduce(mean)
        each = dict(zip(each, (mean / world).tolist()))
        record(step=step, phase=phase, lr=lr * args.lr, **each, **{f"load_{t}": " ".join(f"{x:.2f}" for x in v.tolist()) for t, v in load.items()})
        speed = (step + 1 - first_step) * rows_tokens / (time.time() - clock - evaluating)
        bar.set_postfix({k: f"{v:.3f}" for k, v in each.items()}
                        | {"tok/s": f"{speed:,.0f}", "MFU": f"{speed * price['flops'] / peak_flops / world:.1%}" if peak_flops else "n/a",
                           "waits": f"{waited / (time.time() - clock):.1%}"})
bar.close()
log_file.close()
signal.signal(signal.SIGINT, lambda *_: sys.exit(f"\nstopped; the network is saved, score it with: python sample.py {out} --score"))
minutes += (time.time() - clock) / 60
save("ckpt.pt")
if world > 1:
    dist.destroy_process_group()
if rank:
    sys.exit()

# ---------------------------------------------------------------------------------------------------------------------
# what came of it

if args.fsdp:
    model = load_model(out, device)[0]
model.eval()
torch.set_float32_matmul_precision("highest")  # as sample.py --score has it
with torch.compiler.set_stance("force_eager"):
    scores = (score(model, data, tok, args.task, args.exam, folder=out) if args.exam else {}) | {"loss": {t: {"run": val[t]} for t in tasks}}
if d := distance(history[-1], ref or {}):
    scores["distance"] = {t: {"run": v, "first": distance(history[0], ref)[t]} for t, v in d.items()}
save_json(out / "scores.json", scores)
if args.task == "understand":
    play = '--image picture.png --ask "' + ("what color is the circle?" if meta["kind"] == "toy" else "what is this?") + '"'
else:
    play = '--prompt "' + ("a circle left of a square" if meta["kind"] == "toy" else prompts[0]) + '"'
left = [f.name for f in map(out.joinpath, ("samples.png", "interaction.png", "mistakes.png", "log.csv", "scores.json")) if f.exists()]
print(f"\n{table(scores)}\n\n{minutes:.1f} minutes of training; in {out}: {', '.join(left)}\nnext: python sample.py {out} {play}")
