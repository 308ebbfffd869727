"""
tests/test_lab.py: the laws of lab/: what the commands print and draw, what they refuse, and that a
conversation goes on.
"""
import errno
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from data import TASKS, load_tokenizer
from exam.questions import geneval_prompts
from lab import bench, conflict, cost, curves, drawings, sampling
from lab.bench import Plain, loss_of, random_batch
from lab.conversation import converse
from lab.curves import mean_run
from lab.speed import compare
from model import PRESETS, Config
from systems import build
from systems.dial import with_flags
from tests.common import as_if_trained_for, run, small_model
from tools.muon import optimizers
from tools.sheet import sheet
from toy.world import Object, render, render_all

pytest_plugins = "tests.fixtures"

# ---------------------------------------------------------------------------------------------
# what is measured


def test_what_networks_draw_stands_in_a_row_each(trained, tmp_path, monkeypatch):
    said = []

    def note(pictures, texts, file, columns, zoom):
        said.append((np.array(pictures), texts, columns))
        sheet(pictures, texts, file, columns, zoom)

    monkeypatch.setattr(drawings, "sheet", note)
    runs = [SimpleNamespace(arm=arm, folder=trained) for arm in ("one", "two")]
    drawings.draw_rows(runs, ["a red cross", "a square"], tmp_path / "rows.png")
    [(pictures, texts, columns)] = said
    assert texts == ["one: a red cross", "one: a square", "two: a red cross", "two: a square"]
    assert columns == 2 and np.array_equal(pictures[:2], pictures[2:]), "by the same chances"
    assert not np.array_equal(pictures[0], pictures[1])
    assert Image.open(tmp_path / "rows.png").width > 2 * 120


def test_sampling_is_tried_on_prompts_that_the_exam_does_not_ask_for(monkeypatch):
    """And what is right counts: true pictures are all right, those of other prompts are not."""
    tok = load_tokenizer("assets/tokenizer-48.pt")
    prompts = sampling.new_prompts()
    tried = {record["prompt"] for record, _ in prompts}
    assert len(tried) > 100
    assert not tried & {record["prompt"] for record, _ in geneval_prompts()}
    prompts = prompts[::10]
    scenes = [scene for _, scene in prompts for _ in range(sampling.PICTURES_A_PROMPT)]
    drawn = tok.encode(render_all(scenes))
    monkeypatch.setattr(sampling, "draw", lambda *_, **__: drawn)
    assert sampling.share(None, None, tok, prompts, 2., 1., 1.) == 1
    drawn = drawn.flip(0)
    assert sampling.share(None, None, tok, prompts, 2., 1., 1.) < .5


def test_every_preset_has_a_row_of_costs(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["cost"])
    monkeypatch.setattr(cost, "ROWS", 1)
    monkeypatch.setattr(cost, "ROUNDS", 1)
    cost.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    assert [row[0] for row in rows] == list(PRESETS)
    times = {row[0]: float(row[-4]) for row in rows}
    assert times["emu3"] == 1


def test_a_cost_step_teaches_every_weight():
    for arch in PRESETS:
        model = small_model(arch)
        batches = [cost.example(model, task, 2) for task in ("generate", "understand")]
        before = {name: p.clone() for name, p in model.named_parameters()}
        cost.take_step(model, optimizers(model, .1), batches, "cpu", "float32")
        still = {name for name, p in model.named_parameters()
                 if torch.equal(p, before[name]) and not name.startswith(model.frozen)}
        if arch in ("bagel", "transfusion", "lmfusion", "metamorph"):
            still -= {"embed.0.digit.weight"}  # of image tokens, which none of these embeds
        assert not still or arch in ("utamoe", "moe"), "idle experts may stay"


@pytest.mark.parametrize("pull_of_seen, wanted", [
    ((1, 0), 1), ((5, 0), 1), ((0, 3), 0), ((-1, 1), -.71), ((-2, 0), -1)])
