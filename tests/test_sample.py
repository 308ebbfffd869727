"""
tests/test_sample.py: more laws of drawing and answering. Those to read first are in test_all.py.
"""
import numpy as np
import pytest
import torch

from data import WATCHED, load_tokenizer, make_row
from model import PRESETS
from sample import answer, answered, draw, extend, legal, pick, prefer
from tests.common import small_model, task_batch
from toy.world import make_scenes, render_all
from toy.words import questions

pytest_plugins = "tests.fixtures"


@pytest.fixture(scope="module")
def asked(toy, trained):
    """Codes, pixels, questions and right answers about a few pictures."""
    tok = load_tokenizer(trained / "tokenizer.pt")
    rng = np.random.default_rng(0)
    scenes = make_scenes(6, 9)
    pictures = render_all(scenes)
    rows = []
    for scene, picture, codes in zip(scenes, pictures, tok.encode(pictures)):
        for _, question, right in questions(scene, rng)[:3]:
            rows.append((codes, picture, question, right))
    codes, pixels, texts, right = zip(*rows)
    return torch.stack(codes), np.stack(pixels), texts, right


def test_a_token_is_picked_as_often_as_the_network_says():
    logits = torch.randn(1, 50).repeat(4000, 1)
    u = torch.rand(4000, 1)
    p = logits[0].softmax(-1)
    seen = pick(logits, u).bincount(minlength=50) / 4000
    assert (seen - p).abs().max() < .03
    assert set(pick(logits, u, top_k=5).tolist()) == set(p.topk(5).indices.tolist())
    nucleus = pick(logits, u, top_p=.5).unique()
    assert p[nucleus].sum() >= .5 > p[nucleus].sum() - p[nucleus].min(), "the fewest that reach it"


@pytest.mark.parametrize("how", [{"temperature": 0}, {"top_k": 1}, {"top_p": 1e-6}])
def test_what_leaves_no_choice_takes_the_likeliest(how):
    logits = torch.randn(100, 50)
    assert torch.equal(pick(logits, torch.rand(100, 1), **how), logits.argmax(-1))


def test_an_answer_may_hold_any_word_and_one_special_token(toy, network):
    allowed = legal(torch.zeros(toy.meta["vocab_size"]), network.config, drawing=False)
    ids = (allowed == 0).nonzero().flatten().tolist()
    n_text = 256 + len(toy.meta["merges"])
    assert ids == [*range(n_text), toy.enc._special_tokens["<|end|>"]]


def test_guidance_weighs_the_prompt_and_at_0_forgets_it(toy, network):
    with_cfg = {}
    for cfg in (0., 1., 9.):
        with_cfg[cfg] = draw(network, toy.enc, ["a red circle", "a blue cross"], cfg=cfg)
    forgetful = draw(network, toy.enc, ["a green square", "a red square"], cfg=0.)
    assert torch.equal(with_cfg[0.], forgetful)
    assert not torch.equal(with_cfg[1.], with_cfg[0.])
    assert not torch.equal(with_cfg[1.], with_cfg[9.])


def test_the_cache_changes_no_picture_and_no_answer(toy, network):
    prompts = ["a red circle", "a photo of a blue square and a green cross", "three circles"]
    codes = draw(network, toy.enc, prompts)
    assert torch.equal(codes, draw(network, toy.enc, prompts, cached=False))
    talks = [[("describe the picture.", "")],
             [("is there a red circle?", "no"), ("how many circles are there?", "")],
             [("what?", "")]]
    together = answer(network, toy.enc, codes, talks)
    anew = answer(network, toy.enc, codes, talks, cached=False)
    alone = [answer(network, toy.enc, codes[i:i + 1], talks[i:i + 1])[0] for i in range(3)]
    assert together == anew == alone


@pytest.mark.parametrize("arch", PRESETS)
def test_the_cache_changes_no_answer_of_eyes_on_pixels_either(arch):
    model = small_model(arch)
    batch = task_batch(model, "understand")
    rows = batch["ids"].numpy()
    watched = batch["watched"].numpy() * WATCHED
    longer, shorter = [(rows[b, :n], watched[b, :n]) for b, n in ((0, 30), (1, 27))]
    pixels = batch.get("pixels", torch.zeros(2))

    def likeliest(logits, k):  # of seven others each time
        return logits[:, 7 * k:7 * k + 7].argmax(-1) + 7 * k

    together = extend(model, [longer, shorter], 8, 0, likeliest, pixels)
    anew = extend(model, [longer, shorter], 8, 0, likeliest, pixels, cached=False)
    alone = [extend(model, [longer], 8, 0, likeliest, pixels[:1]),
             extend(model, [shorter], 8, 0, likeliest, pixels[1:])]
    assert torch.equal(together, anew)
    assert torch.equal(together, torch.cat(alone))
    assert len((together % 7).unique()) > 2


def test_a_question_that_cannot_be_asked_is_refused(toy, network):
    codes = torch.zeros(1, 64, dtype=torch.long)
    with pytest.raises(ValueError, match="the question is empty"):
        answer(network, toy.enc, codes, [[(" ", "")]])
    with pytest.raises(ValueError, match="tokens too long"):
        answer(network, toy.enc, codes, [[("cat " * 300, "")]])


def test_scoring_by_one_pass_equals_answering_word_by_word(toy, network, asked):
    codes, pixels, texts, right = asked
    said = answer(network, toy.enc, codes, [[(text, "")] for text in texts])
    for claimed in (right, said):
        rows = []
        for code, text, words in zip(codes, texts, claimed):
            turns = [(text, words)]
            rows.append(make_row(toy.enc, toy.meta["first_image"], code.tolist(), turns=turns))
        longest = max(len(ids) for ids, _ in rows)
        pad = toy.enc._special_tokens["<|pad|>"]
        ids = np.array([row + [pad] * (longest - len(row)) for row, _ in rows])
        roles = np.array([row + [0] * (longest - len(row)) for _, row in rows])
        verdicts = answered(network, ids, roles, pixels)
        assert verdicts.tolist() == [a == b for a, b in zip(claimed, said)]


def test_of_two_answers_the_one_that_it_would_begin_is_preferred(toy, network, asked):
    codes, pixels, texts, _ = asked
    talks = [[(text, "")] for text in texts]
    said = answer(network, toy.enc, codes, talks)
    offers = [(text or "?", "zebra") for text in said]
    swapped = [(b, a) for a, b in offers]
    first = prefer(network, toy.enc, codes, talks, offers)
    second = prefer(network, toy.enc, codes, talks, swapped)
    for a, b, text in zip(first, second, said):
        if text:
            assert (a, b) == (0, 1)
    same = [("red circle", "red cross")] * len(texts)
    assert prefer(network, toy.enc, codes, talks, same) == [0] * len(texts), "they begin alike"
