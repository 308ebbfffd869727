"""
tests/test_model.py: more laws of the transformer: caches, copies, routers, compiling. Those to read
first are in test_all.py.
"""
import re

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from data import TASKS, window
from model import PRESETS, Layout, QKNorm, sort_by
from systems.start import start_from
from tests.common import every_place, small_model, task_batch, text_batch

pytest_plugins = "tests.fixtures"

# ---------------------------------------------------------------------------------------------
# places and caches


def test_logits_at_some_places_are_those_at_all_places():
    model = small_model()
    batch = task_batch(model, "generate")
    some = torch.rand(batch["ids"].shape) < .3
    n = int(some.sum())
    logits = model(batch | {"loss": some, "loss_sizes": [n, 0]}).logits
    torch.testing.assert_close(logits, every_place(model, batch)[some])


def described(model, ids):
    return model.describe(ids, np.zeros_like(ids))


def test_padding_is_invisible():
    """Rows of different lengths, padded on the left, read in a piece and then token by token."""
    model = small_model()
    rng = np.random.default_rng(0)
    rows = []
    for n_text in (12, 7):
        picture = rng.integers(64, 120, 9)
        rows.append(np.concatenate((rng.integers(0, 64, n_text), picture, [0])))
    longest = 22
    pad = [longest - len(row) for row in rows]
    padded = np.stack([np.pad(row, (p, 0)) for row, p in zip(rows, pad)])
    cache = model.new_cache(torch.tensor(pad), longest)
    row = described(model, padded)
    logits = []
    for first, last in [(0, 12), *((i, i + 1) for i in range(12, longest - 1))]:
        logits.append(every_place(model, window(row, first, last), cache))
        cache.used = last
    logits = torch.cat(logits, 1)
    for i, one in enumerate(rows):
        alone = every_place(model, window(described(model, one[None]), 0, len(one) - 1))
        torch.testing.assert_close(logits[i, pad[i]:], alone[0], atol=1e-4, rtol=0)


def test_fused_equals_explicit_with_a_cache_whose_rows_are_padded_differently():
    model = small_model()
    ids = np.random.default_rng(0).integers(0, 128, (3, 41))
    watched = np.random.default_rng(1).random(ids.shape) < .4
    pad = torch.tensor([0, 5, 11])
    masses = []
    for explicit in (False, True):
        cache = model.new_cache(pad, 40)
        row = described(model, ids) | {"watched": watched}
        with torch.no_grad():
            model(window(row, 0, 30), cache=cache)
            cache.used = 30
            batch = window(row, 30, 40)
            masses.append(model(batch, watch=True, explicit=explicit, cache=cache).mass)
    torch.testing.assert_close(*masses, atol=1e-5, rtol=0)
    assert masses[0].std() > .01


def test_gains_say_how_sharply_each_head_looks():
    """No logit passes the root of D times the head's two gains, and none of another head."""
    norm = QKNorm(n_head=3)
    norm.gain.data = torch.tensor([[1., 2., 0.], [1., 3., 5.]])[..., None]  # of queries, of keys
    qk = torch.randn(100, 2, 3, 16)
    qk[:, 1] = qk[:, 0]  # each query finds a key that is its own
    q, k = norm(qk).permute(1, 2, 0, 3)  # (H, N, D)
    logits = q @ k.mT / 16 ** .5
    torch.testing.assert_close(logits.amax((1, 2)), torch.tensor([4., 24., 0.]))


def test_a_copy_s_tokens_have_its_own_gains():
    """And no other token's queries and keys change with these."""
    model = small_model("evev2", see="tokens")
    attn = model.blocks[0].attn
    attn.qk_norm[1].gain.data.zero_()
    x = torch.randn(6, 32)
    is_second = torch.tensor([False, True, False, True, True, False])
    order, back = sort_by(is_second.long())
    layout = Layout(1, 6, [3, 3], order, back, watched=torch.ones(1, 6, dtype=torch.bool))
    keep = {}
    attn.proj.register_forward_pre_hook(lambda _, args: keep.update(y=args[0]))
    attn(layout.sort(x), layout)
    # a query of length 0 sees all alike: the mean of the values that stand before it
    v = layout.unsort(attn.qkv(layout.sort(x), layout.sizes))[:, 64:]
    means = v.cumsum(0) / torch.arange(1, 7)[:, None]
    is_mean = torch.isclose(layout.unsort(keep["y"]), means, atol=1e-5).all(1)
    is_mean[0] = False  # the first sees itself alone
    assert torch.equal(is_mean, is_second)


# ---------------------------------------------------------------------------------------------
# copies and routers


@pytest.mark.parametrize("own, task", [(0, "understand"), (1, "generate")])
def test_separate_networks_share_nothing(own, task):
    model = small_model("separate")
    model(task_batch(model, task)).logits.sum().backward()
    copies = set()
    for name, p in model.named_parameters():
        if p.grad is not None and p.grad.any():
            copies.add(re.search(r"(norm\d?|qkv|proj|ffn|embed|row|column|head)\.(\d)\.", name)[2])
    assert copies == {str(own)}


def test_one_expert_and_no_router_is_dense_exactly():
    dense = small_model()
    model = small_model(split=("ffn",), route="learned", experts=1)
    start_from(model, dense.state_dict())
    batch = task_batch(model, "generate")
    output = model(batch)
    assert torch.equal(output.logits, dense(batch).logits)
    assert torch.equal(output.load, torch.ones(1))


