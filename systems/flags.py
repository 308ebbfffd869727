"""
systems/flags.py: the flags of train.py, checked before anything long begins.

What is wrong with them is said in one line. What is not given is filled in.
"""
import argparse
import os
import re
import sys
from pathlib import Path

from data import TASKS
from model import PRESETS, ROUTERS, SIZES, Config
from systems.dial import MATCH, with_flags
from systems.runs import WEIGHTS, latest_run, read_config
from tools.device import find_device
from tools.faults import expect_faults
from tools.files import refuse_unwritable
from tools.flags import Parser, speak_plainly
from tools.processes import world

NO_MEMORY = "take a step's rows in more parts (--accumulate 2), or fewer rows (--batch_size)"

SHAPE = ("n_layer", "n_head", "n_embd")  # what a size is
RATIO = "5:11"  # rows to generate : rows to understand, as what is learned last is to look up
STEPS = {"nano": 5500, "small": 4000, "base": 10000}

# How a step is taken, not which step it is: a resumed run may choose these anew.
HOW = ("accumulate", "checkpoint", "compile", "fsdp")

LEAST = {"steps": 1, "batch_size": 1, "accumulate": 1, "eval_every": 1, "aia_every": 1, "exam": 0,
         "aia": 0, "aia_start": 0, "heads": 0, "lr": 0, "seed": 0, "n_train": 1,
         "weight_decay": 0, "dropout": 0, **dict.fromkeys(SHAPE, 1)}

# ---------------------------------------------------------------------------------------------
# the flags


def add_dial(parser):
    """How far the network is taken apart. What is not given stays as the preset has it."""
    yes_or_no = argparse.BooleanOptionalAction
    add = parser.add_argument
    add("--arch", choices=PRESETS, default="emu3",
        help="how far the network is taken apart: a row of the table in model.py")
    add("--split", type=names,
        help="what exists in copies, instead of the preset's: any of norm,qkv,ffn,ends, or none")
    add("--route", choices=("modality", "generated", "task", *ROUTERS),
        help="who takes which copy, instead of the preset's")
    add("--experts", type=int,
        help="experts a router chooses from (supervised, oracle: for each task), instead of the "
             "preset's")
    add("--shared", action=yes_or_no,
        help="a shared expert beside the chosen one, instead of the preset's choice")
    add("--see", choices=("tokens", "patches", "encoder"),
        help="how a picture to understand comes in, instead of the preset's")
    add("--own_head", action=yes_or_no,
        help="an embedding and a head of its own for drawing, instead of the preset's choice")
    add("--full", action=yes_or_no,
        help="attention both ways within a picture to understand, instead of the preset's choice")
    add("--cues", action=yes_or_no,
        help="whether special tokens differ: without, <|boi|>, <|eoi|>, <|answer|> and <|end|> are "
             "read as one token, which does not tell the task (default: yes, or as in --init_from)")
    add("--aligned", action=yes_or_no,
        help="whether an image token means the same seen or drawn: without, tokens that are seen "
             "stand for others (default: yes, or as in --init_from)")
    add("--match", choices=MATCH,
        help="scale the width so that this comes nearest to emu3's: active: FLOPs a token; "
             "parameters: those that a token has a use for; total: all of them")


def names(text):
    """"qkv,ffn" -> ("qkv", "ffn"); "none" -> ()"""
    return tuple(name for name in text.split(",") if name != "none")


