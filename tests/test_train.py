"""
tests/test_train.py: more laws of training. Those to read first are in test_all.py.
"""
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import aia
import data
import sample
import systems
from data import TASKS, load_dataset
from model import PRESETS, SECOND_COPIES, Config, Output
from systems import build
from systems.flags import read_flags
from systems.runs import load_model
from tests.common import (HERE, as_if_trained_for, free_ports, names_of, run, same, short_run,
                          train, weights)
from tools.files import lock, unlock
from tools.muon import Muon

pytest_plugins = "tests.fixtures"


def draw_nothing(model, enc, prompts):
    return torch.zeros(len(prompts), 64, dtype=torch.long)


def load_few(folder):
    dataset = load_dataset(folder)
    for task, arrays in dataset.rows["val"].items():
        dataset.rows["val"][task] = [array[:8] for array in arrays]
    return dataset


def shorten(patch):
    """Evaluations take most of a short run's time: now they draw nothing and read few rows."""
    patch.setattr(sample, "draw", draw_nothing)
    patch.setattr(data, "load_dataset", load_few)


@pytest.fixture
def quick(trained, monkeypatch):
    """Runs in this process have short evaluations. (The exam, imported for trained, draws.)"""
    shorten(monkeypatch)


# ---------------------------------------------------------------------------------------------
# what a step takes


@pytest.fixture(scope="module")
def names(toy, trained, tmp_path_factory):
    """All that train.py has named at the end of a run of 20 steps, 10 in each phase."""
    out = tmp_path_factory.mktemp("run") / "names"
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        return names_of("train.py", *short_run(toy, out), "--eval_every", 20, "--ratio", "1:1")


def test_rows_depend_on_the_seed_and_the_step_alone(names, monkeypatch):
    """Not on what was read before, so that a resumed run takes them; nor on the parts."""
    def ids(step):
        return [batch["ids"] for _, batch, _ in names["read_rows"](step)]

    drawn, seen = ids(3)
    other_step, _ = ids(4)
    again, _ = ids(3)
    assert drawn.shape[0] == seen.shape[0] == 2
    assert torch.equal(again, drawn)
    assert not torch.equal(other_step, drawn)
    monkeypatch.setattr(names["args"], "accumulate", 2)
    parts = ids(3)  # of the first part: drawn and seen; of the second
    assert torch.equal(torch.cat(parts[0::2]), drawn)
    assert torch.equal(torch.cat(parts[1::2]), seen)
    monkeypatch.setattr(names["args"], "seed", 1)
    assert not torch.equal(torch.cat(ids(3)[0::2]), drawn)


def test_with_n_train_only_the_first_rows_are_seen(toy, tmp_path, quick):
    run = names_of("train.py", *short_run(toy, tmp_path / "few"), "--steps", 1, "--n_train", 2)
    first = run["model"].to_batch(*[array[:2] for array in toy.rows["train"]["understand"]])
    seen = set()
    for step in range(10):
        _, (_, batch, _) = run["read_rows"](step)
        seen |= {tuple(row) for row in batch["ids"].tolist()}
    assert seen == {tuple(row) for row in first["ids"].tolist()}


def test_one_prompt_of_ten_is_dropped_and_no_picture_is(names):
    kept = {task: [] for task in TASKS}
    for step in range(500):
        for task, batch, n_valid in names["read_rows"](step):
            assert n_valid == batch["watched"].any(1).sum()
            kept[task].append(n_valid / 2)
    assert .87 < np.mean(kept["generate"]) < .93
    assert np.mean(kept["understand"]) == 1


def test_a_row_s_loss_is_the_mean_over_its_targets(names):
    """So a picture and an answer weigh the same."""
    is_target = torch.zeros(2, 6, dtype=torch.bool)
    is_target[0, 5] = True
    is_target[1, 1:] = True
    targets = torch.randint(0, 9, (2, 6))
    logits = torch.randn(6, 9)
    losses = names["row_losses"](Output(logits), {"loss": is_target, "targets": targets})
    torch.testing.assert_close(losses[0], F.cross_entropy(logits[:1], targets[0, 5:]))
    torch.testing.assert_close(losses[1], F.cross_entropy(logits[1:], targets[1, 1:]))


