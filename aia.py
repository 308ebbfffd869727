"""
aia.py: Attention Interaction Alignment (Zheng et al. 2025, arXiv 2511.22663).
Read it after model.py; sample.py comes next.

  1. the interaction   how strongly each layer attends across modalities, per task
  2. the reference     the same of single-task networks: what is aimed at
  3. the loss          pulls the first toward the second

    python aia.py OUT [OUT ...]      # the curves of runs as a table, and side by side as a picture
    python aia.py A0,A1,A2 B0,B1,B2  # the same of means over seeds
"""
import json
import sys
from itertools import combinations

import numpy as np
import torch

from data import ASSETS, TASKS
from systems.runs import load_model, refuse_other_data

# ---------------------------------------------------------------------------------------------
# 1. the interaction


def interaction(mass, watching):
    """
    Cross-modal interaction intensity, paper eq. 1: the attention that a token pays to the other
    modality, summed over the tokens that are watched there (see model.attend: mass (L, B, H, T)),
    mean over the tokens that are watching (B, T).

    Returns (L, B, H), a number from 0 to 1 for each layer, row and head:
      generate    how much the picture looks at its prompt
      understand  how much the answers look at the picture

    The paper's is the mean of these over heads and rows, a number a layer.
    """
    watching = watching[:, None]  # (B, 1, T)
    n_watching = watching.sum(-1).clamp(min=1)
    return (mass * watching).sum(-1) / n_watching


@torch.no_grad()
def measure(model, dataset, n=100):
    """
    The curves of a network: {task: {"mean": [L], "std": [L], "heads": [L][H]}}, mean and standard
    deviation over n validation rows (the paper's 100), and the means of each layer's heads, the
    largest first. A task without rows is left out.
    """
    curves = {}
    for task in TASKS:
        if task not in dataset.rows["val"]:
            continue
        arrays = [array[:n] for array in dataset.rows["val"][task]]
        batch = model.to_batch(*arrays)
        mass = model(batch, watch=True).mass
        intensity = interaction(mass, batch["watching"]).cpu().double()  # (L, n, H)
        heads = intensity.mean(1).sort(-1, descending=True).values  # (L, H)
        intensity = intensity.mean(-1)  # (L, n)
        curves[task] = {"mean": intensity.mean(1).tolist(),
                        "std": intensity.std(1, correction=0).tolist(),
                        "heads": heads.tolist()}
    return curves


def distance(now, reference):
    """Mean absolute difference, over layers, of measured curves and a reference's, per task."""
    distances = {}
    for task in TASKS:
        if task in now and task in reference:
            difference = np.subtract(now[task]["mean"], reference[task]["curve"])
            distances[task] = float(np.abs(difference).mean())
    return distances


def correlation(now):
    """
    Pearson's correlation of the two tasks' curves over layers; None without both tasks. The paper
    finds it negative (fig. 1).
    """
    if not all(task in now for task in TASKS):
        return None
    return float(np.corrcoef([now[task]["mean"] for task in TASKS])[0, 1])


# ---------------------------------------------------------------------------------------------
# 2. the reference
#
# {"name": ..., task: {"curve": [L], "target": [L], "threshold": [L]}, ...}, but that with heads
# target and threshold have a number for each head that is aimed at, layer by layer
#
# The paper does not aim at each layer's own value: it cuts the curve into ranges of neighbouring
# layers that share a target and a threshold.

# (from which of Emu3's 32 layers on, target, threshold) (paper, tables S4 and S5)
PAPER = {
    "generate": [(0, .4, .2), (10, .4, .1), (25, .2, .05)],
    "understand": [(0, .1, .05), (10, .15, .05), (20, .3, .05), (31, .2, .05)],
}


def reference(kind, n_layer, size=None, steps=None, dataset=None, device="cpu", control=None,
              heads=0):
    """
    The targets for a network of n_layer layers, changed as controlled() says; {} if there are none
    yet.

      paper    the published table: layer i of n has the row of Emu3's layer 32 i / n
      small    those of single-task networks of the same --size. They ship for the toy world and
               size nano; otherwise train.py makes them, in as many steps as its run
      a path   a run's folder, or two with a comma between: what is measured on them

    A fourth, "own", is known to train.py alone: the network's curves where AIA begins.

    heads: a target for each of so many heads of a layer, see aimed(); paper and small have none.
    """
    if kind == "paper":
        return {"name": kind} | paper_targets(n_layer)
    if kind == "small":
        curves = small_curves(dataset, size, steps)
    else:
        curves = measured_curves(kind.split(","), dataset, device, heads)
    return targets_of(kind, curves, n_layer, control, heads=heads) if curves else {}


