"""tests/test_hands.py: hands that draw features, or ask by queries; and semantic tokens."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data import TARGET, TASKS, WATCHED, WATCHING, load_dataset, load_tokenizer, make_row
from model import Config
from sample import draw
from systems import build
from systems.dial import with_flags
from systems.encoder import SIDE, WIDTH, VisionTransformer, as_many, directions, load_encoder
from systems.runs import load_model
from systems.semantic import SemanticTokenizer
from tests.common import every_place, run, small_model, train, weights
from toy.judge import judge, same_scene
from toy.tokenizer import save_tokenizer
from toy.world import make_scenes, render_all

pytest_plugins = "tests.fixtures"


def drawing_batch(model):
    """Two rows to draw, of which nine image tokens are the last."""
    c = model.config
    ids = np.random.default_rng(0).integers(c.first_image, c.first_image + c.n_codes, (2, 15))
    ids[:, :6] = 7, 8, 9, 10, 11, 12
    drawn = [TARGET | WATCHING] * 8 + [TARGET]
    roles = np.array([[0, *[WATCHED] * 4, WATCHING, *drawn]] * 2)
    return model.to_batch(ids, roles)


def for_toy(toy, arch, **flags):
    sizes = [toy.meta[name] for name in ("block_size", "vocab_size", "first_image", "n_image")]
    torch.manual_seed(0)
    return build(with_flags(Config(2, 2, 32, *sizes), arch, **flags))


# ---------------------------------------------------------------------------------------------
# features


def test_the_error_of_two_directions_is_one_less_their_cosine():
    a, b = torch.randn(2, 5, WIDTH)
    error = (directions(a) - directions(9 * b)).square().mean(-1)
    torch.testing.assert_close(error, 1 - F.cosine_similarity(a, b, dim=-1))


def test_a_feature_is_said_one_place_before_and_none_that_comes_later_is_seen():
    model = small_model("metamorph")
    batch = drawing_batch(model)
    first = 6
    assert batch["draws"][0].nonzero().flatten().tolist() == list(range(first - 1, first + 8))
    assert torch.equal(batch["wanted"][:, first - 1], batch["features"][:, first])
    assert not batch["loss"].any()
    before = model(batch).drawn.view(2, 9, WIDTH)
    features = batch["features"].clone()
    features[:, first + 4] += 1
    after = model(batch | {"features": features}).drawn.view(2, 9, WIDTH)
    differs = (before - after).abs().amax((0, 2)) > 1e-6
    assert differs.tolist() == [False] * 5 + [True] * 4


def test_who_says_the_features_of_a_picture_draws_it(toy):
    """What the painter paints of them is seen as it was."""
    model = for_toy(toy, "metamorph")
    tok = load_tokenizer(toy.folder / "tokenizer.pt")
    load_encoder(model.eyes.encoder)
    model.hand.load(tok)
    scenes = make_scenes(50, 1)
    codes = tok.encode(render_all(scenes))
    with torch.no_grad():
        drawn = model.hand.codes(model.hand.features(codes))
    same = map(same_scene, judge(tok.decode(drawn)), scenes)
    assert sum(same) >= 48


def test_features_of_another_number_of_places_lie_between():
    features = torch.arange(SIDE).float().repeat(SIDE)[None, :, None]  # grows from left to right
    more = as_many(features, 144).view(12, 12)
    assert torch.equal(as_many(features, 36), features)
    assert (more.diff(dim=1) >= 0).all() and (more.diff(dim=0) == 0).all()


def test_what_features_are_of_never_trains_and_other_encoders_do(toy, tmp_path):
    for arch in ("metamorph", "januspro"):
        assert train(toy, tmp_path / arch, "--arch", arch) is None
        model, _ = load_model(tmp_path / arch)
        before = VisionTransformer(len(model.eyes.encoder.blocks))
        load_encoder(before)
        after = model.eyes.encoder.state_dict()
        same = [torch.equal(after[name], weight) for name, weight in before.state_dict().items()]
        assert all(same) if arch == "metamorph" else not any(same)


def test_features_are_drawn_as_they_are_said_at_once(toy):
    """With a cache, bit by bit, beside a shorter prompt: what one pass over the row would say."""
    model = for_toy(toy, "metamorph")
    for p in model.parameters():
        if p.dim() == 2:
            torch.nn.init.normal_(p, std=.2)
    said = []
    model.hand.codes = lambda features: said.append(features) or torch.zeros(len(features), 36)
    draw(model, toy.enc, ["a large red circle and a small blue square", "a cross"], cfg=1)
    [said] = said  # (2, 36, WIDTH)
    for b, prompt in enumerate(["a large red circle and a small blue square", "a cross"]):
        ids, roles = make_row(toy.enc, toy.enc.n_vocab, np.zeros(36, int), prompt)
        batch = model.to_batch(np.array([ids]), np.array([roles]))
        features = torch.zeros_like(batch["features"])
        features[batch["generated"]] = said[b]
        at_once = model(batch | {"features": features}).drawn
        torch.testing.assert_close(at_once, said[b], atol=1e-4, rtol=0)


# ---------------------------------------------------------------------------------------------
# queries


def test_who_is_asked_by_queries_answers_as_before(trained, toy, tmp_path):
    """To the bit, after it has learned to draw."""
    out = tmp_path / "q"
    assert train(toy, out, "--arch", "metaquery", "--init_from", trained, "--aia_start", 0) is None
    before, _ = load_model(trained, file="pretrained.pt")
    after, _ = load_model(out)
    rows = [array[:4] for array in toy.rows["val"]["understand"]]
    batch = before.to_batch(*rows)
    assert torch.equal(every_place(before, batch), every_place(after, batch))
    assert after.hand.flow.proj.weight.any(), "it began with zeros"


@pytest.mark.parametrize("condition", ["queries", "last"])
def test_the_decoder_is_told_of_the_prompt_by_so_many_vectors(condition):
    model = small_model("metaquery", queries=3, condition=condition)
    batch = drawing_batch(model)
    told, there = model(batch).drawn
    assert there.sum(1).tolist() == ([3, 3] if condition == "queries" else [6, 6])
    hidden = batch | {"ids": batch["ids"].clone()}
    hidden["ids"][:, 2] = 20
    other, _ = model(hidden).drawn
    assert (told - other).abs().max() > 1e-3


def test_what_is_not_there_changes_nothing():
    """As padding in a row that is shorter than others."""
    model = small_model("metaquery", condition="last")
    told, there = torch.randn(2, 5, 32), torch.tensor([[True] * 5, [False] * 2 + [True] * 3])
    noised, time = torch.randn(2, 9, 2), torch.rand(2, 9, 1)
    v = model.hand.decode(told, there, noised, time)
    other = told.clone()
    other[1, :2] = 9
    torch.testing.assert_close(model.hand.decode(other, there, noised, time), v)
    other[1, 2] = 9
    assert (model.hand.decode(other, there, noised, time) - v)[1].abs().max() > 1e-3


def test_queries_ask_behind_a_prompt_whatever_it_is_batched_with(toy):
    model = for_toy(toy, "metaquery", queries=4)
    for p in model.parameters():
        if p.dim() == 2:
            torch.nn.init.normal_(p, std=.2)
    both = draw(model, toy.enc, ["a large red circle and a small blue square", "a cross"], first=5)
    assert torch.equal(draw(model, toy.enc, ["a cross"], first=6), both[1:])
    assert not torch.equal(draw(model, toy.enc, ["a circle"], first=6), both[1:])


@pytest.mark.parametrize("arch", ["metaquery", "llavafusion"])
def test_who_is_to_answer_as_before_sees_as_before(arch, toy, tmp_path):
    sees = tmp_path / "sees"
    assert train(toy, sees, "--see", "encoder", "--full", "--task", "understand") is None
    out = tmp_path / "more"
    assert train(toy, out, "--arch", arch, "--init_from", sees, "--aia_start", 0) is None
    before, _ = load_model(sees, file="pretrained.pt")
    after, _ = load_model(out)
    assert after.config.see == "encoder" and after.config.full
    rows = [array[:4] for array in toy.rows["val"]["understand"]]
    said = [every_place(model, model.to_batch(*rows)) for model in (before, after)]
    assert torch.equal(*said)


# ---------------------------------------------------------------------------------------------
# semantic tokens


def test_a_semantic_tokenizer_is_one_to_all_who_use_it(tmp_path):
    torch.manual_seed(0)
    tok = SemanticTokenizer()
    load_encoder(tok.encoder)
    pictures = render_all(make_scenes(20, 1))
    codes = tok.encode(pictures)
    assert codes.shape == (20, 36) and 0 <= codes.min() and codes.max() < tok.n_codes
    assert tok.decode(codes).shape == pictures.shape
    save_tokenizer(tmp_path / "semantic.pt", tok)
    again = load_tokenizer(tmp_path / "semantic.pt")
    assert torch.equal(again.encode(pictures), codes)
    assert np.array_equal(again.decode(codes), tok.decode(codes))


def test_a_semantic_data_set_has_the_same_scenes_in_other_tokens(toy, tmp_path):
    out = tmp_path / "semantic"
    assert run("data.py", "--semantic", "--n", len(toy.rows["train"]["generate"][0]),
               "--out", out) is None
    semantic = load_dataset(out)
    tok = load_tokenizer(out / "tokenizer.pt")
    for task in TASKS:
        ours, theirs = [rows[task] for rows in (semantic.rows["train"], toy.rows["train"])]
        is_image = ours[0] >= semantic.meta["first_image"]
        assert np.array_equal(is_image, theirs[0] >= toy.meta["first_image"])
        assert np.array_equal(ours[0][~is_image], theirs[0][~is_image]), "words are the same"
        assert not np.array_equal(ours[0], theirs[0])
    pictures = semantic.rows["train"]["understand"][2]
    assert np.array_equal(pictures, toy.rows["train"]["understand"][2])
    codes = semantic.rows["train"]["understand"][0].astype(int) - semantic.meta["first_image"]
    codes = codes[codes >= 0].reshape(len(pictures), -1)
    assert torch.equal(torch.from_numpy(codes), tok.encode(np.array(pictures)))


def test_a_semantic_data_set_is_of_one_size():
    assert "leave it out" in run("data.py", "--semantic", "--size", "small", "--out", "nowhere")
    assert "one of them" in run("data.py", "--semantic", "--told", "--out", "nowhere")


def test_rounding_a_feature_lets_gradients_pass():
    tok = SemanticTokenizer()
    features = torch.randn(2, 36, WIDTH, requires_grad=True)
    digits = tok.digits(features)
    torch.testing.assert_close(digits, digits.round())
    assert len(digits.round().unique()) > 1
    digits.sum().backward()
    assert features.grad.abs().sum() > 0
