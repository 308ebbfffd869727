"""
lab/study.py: runs what a study needs, and writes what came out, as results/NAME.md and NAME.png.
The studies themselves stand in lab/of_aia.py and lab/of_systems.py; read lab/studies.py first.

    python -m lab.study --list
    python -m lab.study scores
    python -m lab.study scores --quick      # a tenth of the steps, for a lecture

A run's folder is out/study/ARM-SEED, with ARM-SEED.log beside it and ARM-SEED.json, its record:
how it was made. What is there is not made again, so a study that was stopped goes on.
"""
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from data import checksum
from lab.claims import write_claims
from lab.conflict import DRAWS, ROWS, look_at
from lab.measures import is_of_conflict, read, read_found
from lab.regimes import write_regimes
from lab.report import write_report
from lab.studies import ARMS, STUDIES
from systems.runs import was_scored
from tools.device import find_device, name_of, name_of_processor
from tools.faults import expect_faults
from tools.files import lock, save_json
from tools.flags import Parser, speak_plainly
from tools.processes import die_with_parent
from toy.command import make_if_missing

HERE = Path(__file__).parent.parent
# what a run's numbers hang on, as git names files; of lab/ it is assess.py alone
CODE = ("*.py", "assets/*.pt", "assets/*.json", "requirements.txt",
        ":(exclude,glob)lab/[!a]*", ":!lab/__init__.py", ":!tests", ":!test_all.py")
DATA = "data/toy-nano"