def test_the_first_phase_keeps_its_learning_rate_and_the_second_goes_down_to_zero(names):
    first = [names["height_at"](step) for step in range(10)]
    second = [names["height_at"](step) for step in range(10, 20)]
    warming_up = [(step + 1) / 50 for step in range(10)]
    assert first == pytest.approx(warming_up)
    falling = [(10 - step) / 10 for step in range(10)]
    assert second == pytest.approx(np.minimum(warming_up, falling))

# ---------------------------------------------------------------------------------------------
# AIA and its phase


def test_the_same_seed_gives_the_same_log_bit_for_bit(toy, trained, tmp_path):
    assert train(toy, tmp_path / "again", "--aia", .5) is None
    assert (tmp_path / "again" / "log.csv").read_text() == (trained / "log.csv").read_text()


def test_aia_acts_on_every_nth_step_of_its_phase(toy, tmp_path, monkeypatch, quick):
    acts = []
    loss = aia.aia_loss

    def count(*args):
        acts.append(1)
        return loss(*args)

    monkeypatch.setattr(aia, "aia_loss", count)
    assert train(toy, tmp_path / "run", "--aia", .5, "--aia_every", 4) is None
    assert len(acts) == 3 * len(TASKS), "at steps 10, 14 and 18 of 20, for each task"


def test_aia_on_every_nth_step_has_n_times_the_weight(toy, tmp_path, quick):
    for every, weight in ((1, 2), (4, .5)):
        flags = ("--aia", weight, "--aia_every", every, "--task", "understand")
        one_step_with_it = ("--steps", 4, "--aia_start", .75)
        assert train(toy, tmp_path / str(every), *flags, *one_step_with_it) is None
    assert same(weights(tmp_path / "1"), weights(tmp_path / "4"))


def test_in_balanced_steps_a_task_s_weight_does_not_count(toy, tmp_path, quick):
    """It is a factor of the task's gradient, and balancing takes such factors out."""
    def moved_by_it(*flags):
        """How far a weight ten times as large moves a step, beside the step itself."""
        plain, heavier = tmp_path / f"plain{len(flags)}", tmp_path / f"heavier{len(flags)}"
        assert train(toy, plain, *flags) is None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(F, "cross_entropy", ten_times_for_short_rows(F.cross_entropy))
            assert train(toy, heavier, *flags) is None
        name = "blocks.0.ffn.0.down.weight"  # begins as nothing
        step = weights(plain)[name]
        return (weights(heavier)[name] - step).norm() / step.norm()

    flags = ("--steps", 1, "--dtype", "float32")
    assert moved_by_it(*flags) > .3
    assert moved_by_it(*flags, "--balance") < .1


def ten_times_for_short_rows(cross_entropy):
    """Loss of pictures (36 targets a row) ten times as large."""
    def heavier(logits, targets, **more):
        return cross_entropy(logits, targets, **more) * (10 if len(targets) % 36 == 0 else 1)

    return heavier


def test_a_run_may_be_the_reference_for_what_it_was_trained_on(toy, trained, network, tmp_path):
    measured = aia.measure(network, toy)
    targets = aia.reference(str(trained), 6, dataset=toy)
    for task in TASKS:
        assert targets[task]["curve"] == pytest.approx(measured[task]["mean"])

    out = as_if_trained_for("generate", trained, tmp_path / "run")
    assert aia.reference(str(out), 6, dataset=toy).keys() == {"name", "generate"}
    assert aia.reference(f"{out},{trained}", 6, dataset=toy).keys() == {"name", *TASKS}


