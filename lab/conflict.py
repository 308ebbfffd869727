"""
lab/conflict.py: do the two tasks pull the same weights in opposite directions?

    python -m lab.conflict                  # the latest run under out/
    python -m lab.conflict out/aia-nano

Gradients of few rows are mostly noise, and the cosine of two noises is 0 whatever the rows want. So
rows are drawn again and again. What the gradients of one task's draws share is no noise, and their
dot products give the cosine that the two tasks would have without any (Spearman's correction for
attenuation, 1904): 1, and the tasks are as good as one; 0, and each wants something else of these
weights and does not hinder the other; below 0, and they are in conflict.

Measured for each layer and matrix, where the second phase began and at the end.
Leaves conflict.json and conflict.png in the run's folder.
"""
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data import TASKS, load_dataset
from systems.losses import row_losses
from systems.runs import latest_run, load_model, read_config, refuse_other_data
from tools.curves import BAND, GRID, INK, Pen
from tools.device import find_device
from tools.faults import expect_faults
from tools.files import refuse_unwritable, save_json
from tools.flags import Parser, speak_plainly

BEGIN = "second phase"  # where it begins
DRAWS = 48              # how often rows of each task are drawn
ROWS = 32               # in a draw

# the matrices of a layer: what is shown, and how their names begin. Copies count as one
MATRICES = {"qkv": "attn.qkv.", "proj": "attn.proj.", "ffn": "ffn."}
HUES = {"qkv": (31, 98, 180), "proj": (34, 139, 84), "ffn": (217, 95, 2)}


def main():
    p = Parser(prog="python -m lab.conflict",
               description="The cosine of the two tasks' gradients, per layer and matrix, "
                           "without the noise in them.")
    p.add_argument("out", nargs="?", help="folder of the run (default: the latest under out/)")
    p.add_argument("--draws", type=int, default=DRAWS, help="how often rows of each task are drawn")
    p.add_argument("--rows", type=int, default=ROWS, help="rows in a draw")
    p.add_argument("--data", help="where the run's data set is now (default: where it was)")
    p.add_argument("--device", help="cpu | cuda | mps (default: what is there)")
    speak_plainly()
    expect_faults("take fewer --rows, or another --device")
    args = p.parse_args()
    if args.draws < 5 or args.rows < 1:  # of fewer, too many resamples have no pair
        sys.exit("--draws, --rows: wanted are at least 5 draws of 1 row")

    folder = Path(args.out or latest_run())
    measured = look_at(folder, args.draws, args.rows, args.data, args.device)["moments"]
    for moment, layers in measured.items():
        print_table(moment, layers)
    print(f"\npicture: {folder / 'conflict.png'}")


def look_at(folder, draws=DRAWS, rows=ROWS, place=None, device=None):
    """
    {"moments": {moment: what conflict() says}, "draws": ..., "rows": ...} of a run, which is saved
    in its folder, with a picture. place: where its data set is now. Exits with one line if it
    cannot be measured.
    """
    device = find_device(device)
    config = read_config(folder)
    if config["train"]["task"] != "both":
        sys.exit(f"{folder}: was trained with --task {config['train']['task']}; name a run of both "
                 "tasks")
    refuse_unwritable("run", folder)
    data = load_dataset(place or config["train"]["data"])
    refuse_other_data(folder, config, data, "run", rows=True)

    fewest = min(len(data.rows["train"][task][0]) for task in TASKS)
    if rows > fewest:
        sys.exit(f"--rows {rows}: the data set has {fewest} of a task; take fewer")

    measured = {}
    for moment, model in moments(folder, device).items():
        measured[moment] = conflict(model, data, draws, rows, moment)
    draw(measured, folder / "conflict.png", "over draws")
    looked = {"moments": measured, "draws": draws, "rows": rows}
    save_json(folder / "conflict.json", looked)
    return looked


def moments(folder, device):
    """{name: the network then}"""
    networks = {}
    for name, file in ((BEGIN, "pretrained.pt"), ("end", "ckpt.pt")):
        if (folder / file).exists():
            networks[name], _ = load_model(folder, device, file)
    return networks


# ---------------------------------------------------------------------------------------------
# measuring


def conflict(model, data, draws, rows, title):
    """
    A list over layers of {matrix: what cosine_of() says}, from some draws of as many training rows
    of each task.
    """
    rng = np.random.default_rng(0)
    gradients = []  # first the draws of generate, then those of understand
    bar = tqdm(total=len(TASKS) * draws, desc=title)
    for task in TASKS:
        for _ in range(draws):
            chosen = rng.choice(len(data.rows["train"][task][0]), size=rows, replace=False)
            gradients.append(gradient(model, data, task, np.sort(chosen)))
            bar.update()
    bar.close()
    layers = []
    for layer in range(model.config.n_layer):
        of_layer = {}
        for matrix in MATRICES:
            stacked = torch.stack([one[layer, matrix] for one in gradients])
            of_layer[matrix] = cosine_of((stacked @ stacked.T).double().cpu().numpy())
        layers.append(of_layer)
    return layers


def gradient(model, data, task, numbers):
    """{(layer, matrix): its gradient as a vector} of the mean loss of some rows, as in train.py."""
    batch = model.to_batch(*[array[numbers] for array in data.rows["train"][task]])
    model.zero_grad()
    row_losses(model(batch), batch).mean().backward()
    gradients = {}
    for layer, block in enumerate(model.blocks):
        for matrix, beginning in MATRICES.items():
            flat = []
            for name, p in block.named_parameters():
                if name.startswith(beginning):
                    own = torch.zeros_like(p) if p.grad is None else p.grad  # of an idle copy
                    flat.append(own.flatten())
            gradients[layer, matrix] = torch.cat(flat)
    return gradients


