"""
systems/flow.py: a hand that draws by flow, as Transfusion (Zhou et al. 2024, arXiv 2408.11039),
LMFusion (Shi et al. 2024, arXiv 2412.15188) and BAGEL (Deng et al. 2025, arXiv 2505.14683) do.

A picture is not drawn token by token but all at once, out of noise. Its latents x, a few numbers
for each image token, are mixed with noise e ~ N(0, 1) at a time t from 0 to 1:

    x_t = (1 - t) x + t e

What comes in, in the picture's places: x_t, and t. What goes out there: v = e - x, the way from
picture to noise, learned by the squared error (Liu et al. 2022, arXiv 2209.03003, eq. 1). To draw,
begin at t = 1 with noise alone, and go back in small steps: each guesses x and e from v, and mixes
them anew at a t that is a little less. That is Euler's method.

The papers of Transfusion and LMFusion have another mix (--noise ddpm; Nichol and Dhariwal 2021,
arXiv 2102.09672), x_t = cos(t pi/2) x + sin(t pi/2) e, and learn e. The same steps back are then
DDIM's (Song et al. 2020, arXiv 2010.02502); the papers take 250 of another kind.

One noise tells little of a picture. So each picture of a step is mixed with several (--noises), at
times of their own (README.md tells what came of that).

Within a picture that is drawn all see all (with --causal none behind it).

Latents are the digits of the image tokens, taken as numbers. A picture passes through the
tokenizer's rounding anyway, so what is drawn is rounded, and is tokens again.
"""
from math import pi, prod

import numpy as np
import torch
import torch.nn as nn

from data import pad_left, window
from model import RMSNorm
from systems.losses import mean_of_rows

STEPS = 25  # from noise to a picture
SHIFT = 2   # how much nearer times are to noise (4 in BAGEL's later training): where it was looked
            # up, a network was most off without its prompt, beside with it, around t = 0.7
UNIT = 3 ** .5  # half the width of a uniform distribution whose standard deviation is 1
FREQUENCIES = 32