def test_a_network_may_be_held_to_its_own_curves(toy, trained, tmp_path, quick, monkeypatch):
    """To those that it starts from, and still to those when it is resumed."""
    out = tmp_path / "run"
    flags = ("--init_from", trained, "--reference", "own", "--aia", 1, "--eval_every", 10)
    with monkeypatch.context() as patch:
        patch.setattr(Muon, "step", interrupt_at(15))
        assert "stopped" in train(toy, out, *flags)
    assert run("train.py", "--out", out, "--resume") is None
    begun = load_model(trained, "cpu", "pretrained.pt")[0]
    about = json.loads((out / "interaction.json").read_text())
    few = data.load_dataset(toy.folder)  # as quick has it
    for task, measured in aia.measure(begun, few).items():
        assert about["reference"][task]["target"] == pytest.approx(measured["mean"], abs=1e-3)
        assert about["history"][0][task]["mean"] == pytest.approx(measured["mean"], abs=1e-3)


def interrupt_at(n):
    """An optimiser's step that is interrupted, as by Ctrl-C, when it is taken for the n-th time."""
    taken = []
    whole_step = Muon.step

    def step(self):
        taken.append(1)
        if len(taken) == n:
            signal.raise_signal(signal.SIGINT)
        return whole_step(self)

    return step


def test_a_control_puts_a_curve_s_numbers_in_the_wrong_place():
    curves = {"generate": [.1, .2, .3, .4, .5, .6], "understand": [.9, .8, .7, .6, .5, .4]}
    swapped = aia.controlled(curves, "swapped")
    assert swapped == {"generate": curves["understand"], "understand": curves["generate"]}
    permuted = aia.controlled(curves, "permuted")
    constant = aia.controlled(curves, "constant")
    for task, curve in curves.items():
        assert sorted(permuted[task]) == sorted(curve)
        assert all(a != b for a, b in zip(permuted[task], curve))
        assert constant[task] == pytest.approx([np.mean(curve)] * 6)
    assert aia.controlled(curves, None) == curves


def test_aia_can_do_without_ranges_and_without_huber_s_loss():
    """Then each layer has its own target; or the loss is the distance itself."""
    curve = [.1, .12, .3, .33, .6, .61]
    curves = {"generate": curve}
    plain = aia.targets_of("x", curves, 6)["generate"]
    layers = aia.targets_of("x", curves, 6, "layers")["generate"]
    absolute = aia.targets_of("x", curves, 6, "absolute")["generate"]
    assert len(set(plain["target"])) == 3
    assert layers["target"] == pytest.approx(curve)
    assert layers["threshold"] == plain["threshold"] == [.05] * 6
    assert absolute["target"] == plain["target"]
    intensity = torch.tensor(curve)[:, None]  # (L, B)
    target, threshold = [torch.tensor(absolute[name])[:, None] for name in ("target", "threshold")]
    loss = aia.aia_loss(intensity, torch.tensor([True]), target, threshold)
    off = (intensity - target).abs().mean()
    assert loss.item() == pytest.approx(off.item(), abs=1e-5)


def test_a_run_aims_at_the_control_of_its_reference(toy, trained, tmp_path, quick):
    """And a reference that is trained for it is kept as it is."""
    flags = ("--aia", .1, "--steps", 2, "--eval_every", 2)
    found = {}
    for control in (None, "permuted"):
        out = tmp_path / str(control)
        more = ("--control", control) if control else ()
        assert train(toy, out, *flags, "--reference", trained, *more) is None
        found[control] = json.loads((out / "interaction.json").read_text())["reference"]
    for task in TASKS:
        permuted = np.roll(found[None][task]["curve"], 3)
        assert found["permuted"][task]["curve"] == pytest.approx(permuted)
        assert found["permuted"][task]["target"] != found[None][task]["target"]