def targets_of(name, curves, n_layer, control=None, n_ranges=3, heads=0):
    """
    Curves {task: [L]} as the targets for a network of n_layer layers, see in_ranges(). With heads
    curves are {task: [L][H]}, of which the so many largest of each layer are targets, one by one,
    each with the paper's least threshold, 0.05.

    control: as in controlled(), or what the paper also does without (table 3):

      layers    its ranges: each layer has its own target
      absolute  Huber's loss: in its place is the distance itself
    """
    targets = {"name": name}
    if control == "layers":
        n_ranges = n_layer
    for task, curve in controlled(curves, control).items():
        curve = at_depth(curve, n_layer)
        if heads:
            curve = np.array(curve)  # (n_layer, H)
            if curve.shape[1] < heads:
                sys.exit(f"--heads {heads}: the reference has {curve.shape[1]} a layer; take fewer")
            target = curve[:, :heads].flatten().tolist()
            threshold = [.05] * len(target)
            curve = curve.mean(1).tolist()
        else:
            target, threshold = in_ranges(curve, n_ranges)
        if control == "absolute":
            threshold = [1e-6] * len(target)  # beyond its threshold Huber's loss is the distance
        targets[task] = {"curve": curve, "target": target, "threshold": threshold}
    return targets


def controlled(curves, control):
    """
    Is it a curve's content that helps, or would any restraint do? {task: [L]}, or {task: [L][H]},
    as a control has it:

      swapped   each task has the other's curve
      permuted  each layer has the value of the one half the depth away
      constant  each layer has the curve's mean
    """
    if control == "swapped":
        return dict(zip(curves, reversed(curves.values())))
    if control == "permuted":
        return {task: np.roll(curve, len(curve) // 2, 0).tolist()
                for task, curve in curves.items()}
    if control == "constant":
        return {task: [np.mean(curve, 0).tolist()] * len(curve) for task, curve in curves.items()}
    return curves


def paper_targets(n_layer):
    targets = {}
    for task, rows in PAPER.items():
        target = []
        threshold = []
        for layer in range(n_layer):
            row = [row for row in rows if row[0] / 32 <= layer / n_layer][-1]
            target.append(row[1])
            threshold.append(row[2])
        targets[task] = {"curve": target, "target": target, "threshold": threshold}
    return targets


def small_curves(dataset, size, steps):
    """{task: [L]} of the small references: as shipped, else as train.py made them, else none."""
    is_other = dataset.meta.get("speckled") or dataset.meta.get("semantic")
    if dataset.meta["kind"] == "toy" and not is_other:
        shipped = json.loads((ASSETS / "reference.json").read_text())
        if size in shipped:
            return {task: shipped[size][task] for task in TASKS}
    made = small_file(dataset, size, steps)
    return json.loads(made.read_text()) if made.exists() else {}


def small_file(dataset, size, steps):
    """Where these are kept; what else a run's flags say makes no others."""
    return dataset.folder / f"reference-{size}-{steps}.json"


def measured_curves(folders, dataset, device, heads=0):
    """{task: [L]} of runs, each for the tasks that it was trained on; with heads {task: [L][H]}."""
    name = "heads" if heads else "mean"
    curves = {}
    for folder in folders:
        model, config = load_model(folder, device)
        refuse_other_data(folder, config, dataset, "--reference")
        for task, measured in measure(model, dataset).items():
            if config["train"]["task"] in (task, "both"):
                curves[task] = measured[name]
    return curves


def at_depth(curve, n_layer):
    """
    A curve, [L] or [L][H], as long as there are layers: networks are compared at the same
    relative depth.
    """
    here = np.linspace(0, 1, n_layer)
    there = np.linspace(0, 1, len(curve))

    def stretched(column):  # of one head, or of the mean
        return np.interp(here, there, column)

    return np.apply_along_axis(stretched, 0, np.array(curve)).tolist()


def in_ranges(curve, n=3):
    """
    Cuts a curve [L] into n ranges of neighbouring layers, where that leaves the least squared
    deviation from the ranges' means. Returns two numbers a layer: target [L], its range's mean, and
    threshold [L], the largest deviation from it in the range, at least 0.05 (the paper's least).
    """
    curve = np.asarray(curve, float)
    best = None
    for cuts in combinations(range(1, len(curve)), min(n, len(curve)) - 1):
        parts = np.split(curve, cuts)
        spread = sum(((part - part.mean()) ** 2).sum() for part in parts)
        if best is None or spread < best[0]:
            best = (spread, parts)
    target = []
    threshold = []
    for part in best[1]:
        deviation = np.abs(part - part.mean()).max()
        target += [float(part.mean())] * len(part)
        threshold += [max(.05, float(deviation))] * len(part)
    return target, threshold


# ---------------------------------------------------------------------------------------------
# 3. the loss


def aimed(intensity, valid, heads=0):
    """
    What is aimed at, of an interaction (L, B, H): its mean over heads, (L, B); or those of so many
    heads of each layer, one by one, (L heads, B). Which of a network's heads is like which of
    another's nobody knows, so they are in the order of how much they look, the first the most,
    over the valid (B,) rows.
    """
    if not heads:
        return intensity.mean(-1)
    looks = (intensity * valid[:, None]).sum(1)  # (L, H)
    most = looks.topk(heads).indices  # (L, heads)
    most = most[..., None].expand(-1, -1, len(valid))  # (L, heads, B)
    return intensity.mT.gather(1, most).flatten(0, 1)


def aia_loss(intensity, valid, target, threshold, n_valid=None):
    """
    Paper eq. 2, with Huber's loss divided by its threshold (smooth L1): far from the target it is
    about |intensity - target|, so that its weight means the same for every threshold.

    intensity (L, B), as from aimed(), with heads in the layers' place; valid (B,) bool, the rows
    that count; target and threshold (L, 1). Returns a scalar, the mean over layers and valid rows.
    n_valid: of the whole batch, if these are only some of its rows.
    """
    if n_valid is None:
        n_valid = max(int(valid.sum()), 1)
    off = (intensity - target).abs()
    near = off ** 2 / (2 * threshold)
    far = off - threshold / 2
    loss = torch.where(off <= threshold, near, far)  # (L, B)
    return (loss.mean(0) * valid).sum() / n_valid


def teacher_loss(each, ours, theirs, watching, valid, n_valid):
    """
    How far the network's attention is from another's that reads the same rows. That says more than
    the other's mean over rows, and is here to see how much must be said before anything is gained:
    a number for each layer and

      row    as in aia_loss()
      head   in each row; heads are taken to be alike by their place, as they are if both networks
             began with the same weights
      token  that is watching
      pair   of a watching token and a watched one

    ours, theirs: mass (L, B, H, T), or for pairs (L, B, H, T, S). watching (B, T); valid, n_valid,
    and what is returned are those of aia_loss().
    """
    if each == "token":
        return divergence(ours[..., None], theirs[..., None], watching, valid, n_valid)
    if each == "pair":
        return divergence(ours, theirs, watching, valid, n_valid)
    ours = interaction(ours, watching)  # (L, B, H)
    theirs = interaction(theirs, watching)
    if each == "row":
        ours, theirs = ours.mean(-1), theirs.mean(-1)  # (L, B)
    else:
        ours, theirs = ours.mT.flatten(0, 1), theirs.mT.flatten(0, 1)  # (L H, B)
    return aia_loss(ours, valid, theirs, .05, n_valid)  # the paper's least threshold


def divergence(ours, theirs, watching, valid, n_valid):
    """
    The divergence (Kullback and Leibler 1951) of attention, (L, B, H, T, S), from what is wanted.
    The mean over heads counts, as heads have no order. For each watching token (B, T) it is of the
    watched tokens one by one, and the rest as one.
    """
    ours = with_rest(ours)
    theirs = with_rest(theirs)
    off = (theirs * (theirs.log() - ours.log())).sum(-1)  # (L, B, T)
    off = (off * watching).sum(-1) / watching.sum(-1).clamp(min=1)  # (L, B)
    return (off.mean(0) * valid).sum() / n_valid


def with_rest(maps):
    """Maps (L, B, H, T, S) -> (L, B, T, S + 1), mean over heads; and what is not on the watched."""
    maps = maps.float().mean(2)
    rest = 1 - maps.sum(-1, keepdim=True)  # in bfloat16 it may be a little below 0
    return torch.cat((maps, rest.clamp(min=0)), -1) + 1e-4  # so that no logarithm is too large


if __name__ == "__main__":
    from lab.curves import main
    main()
