"""
lab/conflict.py: do the two tasks pull the same weights in opposite directions?

    python -m lab.conflict                  # the latest run under out/
    python -m lab.conflict out/aia-nano

Gradients of few rows are mostly noise, and the cosine of two of them is near 0 whatever the rows
are. So the same rows are split twice: by task, and at random with both tasks in either half. The
second cosine says how much of a gradient is no noise. If the first is as high, the tasks are as
good as one; if it is 0, each wants something else of these weights and does not hinder the other;
below 0 they are in conflict.

Measured for each layer and matrix, where the second phase began and at the end (at the very
beginning most gradients are zero, as layers begin as nothing).
Leaves conflict.json and conflict.png in the run's folder.
"""
import sys
from itertools import pairwise
from pathlib import Path
from statistics import mean

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from data import TASKS, load_dataset
from systems.runs import latest_run, load_model, refuse_other_data
from tools.curves import DASHED, GRID, INK, SOLID, Pen, between
from tools.device import find_device
from tools.faults import expect_faults
from tools.files import refuse_unwritable, save_json
from tools.flags import Parser, speak_plainly

# the matrices of a layer: what is shown, and how their names begin. Copies count as one
MATRICES = {"qkv": "attn.qkv.", "proj": "attn.proj.", "ffn": "ffn."}
HUES = {"qkv": (31, 98, 180), "proj": (34, 139, 84), "ffn": (217, 95, 2)}


def main():
    p = Parser(prog="python -m lab.conflict",
               description="The cosine of the two tasks' gradients, per layer and matrix, beside "
                           "that of two random halves of the same rows.")
    p.add_argument("out", nargs="?", help="folder of the run (default: the latest under out/)")
    p.add_argument("--draws", type=int, default=16, help="how often rows are drawn")
    p.add_argument("--rows", type=int, default=64, help="rows of each task in a draw")
    p.add_argument("--data", help="where the run's data set is now (default: where it was)")
    p.add_argument("--device", help="cpu | cuda | mps (default: what is there)")
    speak_plainly()
    expect_faults("take fewer --rows, or another --device")
    args = p.parse_args()
    if args.draws < 1 or args.rows < 2:
        sys.exit("--draws, --rows: wanted is at least 1 draw of 2 rows")

    folder = Path(args.out or latest_run())
    device = find_device(args.device)
    _, config = load_model(folder, device)
    if config["train"]["task"] != "both":
        sys.exit(f"{folder}: was trained with --task {config['train']['task']}; name a run of both "
                 "tasks")
    refuse_unwritable("run", folder)
    data = load_dataset(args.data or config["train"]["data"])
    refuse_other_data(folder, config, data, "run", rows=True)

    measured = {}
    for moment, model in moments(folder, device).items():
        measured[moment] = conflict(model, data, args.draws, args.rows, moment)
    for moment, layers in measured.items():
        print_table(moment, layers)
    save_json(folder / "conflict.json", measured)
    draw(measured, folder / "conflict.png")
    print(f"\npicture: {folder / 'conflict.png'}")


def moments(folder, device):
    """{name: the network then}"""
    networks = {}
    for name, file in (("second phase", "pretrained.pt"), ("end", "ckpt.pt")):
        if (folder / file).exists():
            networks[name], _ = load_model(folder, device, file)
    return networks


# ---------------------------------------------------------------------------------------------
# measuring


def conflict(model, data, draws, rows, title):
    """
    A list over layers of {matrix: {"task": cosine, "random": cosine, "ratio": of the norms,
    understand's to generate's}}, each the mean over draws of as many training rows of each task.
    """
    rng = np.random.default_rng(0)
    found = []  # a list over draws of {(layer, matrix): numbers}
    for _ in tqdm(range(draws), desc=title):
        halves = {}  # task: the gradients of its two halves
        for task in TASKS:
            chosen = rng.choice(len(data.rows["train"][task][0]), size=rows, replace=False)
            parts = np.array_split(chosen, 2)
            halves[task] = [gradient(model, data, task, np.sort(part)) for part in parts]
        found.append(compare(*halves["generate"], *halves["understand"]))
    layers = []
    for layer in range(model.config.n_layer):
        of_layer = {}
        for matrix in MATRICES:
            numbers = [of_draw[layer, matrix] for of_draw in found]
            of_layer[matrix] = {name: mean(one[name] for one in numbers) for name in numbers[0]}
        layers.append(of_layer)
    return layers


