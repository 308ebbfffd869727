"""tests/test_flow.py: systems/flow.py, a hand that draws out of noise."""
import numpy as np
import pytest
import torch

from data import TARGET, WATCHED, WATCHING
from model import PRESETS, Config, Output
from sample import draw
from systems import build
from systems.dial import with_flags
from systems.flags import read_flags
from systems.losses import row_losses
from systems.start import start_from, trains
from tests.common import every_place, names_of, short_run, small_model, task_batch, text_batch

pytest_plugins = "tests.fixtures"
NOISES = ["flow", "ddpm"]


def drawing_batch(model, noise=None):
    """Two rows to draw, of which nine image tokens are the last."""
    c = model.config
    ids = np.random.default_rng(0).integers(c.first_image, c.first_image + c.n_codes, (2, 15))
    ids[:, :6] = 7, 8, 9, 10, 11, 12
    watched, watching = [WATCHED] * 4, [WATCHING]
    drawn = [TARGET | WATCHING] * 8 + [TARGET]
    roles = np.array([[0, *watched, *watching, *drawn]] * 2)
    return model.to_batch(ids, roles, noise=noise)


def test_image_tokens_are_numbers_and_back():
    """Each digit has its number, whose spread is about 1; less than half a digit is no matter."""
    hand = small_model("transfusion").hand
    ids = torch.arange(hand.config.n_codes) + hand.config.first_image
    latents = hand.latents(ids)
    assert latents.abs().max() == pytest.approx(3 ** .5)
    assert latents.mean(0).abs().max() < 1e-6
    assert torch.equal(hand.codes(latents), ids - hand.config.first_image)
    half = 3 ** .5 / (max(hand.config.levels) - 1)
    noise = (torch.rand_like(latents) * 2 - 1) * half * .99
    assert torch.equal(hand.codes(latents + noise), ids - hand.config.first_image)
    assert torch.equal(hand.codes(latents * 9), hand.codes(latents.sign() * 9)), "none is beyond"


@pytest.mark.parametrize("noise", NOISES)
def test_what_is_wanted_of_the_network_is_without_error(noise):
    model = small_model("transfusion", noise=noise)
    batch = drawing_batch(model, [1, 2])
    assert (row_losses(model(batch), batch) > .1).all()
    assert not model.hand.off(batch["wanted"][batch["draws"]], batch).any()


@pytest.mark.parametrize("noise", NOISES)
def test_times_go_from_the_picture_to_noise(noise):
    hand = small_model("transfusion", noise=noise).hand
    x, e = torch.randn(2, 5, 4)
    torch.testing.assert_close(hand.mix(x, e, torch.tensor(0.)), x)
    torch.testing.assert_close(hand.mix(x, e, torch.tensor(1.)), e)


def test_networks_are_compared_at_the_same_times_and_train_at_all():
    model = small_model("transfusion")
    batches = [drawing_batch(model) for _ in range(2)]
    assert torch.equal(batches[0]["noised"], batches[1]["noised"])
    assert batches[0]["time"][:, 0, 0].tolist() == [.25, .75]
    one, two = [drawing_batch(model, noise) for noise in ([1, 2], [1, 3])]
    for name in ("noised", "time", "wanted"):
        assert torch.equal(one[name][0], two[name][0]), "a row's noise is its own"
        assert (one[name][1] != two[name][1]).all()


def test_a_picture_is_mixed_with_several_noises_a_step(toy, tmp_path):
    flags = ("--arch", "transfusion", "--noises", 3, "--steps", 1, "--batch_size", 8)
    read_rows = names_of("train.py", *short_run(toy, tmp_path / "x"), *flags)["read_rows"]
    of_task = {task: batch for task, batch, _ in read_rows(0)}
    drawn = of_task["generate"]
    pictures = drawn["ids"][drawn["generated"]].view(-1, 3, 36)
    assert len(pictures) == 2 and not torch.equal(*pictures[:, 0])
    assert (pictures == pictures[:, :1]).all()
    assert len(drawn["time"][:, 0].unique()) == len(drawn["ids"]), "each at a time of its own"
    assert len(of_task["understand"]["ids"]) == 6, "these are read once"


def test_four_noises_are_usual_and_one_token_by_token(tmp_path, monkeypatch):
    for arch, flags, usual in (("transfusion", (), 4), ("bagel", ("--draw", "tokens"), 1),
                               ("emu3", (), 1)):
        words = ("--device", "cpu", "--arch", arch, *flags, "--out", str(tmp_path / arch))
        monkeypatch.setattr("sys.argv", ["train.py", *words])
        assert read_flags().noises == usual


class Knowing:
    """
    In a network's place: it knows the picture (n_image, D), and says what is wanted of it; without
    its prompt, in rows from the third on, it knows another.
    """

    def __init__(self, model, x, without=None):
        self.x = x
        self.without = x if without is None else without
        self.config, self.rotary = model.config, model.rotary
        self.describe, self.new_cache = model.describe, model.new_cache
        self.times = []

    def __call__(self, batch, cache=None):
        if "noised" not in batch:
            return None
        t = batch["time"][0, 0, 0]
        self.times.append(t.item())
        x = self.x.expand_as(batch["noised"]).clone()
        x[2:] = self.without
        if self.config.noise == "ddpm":
            said = (batch["noised"] - (t * torch.pi / 2).cos() * x) / (t * torch.pi / 2).sin()
        else:
            said = (batch["noised"] - x) / t
        return Output(None, drawn=said.flatten(0, 1))