@dataclass(eq=False)  # so that a run can be a key
class Run:
    """An arm with a seed."""
    arm: str
    seed: int
    folder: Path
    words: list            # what train.py is started with
    steps: int
    sources: list = field(default_factory=list)  # the Runs that it starts from, or aims at
    data: str = DATA       # folder of its data set
    marks: str = None      # flags of lab.assess, if its source draws and marks join its data

    @property
    def record(self):
        return Path(f"{self.folder}.json")

    @property
    def log(self):
        return Path(f"{self.folder}.log")

    def is_done(self):
        return was_scored(self.folder)

    def is_begun(self):
        """Whether it left something to go on from."""
        return any((self.folder / name).exists() for name in ("ckpt.pt", "ckpt-before.pt"))

    def lacks_marks(self):
        """Whether its source is to draw first: it did not, or was made anew since."""
        if self.marks is None or self.is_begun():
            return False
        made = Path(self.data) / "meta.json"
        scored = self.sources[0].folder / "scores.json"
        return not made.exists() or made.stat().st_mtime < scored.stat().st_mtime

    def said(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def steps_done(self):
        """How far it is, by the bar in its log."""
        if self.is_done():
            return self.steps
        shown = re.findall(rf"(\d+)/{self.steps} \[", self.said())
        return int(shown[-1]) if shown else 0

    def minutes(self):
        """How long its training took, by the last lines of its log."""
        shown = re.findall(r"([\d.]+) minutes of training", self.said())
        return float(shown[-1]) if shown else 0.


def main():
    p = Parser(prog="python -m lab.study",
               description="Runs what is missing of a study, and writes results/NAME.md.")
    p.add_argument("name", nargs="?", choices=STUDIES, help="which study")
    p.add_argument("--list", action="store_true", help="what each study asks, and how far it is")
    p.add_argument("--quick", action="store_true",
                   help="a tenth of the steps, of half as many rows, three seeds and a small exam, "
                        "for a lecture; the page goes to out/study/quick")
    p.add_argument("--seeds", type=int,
                   help="how many seeds (default: as the study says; with another number the page "
                        "goes to out/study, as it is not what was planned)")
    p.add_argument("--jobs", type=int, default=2, help="runs at a time, which share the cores")
    p.add_argument("--mix", action="store_true",
                   help="take runs of several revisions of the code into one table")
    speak_plainly()
    expect_faults("take fewer --jobs")
    args = p.parse_args()
    if args.list or not args.name:
        return list_studies()
    for flag in ("seeds", "jobs"):
        value = getattr(args, flag)
        if value is not None and not 1 <= value <= 1000:
            sys.exit(f"--{flag} {value}: wanted is a number from 1 to 1,000")

    study = STUDIES[args.name]
    n_seeds = args.seeds or study["seeds"]
    if args.quick and not args.seeds:
        n_seeds = min(n_seeds, 3)
    root = Path("out/study/quick" if args.quick else "out/study")
    root.mkdir(parents=True, exist_ok=True)
    if not lock(root):
        sys.exit(f"{root}: another study runs there; wait for it")
    runs = runs_of(study, n_seeds, root, args.quick)
    refuse_others(runs, args.mix)
    train_missing(runs, args.jobs)
    if is_of_conflict(study):
        for run in runs:
            if run.arm in study["arms"] and not was_looked_at(run):
                print(f"conflict of the two tasks' gradients in {run.folder}:")
                look_at(run.folder)
    as_planned = n_seeds == study["seeds"] and not args.quick
    folder = HERE / "results" if as_planned else root
    command = " ".join(["python -m lab.study", *sys.argv[1:]])
    write_report(args.name, study, runs, folder, command)
    if as_planned:
        write_claims(folder)
        write_regimes(folder)
    print(f"written: {folder / args.name}.md and .png")


def list_studies():
    for name, study in STUDIES.items():
        runs = runs_of(study, study["seeds"], Path("out/study"))
        done = [run for run in runs if run.is_done()]
        steps = sum(run.steps for run in runs)
        spent = f" ({sum(run.minutes() for run in done):.0f} minutes)" if done else ""
        print(f"{name:12}{study['question']}\n{'':12}{len(done)} of {len(runs)} runs are there"
              f"{spent}, {steps:,} steps in all; found: {found_by(name)}")


def found_by(name):
    """How often a study's page has which verdict."""
    file = HERE / "results" / f"{name}.json"
    if not file.exists():
        return "nothing yet"
    verdicts = Counter(one["verdict"] for one in read_found(file, name))
    return ", ".join(f"{n} {verdict}" for verdict, n in verdicts.items())


# ---------------------------------------------------------------------------------------------
# which runs


def runs_of(study, n_seeds, root, quick=False):
    """The study's runs, seed by seed; what a run needs stands before it."""
    runs = {}  # {(arm, seed): its run}
    for seed in range(n_seeds):
        for arm in study["arms"]:
            add_run(runs, arm, seed, root, quick)
    return list(runs.values())


def add_run(runs, arm, seed, root, quick):
    """Adds a run to runs, after what it needs, if they are not there. Returns it."""
    if (arm, seed) in runs:
        return runs[arm, seed]
    about = ARMS[arm]
    steps = about["steps"] // 10 if quick else about["steps"]
    folder = root / f"{arm}-{seed}"
    words = [*about["flags"].split(), "--size", "nano", "--steps", str(steps),
             "--seed", str(seed), "--out", str(folder)]
    data = about.get("data")
    if "marks" in about:
        data = f"{folder}.data"
    if data:
        words += ["--data", data]
    sources = []
    another = seed - 1 if seed else 1
    for key, flag, of_seed in (("from", "--init_from", seed), ("aim", "--reference", seed),
                               ("stranger", "--reference", another)):
        if key not in about:
            continue
        others = [add_run(runs, name, of_seed, root, quick) for name in about[key].split(",")]
        words += [flag, ",".join(str(other.folder) for other in others)]
        sources += others
    if quick:
        rows = words[words.index("--batch_size") + 1] if "--batch_size" in words else 32
        words += ["--batch_size", str(int(rows) // 2)]
        words += ["--exam", "10", "--eval_every", str(steps)]  # but where a phase begins
    marks = about.get("marks")
    if marks is not None and quick:
        marks += " --n 400"
    runs[arm, seed] = Run(arm, seed, folder, words, steps, sources, data or DATA, marks)
    return runs[arm, seed]


def refuse_others(runs, mix):
    """Exits with one line if a run that is there is not what this study would make."""
    missing = [run for run in runs if not run.is_done()]
    revisions = {revision(): "this code"} if missing else {}
    for run in runs:
        if not run.is_done() and not run.is_begun():
            continue
        anew = f"remove it, and it is made anew: rm -r {run.folder} {run.folder}.*"
        if not run.record.exists():
            sys.exit(f"{run.folder}: nothing says how it was made ({run.record} is missing); "
                     f"{anew}")
        record = read(run.record)
        if record.get("words") != run.words:
            sys.exit(f"{run.folder}: was made with other flags; {anew}")
        if Path(run.data).exists() and record.get("data") != checksum_of_data(run.data):
            sys.exit(f"{run.folder}: was made with another data set than {run.data}; {anew}")
        for source in run.sources:
            begun = read(source.record).get("begun") if source.record.exists() else None
            if record.get("sources", {}).get(source.arm) != begun:
                sys.exit(f"{run.folder}: was made before {source.folder}, which it needs, was made "
                         f"anew; {anew}")
        revisions[record.get("revision")] = str(run.folder)
    if len(revisions) > 1 and not mix:
        who = ", ".join(f"{name} ({of_what})" for name, of_what in revisions.items())
        sys.exit(f"runs of several revisions: {who}; remove the older, and they are made anew, or "
                 "take all into one table: --mix")


def revision():
    """
    The last commit that changed what a run hangs on, with some letters more if it was changed
    since. "unknown" outside a repository.
    """
    last = git("log", "-1", "--format=%h", "--", *CODE)
    changed = git("diff", "HEAD", "--", *CODE)
    if changed:
        last += "+" + hashlib.sha256(changed.encode()).hexdigest()[:4]
    return last or "unknown"


def git(*words):
    try:
        done = subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True,
                              errors="replace")
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


# ---------------------------------------------------------------------------------------------
# running them


def was_looked_at(run):
    """Whether the conflict of its gradients was measured, with as many rows as all others'."""
    file = run.folder / "conflict.json"
    if not file.exists():
        return False
    looked = read(file)
    return (looked.get("draws"), looked.get("rows")) == (DRAWS, ROWS)


def train_missing(runs, jobs):
    """
    Runs what is not there yet, some at a time, and a run after what it needs. If one fails
    the others go on; then it exits with one line.
    """
    waiting = [run for run in runs if not run.is_done()]
    if not waiting:
        return
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    for folder in {run.data for run in waiting if run.marks is None}:
        make_if_missing(folder, "nano")
    code = revision()
    active = {}  # run: its process
    failed = []
    bar = tqdm(total=sum(run.steps for run in runs), desc="study", unit=" steps", smoothing=.05,
               initial=sum(run.steps_done() for run in runs))
    while active or any(can_start(run) for run in waiting):
        for run in [run for run in waiting if can_start(run)]:
            if len(active) < jobs:
                waiting.remove(run)
                active[run] = launch(run, jobs, code)
        time.sleep(2)
        for run, process in list(active.items()):
            if process.poll() is not None:
                del active[run]
                if run.is_done() and run.marks is not None:
                    shutil.rmtree(run.data)  # as large as the data set that they joined
                elif process.returncode == 0 and run.marks is not None:
                    waiting.append(run)  # its source was marked, and now it trains
                elif not run.is_done():
                    failed.append(f"{run.folder}: {why(run, process)}")
        bar.update(sum(run.steps_done() for run in runs) - bar.n)
    bar.close()
    if failed:
        sys.exit(f"{'; '.join(failed)}. All that was said stands in the .log beside; the same "
                 "command tries again")


def stop(*_):
    """Ctrl-C, or kill. The trainings end with this process (see launch), and can be resumed."""
    sys.exit("\nstopped; the same command goes on")


def can_start(run):
    return all(source.is_done() for source in run.sources)


def launch(run, jobs, code):
    """
    A process that trains a run, or goes on with it; or by which its source draws and is marked,
    if it is to learn from that. It ends when this one does.
    """
    if revision() != code:
        sys.exit("\nthe code was changed since this study was started; the same command says what "
                 "can be done")
    command = [HERE / "train.py", *run.words]
    if run.lacks_marks():
        shutil.rmtree(run.data, ignore_errors=True)
        command = ["-m", "lab.assess", run.sources[0].folder, "--out", run.data,
                   "--seed", str(run.seed), *run.marks.split()]
    elif run.is_begun():
        command = [HERE / "train.py", "--out", str(run.folder), "--resume"]
        record = read(run.record)
        if record["revision"] != code:  # with --mix
            save_json(run.record, record | {"revision": f"{record['revision']}, {code}"})
    else:
        save_json(run.record, record_of(run, jobs, code))
    threads = max(1, os.cpu_count() // jobs)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with open(run.log, "w", encoding="utf-8") as log:
        return subprocess.Popen([sys.executable, *command], env=environment,
                                stdout=log, stderr=log, preexec_fn=die_with_parent)


def record_of(run, jobs, code):
    """How a run is made."""
    device = find_device()
    machine = f"{os.cpu_count()} cores of {name_of_processor()}"
    if device != "cpu":
        machine = name_of(device)
    return {
        "words": run.words, "revision": code, "data": checksum_of_data(run.data),
        "sources": {source.arm: read(source.record)["begun"] for source in run.sources},
        "begun": time.strftime("%Y-%m-%d %H:%M:%S"), "machine": machine, "jobs": jobs,
        "torch": torch.__version__}


def checksum_of_data(folder):
    """It names the data set, as its meta.json has the checksums of all its files."""
    return checksum(Path(folder) / "meta.json")


def why(run, process):
    """Why a run failed: the last line that it said, its bar apart."""
    if process.returncode < 0:
        return f"was ended by {signal.Signals(-process.returncode).name}"
    said = run.said().replace("\r", "\n").splitlines()
    said = [line.strip() for line in said if line.strip() and "%|" not in line]
    return said[-1] if said else f"ended with {process.returncode}"


if __name__ == "__main__":
    main()
