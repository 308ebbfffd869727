"""
tests/test_tools.py: the laws of tools/: what is fast is equal to what is plain; files are whole;
pictures can be looked at.
"""
import argparse
import csv
import io
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.common import small_model
from tools import device, fast, processes
from tools.balance import put_back, set_aside
from tools.curves import draw_curves
from tools.files import save_json
from tools.flags import Help, Parser, speak_plainly, text
from tools.log import Log
from tools.muon import newton_schulz, optimizers
from tools.sheet import refuse_no_picture, sheet
from tools.timing import Meter, by_turns

# ---------------------------------------------------------------------------------------------
# the same mathematics, faster


@pytest.mark.parametrize("compiled", [False, True])
def test_the_fast_norm_is_the_plain_one_and_torch_s_gradients_too(compiled):
    x = torch.randn(5, 16, dtype=torch.float64, requires_grad=True)
    rms_norm = fast.rms_norm
    if compiled:
        torch._dynamo.reset()
        rms_norm = torch.compile(fast.rms_norm, backend="aot_eager")

    def torch_s(x):
        return F.rms_norm(x, (16,), eps=fast.EPS)

    values = []
    gradients = []
    for norm in (rms_norm, fast.plain_rms_norm, torch_s):
        y = norm(x)
        values.append(y)
        gradients += torch.autograd.grad(y.cos().sum(), x)
    for value, gradient in zip(values, gradients):
        torch.testing.assert_close(value, values[0])
        torch.testing.assert_close(gradient, gradients[0])


def test_the_fast_norm_has_the_plain_one_s_gradients_with_a_gain_of_rows_too():
    x = torch.randn(7, 2, 3, 16, dtype=torch.float64, requires_grad=True)
    gain = torch.randn(2, 3, 1, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(fast.rms_norm(x, gain), fast.plain_rms_norm(x) * gain)
    torch.testing.assert_close(fast.plain_rms_norm(x, gain), fast.plain_rms_norm(x) * gain)
    assert torch.autograd.gradcheck(fast.rms_norm, (x, gain))


def test_the_fast_squared_relu_is_the_plain_one():
    x = torch.randn(5, 16, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(fast.squared_relu(x), fast.plain_squared_relu(x))
    assert torch.autograd.gradcheck(fast.squared_relu, x)


def test_a_norm_in_bfloat16_is_computed_in_float32():
    x = torch.randn(4, 64).bfloat16()
    torch.testing.assert_close(fast.rms_norm(x), fast.plain_rms_norm(x.float()))


def rotary_of(T, D):
    frequency = 10. ** -torch.arange(D // 2)
    angle = torch.arange(float(T))[:, None] * frequency
    return torch.stack((angle.cos(), angle.sin()), -1)  # (T, D / 2, 2)


def test_rotary_positions_make_a_product_depend_on_the_distance_alone():
    rotary = rotary_of(6, 4)
    q, k = torch.randn(2, 1, 4).expand(2, 6, 4)
    products = fast.rotate(q, rotary) @ fast.rotate(k, rotary).T
    torch.testing.assert_close(products[1:, 1:], products[:-1, :-1], atol=1e-5, rtol=0)
    assert not torch.allclose(products[1:], products[:-1], atol=1e-2)


def test_pairs_are_turned_alike_as_complex_numbers_and_as_real_ones():
    x = torch.randn(2, 6, 8)
    rotary = rotary_of(6, 8)
    torch.testing.assert_close(fast.rotate(x, rotary), fast.plain_rotate(x, rotary))
    torch._dynamo.reset()
    compiled = torch.compile(fast.rotate, backend="eager")
    torch.testing.assert_close(compiled(x, rotary), fast.plain_rotate(x, rotary))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype, T", [(torch.float32, 48), (torch.bfloat16, 48),
                                      (torch.bfloat16, 600)])
def test_fused_attention_is_that_of_the_matrix(dtype, T, masked):
    q, k, v = torch.randn(3, 2, 2, T, 16)
    mask = None
    if masked:
        mask = torch.rand(2, 1, T, T) < .5
        mask |= torch.eye(T, dtype=torch.bool)  # nobody sees nothing
    want, weights = fast.plain_attention(q, k, v, mask, .2)
    got = fast.attention(q.to(dtype), k.to(dtype), v.to(dtype), mask, .2)
    close = .03 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(got.float(), want, atol=close, rtol=0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, T))


# ---------------------------------------------------------------------------------------------
# Muon


