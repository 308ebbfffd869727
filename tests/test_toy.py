"""
tests/test_toy.py: the laws of the toy world, of the judge, and of data sets, also of your own
pictures.
"""
import json
import os
import re
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

import data
from data import WATCHED, load_dataset, make_row
from exam import pictures_of
from exam.rules import check, truth
from tests.common import run, same
from toy import build, command, own, tokenizer
from toy.build import build_toy
from toy.dataset import data_folder, new_dataset
from toy.judge import judge, same_scene
from toy.merges import learn_merges, merge
from toy.own import read_picture
from toy.records import Fault, Report, Talk, load_records, understand
from toy.tokenizer import ceiling, save_tokenizer, tokenizer_path, train_image_tokenizer
from toy.words import KINDS, TAGS, caption, place_of, plural, questions, says_held_out
from toy.world import (COLORS, GROUND, HELD_OUT, PALE, SHAPES, SIZES, Object, make_scenes,
                       relations, render, render_all)

pytest_plugins = "tests.fixtures"

# ---------------------------------------------------------------------------------------------
# scenes, and what is said of them


def pairs_of(scene):
    return {(thing.color, thing.shape) for thing in scene}


def test_the_same_seed_gives_the_same_world():
    assert make_scenes(50, 7) == make_scenes(50, 7)
    assert make_scenes(50, 7) != make_scenes(50, 8)


def test_held_out_pairs_are_drawn_only_when_asked_for():
    for scene in make_scenes(2000, 0):
        assert not pairs_of(scene) & set(HELD_OUT)
    for scene in make_scenes(200, 0, held_out=True):
        assert pairs_of(scene) & set(HELD_OUT)


def test_objects_do_not_touch_and_stay_on_the_canvas():
    for scene in make_scenes(500, 1):
        for i, one in enumerate(scene):
            radius = SIZES[one.size]
            assert radius <= min(one.x, one.y)
            assert max(one.x, one.y) <= 48 - radius
            for other in scene[:i]:
                apart = max(abs(one.x - other.x), abs(one.y - other.y))
                assert apart >= radius + SIZES[other.size] + 2


def test_the_world_has_habits():
    """POPE's adversarial split needs pairs that occur together more often than by chance."""
    scenes = [scene for scene in make_scenes(5000, 2) if len(scene) > 1]
    has = {}
    for color in ("green", "orange"):
        has[color] = np.array([any(thing.color == color for thing in s) for s in scenes])
    together = (has["green"] & has["orange"]).mean()
    assert together > 1.25 * has["green"].mean() * has["orange"].mean()


def test_every_caption_is_true_of_its_scene_and_every_tag_occurs():
    rng = np.random.default_rng(0)
    seen = set()
    for scene in make_scenes(1500, 3):
        record = caption(scene, rng)
        assert check(record, scene) == (True, ""), (record, scene)
        seen.add(record["tag"])
    assert seen == set(TAGS)


def test_captions_name_objects_in_reading_order_but_for_position():
    """So the first object that is drawn is the first named: it need not stand for both at once."""
    rng = np.random.default_rng(0)
    swapped = Counter()
    for scene in make_scenes(1500, 3):
        record = caption(scene, rng)
        if record["tag"] in ("two_object", "color_attr", "position"):
            places = [record["prompt"].index(o.shape) for o in scene]
            swapped[record["tag"]] += places[0] > places[1]
    assert swapped["two_object"] == swapped["color_attr"] == 0 < swapped["position"]


def test_every_answer_follows_from_the_scene_and_yes_is_as_frequent_as_no():
    """The oracle, who reads a question's words, agrees with the asker, who knows what it asks."""
    rng = np.random.default_rng(0)
    answers = {}
    for scene in make_scenes(1500, 4):
        for kind, question, answer in questions(scene, rng):
            assert truth(scene, question) == answer, (scene, question)
            answers.setdefault(kind, []).append(answer)
    for kind, given in answers.items():
        closed = [answer for answer in given if answer in ("yes", "no")]
        if kind not in ("place", "describe"):
            assert .4 < closed.count("yes") / len(closed) < .6


def test_no_claim_of_a_side_hangs_on_a_borderline_and_any_wrong_one_is_made():
    """An object is not said to be above one that it is above by a little, neither yes nor no."""
    moves = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
    rng = np.random.default_rng(0)
    wrong = Counter()
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    for scene in make_scenes(1500, 4):
        for kind, question, answer in questions(scene, rng):
            if kind != "position" or answer not in ("yes", "no"):
                continue
            # is the red circle left of the blue square?
            words = question.strip("?").split()
            a = next(o for o in scene if [o.color, o.shape] == words[2:4])
            b = next(o for o in scene if [o.color, o.shape] == words[-2:])
            side = " ".join(words[4:-3])
            across, down = moves[side]
            along = (a.x - b.x) * across + (a.y - b.y) * down  # how far a is on that side of b
            if answer == "yes":
                assert side in relations(a, b)
            else:
                assert along <= 0
                wrong["opposite"] += opposite[side] in relations(a, b)
                wrong["level"] += along == 0
                wrong["neither"] += along < 0 and opposite[side] not in relations(a, b)
    assert wrong["opposite"] > 20 and wrong["level"] > 20 and wrong["neither"] > 20


