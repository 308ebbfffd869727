"""
systems/checks.py: what may be wrong with the flags of train.py, each said in one line.
"""
import os
import re
import sys
from pathlib import Path

from model import PRESETS, Config
from systems.dial import with_flags
from systems.plan import BY_FLOW, RATIO, SHAPE, dial_of, phase_begins, preset_stages
from systems.runs import WEIGHTS
from tools.files import refuse_unwritable
from tools.processes import world

LEAST = {"steps": 1, "batch_size": 1, "accumulate": 1, "eval_every": 1, "aia_every": 1, "exam": 0,
         "aia": 0, "aia_start": 0, "heads": 0, "lr": 0, "seed": 0, "n_train": 1, "noises": 1,
         "weight_decay": 0, "dropout": 0, "draw_weight": 0, "old_lr": 0, **dict.fromkeys(SHAPE, 1)}


def check_given(args):
    """Before what was not given is filled in."""
    check_numbers(args)
    check_ratio(args)
    check_reference(args)


def check_filled_in(args):
    """When it is; the dial for whatever data, as a picture may have any number of tokens."""
    config = turned_config(Config(args.n_layer, n_image=10**6), args)
    if args.interleave and config.see != "tokens":
        sys.exit("--interleave: is of networks that see tokens; leave it out, or add --see tokens")
    learns_to_see = config.see == "encoder" and config.draw != "features"
    if not args.pretrained and not learns_to_see:
        sys.exit("--no-pretrained: is of eyes that are an encoder, and learn; leave it out, or add "
                 "--see encoder")
    draws_by_flow = config.draw in BY_FLOW and args.task != "understand"
    if args.noises > 1 and not draws_by_flow:
        sys.exit(f"--noises {args.noises}: is of pictures drawn by flow; leave it out, or add "
                 "--draw flow")
    if args.aia and phase_begins(args) >= args.steps:
        sys.exit(f"--aia_start {args.aia_start}: leaves none of the {args.steps} steps to AIA; "
                 "take less")
    if args.balance and (args.task != "both" or world > 1):
        sys.exit("--balance: is of two tasks in one process; leave it out")
    if args.stages == "on" and "stages" not in PRESETS[args.arch]:
        sys.exit(f"--stages on: --arch {args.arch} has none; leave it out")
    stages = preset_stages(args)
    if args.old_lr and (len(stages) > 1 or "train" not in stages[0]):
        sys.exit("--old_lr: is of a preset whose only stage leaves weights as they are, from "
                 "--init_from (lmfusion, llavafusion, metaquery); leave it out")
    if args.fsdp and config.draw in ("features", "queries"):
        sys.exit(f"--fsdp: not with a hand of {config.draw}, which works outside of the shards; "
                 "leave it out")
    if world > 1 and args.ratio and stages[-1].get("ratio") == "1:0":
        sys.exit(f"--ratio {args.ratio}: of one process; --arch {args.arch} learns nothing of rows "
                 "to understand")
    if args.fsdp and world == 1:
        sys.exit("--fsdp: shards are for several processes; start them with: "
                 "torchrun --nproc_per_node=N train.py --fsdp ...")
    check_out(args)


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
        sys.exit("--control: is of measured curves, and --reference paper is a table, which stays "
                 "as it is; take another reference")
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
    if args.control == "layers" and (args.heads or args.reference == "own"):
        sys.exit("--control layers: with --heads or --reference own each layer has a target of its "
                 "own already; leave it out")
    if args.control == "swapped" and args.task != "both":
        sys.exit(f"--control swapped: is of two tasks, and --task {args.task} trains one")


def turned_config(config, args, match=None):
    """with_flags() of train.py's flags. Exits with one line if they contradict each other."""
    try:
        return with_flags(config, args.arch, match, **dial_of(args))
    except ValueError as e:
        sys.exit(f"--arch {args.arch}, with its flags: {e}")


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