def add_training(parser):
    """What is trained, on what, for how long, and how."""
    add = parser.add_argument
    add("--stages", choices=("on", "off"),
        help="train in the preset's stages, or everything jointly (default: on with --init_from if "
             "it has any, as they start from a trained network, else off)")
    add("--aia", type=float, default=0., help="weight of the AIA loss; 0 is off, bit for bit")
    add("--aia_start", type=float,
        help="share of the steps after which the second phase begins, in which the learning rate "
             "falls to zero and AIA acts; 0 is from scratch (default: 0.6, or 0 with --init_from)")
    add("--aia_every", type=int, default=4,
        help="AIA acts on every N-th step of its phase, with N times the weight (measured for 4: "
             "results/aia-before.md); the paper's acts on every step")
    add("--init_from",
        help="folder of a run to start from: its weights at the end of its first phase; for "
             "another --arch, whose copies start from them, one without copies")
    add("--reference", default="small",
        help="whose curves are the target: small | paper | own (those of --init_from) | a run's "
             "folder (or two: OUT1,OUT2)")
    add("--control", choices=("swapped", "permuted", "constant"),
        help="what is made of the reference's curves, to tell whether their content matters: the "
             "other task's, another layer's, their mean")
    add("--heads", type=int, default=0,
        help="aim at so many heads of each layer, one by one, those that look most across; 0: at "
             "the mean over all heads, as the paper does. The reference is to be own or runs")
    add("--each", choices=("row", "head", "token", "pair"),
        help="aim at what the reference's networks do in each row, each head of each row, each "
             "token, each pair of tokens, in place of their mean over rows: slow, to see how much "
             "there is to gain. The reference is to be runs of the same --arch and --size, and for "
             "heads, which are taken to be alike by their place, of the same --seed")
    add("--maps", action="store_const", const="pair", dest="each", help="the same as --each pair")
    add("--aia_fade", action="store_true",
        help="AIA's weight falls to zero in a line, from where its phase begins")
    add("--task", choices=("both",) + TASKS, default="both", help="train on both tasks or on one")
    add("--ratio",
        help=f"generate:understand rows in a batch, in whole rows (default: {RATIO}, or what a "
             "stage says)")
    add("--balance", action="store_true",
        help="scale each task's gradient to the same norm in every step")
    add("--size", choices=SIZES,
        help="shape of the network (default: with --init_from that run's; else nano without a GPU, "
             "small with one)")
    add("--n_layer", type=int,
        help="blocks, instead of the size's (--reference small stays the size's)")
    add("--n_head", type=int, help="attention heads, instead of the size's")
    add("--n_embd", type=int, help="channels, instead of the size's")
    add("--data", help="folder of a data set (default: with --init_from that run's; else "
                          "data/toy-SIZE, made if missing, as data/speckled-SIZE is)")
    add("--n_train", type=int,
        help="train on the first so many rows of each task only (default: all)")
    add("--interleave", action="store_true",
        help="half of the rows, and all that validate, stand behind another row of either task, so "
             "that the place in the row does not tell the task")
    add("--out", help="folder of the run (default: out/ and what it is, such as out/aia-nano or "
                      "out/evev2-nano)")
    add("--steps", type=int,
        help="optimiser steps, of both phases or of those that follow --init_from (default: nano "
             "5500, small 4000, base 10000)")
    add("--batch_size", type=int, default=32, help="rows a step")
    add("--accumulate", type=int, default=1,
        help="parts that a step's rows are taken in, one after the other: the same step in less "
             "memory")
    add("--checkpoint", action="store_true",
        help="keep each layer's input only and compute the layer again in the backward pass: less "
             "memory, one more forward pass")
    add("--compile", action=argparse.BooleanOptionalAction,
        help="compile the layers with torch.compile (default: on a GPU, but for networks with "
             "routers)")
    add("--fsdp", action="store_true",
        help="with torchrun: weights, gradients and optimiser states in shards, a part a process, "
             "for networks that outgrow one GPU")
    add("--lr", type=float, default=.004, help="peak learning rate of Muon; AdamW's is 0.4 of it")
    add("--weight_decay", type=float, default=.01,
        help="of the matrices that Muon trains: in a step they lose so much of themselves, times "
             "the learning rate")
    add("--dropout", type=float, default=0.,
        help="share of what a layer adds to the residual stream that is left out in training; what "
             "that is depends on --accumulate, too")
    add("--seed", type=int, default=0, help="of weights and of the order of the data")
    add("--device", help="cpu | cuda | mps (default: what is there)")
    add("--dtype", choices=("float32", "bfloat16"),
        help="of the matrix products (default: bfloat16 where there are instructions for it, else "
             "float32)")
    add("--eval_every", type=int,
        help="steps between evaluations, which also save (default: a tenth of the steps)")
    add("--exam", type=int, default=100,
        help="size of the toy world's final exam, in prompts a tag: 100 is the benchmarks' own "
             "size, 0 is none")
    add("--resume", action="store_true",
        help="go on with the run in --out (default: the latest), exactly where it was saved and "
             "with the flags it was begun with (but for --accumulate, --checkpoint, --compile, "
             "--fsdp and --device, which may be given anew, and --data, if the data set was moved)")


