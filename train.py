"""
train.py: one loop, from flags to checkpoint. The last file to read, but for the tests.

  1. what is trained    flags, data, network, reference
  2. what a step takes  learning rate, stage, rows, losses
  3. now and then       evaluate, save
  4. the loop
  5. the exam

    python train.py --aia 0.1                         # pre-train on both tasks, fine-tune with AIA
    python train.py --init_from out/run --steps 2200  # fine-tunes what that pre-trained, without
    python train.py --task generate                   # a single-task network
    python train.py --arch evev2 --init_from out/run  # taken apart, from a unified one's weights

A run has two phases: in the first the network learns both tasks, in the second it is fine-tuned,
and AIA acts. (A preset's stages are something else: which weights train, and for how long.)

The file runs from top to bottom. Its flags are in systems/flags.py, what several processes need in
tools/processes.py, whose functions do nothing for one.
"""
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import aia
from data import TASKS, load_dataset, load_tokenizer, special_id
from exam import examine
from exam.marks import table
from exam.questions import prompts_to_watch
from model import Config
from sample import draw
from systems import build
from systems.checks import turned_config
from systems.dial import cost
from systems.flags import read_flags
from systems.interleave import SHARE, all_behind, pick_others, put_behind
from systems.losses import row_losses
from systems.plan import RATIO, how_to_resume, phase_begins, rows_a_step, stages_of, turned
from systems.runs import (VERSION, as_saved, load_checkpoint, load_model, next_command,
                          read_config, refuse_other_data)
from systems.start import begin_with, shares_of_lr, stage_at, trains
from tools import processes
from tools.balance import put_back, set_aside
from tools.curves import draw_curves
from tools.device import compile_layers, keep_freed_memory, name_of, peak_flops, set_products
from tools.files import lock, save_json, save_state, unlock
from tools.log import Log
from tools.muon import optimizers
from tools.processes import rank, world
from tools.sheet import sheet
from tools.timing import Meter
from toy.command import make_if_missing

# ---------------------------------------------------------------------------------------------
# 1. what is trained: flags, data, network, reference


def stop(*_):
    """Ctrl-C, or kill."""
    if rank > 0:
        sys.exit(rank)
    if finished:
        sys.exit(f"\nstopped; the network is saved, score it with: python -m exam {out}")
    if (out / "ckpt.pt").exists():
        sys.exit(f"\nstopped; go on with: {how_to_resume(args)}")
    sys.exit("\nstopped before anything was saved")


def train_reference(task):
    """A single-task network of the same size, with as many rows of its task as this run has."""
    folder = f"{data.folder}/reference-{args.size}-{args.whole}-{task}"
    if not lock(data.folder):
        sys.exit(f"{data.folder}: another run trains references there; when it has, start this one "
                 "again")
    if task in aia.small_curves(data, args.size, args.whole):  # another made it meanwhile
        return
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier attempt
    print(f"no reference to {task} for {args.data} at size {args.size} yet: "
          f"training a single-task network in {folder}")
    rows = rows_a_step(args, args.ratio or RATIO)[task]
    flags = ["--task", task, "--out", folder, "--batch_size", str(max(1, rows)), "--exam", "0",
             "--steps", str(args.whole)]
    for name in ("seed", "data", "size", "lr", "device", "dtype"):
        flags += [f"--{name}", str(getattr(args, name))]
    if processes.child(__file__, *flags):
        sys.exit(f"{folder}: the reference could not be trained (the reason is above)")
    curves = aia.small_curves(data, args.size, args.whole)  # of the other task, if it is there
    curves |= aia.measured_curves([folder], data, device)
    save_json(aia.small_file(data, args.size, args.whole), curves)


