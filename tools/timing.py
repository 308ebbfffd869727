"""
tools/timing.py: how long something takes, on a machine that is not quiet.
"""
import time
from contextlib import contextmanager

import torch
from tqdm import tqdm

WARM_UP = 2  # rounds that do not count: the first ones prepare kernels and fetch memory


def by_turns(works, rounds, device):
    """
    Runs functions by turns and takes their times.

      works   {name: function without arguments}
      rounds  how often each runs and counts
      device  where they work: elsewhere than on a CPU the work is waited for

    Returns {name: [seconds, one a round]}. A machine's speed drifts; it hardly does within a
    round, so compare by the median of the ratios within rounds.
    """
    took = {name: [] for name in works}
    for i in tqdm(range(WARM_UP + rounds), desc="timing", unit="round", leave=False):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if device != "cpu":
                torch.accelerator.synchronize()
            seconds = time.perf_counter() - start
            if i >= WARM_UP:
                took[name].append(seconds)
    return took


class Meter:
    """
    How fast a training goes.

      tokens  of all steps so far; whoever takes a step adds its own
      flops   a token costs a process
      peak    FLOP/s of its device, or None if that is not known
    """

    def __init__(self, flops, peak):
        self.tokens = 0
        self.flops = flops
        self.peak = peak
        self.start = time.time()
        self.spent = {"waiting": 0., "evaluating": 0.}  # seconds

    def minutes(self):
        return (time.time() - self.start) / 60

    @contextmanager
    def aside(self, what):
        """What is done within is no training: "waiting" for rows, or "evaluating"."""
        start = time.time()
        yield
        self.spent[what] += time.time() - start

    def read(self):
        """Words for a progress bar. Evaluations do not count, waiting does."""
        seconds = time.time() - self.start - self.spent["evaluating"]
        speed = self.tokens / seconds
        share = f"{speed * self.flops / self.peak:.1%}" if self.peak else "n/a"
        waits = self.spent["waiting"] / seconds
        return {"tok/s": f"{speed:,.0f}", "MFU": share, "waits": f"{waits:.1%}"}
