"""
tests/test_systems.py: the laws of systems/: other eyes and hands, the dial, one system from
another, the folders of runs.
"""
import json
import os
import shutil
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import aia
from data import TARGET, TASKS, WATCHED, load_tokenizer, shifted, special_id
from model import PRESETS, Config
from sample import answer, draw
from systems import build
from systems.dial import cost, with_flags
from systems.interleave import all_behind, pick_others, put_behind
from systems.losses import row_losses
from systems.plan import name_of_run, rows_a_step
from systems.runs import VERSION, latest_run, load_model, next_command
from systems.start import shares_of_lr, source_of, start_from, start_from_run, trains
from tests.common import every_place, same, small_config, small_model, task_batch, weights
from tools.muon import optimizers

pytest_plugins = "tests.fixtures"

# ---------------------------------------------------------------------------------------------
# eyes and hands


def test_markers_frame_a_picture_to_understand_and_no_other():
    """<|cls|>, and <|row|> after each row of patches: watched as the picture is, never targets."""
    model = small_model("evev2")
    seen = [70] * 9
    drawn = [80] * 9
    ids, roles = model.eyes.frame([np.array([1, 2, *seen, 3, *drawn])],
                                  [np.array([0, 0] + [WATCHED] * 9 + [0] + [TARGET] * 9)])
    assert ids[0].tolist() == [1, 2, 120] + [70, 70, 70, 121] * 3 + [3, *drawn]
    assert roles[0].tolist() == [0, 0] + [WATCHED] * 13 + [0] + [TARGET] * 9


def test_markers_change_nothing_of_what_is_asked_and_answered(toy):
    config = Config(first_image=toy.meta["first_image"], block_size=toy.meta["block_size"])
    plain = build(config)
    framed = build(with_flags(config, "emu3", see="patches"))
    rows = [array[:2] for array in toy.rows["train"]["understand"]]
    one = plain.to_batch(*rows)
    other = framed.to_batch(*rows)
    assert other["watched"].sum() == one["watched"].sum() + 2 * 7, "a row's begin, and 6 ends"
    assert torch.equal(other["targets"][other["loss"]], one["targets"][one["loss"]])


@pytest.mark.parametrize("see", ["patches", "encoder"])
def test_other_eyes_see_pixels_and_not_tokens(see):
    model = small_model(see=see)
    batch = task_batch(model, "understand")
    before = every_place(model, batch)
    is_code = batch["picture"] >= 0
    other_codes = batch["ids"].masked_fill(is_code, 64)
    assert torch.equal(every_place(model, batch | {"ids": other_codes}), before)

    batch["pixels"][:, -1, -1] = 255 - batch["pixels"][:, -1, -1]  # the corner at the lower right
    after = every_place(model, batch)
    image_tokens = is_code[0].nonzero().flatten()
    # an encoder looks both ways; patches stand for themselves
    first = image_tokens[0] if see == "encoder" else image_tokens[-1]
    torch.testing.assert_close(before[:, :first], after[:, :first], atol=1e-6, rtol=0)
    assert (before[:, first] != after[:, first]).any()


def test_a_hand_of_its_own_draws_image_tokens_alone():
    model = small_model(own_head=True)
    logits = model(task_batch(model, "generate")).logits
    is_possible = logits.isfinite().all(0)
    assert is_possible.nonzero().flatten().tolist() == list(range(64, 120))
    assert model(task_batch(model, "understand")).logits.isfinite().all()


@pytest.mark.parametrize("arch", PRESETS)
def test_every_architecture_takes_the_toy_world_s_rows(arch, toy):
    """Drawn, asked, measured, taught the interaction: one network, whatever the dial says."""
    tok = load_tokenizer(toy.folder / "tokenizer.pt")
    sizes = [toy.meta[name] for name in ("block_size", "vocab_size", "first_image", "n_image")]
    config = Config(2, 2, 32, *sizes, tok.levels, tok.patch)
    model = build(with_flags(config, arch))
    curves = aia.measure(model, toy, 10)
    assert [len(curves[task]["mean"]) for task in TASKS] == [2, 2]
    for task in TASKS:
        batch = model.to_batch(*[array[:4] for array in toy.rows["train"][task]])
        output = model(batch, watch=True)
        target = torch.full((2, 1), .5)
        intensity = aia.interaction(output.mass, batch["watching"]).mean(-1)
        off = aia.aia_loss(intensity, torch.ones(4, dtype=torch.bool), target, target)
        loss = row_losses(output, batch).mean()
        (loss + off).backward()
        assert loss.isfinite() and off > 0
    codes = draw(model, toy.enc, ["a red circle", "two crosses"])
    talks = [[("what?", "")], [("is it?", "no"), ("what is it then?", "")]]
    assert len(answer(model, toy.enc, codes, talks, tok.decode(codes))) == 2