def look_up_reference():
    """The curves that are aimed at; {} if they are to be trained first. See aia.py."""
    if args.reference != "own":
        return aia.reference(args.reference, config.n_layer, args.size, args.whole, data, device,
                             args.control, args.heads)
    if not args.resume and not args.branch:
        sys.exit(f"--reference own: {args.init_from} is of another architecture, whose curves are "
                 "not this one's; take another reference")
    if args.own is None:  # kept with the flags, as a resumed run has moved on since
        name = "heads" if args.heads else "mean"
        args.own = {task: curve[name] for task, curve in aia.measure(model, data).items()}
    n_layer = config.n_layer  # a range a layer: each is to stay where it is
    return aia.targets_of("own", args.own, n_layer, args.control, n_ranges=n_layer,
                          heads=args.heads)


def look_up_teachers():
    """With --each {task: the reference's network}."""
    networks = {}
    for folder in args.reference.split(","):
        network, of_run = load_model(folder, device)
        if as_saved(Config(**of_run["model"])) != as_saved(config):  # it is to read the same rows
            sys.exit(f"--each {args.each}: {folder} is of another shape; name a run of the same "
                     "--arch and --size, with the same flags of both")
        if args.each == "head" and of_run["train"]["seed"] != args.seed:
            sys.exit(f"--each head: {folder} began with other weights (--seed "
                     f"{of_run['train']['seed']}), so its heads stand elsewhere; name a run of the "
                     "same --seed, or take --each row")
        for task in tasks:
            if of_run["train"]["task"] in (task, "both"):
                networks[task] = network
    return networks


# flags
keep_freed_memory()
processes.speak_for_all()
args = read_flags()
stages = stages_of(args)    # most runs have one, in which everything trains
begin = phase_begins(args)  # the second phase's first step; with --init_from it is 0
out = Path(args.out)        # the folder that all of this run goes to
finished = False
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
device = processes.join(args.device)
device_type = torch.device(device).type  # cuda:1 is a cuda
args.dtype = set_products(device_type, args.dtype)
print(f"{name_of(device)}, {args.dtype}, torch {torch.__version__}, size {args.size}, "
      f"run in {out}" + (f", {world} processes" if world > 1 else ""))

# data
make_if_missing(args.data, args.size)
processes.wait()
data = load_dataset(args.data)
if args.resume:
    refuse_other_data(out, read_config(out), data, "--resume", rows=True)
tok = load_tokenizer(data.folder / "tokenizer.pt", device)
tasks = TASKS if args.task == "both" else (args.task,)
n_train = {}  # {task: how many rows it is trained on}
for task in tasks:
    if task not in data.rows["train"]:
        other = TASKS[1 - TASKS.index(task)]
        sys.exit(f"{args.data}: has no {task} rows; train with --task {other}")
    n_rows = len(data.rows["train"][task][0])
    if args.n_train and args.n_train > n_rows:
        sys.exit(f"--n_train {args.n_train}: {args.data} has {n_rows} rows to {task}; take fewer")
    n_train[task] = args.n_train or n_rows
if args.interleave:
    pad = special_id("<|pad|>", data.meta["first_image"])
    data.rows["val"] = all_behind(data.rows["val"], pad)

# network: a preset's, for the tokens of this data
torch.manual_seed(args.seed)
of_data = {name: data.meta[name] for name in ("block_size", "vocab_size", "first_image", "n_image")}
if args.interleave:
    of_data["block_size"] *= 2  # a row and another before it
config = Config(args.n_layer, args.n_head, args.n_embd, **of_data, levels=list(tok.levels),
                patch=tok.patch)
config = turned_config(config, args, args.match)
model = build(config).to(device)
# the weights of --init_from; if these went through the stages already, the last alone is left
stages = begin_with(model, stages, args, data, device)

if args.heads > config.n_head:
    sys.exit(f"--heads {args.heads}: the network has {config.n_head} a layer; take fewer")

