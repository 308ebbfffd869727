"""
toy/tokenizer.py: training the image tokenizer of data.py, once; then it is frozen.

The toy world's, for each canvas, are in assets/. Your own pictures get one of their own
(toy/own.py). What a tokenizer loses no network can draw: ceiling() says how much that is.
Stands on data.py, toy/world.py and toy/judge.py.
"""
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from tqdm import tqdm

from data import ASSETS, ImageTokenizer, load_tokenizer
from toy.judge import judge, same_scene
from toy.world import COLORS, PATCHES, make_scenes, render_all


class ScenePictures:
    """
    The pictures of many scenes, each drawn only when it is asked for: 50,000 would take up to
    600 MB. pictures[numbers] -> (B, canvas, canvas, 3) uint8, as from an array. The same numbers
    are speckled alike, whatever the scenes.
    """

    def __init__(self, scenes, canvas, speckled):
        self.scenes = scenes
        self.canvas = canvas
        self.speckled = speckled

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, numbers):
        speckle = numbers.tolist() if self.speckled else None
        return render_all([self.scenes[i] for i in numbers], self.canvas, speckle)


def train_image_tokenizer(pictures, steps, patch, lr=2e-3, seed=0, twins=None):
    """
    An ImageTokenizer trained to rebuild pictures, in eval mode.

    pictures  an array (N, S, S, 3) uint8, or ScenePictures
    patch     pixels a side of what becomes one token
    twins     the same pictures in other colours: then the first digit comes to stand for colour
              alone and the others for outline, as a picture is to be rebuilt from its own first
              digits and the others of its twin
    lr        the highest learning rate; it warms up for 100 steps and falls in the last two thirds

    The loss is L1 plus L2, over 32 pictures a step.
    """
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tok = ImageTokenizer(patch).to(device)
    opt = torch.optim.AdamW(tok.parameters(), lr, betas=(.9, .98), weight_decay=1e-4, fused=True)
    bar = tqdm(range(steps), desc="image tokenizer")
    for step in bar:
        warm_up = (step + 1) / 100
        decay = (steps - step) / steps * 1.5
        opt.param_groups[0]["lr"] = lr * min(1, warm_up, decay)

        numbers = np.random.default_rng([seed, step]).integers(len(pictures), size=32)
        x = tok.pixels(pictures[numbers])                    # (32, 3, S, S)
        digits = tok.encode_digits(x)                        # (32, h, w, D)
        if twins is not None:
            outline = tok.encode_digits(tok.pixels(twins[numbers]))[..., 1:]
            digits = torch.cat((digits[..., :1], outline), -1)
        y = tok.decode_digits(digits)
        loss = (x - y).abs().mean() + (x - y).square().mean()

        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tok.parameters(), 1.)
        opt.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
    return tok.eval()


def save_tokenizer(path, tok, half=False):
    """
    Writes what data.load_tokenizer() reads; half: in half precision, for half the bytes. Atomic: a
    reader sees the old file or the new one, never a part.
    """
    weights = {}
    for name, weight in tok.state_dict().items():
        weight = weight.cpu()
        weights[name] = weight.half() if half else weight
    part = Path(f"{path}.part")
    try:
        torch.save({"config": tok.config, "weights": weights}, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)  # what did not fit


def tokenizer_path(canvas, is_speckled=False):
    """Where the toy world's image tokenizer for a canvas is; speckled pictures have another."""
    return ASSETS / f"tokenizer-{canvas}{'-speckled' if is_speckled else ''}.pt"


def steps_for(is_speckled):
    """How many steps it takes; of 3,000 on speckled ground one picture in nine comes back wrong."""
    return 5500 if is_speckled else 3000


def train_toy_tokenizer(path, canvas, steps=None, seed=0, is_speckled=False):
    """
    The toy world's image tokenizer for a canvas, into a file. Prints what it is worth. A file that
    is there gives way only to one from which the judge reads nearly all pictures.
    """
    steps = steps or steps_for(is_speckled)
    scenes = make_scenes(50_000, [seed, 2])
    pictures = ScenePictures(scenes, canvas, is_speckled)
    twins = ScenePictures(recolored(scenes, np.random.default_rng(seed)), canvas, is_speckled)
    tok = train_image_tokenizer(pictures, steps, canvas // PATCHES, seed=seed, twins=twins)
    new = path.with_name(f"new-{path.name}")
    save_tokenizer(new, tok, half=True)
    true, rebuilt, used = ceiling(load_tokenizer(new), canvas, is_speckled)  # as saved
    if path.exists() and rebuilt < .98:
        new.unlink()
        sys.exit(f"{path}: is kept, as the judge parses only {rebuilt:.2%} of the pictures that "
                 "the new one reconstructs; train it longer (--tokenizer_steps)")
    os.replace(new, path)
    print(f"{path}: the judge parses {true:.2%} of true and {rebuilt:.2%} of reconstructed "
          f"pictures exactly; {used:.0%} of the codes in use")


def recolored(scenes, rng):
    """The same scenes, each object in a colour drawn anew."""
    colors = list(COLORS)
    others = []
    for scene in scenes:
        drawn = rng.integers(len(colors), size=len(scene))
        others.append([o._replace(color=colors[i]) for o, i in zip(scene, drawn)])
    return others


def ceiling(tok, canvas, is_speckled=False, n=2000, seed=2**31 + 1):
    """
    What no drawing can beat, three shares: of true pictures and of reconstructed ones that the
    judge parses exactly, and of the codes that n pictures use.
    """
    scenes = make_scenes(n, seed)
    pictures = render_all(scenes, canvas, seed if is_speckled else None)
    codes = tok.encode(pictures)                             # (n, n_image)
    true = share_parsed(scenes, pictures)
    rebuilt = share_parsed(scenes, tok.decode(codes))
    used = len(codes.unique()) / tok.n_codes
    return true, rebuilt, used


def share_parsed(scenes, pictures):
    """The share of pictures from which the judge reads exactly the scene that is in them."""
    seen = judge(pictures)
    return float(np.mean([same_scene(scene, found) for scene, found in zip(scenes, seen)]))
