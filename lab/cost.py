"""
lab/cost.py: the presets and what each costs: parameters, FLOPs, step time on this machine, cache,
and what it takes to see what was drawn.

    python -m lab.cost
    python -m lab.cost --match active    # each as wide as costs what emu3 does

README.md tells how to read the table.
"""
import time
from functools import partial
from statistics import median

import torch

from data import TASKS, load_tokenizer
from model import PRESETS, SIZES, Config
from systems import build
from systems.dial import MATCH, cost, example, n_markers, with_flags
from systems.plan import BY_FLOW, NOISES
from systems.semantic import SemanticTokenizer
from tools.device import find_device, keep_freed_memory, set_products
from tools.faults import expect_faults
from tools.flags import Parser
from tools.muon import optimizers
from tools.timing import by_turns
from toy.tokenizer import tokenizer_path
from toy.world import CANVAS, PATCHES

ROWS = 16   # of each task in a step
ROUNDS = 9  # in which each preset takes a step

HEAD = (f"{'preset':12}{'split':20}{'route':12}{'sees':9}{'draws by':10}{'width':>5}{'total M':>9}"
        f"{'active M':>10}{'MFLOP/token':>13}{'step time':>11}{'cache B/token':>15}"
        f"{'round trip ms':>15}{'tokens':>8}")


def main():
    """Times a step of all presets by turns, then prints a row for each."""
    args = read_flags()
    expect_faults("take a smaller --size")
    keep_freed_memory()
    device = find_device()
    dtype = set_products(device, args.dtype)
    dense = Config(*SIZES[args.size], patch=CANVAS[args.size] // PATCHES)
    configs = {arch: with_flags(dense, arch, args.match) for arch in PRESETS}

    tok = load_tokenizer(tokenizer_path(CANVAS[args.size]), device)
    steps = {}
    trips = {}  # {preset: what it costs to see what was drawn}
    for arch, config in configs.items():
        net = build(config).to(device)
        trips[arch] = round_trip(net, SemanticTokenizer().to(device) if arch == "illume" else tok)
        by_flow = config.draw in BY_FLOW  # then a picture is read with several noises
        n_rows = {"generate": ROWS * NOISES if by_flow else ROWS, "understand": ROWS}
        batches = [example(net, task, n_rows[task], device) for task in TASKS]
        opts = optimizers(net, .01)
        steps[arch] = partial(take_step, net, opts, batches, device, dtype)
    seconds = by_turns(steps, ROUNDS, device)

    print(f"{args.size}, {ROWS} rows of each task, {device}, {dtype}, {torch.get_num_threads()} "
          f"threads, torch {torch.__version__}; "
          f"step time: emu3's is 1, median of {ROUNDS} rounds\n")
    print(HEAD)
    for arch, config in configs.items():
        ratios = [own / emu3 for own, emu3 in zip(seconds[arch], seconds["emu3"])]
        print_row(arch, config, median(ratios), *trips[arch])


def read_flags():
    p = Parser(
        prog="python -m lab.cost",
        description="The presets and what each costs: parameters, FLOPs, step time here, cache.")
    p.add_argument("--size", choices=SIZES, default="nano", help="shape of the network")
    p.add_argument("--match", choices=MATCH,
                   help="scale each width so that FLOPs a token, active or all parameters come "
                        "nearest to emu3's")
    p.add_argument("--dtype", choices=("float32", "bfloat16"),
                   help="of the matrix products (default: as train.py's)")
    return p.parse_args()


def take_step(net, opts, batches, device, dtype):
    """Both tasks, forward and backward of something as dear as the loss, and the optimisers."""
    for batch in batches:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            output = net(batch)
        loss = output.logits.float().logsumexp(-1).sum() / batch["ids"].numel()
        if output.off is not None:
            loss = loss + output.off.mean()
        if net.config.routed():
            loss = loss + .01 * output.router_loss
        loss.backward()
    for opt in opts:
        opt.step()
        opt.zero_grad()


@torch.no_grad()
def round_trip(net, tok, rounds=20):
    """
    What it costs to see a picture that was drawn: milliseconds to make pixels of it, and of these
    what the eyes return; and how many tokens are read once more. Nothing, if it sees what it draws.
    """
    if net.eyes is None:
        return 0., 0
    codes = torch.zeros(1, net.config.n_image, dtype=torch.long)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        pixels = torch.from_numpy(tok.decode(codes)).to(net.rotary.device)
        net.eyes(pixels).cpu()  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return 1000 * median(seconds), net.config.n_image + n_markers(net.config)


def print_row(arch, config, ratio, milliseconds, tokens):
    """ratio: of a step's time to emu3's; then what round_trip() returned"""
    price = cost(config)
    split = ",".join(config.split) or "-"
    route = config.route if config.split else "-"
    hand = "own head" if config.own_head else config.draw.replace("tokens", "head")
    cache = 2 * config.n_layer * config.n_embd * 4  # bytes: a key and a value a layer in float32
    print(f"{arch:12}{split:20}{route:12}{config.see:9}{hand:10}{config.n_embd:>5}"
          f"{price['total'] / 1e6:>9.2f}{price['active'] / 1e6:>10.2f}{price['flops'] / 1e6:>13.2f}"
          f"{ratio:>11.2f}{cache:>15,}{milliseconds:>15.1f}{tokens:>8}")


if __name__ == "__main__":
    main()