# reference: with AIA, curves that are missing are trained first
reference = look_up_reference()
wanted = tasks if args.aia else ()
for task in wanted:
    if task not in reference and args.reference == "small" and world == 1:
        train_reference(task)
        reference = look_up_reference()
    if task not in reference:
        alone = " (one process alone would train it)" if world > 1 else ""
        sys.exit(f"--reference {args.reference}: says nothing of {task}; "
                 f"name a run trained on it too: OUT1,OUT2{alone}")
unlock(data.folder)  # train_reference() locked it, if one was missing
teachers = look_up_teachers() if args.each else {}
targets = {}  # {task: (target, threshold)}, (L, 1) each, or with --heads (L heads, 1)
for task in wanted:
    targets[task] = [torch.tensor(reference[task][name], device=device)[:, None]
                     for name in ("target", "threshold")]

# on this machine: what it costs, how it is computed
price = cost(config)
print(f"{' '.join([args.arch, *turned(args)])}: {price['total'] / 1e6:.2f}M parameters, "
      f"{price['active'] / 1e6:.2f}M active, {price['flops'] / 1e6:.1f} MFLOP a token of training")
model.checkpoint = args.checkpoint
model.dropout = args.dropout
compile_layers(model, args.compile)
if args.fsdp:
    processes.shard(model, device_type)
shares = shares_of_lr(model, stages[0], args.old_lr, args.pretrained)
opts = optimizers(model, args.lr, args.weight_decay, shares)  # Muon, AdamW

# ---------------------------------------------------------------------------------------------
# 2. what a step takes: learning rate, stage, rows, losses


def phase_at(step):
    """0: pre-training on the two tasks alone. 1: fine-tuning, in which AIA acts."""
    return int(begin <= step and begin < args.steps)


def height_at(step):
    """
    Share of the peak learning rate. Each phase warms up for 50 steps; then the first stays at the
    peak, and the second goes down to zero in a line.
    """
    of_stage = stage_at(step, stages).get("lr", 1)
    if phase_at(step) == 0:
        return min(1, (step + 1) / 50) * of_stage
    warm_up = (step - begin + 1) / 50
    decay = (args.steps - step) / (args.steps - begin)
    return min(warm_up, decay) * of_stage


def enter(stage):
    """
    Freezes what a stage does not train: it gets no gradient, so no optimiser touches it. Returns
    what is called in a training step: the model, wrapped if several processes share it.
    """
    for name, p in model.named_parameters():
        may_train = not name.startswith(model.frozen)
        p.requires_grad_(may_train and (trains(stage, name) or args.old_lr > 0))
    if config.route == "supervised":  # UTAMoE: at first the label chooses
        model.route = stage.get("route", config.route)
    # a row to draw has no use for eyes, a row to understand none for the hand
    some_idle = bool(config.split) or model.hand is not None or model.eyes is not None
    return processes.share(model, args.fsdp, some_idle)


def read_rows(step):
    """
    The rows of a step: a list of (task, batch, n_valid), an entry for each task in each part of the
    step that this process takes. n_valid: how many rows of the task keep their prompt, in all
    parts; AIA's mean is over these.

    Which rows depends on the seed and the phase's step alone: so a resumed run goes on with the
    same ones, and a run from --init_from has those of a second phase.
    """
    # which rows, and from which of them the prompt is dropped
    phase = phase_at(step)
    moment = [args.seed, phase, step - phase * begin]
    rng = np.random.default_rng(moment)
    chosen = {}
    for task, n in stage_at(step, stages)["rows"].items():
        if n:
            numbers = np.sort(rng.integers(n_train[task], size=n))
            if task == "generate":
                numbers = np.repeat(numbers, args.noises)  # by flow: each with several noises
            n = len(numbers)
            # for classifier-free guidance one picture of ten is drawn without its prompt
            drop = (rng.random(n) < .1) & (task == "generate")
            noise = np.random.default_rng([*moment, 1]).integers(2**63, size=n)  # a seed a row
            chosen[task] = numbers, drop, noise
    if args.interleave:
        behind = {task: pick_others(rng, len(numbers), n_train)
                  for task, (numbers, *_) in chosen.items()}
    # part i takes every parts-th row from the i-th on
    batches = []
    parts = world * args.accumulate
    for part in range(rank, parts, world):
        for task, (numbers, drop, noise) in chosen.items():
            arrays = [array[numbers[part::parts]] for array in data.rows["train"][task]]
            if args.interleave:
                others = behind[task][part::parts]
                arrays[:2] = put_behind(*arrays[:2], others, data.rows["train"], pad)
            batch = model.to_batch(*arrays, drop=drop[part::parts], noise=noise[part::parts])
            batches.append((task, batch, (~drop).sum()))
    return batches


