"""
test_all.py: the laws of the system that are worth reading, one a test, in the reading order of the
files. Each would fail if its law broke. More of them are in tests/, a file for each room.

    python -m pytest -q
"""
import ast
import csv
import json
import re
import shlex

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import aia
import data
from data import TARGET, TASKS, WATCHED, WATCHING, window
from model import PRESETS
from sample import answer, draw, extend
from systems.dial import cost
from systems.start import start_from
from tests.common import (HERE, every_place, interleaved_rows, read, run, same, small_model,
                          task_batch, text_batch, train, weights)
from tools.muon import Muon

pytest_plugins = "tests.fixtures"

# ---------------------------------------------------------------------------------------------
# the house

FLOORS = ["tools", "data toy", "model", "systems", "aia", "sample", "exam", "train", "lab"]


def test_imports_run_one_way():
    """What is on a floor imports only from its own and those below. (Commands open late.)"""
    floor_of = {}
    for floor, rooms in enumerate(FLOORS):
        for room in rooms.split():
            floor_of[room] = floor
    for file in HERE.rglob("*.py"):
        room = file.relative_to(HERE).parts[0].removesuffix(".py")
        if room not in floor_of:
            continue
        for statement in ast.parse(file.read_text()).body:
            if isinstance(statement, ast.Import):
                names = [alias.name for alias in statement.names]
            elif isinstance(statement, ast.ImportFrom):
                names = [statement.module]
            else:
                continue
            for name in names:
                other = name.split(".")[0]
                assert floor_of.get(other, 0) <= floor_of[room], f"{file} imports {name}"


# ---------------------------------------------------------------------------------------------
# data.py


def test_roles_of_a_row_to_generate(toy):
    special = toy.enc._special_tokens
    first = toy.meta["first_image"]
    ids, roles = data.make_row(toy.enc, first, range(64), prompt="a red circle")
    assert ids[0] == special["<|bos|>"]
    assert ids[4] == special["<|boi|>"]
    assert ids[5:] == list(range(first, first + 64))
    prompt = [0, WATCHED, WATCHED, WATCHED]
    picture = [TARGET | WATCHING] * 63 + [TARGET]
    assert roles == [*prompt, WATCHING, *picture]


def test_roles_of_a_row_to_understand(toy):
    turns = [("what color is the circle?", "red"), ("describe the picture.", "large red circle")]
    ids, roles = data.make_row(toy.enc, toy.meta["first_image"], range(64), turns=turns)
    assert roles[:67] == [0, 0] + [WATCHED] * 64 + [0]
    said = [toy.enc.decode([i]) for i, role in zip(ids, roles) if role & TARGET]
    assert said == ["red", "<|end|>", "large", " red", " circle", "<|end|>"]
    for role, next_role in zip(roles, roles[1:]):
        assert bool(role & WATCHING) == bool(next_role & TARGET), "watching is whoever predicts"


def test_a_batch_tells_of_each_token_what_it_is():
    """A row of text, a picture to understand, text that is predicted, a picture to be drawn."""
    first_image, n_codes, n_image = 64, 56, 4
    ids = np.array([[1, 2, 70, 71, 72, 73, 3, 4, 80, 81, 82, 83]])
    roles = np.array([[0, 0] + [WATCHED] * 4 + [TARGET] * 2 + [TARGET] * 4])
    row = data.describe(ids, roles, first_image, n_codes, n_image, route="generated")
    assert row["place"].tolist() == [[4, 4, 0, 1, 2, 3, 4, 4, 0, 1, 2, 3]]
    assert row["picture"].tolist() == [[-1, -1, 0, 0, 0, 0, -1, -1, 1, 1, 1, 1]]
    assert row["generated"].tolist() == [[False] * 8 + [True] * 4]
    assert row["copy"].tolist() == row["generated"].tolist()
    assert row["drawing"].tolist() == [[False] * 7 + [True] * 5], "what comes next decides the task"

    batch = window(row, 5, 9)  # tokens 5 to 8, of which the next ones are 6 to 9
    assert batch["targets"].tolist() == [[3, 4, 80, 81]]
    assert batch["loss"].all()
    assert batch["next_generated"].tolist() == [[False, False, True, True]]
    assert batch["loss_sizes"] == [2, 2]
    assert batch["copy_sizes"] == [3, 1]