def test_of_single_heads_those_that_look_most_are_aimed_at():
    """In their order, the first the most, over the rows that count; else at the mean."""
    heads = torch.tensor([[.1, .9, .5], [.2, .3, .8]])  # (L, H)
    intensity = heads[:, None].expand(-1, 4, -1).clone()  # (L, B, H)
    intensity[:, 2:] = 1 - intensity[:, 2:]
    valid = torch.tensor([True, True, True, False])
    picked = aia.aimed(intensity, valid, 2)
    assert picked.shape == (4, 4)
    torch.testing.assert_close(picked[:, 0], torch.tensor([.9, .5, .8, .3]))
    torch.testing.assert_close(aia.aimed(intensity, valid)[:, 0], heads.mean(1))
    curves = {"generate": [[.6, .4, .2], [.8, .2, .2]]}
    targets = aia.targets_of("run", curves, 3, heads=2)["generate"]
    assert targets["target"] == pytest.approx([.6, .4, .7, .3, .8, .2])
    assert targets["curve"] == pytest.approx([.4, .4, .4])


def test_heads_of_a_run_are_aimed_at(toy, trained, tmp_path, quick):
    flags = ("--aia", 1, "--aia_start", 0, "--steps", 2, "--reference", trained, "--heads", 2)
    assert train(toy, tmp_path / "run", *flags) is None
    about = json.loads((tmp_path / "run" / "interaction.json").read_text())
    measured = aia.measure(load_model(trained, "cpu")[0], data.load_dataset(toy.folder))
    for task in TASKS:
        largest = [layer[:2] for layer in measured[task]["heads"]]
        wanted = np.concatenate(largest)
        assert about["reference"][task]["target"] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("each", ["row", "head", "token", "pair"])
def test_a_teacher_pulls_until_attention_is_its_own(toy, trained, each):
    """It is off by nothing only if both attend alike, and pulling brings the one to the other."""
    teacher, _ = load_model(trained, "cpu")
    begun, _ = load_model(trained, "cpu", "pretrained.pt")
    for p in begun.parameters():
        p.data += .1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    batch = teacher.to_batch(*[array[:8] for array in toy.rows["train"]["understand"]])
    valid = batch["watched"].any(1) & batch["watching"].any(1)

    def mass_of(model):
        mass = model(batch, watch=True).mass
        maps = model(batch, watch=True, explicit="maps").mass
        torch.testing.assert_close(maps.sum(-1), mass, atol=1e-5, rtol=0)
        return maps if each == "pair" else mass

    def off(model):
        return aia.teacher_loss(each, mass_of(model), wanted, batch["watching"], valid, 8)

    with torch.no_grad():
        wanted = mass_of(teacher)
    assert off(teacher).item() == pytest.approx(0, abs=1e-6)
    opt = torch.optim.Adam(begun.parameters(), 1e-3)
    losses = []
    for _ in range(20):
        loss = off(begun)
        losses.append(loss.item())
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert 0 < losses[-1] < .3 * losses[0]


@pytest.mark.parametrize("each", ["token", "pair"])
def test_a_run_may_aim_at_what_another_does_row_by_row(toy, trained, tmp_path, quick, each):
    """At first it is off by nothing if it starts where the other ended."""
    ended = tmp_path / "ended"
    shutil.copytree(trained, ended)
    shutil.copyfile(ended / "ckpt.pt", ended / "pretrained.pt")
    flags = ("--init_from", ended, "--reference", trained, "--each", each, "--aia", 1,
             "--aia_every", 1, "--steps", 2, "--dtype", "float32")
    assert train(toy, tmp_path / "run", *flags) is None
    first = numbers_of(tmp_path / "run" / "log.csv")[0]
    for task in TASKS:
        assert first[f"aia_{task}"] == pytest.approx(0, abs=1e-4)
    said = train(toy, tmp_path / "other", "--arch", "evev2", *flags[2:])
    assert "name a run of the same --arch and --size" in said


def test_a_weight_that_fades_is_half_of_itself_half_way(toy, tmp_path, quick):
    """Of two steps the second alone is pulled, with a weight that fades and with half of it."""
    loss = aia.aia_loss
    for name, flags in (("fades", ("--aia", 1, "--aia_fade")), ("half", ("--aia", .5))):
        acts = []

        def second_alone(*args):
            acts.append(1)
            return loss(*args) * (len(acts) == 2)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(aia, "aia_loss", second_alone)
            assert train(toy, tmp_path / name, "--task", "understand", "--steps", 2,
                         "--aia_start", 0, "--aia_every", 1, *flags) is None
        assert len(acts) == 2
    assert same(weights(tmp_path / "fades"), weights(tmp_path / "half"))


