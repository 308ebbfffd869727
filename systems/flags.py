"""
systems/flags.py: the flags of train.py. What is wrong with them is said in one line before anything
long begins (systems/checks.py); what is not given is filled in (systems/plan.py).
"""
import argparse

from data import TASKS
from model import PRESETS, ROUTERS, SIZES
from systems.checks import check_filled_in, check_given
from systems.dial import MATCH
from systems.plan import RATIO, fill_in, take_from_run
from tools.device import find_device
from tools.faults import expect_faults
from tools.flags import Parser, speak_plainly

NO_MEMORY = "take a step's rows in more parts (--accumulate 2), or fewer rows (--batch_size)"


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
    check_given(args)
    args.device = find_device(args.device)
    fill_in(args)
    check_filled_in(args)
    expect_faults(NO_MEMORY, "go on from what was saved with torchrun as before, and: train.py "
                             f"--out {args.out} --resume")
    return args


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
    add("--outer", type=int,
        help="copies in so many of the first layers and of the last alone (as Uni-X has them)")
    add("--last", type=int, help="copies in so many of the last layers alone (as UniFork has them)")
    add("--experts", type=int,
        help="experts a router chooses from (supervised, oracle: for each task), instead of the "
             "preset's")
    add("--shared", action=yes_or_no,
        help="a shared expert beside the chosen one, instead of the preset's choice")
    add("--see", choices=("tokens", "patches", "encoder", "latents"),
        help="how a picture to understand comes in, instead of the preset's")
    add("--draw", choices=("tokens", "flow", "features", "queries"),
        help="how a picture is drawn, instead of the preset's: token by token; all at once out of "
             "noise; feature by feature; by a decoder that queries ask for")
    add("--own_head", action=yes_or_no,
        help="an embedding and a head of its own for drawing, instead of the preset's choice")
    add("--noise", choices=("flow", "ddpm"),
        help="by flow: how a picture is mixed with noise, and what is learned of it, instead of "
             "the preset's (see systems/flow.py)")
    add("--causal", action=yes_or_no,
        help="by flow: within a picture that is drawn each token attends to none behind it, "
             "instead of the preset's choice")
    add("--queries", type=int, help="how many queries ask, instead of the preset's")
    add("--connector", choices=("enc-proj", "proj-enc"),
        help="what is between network and decoder: blocks and then an MLP, or the other way round")
    add("--condition", choices=("queries", "last"),
        help="what the decoder is told: what the network makes of the queries, or of the prompt")
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
    yes_or_no = argparse.BooleanOptionalAction
    add = parser.add_argument
    add("--stages", choices=("on", "off"),
        help="train in the preset's stages, or everything jointly (default: on with --init_from if "
             "it has any, else off)")
    add("--old_lr", type=float, default=0.,
        help="where a preset's only stage leaves the weights of --init_from as they are: their "
             "learning rate, as a share of all others'; 0: they stay (lmfusion, llavafusion, "
             "metaquery)")
    add("--aia", type=float, default=0., help="weight of the AIA loss; 0 is off, bit for bit")
    add("--aia_start", type=float,
        help="share of the steps after which the second phase begins, in which the learning rate "
             "falls to zero and AIA acts; 0 is from scratch (default: 0.6, or 0 with --init_from)")
    add("--aia_every", type=int, default=4,
        help="AIA acts on every N-th step of its phase, with N times the weight "
             "(results/aia-before.md); the paper's acts on every step")
    add("--init_from",
        help="folder of a run to start from: its weights at the end of its first phase; for "
             "another --arch, whose copies start from them, one without copies")
    add("--reference", default="small",
        help="whose curves are the target: small | paper | own (those of --init_from) | a run's "
             "folder (or two: OUT1,OUT2)")
    add("--control", choices=("swapped", "permuted", "constant", "layers", "absolute"),
        help="another target, to tell whether its content matters: swapped, the other task's "
             "curve; permuted, another layer's number; constant, their mean; or AIA without its "
             "ranges of layers (layers), or without Huber's loss (absolute)")
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
    add("--noises", type=int,
        help="where pictures are drawn by flow: with how many noises each is mixed in a step, as "
             "one noise tells little of a picture (default: 4)")
    add("--draw_weight", type=float,
        help="weight of the loss to draw (default: 1, or the preset's)")
    add("--pretrained", action=yes_or_no,
        help="whether an encoder that sees begins as assets/encoder.pt, and learns at a tenth of "
             "the learning rate, or from nothing (default: yes, or as in --init_from)")
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
                          "data/toy-SIZE, of illume data/semantic-nano; made if missing, as "
                          "data/speckled-SIZE and data/told-SIZE are)")
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
        help="parts that a step's rows are taken in: the same step in less memory")
    add("--checkpoint", action="store_true",
        help="keep each layer's input only and compute the layer again in the backward pass: less "
             "memory, one more forward pass")
    add("--compile", action=argparse.BooleanOptionalAction,
        help="compile the layers with torch.compile (default: on a GPU, but for networks with "
             "routers)")
    add("--fsdp", action="store_true",
        help="with torchrun: weights, gradients and optimiser states in shards, for networks that "
             "outgrow one GPU")
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
        help="size of the final exam, in prompts a tag: 100 is the benchmarks' own, 0 is none")
    add("--resume", action="store_true",
        help="go on with the run in --out (default: the latest), exactly where it was saved and "
             "with the flags it was begun with (but for --accumulate, --checkpoint, --compile, "
             "--fsdp and --device, which may be given anew, and --data, if the data set was moved)")