def test_the_cosine_of_two_tasks_is_that_of_what_they_want_not_of_noise(pull_of_seen, wanted):
    """Whatever the size of either, and with ten times as much noise as there is of it."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(2000, 2)))[0].T
    drawn = directions[0] + 10 * rng.normal(size=(200, 2000)) / 2000 ** .5
    size = np.hypot(*pull_of_seen)
    seen = pull_of_seen @ directions + 10 * size * rng.normal(size=(200, 2000)) / 2000 ** .5
    both = np.concatenate([drawn, seen])
    found = conflict.cosine_of(both @ both.T)
    assert found["cosine"] == pytest.approx(wanted, abs=.15)
    assert found["low"] - .01 <= wanted <= found["high"] + .01
    assert found["high"] - found["low"] < .6
    assert found["ratio"] == pytest.approx(size, rel=.2)


def test_what_is_all_noise_is_called_so():
    noise = np.random.default_rng(0).normal(size=(40, 2000))
    assert conflict.cosine_of(noise @ noise.T)["cosine"] is None


@pytest.mark.parametrize("arch", ["emu3", "bagel", "separate", "moe"])
def test_a_gradient_is_that_of_the_mean_over_rows(toy, arch):
    """So two draws make up their sum, whatever a row's length; idle copies have none."""
    config = with_flags(Config(2, 2, 32, **of_data(toy)), arch)
    model = build(config)
    rows = np.arange(6)
    for task in TASKS:
        whole = conflict.gradient(model, toy, task, rows)
        parts = [conflict.gradient(model, toy, task, part) for part in (rows[:3], rows[3:])]
        assert len(whole) == config.n_layer * len(conflict.MATRICES)
        for place, own in whole.items():
            torch.testing.assert_close(own, (parts[0][place] + parts[1][place]) / 2)


def of_data(toy):
    names = ("block_size", "vocab_size", "first_image", "n_image")
    tok = load_tokenizer(toy.folder / "tokenizer.pt")
    sizes = {name: toy.meta[name] for name in names}
    return sizes | {"levels": list(tok.levels), "patch": tok.patch}