# ---------------------------------------------------------------------------------------------
# what a network is not told


def test_without_cues_special_tokens_tell_nothing():
    """Where a picture begins, where it ends, where an answer begins: one token like the other."""
    rows = np.array([[57, 1, 2, 58, *range(64, 73), 59, 3, 60, 4, 61]])
    roles = np.zeros_like(rows)
    told, untold = small_model(), small_model(cues=False)
    other = rows.copy()
    other[0, [3, 13, 15]] = [60, 58, 59]  # <|answer|>, <|boi|>, <|eoi|>
    change = []
    for model in (told, untold):
        before = every_place(model, model.to_batch(rows, roles))
        change.append((every_place(model, model.to_batch(other, roles)) - before).abs().max())
    assert change[0] > .1
    assert change[1] == 0
    first = rows.copy()
    first[0, 0] = 58  # <|bos|> is no cue, and stays what it is
    assert not torch.equal(every_place(untold, untold.to_batch(first, roles)), before)


def test_image_tokens_that_are_not_aligned_are_others_where_they_are_seen():
    """Each code stands for another. Codes that share a digit go on sharing it."""
    levels = (8, 7)
    codes = torch.arange(56)
    new = shifted(codes, levels)
    assert sorted(new.tolist()) == codes.tolist()
    assert not ((new % 8 == codes % 8) | (new // 8 == codes // 8)).any()
    assert all(len((new[codes % 8 == digit] % 8).unique()) == 1 for digit in range(8))

    aligned, other = small_model(), small_model(aligned=False)
    drawn = task_batch(aligned, "generate")
    seen = task_batch(aligned, "understand")
    assert torch.equal(every_place(aligned, drawn), every_place(other, drawn))
    is_code = seen["picture"] >= 0
    codes = seen["ids"] - 64
    by_hand = seen | {"ids": torch.where(is_code, 64 + shifted(codes, levels), seen["ids"])}
    assert torch.equal(every_place(aligned, by_hand), every_place(other, seen))


def test_a_row_behind_another_is_the_same_row(toy):
    """Only that row has roles, and there is one <|bos|>. A row that begins is as it was."""
    rows = toy.rows["train"]
    pad = special_id("<|pad|>", toy.meta["first_image"])
    ids, roles = [array[:3] for array in rows["understand"][:2]]
    others = [("generate", 5), None, ("understand", 7)]
    new_ids, new_roles = put_behind(ids, roles, others, rows, pad)
    assert new_ids.shape == new_roles.shape
    for i, other in enumerate(others):
        alone = ids[i][ids[i] != pad]
        whole = new_ids[i][new_ids[i] != pad]
        before = len(whole) - len(alone)
        assert whole[before + 1:].tolist() == alone[1:].tolist()
        assert new_roles[i, before + 1:len(whole)].tolist() == roles[i, 1:len(alone)].tolist()
        assert (whole == alone[0]).sum() == 1
        assert not new_roles[i, :before + 1].any() and not new_roles[i, len(whole):].any()
        assert (before == 0) == (other is None)
        if other:
            task, number = other
            assert whole[:before + 1].tolist() == [i for i in rows[task][0][number] if i != pad]
    model = build(Config(first_image=toy.meta["first_image"]))
    batch = model.to_batch(new_ids, new_roles)
    assert not batch["generated"].any(), "what was drawn before is seen now"

    rows = toy.rows["val"]
    behind = all_behind(rows, pad)
    for task in TASKS:
        assert len(behind[task]) == len(rows[task])
        ids, roles = behind[task][:2]
        assert ((ids != pad).sum(1) > (rows[task][0] != pad).sum(1)).all()
        assert (roles > 0).sum() == (rows[task][1] > 0).sum()


def test_half_of_the_rows_stand_behind_another_of_either_task():
    n_rows = {"generate": 3, "understand": 2}
    assert None not in pick_others(np.random.default_rng(0), 100, n_rows, share=1)
    others = pick_others(np.random.default_rng(0), 4000, n_rows)
    assert others.count(None) / 4000 == pytest.approx(.5, abs=.05)
    tasks = [task for task, _ in filter(None, others)]
    assert tasks.count("generate") / len(tasks) == pytest.approx(.5, abs=.05)
    assert {number for _, number in filter(None, others)} == {0, 1, 2}


# ---------------------------------------------------------------------------------------------
# the dial


@pytest.mark.parametrize("match, which", [
    ("active", "flops"), ("parameters", "active"), ("total", "total")])
def test_no_other_width_comes_nearer_to_equal_cost(match, which):
    wanted = cost(small_config())[which]
    config = small_config("evev2", match=match)

    def off(n_embd):
        return abs(cost(replace(config, n_embd=n_embd))[which] / wanted - 1)

    assert off(config.n_embd) <= min(off(config.n_embd - 4), off(config.n_embd + 4))


@pytest.mark.parametrize("flags, why", [
    ({"split": ("ffm",)}, "any of norm, qkv, ffn, ends"),
    ({"route": "task"}, "nothing exists in copies"),
    ({"split": ("qkv",), "route": "learned"}, "routers choose among copies of ffn alone"),
    ({"split": ("ends",), "route": "modality"}, "ends go by task"),
    ({"experts": 2}, "need a router"),
    ({"shared": True}, "need a router"),
    ({"aligned": False, "see": "patches"}, "of networks that see tokens")])
def test_flags_that_contradict_each_other_are_refused(flags, why):
    with pytest.raises(ValueError, match=why):
        with_flags(small_config(), "emu3", **flags)


def test_a_run_is_named_by_what_it_is():
    flags = dict(aia=0., task="both", arch="emu3", split=None, route=None, experts=None, see=None,
                 draw=None, noise=None, causal=None, pretrained=True, old_lr=0., outer=None,
                 last=None, queries=None, connector=None, condition=None,
                 shared=None, own_head=None, full=None, match=None, reference="small",
                 control=None, balance=False, heads=0, each=None, aia_fade=False,
                 n_train=None, interleave=False, cues=None, aligned=None, size="nano",
                 n_layer=6, n_head=4, n_embd=128)
    for given, name in (
            ({}, "both"),
            ({"aia": .1, "reference": "out/mine", "heads": 2, "aia_fade": True}, "aia-heads2-fade"),
            ({"aia": .1, "reference": "out/mine", "each": "pair"}, "aia-each-pair"),
            ({"aia": .1, "task": "generate"}, "aia-generate"),
            ({"aia": .1, "reference": "own"}, "aia-own"),
            ({"aia": .1, "reference": "out/mine", "control": "swapped"}, "aia-swapped"),
            ({"n_train": 500, "task": "generate"}, "n500-generate"),
            ({"n_layer": 12, "n_embd": 64, "cues": False, "interleave": True},
             "interleave-12x4x64-no-cues"),
            ({"arch": "evev2", "match": "active"}, "evev2-match-active"),
            ({"split": ("qkv", "ffn"), "route": "task"}, "qkv+ffn-task"),
            ({"arch": "januspro", "pretrained": False}, "januspro-no-pretrained"),
            ({"draw": "flow", "noise": "ddpm", "causal": True}, "flow-ddpm-causal"),
            ({"arch": "lmfusion", "old_lr": .1}, "lmfusion-old0.1"),
            ({"arch": "evev2", "outer": 2}, "evev2-outer2"),
            ({"arch": "metaquery", "queries": 4, "condition": "last"}, "metaquery-last-queries4"),
            ({"split": (), "own_head": False, "full": True}, "none-no-own_head-full")):
        assert name_of_run(SimpleNamespace(**flags | given)) == name


# ---------------------------------------------------------------------------------------------
# one system from another


def test_where_a_weight_starts_from():
    dense = dict.fromkeys(name for name, _ in small_model().named_parameters())
    for name, source in (
            ("blocks.2.attn.qkv.1.weight", "blocks.2.attn.qkv.0.weight"),
            ("blocks.0.norm1.1.weight", "blocks.0.norm1.0.weight"),
            ("blocks.1.ffn.experts.3.up.weight", "blocks.1.ffn.0.up.weight"),
            ("blocks.1.ffn.shared.down.weight", "blocks.1.ffn.0.down.weight"),
            ("embed.1.own.weight", "embed.0.own.weight"),
            ("head.0.digit.weight", "head.0.digit.weight"),
            ("blocks.1.ffn.router.weight", None),
            ("eyes.adapter.0.weight", None),
            ("hand.head.weight", None)):
        assert source_of(name, dense) == source


def test_what_has_no_counterpart_stays_as_it_was_made():
    dense = small_model()
    model = small_model("januspro")
    before = {name: p.clone() for name, p in model.named_parameters()}
    start_from(model, dense.state_dict())
    for name, p in model.named_parameters():
        is_new = name.startswith(("eyes.", "hand."))
        assert torch.equal(p, before[name] if is_new else dense.state_dict()[name])


def save_run(folder, model, toy):
    """What start_from_run() reads of a run."""
    about = {"version": VERSION, "model": asdict(model.config), "data": toy.meta,
             "train": {"task": "both", "arch": "?", "size": "?", "data": "?", "noises": 1,
                       "steps": 1, "aia_start": 0}}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(about))
    torch.save({"model": model.state_dict()}, folder / "ckpt.pt")
    shutil.copyfile(toy.folder / "tokenizer.pt", folder / "tokenizer.pt")
    return folder


def test_a_dense_run_begins_all_of_its_shape_and_one_with_copies_itself_alone(toy, tmp_path):
    dense = save_run(tmp_path / "dense", small_model(), toy)
    split = save_run(tmp_path / "split", small_model("bagel"), toy)
    assert start_from_run(small_model(), dense, toy, "cpu"), "the very same network"
    assert not start_from_run(small_model("bagel"), dense, toy, "cpu")
    assert start_from_run(small_model("bagel"), split, toy, "cpu")
    wider = build(replace(small_config(), n_embd=48))
    for model, run in ((wider, dense), (small_model(), split), (small_model("evev2"), split)):
        with pytest.raises(SystemExit, match="a network of another shape"):
            start_from_run(model, run, toy, "cpu")


def test_a_run_starts_from_the_end_of_another_s_first_phase(trained, network, toy, capsys):
    model = build(network.config)
    assert start_from_run(model, trained, toy, "cpu")
    assert same(model.state_dict(), weights(trained, "pretrained.pt"))
    assert "pretrained.pt" in capsys.readouterr().out


def test_copies_may_be_in_the_outer_layers_alone_or_in_the_last():
    for flags, has_copies in (({}, [True] * 3), ({"outer": 3}, [True] * 3),
                              ({"outer": 1}, [True, False, True]),
                              ({"last": 1}, [False, False, True])):
        model = small_model("evev2", **flags)
        assert [len(block.attn.qkv) == 2 for block in model.blocks] == has_copies
        assert [len(block.ffn) == 2 for block in model.blocks] == has_copies
        every_place(model, task_batch(model, "understand"))


def test_old_weights_learn_by_a_share_of_the_learning_rate():
    model = small_model("lmfusion")
    [stage] = PRESETS["lmfusion"]["stages"]
    shares = shares_of_lr(model, stage, .25, pretrained=True)
    slow = [name for name, _ in model.named_parameters() if not trains(stage, name)]
    by_weight = {}
    for opt in optimizers(model, .1, 0., shares):
        for group in opt.param_groups:
            by_weight |= {id(p): group["share"] for p in group["params"]}
    for name, p in model.named_parameters():
        assert by_weight[id(p)] == (.25 if name in slow else 1.)
    assert 0 < len(slow) < len(by_weight)


def test_an_encoder_that_was_trained_before_learns_slowly():
    model = small_model("januspro")
    shares = shares_of_lr(model, {}, 0., pretrained=True)
    assert set(shares.values()) == {.1}
    assert len(model.eyes.encoder.blocks) == 2, "without the last block"
    assert all(name.startswith("eyes.encoder.") for name in shares)
    assert len(shares) == len(list(model.eyes.encoder.parameters()))
    assert not shares_of_lr(model, {}, 0., pretrained=False)
    old = shares_of_lr(model, {"train": ("hand.",)}, .5, pretrained=True)
    assert old["eyes.encoder.place.weight"] == .1 and old["embed.0.own.weight"] == .5


def test_a_ratio_shares_out_the_rows_of_a_step():
    for task, ratio, drawn in (("both", "1:1", 16), ("both", "3:1", 24), ("both", "0:1", 0),
                               ("generate", "1:3", 32), ("understand", "1:1", 0)):
        args = SimpleNamespace(task=task, batch_size=32, accumulate=1)
        assert rows_a_step(args, ratio) == {"generate": drawn, "understand": 32 - drawn}


@pytest.mark.parametrize("arch", [arch for arch in PRESETS if "stages" in PRESETS[arch]])
def test_the_stages_of_a_preset_fill_the_run_and_each_trains_something(arch):
    stages = PRESETS[arch]["stages"]
    assert sum(stage["share"] for stage in stages) == pytest.approx(1)
    names = [name for name, _ in small_model(arch).named_parameters()]
    n_trained = [sum(trains(stage, name) for name in names) for stage in stages]
    assert 0 < n_trained[0] < len(names)
    keeps_some = arch in ("lmfusion", "llavafusion", "metamorph", "metaquery")
    assert (n_trained[-1] < len(names)) == keeps_some, "else everything, in the end"


# ---------------------------------------------------------------------------------------------
# runs


def test_a_run_of_another_version_is_refused(trained, tmp_path):
    """Its weights might load, and mean something else."""
    shutil.copytree(trained, tmp_path / "old")
    config = json.loads((trained / "config.json").read_text())
    (tmp_path / "old" / "config.json").write_text(json.dumps(config | {"version": 2}))
    says = f"a run of version 2, this code reads {VERSION}; train it again"
    with pytest.raises(SystemExit, match=says):
        load_model(tmp_path / "old")
    config["model"]["see"] = "encoder"
    del config["train"]["noises"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit, match="eyes were another encoder"):
        load_model(tmp_path / "old")


@pytest.mark.parametrize("change, why", [
    ({"model": []}, "it has no model"), ({"train": {"task": "both"}}, "its train has no data"),
    ({"model": {"n_layer": "six"}}, "its n_layer is no number"),
    ({"model": {"n_layer": 10**9}}, "its network has more weights"),
    ({"model": {"n_head": 0}}, ".*zero"), ({"data": {"merges": [1]}}, "its merges are no texts"),
    ({"model": {"first_image": 100_000}}, "its image tokens are none of its vocabulary")])
def test_a_config_that_is_none_is_refused(trained, tmp_path, change, why):
    config = json.loads((trained / "config.json").read_text())
    (part, values), = change.items()
    is_more = isinstance(values, dict) and part != "train"
    config[part] = config[part] | values if is_more else values
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit, match=f"config.json: is damaged .{why}"):
        load_model(tmp_path)