def test_two_runs_do_not_train_one_missing_reference_at_once(toy, tmp_path, quick):
    """The second would begin by removing what the first has so far."""
    mine = as_if_real(toy, tmp_path / "mine")
    begun = mine.folder / "reference-nano-20-generate"
    begun.mkdir()
    ours = [sys.executable, "-c", "import sys; from tools.files import lock, unlock; "
            "print(lock(sys.argv[1]), flush=True); input(); unlock(sys.argv[1]); print(); input()",
            str(mine.folder)]
    first = subprocess.Popen(ours, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                             cwd=HERE)
    try:
        assert first.stdout.readline() == "True\n"
        flags = ("--aia", .1, "--reference", "small")
        assert "another run trains references" in train(mine, tmp_path / "run", *flags)
        assert begun.exists()
        first.stdin.write("\n")
        first.stdin.flush()
        first.stdout.readline()
        assert lock(mine.folder), "who is done lets others"
    finally:
        unlock(mine.folder)
        first.communicate("\n")


def as_if_real(toy, folder):
    """A copy of a data set that says it is of someone's own pictures."""
    shutil.copytree(toy.folder, folder)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"kind": "real"}))
    return load_dataset(folder)


def test_a_missing_reference_is_trained_and_kept(toy, tmp_path, quick):
    """Only the toy world has shipped curves; two short single-task runs make those of others."""
    folder = tmp_path / "mine"
    mine = as_if_real(toy, folder)
    flags = ("--aia", .1, "--reference", "small", "--steps", 1, "--ratio", "1:3", "--control",
             "permuted")
    assert train(mine, tmp_path / "run", *flags) is None
    aimed = json.loads((tmp_path / "run" / "interaction.json").read_text())["reference"]
    curves = json.loads((folder / "reference-nano-1.json").read_text())
    kept = aia.reference("small", 6, "nano", 1, mine)
    for task, rows in (("generate", 1), ("understand", 3)):
        assert len(curves[task]) == 6
        assert kept[task]["curve"] == pytest.approx(curves[task]), "as it is, without a control"
        assert aimed[task]["curve"] == pytest.approx(np.roll(curves[task], 3))
        config = json.loads((folder / f"reference-nano-1-{task}" / "config.json").read_text())
        assert config["train"]["task"] == task
        assert config["train"]["batch_size"] == rows, "as many rows as the run sees of this task"
    other_steps = aia.reference("small", 6, "nano", 2, mine)
    assert not other_steps, "they are of these steps alone"

    branch = ("--init_from", tmp_path / "run", "--aia", .1, "--reference", "small", "--steps", 2)
    assert train(mine, tmp_path / "branch", *branch) is None
    assert not list(folder.glob("reference-nano-2*")), "a branch aims where its run aimed"


# ---------------------------------------------------------------------------------------------
# processes and parts


def take_part():
    """
    What each process runs: train.py in float64, as Adam and Muon blow rounding errors up in
    float32.
    """
    init_weights = systems.init_weights

    def init_in_float64(model):
        init_weights(model)
        model.double()

    systems.init_weights = init_in_float64
    shorten(pytest.MonkeyPatch())
    sys.exit(run("train.py", *sys.argv[1:]))


