"""
tests/common.py: what the tests share: commands of the README in this process, short runs, small
networks and rows for them.
"""
import json
import runpy
import signal
import socket
import sys
from pathlib import Path

import numpy as np
import torch

from data import TARGET, WATCHED, WATCHING
from model import Config
from systems import build
from systems.dial import example, with_flags

HERE = Path(__file__).parent.parent


def run(script, *args):
    """A command of the README, in this process. Returns what it exits with; None: all is well."""
    try:
        names_of(script, *args)
    except SystemExit as e:
        return e.code


def names_of(script, *args):
    """The same, but returns all that the script has named, {name: value}, and raises SystemExit."""
    words = [str(HERE / script), *map(str, args)]
    words_before = sys.argv
    on_interrupt = signal.getsignal(signal.SIGINT)
    sys.argv = words
    try:
        return runpy.run_path(words[0], run_name="__main__")
    finally:
        sys.argv = words_before
        signal.signal(signal.SIGINT, on_interrupt)
        torch.set_float32_matmul_precision("highest")


def train(toy, out, *args):
    """A short run. Flags given twice count as given last."""
    return run("train.py", *short_run(toy, out), *args)


def short_run(toy, out):
    """Flags of train.py"""
    return ("--data", toy.folder, "--out", out, "--size", "nano", "--device", "cpu", "--steps", 20,
            "--batch_size", 4, "--eval_every", 10, "--aia_start", .5, "--reference", "paper",
            "--exam", 0)


def as_if_trained_for(task, run, out):
    """A folder in which a run says that it was trained for one task."""
    config = json.loads((run / "config.json").read_text())
    config["train"]["task"] = task
    out.mkdir()
    (out / "config.json").write_text(json.dumps(config))
    for name in ("ckpt.pt", "tokenizer.pt"):
        (out / name).symlink_to(run / name)
    return out


def free_ports(n):
    """For processes that meet on this machine."""
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def weights(out, file="ckpt.pt"):
    return torch.load(out / file, weights_only=True)["model"]


def same(a, b):
    """Whether two states are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------------------------------------
# small networks: 64 words (of which the last 7 are special), 56 image tokens, 9 to a picture


def small_config(arch="emu3", **flags):
    config = Config(n_layer=3, n_head=2, n_embd=32, block_size=48, vocab_size=128, first_image=64,
                    n_image=9, levels=(8, 7), patch=4, queries=4)
    return with_flags(config, arch, **flags)


def small_model(arch="emu3", **flags):
    """Random weights everywhere: fresh ones are silent, and silence would satisfy many laws."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = build(small_config(arch, **flags))
    for name, p in model.named_parameters():
        if p.dim() == 2:
            torch.nn.init.normal_(p, std=.15)
        elif "qk_norm" in name:
            p.data.uniform_(.5, 1.5, generator=generator)
    return model


def text_batch(model, ids):
    """Rows of ids (B, T), in which every place has a loss but the last."""
    roles = np.full(ids.shape, TARGET)
    return model.to_batch(np.asarray(ids), roles)


def task_batch(model, task, B=2):
    """example(), and which of its tokens are watched and watching: the two modalities."""
    batch = example(model, task, B)
    is_image = batch["ids"] >= model.config.first_image
    batch["watched"] = ~is_image if task == "generate" else is_image
    batch["watching"] = ~batch["watched"]
    return batch


def every_place(model, batch, cache=None):
    """Logits (B, T, V), as if everything were to be predicted; what is impossible is 0."""
    return read(model, batch, cache).logits


def read(model, batch, cache=None):
    """A network's Output for every place of a batch, logits as (B, T, V)."""
    B, T = batch["ids"].shape
    n_drawn = int(batch["next_generated"].sum())
    batch = batch | {"loss": torch.ones(B, T, dtype=torch.bool),
                     "loss_sizes": [B * T - n_drawn, n_drawn]}
    with torch.no_grad():
        output = model(batch, watch=True, cache=cache)
    logits = output.logits.view(B, T, -1).nan_to_num(neginf=0)
    return output._replace(logits=logits)


def interleaved_rows(model, B=2, seed=0):
    """
    Rows of text, picture, text, picture, text. The first picture is to be understood and the second
    one drawn, in the first half of the rows; in the others it is the other way round. The words
    after each picture are predicted too.

    Returns ids and roles (B, T), and pixels (B, S, S, 3): one picture to understand a row.
    """
    c = model.config
    rng = np.random.default_rng(seed)
    side = round(c.n_image ** .5) * c.patch
    ids = []
    roles = []
    for b in range(B):
        row_ids = []
        row_roles = []
        for picture in range(2):
            drawn = (picture == 1) == (b < B // 2)
            prompt = rng.integers(0, 50, 4)
            image = rng.integers(c.first_image, c.first_image + c.n_codes, c.n_image)
            said = rng.integers(0, 50, 3)
            row_ids += [*prompt, *image, *said]
            row_roles += [WATCHED if drawn else 0] * 4
            row_roles += [TARGET if drawn else WATCHED] * c.n_image
            row_roles += [TARGET] * 3
        for i in range(len(row_roles) - 1):
            if row_roles[i + 1] & TARGET:
                row_roles[i] |= WATCHING
        ids.append(row_ids)
        roles.append(row_roles)
    pixels = rng.integers(0, 256, (B, side, side, 3), dtype=np.uint8)
    return np.array(ids), np.array(roles, np.uint8), pixels