def test_a_place_is_one_of_nine():
    where = {}
    for x in (8, 16, 24, 32, 40):
        for y in (8, 16, 24, 32, 40):
            where[x, y] = place_of(Object("circle", "red", "small", x, y))
    assert where[8, 8] == "top left"
    assert where[24, 8] == "top"
    assert where[16, 32] == where[24, 24] == "middle"
    assert where[40, 24] == "right"
    assert where[40, 40] == "bottom right"
    assert len(set(where.values())) == 9


def test_look_ups_are_each_of_other_objects_and_every_kind_stands_first_at_times():
    """So each has to be made; and the exam, which asks each alone, asks nothing unheard of."""
    rng = np.random.default_rng(0)
    first = Counter()
    most = Counter()
    for scene in make_scenes(1500, 4):
        asked = questions(scene, rng, n_place=2, n_position=2)
        for kind in ("place", "position"):
            looked_up = []
            for question in [question for of_kind, question, _ in asked if of_kind == kind]:
                named = re.findall(f"({'|'.join(COLORS)}) ({'|'.join(SHAPES)})", question)
                looked_up.append(frozenset(named))
            assert len(set(looked_up)) == len(looked_up)
            most[kind] = max(most[kind], len(looked_up))
        if len(scene) > 2:
            first[asked[0][0]] += 1
    assert most == {"place": 2, "position": 2}
    assert min(first[kind] for kind in KINDS if kind != "describe") > 30


def test_held_out_pairs_are_shown_but_never_named():
    told = build.make_up(build.Span("train", 0, 2000), 0, np.random.default_rng(0))
    shown = set()
    for t in told:
        here = pairs_of(t.scene) & set(HELD_OUT)
        shown |= here
        texts = build.texts_of([t])
        for color, shape in HELD_OUT:
            assert not any(f"{color} {shape}" in text for text in texts)
        # side by side or not: who never reads both words cannot learn that they belong elsewhere
        said = Counter(re.findall(r"\w+", t.prompt))
        for color, shape in HELD_OUT:
            if here or len(t.scene) <= 2:
                assert not (said[color] and (said[shape] or said[plural(shape)]))
        assert t.turns
    assert shown == set(HELD_OUT)


def test_every_picture_of_a_held_out_pair_can_be_drawn():
    """It is of image tokens that training pictures have: none fails for want of a token."""
    tok = data.load_tokenizer(data.ASSETS / "tokenizer-48.pt")
    told = build.make_up(build.Span("train", 0, 4000), 0, np.random.default_rng(0))
    in_training = set(tok.encode(render_all([t.scene for t in told])).flatten().tolist())
    for codes in tok.encode(render_all(make_scenes(500, 12, held_out=True))):
        assert set(codes.tolist()) <= in_training


def test_held_out_pairs_are_never_asked_for_in_vain():
    """Or a network would learn to say no to what it never hears named."""
    never = set()
    for color, shape in HELD_OUT:
        never.add(f"is there a {color} {shape}?")
        never.add(f"is the {shape} {color}?")
        never.add(f"is the {color} object a {shape}?")
    asked = set()
    asked_of_anything = set()
    for scene in make_scenes(1500, 6):
        asked |= {words for _, words, _ in questions(scene, np.random.default_rng(0))}
        of_anything = questions(scene, np.random.default_rng(0), hidden=())
        asked_of_anything |= {words for _, words, _ in of_anything}
    assert not asked & never
    assert len(asked_of_anything & never) > 5, "these are the words in which they would be"


def test_a_caption_of_a_wanted_kind_is_of_that_kind_or_none():
    rng = np.random.default_rng(0)
    alone, *_ = [scene for scene in make_scenes(50, 3) if len(scene) == 1]
    assert caption(alone, rng, "colors")["tag"] == "colors"
    assert caption(alone, rng, "dense")["tag"] == "dense"
    assert caption(alone, rng, "two_object") is None


# ---------------------------------------------------------------------------------------------
# the judge


@pytest.mark.parametrize("canvas", [48, 72])
def test_the_judge_reads_true_pictures_exactly(canvas):
    scenes = make_scenes(1000, 5) + make_scenes(100, 5, held_out=True)
    judged = judge(render_all(scenes, canvas))
    assert np.mean([same_scene(scene, seen) for scene, seen in zip(scenes, judged)]) >= .999