def read_flags():
    """The flags as an argparse.Namespace. Exits with one line if there is something wrong."""
    p = Parser(description="Train one network to draw and to see.")
    add_dial(p)
    add_training(p)
    speak_plainly()
    expect_faults(NO_MEMORY)
    args = p.parse_args()
    args.branch = False  # whether it goes on from a run of the same architecture
    args.own = None      # with --reference own: that network's curves, {task: [L]} or [L][H]
    args.whole = None    # how many steps this run has, or the one that it began as (--init_from)
    if args.resume:
        take_from_run(args)
    check_numbers(args)
    check_ratio(args)
    check_reference(args)
    args.device = find_device(args.device)
    fill_in(args)
    check_dial(args)
    if args.aia and phase_begins(args) >= args.steps:
        sys.exit(f"--aia_start {args.aia_start}: leaves none of the {args.steps} steps to AIA; "
                 "take less")
    if args.balance and (args.task != "both" or world > 1):
        sys.exit("--balance: is of two tasks in one process; leave it out")
    if args.stages == "on" and "stages" not in PRESETS[args.arch]:
        sys.exit(f"--stages on: --arch {args.arch} has none; leave it out")
    if args.interleave and with_flags(Config(), args.arch, **dial_of(args)).see != "tokens":
        sys.exit("--interleave: is of networks that see tokens; leave it out, or add --see tokens")
    if args.fsdp and world == 1:
        sys.exit("--fsdp: shards are for several processes; start them with: "
                 "torchrun --nproc_per_node=N train.py --fsdp ...")
    check_out(args)
    expect_faults(NO_MEMORY, "go on from what was saved with torchrun as before, and: train.py "
                             f"--out {args.out} --resume")
    return args


def take_from_run(args):
    """--resume: the flags that the run was begun with."""
    flags = [word.split("=")[0] for word in sys.argv[1:] if word.startswith("--")]
    given = {re.sub("^--(no-)?", "", flag): flag for flag in flags}  # {name: as it was typed}
    free = ("resume", "out", "data", "device", *HOW)  # data: where the data set is now
    more = [flag for name, flag in given.items() if name not in free]
    if more:
        sys.exit("--resume: goes on with the flags that the run was begun with; "
                 f"leave out {' '.join(more)}")
    args.out = args.out or latest_run()
    config = read_config(args.out)
    args.data = args.data or config["train"]["data"]
    is_there = (Path(args.data) / "meta.json").exists()
    made = [f"data/{kind}-{config['train']['size']}" for kind in ("toy", "speckled")]
    if not is_there and args.data not in made:  # see make_if_missing()
        sys.exit(f"--resume: the data set of {args.out} is not in {args.data}; "
                 "say where it is: --data FOLDER")
    of_now = ["resume", "out", "data", "device", *given]
    if world == 1:
        of_now.append("fsdp")  # one process alone has no shards
    for name, value in config["train"].items():
        if name not in of_now:
            setattr(args, name, value)
    if config["train"].get("maps"):  # an older run's word for it
        args.each = "pair"


def check_numbers(args):
    """No number may be too small, infinite, or no number."""
    for name, least in LEAST.items():
        value = getattr(args, name)
        if value is None:
            continue
        if name in ("aia_start", "dropout") and not 0 <= value <= 1:
            sys.exit(f"--{name} {value}: wanted is a share from 0 to 1")
        if name == "dropout" and value == 1:
            sys.exit("--dropout 1: nothing would be learned; wanted is less than 1")
        if value == float("inf"):
            sys.exit(f"--{name} {value}: wanted is a finite number")
        if not value >= least:
            sys.exit(f"--{name} {value}: wanted is a number of at least {least}")
        if value >= 2**63:  # more than torch and numpy can count
            sys.exit(f"--{name} {value}: wanted is less than {2**63:,}")
    if args.lr == 0:
        sys.exit("--lr 0: nothing would be learned; wanted is more than 0")