def test_condition_dropout_hides_the_whole_prompt_and_nothing_else(toy):
    ids, roles = [array[:4] for array in toy.rows["train"]["generate"]]
    model = small_model()
    first_image = toy.meta["first_image"]
    model.config.first_image, model.config.levels = first_image, (8, 5, 5, 5)
    model.config.n_image = toy.meta["n_image"]
    plain = model.to_batch(ids, roles)
    dropped = model.to_batch(ids, roles, drop=np.array([True, False, True, False]))
    changed = plain["ids"] != dropped["ids"]
    assert torch.equal(changed[::2], plain["watched"][::2])
    assert not changed[1::2].any()
    assert (dropped["ids"][changed] == data.special_id("<|null|>", first_image)).all()
    assert not dropped["watched"][::2].any()
    assert torch.equal(plain["loss"], dropped["loss"])


# ---------------------------------------------------------------------------------------------
# model.py: the interaction


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("arch", PRESETS)
def test_the_fused_interaction_equals_the_explicit_one_gradients_too(arch, task):
    model = small_model(arch)
    batch = task_batch(model, task)
    gradients = []
    masses = []
    for explicit in (False, True):
        output = model(batch, watch=True, explicit=explicit)
        intensity = aia.interaction(output.mass, batch["watching"]).mean(-1)
        loss = output.logits.logsumexp(-1).mean() + intensity.square().sum()
        model.zero_grad()
        loss.backward()
        masses.append(output.mass)
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*masses, atol=1e-5, rtol=0)
    assert masses[0].std() > .01
    for fused, explicit in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, explicit, atol=1e-4, rtol=1e-3)


def test_the_interaction_is_a_share_of_the_attention():
    model = small_model()
    batch = text_batch(model, np.random.default_rng(0).integers(0, 128, (2, 30)))
    half = torch.rand(batch["ids"].shape) < .5

    def mass(watched):
        with torch.no_grad():
            return model(batch | {"watched": watched}, watch=True).mass

    every = mass(half | ~half)
    torch.testing.assert_close(every, torch.ones_like(every))
    torch.testing.assert_close(mass(half) + mass(~half), every)
    assert not mass(half & ~half).any()


def test_measuring_changes_no_logit():
    model = small_model()
    batch = task_batch(model, "generate")
    torch.testing.assert_close(model(batch).logits, model(batch, watch=True).logits)


# ---------------------------------------------------------------------------------------------
# model.py: who sees whom


def read_in_windows(model, row, ends, pixels):
    """
    What a network says of a described row, and what it measures, if it reads it bit by bit, up to
    each of the ends. pixels: {the number of a window: the pictures to understand in it}
    """
    cache = model.new_cache(torch.zeros(len(row["ids"]), dtype=torch.long), ends[-1])
    logits = []
    masses = []
    for number, end in enumerate(ends):
        batch = window(row, cache.used, end)
        if number in pixels:
            batch["pixels"] = pixels[number]
        output = read(model, batch, cache)
        logits.append(output.logits)
        masses.append(output.mass)
        cache.used = end
    return torch.cat(logits, 1), torch.cat(masses, 3)


