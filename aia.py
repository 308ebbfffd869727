"""
aia.py: Attention Interaction Alignment (Zheng et al., arXiv 2511.22663). Read it after model.py; sample.py comes next.

  1. the interaction   how strongly each layer attends across modalities, per task
  2. the reference     the same of single-task models, cut into stages of constant target and threshold
  3. the loss          pulls the first toward the second
  4. the picture       of the curves

    python aia.py OUT [OUT ...]      # the curves of runs as a table, and side by side as one picture
    python aia.py A0,A1,A2 B0,B1,B2  # the same of means over seeds
"""
import argparse, json, os, sys
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from data import ASSETS, TASKS, Help, to_batch
from model import latest_run, load_model

# ---------------------------------------------------------------------------------------------------------------------
# 1. the interaction


def interaction(mass, query):
    """
    Cross-modal interaction intensity, paper eq. 1: the attention weight on the other modality, summed over its keys (done in the model:
    mass (L, B, T), mean over heads), mean over the queries (B, T) of a sample. Returns (L, B), each between 0 and 1.
      generate    from the picture's places to the prompt's tokens
      understand  from the answers' places to the image tokens
    """
    return (mass * query).sum(-1) / query.sum(-1).clamp(min=1)


@torch.no_grad()
def measure(model, data, n=100):
    """{task: {"mean": [L], "std": [L]}} over n validation samples (the paper's 100); a task without rows is left out."""
    out, device = {}, next(model.parameters()).device
    for task in TASKS:
        if task in data.rows["val"]:
            b = to_batch(*(x[:n] for x in data.rows["val"][task]), device=device, c=model.config)
            _, mass = model(b["idx"], b["key"], b["at"], b["task"], b.get("pixels"))
            I = interaction(mass, b["query"]).cpu().double()  # (L, n)
            out[task] = {"mean": I.mean(1).tolist(), "std": I.std(1, correction=0).tolist()}
    return out


# ---------------------------------------------------------------------------------------------------------------------
# 2. the reference

# Paper, tables S4 and S5: from which of Emu3's 32 layers on, which (threshold, target)
PAPER = {"generate": [(0, .2, .4), (10, .1, .4), (25, .05, .2)],
         "understand": [(0, .05, .1), (10, .05, .15), (20, .05, .3), (31, .05, .2)]}


def stages(curve, n=3):
    """
    A curve (L values) cut into n ranges of neighbouring layers, at the cuts that leave the least squared spread ("stage-level intensity").
    Returns target and threshold per layer, [L] each: a range's mean, and its largest deviation from it, at least the paper's least, 0.05.
    """
    curve = np.asarray(curve, float)
    inner = range(1, len(curve))
    cuts = min(combinations(inner, min(n, len(curve)) - 1), key=lambda c: sum(((p - p.mean()) ** 2).sum() for p in np.split(curve, c)))
    T, d = [], []
    for part in np.split(curve, cuts):
        T += [float(part.mean())] * len(part)
        d += [max(.05, float(np.abs(part - part.mean()).max()))] * len(part)
    return T, d


def reference(kind, n_layer, size=None, steps=None, data=None, device="cpu", n_stages=3):
    """
    {"name": kind, task: {"curve": [L], "T": [L], "d": [L]}}, or None if `small` is not there yet for this data and shape.
      small    assets/reference.json for the toy world, else reference-SIZE-STEPS.json beside the data (train.py makes it)
      paper    the published table, laid over relative depth
      a path   a run's folder, or two with a comma between; each is measured on `data` for the tasks it was trained on
    """
    out = {"name": kind}
    if kind == "paper":
        for task, rows in PAPER.items():
            at = [max(r for r in rows if r[0] / 32 <= l / n_layer) for l in range(n_layer)]
            out[task] = {"curve": [r[2] for r in at], "T": [r[2] for r in at], "d": [r[1] for r in at]}
        return out
    if kind == "small":
        read = lambda file: json.loads(file.read_text()) if file.exists() else {}
        shipped = read(ASSETS / "reference.json") if data.meta["kind"] == "toy" else {}
        curves = shipped.get(size) or read(data.folder / f"reference-{size}-{steps}.json")
    else:
        curves = {}
        for folder in kind.split(","):
            model, config = load_model(folder, device)
            if config["data"]["merges"] != data.meta["merges"]:
                sys.exit(f"--reference {folder}: was trained on {config['train']['data']}, whose tokens are others; name a run on {data.folder}")
            got = measure(model, data)
            curves |= {t: got[t]["mean"] for t in got if config["train"]["task"] in (t, "both")}
    if not curves:
        return None
    for task, curve in curves.items():
        if task in TASKS:
            curve = np.interp(np.linspace(0, 1, n_layer), np.linspace(0, 1, len(curve)), curve).tolist()  # other depths: relative depth
            out[task] = dict(zip(("curve", "T", "d"), (curve, *stages(curve, n_stages))))
    return out


def distance(now, ref):
    """Mean absolute difference of measured curves and the reference's, over the layers: {task: number}."""
    return {t: float(np.abs(np.subtract(now[t]["mean"], ref[t]["curve"])).mean()) for t in TASKS if t in now and t in ref}