def check_ratio(args):
    """Both tasks are to have rows, unless one alone is trained."""
    if args.ratio and args.task != "both":
        sys.exit(f"--ratio {args.ratio}: is of two tasks, and --task {args.task} trains one; leave "
                 "one of the two out")
    ratio = args.ratio or RATIO
    if not re.fullmatch(r"\d+:\d+", ratio):
        sys.exit(f"--ratio {ratio}: wanted is generate:understand, such as 1:1 or 2:1")
    if 0 in [int(number) for number in ratio.split(":")]:
        sys.exit(f"--ratio {ratio}: leaves a task without rows; wanted is generate:understand, "
                 "both at least 1, or one --task")


def check_reference(args):
    """What is aimed at is to be there, and to be what the flags make of it."""
    folders = args.reference.split(",")
    if "" in folders or len(folders) > 2:
        sys.exit(f"--reference {args.reference}: wanted is small, paper, own, OUT or OUT1,OUT2")
    if args.reference == "own" and not args.init_from:
        sys.exit("--reference own: is the curves of the network that --init_from names; name one")
    if args.control and not args.aia:
        sys.exit(f"--control {args.control}: changes what AIA aims at; add --aia 0.1")
    if args.control and args.reference == "paper":
        sys.exit("--control: is of measured curves, and --reference paper is a table; take another "
                 "reference")
    if (args.heads or args.each or args.aia_fade) and not args.aia:
        sys.exit("--heads, --each and --aia_fade are of AIA; add --aia 0.1")
    if args.heads and world * args.accumulate > 1:
        sys.exit(f"--heads {args.heads}: which heads look most is asked of a step's rows at once; "
                 "take one process, and no --accumulate")
    if args.heads and args.reference in ("paper", "small"):
        sys.exit(f"--heads: --reference {args.reference} says nothing of single heads; take own, "
                 "or runs: OUT1,OUT2")
    if args.each and args.reference in ("paper", "small", "own"):
        sys.exit(f"--each {args.each}: --reference {args.reference} is a number a layer; name "
                 "runs: OUT1,OUT2")
    if args.each and (args.control or args.heads):
        sys.exit(f"--each {args.each}: aims at what a network does, row by row; leave --control "
                 "and --heads out")
    if args.control == "swapped" and args.task != "both":
        sys.exit(f"--control swapped: is of two tasks, and --task {args.task} trains one")


def dial_of(args):
    """The flags of add_dial(), as with_flags() takes them."""
    return {name: getattr(args, name) for name in Config.DIAL}


def check_dial(args):
    """Exits with one line if the dial cannot be turned so, for whatever size and data."""
    try:
        with_flags(Config(), args.arch, **dial_of(args))
    except ValueError as e:
        sys.exit(f"--arch {args.arch}, with its flags: {e}")


