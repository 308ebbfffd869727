"""
test_all.py: the laws of the system, one a test, in the reading order of the files. Each would fail if its law broke.

    python -m pytest -q test_all.py
"""
import csv, json, os, re, runpy, shlex, shutil, socket, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch._dynamo.testing import CompileCounter

import aia, data, model, sample
from model import PRESETS
from data import HELD_OUT, KEY, QUERY, TARGET, TASKS, Object

HERE = Path(__file__).parent


def run(script, *args):
    """A command of the README, in this process; returns what it exits with (None: well)."""
    argv, sys.argv = sys.argv, [script, *map(str, args)]
    try:
        runpy.run_path(str(HERE / script), run_name="__main__")
    except SystemExit as e:
        return e.code
    finally:
        sys.argv = argv
        torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A small data set of the toy world."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    data.build_toy(folder, "nano", n=128)
    return data.load_dataset(folder)


@pytest.fixture(scope="session")
def trained(toy, tmp_path_factory):
    """A run of 20 steps with AIA in its second half."""
    out = tmp_path_factory.mktemp("run") / "aia"
    assert train(toy, out, "--aia", .5, "--exam", 2) is None
    return out


def train(toy, out, *args):
    return run("train.py", "--data", toy.folder, "--out", out, "--size", "nano", "--device", "cpu", "--steps", 20, "--batch_size", 4, "--eval_every", 10,
               "--aia_start", .5, "--reference", "paper", "--exam", 0, *args)


def small_config(arch="emu3", **flags):
    c = model.Config(n_layer=3, n_head=2, n_embd=32, block_size=48, vocab_size=128, first_image=64, n_image=9, levels=(8, 7), patch=4)
    return model.turn(c, arch, **flags)


def small_model(arch="emu3", **flags):
    """A network with random weights everywhere: fresh ones are silent, and silence would satisfy many laws."""
    torch.manual_seed(0)
    net = model.Transformer(small_config(arch, **flags))
    for p in net.parameters():
        if p.dim() == 2:
            torch.nn.init.normal_(p, std=.15)
    return net


# ---------------------------------------------------------------------------------------------------------------------
# data.py: the toy world


def test_the_same_seed_gives_the_same_world():
    assert data.make_scenes(50, 7) == data.make_scenes(50, 7) != data.make_scenes(50, 8)


def test_held_out_pairs_are_drawn_only_when_asked_for():
    pairs = lambda scenes: [{(o.color, o.shape) for o in s} for s in scenes]
    assert not any(p & set(HELD_OUT) for p in pairs(data.make_scenes(2000, 0)))
    assert all(p & set(HELD_OUT) for p in pairs(data.make_scenes(200, 0, held_out=True)))


def test_objects_do_not_touch_and_stay_on_the_canvas():
    for scene in data.make_scenes(500, 1):
        for i, o in enumerate(scene):
            r = data.SIZES[o.size]
            assert r <= min(o.x, o.y) and max(o.x, o.y) <= 48 - r
            for p in scene[:i]:
                assert max(abs(o.x - p.x), abs(o.y - p.y)) >= r + data.SIZES[p.size] + 3


def test_the_world_has_habits():
    """POPE's adversarial split needs pairs that occur together more often than chance would have it."""
    scenes = [s for s in data.make_scenes(5000, 2) if len(s) > 1]
    has = {c: np.array([any(o.color == c for o in s) for s in scenes]) for c in ("green", "orange")}
    assert (has["green"] & has["orange"]).mean() > 1.25 * has["green"].mean() * has["orange"].mean()


def test_every_caption_is_true_of_its_scene_and_every_tag_occurs():
    rng, seen = np.random.default_rng(0), set()
    for s in data.make_scenes(1500, 3):
        record = data.caption(s, rng)
        assert sample.check(record, s) == (True, ""), (record, s)
        seen.add(record["tag"])
    assert seen == set(data.TAGS)


def test_every_answer_follows_from_the_scene():
    """The oracle, which reads the words of a question, and the asker, who knows what it asks, agree; yes and no occur about equally often."""
    rng, tally = np.random.default_rng(0), {}
    for s in data.make_scenes(1500, 4):
        for kind, q, a in data.questions(s, rng):
            assert sample.truth(s, q) == a, (s, q)
            tally.setdefault(kind, []).append(a)
    for kind, answers in tally.items():
        closed = [a for a in answers if a in ("yes", "no")]
        assert kind == "describe" or .4 < closed.count("yes") / len(closed) < .6
    red = Object("circle", "red", "small", 10, 10)
    for q, a in (("is there a red circle?", "yes"), ("is there a red cross?", "no"), ("how many red objects are there?", "one"), ("are there more circles than crosses?", "yes"),
                 ("is the circle blue?", "no"), ("what shape is the red object?", "circle"), ("what color is the cross?", None), ("where is love?", None),
                 ("is the red circle above the blue cross?", None)):
        assert sample.truth([red], q) == a, q
    assert sample.truth([red, red._replace(color="blue", y=40)], "is the red circle above the blue circle?") == "yes"


# ---------------------------------------------------------------------------------------------------------------------
# data.py: the judge


@pytest.mark.parametrize("canvas", [48, 64])
def test_the_judge_reads_true_pictures_exactly(canvas):
    scenes = data.make_scenes(1000, 5) + data.make_scenes(100, 5, held_out=True)
    judged = data.judge(np.stack([np.asarray(data.render(s, canvas)) for s in scenes]))
    assert np.mean([data.same_scene(s, j) for s, j in zip(scenes, judged)]) >= .999


def test_the_judge_is_not_fooled():
    picture = np.asarray(data.render([Object("circle", "red", "large", 12, 12)])).copy()
    picture[30:32, 30:32] = 0         # a speck
    assert [o.shape for o in data.judge(picture[None])[0]] == ["circle"]
    picture[26:32, 8:40] = data.COLORS["blue"]  # a bar is none of the shapes
    assert [o.shape for o in data.judge(picture[None])[0]] == ["circle", "blob"]
    assert data.judge(np.full((1, 48, 48, 3), data.GROUND, np.uint8)) == [[]]


def test_the_rules_of_geneval():
    red, blue = Object("circle", "red", "small", 10, 24), Object("circle", "blue", "small", 40, 24)
    need = lambda n, **more: {"include": [{"class": "circle", "count": n, **more}], "exclude": []}
    assert sample.check(need(1), [red, blue])[0], "extras are allowed"
    assert not sample.check(need(2) | {"exclude": [{"class": "circle", "count": 3}]}, [red, blue, blue])[0], "but not in counting"
    assert sample.check(need(1, color="green"), [red]) == (False, "expected green circle >= 1, found 0")
    sides = lambda a, b: {"include": [{"class": "circle", "count": 1, "color": b}, {"class": "circle", "count": 1, "color": a, "position": ["left of", 0]}], "exclude": []}
    assert sample.check(sides("red", "blue"), [red, blue])[0] and not sample.check(sides("blue", "red"), [red, blue])[0]
    # centres 45 degrees apart are both left of and above; within a tenth of the extents they are neither
    assert data.relations(red, blue._replace(x=40, y=54)) == {"left of", "above"}
    assert data.relations(red, red._replace(x=red.x + 2)) == set()


# ---------------------------------------------------------------------------------------------------------------------
# data.py: tokens and sequences