@pytest.mark.parametrize("there", (True, False))
def test_muon_is_torch_s_muon(there, monkeypatch):
    """To the bit, where there are instructions for bfloat16; elsewhere nearly so."""
    monkeypatch.setattr("tools.muon.has_bfloat16", lambda _: there)
    ours = small_model("utamoe")
    theirs = small_model("utamoe")
    muon, _ = optimizers(ours, .05)
    is_matrix = {id(p) for p in muon.param_groups[0]["params"]}
    start = [p.detach().clone() for p in ours.parameters()]
    pairs = list(zip(ours.parameters(), theirs.parameters()))
    matrices = [their for own, their in pairs if id(own) in is_matrix]
    torch_s = torch.optim.Muon(matrices, lr=.05, momentum=.95, weight_decay=.01)
    for _ in range(3):
        for own, their in pairs:
            own.grad = torch.randn_like(own)
            their.grad = own.grad.clone()
        muon.step()
        torch_s.step()
    for before, (own, their) in zip(start, pairs):
        if id(own) in is_matrix:
            off = (own - their).norm() / (their - before).norm()
            assert off == 0 if there else 0 < off < .02


def test_muon_s_step_is_as_long_in_every_direction():
    x = torch.randn(2, 20, 30)
    x[0, :10] *= 1e-2  # half of the directions are weak
    before = torch.linalg.svdvals(x[0])
    after = torch.linalg.svdvals(newton_schulz(x.bfloat16())[0].float())
    assert before.max() > 100 * before.min()
    assert after.max() < 4 * after.min()
    assert .3 < after.min() and after.max() < 1.3


def test_every_weight_has_one_optimiser():
    model = small_model("januspro")
    muon, adamw = optimizers(model, .05)
    taken = [p for opt in (muon, adamw) for p in opt.param_groups[0]["params"]]
    assert len(taken) == len({id(p) for p in taken}) == len(list(model.parameters()))
    assert all(p.dim() == 2 for p in muon.param_groups[0]["params"])


# ---------------------------------------------------------------------------------------------
# the machine


def test_float32_means_float32():
    """Products that bfloat16 runs may leave to another library are exact again afterwards."""
    x, w = torch.randn(2, 512, 128)
    assert device.set_products("cpu", "bfloat16") == "bfloat16"
    assert device.set_products("cpu", "float32") == "float32"
    exact = x.double() @ w.double().T
    assert (F.linear(x, w) - exact).abs().max() < 1e-4


def test_a_device_that_is_not_there_is_refused_in_one_line():
    with pytest.raises(SystemExit, match="--device cuda:99: cannot be used here"):
        device.find_device("cuda:99")
    assert device.find_device("cpu") == "cpu"


def test_a_gpu_s_peak_goes_by_its_whole_name(monkeypatch):
    for name, peak in (("NVIDIA L40S", 362e12), ("NVIDIA L4", 121e12), ("Some GPU", None),
                       ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12)):
        monkeypatch.setattr(device, "gpu_name", lambda _: name)
        assert device.peak_flops("cuda", "bfloat16") == peak
    assert device.peak_flops("cuda", "float32") is None


def test_one_process_alone_is_left_alone():
    model = small_model()
    assert processes.world == 1
    assert processes.join("cpu") == "cpu"
    assert processes.share(model, fsdp=False, some_idle=True) is model
    tensor = torch.ones(2)
    assert processes.mean(tensor) is tensor
    state = processes.whole({"a": [tensor]})
    assert state["a"][0] is tensor


def test_works_take_their_turns():
    done = []
    works = {"a": lambda: done.append("a"), "b": lambda: done.append("b")}
    seconds = by_turns(works, 3, "cpu")
    assert done[:4] == ["a", "b", "a", "b"]
    assert [len(times) for times in seconds.values()] == [3, 3], "warming up does not count"


def test_an_evaluation_is_no_training_but_waiting_is(monkeypatch):
    now = [0.]
    monkeypatch.setattr("time.time", lambda: now[0])
    meter = Meter(flops=10, peak=10_000)
    meter.tokens = 500
    for what, seconds in (("evaluating", 30), ("waiting", 4)):
        with meter.aside(what):
            now[0] += seconds
    now[0] += 6
    assert meter.read() == {"tok/s": "50", "MFU": "5.0%", "waits": "40.0%"}


# ---------------------------------------------------------------------------------------------
# files


def test_a_file_is_the_old_one_or_the_new_one(tmp_path):
    file = tmp_path / "a.json"
    save_json(file, {"a": 1})
    with pytest.raises(TypeError):
        save_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}
    save_json(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 2}


def test_a_log_that_is_resumed_loses_what_is_done_anew(tmp_path):
    file = tmp_path / "log.csv"
    log = Log(file, ["step", "loss"])
    for step in range(4):
        log.record(step=step, loss=step / 3)
    log.close()
    log = Log(file, ["step", "loss"], resume_at=2)
    log.record(step=2)
    log.close()
    with open(file, newline="") as f:
        lines = list(csv.reader(f))
    assert lines == [["step", "loss"], ["0", "0"], ["1", "0.333333"], ["2", ""]]


def test_help_tells_a_default_where_there_is_one(capsys):
    p = argparse.ArgumentParser(formatter_class=Help)
    p.add_argument("--n", type=int, default=4, help="pictures")
    p.add_argument("--out", help="folder")
    p.add_argument("--resume", action="store_true", help="go on")
    p.print_help()
    said = capsys.readouterr().out
    assert said.count("default") == 1
    assert "pictures (default: 4)" in said