def begin(toy, out, *flags, rank=0, world=1, port=0):
    """A run of three steps, AIA in the last two, or one of the processes of such a run."""
    words = [*short_run(toy, out), "--dtype", "float32", "--steps", 3, "--batch_size", 8,
             "--ratio", "1:1", "--eval_every", 9, "--aia_start", .3, "--aia", .5, *flags]
    environment = os.environ | {
        "WORLD_SIZE": str(world), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    start = "from tests.test_train import take_part; take_part()"
    return subprocess.Popen([sys.executable, "-c", start, *map(str, words)], cwd=HERE,
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def numbers_of(log):
    with open(log) as f:
        lines = list(csv.DictReader(f))
    return [{name: float(value or 0) for name, value in line.items()} for line in lines]


def test_processes_and_parts_add_up_to_the_same_step(toy, tmp_path):
    """
    Two processes that take their rows in two parts each, layers computed anew, make the steps of
    one process that takes all at once: AIA, clipping and optimisers included. So do two that keep
    everything in shards.
    """
    parts = ("--accumulate", 2, "--checkpoint")
    jobs = [begin(toy, tmp_path / "one")]
    for port, (out, *flags) in zip(free_ports(2), (("two",), ("shards", "--fsdp"))):
        for rank in range(2):
            jobs.append(begin(toy, tmp_path / out, *flags, *parts, rank=rank, world=2, port=port))
    said = [job.communicate(timeout=240)[0].decode() for job in jobs]
    assert not any(job.returncode for job in jobs), said

    one = weights(tmp_path / "one")
    assert not same(one, weights(tmp_path / "one", "pretrained.pt"))
    for other in ("two", "shards"):
        for name, weight in weights(tmp_path / other).items():
            torch.testing.assert_close(weight, one[name], atol=1e-9, rtol=0)
        own = numbers_of(tmp_path / "one" / "log.csv")
        for line, own_line in zip(numbers_of(tmp_path / other / "log.csv"), own, strict=True):
            assert line == pytest.approx(own_line, rel=1e-5)


# ---------------------------------------------------------------------------------------------
# stages


@pytest.mark.parametrize("arch", ["evev2", "utamoe"])
def test_an_architecture_trains_in_its_stages_is_scored_and_talks(toy, trained, tmp_path, arch,
                                                                  capsys):
    flags = ("--arch", arch, "--init_from", trained, "--steps", 10, "--aia", .1, "--exam", 1)
    out = tmp_path / arch
    assert train(toy, out, *flags) is None
    assert capsys.readouterr().out.count("weights train") == len(PRESETS[arch]["stages"])
    scores = json.loads((out / "scores.json").read_text())
    assert {"toy-GenEval", "toy-MMVP"} <= scores.keys()
    if arch == "utamoe":  # in the first stage the label chooses among its task's experts
        with open(out / "log.csv") as f:
            first = [line for line in csv.DictReader(f) if line["load_generate"]][0]
        for task, own in (("understand", slice(0, 2)), ("generate", slice(2, 4))):
            load = [float(share) for share in first[f"load_{task}"].split()]
            assert sum(load[own]) == pytest.approx(1, abs=.05)
    assert run("sample.py", out, "--prompt", "a red circle", "--png", tmp_path / "x.png") is None
    picture = HERE / "assets" / "scene.png"
    assert run("sample.py", out, "--image", picture, "--ask", "what color is the circle?") is None


def test_a_frozen_weight_is_bit_identical_afterwards(toy, trained, tmp_path, monkeypatch, quick):
    """EVEv2's first two stages: new eyes and the second copies train, the rest stays as it was."""
    first_two = [stage | {"share": .5} for stage in PRESETS["evev2"]["stages"][:2]]
    monkeypatch.setitem(PRESETS["evev2"], "stages", first_two)
    out = tmp_path / "x"
    assert train(toy, out, "--arch", "evev2", "--init_from", trained, "--steps", 10) is None
    before = weights(trained, "pretrained.pt")
    after = weights(out)
    torch.manual_seed(0)
    config = json.loads((out / "config.json").read_text())["model"]
    fresh = build(Config(**config)).state_dict()
    for name, weight in after.items():
        if name.startswith("eyes."):
            assert not torch.equal(weight, fresh[name]), name
        elif any(part in name for part in SECOND_COPIES):
            first_copy = re.sub(r"(norm1|norm2|qkv|qk_norm|proj|ffn)\.1\.", r"\1.0.", name)
            assert not torch.equal(weight, before[first_copy]), name
        else:
            assert torch.equal(weight, before[name]), name


def test_a_branch_of_a_staged_run_goes_on_with_its_last_stage(toy, tmp_path, quick):
    """So with and without AIA can be compared for every architecture, bit for bit."""
    flags = ("--arch", "januspro", "--task", "understand", "--aia", .5)
    staged = (*flags, "--steps", 10, "--stages", "on", "--aia_start", .6)  # as its last stage
    assert train(toy, tmp_path / "x", *staged) is None
    branch = (*flags, "--steps", 4, "--aia_start", 0, "--init_from", tmp_path / "x")
    assert train(toy, tmp_path / "y", *branch) is None
    assert same(weights(tmp_path / "x"), weights(tmp_path / "y"))


def test_a_branch_has_the_shape_of_its_source(toy, tmp_path, quick):
    """With the same rows before its rows, and the same left out, it is its source to the bit."""
    flags = ("--interleave", "--dropout", .2, "--steps", 4)
    source = ("--n_layer", 2, "--n_head", 2, "--n_embd", 32, "--no-cues", "--aia", 1)
    assert train(toy, tmp_path / "x", *flags, *source) is None
    branch = ("--no-cues", "--aia", 1, "--init_from", tmp_path / "x", "--aia_start", 0,
              "--interleave", "--dropout", .2, "--steps", 2)
    assert train(toy, tmp_path / "y", *branch) is None
    assert same(weights(tmp_path / "x"), weights(tmp_path / "y"))
    other = train(toy, tmp_path / "z", *branch, "--n_layer", 3)
    assert "a network of another shape" in other


# ---------------------------------------------------------------------------------------------
# what is refused


@pytest.mark.parametrize("flags, why", [
    (("--ratio", "1-1"), "wanted is generate:understand"),
    (("--ratio", "0:0"), "wanted is generate:understand"),
    (("--data", "nowhere/mine"), "no data set here"),
    (("--init_from", "nowhere"), "no run here"),
    (("--reference", "nowhere"), "no run here"),
    (("--reference", "own"), "of the network that --init_from names"),
    (("--balance", "--task", "generate"), "two tasks in one process"),
    (("--control", "constant", "--reference", "small"), "add --aia"),
    (("--aia", 1, "--control", "constant"), "--reference paper is a table"),
    (("--aia", 1, "--control", "layers", "--reference", "out/x", "--heads", 2), "already"),
    (("--aia", 1, "--control", "layers", "--reference", "own", "--init_from", "out/x"), "already"),
    (("--aia", 1, "--control", "swapped", "--reference", "small", "--task", "generate"),
     "of two tasks"),
    (("--aia", 1, "--reference", "small", "--heads", 2), "says nothing of single heads"),
    (("--aia", 1, "--reference", "small", "--maps"), "--each pair: --reference small is a number"),
    (("--each", "row"), "add --aia"),
    (("--aia_fade", "--aia_start", 1), "add --aia"),
    (("--aia", 1, "--reference", "out/x", "--heads", 2, "--accumulate", 2), "rows at once"),
    (("--batch_size", 1), "too few rows for both tasks"),
    (("--batch_size", 8, "--ratio", "3:5", "--accumulate", 2), "both are to be multiples of 2"),
    (("--split", "ffm"), "any of norm, qkv, ffn, ends"),
    (("--split", "qkv", "--route", "learned"), "routers choose among copies of ffn"),
    (("--experts", 2), "need a router"),
    (("--noises", 2), "is of pictures drawn by flow"),
    (("--noises", 0), "--noises 0: wanted is a number of at least 1"),
    (("--steps", 0), "--steps 0: wanted is a number of at least 1"),
    (("--aia", "nan"), "--aia nan: wanted is a number of at least 0"),
    (("--lr", "inf"), "--lr inf: wanted is a finite number"),
    (("--aia_start", 1.5), "wanted is a share from 0 to 1"),
    (("--aia", 1, "--aia_start", 1), "leaves none of the 20 steps to AIA"),
    (("--fsdp",), "shards are for several processes"),
    (("--n_train", 10**6), "rows to generate; take fewer"),
    (("--dropout", 1.1), "wanted is a share from 0 to 1"),
    (("--interleave", "--see", "patches"), "of networks that see tokens"),
    (("--n_layer", 0), "--n_layer 0: wanted is a number of at least 1"),
    (("--n_embd", 100), "--n_embd 100: wanted is a multiple of 8"),
    (("--arch", "moe", "--stages", "on"), "--arch moe has none"),
    (("--arch", "evev2", "--see", "tokens", "--stages", "on"), "finds no such weights")])
def test_train_refuses_with_one_line(toy, tmp_path, flags, why):
    said = train(toy, tmp_path / "x", *flags)
    assert why in said
    assert "\n" not in said
    assert not (tmp_path / "x" / "ckpt.pt").exists()


def test_a_data_set_of_one_task_trains_that_task_alone(toy, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(toy.folder, folder)
    meta = json.loads((folder / "meta.json").read_text())
    files = {name: about for name, about in meta["files"].items() if "understand" not in name}
    (folder / "meta.json").write_text(json.dumps(meta | {"files": files}))
    mine = load_dataset(folder)
    said = train(mine, tmp_path / "x")
    assert said == f"{folder}: has no understand rows; train with --task generate"


def test_ctrl_c_says_how_to_go_on(toy, names, tmp_path, monkeypatch):
    out = tmp_path / "run"

    def interrupt(*_):
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(data, "load_dataset", interrupt)
        assert "before anything was saved" in train(toy, out, "--task", "understand")
    with monkeypatch.context() as patch:
        patch.setattr(Muon, "step", interrupt)
        said = train(toy, out, "--task", "understand")
    assert said == f"\nstopped; go on with: python train.py --out {out} --resume"
    with pytest.raises(SystemExit, match="the network is saved, score it with: python -m exam"):
        names["stop"]()


def test_a_resumed_run_takes_its_steps_as_before_unless_told(trained, tmp_path, monkeypatch):
    """It may have been in parts because memory was short."""
    config = json.loads((trained / "config.json").read_text())
    config["train"] |= {"accumulate": 4, "checkpoint": True}
    (tmp_path / "config.json").write_text(json.dumps(config))

    def flags(*words):
        monkeypatch.setattr("sys.argv", ["train.py", "--out", str(tmp_path), "--resume", *words])
        return read_flags()

    assert flags().accumulate == 4
    assert flags().checkpoint
    assert flags("--accumulate", "2").accumulate == 2
    assert flags("--accumulate=2").checkpoint


def test_a_resumed_run_takes_no_other_flags(trained):
    assert "leave out --lr" in run("train.py", "--out", trained, "--resume", "--lr", .1)
    assert "this run is finished" in run("train.py", "--out", trained, "--resume", "--no-compile")


def test_a_run_that_was_stopped_in_its_exam_is_examined_again(trained, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    scores = (out / "scores.json").read_text()
    (out / "scores.json").unlink()
    assert run("train.py", "--out", out, "--resume") is None
    assert same(weights(out), weights(trained))
    assert json.loads((out / "scores.json").read_text()) == json.loads(scores)


def test_what_is_there_is_not_written_over(toy, trained, tmp_path):
    before = {file: file.read_bytes() for file in trained.iterdir() if file.is_file()}
    for flags in ((), ("--init_from", trained)):
        assert "would be lost" in train(toy, trained, *flags)
    assert "would be lost" in train(toy, HERE / "README.md")
    rest = tmp_path / "rest"
    rest.mkdir()
    shutil.copy(trained / "pretrained.pt", rest)  # as is left where ckpt.pt was removed
    assert "would be lost" in train(toy, rest)
    assert "holds other runs; name a folder in it" in train(toy, trained.parent)
    assert "cannot be made" in train(toy, HERE / "README.md" / "x")
    assert all(file.read_bytes() == content for file, content in before.items())