def test_codes_are_the_digits_of_a_grid():
    tok = data.ImageTokenizer()
    digits = torch.stack([torch.randint(0, l, (1, 8, 8)) for l in tok.levels], -1).float()
    base = torch.tensor([1, 8, 40, 200])
    assert torch.equal((digits.long() * base).sum(-1).flatten(1)[..., None] // base % torch.tensor(tok.levels), digits.long().flatten(1, 2))
    z = torch.linspace(-9, 9, 200)[:, None].expand(-1, 4).clone().requires_grad_()
    q = tok.quantize(z)
    assert torch.equal(q.amin(0), torch.zeros(4)) and torch.allclose(q.amax(0), tok.L - 1), "every digit is reached, and no other"
    q.sum().backward()
    assert (z.grad[50:150] > 0).all(), "gradients pass the rounding"


@pytest.mark.parametrize("canvas", [int(f.stem[-2:]) for f in sorted(data.ASSETS.glob("tokenizer-*.pt"))])
def test_the_shipped_image_tokenizer_keeps_what_the_judge_sees(canvas):
    tok = data.load_tokenizer(data.ASSETS / f"tokenizer-{canvas}.pt")
    true, rebuilt, used = data.ceiling(tok, canvas, 500)
    assert true >= .998 and rebuilt >= .98 and used > .25


def test_the_same_patch_is_the_same_token_wherever_it_stands():
    tok = data.ImageTokenizer(6).eval()
    a = np.random.default_rng(0).integers(0, 255, (1, 48, 48, 3), dtype=np.uint8)
    b = np.roll(a, 12, axis=2)
    assert torch.equal(tok.encode(a).view(8, 8).roll(2, 1), tok.encode(b).view(8, 8))


def test_any_text_survives_the_text_tokenizer_and_none_becomes_special(toy):
    for text in ("a red circle", "Ünïcödé 猫 🐈", "", "  two  spaces\n", "<|bos|> <|end|>"):
        ids = toy.enc.encode_ordinary(text)
        assert toy.enc.decode(ids) == text and all(i < 256 + len(toy.meta["merges"]) for i in ids)
    assert len(toy.enc.encode_ordinary(" triangle")) == 1, "a frequent word is one token"


def test_roles_of_the_two_sequences(toy):
    sp, first = toy.enc._special_tokens, toy.meta["first_image"]
    ids, roles = data.make_row(toy.enc, first, range(64), prompt="a red circle")
    assert ids[0] == sp["<|bos|>"] and ids[4] == sp["<|boi|>"] and ids[5:] == list(range(first, first + 64))
    assert roles == [0, KEY, KEY, KEY, QUERY] + [TARGET | QUERY] * 63 + [TARGET]
    ids, roles = data.make_row(toy.enc, first, range(64), turns=[("what color is the circle?", "red"), ("describe the picture.", "large red circle")])
    assert roles[:67] == [0, 0] + [KEY] * 64 + [0]
    said = [toy.enc.decode([i]) for i, r in zip(ids, roles) if r & TARGET]
    assert said == ["red", "<|end|>", "large", " red", " circle", "<|end|>"]
    assert all(bool(a & QUERY) == bool(b & TARGET) for a, b in zip(roles, roles[1:])), "a query is where a target is predicted from"


def test_every_row_to_understand_has_its_own_picture(toy):
    ids, _, pixels = (x[:20] for x in toy.rows["train"]["understand"])
    assert np.array_equal(data.load_tokenizer(toy.folder / "tokenizer.pt").encode(pixels).numpy(), ids[:, 2:66].astype(int) - toy.meta["first_image"])


def test_condition_dropout_hides_the_whole_prompt_and_nothing_else(toy):
    ids, roles = (x[:4] for x in toy.rows["train"]["generate"])
    null = toy.enc._special_tokens["<|null|>"]
    plain, dropped = data.to_batch(ids, roles), data.to_batch(ids, roles, drop=np.array([True, False, True, False]), null=null)
    changed = plain["idx"] != dropped["idx"]
    assert torch.equal(changed[::2], plain["key"][::2]) and not changed[1::2].any()
    assert (dropped["idx"][changed] == null).all() and not dropped["key"][::2].any() and torch.equal(plain["at"], dropped["at"])


# ---------------------------------------------------------------------------------------------------------------------
# data.py: data sets


def test_a_data_set_follows_from_its_seed_and_damage_is_noticed(toy, tmp_path, monkeypatch):
    """However it is made: here in small pieces, by processes beside this one."""
    monkeypatch.setattr(data, "PIECE", 12)
    data.build_toy(tmp_path / "again", "nano", n=128)
    again = data.load_dataset(tmp_path / "again")
    assert again.meta["files"] == toy.meta["files"]
    file = tmp_path / "again" / "val_generate_ids.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.raises(SystemExit, match="val_generate_ids.npy: differs from its checksum"):
        data.load_dataset(tmp_path / "again")


def test_your_own_pictures_good_and_bad(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 60 + i, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    Image.new("RGBA", (50, 50), (255, 0, 0, 128)).save(tmp_path / "clear.webp")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes((tmp_path / "0.png").read_bytes()[:2000])
    Image.new("1", (20_000, 10)).save(tmp_path / "wide.png")
    talk = lambda image, *says: {"image": image, "conversations": [{"from": w, "value": v} for w, v in zip(("human", "gpt") * 9, says)]}
    good = [talk(f"{i}.png", f"picture number {i}", "<image>") for i in range(6)] + [talk("clear.webp", "<image>\nwhat?", "red", "sure?", "yes")]
    bad = [(talk("missing.png", "a", "<image>"), "no such file"), (talk("text.png", "a", "b"), "no picture that Pillow can read"),
           (talk("half.png", "a", "b"), "broken picture"), (talk("wide.png", "a", "b"), "20000 x 10 pixels"), (talk("0.png", " ", "b"), "empty text"),
           (talk("0.png", "a"), "in pairs"), ("a string", "is a str"), ({"image": 3}, "no file name"), (talk("0.png", 3, "b"), "a turn is not")]
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps(good + [b for b, _ in bad]))
    assert run("data.py", "--json", file, "--images", tmp_path, "--out", tmp_path / "mine", "--tokenizer_steps", 2) is None
    said = capsys.readouterr().out
    for i, (_, why) in enumerate(bad):
        assert re.search(rf"record {len(good) + i}: .*{why}", said), (i, why)
    assert "7 of 16 records are usable" in said
    mine = data.load_dataset(tmp_path / "mine")
    assert len(mine.rows["train"]["generate"][0]) == 6 and len(mine.rows["train"]["understand"][0]) == 1
    file.write_text(json.dumps([b for b, _ in bad]))
    assert "no usable record" in run("data.py", "--json", file, "--images", tmp_path, "--out", tmp_path / "other")
    file.write_text("{not json")
    assert "not JSON" in run("data.py", "--json", file, "--out", tmp_path / "other")
    assert not list(tmp_path.glob("other*")), "a failed build leaves nothing half made"


# ---------------------------------------------------------------------------------------------------------------------
# model.py


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("arch", PRESETS)
def test_fused_interaction_equals_explicit_gradients_too(arch, task):
    """The indicator channel is exact, however the network is taken apart."""
    net = small_model(arch)
    b = model.example(net.config, task, 3)
    key, found = torch.rand(b["idx"].shape) < .4, []
    for explicit in (False, True):
        net.zero_grad()
        logits, mass = net(**b, key=key, explicit=explicit)
        (mass * torch.linspace(0, 1, mass.size(2))).sum().backward(retain_graph=True)
        found.append([logits, mass] + [p.grad.clone() for p in net.parameters() if p.grad is not None])
    for fused, full in zip(*found):
        assert torch.allclose(fused, full, atol=1e-5), (fused - full).abs().max()
    assert mass.std() > .05, "and it is not a trivial one"


def test_fused_equals_explicit_with_a_cache_whose_rows_are_padded_differently():
    net = small_model()
    idx, key = torch.randint(0, 128, (3, 40)), torch.rand(3, 40) < .4
    pad = torch.tensor([0, 5, 11])
    with torch.no_grad():
        for part in (slice(0, 30), slice(30, 40)):
            two = []
            for explicit in (False, True):
                cache = net.new_cache(pad, 40)
                if part.start:
                    net(idx[:, :30], cache=cache)
                full_key = key[:, :part.stop]
                two.append(net(idx[:, part], full_key, explicit=explicit, cache=cache)[1])
            real = torch.arange(part.start, part.stop) >= pad[:, None]  # the others are padding
            assert torch.allclose(*[t[:, real] for t in two], atol=1e-5)


@pytest.mark.parametrize("T", [48, 600])
def test_attention_in_bfloat16_is_that_in_float32_but_for_rounding(T):
    """On a CPU short rows go by the whole matrix then, long ones by the fused kernel."""
    c = model.replace(small_config(), block_size=T)
    net, x, key, rotary = model.Attention(c), torch.randn(2 * T, 32), torch.rand(2, T) < .4, model.Transformer(c).rotary
    layout = model.Layout(2, T, [2 * T], None, None)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = net(x, layout, rotary, key)
    for a, b in zip(rounded, net(x, layout, rotary, key, explicit=True)):
        assert torch.allclose(a.float(), b, atol=.03)


def test_the_norm_is_torch_s_derivative_too_compiled_too():
    x = torch.randn(5, 16, dtype=torch.float64, requires_grad=True)
    torch._dynamo.reset()
    for f in (model.Norm.apply, torch.compile(model.Norm.apply, backend="aot_eager")):
        ways = [way(x) for way in (f, lambda x: F.rms_norm(x, (16,), eps=1e-6))]
        slopes = [torch.autograd.grad(y.cos().sum(), x)[0] for y in ways]
        assert torch.allclose(*ways) and torch.allclose(*slopes)


def test_rotary_positions_turn_pairs_of_channels():
    """So that a product of a query and a key depends on how far apart they are; as complex numbers or, compiled, as real ones."""
    angle = torch.arange(6.)[:, None] * torch.tensor([1., .1])
    rotary = torch.stack((angle.cos(), angle.sin()), -1)  # (T, D / 2, 2)
    q, k = (x.expand(6, 4) for x in torch.randn(2, 1, 4))
    products = model.rotate(q, rotary) @ model.rotate(k, rotary).T
    assert torch.allclose(products[1:, 1:], products[:-1, :-1], atol=1e-5) and not torch.allclose(products[1:], products[:-1], atol=1e-2)
    torch._dynamo.reset()
    assert torch.allclose(torch.compile(model.rotate, backend="eager")(q, rotary), model.rotate(q, rotary))


def test_float32_means_float32():
    """Products that bfloat16 runs may leave to another library are exact again afterwards."""
    x, w = torch.randn(2, 512, 128)
    assert [model.set_products("cpu", d) for d in ("bfloat16", "float32")] == ["bfloat16", "float32"]
    assert torch.get_float32_matmul_precision() == "highest" and (F.linear(x, w) - x.double() @ w.double().T).abs().max() < 1e-4


def test_interaction_is_a_share_of_attention():
    net, idx = small_model(), torch.randint(0, 128, (2, 30))
    with torch.no_grad():
        every, none = (net(idx, torch.full((2, 30), v))[1] for v in (True, False))
        half = torch.rand(2, 30) < .5
        one, other = net(idx, half)[1], net(idx, ~half)[1]
    assert torch.allclose(every, torch.ones_like(every), atol=1e-6) and not none.any()
    assert torch.allclose(one + other, every, atol=1e-6)


def test_measuring_changes_no_logit():
    net, idx = small_model(), torch.randint(0, 128, (2, 30))
    assert torch.allclose(net(idx)[0], net(idx, torch.rand(2, 30) < .5)[0], atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("arch", PRESETS)
def test_no_token_sees_the_future(arch, task):
    net = small_model(arch)
    b, n = model.example(net.config, task, 2), 44 if task == "generate" else 30  # a row to generate ends with its picture
    later = torch.randint(*((64, 120) if task == "generate" else (0, 64)), (2, b["idx"].size(1) - n))
    a, b["idx"] = net(**b)[0].nan_to_num(neginf=0), torch.cat((b["idx"][:, :n], later), 1)
    b = net(**b)[0].nan_to_num(neginf=0)
    assert torch.allclose(a[:, :n], b[:, :n], atol=1e-5) and not torch.allclose(a[:, n:], b[:, n:], atol=1e-2)


def test_logits_at_some_places_are_the_same():
    net, idx, at = small_model(), torch.randint(0, 128, (2, 30)), torch.rand(2, 30) < .3
    assert torch.allclose(net(idx)[0][at], net(idx, at=at)[0], atol=1e-6)


def test_cached_equals_uncached_and_padding_is_invisible():
    """Prompts of different lengths, padded on the left, continued token by token; image positions go on counting."""
    net = small_model()
    text, picture = torch.randint(0, 64, (2, 12)), torch.randint(64, 128, (2, 9))
    rows = [torch.cat((text[0], picture[0])), torch.cat((text[1, :7], picture[1]))]  # prompts of 12 and of 7 tokens
    with torch.no_grad():
        whole = [net(row[None])[0][0] for row in rows]
        pad = torch.tensor([2, 7])
        cache = net.new_cache(pad, 23)
        got = [net(torch.stack([F.pad(row[:-9], (p, 0)) for row, p in zip(rows, pad.tolist())]), cache=cache)[0]]
        got += [net(picture[:, k:k + 1], cache=cache)[0] for k in range(9)]
    for logits, p, want in zip(torch.cat(got, 1), pad.tolist(), whole):
        assert torch.allclose(logits[p:], want, atol=1e-4)


@pytest.mark.parametrize("arch", PRESETS)
def test_cached_equals_uncached_for_every_architecture(arch):
    net, pick = small_model(arch), lambda logits, k: logits[:, 64:120].argmax(-1) + 64
    drawn = [sample.extend(net, [[1, 2, 3], [1, 2, 3, 4, 5]], 9, pick, "generate", cached=c) for c in (True, False)]
    assert torch.equal(*drawn) and len(drawn[0].unique()) > 2
    b = model.example(net.config, "understand", 2)
    starts, pick = [b["idx"][0, :30].tolist(), b["idx"][1, :27].tolist()], lambda logits, k: logits[:, :64].argmax(-1)
    said = [sample.extend(net, starts, 8, pick, "understand", b["pixels"], cached=c) for c in (True, False)]
    assert torch.equal(*said)
    alone = [sample.extend(net, starts[i:i + 1], 8, pick, "understand", b["pixels"][i:i + 1]) for i in range(2)]
    assert torch.equal(said[0], torch.cat(alone)), "and what it was batched with does not matter"
    for task in TASKS:  # training counts on rows that hold one whole picture, sampling looks
        b = model.example(net.config, task, 2)
        with torch.no_grad():
            assert torch.allclose(net(**b)[0], net(**b, cache=net.new_cache(torch.zeros(2, dtype=torch.long), 64))[0], atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# model.py: the dial

SPLITS = [("norm", "modality"), ("qkv", "modality"), ("ffn", "modality"), ("norm,qkv,ffn", "modality"), ("norm,qkv,ffn", "generated"), ("norm,qkv,ffn,ends", "task")]


@pytest.mark.parametrize("split, route", SPLITS)
def test_equal_copies_are_the_dense_network(split, route):
    """What start_from() makes of a dense network computes what that did, at the same price; and what trains apart is told apart."""
    dense, net = small_model(), small_model(split=split.split(","), route=route)
    net.start_from(dense.state_dict())
    for task in TASKS:
        b = model.example(net.config, task, 2)
        assert torch.equal(net(**b)[0], dense(**b)[0])
    costs = [model.cost(n.config) for n in (net, dense)]
    assert costs[0]["flops"] == costs[1]["flops"] and costs[0]["active"] == costs[1]["active"] and costs[0]["total"] > costs[1]["total"]
    with torch.no_grad():
        for name, p in net.named_parameters():
            if re.search(model.SECOND + r"|^(embed|row|column|norm|head)\.1\.", name):
                p.add_(torch.randn_like(p))
    see, drawn = ((net(**b)[0] != dense(**b)[0]).any(-1)[0] for b in (model.example(net.config, t, 1) for t in ("understand", "generate")))
    assert see.any() == (route == "modality") and drawn[-9:].all() and drawn[:-9].any() == (route == "task"), "each token computes its own copy only"


def test_separate_networks_share_nothing():
    for own, task in enumerate(("understand", "generate")):
        net = small_model("separate")
        net(**model.example(net.config, task, 2))[0].sum().backward()
        taught = {re.search(r"(?:norm\d?|qkv|proj|ffn|embed|row|column|head)\.(\d)\.", n)[1] for n, p in net.named_parameters() if p.grad is not None}
        assert taught == {str(own)}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("route", ["learned", "supervised", "oracle"])
def test_experts_that_are_copies_of_one_ffn_are_the_dense_network(route, shared):
    dense, net = small_model(), small_model(split=("ffn",), route=route, experts=3, shared=shared)
    net.start_from(dense.state_dict())
    for task in TASKS:
        b = model.example(net.config, task, 2)
        assert torch.allclose(net(**b)[0], dense(**b)[0], atol=1e-4)
        loads = torch.stack([x.ffn.load for x in net.blocks])
        assert torch.allclose(loads.sum(1), torch.ones(3)) and (route != "oracle" or not loads[:, 3:].any() == (task == "understand"))


def test_one_expert_and_no_router_is_dense_exactly():
    dense, net = small_model(), small_model(split=("ffn",), route="learned", experts=1)
    net.start_from(dense.state_dict())
    b = model.example(net.config, "generate", 2)
    assert torch.equal(net(**b)[0], dense(**b)[0]) and torch.equal(net.blocks[0].ffn.load, torch.ones(1))


def test_an_idle_expert_has_a_gradient_of_zero():
    """Not none: with --fsdp all processes must have the same gradients to add up, whoever their tokens chose."""
    net = small_model("moe")
    for b in net.blocks:
        torch.nn.init.zeros_(b.ffn.router.weight)  # a tie goes to the first
    net(**model.example(net.config, "generate", 2))[0].sum().backward()
    for b in net.blocks:
        assert b.ffn.load.tolist() == [1, 0, 0, 0] and not any(p.grad.any() for e in b.ffn.experts[1:] for p in e.parameters())


def test_the_plain_router_spreads_the_load_over_both_tasks_together():
    net = small_model("moe")
    opt, uneven = torch.optim.Adam([p for n, p in net.named_parameters() if "router" in n], 1e-3), []
    for step in range(60):
        loads = []
        for t in TASKS:
            net(**model.example(net.config, t, 8))
            net.router_loss().backward()
            loads.append(torch.stack([b.ffn.load for b in net.blocks]))
        opt.step()
        opt.zero_grad()
        uneven.append((sum(loads) / 2 - 1 / 4).abs().mean().item())
    assert np.mean(uneven[-20:]) < .5 * uneven[0]


def test_the_task_router_learns_the_task():
    net = small_model("utamoe")
    opt = torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(120):
        for t in TASKS:
            net(**model.example(net.config, t, 8))
            net.router_loss().backward()
        assert all(p.grad is None for n, p in net.named_parameters() if "task_router" not in n), "the label teaches the task router alone"
        opt.step()
        opt.zero_grad()
    assert net.router_loss() < .45 < np.log(2)
    for i, t in enumerate(("understand", "generate")):
        net(**model.example(net.config, t, 8))
        assert all(b.ffn.load[2 * i:2 * i + 2].sum() > .7 for b in net.blocks)


@pytest.mark.parametrize("arch", [a for a in PRESETS if a not in ("moe", "utamoe")])
def test_compiles_whole(arch):
    """No data-dependent sizes, so no graph break; a router has one, and says so."""
    net = small_model(arch)
    torch._dynamo.reset()
    for task in TASKS:
        b = model.example(net.config, task, 2)
        assert torch.allclose(torch.compile(net, backend="eager", fullgraph=True)(**b)[0], net(**b)[0], atol=1e-5)


def test_layers_compiled_one_by_one_compile_once_a_task():
    """What --compile does: one graph a task serves all layers and all later steps."""
    torch._dynamo.reset()
    net, counter = small_model(), CompileCounter()
    want = [net(**model.example(net.config, t, 2))[0] for t in TASKS if torch.manual_seed(0)]
    for block in net.blocks:
        block.compile(backend=counter, dynamic=False)
    seen = []
    for step in range(3):
        got = [net(**model.example(net.config, t, 2))[0] for t in TASKS if torch.manual_seed(0)]
        sum(x.mean() for x in got).backward()
        seen.append(counter.frame_count)
    assert seen[0] == seen[2] <= len(TASKS)
    for x, y in zip(got, want):
        torch.testing.assert_close(x, y)


def test_muon_in_batches_is_torch_s_muon():
    ours, theirs = small_model("utamoe"), small_model("utamoe")
    a = model.optimizers(ours, .05)[0]
    matrices = {id(p) for p in a.param_groups[0]["params"]}
    b = torch.optim.Muon([q for p, q in zip(ours.parameters(), theirs.parameters()) if id(p) in matrices], lr=.05, momentum=.95, weight_decay=.01)
    for step in range(3):
        for net, opt in ((ours, a), (theirs, b)):
            torch.manual_seed(step)
            for p in net.parameters():
                p.grad = torch.randn_like(p)
            opt.step()
    for p, q in zip(ours.parameters(), theirs.parameters()):
        assert torch.equal(p, q)


def test_a_width_is_found_for_equal_cost():
    for how, which in (("active", "flops"), ("total", "total")):
        c = small_config("evev2", match=how)
        off = lambda c: abs(model.cost(c)[which] / model.cost(small_config())[which] - 1)
        assert off(c) <= min(off(model.replace(c, n_embd=c.n_embd + d)) for d in (-4, 4))


def test_the_frame_of_a_picture_in_patches(toy):
    """<|cls|>, and <|row|> after each row: image tokens, keys, never targets; what is asked and answered stays as it was."""
    c = small_config("evev2")
    assert data.frame([1, 2] + [70] * 9 + [3], c) == pytest.approx([1, 2, 120] + [70, 70, 70, 121] * 3 + [3])
    c = model.Config(first_image=toy.meta["first_image"], see="patches")
    rows = [x[:2] for x in toy.rows["train"]["understand"]]
    plain, framed = data.to_batch(*rows), data.to_batch(*rows, c=c)
    assert framed["key"].sum() == plain["key"].sum() + 2 * 9 and torch.equal(framed["targets"][framed["at"]], plain["targets"][plain["at"]])


@pytest.mark.parametrize("see", ["patches", "encoder"])
def test_other_eyes_see_pixels_and_not_tokens(see):
    net = small_model(see=see)
    b = model.example(net.config, "understand", 2)
    first, idx, codes = net(**b)[0], b["idx"].clone(), (b["idx"] >= 64) & (b["idx"] < 120)
    idx[codes] = 64
    assert torch.equal(net(**b | {"idx": idx})[0], first)
    b["pixels"][:, -1, -1] = 255 - b["pixels"][:, -1, -1]
    other = net(**b)[0]
    last = codes[0].nonzero()[0 if see == "encoder" else -1].item()  # the encoder looks both ways, patches stand for themselves
    assert torch.allclose(other[:, :last], first[:, :last], atol=1e-6) and (other[:, last] != first[:, last]).any()


@pytest.mark.parametrize("arch", PRESETS)
def test_every_architecture_takes_the_toy_world_s_rows(arch, toy):
    """Drawn, asked, measured, and taught the interaction: one network, whatever the dial says."""
    m, tok = toy.meta, data.load_tokenizer(toy.folder / "tokenizer.pt")
    c = model.Config(2, 2, 32, m["block_size"], m["vocab_size"], m["first_image"], m["n_image"], tok.levels, tok.patch)
    net = model.Transformer(model.turn(c, arch))
    assert {t: len(v["mean"]) for t, v in aia.measure(net, toy, 10).items()} == {t: 2 for t in TASKS}
    for task in TASKS:
        b = data.to_batch(*(x[:4] for x in toy.rows["train"][task]), c=net.config)
        logits, mass = net(b["idx"], b["key"], b["at"], b["task"], b.get("pixels"))
        target = torch.full((2, 1), .5)
        (F.cross_entropy(logits, b["targets"][b["at"]]) + aia.aia_loss(aia.interaction(mass, b["query"]), torch.ones(4, dtype=torch.bool), target, target)).backward()
    codes = sample.draw(net, toy.enc, m, ["a red circle", "two crosses"])
    pictures = tok.decode(codes)
    assert len(sample.answer(net, toy.enc, m, codes, [[("what?", "")], [("is it?", "no"), ("what is it then?", "")]], pictures)) == 2


# ---------------------------------------------------------------------------------------------------------------------
# aia.py


def test_stages_are_few_and_cut_where_the_curve_jumps():
    T, d = aia.stages([.4, .42, .38, .1, .12, .3, .28], 3)
    assert np.allclose(T, [.4] * 3 + [.11] * 2 + [.29] * 2) and np.allclose(d, .05)
    curve = list(np.random.default_rng(0).random(6))
    assert np.allclose(aia.stages(curve, 6)[0], curve), "as many stages as layers is no stages"


def test_the_paper_s_table_is_laid_over_depth():
    ref = aia.reference("paper", 32)
    assert [ref["understand"]["T"][l] for l in (0, 9, 10, 19, 20, 30, 31)] == [.1, .1, .15, .15, .3, .3, .2]
    assert [ref["generate"]["d"][l] for l in (0, 9, 10, 24, 25, 31)] == [.2, .2, .1, .1, .05, .05]
    assert len(aia.reference("paper", 6)["generate"]["T"]) == 6


def test_the_loss_is_huber_over_its_threshold():
    I, T, d = torch.rand(4, 3), torch.rand(4, 1), torch.full((4, 1), .1)
    want = F.smooth_l1_loss(I, T.expand(4, 3), beta=.1)
    assert torch.allclose(aia.aia_loss(I, torch.ones(3, dtype=torch.bool), T, d), want)
    only = aia.aia_loss(I, torch.tensor([True, False, False]), T, d)
    assert torch.allclose(only, F.smooth_l1_loss(I[:, :1], T, beta=.1)), "samples without keys weigh nothing"
    assert aia.aia_loss(I, torch.zeros(3, dtype=torch.bool), T, d) == 0


def test_the_loss_moves_the_interaction_to_its_target():
    net, idx = small_model(), torch.randint(0, 128, (4, 40))
    key, query = torch.zeros(4, 40, dtype=torch.bool), torch.zeros(4, 40, dtype=torch.bool)
    key[:, 5:15], query[:, 20:] = True, True
    T, d = torch.tensor([[.6], [.1], [.3]]), torch.full((3, 1), .05)
    opt, off = torch.optim.Adam(net.parameters(), 3e-3), []
    for _ in range(60):
        I = aia.interaction(net(idx, key)[1], query)
        off.append((I - T).abs().mean().item())
        loss = aia.aia_loss(I, torch.ones(4, dtype=torch.bool), T, d)
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert off[-1] < .2 * off[0]


# ---------------------------------------------------------------------------------------------------------------------
# train.py


def weights(out, file="ckpt.pt"):
    return torch.load(out / file, weights_only=True)["model"]


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_leaves_what_the_readme_promises(trained):
    for name in "config.json ckpt.pt pretrained.pt tokenizer.pt log.csv interaction.json interaction.png samples.png scores.json".split():
        assert (trained / name).stat().st_size > 0
    rows = list(csv.DictReader(open(trained / "log.csv")))
    assert [r["step"] for r in rows if r["val_generate"]] == ["0", "10", "20"]
    assert {"summary", "toy-GenEval", "toy-POPE popular", "toy-MME", "toy-MMVP", "loss", "distance"} <= set(json.loads((trained / "scores.json").read_text()))


def test_aia_off_is_bit_identical_to_none_and_on_it_is_not(toy, trained, tmp_path):
    assert train(toy, tmp_path / "none") is None and train(toy, tmp_path / "zero", "--aia", 0) is None
    assert same(weights(tmp_path / "none"), weights(tmp_path / "zero"))
    assert same(weights(tmp_path / "none", "pretrained.pt"), weights(trained, "pretrained.pt")), "AIA leaves the first phase alone"
    assert not same(weights(tmp_path / "none"), weights(trained))


def test_aia_every_acts_on_every_nth_step_of_its_phase(toy, tmp_path, monkeypatch):
    acts, real = [], aia.aia_loss
    monkeypatch.setattr(aia, "aia_loss", lambda *args: acts.append(1) or real(*args))
    assert train(toy, tmp_path / "now and then", "--aia", .5, "--aia_every", 4) is None
    assert len(acts) == 3 * len(TASKS), "at steps 10, 14 and 18 of 20, for each task"
    for every, weight in ((1, 2), (4, .5)):  # one step with AIA
        assert train(toy, tmp_path / str(every), "--aia", weight, "--aia_every", every, "--aia_start", .95) is None
    assert same(weights(tmp_path / "1"), weights(tmp_path / "4")), "with N times the weight"


def test_the_same_seed_gives_the_same_log_bit_for_bit(toy, trained, tmp_path):
    assert train(toy, tmp_path / "again", "--aia", .5) is None
    assert (tmp_path / "again" / "log.csv").read_text() == (trained / "log.csv").read_text()


def test_resumed_equals_uninterrupted(toy, tmp_path, monkeypatch):
    """Killed at step 15, after the evaluation at step 11, gone on with --resume alone: the same weights, the same log, AIA on the same steps."""
    class Killed(Exception):
        pass

    steps, real = [], model.Muon.step

    def step(self, *args):
        steps.append(1)
        if len(steps) == 16:
            raise Killed
        return real(self, *args)

    assert train(toy, tmp_path / "whole", "--aia", .5, "--eval_every", 11) is None
    with monkeypatch.context() as m:
        m.setattr(model.Muon, "step", step)
        with pytest.raises(Killed):
            train(toy, tmp_path / "half", "--aia", .5, "--eval_every", 11)
    assert run("train.py", "--out", tmp_path / "half", "--resume") is None
    assert same(weights(tmp_path / "half"), weights(tmp_path / "whole"))
    assert (tmp_path / "half" / "log.csv").read_text() == (tmp_path / "whole" / "log.csv").read_text()
    assert "finished" in run("train.py", "--out", tmp_path / "half", "--resume")


def test_processes_and_parts_add_up_to_the_same_step(toy, tmp_path):
    """
    Two processes that take their rows in two parts each, layers computed anew, are one process that takes all at once: AIA, clipping and optimisers included.
    So are two that keep everything in shards.
    In float64, as Adam and Muon blow rounding errors up in float32.
    """
    start = """if True:
        import runpy, sys, torch, model, sample
        made = model.Transformer.__init__
        model.Transformer.__init__ = lambda self, c: (made(self, c), self.double())[0]
        sample.draw = lambda net, enc, meta, prompts, **more: torch.zeros(len(prompts), 64, dtype=torch.long)  # would take most of the time
        runpy.run_path("train.py", run_name="__main__")"""
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        port = a.getsockname()[1], b.getsockname()[1]

    def begin(out, world=1, rank=0, *args, port=0):
        flags = f"--data {toy.folder} --size nano --device cpu --dtype float32 --steps 3 --batch_size 8 --eval_every 9 --aia_start .3 --aia .5 --reference paper --exam 0".split()
        env = os.environ | {"WORLD_SIZE": str(world), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", start, *flags, "--out", str(out), *args], cwd=HERE, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    jobs = [begin(tmp_path / "one")]
    for ports, (out, *args) in enumerate((("two", "--accumulate", "2", "--checkpoint"), ("shards", "--fsdp", "--accumulate", "2", "--checkpoint"))):
        jobs += [begin(tmp_path / out, 2, rank, *args, port=port[ports]) for rank in range(2)]
    said = [p.communicate(timeout=240)[0].decode() for p in jobs]
    assert not any(p.returncode for p in jobs), said
    one = weights(tmp_path / "one")
    assert not same(one, weights(tmp_path / "one", "pretrained.pt"))
    logs = {x: list(csv.DictReader(open(tmp_path / x / "log.csv"))) for x in ("one", "two", "shards")}
    for other in ("two", "shards"):
        for name, w in weights(tmp_path / other).items():
            torch.testing.assert_close(w, one[name], atol=1e-9, rtol=0)
        for a, b in zip(logs[other], logs["one"], strict=True):
            assert {k: float(v or 0) for k, v in a.items()} == pytest.approx({k: float(v or 0) for k, v in b.items()}, rel=1e-5)
    assert "--batch_size 8" in run("train.py", "--data", toy.folder, "--batch_size", 8, "--accumulate", 3)


def test_a_branch_is_the_second_phase_bit_for_bit(toy, trained, tmp_path):
    """So --init_from RUN without --aia is what that very run would have become without it: the paired comparison."""
    assert train(toy, tmp_path / "branch", "--init_from", trained, "--aia_start", 0, "--steps", 10, "--aia", .5) is None
    assert same(weights(tmp_path / "branch"), weights(trained))
    assert not same(weights(trained), weights(trained, "pretrained.pt"))


def test_the_network_learns_both_tasks(trained, toy):
    losses = [h["val"] for h in json.loads((trained / "interaction.json").read_text())["history"]]
    for t in TASKS:
        assert losses[-1][t] < losses[0][t] - 1


@pytest.mark.parametrize("arch", ["evev2", "utamoe"])
def test_an_architecture_trains_in_its_stages_is_scored_and_talks(toy, trained, tmp_path, arch, capsys, monkeypatch):
    assert train(toy, tmp_path / arch, "--arch", arch, "--init_from", trained, "--steps", 10, "--aia", .1, "--exam", 1) is None
    assert capsys.readouterr().out.count("weights train") == len(PRESETS[arch]["stages"])
    assert {"toy-GenEval", "toy-MMVP"} <= json.loads((tmp_path / arch / "scores.json").read_text()).keys()
    if arch == "utamoe":
        row = next(r for r in csv.DictReader(open(tmp_path / arch / "log.csv")) if r["load_generate"])
        for t, own in (("understand", slice(0, 2)), ("generate", slice(2, 4))):  # the first stage tells the task
            assert abs(sum(float(x) for x in row[f"load_{t}"].split()[own]) - 1) < .05
    lines = iter(["a red circle", "?what color is the circle?", "?is it?"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines, None) or (_ for _ in ()).throw(EOFError))
    assert run("sample.py", tmp_path / arch) is None
    assert capsys.readouterr().out.count("decoded to pixels") == 1, "two encoders: it must look at what it drew"


def test_a_frozen_weight_is_bit_identical_afterwards(toy, trained, tmp_path, monkeypatch):
    """EVEv2's first two stages, from a dense network: new eyes and the vision copies train, the text copies and the rest stay what they were."""
    monkeypatch.setitem(PRESETS["evev2"], "stages", [s | {"share": .5} for s in PRESETS["evev2"]["stages"][:2]])
    assert train(toy, tmp_path / "x", "--arch", "evev2", "--init_from", trained, "--steps", 10) is None
    before, after = weights(trained, "pretrained.pt"), weights(tmp_path / "x")
    for name, w in after.items():
        if re.search(model.SECOND, name):
            assert not torch.equal(w, before[name.replace(".1.weight", ".0.weight").replace("ffn.1", "ffn.0")]), name
        elif not name.startswith("eyes"):
            assert torch.equal(w, before[name]), name
    torch.manual_seed(0)
    fresh = model.Transformer(model.Config(**json.loads((tmp_path / "x" / "config.json").read_text())["model"])).state_dict()
    assert not any(torch.equal(w, fresh[k]) for k, w in after.items() if k.startswith("eyes"))


def test_a_branch_of_a_staged_run_goes_on_with_its_last_stage(toy, trained, tmp_path):
    """So with and without AIA can be compared for every architecture: bit for bit, the second phase of the run it left."""
    args = "--arch", "januspro", "--steps", 10, "--task", "understand"
    assert train(toy, tmp_path / "x", *args, "--stages", "on", "--aia_start", .6, "--aia", .5) is None  # its last stage begins at 0.6, too
    assert train(toy, tmp_path / "y", *args, "--init_from", tmp_path / "x", "--steps", 4, "--aia_start", 0, "--aia", .5) is None
    assert same(weights(tmp_path / "x"), weights(tmp_path / "y"))


def test_a_missing_reference_is_trained_and_kept(toy, tmp_path):
    """Any data set but the toy world has no shipped curves; two short single-task runs make them."""
    shutil.copytree(toy.folder, tmp_path / "mine")
    meta = json.loads((tmp_path / "mine" / "meta.json").read_text()) | {"kind": "real"}
    (tmp_path / "mine" / "meta.json").write_text(json.dumps(meta))
    mine = data.load_dataset(tmp_path / "mine")
    assert train(mine, tmp_path / "run", "--aia", .1, "--reference", "small", "--steps", 3) is None
    curves = json.loads((tmp_path / "mine" / "reference-nano-3.json").read_text())
    assert len(curves["generate"]) == len(curves["understand"]) == 6


# ---------------------------------------------------------------------------------------------------------------------
# sample.py


def test_only_legal_tokens_are_drawn_and_said(toy, trained):
    net, _ = model.load_model(trained)
    codes = sample.draw(net, toy.enc, toy.meta, ["a red circle", "hello <|end|> 猫"], temperature=5.)
    assert codes.min() >= 0 and codes.max() < toy.meta["n_codes"] and codes.shape == (2, 64)
    allowed = sample.legal(torch.zeros(toy.meta["vocab_size"]), toy.meta, image=False)
    assert torch.equal(torch.nonzero(allowed == 0)[-1], torch.tensor([toy.enc._special_tokens["<|end|>"]]))


PROMPTS = ["a red circle", "a photo of a blue square and a green cross", "three circles"]


def test_a_picture_does_not_depend_on_its_batch(toy, trained):
    net, _ = model.load_model(trained)
    together = sample.draw(net, toy.enc, toy.meta, PROMPTS)
    one_by_one = sample.draw(net, toy.enc, toy.meta, PROMPTS, batch=1)
    assert torch.equal(together, one_by_one)


def test_the_cache_changes_no_picture_and_no_answer(toy, trained):
    net, _ = model.load_model(trained)
    codes = [sample.draw(net, toy.enc, toy.meta, PROMPTS, cached=c) for c in (True, False)]
    assert torch.equal(*codes)
    talks = [[("describe the picture.", "")], [("is there a red circle?", "no"), ("how many circles are there?", "")], [("what?", "")]]
    said = [sample.answer(net, toy.enc, toy.meta, codes[0], talks, cached=c) for c in (True, False)]
    assert said[0] == said[1] == [sample.answer(net, toy.enc, toy.meta, codes[0][i:i + 1], talks[i:i + 1])[0] for i in range(3)]


def test_the_ways_to_choose_a_token():
    logits, u = torch.randn(1, 50).repeat(4000, 1), torch.rand(4000, 1)
    best = logits.argmax(-1)
    for more in ({"temperature": 0}, {"top_k": 1}, {"top_p": 1e-6}):
        assert torch.equal(sample.choose(logits, u, **more), best)
    p = logits[0].softmax(-1)
    seen = sample.choose(logits, u).bincount(minlength=50) / 4000
    assert (seen - p).abs().max() < .03, "as often as the model says"
    assert set(sample.choose(logits, u, top_k=5).tolist()) == set(p.topk(5).indices.tolist())
    nucleus = sample.choose(logits, u, top_p=.5).unique()
    assert p[nucleus].sum() >= .5 > p[nucleus].sum() - p[nucleus].min(), "the fewest that reach top_p"


def test_scoring_by_one_pass_equals_answering_word_by_word(toy, trained):
    net, _ = model.load_model(trained)
    tok = data.load_tokenizer(trained / "tokenizer.pt")
    scenes = data.make_scenes(6, 9)
    pictures = data.render_all(scenes)
    codes = tok.encode(pictures).numpy()
    asked = [(c, q, a) for s, c in zip(scenes, codes) for _, q, a in data.questions(s, np.random.default_rng(0))[:3]]
    pixels = np.stack([pictures[(codes == c).all(1)][0] for c, _, _ in asked])
    said = sample.answer(net, toy.enc, toy.meta, torch.tensor(np.stack([c for c, _, _ in asked])), [[(q, "")] for _, q, _ in asked])
    for truth in ("the answer", "what it says"):
        rows = [data.make_row(toy.enc, toy.meta["first_image"], c, turns=[(q, a if truth == "the answer" else s)]) for (c, q, a), s in zip(asked, said)]
        right = sample.answered(net, toy.meta, *data.pack(rows, max(len(r[0]) for r in rows), toy.enc._special_tokens["<|pad|>"]), pixels)
        assert right.tolist() == [truth == "what it says" or s == a for (_, _, a), s in zip(asked, said)]


def test_pope_s_rules():
    assert [sample.pope_says(a) for a in ("no", "No, there is none.", "there is not one", "yes", "nothing. no", "")] == ["no", "no", "no", "yes", "yes", "yes"]
    said, label = np.array([[True, True, False, False]]), np.array([[True, False, True, False]])
    rates = {k: (n / d).item() for k, (n, d) in sample.pope_rates(said, label).items()}
    assert rates == {"accuracy": .5, "precision": .5, "recall": .5, "F1": .5, "yes ratio": .5}
    every = {k: (n / d).item() for k, (n, d) in sample.pope_rates(np.ones((1, 4), bool), label).items()}
    assert every == {"accuracy": .5, "precision": .5, "recall": 1., "F1": 2 / 3, "yes ratio": 1.}


def test_mme_s_rules():
    assert [sample.mme_says(a) for a in ("Yes.", "no", "  no", "red", "well yes")] == ["yes", "no", "no", "other", "other"]
    assert sample.mme_points(np.array([[1, 1], [1, 0], [0, 0], [0, 1]], bool)).mean() == 100 * .5 + 100 * .25, "accuracy and accuracy+"


def test_what_the_benchmarks_are_made_of():
    records = [r for r, _ in sample.geneval_prompts(20)]
    assert len({r["prompt"] for r in records}) == len(records) and {r["tag"] for r in records} == set(data.TAGS)
    assert all(any((i.get("color"), i["class"]) in HELD_OUT for i in r["include"]) for r, _ in sample.geneval_prompts(5, held_out=True))
    asked = {"pope": sample.pope_questions(20), "mme": sample.mme_questions(4), "mmvp": sample.mmvp_questions(3)}
    for scenes, groups in asked.values():
        for rows in groups.values():
            assert all(sample.truth(scenes[i], q) == a for i, q, a in rows)
    scenes, splits = asked["pope"]
    for rows in splits.values():
        assert [a for *_, a in rows] == ["yes", "no"] * 60 and all(len({q for j, q, _ in rows if j == i}) == 6 for i in range(20))
    count = {split: len({q for _, q, a in rows if a == "no"}) for split, rows in splits.items()}
    assert count["popular"] < count["adversarial"] < count["random"], "what is absent: the frequent, the fitting, anything"
    assert all([a for *_, a in rows] == ["yes", "no"] * 4 for rows in asked["mme"][1].values())
    scenes, patterns = asked["mmvp"]
    for rows in patterns.values():
        for (i, q, a), (j, r, b) in zip(rows[::2], rows[1::2]):
            near = len(set(scenes[i]) ^ set(scenes[j]))  # an object lost, one changed, or two that changed places
            assert q == r and a != b and near <= (4 if "seen from" in q else 2), "near twins, one question, two answers"


def test_the_oracle_scores_everything_and_the_files_are_in_the_field_s_formats(toy, trained):
    scores = json.loads((trained / "scores.json").read_text())
    for name, columns in scores.items():
        for column, v in columns.items():
            assert v.get("oracle", 1) == (.5 if column == "yes ratio" else 1000 if name == "summary" and column == "toy-MME" else 200 if name == "toy-MME" else 1), (name, column)
            assert "low" not in v or v["low"] <= v["run"] <= v["high"]
    line = json.loads((trained / "toy-geneval" / "results.jsonl").read_text().splitlines()[0])
    assert {"filename", "tag", "prompt", "correct", "reason", "metadata", "details"} == line.keys() and (trained / "toy-geneval" / line["filename"]).exists()
    line = json.loads((trained / "toy-pope" / "toy_pope_random.json").read_text().splitlines()[0])
    assert {"question_id", "image", "text", "label", "answer"} == line.keys() and (trained / "toy-pope" / line["image"]).exists()
    lines = [x.split("\t") for x in (trained / "toy-mme" / "count.txt").read_text().splitlines()]
    assert [x[2] for x in lines] == ["Yes", "No"] * (len(lines) // 2) and all(a[0] == b[0] for a, b in zip(lines[::2], lines[1::2]))
    table = list(csv.DictReader(open(trained / "toy-mmvp" / "Questions.csv")))
    assert [int(x["Index"]) for x in table] == list(range(1, len(table) + 1)) and {x["Correct Answer"] for x in table} == {"(a)", "(b)"}
    assert (trained / "mistakes.png").exists()


def test_a_conversation_draws_answers_loads_and_leaves(trained, tmp_path, capsys, monkeypatch):
    data.render([Object("circle", "red", "large", 20, 20)], 64).save(tmp_path / "x.png")
    lines = iter(["?what color is it?", "a red circle", "?what color is the circle?", "?how many circles are there?", f"!{tmp_path / 'x.png'}", "!nowhere.png", "", "?", "?describe the picture.", "cat " * 300])

    def say(_):
        if (line := next(lines, None)) is None:
            raise EOFError
        return line

    monkeypatch.setattr("builtins.input", say)
    assert run("sample.py", trained) is None
    said = capsys.readouterr()
    assert "no picture yet" in said.out and "is empty; say what to draw" in said.out and "the question is empty" in said.out and "001.png" in said.out and "nowhere.png: no such file" in said.out and "too long" in said.out
    assert "64 x 64 RGB, seen as 48 x 48" in said.err and "Traceback" not in said.err
    assert Image.open(trained / "talk" / "001.png").size == (48, 48)


def test_sample_draws_answers_and_refuses(trained, tmp_path, capsys):
    png = tmp_path / "grid.png"
    assert run("sample.py", trained, "--prompt", "a red circle", "--prompt", "two crosses", "--n", 2, "--png", png) is None
    assert Image.open(png).width > 500 and "4 pictures" in capsys.readouterr().out
    data.render([Object("circle", "red", "large", 20, 20)], 64).save(tmp_path / "x.png")
    assert run("sample.py", trained, "--image", tmp_path / "x.png", "--ask", "what color is the circle?") is None
    (tmp_path / "bad.png").write_text("x")
    (tmp_path / "prompts.txt").write_text("a red circle\n\ntwo giraffes\n")
    assert run("sample.py", trained, "--prompts", tmp_path / "prompts.txt", "--folder", tmp_path / "drawn", "--n", 2, "--top_p", .9, "--top_k", 50) is None
    assert sorted(f.name for f in (tmp_path / "drawn").iterdir()) == ["0000_0.png", "0000_1.png", "0001_0.png", "0001_1.png", "sheet.png"]
    assert "new or rare to this network: giraffes" in capsys.readouterr().err
    for args, why in (((trained, "--prompts", tmp_path / "none.txt"), "cannot be read"), ((trained, "--prompt", ""), "is empty"), ((trained, "--prompt", "cat " * 300), "too long"),
                      ((trained, "--image", tmp_path / "bad.png", "--ask", "what?"), "no picture"), ((trained, "--ask", "what?"), "go together"), ((trained, "--prompt", "a", "--cfg", "nan"), "not negative"),
                      ((tmp_path / "nowhere", "--score"), "no run here"), ((trained, "--prompt", "a", "--png", tmp_path / "no" / "x.png"), "cannot be written")):
        assert why in run("sample.py", *args), args


def test_a_run_of_another_version_is_refused(trained, tmp_path):
    """Its weights would load, and mean something else."""
    shutil.copytree(trained, tmp_path / "old")
    config = json.loads((trained / "config.json").read_text()) | {"version": 1}
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    assert "version 1, this code reads" in run("sample.py", tmp_path / "old", "--prompt", "a red circle")


def test_what_is_there_is_not_overwritten(toy, trained):
    before = {f: f.read_bytes() for folder in (trained, toy.folder) for f in folder.iterdir() if f.is_file()}
    for args in ((), ("--init_from", trained)):
        assert "would be lost" in train(toy, trained, *args)
    assert "would be lost" in run("data.py", "--out", toy.folder) and "would be lost" in train(toy, HERE / "README.md") and "cannot be made" in train(toy, HERE / "README.md" / "x")
    assert all(f.read_bytes() == b for f, b in before.items())


def test_aia_prints_and_draws_the_curves_of_several_runs(trained, tmp_path, capsys):
    assert run("aia.py", trained, trained, "--png", tmp_path / "two.png") is None
    assert Image.open(tmp_path / "two.png").width == 800 and capsys.readouterr().out.count("correlation") == 4
    assert "no such file" in run("aia.py", tmp_path)


@pytest.mark.parametrize("args, why", [(("--ratio", "1-1"), "wanted is generate:understand"), (("--data", "nowhere/mine"), "no data set here"),
                                       (("--init_from", "nowhere"), "no run here"), (("--reference", "nowhere"), "no run here"),
                                       (("--batch_size", 1), "too few rows for both tasks"), (("--split", "ffm"), "any of norm, qkv, ffn, ends"),
                                       (("--split", "qkv", "--route", "learned"), "routers choose among copies of ffn"), (("--experts", 2), "need a router")])
def test_train_refuses_with_one_line(toy, tmp_path, args, why):
    said = train(toy, tmp_path / "x", *args)
    assert why in said and "\n" not in said


# ---------------------------------------------------------------------------------------------------------------------
# README.md


def test_the_readme_s_commands_parse():
    """Every flag that the README types exists, so that no command in it goes stale."""
    text = (HERE / "README.md").read_text()
    commands = [c for block in re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.S) for c in block.splitlines() if c.startswith("python ")]
    assert len(commands) > 8
    for c in commands:
        words = shlex.split(c, comments=True)
        if words[1].endswith(".py"):
            source = (HERE / words[1]).read_text()
            for w in words[2:]:
                assert not w.startswith("--") or f'"{w}"' in source, c
