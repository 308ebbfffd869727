"""
systems/dial.py: a preset of model.py's table, turned further, and what a network costs.
"""
from dataclasses import replace

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from data import TARGET, TASKS, window
from model import ALL, PRESETS, ROUTERS, Config, Copies
from systems import build

# which of the numbers of cost() is held equal by --match
MATCH = {"active": "flops", "parameters": "active", "total": "total"}

# ---------------------------------------------------------------------------------------------
# the dial, turned


def with_flags(config, arch, match=None, **flags):
    """
    A Config as a preset has it, then as flags (the names in Config.DIAL; None says nothing) have
    it. match, a key of MATCH: then as wide as costs what `config` does. Raises ValueError if the
    flags contradict each other.
    """
    preset = {name: value for name, value in PRESETS[arch].items() if name in Config.DIAL}
    flags = {name: value for name, value in flags.items() if value is not None}
    new = replace(config, **preset | flags)
    wrong = contradiction(new, flags)
    if wrong:
        split = ",".join(new.split) or "none"
        shared = ", shared" if new.shared else ""
        dial = f"split {split}, route {new.route}, experts {new.experts}{shared}"
        raise ValueError(f"{dial}: {wrong}")
    new = replace(new, block_size=new.block_size + n_markers(new))
    if match:
        new = as_wide_as_costs(new, cost(config), MATCH[match])
    return new


def n_markers(config):
    """How many tokens eyes for patches add to a row: <|cls|>, and <|row|> after each row."""
    return round(config.n_image ** .5) + 1 if config.see == "patches" else 0


def contradiction(config, flags):
    """What is wrong with a Config, or None."""
    has_router = config.route in ROUTERS
    if set(config.split) - {*ALL, "ends"}:
        return "split is any of norm, qkv, ffn, ends"
    if "route" in flags and not config.split:
        return "nothing exists in copies that could be routed; give --split"
    if config.outer and config.last:
        return "copies are in the outer layers, or in the last; leave one of the two out"
    if (config.outer or config.last) and (has_router or not config.split):
        return "--outer and --last say where copies are; give --split, and no router"
    if not 0 <= config.outer <= config.n_layer or not 0 <= config.last <= config.n_layer:
        return f"--outer and --last: wanted is at most {config.n_layer}, as there are layers"
    if has_router and tuple(config.split) != ("ffn",):
        return "routers choose among copies of ffn alone"
    if "ends" in config.split and config.route != "task":
        return "ends go by task"
    if not 1 <= config.experts <= 1000:
        return "wanted are 1 to 1,000 experts"
    if not config.aligned and config.see != "tokens":
        return "--no-aligned is of networks that see tokens; add --see tokens"
    if config.own_head and config.draw != "tokens":
        return f"an own head is of tokens; leave out --draw {config.draw}, or add --no-own_head"
    if config.draw not in ("flow", "queries") and config.noise != "flow":
        return "--noise is of a hand by flow; add --draw flow"
    if config.draw != "flow" and config.causal:
        return "--causal is of a hand by flow; add --draw flow"
    if config.draw == "features" and config.see != "encoder":
        return "what is drawn are features of what sees; add --see encoder"
    if config.draw == "queries" and not 1 <= config.queries <= config.n_image:
        return f"wanted are 1 to {config.n_image} queries, as many as a picture has tokens"
    if config.draw != "queries" and {"queries", "connector", "condition"} & flags.keys():
        return "--queries, --connector and --condition are of a hand by queries; add --draw queries"
    if config.draw != "flow" and config.see == "latents":
        return "latents are seen as they are drawn; add --draw flow, or other eyes (--see)"
    if not has_router and (config.experts > 1 or config.shared):
        return ("experts and a shared one need a router (--route learned | supervised | oracle), "
                "or --experts 1 --no-shared")
    return None


def as_wide_as_costs(config, wanted, which):
    """The config at the width at which a number of its cost() comes nearest to the wanted one."""
    step = 2 * config.n_head  # rotary positions turn pairs of a head's channels
    ratio = wanted[which] / cost(config)[which]
    guess = round(config.n_embd * ratio ** .5 / step)  # most of the cost goes by the width squared
    nearest = None
    for n_steps in range(max(1, guess - 1), guess + 2):
        candidate = replace(config, n_embd=step * n_steps)
        error = abs(cost(candidate)[which] / wanted[which] - 1)
        if nearest is None or error < nearest[0]:
            nearest = (error, candidate)
    return nearest[1]


# ---------------------------------------------------------------------------------------------
# cost


def example(model, task, B, device="cpu"):
    """
    B rows of random tokens of the greatest length, in which every place has a loss (of another hand
    than tokens what it draws alone): a batch, see data.window(). Of patches rows to understand
    alone have markers, and are longer.
    """
    c = model.config
    length = c.block_size - (n_markers(c) if task == "generate" else 0)
    text = torch.randint(c.first_image, (B, length)).numpy()
    image = torch.randint(c.first_image, c.first_image + c.n_codes, (B, c.n_image)).numpy()
    ids = np.tile(text, 2)  # twice as long: room for markers
    roles = 0 * ids
    if task == "generate":
        first = length - c.n_image
        roles[:, first:length] = TARGET
    else:
        first = 2
    ids[:, first:first + c.n_image] = image
    if task == "understand" and model.eyes is not None:
        ids, roles = model.eyes.frame(ids, roles)
    batch = window(model.describe(ids, roles), 0, length, device)
    if task == "generate" and c.draw != "tokens":
        batch = model.hand.prepare(batch)
        batch["loss"] = torch.zeros_like(batch["loss"])  # what it draws is no next token
        return batch
    batch["loss"] = torch.ones_like(batch["loss"])
    n = B * length
    batch["loss_sizes"] = [0, n] if task == "generate" else [n, 0]
    if task == "understand" and model.eyes is not None:
        pixels = round(c.n_image ** .5) * c.patch
        picture = torch.randint(256, (B, pixels, pixels, 3), dtype=torch.uint8, device=device)
        batch["pixels"] = picture
    return batch


@torch.no_grad()
def cost(config):
    """
    {"total": parameters, "active": those that a token has a use for, "flops": of training, a token}

    FLOPs are three times those of a forward pass over one long row of each task in which every
    place has a loss, counted as it runs. They are per token of the rows as emu3 has them, so that
    what markers add shows.
    """
    model = build(config)
    total = count(model)
    idle = 0
    for module in model.modules():
        if isinstance(module, Copies):
            idle += count(module) * (1 - 1 / len(module))
    batches = [example(model, task, 1) for task in TASKS]
    # attention as matrix products, which the counter knows on every device
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
        for batch in batches:
            model(batch)
    tokens = 2 * (config.block_size - n_markers(config))
    return {"total": total, "active": round(total - idle),
            "flops": 3 * flops.get_total_flops() / tokens}


def count(module):
    """Its parameters, but for what never trains and stands beside the network (features.py)"""
    return sum(p.numel() for name, p in module.named_parameters() if "frozen." not in name)
