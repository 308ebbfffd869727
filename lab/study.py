"""
lab/study.py: runs what a study needs, and writes what came out, as results/NAME.md and NAME.png.
The studies themselves stand in lab/studies.py; read that first.

    python -m lab.study --list
    python -m lab.study scores
    python -m lab.study scores --quick      # a tenth of the steps, for a lecture

A run's folder is out/study/ARM-SEED, with ARM-SEED.log and ARM-SEED.json beside it, which says how
it was made. What is there is not made again, so a study that was stopped goes on.
"""
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from lab.report import write_report
from lab.studies import ARMS, STUDIES
from tools.device import name_of_processor
from tools.faults import expect_faults
from tools.files import save_json
from tools.flags import Parser, speak_plainly
from toy.command import make_if_missing

HERE = Path(__file__).parent.parent
# what a run's numbers hang on, as git names files
CODE = ("*.py", "assets/*.pt", "assets/*.json", "requirements.txt",
        ":!lab", ":!tests", ":!test_all.py")


@dataclass(eq=False)  # so that a run can be a key
class Run:
    """An arm with a seed."""
    arm: str
    seed: int
    folder: Path
    words: list  # what train.py is started with
    steps: int
    start: Path | None  # the folder of the run that it starts from

    @property
    def about(self):
        """The file that says how it was made."""
        return Path(f"{self.folder}.json")

    def is_done(self):
        return (self.folder / "scores.json").exists()

    def steps_done(self):
        """How far it is, by its log."""
        if self.is_done():
            return self.steps
        file = self.folder / "log.csv"
        lines = file.read_text().splitlines() if file.exists() else []
        step = lines[-1].split(",")[0] if lines else ""
        return int(step) if step.isdigit() else 0