def cosine_of(dots, resamples=1000):
    """
    From the dot products of all draws' gradients (2n, 2n), generate's before understand's: the
    cosine without noise, the ends of its 95 % bootstrap interval over draws, and the ratio of the
    norms without noise, understand's to generate's. All are None where even the interval does not
    tell a task's gradient from noise.
    """
    n = len(dots) // 2
    everything = np.arange(n)
    cosine, ratio = without_noise(dots, everything, everything)
    rng = np.random.default_rng(0)
    again = [without_noise(dots, *rng.integers(n, size=(2, n)))[0] for _ in range(resamples)]
    if np.isnan([cosine, *again]).mean() > .025:
        return dict.fromkeys(("cosine", "low", "high", "ratio"))
    low, high = np.clip(np.nanquantile(again, (.025, .975)), -1, 1)
    return {"cosine": float(np.clip(cosine, -1, 1)), "low": float(low), "high": float(high),
            "ratio": float(ratio)}


def without_noise(dots, drawn, seen):
    """The cosine and the ratio of norms from some draws; NaN if all is noise."""
    n = len(dots) // 2
    within_drawn = mean_of_pairs(dots[:n, :n], drawn)
    within_seen = mean_of_pairs(dots[n:, n:], seen)
    if min(within_drawn, within_seen) <= 0:
        return np.nan, np.nan
    between = dots[:n, n:][np.ix_(drawn, seen)].mean()
    return between / np.sqrt(within_drawn * within_seen), np.sqrt(within_seen / within_drawn)


def mean_of_pairs(dots, chosen):
    """The mean dot product of two different draws, as one's with itself holds its noise."""
    differ = chosen[:, None] != chosen[None]
    return dots[np.ix_(chosen, chosen)][differ].mean()


# ---------------------------------------------------------------------------------------------
# showing


def print_table(moment, layers):
    print(f"\n{moment}: cosine without noise, its 95 % interval; norm, understand's / generate's")
    print("layer" + "".join(f"{matrix:>28}" for matrix in MATRICES))
    for layer, of_layer in enumerate(layers):
        cells = [written(numbers) for numbers in of_layer.values()]
        print(f"{layer:>5}" + "".join(f"{cell:>28}" for cell in cells))


def written(numbers):
    if numbers["cosine"] is None:
        return "all noise"
    return "{cosine:+.2f} ({low:+.2f}, {high:+.2f}); {ratio:.2f}".format(**numbers)


# pixels
LEFT, TOP, WIDTH, HEIGHT, APART = 60, 60, 230, 220, 40


def draw(measured, path, band):
    """
    A PNG with a panel a moment, or whatever the keys are: the cosines over layers, with bands of
    their intervals. band: what these are over.
    """
    pen = Pen(LEFT + len(measured) * (WIDTH + APART), TOP + HEIGHT + 80)
    pen.write(8, 8, "cosine of the two tasks' gradients, without noise", "la")
    for i, (moment, layers) in enumerate(measured.items()):
        left = LEFT + i * (WIDTH + APART)
        draw_axes(pen, left, len(layers), labelled=i == 0)
        pen.write(left + WIDTH / 2, TOP - 26, moment, "ma", pen.title_font)
        is_all_noise = True
        for matrix, hue in HUES.items():
            known = {layer: of_layer[matrix] for layer, of_layer in enumerate(layers)
                     if of_layer[matrix]["cosine"] is not None}
            draw_matrix(pen, left, len(layers), known, hue)
            is_all_noise = is_all_noise and not known
        if is_all_noise:
            pen.write(left + WIDTH / 2, y(.25), "all noise: take more --draws", "mm")
    draw_legend(pen, band)
    pen.save(path)


def x(layer, left, n_layer):
    return left + WIDTH * layer / max(n_layer - 1, 1)


def y(value):
    return TOP + HEIGHT * (1 - np.clip(value, -1, 1)) / 2


def draw_axes(pen, left, n_layer, labelled):
    """Lines of some cosines, named in the first panel alone, and the layers' numbers."""
    for value in (-1, -.5, 0, .5, 1):
        pen.line((left, y(value)), (left + WIDTH, y(value)), INK if value == 0 else GRID, 1)
        if labelled:
            pen.write(left - 8, y(value), f"{value:.1f}", "rm")
    for layer in range(0, n_layer, max(1, n_layer // 8)):
        pen.write(x(layer, left, n_layer), TOP + HEIGHT + 6, str(layer), "ma")
    pen.write(left + WIDTH / 2, TOP + HEIGHT + 24, "layer", "ma")


def draw_matrix(pen, left, n_layer, known, hue):
    """A line through {layer: what cosine_of() says}, with its band. What is all noise has none."""
    line = [(x(layer, left, n_layer), y(of["cosine"])) for layer, of in known.items()]
    low = [(x(layer, left, n_layer), y(of["low"])) for layer, of in known.items()]
    high = [(x(layer, left, n_layer), y(of["high"])) for layer, of in known.items()]
    if len(known) > 1:
        pen.fill([*low, *reversed(high)], (*hue, BAND))
    for a, b in pairwise(line):
        pen.line(a, b, hue, 3)


def draw_legend(pen, band):
    left = LEFT
    middle = TOP + HEIGHT + 62
    for matrix, hue in HUES.items():
        pen.line((left, middle), (left + 28, middle), hue, 3)
        pen.write(left + 36, middle, matrix, "lm")
        left += 90
    pen.write(left, middle, f"band: 95 %, {band}", "lm")


if __name__ == "__main__":
    main()
