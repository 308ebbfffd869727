"""
systems/plan.py: what follows from the flags of train.py: those that were not given, the run's name,
its phases, its stages and the rows of a step.
"""
import re
import sys
from pathlib import Path

from data import TASKS
from model import PRESETS, SIZES, Config
from systems.runs import latest_run, read_config
from tools.processes import world
from toy.command import worlds

SHAPE = ("n_layer", "n_head", "n_embd")  # what a size is
RATIO = "5:11"  # rows to generate : rows to understand, as what is learned last is to look up
STEPS = {"nano": 5500, "small": 4000, "base": 10000}

# These see as the network that they start from
KEEP_EYES = ("metaquery", "llavafusion")

# These draw out of noise; and with so many a picture of a step is mixed
BY_FLOW = ("flow", "queries")
NOISES = 4

# How a step is taken, not which step it is: a resumed run may choose these anew.
HOW = ("accumulate", "checkpoint", "compile", "fsdp")

# ---------------------------------------------------------------------------------------------
# what was not given


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
    size = config["train"]["size"]
    if not is_there and args.data not in worlds(size):
        sys.exit(f"--resume: the data set of {args.out} is not in {args.data}; "
                 "say where it is: --data FOLDER")
    of_now = ["resume", "out", "data", "device", *given]
    if world == 1:
        of_now.append("fsdp")  # one process alone has no shards
    for name, value in config["train"].items():
        if name not in of_now:
            setattr(args, name, value)
    args.noises = config["train"].get("noises", 1)  # an older run had one
    if config["train"].get("maps"):  # an older run's word for it
        args.each = "pair"


def fill_in(args):
    """What was not given, as the other flags have it."""
    before = {}  # the flags of the run that this one goes on from
    network = {}  # and its Config
    if args.init_from and not args.resume:
        run = read_config(args.init_from)
        before, network = run["train"], run["model"]
    on_gpu = args.device.startswith("cuda")
    args.size = args.size or before.get("size", "small" if on_gpu else "nano")
    of_arch = "data/semantic-nano" if args.arch == "illume" else f"data/toy-{args.size}"
    args.data = args.data or before.get("data", of_arch)
    if args.pretrained is None:
        args.pretrained = before.get("pretrained", True)
    if before and args.arch in KEEP_EYES and args.see is None:
        args.see = network["see"]
        args.full = network["full"] if args.full is None else args.full
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
    preset = PRESETS[args.arch]
    if args.draw_weight is None:
        by_preset = args.draw in (None, preset.get("draw"))
        args.draw_weight = preset.get("draw_weight", 1.) if by_preset else 1.
    by_flow = (args.draw or preset.get("draw")) in BY_FLOW
    args.noises = args.noises or (NOISES if by_flow else 1)
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
    for name in ("route", "experts", "see", "draw", "noise", "connector", "condition"):
        value = getattr(args, name)
        if value is not None:
            words.append(str(value))
    for name in ("outer", "last", "queries"):
        if getattr(args, name):
            words.append(f"{name}{getattr(args, name)}")
    for name in ("shared", "own_head", "causal", "full", "cues", "aligned"):
        value = getattr(args, name)
        if value is not None:
            words.append(name if value else f"no-{name}")
    if not args.pretrained:
        words.append("no-pretrained")
    if args.old_lr:
        words.append(f"old{args.old_lr:g}")
    return words


# ---------------------------------------------------------------------------------------------
# what follows from them


def dial_of(args):
    """The flags of add_dial(), as with_flags() takes them."""
    return {name: getattr(args, name) for name in Config.DIAL}


def how_to_resume(args):
    """The command that goes on with a run; with --data, if its data set was moved."""
    command = f"python train.py --out {args.out} --resume"
    if args.resume and args.data != read_config(args.out)["train"]["data"]:
        command += f" --data {args.data}"
    return command


def phase_begins(args):
    """The step at which the second phase begins."""
    return round(args.steps * args.aia_start)


def preset_stages(args):
    """
    The stages (see PRESETS in model.py) that the run goes through. Most have one, in which
    everything trains.
    """
    everything = [{"share": 1.}]
    choice = args.stages or ("on" if args.init_from else "off")
    return PRESETS[args.arch].get("stages", everything) if choice == "on" else everything


def stages_of(args):
    """The same, each stage with "rows": {task: number of rows in a step}."""
    with_rows = []
    for stage in preset_stages(args):
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