# ---------------------------------------------------------------------------------------------
# 3. now and then: evaluate, save

prompts = prompts_to_watch(data)


@torch.compiler.set_stance("force_eager")  # batches have other shapes here, each to be compiled
@torch.no_grad()
def evaluate(n):
    """
    Validation loss per task, the mean over the first n rows; the interaction curves (see
    aia.measure); and pictures of the prompts, if there are any to draw.
    """
    losses = {}
    for task in tasks:
        rows = data.rows["val"][task]
        m = min(n, len(rows[0]))
        total = 0.
        for i in range(0, m, 100):
            batch = model.to_batch(*[array[i:min(i + 100, m)] for array in rows])
            total += row_losses(model(batch), batch).sum().item()
        losses[task] = total / m
    pictures = None
    if args.task != "understand" and (rank == 0 or args.fsdp):
        pictures = tok.decode(draw(model, data.enc, prompts))
    return losses, aia.measure(model, data), pictures


def evaluate_and_save(step):
    """
    A checkpoint to go on from, the curves so far as numbers and as a picture, a sheet of drawings,
    and a line in the log. Returns the losses.
    """
    losses, curves, pictures = evaluate(1000 if step == args.steps else 250)
    refuse_nan(step, losses)
    distance = aia.distance(curves, reference)
    phase = phase_at(step)
    history.append({"step": step, "phase": phase, **curves, "val": losses})
    log.record(step=step, phase=phase, **named("val", losses), **named("distance", distance))
    log.flush()  # before the checkpoint that counts its lines
    save("ckpt.pt", opts=[opt.state_dict() for opt in opts], step=step,
         history=history[:-1],  # who resumes evaluates this step again
         minutes=minutes + meter.minutes())
    if rank == 0:
        run = {"history": history, "reference": reference}
        save_json(out / "interaction.json", run)
        draw_curves([(out.name, run)], out / "interaction.png")
        if pictures is not None:
            sheet(pictures, prompts, out / "samples.png")
    line = f"step {step}: validation loss {spoken(losses)}"
    if distance:
        line += f";  distance to the reference {spoken(distance)}"
    tqdm.write(line)
    return losses


def named(word, values):
    """{task: value} with names as in log.csv"""
    return {f"{word}_{task}": value for task, value in values.items()}


def spoken(values):
    return ", ".join(f"{task} {value:.3f}" for task, value in values.items())


def save(name, **more):
    """The weights, and more that belongs to them, in a file that is whole or not there."""
    state = processes.whole({"model": dict(model.state_dict()), **more})
    if rank == 0:
        save_state(out / name, state, keep="ckpt-before.pt" if name == "ckpt.pt" else None)


def refuse_nan(step, losses):
    """A run that diverged ends, and what it saved before stays."""
    if not np.isfinite(list(losses.values())).all():
        sys.exit(f"\nstep {step}: the loss is no number any more; the last checkpoint in {out} is "
                 "from before. Train anew with a lower --lr, or in --dtype float32")


# ---------------------------------------------------------------------------------------------
# 4. the loop

first_step = 0
history = []  # what was measured, an entry an evaluation
minutes = 0.  # of training, before this start
columns = ["step", "phase", "lr"]
for word in ("loss", "aia", "val", "distance", *(["load"] if config.routed() else [])):
    columns += [f"{word}_{task}" for task in TASKS]
