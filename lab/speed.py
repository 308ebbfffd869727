"""
lab/speed.py: what the cache of keys and values is worth (`python sample.py OUT --speed`).
"""
import time

from exam.questions import SEED
from sample import answer, draw
from toy.words import an
from toy.world import COLORS, SHAPES, make_scenes, render_all


def speed(model, enc, tok, meta, task, n=64):
    """
    Prints pictures and answers a second, with the cache and without, and whether both ways give
    the same. task: what the network was trained for
    """
    pixels = render_all(make_scenes(n, SEED), meta["canvas"])
    codes = tok.encode(pixels)
    if meta["kind"] == "toy":
        prompts = [an(color, shape) for color in COLORS for shape in SHAPES] * 2
        question = "describe the picture."
    else:
        prompts = ["a"] * n
        question = "what?"
    talks = [[(question, "")]] * n

    def draw_all(cached):
        return draw(model, enc, prompts, cached=cached).tolist()

    def answer_all(cached):
        return answer(model, enc, codes, talks, pixels, cached=cached)

    if task != "understand" and model.config.draw == "tokens":
        compare("pictures", len(prompts), draw_all)
    elif task != "understand":
        draw_all(True)  # warms up
        start = time.perf_counter()
        draw_all(True)
        seconds = time.perf_counter() - start
        print(f"{len(prompts)} pictures: {len(prompts) / seconds:.1f} a second")
    if task != "generate":
        compare("answers", n, answer_all)


def compare(what, n, work):
    """Times work(cached) both ways. The first round warms up."""
    seconds = {}
    results = {}
    for cached in (True, True, False):
        start = time.perf_counter()
        results[cached] = work(cached)
        seconds[cached] = time.perf_counter() - start
    fast = n / seconds[True]
    slow = n / seconds[False]
    equal = "the same" if results[True] == results[False] else "NOT the same"
    print(f"{n} {what}: {fast:.1f} a second with the cache, {slow:.1f} without: "
          f"{fast / slow:.1f} times; {equal}")