# ---------------------------------------------------------------------------------------------
# flags and words


@pytest.mark.parametrize("words, said", [
    (["--step", "4"], "--step: no such flag; is --steps meant?"),
    (["--colour", "4"], "--colour: no such flag; see --help"),
    (["a", "b"], "b: is one word too many; see --help"),
    (["a", ""], "'': is one word too many; see --help"),
    (["--steps", "x\n"], "--steps: invalid int value: 'x\\n'; see --help"),
    (["--data", ""], "--data: is empty; leave it out, or say what is meant"),
    ([""], "out: is empty; leave it out, or say what is meant"),
    (["--say", "a", "--say", ""], "--say: is empty; leave it out, or say what is meant"),
    (["--data", "a\nb"], "--data a\\nb: holds a line break or another control character; "
                         "name something without")])
def test_a_wrong_flag_is_said_in_one_line(words, said):
    with pytest.raises(SystemExit) as refused:
        parser().parse_args(words)
    assert refused.value.code == said


def parser():
    p = Parser()
    p.add_argument("out", nargs="?")
    p.add_argument("--steps", type=int)
    p.add_argument("--data")
    p.add_argument("--say", type=text, action="append")
    return p


def test_a_text_may_have_lines_and_is_utf_8_whatever_the_locale_is():
    args = parser().parse_args(["--say", "a\nb", "--say", "\udce7\udc8c\udcab", "--say", "\udcff"])
    assert args.say == ["a\nb", "猫", "\ufffd"]


@pytest.mark.parametrize("encoding, typed, read", [
    ("ascii", "猫", "猫"), ("ascii", b"\xff", "\ufffd"), ("utf-8", "猫", "猫"),
    ("latin-1", b"\xff", "ÿ")])
def test_what_is_typed_is_read_whatever_the_locale_is(monkeypatch, encoding, typed, read):
    raw = typed.encode() if isinstance(typed, str) else typed
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw), encoding))
    speak_plainly()
    assert input() == read


def test_a_picture_s_place_is_said_for_what_it_is(tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(SystemExit, match="a is a file; name a picture in a folder"):
        refuse_no_picture("--png", tmp_path / "a" / "x.png")


# ---------------------------------------------------------------------------------------------
# pictures


def run_of(level):
    curve = {"mean": [level] * 6, "std": [.01] * 6}
    measured = {"step": 0, "phase": 0, "generate": curve, "understand": curve}
    return {"history": [measured], "reference": {"generate": {"curve": [.3] * 6}}}


def test_a_higher_curve_is_drawn_higher(tmp_path):
    blue = np.array((31, 98, 180))
    tops = []
    for level in (.2, .6):
        draw_curves([("a run", run_of(level)), ("another", run_of(.8))], tmp_path / "x.png")
        picture = np.asarray(Image.open(tmp_path / "x.png"))
        assert picture.shape[1] == 800, "a panel each"
        left = picture[60:280, 60:380]
        is_blue = (np.abs(left.astype(int) - blue) < 30).all(2)
        tops.append(np.flatnonzero(is_blue.any(1))[0])
    assert tops[0] > tops[1] + 50


def test_a_sheet_shows_every_picture_enlarged(tmp_path):
    colors = [(255, 0, 0), (0, 128, 0), (0, 0, 255)]
    pictures = np.zeros((3, 8, 8, 3), np.uint8)
    pictures[:] = np.array(colors)[:, None, None]
    sheet(pictures, ["a", "b " * 200, ""], tmp_path / "x.png", columns=2, zoom=40)
    page = np.asarray(Image.open(tmp_path / "x.png"))
    for color in colors:
        assert (page == color).all(2).sum() == 40 * 40


# ---------------------------------------------------------------------------------------------
# balance


def test_balanced_tasks_pull_equally_hard_each_in_its_own_direction():
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 4)
    pulls = [{p: torch.randn_like(p) * size for p in model.parameters()} for size in (1, 30)]
    norms = [norm_of(pull.values()) for pull in pulls]
    put_back([dict(pull) for pull in pulls])
    wanted = sum(norms) / 2
    for p in model.parameters():
        both = sum(pull[p] * wanted / norm for pull, norm in zip(pulls, norms))
        torch.testing.assert_close(p.grad, both)


def test_what_is_set_aside_adds_up_over_parts():
    model = torch.nn.Linear(6, 4)
    x = torch.randn(8, 6)
    whole = {}
    model(x).square().sum().backward()
    set_aside(model, whole)
    parts = {}
    for part in x.chunk(2):
        model(part).square().sum().backward()
        set_aside(model, parts)
    for p in model.parameters():
        assert p.grad is None
        torch.testing.assert_close(parts[p], whole[p])


def norm_of(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients]).norm()