def test_conflict_is_measured_where_the_second_phase_began_and_at_the_end(trained, monkeypatch,
                                                                         tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    monkeypatch.setattr("sys.argv", ["conflict", str(out), "--draws", "8", "--rows", "8"])
    conflict.main()
    said = capsys.readouterr().out
    assert "second phase: cosine" in said and "end: cosine" in said
    looked = json.loads((out / "conflict.json").read_text())
    assert (looked["draws"], looked["rows"]) == (8, 8)
    for of_layer in looked["moments"]["end"]:
        for numbers in of_layer.values():
            assert numbers["cosine"] is None or -1 <= numbers["cosine"] <= 1
    assert Image.open(out / "conflict.png").width > 400


def test_a_seed_counts_once_in_a_mean(trained, monkeypatch):
    monkeypatch.setattr("sys.argv", ["aia.py", f"{trained},{trained}/"])
    with pytest.raises(SystemExit, match="a folder is named twice"):
        curves.main()


def test_the_file_that_is_damaged_is_the_one_that_is_named(trained, tmp_path):
    for name, remedy in (("interaction.json", "train the run again"),
                         ("config.json", "train the run again"), ("scores.json", "remove it")):
        shutil.copytree(trained, tmp_path / name)
        (tmp_path / name / name).write_text("{")
        with pytest.raises(SystemExit) as refused:
            curves.load_run(tmp_path / name)
        assert f"{name}: is damaged" in refused.value.code and remedy in refused.value.code


def test_all_ways_of_the_bench_compute_the_same_loss_but_for_aia():
    model = build(bench_config())
    batch = random_batch(model, 64, "cpu")
    none = loss_of("none", model, batch)
    assert torch.equal(loss_of("AIA", model, batch, act=False), none)
    assert loss_of("AIA", model, batch) > none
    torch.testing.assert_close(loss_of("AIA", model, batch), loss_of("explicit", model, batch))


def bench_config():
    return Config(2, 2, 32, 64, n_image=bench.N_IMAGE)


def test_the_plain_decoder_is_a_decoder():
    torch.manual_seed(0)
    plain = Plain(bench_config())
    ids = torch.randint(0, 400, (2, 30))
    changed = ids.clone()
    changed[:, 20:] += 1
    before, after = plain(ids), plain(changed)
    assert before.shape == (2, 30, plain.embed.num_embeddings)
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


def test_the_bench_fills_its_table_and_its_file(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["bench", "--size", "nano", "--device", "cpu", "--aia_every",
                                     "1", "--dtype", "float32"])
    for name, value in (("TOKENS", 128), ("LENGTHS", (64, 128)), ("LONGEST", 64), ("ROUNDS", 1)):
        monkeypatch.setattr(bench, name, value)
    bench.main()
    lines = json.loads((tmp_path / "results" / "bench.json").read_text())["lengths"]
    assert [line["T"] for line in lines] == [64, 128]
    assert [line["rows"] for line in lines] == [2, 1]
    assert lines[0]["memory explicit/none"] > lines[0]["memory AIA/none"] > 1
    assert lines[1]["explicit/none"] is None
    assert "n/a" in capsys.readouterr().out


@pytest.mark.parametrize("part", ("nothing", *bench.PARTS))
def test_a_part_of_the_bench_is_really_left_out(part):
    losses = []
    for left_out in ((), (part,)):
        net, opts = bench.without(left_out, bench_config())
        for p in net.parameters():  # at first attention and feed-forward are silent
            if p.dim() == 2:
                torch.manual_seed(p.numel())
                p.data = torch.randn(p.shape) * .2
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(loss_of("none", net, random_batch(net, 64, "cpu")).item())
    assert (losses[0] == losses[1]) == (part in ("nothing", "Muon"))
    assert (len(opts) == 1) == (part == "Muon")


def test_a_cache_that_gives_something_else_is_noticed(capsys):
    compare("pictures", 4, lambda cached: "the very same")
    compare("pictures", 4, lambda cached: cached)
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("; the same")
    assert said[1].endswith("; NOT the same")


# ---------------------------------------------------------------------------------------------
# curves


def test_the_curves_of_several_runs_are_printed_and_drawn(trained, tmp_path, capsys):
    assert run("aia.py", trained, trained, "--png", tmp_path / "two.png") is None
    assert Image.open(tmp_path / "two.png").width == 800
    said = capsys.readouterr().out
    assert said.count("correlation") == 4
    curves = json.loads((trained / "interaction.json").read_text())
    assert f"{curves['history'][-1]['generate']['mean'][0]:.3f} ±" in said
    assert f"{curves['reference']['understand']['curve'][5]:.3f}" in said
    assert "no such file" in run("aia.py", tmp_path)
    (tmp_path / "interaction.json").write_text('{"history": []}')
    assert "is damaged, or another's" in run("aia.py", tmp_path)


def test_seeds_become_one_run_with_their_spread(tmp_path):
    for seed, level in enumerate((.2, .4)):
        curve = {"mean": [level] * 6, "std": [.5] * 6}
        history = [{"step": 0, "phase": 0, "generate": curve}]
        reference = {"generate": {"curve": [.3] * 6}}
        folder = tmp_path / f"s{seed}"
        folder.mkdir()
        (folder / "interaction.json").write_text(
            json.dumps({"history": history, "reference": reference}))
        scores = {"summary": {"answered": {"run": level}}}
        (folder / "scores.json").write_text(json.dumps(scores))
    mean = mean_run([tmp_path / "s0", tmp_path / "s1"])
    assert np.allclose(mean["history"][0]["generate"]["mean"], .3)
    assert np.allclose(mean["history"][0]["generate"]["std"], np.std([.2, .4], ddof=1))
    assert mean["notes"] == ["answered 0.300 ± 0.141"]
    assert mean["history"][0]["distance"] == pytest.approx({"generate": .1}), "none is at its aim"

    longer = json.loads((tmp_path / "s1" / "interaction.json").read_text())
    longer["history"] *= 2
    (tmp_path / "s1" / "interaction.json").write_text(json.dumps(longer))
    with pytest.raises(SystemExit, match="runs of different steps, tasks or layers"):
        mean_run([str(tmp_path / "s0"), str(tmp_path / "s1")])


# ---------------------------------------------------------------------------------------------
# the command `python sample.py`


@pytest.fixture
def picture(tmp_path):
    file = tmp_path / "x.png"
    render([Object("circle", "red", "large", 20, 20)], 64).save(file)
    return file


def talk_with(out, lines, monkeypatch):
    """Says these lines to the conversation of a run."""
    monkeypatch.setattr("builtins.input", says(lines))
    assert run("sample.py", out) is None


def says(lines):
    """What input() is to be: it gives these lines, and then says that there are no more."""
    left = list(lines)

    def say(_):
        if not left:
            raise EOFError
        return left.pop(0)

    return say


def test_a_conversation_draws_answers_loads_and_leaves(trained, picture, capsys, monkeypatch):
    talk_with(trained, [
        "?what color is it?", "a red circle", "?what color is the circle?", "?how many?",
        f"!{picture}", "!nowhere.png", "", "?", "?describe the picture.", "cat " * 300],
        monkeypatch)
    said = capsys.readouterr()
    for words in ("there is no picture yet", "001.png", "nowhere.png: no such file",
                  "the prompt: is empty; say what to draw", "the question is empty", "too long"):
        assert words in said.out
    assert "64 x 64 RGB, seen as 48 x 48" in said.err
    assert Image.open(trained / "talk" / "001.png").size == (48, 48)


def test_a_conversation_draws_over_no_picture_that_is_there(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    talk = tmp_path / "run" / "talk"
    talk.mkdir(exist_ok=True)
    (talk / "007.png").write_text("the only one that was kept")
    talk_with(tmp_path / "run", ["a red circle"], monkeypatch)
    assert (talk / "007.png").read_text() == "the only one that was kept"
    assert (talk / "008.png").exists()


def test_a_conversation_goes_on_where_its_folder_cannot_be_written(trained, capsys, monkeypatch):
    denied = PermissionError(errno.EACCES, "Permission denied", "run/talk/001.png")

    def fail(*_):
        raise denied

    monkeypatch.setattr(Image.Image, "save", fail)
    talk_with(trained, ["a red circle", "?what color is the circle?"], monkeypatch)
    said = capsys.readouterr().out
    assert "run/talk/001.png: cannot be written (Permission denied)" in said
    assert "there is no picture" not in said


def test_eyes_that_want_pixels_get_what_was_drawn_decoded_once(toy, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("builtins.input", says(["a red circle", "?what?", "?is it?"]))
    meta = toy.meta
    tok = load_tokenizer(toy.folder / "tokenizer.pt")
    sizes = [meta[name] for name in ("block_size", "vocab_size", "first_image", "n_image")]
    model = build(Config(2, 2, 32, *sizes, tok.levels, tok.patch, see="encoder"))
    converse(tmp_path, model, toy.enc, tok, meta["canvas"], 0, {"cfg": 1.})
    assert capsys.readouterr().out.count("decoded to pixels") == 1


def test_prompts_are_drawn_and_a_question_answered(trained, picture, tmp_path, capsys):
    png = tmp_path / "grid.png"
    prompts = ("--prompt", "a red circle", "--prompt", "two crosses")
    assert run("sample.py", trained, *prompts, "--n", 2, "--png", png) is None
    said = capsys.readouterr().out
    assert Image.open(png).width > 500
    assert "4 pictures" in said
    assert said.count("the judge sees") == 4
    question = "what color is the circle?"
    assert run("sample.py", trained, "--image", picture, "--ask", question) is None


def test_a_file_of_prompts_becomes_a_folder_of_pictures(trained, tmp_path, capsys):
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\n\ntwo giraffes\n")
    flags = ("--folder", tmp_path / "drawn", "--n", 2, "--top_p", .9, "--top_k", 50)
    assert run("sample.py", trained, "--prompts", file, *flags) is None
    assert sorted(f.name for f in (tmp_path / "drawn").iterdir()) == [
        "0000_0.png", "0000_1.png", "0001_0.png", "0001_1.png", "sheet.png"]
    said = capsys.readouterr().err
    assert said.count("new or rare to this network") == 1
    assert "new or rare to this network: giraffes\n" in said


@pytest.mark.parametrize("flags, why", [
    (("--prompts", "nowhere.txt"), "cannot be read"),
    (("--prompt", ""), "is empty"),
    (("--prompt", "cat " * 300), "too long"),
    (("--image", "README.md", "--ask", "what?"), "no picture"),
    (("--ask", "what?"), "go together"),
    (("--prompt", "a", "--cfg", "nan"), "not negative"),
    (("--prompt", "a", "--cfg", "inf"), "finite number"),
    (("--prompt", "a", "--png", "no/x.png"), "there is no folder"),
    (("--prompt", "a", "--folder", "mine"), "goes with --prompts"),
    (("--prompts", "a.txt", "--png", "x.png"), "goes with --prompt;"),
    (("--image", "assets/scene.png", "--ask", "what?", "--n", 2), "goes with --prompt or"),
    (("--image", "assets/scene.png", "--ask", "what?", "--cfg", 2), "is for drawing"),
    (("--n", 2), "goes with --prompt or"),
    (("--score",), "python -m exam")])
def test_what_cannot_be_done_is_said_in_one_line(trained, flags, why):
    said = run("sample.py", trained, *flags)
    assert why in said
    assert "\n" not in said


def test_a_network_is_not_asked_for_what_it_never_learned(trained, tmp_path):
    out = as_if_trained_for("generate", trained, tmp_path / "run")
    said = run("sample.py", out, "--image", "assets/scene.png", "--ask", "what?")
    assert "was trained with --task generate and cannot understand" in said