def test_the_judge_is_not_fooled():
    picture = np.asarray(render([Object("circle", "red", "large", 12, 12)])).copy()
    picture[30:32, 30:32] = 0  # a speck
    assert [thing.shape for thing in judge(picture[None])[0]] == ["circle"]
    picture[26:32, 8:40] = COLORS["blue"]  # a bar is none of the shapes
    assert [thing.shape for thing in judge(picture[None])[0]] == ["circle", "blob"]
    assert judge(np.full((1, 48, 48, 3), GROUND, np.uint8)) == [[]]


@pytest.mark.parametrize("canvas", [48, 72])
def test_speckles_are_on_the_ground_alone_and_the_judge_takes_no_notice(canvas):
    """Eight shades, equally often, one a patch; what an object touches stays as it was."""
    scenes = make_scenes(50, 3)
    plain = render_all(scenes, canvas)
    pictures = render_all(scenes, canvas, speckle=1)
    assert judge(pictures) == judge(plain)
    assert not np.array_equal(pictures, render_all(scenes, canvas, speckle=2))
    side = canvas // 6
    is_ground = (plain == GROUND).all(-1)
    shades = []
    for i, row, column in np.ndindex(50, 6, 6):
        patch = np.s_[i, row * side:(row + 1) * side, column * side:(column + 1) * side]
        if is_ground[patch].all():
            assert (pictures[patch] == pictures[patch][0, 0]).all()
            shades.append(tuple(pictures[patch][0, 0]))
        else:
            assert np.array_equal(pictures[patch], plain[patch])
    _, counts = np.unique(shades, axis=0, return_counts=True)
    assert len(counts) == 8
    assert counts / len(shades) == pytest.approx(1 / 8, abs=.03)


def test_a_side_is_where_the_centres_lie():
    red = Object("circle", "red", "small", 10, 24)
    assert relations(red, red._replace(x=40, y=54)) == {"left of", "above"}, "45 degrees are both"
    assert relations(red, red._replace(x=12)) == set(), "and almost the same place is neither"


# ---------------------------------------------------------------------------------------------
# tokenizers


def test_codes_are_the_digits_of_a_grid():
    tok = data.ImageTokenizer()
    code = torch.arange(tok.n_codes)
    digits = code[:, None] // tok.worth % torch.tensor(tok.levels)
    assert torch.equal((digits * tok.worth).sum(1), code)
    assert len(digits.unique(dim=0)) == 8 * 5 * 5 * 5


def test_every_digit_is_reached_and_gradients_pass_the_rounding():
    tok = data.ImageTokenizer()
    z = torch.linspace(-9, 9, 200)[:, None].expand(-1, 4).clone().requires_grad_()
    digits = tok.quantize(z)
    assert torch.equal(digits.amin(0), torch.zeros(4))
    torch.testing.assert_close(digits.amax(0), tok.L - 1)
    digits.sum().backward()
    assert (z.grad[50:150] > 0).all()


@pytest.mark.parametrize("canvas", [48, 72])
def test_the_shipped_image_tokenizer_keeps_what_the_judge_sees(canvas):
    tok = data.load_tokenizer(data.ASSETS / f"tokenizer-{canvas}.pt")
    true, rebuilt, used = ceiling(tok, canvas, 500)
    assert true >= .998
    assert rebuilt >= .98
    assert used > .05


@pytest.mark.parametrize("canvas", [48, 72])
def test_the_first_digit_alone_carries_the_colour(canvas):
    """Outlines of one picture in the colours of its twin are the twin."""
    tok = data.load_tokenizer(data.ASSETS / f"tokenizer-{canvas}.pt")
    scenes = make_scenes(100, 11) + make_scenes(100, 11, held_out=True)
    twins = tokenizer.recolored(scenes, np.random.default_rng(0))
    codes = tok.encode(render_all(scenes, canvas))
    codes_of_twins = tok.encode(render_all(twins, canvas))
    first = tok.levels[0]  # the first digit is the last place of a code
    mixed = codes // first * first + codes_of_twins % first
    seen = judge(tok.decode(mixed))
    assert np.mean([same_scene(twin, found) for twin, found in zip(twins, seen)]) >= .9


def test_a_worse_image_tokenizer_does_not_replace_the_one_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "make_scenes", lambda n, seed: make_scenes(min(n, 100), seed))
    path = tmp_path / "tokenizer.pt"
    tokenizer.train_toy_tokenizer(path, 48, steps=1)
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="is kept"):
        tokenizer.train_toy_tokenizer(path, 48, steps=2)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_seed_trains_the_same_image_tokenizer(tmp_path):
    pictures = render_all(make_scenes(40, 8))
    one, again, other = [train_image_tokenizer(pictures, 3, 6, seed=seed) for seed in (0, 0, 1)]
    assert same(one.state_dict(), again.state_dict())
    assert not same(one.state_dict(), other.state_dict())

    save_tokenizer(tmp_path / "tok.pt", one)
    kept = data.load_tokenizer(tmp_path / "tok.pt")
    assert torch.equal(kept.encode(pictures).cpu(), one.encode(pictures).cpu())