@pytest.mark.parametrize("heun", [False, True])
@pytest.mark.parametrize("noise", NOISES)
def test_who_knows_the_picture_draws_it(noise, heun):
    """From any noise, in any number of steps, with and without guidance."""
    model = small_model("transfusion", noise=noise)
    codes = torch.randint(model.config.n_codes, (9,))
    knowing = Knowing(model, model.hand.latents(codes + model.config.first_image))
    rows = [([1, 2, 3], [0, 2, 0]), ([1, 2], [0, 0])]
    for steps, starts in ((1, rows), (7, rows), (4, rows * 2)):
        knowing.times = []
        drawn = model.hand.draw(knowing, starts, [3, 4], cfg=2., steps=steps, heun=heun)
        assert torch.equal(drawn, codes.expand(2, -1))
        assert len(set(knowing.times)) == steps, "each time is looked at"


def test_guidance_moves_from_what_is_said_without_the_prompt():
    """And as far beyond what is said with it: here the first digit is 4 with, 3 without, then 5."""
    model = small_model("transfusion")
    knowing = Knowing(model, latents_of(model, 4, 3), without=latents_of(model, 3, 3))
    rows = [([1, 2, 3], [0, 2, 0])] * 4
    for cfg, digit in ((0., 3), (1., 4), (2., 5)):
        drawn = model.hand.draw(knowing, rows, [3, 4], cfg=cfg, steps=5)
        assert (drawn == digit + 8 * 3).all()


def latents_of(model, *digits):
    """A picture of one token all over"""
    code = digits[0] + 8 * digits[1]
    return model.hand.latents(torch.full((9,), model.config.first_image + code))


def test_a_picture_is_drawn_as_a_whole_or_with_causal_bit_by_bit():
    """And words before it see nothing of it."""
    for causal in (False, True):
        model = small_model("transfusion", causal=causal)
        batch = drawing_batch(model)
        before = model(batch).drawn.view(2, 9, -1)
        noised = batch["noised"].clone()
        noised[:, 14] += 1  # the last token of the picture
        after = model(batch | {"noised": noised}).drawn.view(2, 9, -1)
        differs = (before - after).abs().amax((0, 2)) > 1e-5
        assert differs.tolist() == [not causal] * 8 + [True]
        words = every_place(model, batch)[:, :6]
        torch.testing.assert_close(every_place(model, batch | {"noised": noised})[:, :6], words,
                                   atol=1e-5, rtol=0)


def test_the_network_is_told_the_time():
    model = small_model("transfusion")
    batch = drawing_batch(model)
    later = model(batch | {"time": batch["time"] + .1}).drawn
    assert (model(batch).drawn - later).abs().max() > 1e-3


def test_what_is_noised_is_watching_its_prompt():
    model = small_model("transfusion")
    batch = drawing_batch(model)
    assert torch.equal(batch["watching"], batch["generated"])
    assert batch["generated"].sum() == 18 and not batch["loss"].any()


def test_a_picture_depends_on_its_prompt_and_its_seed_alone(toy):
    sizes = [toy.meta[name] for name in ("block_size", "vocab_size", "first_image", "n_image")]
    torch.manual_seed(0)
    model = build(with_flags(Config(2, 2, 32, *sizes), "transfusion"))
    for p in model.parameters():
        if p.dim() == 2:
            torch.nn.init.normal_(p, std=.3)
    both = draw(model, toy.enc, ["a red circle", "two blue squares"], first=5)
    assert torch.equal(draw(model, toy.enc, ["two blue squares"], first=6), both[1:])
    for other in (draw(model, toy.enc, ["two blue squares"], first=5),
                  draw(model, toy.enc, ["a red circle"], first=6)):
        assert not torch.equal(other, both[1:])


@pytest.mark.parametrize("arch", ["lmfusion", "llavafusion"])
def test_who_learns_to_draw_beside_what_it_knew_answers_as_before(arch):
    """To the bit, whatever becomes of what its only stage trains."""
    dense = small_model()
    model = small_model(arch)
    start_from(model, dense.state_dict())
    if arch == "lmfusion":  # it knew words alone
        batch = text_batch(model, np.random.default_rng(0).integers(0, 64, (2, 20)))
    else:
        batch = task_batch(model, "understand")
    before = every_place(dense, batch)
    assert torch.equal(every_place(model, batch), before)
    [stage] = PRESETS[arch]["stages"]
    for name, p in model.named_parameters():
        if trains(stage, name):
            torch.nn.init.normal_(p)
    assert torch.equal(every_place(model, batch), before)


def test_a_picture_to_understand_is_seen_as_one_that_is_drawn_without_noise():
    hand = small_model("transfusion").hand
    ids = torch.arange(64, 73)[None]
    batch = {"noised": hand.latents(ids), "time": torch.zeros(1, 9, 1)}
    torch.testing.assert_close(hand.see(ids), hand.embed(None, batch))