@pytest.mark.parametrize("text", ["[]", "null", "3"])
def test_a_config_that_is_no_object_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SystemExit, match="config.json: is damaged .it is no object"):
        load_model(tmp_path)


def test_a_run_that_cannot_be_read_is_refused_in_one_line(trained, tmp_path):
    for name in ("half", "other shape", "no network"):
        shutil.copytree(trained, tmp_path / name)
    checkpoint = tmp_path / "half" / "ckpt.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    config = json.loads((trained / "config.json").read_text())
    config["model"]["n_embd"] = 64  # torch says in many lines what does not fit
    (tmp_path / "other shape" / "config.json").write_text(json.dumps(config))
    (tmp_path / "no network" / "ckpt.pt").unlink()
    shutil.copytree(tmp_path / "no network", tmp_path / "one before")
    for name in ("no network", "half", "other shape"):
        (tmp_path / name / "ckpt-before.pt").unlink(missing_ok=True)
    for folder, why in (("half", "ckpt.pt or config.json is damaged"),
                        ("other shape", "ckpt.pt or config.json is damaged"),
                        ("no network", "ckpt.pt is missing); train it again"),
                        ("one before", "ckpt.pt is missing); go on from the checkpoint before"),
                        ("none", "config.json is missing")):
        with pytest.raises(SystemExit) as refused:
            load_model(tmp_path / folder)
        assert why in refused.value.code
        assert "\n" not in refused.value.code


def test_the_latest_run_is_the_one_saved_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="no run here yet"):
        latest_run()
    for name, age in (("a", 10), ("b", 30), ("c", 20)):
        folder = tmp_path / "out" / name
        folder.mkdir(parents=True)
        (folder / "ckpt.pt").touch()
        os.utime(folder / "ckpt.pt", (age, age))
    assert latest_run() == "out/b"


def test_what_to_type_next_fits_what_was_trained():
    toy = {"kind": "toy"}
    real = {"kind": "real"}
    assert "--ask" in next_command("x", "understand", toy, [])
    assert "--prompt" in next_command("x", "both", toy, [])
    assert '--prompt "a cat"' in next_command("x", "generate", real, ["a cat"])