def test_an_image_tokenizer_that_cannot_be_read_is_refused(tmp_path):
    file = tmp_path / "tok.pt"
    with pytest.raises(SystemExit, match="no image tokenizer .*FileNotFoundError.*; copy it"):
        data.load_tokenizer(file)
    save_tokenizer(file, data.ImageTokenizer())
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(SystemExit, match="no image tokenizer that can be read"):
        data.load_tokenizer(file)


def test_the_same_patch_is_the_same_token_wherever_it_stands():
    tok = data.ImageTokenizer(6).eval()
    picture = np.random.default_rng(0).integers(0, 255, (1, 48, 48, 3), dtype=np.uint8)
    moved = np.roll(picture, 12, axis=2)
    codes = tok.encode(picture).view(8, 8)
    assert torch.equal(codes.roll(2, 1), tok.encode(moved).view(8, 8))


def test_the_most_frequent_pair_becomes_a_token_first():
    tokens = learn_merges(["abab abab abab cd"], 256 + 3)
    assert tokens == ["ab", "abab", " abab"]


def learned_slowly(texts, n_text):
    """Byte pair encoding as one would first write it: all is counted anew for each token."""
    words = [tuple(word.encode()) for text in texts for word in re.findall(data.PATTERN, text)]
    tokens = [bytes([b]) for b in range(256)]
    while len(tokens) < n_text:
        counts = Counter(pair for ids in words for pair in zip(ids, ids[1:]))
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], tokens[pair[0]], tokens[pair[1]]))
        words = [merge(ids, best, len(tokens)) for ids in words]
        tokens.append(tokens[best[0]] + tokens[best[1]])
    return [token.decode("latin-1") for token in tokens[256:]]


def test_merges_are_those_of_counting_all_anew_each_time():
    rng = np.random.default_rng(0)
    for n_tokens in (3, 20, 80):
        texts = ["".join(rng.choice(list("aab cé"), 40)) for _ in range(20)]
        assert learn_merges(texts, 256 + n_tokens) == learned_slowly(texts, 256 + n_tokens)


def test_any_text_survives_the_text_tokenizer_and_none_becomes_special(toy):
    n_text = 256 + len(toy.meta["merges"])
    for text in ("a red circle", "Ünïcödé 猫 🐈", "", "  two  spaces\n", "<|bos|> <|end|>"):
        ids = toy.enc.encode_ordinary(text)
        assert toy.enc.decode(ids) == text
        assert all(i < n_text for i in ids)
    assert len(toy.enc.encode_ordinary(" triangle")) == 1, "a frequent word is one token"


# ---------------------------------------------------------------------------------------------
# data sets


def test_every_row_to_understand_has_its_own_picture(toy):
    ids, _, pixels = [array[:20] for array in toy.rows["train"]["understand"]]
    codes = data.load_tokenizer(toy.folder / "tokenizer.pt").encode(pixels).numpy()
    in_rows = ids[:, 2:2 + toy.meta["n_image"]].astype(int)
    assert np.array_equal(codes, in_rows - toy.meta["first_image"])


def test_a_data_set_follows_from_its_seed_however_it_is_made(toy, tmp_path, monkeypatch):
    start_workers = build.start_workers
    pools = []

    def start_and_note(n):
        pools.append(start_workers(n))
        return pools[0]

    monkeypatch.setattr(build, "PIECE", 4)
    monkeypatch.setattr(build, "start_workers", start_and_note)
    build_toy(tmp_path / "again", "nano", n=48)
    again = load_dataset(tmp_path / "again")
    assert again.meta["files"] == toy.meta["files"]
    assert hasattr(pools[0], "submit"), "these are made by processes beside this one"


def test_a_speckled_data_set_shows_the_same_scenes_on_other_ground(toy, tmp_path, monkeypatch):
    """And so does the exam of who was trained on it."""
    monkeypatch.setattr(build, "tokenizer_path", lambda canvas, _: tokenizer_path(canvas))
    build_toy(tmp_path / "speckled", "nano", n=48, is_speckled=True)
    other = load_dataset(tmp_path / "speckled")
    assert other.meta["speckled"] and "speckled" not in toy.meta
    for split in ("train", "val"):
        plain, pixels = [some.rows[split]["understand"][2] for some in (toy, other)]
        assert judge(pixels) == judge(plain)
        assert not np.array_equal(pixels, plain)
    in_train, in_val = [other.rows[split]["understand"][2][0] for split in ("train", "val")]
    in_both = is_pale(in_train) & is_pale(in_val)
    agree = (in_train == in_val).all(-1)[in_both].mean()
    assert agree < .5, "each split has speckles of its own"
    assert pictures_of(toy.meta) == (48, None)
    in_exam = render_all([[]], *pictures_of(other.meta))
    assert is_pale(in_exam).all()