if rank == 0:
    out.mkdir(parents=True, exist_ok=True)
    if not lock(out):  # before anything in it is read or written
        sys.exit(f"--out {out}: another process trains there; wait for it, or name another folder")
if args.resume:
    saved = load_checkpoint(out, device)
    first_step = saved["step"]
    history = saved["history"]
    minutes = saved["minutes"]
    processes.load_weights(model, saved["model"])
    for opt, state in zip(opts, saved["opts"]):
        processes.load_optimizer(opt, state)
elif rank == 0:
    save_json(out / "config.json", {"version": VERSION, "model": asdict(config),
                                    "train": vars(args), "data": data.meta})
    shutil.copyfile(data.folder / "tokenizer.pt", out / "tokenizer.pt")
log = Log(out / "log.csv", columns, resume_at=first_step if args.resume else None)

stage = None
longest = {task: data.rows["train"][task][0].shape[1] - 1 for task in tasks}  # tokens of a row
meter = Meter(price["flops"] / world, peak_flops(device, args.dtype))
reader = ThreadPoolExecutor(1)  # reads the next step's rows while one computes
coming = reader.submit(read_rows, first_step)
bar = tqdm(total=args.steps, initial=first_step, desc="train", smoothing=.05, disable=rank > 0)
for step in range(first_step, args.steps + 1):
    phase = phase_at(step)

    # another stage: other weights train (most runs have one stage only)
    if stage_at(step, stages) is not stage:
        stage = stage_at(step, stages)
        net = enter(stage)
        n_read = stage["rows"] | {"generate": stage["rows"]["generate"] * args.noises}
        tokens = sum(n_read[task] * longest[task] for task in tasks)  # of a step
        if args.interleave:
            tokens *= 1 + SHARE  # before some rows stands another
        if len(stages) > 1:
            training = sum(p.numel() for p in model.parameters() if p.requires_grad)
            rows = " and ".join(f"{n} rows to {task}" for task, n in stage["rows"].items())
            tqdm.write(f"step {step}: {training / 1e6:.2f}M weights train, {rows} a step")

    # now and then: evaluate, save, draw
    if step % args.eval_every == 0 or step in (begin, args.steps):
        with meter.aside("evaluating"):
            val = evaluate_and_save(step)
    if step == args.steps:
        break

    # the second phase begins with fresh moments, as a run from --init_from has no others
    if step == begin > 0:
        save("pretrained.pt")
        opts = optimizers(model, args.lr, args.weight_decay, shares)

    # the learning rate of this step: Muon's, and AdamW's
    height = height_at(step)
    for opt, peak in zip(opts, (args.lr, args.lr * .4)):
        for group in opt.param_groups:
            group["lr"] = height * peak * group.get("share", 1.)  # an older checkpoint has none

    # this step's rows; the next step's are asked for
    with meter.aside("waiting"):
        batches = coming.result()
    coming = reader.submit(read_rows, min(step + 1, args.steps - 1))

    # AIA acts in the second phase, on every N-th step, and in the last stage alone
    its_turn = (step - begin) % args.aia_every == 0
    align = args.aia > 0 and phase == 1 and its_turn and stage is stages[-1]
    weight = args.aia * args.aia_every  # on every N-th step, N times as strong
    if align and args.aia_fade:
        weight *= (args.steps - step) / (args.steps - begin)
    explicit = "maps" if align and args.each == "pair" else False

    # what drops out depends, as the rows do, on the seed and the phase's step alone
    if args.dropout:
        rng = np.random.default_rng([args.seed, phase, step - phase * begin, rank])
        torch.manual_seed(rng.integers(2**63))

    # forward and backward, one task after the other, as their rows differ in length. The gradients
    # add up, so that each task counts by its share of the step's rows (with --balance: equally)
    losses = {}  # for the log
    loads = {}
    pulls = {}  # with --balance: each task's gradients
    for i, (task, batch, n_valid) in enumerate(batches):
        processes.sync_gradients(net, now=(i == len(batches) - 1))
        with torch.autocast(device_type, torch.bfloat16, enabled=args.dtype == "bfloat16"):
            output = net(batch, watch=align, explicit=explicit)
        loss = row_losses(output, batch).mean() / args.accumulate
        losses[f"loss_{task}"] = losses.get(f"loss_{task}", 0) + loss.detach()
        if task == "generate":
            loss = loss * args.draw_weight  # after the log, where losses are as they are
        if align:  # the interaction of these rows, and how far it is off its target
            watched, watching = batch["watched"], batch["watching"]
            valid = watched.any(1) & watching.any(1)  # (B,) but for rows without their prompt
            # the mean over the step's rows is the sum over its parts of (a part's sum) / n_valid;
            # as gradients are averaged over processes, theirs are to be world times as large
            n_valid = max(n_valid, 1) / world
            if args.each:
                with torch.no_grad():
                    theirs = teachers[task](batch, watch=True, explicit=explicit).mass
                off = aia.teacher_loss(args.each, output.mass, theirs, watching, valid, n_valid)
            else:
                intensity = aia.interaction(output.mass, watching)  # (L, B, H)
                intensity = aia.aimed(intensity, valid, args.heads)  # (L, B), or (L heads, B)
                off = aia.aia_loss(intensity, valid, *targets[task], n_valid)
            losses[f"aia_{task}"] = losses.get(f"aia_{task}", 0) + off.detach()
            loss = loss + weight * off
        if config.routed():  # at the weight of Fedus et al. 2021
            loss = loss + .01 * output.router_loss / args.accumulate
            loads[f"load_{task}"] = output.load
        if loss.requires_grad:  # a stage may train nothing that this task uses
            share = stage["rows"][task] / args.batch_size
            (loss * share).backward()
            if args.balance:
                set_aside(model, pulls.setdefault(task, {}))

    put_back(list(pulls.values()))  # without --balance there are none

    # the step
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
    for opt in opts:
        opt.step()
        opt.zero_grad()

    # now and then a line in the log
    bar.update()
    meter.tokens += tokens
    if (step - begin * phase) % 20 == 0:
        mean = processes.mean(torch.stack(list(losses.values())))
        losses = dict(zip(losses, mean.tolist()))
        refuse_nan(step, losses)
        loads = {name: " ".join(f"{x:.2f}" for x in load.tolist()) for name, load in loads.items()}
        log.record(step=step, phase=phase, lr=height * args.lr, **losses, **loads)
        shown = {name: f"{value:.3f}" for name, value in losses.items()}
        bar.set_postfix(shown | meter.read())
bar.close()
log.close()
minutes += meter.minutes()

finished = True
save("ckpt.pt")  # the weights alone: nothing is left to resume
processes.leave()
if rank > 0:
    sys.exit()

# ---------------------------------------------------------------------------------------------
# 5. the exam

if args.fsdp:  # the other processes, which have their shards of it, are gone
    model, _ = load_model(out, device)
model.eval()
torch.set_float32_matmul_precision("highest")  # as python -m exam has it
scores = {}
if args.exam:
    with torch.compiler.set_stance("force_eager"):
        scores = examine(model, data, tok, args.task, args.exam, folder=out)
scores["loss"] = {task: {"run": val[task]} for task in tasks}
first = aia.distance(history[0], reference)
last = aia.distance(history[-1], reference)
if last:
    scores["distance"] = {task: {"run": last[task], "first": first[task]} for task in last}
save_json(out / "scores.json", scores)

left = ["log.csv", "scores.json", *sorted(file.name for file in out.glob("*.png"))]
print(f"\n{table(scores)}\n\n{minutes:.1f} minutes of training; in {out}: {', '.join(left)}\n"
      f"next: {next_command(out, args.task, data.meta, prompts)}")