# networks that draw token by token; of the others' laws see tests/test_flow.py
BY_TOKENS = [arch for arch in PRESETS if PRESETS[arch].get("draw", "tokens") == "tokens"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("arch", BY_TOKENS)
def test_no_token_sees_the_future(arch, task):
    model = small_model(arch)
    batch = task_batch(model, task)
    n = 44 if task == "generate" else 30  # a row to generate ends with its picture
    before = every_place(model, batch)
    ids = batch["ids"].clone()
    kind = (64, 120) if task == "generate" else (0, 64)
    ids[:, n:] = torch.randint(*kind, ids[:, n:].shape)
    after = every_place(model, batch | {"ids": ids})
    torch.testing.assert_close(before[:, :n], after[:, :n], atol=1e-5, rtol=0)
    assert not torch.allclose(before[:, n:], after[:, n:], atol=1e-2)


def test_a_picture_is_seen_whole_only_with_full_and_never_one_that_is_drawn():
    changed = {}
    for full in (False, True):
        model = small_model(full=full)
        ids, roles, _ = interleaved_rows(model)  # row 0 understands the first picture and draws
        row = model.describe(ids, roles)         # the second; row 1 the other way round
        first_picture = slice(4, 13)
        before = every_place(model, window(row, 0, 31))
        last = row["ids"][:, 12]  # token of the first picture
        last[:] = 64 + (last - 63) % 56
        after = every_place(model, window(row, 0, 31))
        differs = (before != after).any(-1)[:, first_picture]
        changed[full] = differs[:, :-1].any(1).tolist()
    assert changed == {False: [False, False], True: [True, False]}


@pytest.mark.parametrize("arch", [*BY_TOKENS, "full"])
def test_rows_may_hold_any_pieces_in_any_order(arch):
    """
    Text, picture, text, picture, text: some pictures are seen, some are drawn, words between them
    are said. Measured explicitly or in the fused kernel, read at once or bit by bit: it is the
    same, and one training step teaches it all.
    """
    model = small_model(full=True) if arch == "full" else small_model(arch)
    ids, roles, pixels = interleaved_rows(model, B=4)
    batch = model.to_batch(ids, roles, pixels)

    # a step: all losses and AIA
    output = model(batch, watch=True)
    target = torch.full((3, 1), .5)
    valid = torch.ones(4, dtype=torch.bool)
    intensity = aia.interaction(output.mass, batch["watching"]).mean(-1)
    loss = F.cross_entropy(output.logits, batch["targets"][batch["loss"]])
    (loss + aia.aia_loss(intensity, valid, target, target)).backward()
    assert 0 < loss < 100
    assert model.blocks[0].attn.qkv[0].weight.grad.any()

    # fused = explicit
    explicit = model(batch, watch=True, explicit=True)
    torch.testing.assert_close(output.mass, explicit.mass, atol=1e-5, rtol=0)

    # at once = bit by bit: a picture to understand comes whole, all else token by token
    if model.eyes is not None:
        ids, roles = model.eyes.frame(ids, roles)
    row = model.describe(ids, roles)
    for b, first_is_seen in ((0, True), (3, False)):
        one = {name: array[b:b + 1] for name, array in row.items()}
        T = ids.shape[1] - 1
        seen = np.flatnonzero((one["picture"][0] >= 0) & ~one["generated"][0])
        whole = range(seen[0], seen[-1])
        ends = [end for end in range(1, T + 1) if end - 1 not in whole]
        number = ends.index(seen[-1] + 1)  # of the window with the picture
        picture = torch.from_numpy(pixels[b:b + 1])
        assert (seen[0] < 10) == first_is_seen
        at_once = read(model, window(one, 0, T) | {"pixels": picture})
        logits, mass = read_in_windows(model, one, ends, {number: picture})
        torch.testing.assert_close(logits, at_once.logits, atol=1e-4, rtol=0)
        torch.testing.assert_close(mass, at_once.mass, atol=1e-5, rtol=0)


@pytest.mark.parametrize("arch", BY_TOKENS)
def test_the_cache_changes_nothing_and_neither_does_what_a_row_is_batched_with(arch):
    model = small_model(arch)
    long, short = ([1, 2, 3, 4, 5], [0] * 5), ([7, 8, 9], [0] * 3)

    def likeliest(logits, k):
        return logits[:, 64:120].argmax(-1) + 64

    both = extend(model, [long, short], 9, 64, likeliest)
    anew = extend(model, [long, short], 9, 64, likeliest, cached=False)
    alone = [extend(model, [start], 9, 64, likeliest) for start in (long, short)]
    assert torch.equal(both, anew)
    assert torch.equal(both, torch.cat(alone))
    assert len(both.unique()) > 2


# ---------------------------------------------------------------------------------------------
# model.py: the dial

SPLITS = [(("norm",), "modality"), (("qkv",), "modality"), (("ffn",), "modality"),
          (("norm", "qkv", "ffn"), "modality"), (("norm", "qkv", "ffn"), "generated"),
          (("norm", "qkv", "ffn", "ends"), "task")]


@pytest.mark.parametrize("split, route", SPLITS)
def test_equal_copies_are_the_dense_network_at_its_price(split, route):
    dense = small_model()
    model = small_model(split=split, route=route)
    start_from(model, dense.state_dict())
    for task in TASKS:
        batch = task_batch(model, task)
        assert torch.equal(every_place(model, batch), every_place(dense, batch))
    price = cost(model.config)
    dense_price = cost(dense.config)
    assert price["flops"] == dense_price["flops"]
    assert price["active"] == dense_price["active"]
    assert price["total"] > dense_price["total"]


@pytest.mark.parametrize("split, route", SPLITS)
def test_each_token_takes_its_own_copy_only(split, route):
    model = small_model(split=split, route=route)
    batches = {task: task_batch(model, task, B=1) for task in TASKS}
    before = {task: every_place(model, batches[task]) for task in TASKS}
    second = [p for name, p in model.named_parameters()
              if re.search(r"(norm\d?|qkv|proj|ffn|embed|row|column|head)\.1\.", name)]
    with torch.no_grad():
        for p in second:
            p.add_(torch.randn_like(p))
    changed = {}
    for task in TASKS:
        changed[task] = (every_place(model, batches[task]) != before[task]).any(-1)[0]
    assert changed["generate"][-9:].all()  # the picture that is drawn
    assert changed["generate"][:-9].any() == (route == "task")
    assert changed["understand"].any() == (route == "modality")


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("route", ["learned", "supervised", "oracle"])
def test_experts_that_are_copies_of_one_ffn_are_the_dense_network(route, shared):
    dense = small_model()
    model = small_model(split=("ffn",), route=route, experts=3, shared=shared)
    start_from(model, dense.state_dict())
    for task in TASKS:
        batch = task_batch(model, task)
        output = model(batch)
        torch.testing.assert_close(output.logits, dense(batch).logits, atol=1e-4, rtol=0)
        assert output.load.sum() == pytest.approx(1)
        if route == "oracle":
            assert output.load[3:].any() == (task == "generate"), "the second three are to draw"


# ---------------------------------------------------------------------------------------------
# aia.py


def test_ranges_are_few_and_cut_where_the_curve_jumps():
    target, threshold = aia.in_ranges([.4, .42, .38, .1, .12, .3, .28], 3)
    assert np.allclose(target, [.4] * 3 + [.11] * 2 + [.29] * 2)
    assert np.allclose(threshold, .05)
    curve = list(np.random.default_rng(0).random(6))
    target, _ = aia.in_ranges(curve, 6)
    assert np.allclose(target, curve), "as many ranges as layers is no ranges"


def test_the_paper_s_table_is_laid_over_depth():
    targets = aia.reference("paper", 32)
    understand = targets["understand"]["target"]
    generate = targets["generate"]["threshold"]
    assert [understand[i] for i in (0, 9, 10, 19, 20, 30, 31)] == [.1, .1, .15, .15, .3, .3, .2]
    assert [generate[i] for i in (0, 9, 10, 24, 25, 31)] == [.2, .2, .1, .1, .05, .05]
    assert len(aia.reference("paper", 6)["generate"]["target"]) == 6


def test_the_loss_is_huber_over_its_threshold():
    intensity = torch.rand(4, 3)
    target = torch.rand(4, 1)
    threshold = torch.full((4, 1), .1)
    every = torch.ones(3, dtype=torch.bool)
    loss = aia.aia_loss(intensity, every, target, threshold)
    torch.testing.assert_close(loss, F.smooth_l1_loss(intensity, target.expand(4, 3), beta=.1))
    one = torch.tensor([True, False, False])
    loss = aia.aia_loss(intensity, one, target, threshold)
    torch.testing.assert_close(loss, F.smooth_l1_loss(intensity[:, :1], target, beta=.1))
    assert aia.aia_loss(intensity, ~every, target, threshold) == 0, "rows that do not count"


def test_the_loss_moves_the_interaction_to_its_target():
    model = small_model()
    batch = text_batch(model, np.random.default_rng(0).integers(0, 128, (4, 41)))
    batch["watched"] = torch.zeros(4, 40, dtype=torch.bool)
    batch["watched"][:, 5:15] = True
    watching = torch.zeros(4, 40, dtype=torch.bool)
    watching[:, 20:] = True
    target = torch.tensor([[.6], [.1], [.3]])
    threshold = torch.full((3, 1), .05)
    opt = torch.optim.Adam(model.parameters(), 3e-3)
    off = []
    for _ in range(60):
        intensity = aia.interaction(model(batch, watch=True).mass, watching)
        intensity = intensity.mean(-1)  # (L, B)
        off.append((intensity - target).abs().mean().item())
        loss = aia.aia_loss(intensity, watching.any(1), target, threshold)
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert off[-1] < .2 * off[0]


# ---------------------------------------------------------------------------------------------
# sample.py


def test_a_picture_does_not_depend_on_its_batch(toy, trained, network):
    prompts = ["a red circle", "two blue squares", "a small green cross"]
    everything = {"seed": 3, "top_p": 1.}  # where a nucleus ends, rounding may decide
    together = draw(network, toy.enc, prompts, **everything)
    apart = [draw(network, toy.enc, [p], first=i, **everything) for i, p in enumerate(prompts)]
    assert torch.equal(together, torch.cat(apart))
    other = draw(network, toy.enc, prompts, **everything | {"seed": 4})
    assert not torch.equal(together, other)


def test_only_what_is_legal_is_drawn_and_said(toy, network):
    codes = draw(network, toy.enc, ["a red circle"] * 2, temperature=20.)
    assert codes.shape == (2, toy.meta["n_image"])
    assert 0 <= codes.min() <= codes.max() < 1000
    talks = [[("what color is the circle?", "")]] * 2
    for text in answer(network, toy.enc, codes, talks):
        assert not re.search(r"<\|(?!end)", text)


# ---------------------------------------------------------------------------------------------
# train.py


def test_aia_off_is_bit_identical_to_none_and_on_it_is_not(toy, trained, tmp_path):
    assert train(toy, tmp_path / "none") is None
    assert train(toy, tmp_path / "zero", "--aia", 0) is None
    assert same(weights(tmp_path / "none"), weights(tmp_path / "zero"))
    first_phase = weights(tmp_path / "none", "pretrained.pt")
    assert same(first_phase, weights(trained, "pretrained.pt")), "AIA leaves that alone"
    assert not same(weights(tmp_path / "none"), weights(trained))


def test_a_branch_is_the_second_phase_bit_for_bit(toy, trained, tmp_path):
    """
    So --init_from RUN without --aia gives what that very run would have become without it: the
    paired comparison.
    """
    flags = ("--init_from", trained, "--aia_start", 0, "--steps", 10, "--aia", .5)
    assert train(toy, tmp_path / "branch", *flags) is None
    assert same(weights(tmp_path / "branch"), weights(trained))
    assert not same(weights(trained), weights(trained, "pretrained.pt"))


def test_resumed_equals_uninterrupted(toy, tmp_path, monkeypatch):
    """
    Killed at step 15, between two steps with AIA, after the evaluation at step 11; gone on with
    --resume alone: the same weights, the same log.
    """
    class Killed(Exception):
        pass

    taken = []
    step = Muon.step

    def step_until_killed(self):
        taken.append(1)
        if len(taken) == 16:
            raise Killed
        return step(self)

    flags = ("--aia", .5, "--eval_every", 11)
    whole, half = tmp_path / "whole", tmp_path / "half"
    assert train(toy, whole, *flags) is None
    with monkeypatch.context() as patch:
        patch.setattr(Muon, "step", step_until_killed)
        with pytest.raises(Killed):
            train(toy, half, *flags)
    assert run("train.py", "--out", half, "--resume") is None
    assert same(weights(half), weights(whole))
    assert (half / "log.csv").read_text() == (whole / "log.csv").read_text()
    assert "finished" in run("train.py", "--out", half, "--resume")


def test_the_network_learns_both_tasks(trained):
    history = json.loads((trained / "interaction.json").read_text())["history"]
    for task in TASKS:
        assert history[-1]["val"][task] < history[0]["val"][task] - .5


def test_a_run_leaves_what_main_md_promises(trained):
    for name in ("config.json", "ckpt.pt", "pretrained.pt", "tokenizer.pt", "log.csv",
                 "interaction.json", "interaction.png", "samples.png", "scores.json"):
        assert (trained / name).stat().st_size > 0
    with open(trained / "log.csv") as f:
        evaluated = [line["step"] for line in csv.DictReader(f) if line["val_generate"]]
    assert evaluated == ["0", "10", "20"]
    scores = json.loads((trained / "scores.json").read_text())
    assert {"summary", "toy-GenEval", "toy-MME", "toy-MMVP", "loss", "distance"} <= scores.keys()


# ---------------------------------------------------------------------------------------------
# README.md

FLAGS = {"train.py": "systems/flags.py", "sample.py": "lab/play.py", "data.py": "toy/command.py",
         "aia.py": "lab/curves.py", "exam": "exam/__main__.py", "lab.cost": "lab/cost.py",
         "lab.bench": "lab/bench.py", "lab.kill": "lab/kill.py",
         "systems.siglip": "systems/siglip.py", "systems.painter": "systems/painter.py",
         "systems.semantic": "systems/semantic.py", "lab.study": "lab/study.py",
         "lab.conflict": "lab/conflict.py", "lab.assess": "lab/assess.py", "pytest": None}


@pytest.mark.parametrize("readme", ["README.md", *(f"{wing}/README.md" for wing in
                                                   ("exam", "lab", "systems", "tools", "toy"))])
def test_every_command_of_a_readme_exists_with_its_flags(readme):
    text = (HERE / readme).read_text()
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.S)
    commands = []
    for line in "\n".join(blocks).splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        if words[0] == "torchrun":
            words = words[words.index("train.py") - 1:]
        elif words[0] != "python" or words[1].startswith("evaluation/"):  # of the benchmarks' own
            continue
        commands.append(words[2:] if words[1] == "-m" else words[1:])
    assert len(commands) > (8 if readme == "README.md" else 0)
    for name, *words in commands:
        source = FLAGS[name]  # a KeyError here: there is no such command
        for word in words:
            if source and word.startswith("--"):
                word = word.replace("--no-", "--")  # argparse adds the no
                assert f'"{word}"' in (HERE / source).read_text(), (name, word)