def test_the_toy_world_s_data_sets_are_made_where_they_are_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(command, "child", lambda *words, quiet: asked.append(words[1:]))
    for folder in ("data/toy-small", "data/told-small", "data/semantic-nano"):
        command.make_if_missing(folder, "small")
    assert asked == [("--out", "data/toy-small", "--size", "small"),
                     ("--out", "data/told-small", "--size", "small", "--told"),
                     ("--out", "data/semantic-nano", "--semantic")], "it has one size alone"
    with pytest.raises(SystemExit, match="no data set here"):
        command.make_if_missing("data/told-nano", "small")


def test_a_told_data_set_has_words_in_the_place_of_pictures(tmp_path):
    """The same words as tokens; all that is asked can be read off; no held-out pair is named."""
    build_toy(tmp_path / "toy", "nano", n=48)
    build_toy(tmp_path / "told", "nano", n=48, is_told=True)
    toy, told = [load_dataset(tmp_path / name) for name in ("toy", "told")]
    assert told.meta["kind"] == "told" and told.rows["train"].keys() == {"understand"}
    for name in ("merges", "tokenizer", "first_image", "vocab_size"):
        assert told.meta[name] == toy.meta[name]
    ids, roles, pixels = told.rows["train"]["understand"]
    assert ids.max() < told.meta["first_image"] and not pixels.any()
    for row, role in zip(ids, roles):
        said = told.enc.decode(row.tolist())
        scene, asked = said.removeprefix("<|bos|><|boi|>").split("<|eoi|>")
        for named in scene.split(", "):
            assert not says_held_out(named)
        watched = row[(role & WATCHED) > 0].tolist()
        assert told.enc.decode(watched) == scene
        if "describe the picture." in asked:
            description = asked.split("describe the picture.<|answer|>")[1].split("<|end|>")[0]
            assert [" ".join(named.split()[:3]) for named in scene.split(", ")] == \
                description.split(", ")


def is_pale(picture):
    """Which pixels have one of the eight shades."""
    return (np.abs(picture.astype(int) - GROUND) == PALE).all(-1)


def test_damage_is_noticed(tmp_path):
    build_toy(tmp_path / "toy", "nano", n=8)
    file = tmp_path / "toy" / "val_generate_ids.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.raises(SystemExit, match="val_generate_ids.npy: differs from its checksum"):
        load_dataset(tmp_path / "toy")
    file.unlink()
    with pytest.raises(SystemExit, match="val_generate_ids.npy: is missing"):
        load_dataset(tmp_path / "toy")
    (tmp_path / "toy" / "meta.json").write_text('{"version": 1}')
    with pytest.raises(SystemExit, match="data set of version 1, this code reads"):
        load_dataset(tmp_path / "toy")


def test_a_data_set_is_never_written_over(toy):
    before = (toy.folder / "meta.json").read_bytes()
    with pytest.raises(SystemExit, match="holds a data set already, which would be lost"):
        data_folder(toy.folder)
    assert "would be lost" in run("data.py", "--out", toy.folder)
    assert (toy.folder / "meta.json").read_bytes() == before