def test_a_router_is_taught_by_what_its_choice_was_good_for():
    """The chosen expert's weight is 1 in value, and its probability in the gradient."""
    model = small_model("moe")
    model(task_batch(model, "generate")).logits.square().mean().backward()
    for block in model.blocks:
        assert block.ffn.router.weight.grad.any()


def test_an_idle_expert_has_a_gradient_of_zero():
    """Not none: in shards all processes must have the same gradients to add up."""
    model = small_model("moe")
    for block in model.blocks:
        torch.nn.init.zeros_(block.ffn.router.weight)  # a tie goes to the first
    output = model(task_batch(model, "generate"))
    output.logits.sum().backward()
    assert output.load.tolist() == [1, 0, 0, 0]
    for block in model.blocks:
        for expert in block.ffn.experts[1:]:
            assert not any(p.grad.any() for p in expert.parameters())


def test_the_plain_router_spreads_the_load_over_both_tasks_together():
    model = small_model("moe")
    loads = []
    for block in model.blocks:  # each tells what share each of its experts took
        block.ffn.register_forward_hook(lambda ffn, x, found: loads.append(found[2]))
    routers = [p for name, p in model.named_parameters() if "router" in name]
    opt = torch.optim.Adam(routers, 1e-3)
    uneven = []
    for _ in range(60):
        loads.clear()
        for task in TASKS:
            model(task_batch(model, task, B=8)).router_loss.backward()
        opt.step()
        opt.zero_grad()
        load = torch.stack(loads).view(2, 3, 4).mean(0)  # (layers, experts)
        uneven.append((load - 1 / 4).abs().mean().item())
    assert np.mean(uneven[-20:]) < .5 * uneven[0]


def test_what_one_task_leaves_idle_another_may_use():
    """Two experts, each of which takes all tokens of one task: that is even and costs the least."""
    ffn = small_model(split=("ffn",), route="learned", experts=2).blocks[0].ffn
    seeing, drawing = Layout(1, 1, any_generated=False), Layout(1, 1, any_generated=True)
    first = torch.tensor([1., 0.])
    second = torch.tensor([0., 1.])
    p_first = first.expand(5, 2)
    ffn.balance_loss(first, p_first, seeing)
    assert ffn.balance_loss(first, p_first, drawing) == 2, "one expert has everything"
    assert ffn.balance_loss(second, second.expand(5, 2), drawing) == 1


def test_the_task_router_learns_the_task_and_its_label_teaches_nothing_else():
    model = small_model("utamoe")
    opt = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(120):
        for task in TASKS:
            model(task_batch(model, task, B=8)).router_loss.backward()
        for name, p in model.named_parameters():
            assert p.grad is None or "task_router" in name
        opt.step()
        opt.zero_grad()
    for first, task in ((0, "understand"), (2, "generate")):
        output = model(task_batch(model, task, B=64))
        assert output.router_loss < .55 < np.log(2)
        assert output.load[first:first + 2].sum() > .7


# ---------------------------------------------------------------------------------------------
# compiling


@pytest.mark.parametrize("arch", [arch for arch in PRESETS if arch not in ("moe", "utamoe")])
def test_compiles_whole(arch):
    """No sizes that depend on data, so no graph breaks. (A router has one, and says so.)"""
    model = small_model(arch)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for task in TASKS:
        batch = task_batch(model, task)
        torch.testing.assert_close(compiled(batch).logits, model(batch).logits)


def test_layers_compiled_one_by_one_compile_once_a_task():
    """What --compile does: one graph a task serves all layers and all later steps."""
    torch._dynamo.reset()
    model = small_model()
    batches = [task_batch(model, task) for task in TASKS]
    before = [model(batch).logits for batch in batches]
    counter = CompileCounter()
    for block in model.blocks:
        block.compile(backend=counter, dynamic=False)
    counts = []
    for _ in range(3):
        after = [model(batch).logits for batch in batches]
        sum(logits.mean() for logits in after).backward()
        counts.append(counter.frame_count)
    assert counts[0] == counts[2] <= len(TASKS)
    torch.testing.assert_close(after, before)


def test_layers_computed_anew_have_the_same_gradients():
    """--checkpoint"""
    gradients = []
    for anew in (False, True):
        model = small_model("bagel")
        model.checkpoint = anew
        model(task_batch(model, "generate")).logits.square().mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for kept, computed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, computed)


def test_in_training_alone_something_drops_out():
    """Where all does, no layer adds anything."""
    model, silent = small_model(), small_model()
    for name, p in silent.named_parameters():
        if ".proj." in name or ".down." in name:
            p.data.zero_()
    batch = task_batch(model, "understand")
    whole = model(batch).logits
    for share in (.5, 1.):
        model.dropout = share
        with torch.no_grad():
            assert torch.equal(model(batch).logits, whole)
        assert not torch.equal(model(batch).logits, whole)
    assert torch.equal(model(batch).logits, silent(batch).logits)


def test_a_row_of_text_alone_is_no_special_case():
    model = small_model("evev2")
    batch = text_batch(model, np.random.default_rng(0).integers(0, 57, (2, 20)))
    assert batch["copy_sizes"] == [38, 0]
    assert model(batch).logits.shape == (38, 128)
