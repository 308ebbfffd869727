"""
lab/kill.py: does anything get lost? Kills training, building and scoring at random moments.

    python -m lab.kill              # 60 kills, some ten minutes on one core
    python -m lab.kill --kills 12

Commands run as they always do, in a temporary folder, and get SIGKILL, which nobody can catch,
after a random time. After each kill all that was saved must still be readable. A run that was
killed and resumed, again and again until it ended, must have the weights and the log of one that
was left alone, bit for bit (on one thread). A data set must be whole or not there, and the next
attempt must make it.
"""
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from tqdm import tqdm

from data import load_dataset
from exam.__main__ import read_scores
from tools.files import load_state
from tools.flags import Parser, speak_plainly

HERE = Path(__file__).parent.parent
TRAIN = ["--size", "nano", "--device", "cpu", "--steps", "80", "--batch_size", "4", "--eval_every",
         "8", "--aia", ".5", "--aia_every", "2", "--reference", "paper", "--exam", "0"]
# shares of the kills
PLAN = {"train": .6, "build": .2, "exam": .2}


def start(words):
    """A command of the README as a process of its own, on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *map(str, words)], cwd=HERE, env=environment,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            start_new_session=True)


def finish(words):
    """Runs a command to its end. Exits with one line if it fails."""
    process = start(words)
    _, errors = process.communicate()
    if process.returncode:
        last = errors.decode(errors="replace").strip().splitlines()[-1:]
        sys.exit(f"{' '.join(map(str, words[:2]))} failed: {''.join(last)}")


def kill_after(words, seconds):
    """Whether the command was killed; otherwise it came to its end before."""
    process = start(words)
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)  # this process alone: its own must end by themselves
        process.communicate()
        return True
    said = errors.decode(errors="replace").strip().splitlines()[-1:]
    if process.returncode and "this run is finished" not in "".join(said):
        sys.exit(f"{' '.join(map(str, words[:3]))} failed without being killed: {''.join(said)}")
    return False


# ---------------------------------------------------------------------------------------------
# three kinds of victims. Each yields once a kill, and exits with one line if something was lost


def kill_training(folder, rng):
    data = folder / "toy"
    finish(["data.py", "--n", 48, "--out", data])
    flags = ["train.py", "--data", data, *TRAIN]
    finish([*flags, "--out", folder / "whole"])
    for number in range(10_000):
        out = folder / f"run{number}"
        words = [*flags, "--out", out]
        while kill_after(words, rng.uniform(3, 14)):
            if (out / "ckpt.pt").exists() or (out / "ckpt-before.pt").exists():
                check_checkpoints(out)
                words = ["train.py", "--out", out, "--resume"]
            yield
        compare(out, folder / "whole")


def check_checkpoints(out):
    for file in out.glob("*.pt"):
        try:
            load_state(file)
        except ValueError as e:
            sys.exit(f"{file}: a kill left it damaged ({e})")


def compare(out, whole):
    ours = load_state(out / "ckpt.pt")["model"]
    theirs = load_state(whole / "ckpt.pt")["model"]
    if not all(torch.equal(ours[name], theirs[name]) for name in theirs):
        sys.exit(f"{out}: resumed, its weights differ from those of a run left alone")
    if (out / "log.csv").read_text() != (whole / "log.csv").read_text():
        sys.exit(f"{out}: resumed, its log differs from that of a run left alone")


def kill_building(folder, rng):
    finish(["data.py", "--n", 2000, "--out", folder / "one"])
    one = load_dataset(folder / "one").meta["files"]
    for number in range(10_000):
        out = folder / f"set{number}"
        while kill_after(["data.py", "--n", 2000, "--out", out], rng.uniform(1.5, 5)):
            yield
            if out.exists():  # it was killed on its way out
                break
        if load_dataset(out).meta["files"] != one or out.with_name(f"{out.name}.part").exists():
            sys.exit(f"{out}: made after kills, it differs from one made at once")


def kill_scoring(folder, rng):
    data = folder / "toy"
    finish(["data.py", "--n", 48, "--out", data])
    out = folder / "run"
    finish(["train.py", "--data", data, *TRAIN, "--steps", "4", "--out", out])
    while True:
        kill_after(["-m", "exam", out, "--device", "cpu"], rng.uniform(2, 20))
        if "loss" not in read_scores(out / "scores.json"):
            sys.exit(f"{out}: a kill lost the scores that were there")
        check_checkpoints(out)
        yield


KINDS = {"train": kill_training, "build": kill_building, "exam": kill_scoring}


def main():
    p = Parser(prog="python -m lab.kill",
               description="Kills training, building and scoring at random moments, and looks "
                           "whether anything was lost.")
    p.add_argument("--kills", type=int, default=60, help="how many processes are killed")
    p.add_argument("--seed", type=int, default=0, help="of the moments")
    speak_plainly()
    args = p.parse_args()
    if args.kills < 5:
        sys.exit(f"--kills {args.kills}: wanted is at least 5, so that each kind has its share")
    rng = random.Random(args.seed)
    begun = time.time()
    with tempfile.TemporaryDirectory() as folder:
        bar = tqdm(total=args.kills, unit=" kills")
        for kind, share in PLAN.items():
            place = Path(folder) / kind
            place.mkdir()
            victims = KINDS[kind](place, rng)
            bar.set_description(kind)
            for _ in range(round(args.kills * share)):
                next(victims)
                bar.update()
        bar.close()
    print(f"{args.kills} kills in {(time.time() - begun) / 60:.1f} minutes: nothing was lost, and "
          "what was resumed ended as what was left alone")


if __name__ == "__main__":
    main()