def test_a_build_that_is_stopped_leaves_nothing_half_made(tmp_path):
    sizes = {("train", "generate"): (2, 5)}
    with pytest.raises(KeyboardInterrupt):
        with new_dataset(tmp_path / "toy", sizes, canvas=48) as part:
            assert len(list(part.glob("*.npy"))) == 2
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def talk(image, *texts):
    """A record: what human and gpt say, by turns."""
    turns = []
    for i, text in enumerate(texts):
        turns.append({"from": ("human", "gpt")[i % 2], "value": text})
    return {"image": image, "conversations": turns}


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6):
        picture = rng.integers(0, 255, (40, 60 + i, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    Image.new("RGBA", (50, 50), (255, 0, 0, 128)).save(tmp_path / "clear.webp")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes((tmp_path / "0.png").read_bytes()[:2000])
    Image.new("1", (20_000, 10)).save(tmp_path / "wide.png")
    return tmp_path


BAD = [
    (talk("missing.png", "a", "<image>"), "no such file"),
    (talk("text.png", "a", "b"), "no picture that Pillow can read"),
    (talk("half.png", "a", "b"), "broken picture"),
    (talk("wide.png", "a", "b"), "20000 x 10 pixels"),
    (talk("0.png", " ", "b"), "empty text"),
    (talk("0.png", "a"), "in pairs"),
    ("a string", "is a str"),
    ({"image": 3}, "no file name"),
    (talk("0.png", 3, "b"), "a turn is not"),
    (talk("x" * 300 + ".png", "a", "b"), "'xxx.*cannot be read: File name too long"),
    (talk("data:image/png;base64," + "iVBORw0KGg/" * 300, "a", "b"), "3,324 characters.: no such"),
    (talk("half\ud83d.png", "a", "b"), r"'half\\ud83d.png': a name that is no file name here"),
    (talk("two\nlines\033[2J.png", "a", "b"), r"'two\\nlines\\x1b\[2J.png': no such file"),
    (talk("text.png/x.png", "a", "b"), "no such file: looked for in /"),
    ({"conversations": [{"from": "human", "value": f"<img>data:{'A' * 300}</img>what?"},
                        {"from": "gpt", "value": "b"}]}, "'data:AAA.*File name too long"),
    ({"conversations": [{"from": "human", "value": [{"type": "image", "image": "\0"}]},
                        {"from": "gpt", "value": "b"}]}, "is no file name: it is '.x00'"),
]


def test_of_your_own_pictures_the_good_are_taken_and_the_bad_named(pictures, capsys):
    good = [talk(f"{i}.png", f"picture number {i}", "<image>") for i in range(6)]
    good.append(talk("clear.webp", "<image>\nwhat?", "red", "sure?", "yes"))
    file = pictures / "pairs.json"
    file.write_text(json.dumps(good + [record for record, _ in BAD]))
    out = pictures / "mine"
    flags = ("--images", pictures, "--out", out, "--tokenizer_steps", 2)
    assert run("data.py", "--json", file, *flags) is None

    said = capsys.readouterr().out
    lines = (pictures / "mine" / "skipped.txt").read_text().splitlines()
    for i, (_, why) in enumerate(BAD):
        assert re.search(rf"record {len(good) + i}: .*{why}", lines[i]), (why, lines[i])
        assert len(lines[i]) < 500
    assert set(lines[:5]) <= set(said.splitlines()), "the first are printed too"
    assert "7 of 23 records are usable" in said
    mine = load_dataset(out)
    assert len(mine.rows["train"]["generate"][0]) == 6
    assert len(mine.rows["train"]["understand"][0]) == 1
    assert Image.open(out / "tokenizer.png").width > 48


def test_a_picture_is_cut_to_its_centre_turned_upright_and_put_on_white(tmp_path):
    file = tmp_path / "wide.png"
    wide = np.zeros((48, 144, 3), np.uint8)
    wide[:, 48:96] = 200  # its centre square
    Image.fromarray(wide).save(file)
    assert (own.read_picture(file, 48) == 200).all()

    Image.new("RGBA", (50, 50), (0, 0, 0, 0)).save(file)
    assert (own.read_picture(file, 48) == 255).all(), "nothing is white"

    upper_white = np.zeros((40, 40, 3), np.uint8)
    upper_white[:20] = 255
    turned = Image.Exif()
    turned[0x0112] = 3  # the camera was held upside down
    Image.fromarray(upper_white).save(file, exif=turned)
    upright = own.read_picture(file, 48)
    assert upright[:20].max() == 0
    assert upright[28:].min() == 255


def test_a_picture_is_held_out_of_both_tasks_or_of_none(toy):
    pairs = []
    for picture in range(60):
        pairs.append(own.Pair(picture, f"number {picture}", []))
        pairs.append(own.Pair(picture, None, [("which number?", str(picture))]))
    held_out = own.choose_held_out(60, seed=0)
    assert len(held_out) == 3
    codes = np.zeros((60, 64), int)
    rows, n_cut = own.make_rows(pairs, codes, toy.enc, held_out)
    for task in data.TASKS:
        assert {row.picture for row in rows["val", task]} == held_out
        assert {row.picture for row in rows["train", task]} == set(range(60)) - held_out
    assert n_cut == 0


def test_each_task_has_rows_to_train_on_and_to_validate(toy):
    """Even where all of its few pictures are held out, or none."""
    pairs = [own.Pair(picture, None, [("which?", str(picture))]) for picture in range(20)]
    held_out, = own.choose_held_out(20, seed=0)
    pairs.append(own.Pair(held_out, "the only one to draw", []))
    rows, _ = own.make_rows(pairs, np.zeros((20, 64), int), toy.enc, {held_out})
    assert not rows["train", "generate"]
    own.validate_on_something(rows)
    assert len(rows["train", "generate"]) == len(rows["val", "generate"]) == 1
    assert len(rows["train", "understand"]) == 19
    rows, _ = own.make_rows(pairs, np.zeros((20, 64), int), toy.enc, set())
    own.validate_on_something(rows)
    assert len(rows["train", "understand"]) == len(rows["val", "understand"]) == 20


def test_a_prompt_is_cut_between_characters(toy):
    """One of them may be several tokens, and half of one is none."""
    for n in range(3):
        ids, _, was_cut = own.prompt_row(toy.enc, np.zeros(64, int), "a" * n + "\N{SNOWMAN}" * 300)
        assert was_cut
        assert len(ids) <= 64 + own.ROOM
        assert "\ufffd" not in toy.enc.decode(ids[1:-65], errors="replace")


def test_a_text_that_is_too_long_is_cut_and_counted(toy):
    codes = np.zeros((1, 64), int)
    long = "word " * 300
    pairs = [own.Pair(0, long, []), own.Pair(0, None, [("what?", long)]),
             own.Pair(0, None, [(long, "an answer for which there is no room")])]
    rows, n_cut = own.make_rows(pairs, codes, toy.enc, set())
    assert n_cut == 3
    drawn, = rows["train", "generate"]
    assert len(drawn.ids) == 64 + own.ROOM
    assert drawn.ids[-64:] == [toy.meta["first_image"]] * 64, "the picture is whole"
    seen, = rows["train", "understand"]  # and not the one without an answer
    whole, _ = make_row(toy.enc, toy.meta["first_image"], codes[0], turns=[("what?", long)])
    assert seen.ids == whole[:64 + own.ROOM + 1]


def test_a_seed_below_0_is_not_called_the_exam_s(tmp_path):
    out = tmp_path / "new"
    assert "exam" not in run("data.py", "--seed", -1, "--out", out)
    assert "those above are the exam's" in run("data.py", "--seed", 2**31, "--out", out)


def test_what_cannot_be_built_is_refused_and_leaves_nothing(pictures):
    file = pictures / "pairs.json"
    flags = ("--images", pictures, "--out", pictures / "other")
    file.write_text(json.dumps([record for record, _ in BAD]))
    assert "no usable record" in run("data.py", "--json", file, *flags)
    file.write_text("{not json")
    assert "not JSON" in run("data.py", "--json", file, *flags)
    said = run("data.py", "--n", 0, "--out", pictures / "other")
    assert said.startswith("--n 0: wanted is a number from 1")
    file.write_text(json.dumps([record for record, _ in BAD]))
    said = run("data.py", "--json", file, "--images", "nowhere", "--out", pictures / "other")
    assert said.startswith("--images nowhere: is no folder")
    assert not list(pictures.glob("other*"))


# ---------------------------------------------------------------------------------------------
# records as the field writes them


def said(*texts, names=("human", "gpt"), keys=("from", "value")):
    """Turns in some dialect."""
    return [{keys[0]: names[i % 2], keys[1]: text} for i, text in enumerate(texts)]


OPENAI = {"names": ("user", "assistant"), "keys": ("role", "content")}
A_TALK = Talk("0.png", None, [("what?", "red")])
A_DRAWING = Talk("0.png", "a cat", [])


@pytest.mark.parametrize("record, talk", [
    # LLaVA, InternVL
    ({"image": "0.png", "conversations": said("<image>\nwhat?", "red")}, A_TALK),
    ({"image": ["0.png"], "conversations": said("what?\n<image>", "red")}, A_TALK),
    ({"image": "0.png", "conversations": said("a cat", "<image>")}, A_DRAWING),
    ({"image": "0.png", "conversations": said("a cat", "Here it is: <image>")}, A_DRAWING),
    # LLaMA-Factory
    ({"images": ["0.png"], "messages": said("<image>what?", "red", **OPENAI)}, A_TALK),
    ({"images": ["0.png"], "messages": [{"role": "system", "content": "be kind"},
                                        *said("what?", "red", **OPENAI)]}, A_TALK),
    # Qwen: pieces, and names in the text
    ({"messages": said([{"type": "image", "image": "0.png"}, {"type": "text", "text": "what?"}],
                       [{"type": "text", "text": "red"}], **OPENAI)}, A_TALK),
    ({"conversations": said("Picture 1: <img>0.png</img>\nwhat?", "red",
                            names=("user", "assistant"))},
     Talk("0.png", None, [("Picture 1: \nwhat?", "red")])),
    ({"conversations": said("a cat", "<img>0.png</img>")}, A_DRAWING),
    ({"image": "0.png", "conversations": said("<img>0.png</img>what?", "red")}, A_TALK),
    ({"conversations": said("<img>a\nb.png</img>what?", "red")},
     Talk("a\nb.png", None, [("what?", "red")])),
    # a greeting before the first question, which LLaVA's reader drops
    ({"image": "0.png", "conversations": [{"from": "gpt", "value": "hello"},
                                          *said("what?", "red")]}, A_TALK)])
def test_what_the_field_s_readers_take_is_taken(record, talk):
    assert understand(record) == (talk, None)


@pytest.mark.parametrize("record, kind, detail", [
    ({"conversations": said("what?", "red")}, "has no picture", ""),
    ({"images": [], "conversations": said("what?", "red")}, "has no picture", ""),
    ({"images": ["a", "b"], "messages": said("what?", "red", **OPENAI)}, "several pictures",
     "here are 2"),
    ({"image": "x" * 266_000, "conversations": said("a", "b")}, "no file name", "266,002 char"),
    ({"image": "a\0b", "conversations": said("a", "b")}, "no file name", "a\\x00b"),
    ({"image": "0.png", "conversations": said("a", "b", "c")}, "in pairs", "human, gpt, human"),
    ({"image": "0.png", "conversations": said("a", "b", names=("human", "tool"))},
     "a turn is not", "tool"),
    ({"image": "0.png", "conversations": said("a", "<image>", "b", "c")},
     "one human and one gpt turn", "here are 4 turns"),
    ({"image": "0.png", "conversations": said("a", "half \ud83d")}, "lone surrogate", "ud83d"),
    ({"image": "0.png", "conversations": said("<image>", "b")}, "empty text", ""),
    ({"image": "0.png", "conversations": "talk"}, "in pairs", "it is 'talk'")])
def test_what_is_not_plain_is_skipped_and_the_reason_says_what_stands_there(record, kind, detail):
    talk, fault = understand(record)
    assert talk is None
    assert kind in fault.kind
    assert detail in fault.detail
    assert len(fault.detail) < 200


def test_a_line_may_be_a_record(tmp_path):
    """And ends at its newline alone, not at what looks like one in a text."""
    file = tmp_path / "pairs.jsonl"
    records = [{"image": "0.png", "conversations": said("a\u2028\x85", "b")}] * 3
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    file.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    assert load_records(file) == records
    file.write_text(lines[0], encoding="utf-8")
    assert load_records(file) == records[:1]


@pytest.mark.parametrize("text, why", [
    ('{"a": 1}\n{"b"', "not JSON"), ("3", "holds a int"), ("[" * 100_000, "nested too deeply"),
    ("", "not JSON"), ('{"a":\n 1}', "holds a dict")])
def test_what_is_no_list_of_records_is_refused(tmp_path, text, why):
    file = tmp_path / "pairs.json"
    file.write_text(text)
    with pytest.raises(SystemExit, match=why):
        load_records(file)


def test_a_reason_that_comes_often_is_said_a_few_times_and_kept_in_a_file(tmp_path, capsys):
    report = Report()
    for i in range(1000):
        report.skip(i, {"image": f"{i}.png"}, Fault("has no picture"))
    report.skip(1000, {"image": "\ud83d.png"}, Fault("no such file", "where?"))
    report.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "record 0: '0.png': has no picture"
    assert lines[-1] == "... and 997 more: has no picture"
    assert len(lines) == 3 + 1 + 1
    report.save(tmp_path / "skipped.txt")
    assert len((tmp_path / "skipped.txt").read_text().splitlines()) == 1001


# ---------------------------------------------------------------------------------------------
# pictures of every kind


def ramp():
    """Grey from 0 to 255, (96, 96) uint8"""
    return np.linspace(0, 255, 96).round().astype(np.uint8)[None].repeat(96, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr",
                                  "LAB", "HSV", "I", "F", "I;16", "La", "RGBa"])
def test_a_picture_of_any_mode_looks_like_its_8_bit_twin(mode, monkeypatch, tmp_path):
    grey = Image.fromarray(ramp())
    if mode == "I;16":
        picture = Image.fromarray(ramp().astype(np.uint16) * 257)
    elif mode == "I":
        picture = Image.fromarray(ramp().astype(np.int32) * 1000)
    elif mode == "F":
        picture = Image.fromarray(ramp().astype(np.float32) / 255)
    elif mode in ("La", "RGBa"):
        picture = grey.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    elif mode == "LAB":
        picture = Image.merge("LAB", (grey, *[Image.new("L", grey.size, 128)] * 2))
    else:
        picture = grey.convert("RGB").convert(mode)
    assert picture.mode == mode
    file = tmp_path / "x"
    file.write_bytes(b"a file")
    monkeypatch.setattr(Image, "open", lambda path: picture)
    seen = read_picture(file, 48).astype(int)
    grey.save(tmp_path / "twin.png")
    monkeypatch.undo()
    twin = read_picture(tmp_path / "twin.png", 48).astype(int)
    close = {"1": 140, "P": 60, "PA": 60, "LAB": 25}.get(mode, 6)  # few colours, dithered
    assert np.abs(seen - twin).max() <= close, mode
    assert np.abs(seen.mean() - twin.mean()) < 8


def test_a_large_jpeg_is_reduced_while_it_is_decoded(tmp_path, monkeypatch):
    Image.fromarray(ramp()).resize((4000, 4000)).save(tmp_path / "large.jpg")
    loaded = []
    load = ImageFile.ImageFile.load

    def load_and_note(self):
        result = load(self)
        loaded.append(self.size)
        return result

    monkeypatch.setattr(ImageFile.ImageFile, "load", load_and_note)
    seen = read_picture(tmp_path / "large.jpg", 48)
    assert max(loaded[0]) <= 600
    assert seen[:, 0].mean() < 30 < 220 < seen[:, -1].mean()


def test_what_is_no_file_is_never_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="no file"):
        read_picture(tmp_path / "pipe.png", 48)
    with pytest.raises(ValueError, match="no such file"):
        read_picture(tmp_path / "none.png", 48)