def fill_in(args):
    """What was not given, as the other flags have it."""
    before = {}  # the flags of the run that this one goes on from
    if args.init_from and not args.resume:
        before = read_config(args.init_from)["train"]
    on_gpu = args.device.startswith("cuda")
    args.size = args.size or before.get("size", "small" if on_gpu else "nano")
    args.data = args.data or before.get("data", f"data/toy-{args.size}")
    for name in ("cues", "aligned"):  # without them weights mean something else
        if getattr(args, name) is None:
            setattr(args, name, before.get(name))
    shape = dict(zip(SHAPE, SIZES[args.size]))
    if args.size == before.get("size"):
        shape |= {name: before[name] for name in SHAPE if name in before}
    for name, value in shape.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.n_embd % (2 * args.n_head):
        sys.exit(f"--n_embd {args.n_embd}: wanted is a multiple of {2 * args.n_head}, as each of "
                 f"{args.n_head} heads has pairs of channels; choose it or --n_head anew")
    args.steps = args.steps or STEPS[args.size]
    args.whole = args.whole or before.get("whole", before.get("steps", args.steps))
    args.eval_every = args.eval_every or max(1, args.steps // 10)
    if args.aia_start is None:
        args.aia_start = 0. if args.init_from else .6
    args.out = args.out or f"out/{name_of_run(args)}-{args.size}"


def name_of_run(args):
    """What a run is, as the name of a folder: "aia-evev2", or "both" if nothing is special."""
    words = []
    if args.aia:
        words.append("aia")
        if args.reference in ("paper", "own"):
            words.append(args.reference)
        if args.control:
            words.append(args.control)
        if args.heads:
            words.append(f"heads{args.heads}")
        if args.each:
            words.append(f"each-{args.each}")
        if args.aia_fade:
            words.append("fade")
    if args.balance:
        words.append("balance")
    if args.interleave:
        words.append("interleave")
    if args.n_train:
        words.append(f"n{args.n_train}")
    if args.task != "both":
        words.append(args.task)
    if args.arch != "emu3":
        words.append(args.arch)
    if tuple(getattr(args, name) for name in SHAPE) != SIZES[args.size]:
        words.append(f"{args.n_layer}x{args.n_head}x{args.n_embd}")
    words += turned(args)
    if args.match:
        words.append(f"match-{args.match}")
    return "-".join(words or ["both"])


def turned(args):
    """What the flags changed of the preset, in words that may stand in a folder's name."""
    words = []
    if args.split is not None:
        words.append("+".join(args.split) or "none")
    for name in ("route", "experts", "see"):
        value = getattr(args, name)
        if value is not None:
            words.append(str(value))
    for name in ("shared", "own_head", "full", "cues", "aligned"):
        value = getattr(args, name)
        if value is not None:
            words.append(name if value else f"no-{name}")
    return words


def check_out(args):
    """A new run needs a folder without one."""
    out = Path(args.out)
    if os.path.isfile(out):
        sys.exit(f"--out {out}: holds something else already, which would be lost; "
                 "name another folder, or remove it")
    refuse_unwritable("--out", out)
    if (out / "meta.json").exists():
        sys.exit(f"--out {out}: is a data set, which a run would damage; name another folder")
    if any(out.glob("*/ckpt.pt")):
        sys.exit(f"--out {out}: holds other runs; name a folder in it, such as {out / 'mine'}")
    if any((out / name).exists() for name in WEIGHTS) and not args.resume:
        sys.exit(f"--out {out}: holds a run already, which would be lost; "
                 "name another folder, or remove it, or go on with its run: --resume")


# ---------------------------------------------------------------------------------------------
# what follows from them


def how_to_resume(args):
    """The command that goes on with a run; with --data, if its data set was moved."""
    command = f"python train.py --out {args.out} --resume"
    if args.resume and args.data != read_config(args.out)["train"]["data"]:
        command += f" --data {args.data}"
    return command


def phase_begins(args):
    """The step at which the second phase begins."""
    return round(args.steps * args.aia_start)


def stages_of(args):
    """
    The stages (see PRESETS in model.py) that the run goes through, each with "rows": {task: number
    of rows in a step}. Most runs have one stage, in which everything trains.
    """
    choice = args.stages or ("on" if args.init_from else "off")
    stages = [{"share": 1.}]
    if choice == "on":
        stages = PRESETS[args.arch].get("stages", stages)
    with_rows = []
    for stage in stages:
        ratio = args.ratio or stage.get("ratio", RATIO)
        with_rows.append(stage | {"rows": rows_a_step(args, ratio)})
    return with_rows


def rows_a_step(args, ratio):
    """{task: number of rows}. All parts of a step are to have the same number of each task."""
    of_generate, of_understand = [int(number) for number in ratio.split(":")]
    share = of_generate / (of_generate + of_understand)
    if args.task != "both":
        share = float(args.task == "generate")
    drawn = round(args.batch_size * share)
    seen = args.batch_size - drawn
    if 0 < share < 1 and 0 in (drawn, seen):
        sys.exit(f"--batch_size {args.batch_size}: too few rows for both tasks at --ratio {ratio}; "
                 "take more, or one --task")
    parts = world * args.accumulate
    if drawn % parts or seen % parts:
        taken = f"--accumulate {args.accumulate}"
        if world > 1:
            taken = f"{world} processes x {taken}"
        sys.exit(f"--batch_size {args.batch_size}: {drawn} rows to generate and {seen} to "
                 f"understand; both are to be multiples of {parts} ({taken}), so that each part "
                 "weighs the same: choose another --batch_size or --ratio")
    return {"generate": drawn, "understand": seen}