class Flow(nn.Module):
    """Latents have D numbers a token, as many as image tokens have digits."""

    def __init__(self, config):
        super().__init__()
        C, D = config.n_embd, len(config.levels)
        self.config = config
        self.into = nn.Linear(D, C)
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, C), nn.SiLU(), nn.Linear(C, C))
        self.norm = RMSNorm(C)
        self.proj = nn.Linear(C, D)  # out
        worth = [prod(config.levels[:i]) for i in range(D)]
        self.register_buffer("worth", torch.tensor(worth), persistent=False)
        self.register_buffer("levels", torch.tensor(config.levels), persistent=False)

    # -----------------------------------------------------------------------------------------
    # tokens and latents

    def latents(self, ids):
        """Image tokens (..., T) -> (..., T, D), from -UNIT to UNIT. Of words it is all the same."""
        codes = (ids - self.config.first_image).clamp(min=0)
        digits = codes[..., None] // self.worth % self.levels
        return (2 * digits / (self.levels - 1) - 1) * UNIT

    def codes(self, latents):
        """(..., D) -> codes (...), of the nearest digits"""
        digits = (latents / UNIT + 1) / 2 * (self.levels - 1)
        digits = digits.round().clamp(min=torch.zeros_like(self.levels), max=self.levels - 1)
        return (digits.long() * self.worth).sum(-1)

    # -----------------------------------------------------------------------------------------
    # in and out

    def mix(self, x, e, t):
        """Latents x and noise e (..., D) at times t (..., 1)"""
        if self.config.noise == "ddpm":
            return (t * pi / 2).cos() * x + (t * pi / 2).sin() * e
        return (1 - t) * x + t * e

    def prepare(self, batch, seeds=None):
        """
        A batch in which each picture being drawn is mixed with noise, at one time for its row. The
        hand is to say something of it in its own places ("draws"), which are watching; no next
        token is to be foretold there.
        """
        if not batch["n_generated"]:
            return batch
        drawn_next = batch["next_generated"]
        return batch | self.noised(self.latents(batch["ids"]), seeds) | {
            "draws": batch["generated"],
            "watching": (batch["watching"] & ~drawn_next) | batch["generated"],
            "loss": batch["loss"] & ~drawn_next,
            "loss_sizes": [batch["loss_sizes"][0], 0]}

    def noised(self, x, seeds=None):
        """
        Latents x (B, T, D) with noise: "noised", and "wanted" of the network, (B, T, D); "time"
        (B, T, 1), one a row.

        seeds (B,): of each row's noise and time. Without them, to compare networks, the noise is
        always the same, and the times are even.
        """
        B, T, D = x.shape
        rngs = [np.random.default_rng(int(seed)) for seed in (range(B) if seeds is None else seeds)]
        if seeds is None:
            t = (np.arange(B) + .5) / B
        else:
            normal = np.array([rng.standard_normal() for rng in rngs])
            t = nearer_noise(1 / (1 + np.exp(-normal)))
        e = np.stack([rng.standard_normal((T, D), np.float32) for rng in rngs])
        e = torch.from_numpy(e).to(x.device)
        t = torch.from_numpy(t.astype(np.float32)).to(x.device)[:, None, None].expand(B, T, 1)
        wanted = e if self.config.noise == "ddpm" else e - x
        return {"noised": self.mix(x, e, t), "time": t, "wanted": wanted}

    def embed(self, x, batch):
        """What stands in the places of what is drawn: (B, T, C), whatever x was"""
        return self.into(batch["noised"]) + self.time(waves(batch["time"]))

    def see(self, ids):
        """A picture to understand is taken as one that is drawn, without noise. (B, T, C)"""
        start = torch.zeros(1, 1, 1, device=ids.device)
        return self.into(self.latents(ids)) + self.time(waves(start))

    def say(self, x, batch):
        """The trunk's x (B, T, C) -> what it says of the m latents that it draws (m, D)"""
        return self.proj(self.norm(x[batch["draws"]])).float()

    def off(self, said, batch):
        """(B,), the mean of the squared error over a row's latents"""
        places = batch["draws"]
        return mean_of_rows((said - batch["wanted"][places]).square().mean(-1), places)

    # -----------------------------------------------------------------------------------------
    # drawing

    @torch.no_grad()
    def draw(self, model, starts, seeds, cfg=1., steps=STEPS, heun=False):
        """
        Codes (n, n_image) of n pictures, one a seed. starts: n rows up to where the pictures begin,
        each a pair of lists: ids, roles; with guidance behind them the same without prompt, see
        sample.draw(). heun: see denoise().
        """
        batch, cache = self.read(model, starts)

        def say(noised, time):
            return model(batch | {"noised": noised, "time": time}, cache=cache).drawn

        return self.denoise(say, len(starts), seeds, model.rotary.device, cfg, steps, heun)

    def read(self, model, starts):
        """What stands before the pictures is read into a cache; and the batch of their places."""
        n_image = self.config.n_image
        ids, roles, pad = pad_left(starts, n_image + 1, self.config.first_image)
        first = ids.shape[1] - n_image - 1  # where the pictures begin
        row = model.describe(ids, roles)
        row["is_target"][:] = False  # no next token is asked for
        cache = model.new_cache(torch.tensor(pad, device=model.rotary.device), first + n_image)
        model(window(row, 0, first, model.rotary.device), cache=cache)
        cache.used = first
        batch = window(row, first, first + n_image, model.rotary.device)
        return batch | {"draws": batch["generated"]}, cache

    def denoise(self, say, n_rows, seeds, device, cfg, steps, heun):
        """
        From noise, of each of n seeds its own, to codes (n, n_image). say(noised, time) gives what
        the network says of latents (n_rows, n_image, D): with guidance there are twice as many rows
        as seeds, first those with their prompts. heun: it looks twice a step, before and behind it,
        and goes by the mean.
        """
        c = self.config
        n_copies = n_rows // len(seeds)

        def look(x, t):
            """What it says of x (n, n_image, D) at a time t, guided"""
            noised = x.repeat(n_copies, 1, 1)
            said = say(noised, torch.full_like(noised[..., :1], t)).view(n_copies, *x.shape)
            known, null = said[0], said[-1]
            return null + cfg * (known - null)

        shape = (c.n_image, len(c.levels))
        x = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed))
                         for seed in seeds]).to(device)
        times = nearer_noise(torch.linspace(1, 0, steps + 1))
        if c.noise == "ddpm":
            times = times * .98  # at 1 nothing is left of the picture to be guessed from
        for t, then in zip(times.tolist(), times[1:].tolist()):
            said = look(x, t)
            if heun and then > 0:
                said = (said + look(self.back(x, said, t, then), then)) / 2
            x = self.back(x, said, t, then)
        return self.codes(x).cpu()

    def back(self, x, said, t, then):
        """From x at a time t to an earlier one, by what the network said of it"""
        t, then = torch.tensor(t), torch.tensor(then)
        if self.config.noise == "ddpm":
            noise = said
            clean = (x - (t * pi / 2).sin() * noise) / (t * pi / 2).cos()
        else:
            noise = x + (1 - t) * said
            clean = x - t * said
        return self.mix(clean, noise, then)


def nearer_noise(t):
    """Times from 0 to 1, nearer to 1"""
    return SHIFT * t / (1 + (SHIFT - 1) * t)


def waves(t):
    """Times (..., 1), from 0 to 1, as cosines and sines (..., 2 FREQUENCIES)"""
    frequency = 10_000 ** (-torch.arange(FREQUENCIES, device=t.device) / FREQUENCIES)
    angle = 1000 * t * frequency
    return torch.cat((angle.cos(), angle.sin()), -1)