def gradient(model, data, task, numbers):
    """{(layer, matrix): its gradient as a vector} of the mean loss of some rows, as in train.py."""
    batch = model.to_batch(*[array[numbers] for array in data.rows["train"][task]])
    is_target = batch["loss"]                                       # (B, T)
    logits = model(batch).logits.float()
    nll = F.cross_entropy(logits, batch["targets"][is_target], reduction="none")
    share = is_target / is_target.sum(1, keepdim=True).clamp(min=1)  # of a row's mean
    model.zero_grad()
    ((nll * share[is_target]).sum() / len(numbers)).backward()
    gradients = {}
    for layer, block in enumerate(model.blocks):
        for matrix, beginning in MATRICES.items():
            flat = [p.grad.flatten() for name, p in block.named_parameters()
                    if name.startswith(beginning) and p.grad is not None]
            gradients[layer, matrix] = torch.cat(flat)
    return gradients


def compare(drawn_a, drawn_b, seen_a, seen_b):
    """The same four gradients, joined by task and at random."""
    numbers = {}
    for place in drawn_a:
        drawn = drawn_a[place] + drawn_b[place]
        seen = seen_a[place] + seen_b[place]
        one = drawn_a[place] + seen_a[place]
        other = drawn_b[place] + seen_b[place]
        numbers[place] = {"task": cosine(drawn, seen), "random": cosine(one, other),
                          "ratio": float(seen.norm() / drawn.norm())}
    return numbers


def cosine(a, b):
    return float(F.cosine_similarity(a, b, dim=0))


# ---------------------------------------------------------------------------------------------
# showing


def print_table(moment, layers):
    print(f"\n{moment}: cosine by task, at random; norm of understand's / generate's")
    print("layer" + "".join(f"{matrix:>23}" for matrix in MATRICES))
    for layer, of_layer in enumerate(layers):
        line = f"{layer:>5}"
        for numbers in of_layer.values():
            line += (f"{numbers['task']:>11.2f}, {numbers['random']:.2f}; "
                     f"{numbers['ratio']:.2f}")
        print(line)


# pixels
LEFT, TOP, WIDTH, HEIGHT, APART = 60, 60, 230, 220, 40


def draw(measured, path):
    """A PNG with a panel a moment: both cosines over layers."""
    values = [0., .2]
    for layers in measured.values():
        for of_layer in layers:
            for numbers in of_layer.values():
                values += [numbers["task"], numbers["random"]]
    low = min(np.floor(min(values) * 5) / 5, -.2)  # the axis goes by fifths
    high = np.ceil(max(values) * 5) / 5
    pen = Pen(LEFT + len(measured) * (WIDTH + APART), TOP + HEIGHT + 80)
    pen.write(8, 8, "cosine of two gradients", "la")

    def y(value):
        return TOP + HEIGHT * (high - value) / (high - low)

    for i, (moment, layers) in enumerate(measured.items()):
        left = LEFT + i * (WIDTH + APART)
        step = WIDTH / max(len(layers) - 1, 1)
        pen.write(left + WIDTH / 2, TOP - 26, moment, "ma", pen.title_font)
        for value in np.arange(low, high + .01, .2):
            is_zero = abs(value) < .01
            pen.line((left, y(value)), (left + WIDTH, y(value)), INK if is_zero else GRID, 1)
            if i == 0:
                pen.write(left - 8, y(value), f"{value + 0:.1f}", "rm")
        for layer in range(0, len(layers), max(1, len(layers) // 8)):
            pen.write(left + layer * step, TOP + HEIGHT + 6, str(layer), "ma")
        pen.write(left + WIDTH / 2, TOP + HEIGHT + 24, "layer", "ma")
        for matrix, hue in HUES.items():
            for name, width, stretches in (("random", 2, DASHED), ("task", 3, SOLID)):
                points = [(left + layer * step, y(of_layer[matrix][name]))
                          for layer, of_layer in enumerate(layers)]
                for a, b in pairwise(points):
                    for begin, end in stretches:
                        pen.line(between(a, b, begin), between(a, b, end), hue, width)
    x = LEFT
    for matrix, hue in HUES.items():
        pen.line((x, TOP + HEIGHT + 62), (x + 28, TOP + HEIGHT + 62), hue, 3)
        pen.write(x + 36, TOP + HEIGHT + 62, matrix, "lm")
        x += 90
    pen.write(x, TOP + HEIGHT + 62, "solid: by task, dashed: at random", "lm")
    pen.save(path)


if __name__ == "__main__":
    main()