def correlation(now):
    """Pearson's correlation of the two tasks' curves across layers (paper Fig. 1: negative), or None without both tasks."""
    return float(np.corrcoef(*[now[t]["mean"] for t in TASKS])[0, 1]) if len(now.keys() & set(TASKS)) == 2 else None


# ---------------------------------------------------------------------------------------------------------------------
# 3. the loss


def aia_loss(I, valid, T, d, n=None):
    """
    Paper eq. 2 with Huber divided by its threshold (smooth L1), so that it is of the order of |I - T| and its weight of the order of its share
    of the loss. Per sample and layer, mean over layers and over the samples that have keys; these rows may be part of a batch that has n such in all.
    I (L, B); valid (B,); T, d (L, 1) targets and thresholds of the rows' task. Returns a scalar.
    """
    off = (I - T).abs()
    loss = torch.where(off <= d, off ** 2 / (2 * d), off - d / 2)
    return (loss.mean(0) * valid).sum() / (valid.sum().clamp(min=1) if n is None else max(n, 1))


# ---------------------------------------------------------------------------------------------------------------------
# 4. the picture

INK, GRID, HUE = (40, 40, 46), (226, 226, 230), {"generate": (217, 95, 2), "understand": (31, 98, 180)}


def draw_curves(runs, path):
    """
    runs: [(title, {"history": [...], "reference": ..., "notes": [lines]})] -> a PNG with one panel a run, its notes above. Per task: solid the
    curve now with a band of one standard deviation over samples (or seeds, see mean_run), thin where training (or its second phase) began, dashed
    the reference.
    """
    S = 2  # drawn twice as large, then reduced: Pillow's lines have no antialiasing
    notes = max(len(r.get("notes", ())) for _, r in runs)
    W, left, top, bottom = 400 if len(runs) < 5 else 250, 56, 46 + 16 * notes, 50
    H = 284 + top
    font, small = ImageFont.load_default(15 * S), ImageFont.load_default(12 * S)
    page = Image.new("RGB", (W * len(runs) * S, (H + (64 if len(runs) == 1 else 30)) * S), "white")
    draw = ImageDraw.Draw(page, "RGBA")
    begun = [next((h for h in r["history"] if h["phase"]), r["history"][0]) for _, r in runs]  # the measurement at which AIA began
    tops = [v for h in begun + [r["history"][-1] for _, r in runs] for t in TASKS if t in h for v in np.add(h[t]["mean"], h[t]["std"])]
    tops += [v for _, r in runs for t in TASKS for v in ((r.get("reference") or {}).get(t) or {"curve": []})["curve"]]
    high = np.ceil(max(tops + [.1]) * 10) / 10
    for p, (title, run) in enumerate(runs):
        L = len(next(run["history"][-1][t] for t in TASKS if t in run["history"][-1])["mean"])
        X = lambda l: (p * W + left + (W - left - 20) * l / max(L - 1, 1)) * S
        Y = lambda v: (H - bottom - (H - top - bottom) * min(v, high) / high) * S
        for v in np.arange(0, high + .01, .1 if high <= .6 else .2):
            draw.line((X(0), Y(v), X(L - 1), Y(v)), GRID, S)
            draw.text((X(0) - 10 * S, Y(v)), f"{v:.1f}", INK, small, "rm")
        for l in range(0, L, max(1, L // 8)):
            draw.text((X(l), Y(0) + 6 * S), str(l), INK, small, "ma")
        draw.text((X((L - 1) / 2), Y(0) + 23 * S), "layer", INK, small, "ma")
        draw.text((X((L - 1) / 2), 10 * S), title, INK, font, "ma")
        draw.text((X((L - 1) / 2), 30 * S), "\n".join(run.get("notes", ())), INK, small, "ma", spacing=8, align="center")  # 16 S a line
        if p == 0:
            draw.text((8 * S, (top - 24) * S), "interaction", INK, small, "la")

        def line(values, color, width, dash=False):
            points = [(X(l), Y(v)) for l, v in enumerate(values)]
            for a, b in zip(points, points[1:]):
                parts = 12 if dash else 1
                for k in range(0, parts, 2):
                    u, w = k / parts, (k + 1) / parts
                    draw.line([(a[0] + (b[0] - a[0]) * f, a[1] + (b[1] - a[1]) * f) for f in (u, w)], color, width * S)

        first, now, ref = begun[p], run["history"][-1], run.get("reference") or {}
        for t in TASKS:
            if t in now:
                m, s = np.array(now[t]["mean"]), np.array(now[t]["std"])
                draw.polygon([(X(l), Y(v)) for l, v in enumerate(m + s)] + [(X(l), Y(max(v, 0))) for l, v in reversed(list(enumerate(m - s)))],
                             HUE[t] + (36,))
                line(first[t]["mean"], HUE[t] + (110,), 1)
                line(m, HUE[t], 3)
            if t in ref:
                line(ref[t]["curve"], HUE[t], 2, dash=True)
    x, y = 20 * S, (H + 10) * S
    for label, t, style in (("generate: picture to text", "generate", 3), ("reference", None, 2),
                            ("understand: answer to picture", "understand", 3), ("where its second phase began", None, 1)):
        wide = int(draw.textlength(label, small)) + 56 * S
        if x + wide > page.width:
            x, y = 20 * S, y + 18 * S
        for k in range(0, 30, 10):
            draw.line((x + k * S, y, x + (k + (5 if style == 2 else 10)) * S, y), HUE[t] if t else INK, style * S)
        draw.text((x + 36 * S, y), label, INK, small, "lm")
        x += wide
    page.resize((page.width // S, page.height // S), Image.LANCZOS).save(path)


def load_run(folder):
    """The curves of a run's folder, as draw_curves wants them, with its config and its scores if any. Exits with one line if there are none."""
    file = Path(folder) / "interaction.json"
    try:
        run = json.loads(file.read_text())
        run["history"][-1]["step"]  # raises here what is no history
        config, scores = (json.loads(f.read_text()) if (f := Path(folder) / name).exists() else {} for name in ("config.json", "scores.json"))
        return run | {"model": config.get("model", {}), "scores": {k: v["run"] for k, v in scores.get("summary", {}).items()}}
    except (FileNotFoundError, NotADirectoryError):
        sys.exit(f"{file}: no such file; the folder of a run that train.py made is wanted")
    except (ValueError, KeyError, IndexError, TypeError) as e:
        sys.exit(f"{file}: not the curves of a run ({type(e).__name__}: {e}); train the run again")


def mean_run(folders):
    """Runs that differ by their seed as one: the mean of their curves, with the standard deviation over seeds, not over samples; notes on them."""
    runs = [load_run(f) for f in folders]
    if len({(len(r["history"]), r["history"][-1]["step"]) for r in runs}) > 1:
        sys.exit(f"{','.join(folders)}: runs of different length have no mean; name them apart")
    m, history = runs[0]["model"], runs[0]["history"]
    if len(runs) > 1:
        curves = lambda hs, t: np.array([h[t]["mean"] for h in hs])
        history = [hs[0] | {t: {"mean": curves(hs, t).mean(0).tolist(), "std": curves(hs, t).std(0, ddof=1).tolist()} for t in TASKS if t in hs[0]}
                   for hs in zip(*(r["history"] for r in runs))]
    notes = [f"{'+'.join(m['split'])} by {m['route']}" if m.get("split") else "nothing split"] if m else []
    notes += [f"sees {'by an ' * (m['see'] == 'encoder')}{m['see']}{', own head' * m['own_head']}"] if "see" in m else []
    for name in ("toy-GenEval", "answered"):
        if all(name in r["scores"] for r in runs):
            v = [r["scores"][name] for r in runs]
            notes.append(f"{name} {np.mean(v):.3f}" + (f" ± {np.std(v, ddof=1):.3f}" if len(v) > 1 else ""))
    return {"history": history, "reference": runs[0].get("reference"), "notes": notes}


if __name__ == "__main__":
    p = argparse.ArgumentParser(description="The interaction curves of runs: a table and one picture.", formatter_class=Help)
    p.add_argument("out", nargs="*", help="folders of runs; those joined by commas are seeds of one, shown as their mean (default: the latest)")
    p.add_argument("--png", help="where the picture goes (default: interaction.png in the run, or out/interaction.png for several)")
    args = p.parse_args()
    args.out = [x.split(",") for x in args.out or [latest_run()]]
    title = lambda names: names[0] if len(names) == 1 else f"{os.path.commonprefix(names).rstrip('-_')}, {len(names)} seeds"
    runs = [(title([Path(x).name for x in f]), mean_run(f)) for f in args.out]
    for name, run in runs:
        now, ref = run["history"][-1], run.get("reference") or {}
        print(f"\n{name}, step {now['step']}, reference: {ref.get('name', 'none')}")
        print(f"{'layer':>6}" + "".join(f"{t:>18}{'reference':>11}" for t in TASKS))
        for l in range(max(len(now[t]["mean"]) for t in TASKS if t in now)):
            cells = [f"{now[t]['mean'][l]:>9.3f} ± {now[t]['std'][l]:.3f} " if t in now else " " * 18 for t in TASKS]
            print(f"{l:>6}" + "".join(f"{c:>18}" + (f"{ref[t]['curve'][l]:>11.3f}" if t in ref else " " * 11) for c, t in zip(cells, TASKS)))
        for h in (run["history"][0], now):
            c, d = correlation(h), distance(h, ref)
            print(f"step {h['step']:>4}: correlation of the two curves {'n/a' if c is None else f'{c:+.2f}'}; distance to the reference "
                  + (", ".join(f"{t} {v:.3f}" for t, v in d.items()) or "n/a"))
    png = args.png or (Path(args.out[0][0]) / "interaction.png" if args.out == [args.out[0][:1]] else "out/interaction.png")
    try:
        Path(png).parent.mkdir(parents=True, exist_ok=True)
        draw_curves(runs, png)
    except (OSError, ValueError) as e:
        sys.exit(f"--png {png}: cannot be written ({e})")
    print(f"\npicture: {png}")
