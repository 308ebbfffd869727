"""
systems/start.py: one system's weights as the beginning of another, and training in stages.

The published systems do not start from nothing. They take a trained network apart, and train the
new parts before all others. The stages of each stand in the table of model.py.
"""
import sys
from pathlib import Path

import numpy as np

from data import load_tokenizer
from model import PRESETS, Config
from systems.encoder import load_encoder
from systems.runs import as_saved, load_model, refuse_other_data
from tools.files import load_state

OF_ENCODER = .1  # of the learning rate, if it was trained before: as in ILLUME's last stage


def start_from(model, dense):
    """
    Takes over the weights (a state_dict) of a network without copies.

    A second copy starts as the first, and experts start as the FFN; where there is a shared expert,
    it is the first half of the FFN's hidden units, and the others start as the second half. What
    has no counterpart stays as it was made. So without new eyes, another hand or
    full attention the network computes at first what the dense one did.
    """
    weights = model.state_dict()  # the very weights, not copies of them
    for name, weight in weights.items():
        source = source_of(name, dense)
        if source is None:
            continue
        given = dense[source]
        half = 0 if ".shared." in name else 1
        for dim in range(given.dim()):
            if given.size(dim) == 2 * weight.size(dim):
                given = given.chunk(2, dim)[half]
        weight.copy_(given)


def source_of(name, dense):
    """Which weight of a dense network a weight starts from; None if there is none."""
    if name in dense:
        return name
    parts = name.split(".")
    if "shared" in parts:  # blocks.0.ffn.shared.up.weight
        at = parts.index("shared")
        parts[at] = "0"
    elif "experts" in parts:  # blocks.0.ffn.experts.3.up.weight
        at = parts.index("experts")
        parts[at:at + 2] = ["0"]
    else:  # blocks.0.attn.qkv.1.weight, embed.1.own.weight: the number of the copy
        numbers = [i for i, part in enumerate(parts) if part.isdigit()]
        if not numbers:
            return None
        parts[numbers[-1]] = "0"
    source = ".".join(parts)
    return source if source in dense else None


def trains(stage, name):
    """Whether a stage (see PRESETS in model.py) trains the weight of this name."""
    if "train" in stage:
        return any(part in name for part in stage["train"])
    return not any(part in name for part in stage.get("freeze", ()))


def shares_of_lr(model, stage, old_lr, pretrained):
    """
    {name of a weight: its share of the learning rate}, of those that were trained before: with
    --old_lr what the only stage would leave as it is; and an encoder, by a tenth at most.
    """
    shares = {}
    for name, _ in model.named_parameters():
        if old_lr and not trains(stage, name):
            shares[name] = old_lr
        if pretrained and name.startswith("eyes.encoder."):
            shares[name] = min(shares.get(name, 1.), OF_ENCODER)
    return shares


def stage_at(step, stages):
    """The stage that a step belongs to: each has an end, the step before which it ends."""
    for stage in stages:
        if step < stage["end"]:
            return stage
    return stages[-1]


def begin_with(model, stages, args, data, device):
    """
    Gives a model the weights that its encoder was trained to, if it has one, and those that
    --init_from names, if any, and returns the stages it is to go through. Exits with one line if
    these weights, or those stages, do not fit it.
    """
    if model.config.see == "encoder" and args.pretrained and not args.resume:
        load_encoder(model.eyes.encoder)
    if model.config.draw == "features" and data.meta.get("semantic"):
        sys.exit(f"--data {args.data}: its tokens stand for features already; to draw features "
                 "themselves, take a data set of pixels' tokens, such as data/toy-nano")
    if args.init_from and not args.resume:
        args.branch = start_from_run(model, args.init_from, data, device)
    elif "stages" in PRESETS[args.arch] and not args.init_from and not args.stages:
        print(f"{args.arch}: its stages start from a trained network, and no --init_from names "
              "one: everything is trained jointly")
    if model.config.draw == "features" and not args.resume:  # wherever all else comes from
        load_encoder(model.eyes.encoder)
        model.hand.load(load_tokenizer(data.folder / "tokenizer.pt", device))
    if args.branch:  # from a network of this very architecture: its earlier stages are behind it
        stages = [stages[-1] | {"share": 1.}]
    for stage in stages:
        if not any(trains(stage, name) for name, _ in model.named_parameters()):
            sys.exit(f"--arch {args.arch}: its stage that trains {', '.join(stage['train'])} finds "
                     "no such weights in what the flags made of it; turn --stages off")
    ends = np.round(np.cumsum([stage["share"] for stage in stages]) * args.steps)
    return [stage | {"end": end} for stage, end in zip(stages, ends)]


def is_in_second_phase(run, trained):
    """Whether a run had a first phase, and its checkpoint is from after it."""
    begin = round(trained["steps"] * trained["aia_start"])
    step = load_state(Path(run) / "ckpt.pt", "cpu").get("step", trained["steps"])
    return 0 < begin < step


def start_from_run(model, run, data, device):
    """
    Takes over a run's weights, at the end of its first phase if it had two. Returns whether that
    run's network is of this very architecture.
    """
    file = "pretrained.pt" if (Path(run) / "pretrained.pt").exists() else "ckpt.pt"
    other, about = load_model(run, device, file)
    if file == "ckpt.pt" and is_in_second_phase(run, about["train"]):
        sys.exit(f"--init_from {run}: pretrained.pt is missing, which has its weights from before "
                 "AIA; copy it back, or train the run again")
    theirs = as_saved(Config(**about["model"]))  # an older run knows fewer flags
    mine = as_saved(model.config)
    free = (*model.config.DIAL, "block_size")  # what start_from() bridges
    same_shape = all(mine[name] == value for name, value in theirs.items() if name not in free)
    longest = mine["block_size"]  # of the rows; no weight depends on it
    same_network = theirs | {"block_size": longest} == mine
    refuse_other_data(run, about, data, "--init_from")
    if not same_shape or (theirs["split"] and not same_network):
        trained = about["train"]
        sys.exit(f"--init_from {run}: a network of another shape ({trained['arch']}, "
                 f"{trained['size']}); train with its --size (or --n_layer, --n_head, --n_embd), "
                 "and with its --arch (or --split, --route) if it has copies")
    start_from(model, other.state_dict())
    print(f"starting from {run}/{file}")
    return same_network