def main():
    p = Parser(prog="python -m lab.study",
               description="Runs what is missing of a study, and writes results/NAME.md.")
    p.add_argument("name", nargs="?", choices=STUDIES, help="which study")
    p.add_argument("--list", action="store_true", help="what each study asks, and how far it is")
    p.add_argument("--quick", action="store_true",
                   help="a tenth of the steps and a small exam; the report goes to out/study/quick")
    p.add_argument("--seeds", type=int, help="how many seeds (default: as many as the study says)")
    p.add_argument("--jobs", type=int, default=2, help="runs at a time, which share the cores")
    p.add_argument("--mix", action="store_true",
                   help="one table of runs of several revisions of the code")
    speak_plainly()
    expect_faults("take fewer --jobs")
    args = p.parse_args()
    if args.list or not args.name:
        return list_studies()
    for flag in ("seeds", "jobs"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            sys.exit(f"--{flag} {value}: wanted is a number of at least 1")

    study = STUDIES[args.name]
    runs = runs_of(study, args.seeds or study["seeds"], args.quick)
    refuse_others(runs, args.mix)
    train_missing(runs, args.jobs)
    folder = HERE / "results"
    if args.quick:
        folder = Path("out/study/quick")
    write_report(args.name, study, runs, folder)
    print(f"written: {folder / args.name}.md and .png")


def list_studies():
    for name, study in STUDIES.items():
        runs = runs_of(study, study["seeds"], quick=False)
        done = sum(run.is_done() for run in runs)
        steps = sum(run.steps for run in runs)
        print(f"{name:12}{study['question']}\n{'':12}{done} of {len(runs)} runs are there, "
              f"{steps:,} steps in all")


# ---------------------------------------------------------------------------------------------
# which runs


def runs_of(study, n_seeds, quick):
    """The study's runs, seed by seed; what a run starts from stands before it."""
    root = Path("out/study/quick" if quick else "out/study")
    runs = []
    for seed in range(n_seeds):
        for arm in with_starts(study["arms"]):
            runs.append(run_of(arm, seed, root, quick))
    return runs


def with_starts(arms):
    """Arms, and before each the one that it starts from."""
    wanted = []
    for arm in arms:
        for name in (ARMS[arm].get("from"), arm):
            if name and name not in wanted:
                wanted.append(name)
    return wanted


def run_of(arm, seed, root, quick):
    about = ARMS[arm]
    steps = about["steps"] // 10 if quick else about["steps"]
    folder = root / f"{arm}-{seed}"
    start = root / f"{about['from']}-{seed}" if "from" in about else None
    words = [*about["flags"].split(), "--size", "nano", "--steps", str(steps),
             "--seed", str(seed), "--out", str(folder)]
    if quick:
        words += ["--exam", "20"]
    if start:
        words += ["--init_from", str(start)]
    return Run(arm, seed, folder, words, steps, start)


def refuse_others(runs, mix):
    """Exits with one line if a run that is there was made with other flags or by other code."""
    now = revision()
    for run in runs:
        if not run.about.exists():
            continue
        about = json.loads(run.about.read_text())
        if about["words"] != run.words:
            sys.exit(f"{run.folder}: was made with other flags ({' '.join(about['words'])}); "
                     f"remove it and {run.about}, and it is made anew")
        if about["revision"] != now and not mix:
            sys.exit(f"{run.folder}: was made by revision {about['revision']}, this is {now}; "
                     f"remove it and {run.about}, and it is made anew, or take both: --mix")


def revision():
    """
    The last commit that changed what a run hangs on, with a + if it was changed since. No word on
    the code if this is no repository.
    """
    last = git("log", "-1", "--format=%h", "--", *CODE)
    if not last:
        return "unknown"
    return last + ("+" if git("status", "--porcelain", "--", *CODE) else "")


def git(*words):
    try:
        done = subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


# ---------------------------------------------------------------------------------------------
# running them


def train_missing(runs, jobs):
    """Runs what is not there yet, some at a time, and a run after what it starts from."""
    waiting = [run for run in runs if not run.is_done()]
    if not waiting:
        return
    make_if_missing("data/toy-nano", "nano")
    Path(runs[0].folder).parent.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=sum(run.steps for run in runs), desc="study", unit=" steps", smoothing=.05,
               initial=sum(run.steps_done() for run in runs))
    active = []  # (run, its process)
    try:
        while waiting or active:
            for run in list(waiting):
                ready = run.start is None or (run.start / "scores.json").exists()
                if ready and len(active) < jobs:
                    waiting.remove(run)
                    active.append((run, start(run, jobs)))
            time.sleep(1)
            active = [(run, process) for run, process in active if not has_ended(run, process)]
            bar.update(sum(run.steps_done() for run in runs) - bar.n)
    except BaseException as e:  # a run that failed, or Ctrl-C: the others save, and end
        for _, process in active:
            process.terminate()
        for _, process in active:
            process.wait()
        if isinstance(e, KeyboardInterrupt):
            sys.exit("\nstopped; the same command goes on")
        raise
    finally:
        bar.close()


def start(run, jobs):
    """A process that trains a run, or goes on with it."""
    words = run.words
    if (run.folder / "ckpt.pt").exists():
        words = ["--out", str(run.folder), "--resume"]
    save_json(run.about, {
        "revision": revision(), "words": run.words, "machine": name_of_processor(),
        "cores": os.cpu_count(), "jobs": jobs, "torch": torch.__version__,
        "date": time.strftime("%d %B %Y")})
    threads = max(1, os.cpu_count() // jobs)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with open(f"{run.folder}.log", "a") as log:
        return subprocess.Popen([sys.executable, HERE / "train.py", *words], env=environment,
                                stdout=log, stderr=log, start_new_session=True)


def has_ended(run, process):
    """Exits with one line if it failed."""
    if process.poll() is None:
        return False
    if process.returncode:
        log = Path(f"{run.folder}.log")
        last = log.read_text().strip().splitlines()[-1:]
        sys.exit(f"{run.folder}: {''.join(last)} (all that it said: {log})")
    return True


if __name__ == "__main__":
    main()
