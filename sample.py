"""
sample.py: all that a trained network does: draw, answer, be scored. Read it after aia.py; train.py comes last.

  1. draw and answer    one loop over tokens, with a cache, for both
  2. the benchmarks     toy counterparts of GenEval, POPE, MME and MMVP: their categories, formats and rules, the judge in the detector's place
  3. the scores         all of them with intervals, beside chance, oracle and tokenizer ceiling
  4. command line

    python sample.py OUT                                                     # a conversation (default run: the latest under out/)
    python sample.py OUT --prompt "a circle left of a square" --n 4          # draws
    python sample.py OUT --image picture.png --ask "how many circles are there?"
    python sample.py OUT --score
"""
import argparse, csv, json, re, sys, textwrap, time
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from data import (COLORS, HELD_OUT, KINDS, NUMBERS, SHAPES, SPECIAL, TAGS, Help, an, caption, dense, encoding_of, frame, judge, load_dataset,
                  load_tokenizer, make_row, make_scenes, plural, questions, read_picture, relations, render_all, save_json, to_batch)
from model import find_device, latest_run, load_model

# ---------------------------------------------------------------------------------------------------------------------
# 1. draw and answer


def legal(logits, meta, image):
    """Logits (..., V) with the other modality's ids, special ids but <|end|>, and the vocabulary's padding made impossible."""
    ids = torch.arange(logits.size(-1), device=logits.device)
    if image:
        return logits.masked_fill((ids < meta["first_image"]) | (ids >= meta["first_image"] + meta["n_codes"]), float("-inf"))
    n_text = 256 + len(meta["merges"])
    end = n_text + SPECIAL.index("<|end|>")
    return logits.masked_fill((ids >= n_text) & (ids != end), float("-inf"))


@torch.no_grad()
def extend(model, starts, n, pick, task, pixels=None, end=-1, cached=True):
    """
    Continues B lists of token ids, of different lengths, by n tokens: (B, n), fewer once all have said `end`. pick(logits (B, V), k) -> (B,)
    chooses the k-th. The lists are padded on the left, together; the keys and values of what was read are kept in a cache that is allocated once.
    cached=False reads everything anew for each token, as one would first write it. pixels (B, S, S, 3) uint8 of the pictures in starts, if any.
    """
    device, longest = model.rotary.device, max(map(len, starts))
    pad = torch.tensor([longest - len(s) for s in starts], device=device)
    idx = torch.tensor([[0] * (longest - len(s)) + list(s) for s in starts], device=device)
    cache, out, done = model.new_cache(pad, longest + n), [], torch.zeros_like(pad, dtype=torch.bool)
    for k in range(n):
        last = torch.zeros_like(idx, dtype=torch.bool)
        last[:, -1] = True
        token = pick(model(idx, at=last, task=task, pixels=pixels, cache=cache)[0].float(), k)
        out.append(token)
        done |= token == end
        if done.all():
            break
        if cached:
            idx, pixels = token[:, None], None
        else:
            idx, cache = torch.cat((idx, token[:, None]), 1), model.new_cache(pad, longest + n)
    return torch.stack(out, 1)


def choose(logits, u, temperature=1., top_k=0, top_p=1.):
    """From logits (B, V) with one number u (B, 1) from 0 to 1 each, by inverting the cumulative distribution. temperature 0: the likeliest."""
    if temperature == 0:
        return logits.argmax(-1)
    p, ids = (logits / temperature).softmax(-1).sort(descending=True)  # the likeliest first
    before = p.cumsum(-1) - p
    p = p.masked_fill(before >= top_p, 0.)  # nucleus (Holtzman et al. 2020): the fewest whose sum reaches top_p
    if top_k:
        p[:, top_k:] = 0
    total = p.cumsum(-1)
    at = torch.searchsorted(total, u * total[:, -1:], right=True).clamp(max=p.size(-1) - 1)
    return ids.gather(1, at).squeeze(1)


def draw(model, enc, meta, prompts, cfg=2., temperature=1., top_k=0, top_p=1., seed=0, first=0, batch=64, cached=True):
    """
    Codes (N, n_image) for N prompts. Classifier-free guidance: logits = without + cfg * (with - without), where `without` has seen
    <|null|> in place of every prompt token; both run as one doubled batch. Picture i is drawn with numbers from (seed, first + i) alone,
    so it does not depend on what it was batched with.
    """
    sp, out = enc._special_tokens, []
    for i in tqdm(range(0, len(prompts), batch), desc="drawing", unit=f"x {batch} pictures", disable=len(prompts) <= batch):
        texts = [enc.encode_ordinary(p) for p in prompts[i:i + batch]]
        starts = [[sp["<|bos|>"], *t, sp["<|boi|>"]] for t in texts]
        if cfg != 1:
            starts += [[sp["<|bos|>"]] + [sp["<|null|>"]] * len(t) + [sp["<|boi|>"]] for t in texts]
        seeds = [seed * 1_000_003 + first + i + j for j in range(len(texts))]
        u = torch.stack([torch.rand(meta["n_image"], generator=torch.Generator().manual_seed(x)) for x in seeds]).to(model.rotary.device)

        def pick(logits, k):
            if cfg != 1:
                known, null = logits.chunk(2)
                logits = null + cfg * (known - null)
            return choose(legal(logits, meta, image=True), u[:, k:k + 1], temperature, top_k, top_p).repeat(len(starts) // len(texts))

        out.append((extend(model, starts, meta["n_image"], pick, "generate", cached=cached)[:len(texts)] - meta["first_image"]).cpu())
    return torch.cat(out)


def asking(model, enc, meta, codes, turns):
    """The ids of a dialogue about a picture up to where its last answer, "" as yet, begins. Raises ValueError if nothing is asked."""
    if not turns[-1][0].strip():
        raise ValueError("the question is empty; ask something")
    return frame(make_row(enc, meta["first_image"], codes.tolist(), turns=turns)[0][:-1], model.config)


def answer(model, enc, meta, codes, talks, pixels=None, batch=250, cached=True):
    """
    The answers (texts of at most 40 tokens) to N dialogues, greedily. codes (N, n_image), and for a network that sees pixels those too, (N, S, S, 3)
    uint8; a talk is [(question, answer), ..., (question, "")], its last answer wanted. Raises ValueError if a talk does not fit the context.
    """
    out, end = [], enc._special_tokens["<|end|>"]
    for i in tqdm(range(0, len(talks), batch), desc="answering", unit=f"x {batch} questions", disable=len(talks) <= batch):
        starts = [asking(model, enc, meta, c, t) for c, t in zip(codes[i:i + batch], talks[i:i + batch])]
        room = model.config.block_size - max(map(len, starts))
        if room < 1:
            raise ValueError(f"{1 - room} tokens too long")
        seen = None if model.config.see == "tokens" else torch.tensor(pixels[i:i + batch], device=model.rotary.device)
        likeliest = lambda logits, k: legal(logits, meta, image=False).argmax(-1)
        said = extend(model, starts, min(40, room), likeliest, "understand", seen, end, cached).tolist()
        out += [enc.decode(s[:s.index(end)] if end in s else s).strip() for s in said]
    return out


@torch.no_grad()
def answered(model, meta, ids, roles, pixels, batch=250):
    """Per row (N, T + 1), and its picture, whether every target is the likeliest legal token: that is, whether greedy decoding would answer so."""
    out = []
    for i in range(0, len(ids), batch):
        b = to_batch(*(x[i:i + batch] for x in (ids, roles, pixels)), device=model.rotary.device, c=model.config)
        wrong = legal(model(b["idx"], None, b["at"], b["task"], b["pixels"])[0], meta, image=False).argmax(-1) != b["targets"][b["at"]]
        out.append(~torch.zeros_like(b["at"]).masked_scatter(b["at"], wrong).any(1).cpu())
    return torch.cat(out).numpy()


# ---------------------------------------------------------------------------------------------------------------------
# 2. the benchmarks

SEED = 2**31  # of everything the toy world is examined on; data sets are made from seeds below it
MME = ("existence", "count", "position", "color", "numerical_calculation")
MMVP = ("Color & Appearance", "Structural & Physical Characteristics", "Quantity & Count", "Presence of Specific Features",
        "Positional & Relational Context")


def check(record, scene):
    """
    GenEval's rule for one picture: (whether the judged scene satisfies the record, the reason if not). Every `include` must be found; only an
    `exclude` forbids extras. Where GenEval takes the objects its detector is surest of, any that fit will do: the judge is always sure.
    """
    def find(item):
        return [o for o in scene if item["class"] in (o.shape, "object")
                and item.get("color", o.color) == o.color and item.get("size", o.size) == o.size]
    reasons, groups = [], []
    for item in record["include"]:
        name = " ".join(filter(None, (item.get("size"), item.get("color"), item["class"])))
        hits = find(item)
        if len(hits) < item["count"]:
            reasons.append(f"expected {name} >= {item['count']}, found {len(hits)}")
        elif "position" in item:
            side, target = item["position"]
            if not any(side in relations(o, p) for o in hits for p in groups[target]):
                reasons.append(f"expected {name} {side} {record['include'][target]['class']}")
        groups.append(hits)
    for item in record["exclude"]:
        if len(find(item)) >= item["count"]:
            reasons.append(f"expected {item['class']} < {item['count']}, found {len(find(item))}")
    return not reasons, "; ".join(reasons)


def truth(scene, question):
    """The true answer to a question of data.questions(), by its words; None if the scene lacks what it asks about."""
    one = lambda words: next(o for o in scene if words in (o.shape, o.color, f"{o.color} {o.shape}"))
    count = lambda word: sum(word in (o.color, plural(o.shape)) for o in scene)
    yes = lambda x: "yes" if x else "no"
    rules = ((r"describe the picture", lambda: dense(scene)),
             (r"is there an? (\w+) (\w+)", lambda c, s: yes((c, s) in {(o.color, o.shape) for o in scene})),
             (r"how many (\w+) are there", lambda a: NUMBERS[count(a)]),
             (r"is the number of (\w+) (\w+)", lambda a, n: yes(count(a) == NUMBERS.index(n))),
             (r"are there more (\w+) than (\w+)", lambda a, b: yes(count(a) > count(b))),
             (r"what (color|shape) is the (\w+)", lambda what, a: getattr(one(a), what)),
             (r"is the (\w+) (?:an? )?(\w+)", lambda a, b: yes(b in (one(a).shape, one(a).color))),
             (r"is the (\w+ \w+) (left of|right of|above|below) the (\w+ \w+)", lambda a, side, b: yes(side in relations(one(a), one(b)))),
             (r"where is the (\w+ \w+), seen from the (\w+ \w+)", lambda a, b: min(relations(one(a), one(b))).removesuffix(" of")))
    for pattern, rule in rules:
        if m := re.fullmatch(pattern, re.sub(r" objects?\b|[.?]", "", question)):
            try:
                return rule(*m.groups())
            except (StopIteration, IndexError, ValueError):  # no such object, more of them than there are words for, no clear side
                return None


def geneval_prompts(n=100, held_out=False):
    """toy-GenEval, [(record, a scene it is true of)]: n draws a tag, then none twice, as GenEval's own file was made. held_out: only such pairs."""
    rng, drawn = np.random.default_rng([SEED, held_out]), {t: [] for t in TAGS}
    wanted = lambda record: not held_out or any((i.get("color"), i["class"]) in HELD_OUT for i in record["include"])
    for scene in make_scenes(60 * n, [SEED, held_out, 1], held_out):
        for tag, pairs in drawn.items():
            if len(pairs) < n and (r := caption(scene, rng, tag)) and wanted(r):
                pairs.append((r | {"tag": "held-out"} if held_out else r, scene))
    return [pair for pairs in drawn.values() for pair in {r["prompt"]: (r, s) for r, s in pairs}.values()]


def kind_questions(n):
    """Each of n scenes asked all that data.questions() asks: (scenes, {kind: [(scene number, question, answer)]}), as are the next three."""
    rng, scenes, out = np.random.default_rng(SEED + 1), make_scenes(n, SEED + 1), {k: [] for k in KINDS}
    for i, scene in enumerate(scenes):
        for kind, q, a in questions(scene, rng):
            out[kind].append((i, q, a))
    return scenes, out


def pope_questions(n=500):
    """
    toy-POPE: n scenes of at least three different objects, six questions each, yes and no by turns; a split differs in what is
    absent: anything, what is frequent in the world, or what is most often together with the object just asked for.
    """
    rng, world = np.random.default_rng(SEED + 2), make_scenes(30 * n, SEED + 2)
    names = [(c, s) for c in COLORS for s in SHAPES if (c, s) not in HELD_OUT]
    has = np.array([[p in {(o.color, o.shape) for o in s} for p in names] for s in world])  # (scenes, pairs)
    together = has.T.astype(int) @ has  # how often each pair is seen with each other; on the diagonal, at all
    used = np.flatnonzero(has.sum(1) >= 3)[:n]
    out = {split: [] for split in ("random", "popular", "adversarial")}
    for split, asked in out.items():
        for i, here in enumerate(has[used]):
            absent = np.flatnonzero(~here).tolist()
            for k in rng.permutation(np.flatnonzero(here))[:3]:
                j = rng.choice(absent) if split == "random" else max(absent, key=lambda j: together[j, j if split == "popular" else k])
                absent.remove(j)
                asked += [(i, f"is there {an(*names[k])}?", "yes"), (i, f"is there {an(*names[j])}?", "no")]
    return [world[i] for i in used], out


def pope_says(text):
    """POPE's parser: 'no' if the first sentence has the word No, no or not; all else is 'yes'."""
    return "no" if {"No", "no", "not"} & set(text.split(".")[0].replace(",", "").split(" ")) else "yes"


def pope_rates(said, label):
    """POPE's numbers from yes (True) or no, said and true, (pictures, questions) each: {name: (numerator, denominator)}, both (pictures,)."""
    tp, fp, fn = (said & label).sum(1), (said & ~label).sum(1), (~said & label).sum(1)
    every = np.full(len(said), said.shape[1])
    return {"accuracy": ((said == label).sum(1), every), "precision": (tp, tp + fp), "recall": (tp, tp + fn),
            "F1": (2 * tp, 2 * tp + fp + fn), "yes ratio": (tp + fp, every)}


def mme_questions(n=30):
    """toy-MME: n pictures a subtask, two questions each, the answer of one is yes, of the other no."""
    rng, scenes, out = np.random.default_rng(SEED + 3), [], {k: [] for k in MME}
    for scene in make_scenes(20 * n, SEED + 3):
        found = {}
        for _ in range(12):
            for kind, q, a in questions(scene, rng):
                found.setdefault("numerical_calculation" if "more" in q else kind, {}).setdefault(a, q)
        fits = [k for k in MME if len(out[k]) < 2 * n and {"yes", "no"} <= found.get(k, {}).keys()]
        for k in fits:
            out[k] += [(len(scenes), found[k][a], a) for a in ("yes", "no")]
        scenes += [scene] * bool(fits)
    return scenes, out


def mme_says(text):
    """MME's parser: the first four characters decide: yes, no or other."""
    return next((a for a in ("yes", "no") if a in text.lower()[:4]), "other")


def mme_points(right):
    """MME's points, of (pictures, 2) right answers: 100 for the share of right ones, 100 if both are; their mean is 100 accuracy + 100 accuracy+."""
    return 100 * right.mean(1) + 100 * right.all(1)


def mmvp_questions(n=15):
    """toy-MMVP: n pairs a pattern: by turns a scene and its near twin, of which the same question has another answer."""
    rng, pool, scenes, out = np.random.default_rng(SEED + 4), iter(make_scenes(400 * n, SEED + 4)), [], {k: [] for k in MMVP}
    for pattern in MMVP:
        while len(out[pattern]) < 2 * n:
            s = next(pool)
            o, p = s[rng.integers(len(s))], s[rng.integers(len(s))]
            twin = [x for x in s if x is not o]  # the rest; where the pattern wants something in o's place, that is added
            only = lambda o, *what: sum(all(getattr(x, w) == getattr(o, w) for w in what) for x in s) == 1
            if pattern == MMVP[0]:
                fits, question = only(o, "shape"), f"what color is the {o.shape}?"
                twin.append(o._replace(color=str(rng.choice(list(COLORS)))))
            elif pattern == MMVP[1]:
                fits, question = only(o, "color"), f"what shape is the {o.color} object?"
                twin.append(o._replace(shape=str(rng.choice(SHAPES))))
            elif pattern == MMVP[2]:
                fits, question = len(s) > 1, f"how many {plural(o.shape)} are there?"
            elif pattern == MMVP[3]:
                fits, question = len(s) > 1 and only(o, "color", "shape"), f"is there {an(o.color, o.shape)}?"
            else:  # two of one size change places
                fits = all(only(x, "color", "shape") for x in (o, p)) and o.size == p.size and len(relations(o, p)) == 1
                question = f"where is the {o.color} {o.shape}, seen from the {p.color} {p.shape}?"
                twin = [x for x in twin if x is not p] + [o._replace(x=p.x, y=p.y), p._replace(x=o.x, y=o.y)]
            answers = truth(s, question), truth(twin, question)
            if fits and answers[0] != answers[1] and not any((x.color, x.shape) in HELD_OUT for x in twin):
                out[pattern] += [(len(scenes) + j, question, a) for j, a in enumerate(answers)]
                scenes += [s, twin]
    return scenes, out


# ---------------------------------------------------------------------------------------------------------------------
# 3. the scores


def shares(rows, n=1000):
    """{row: (num, den)}, (units,) each or one den for all -> {row: [sum of num / sum of den, for the run also that of n bootstrap resamples]}."""
    out = {}
    for row, pair in rows.items():
        num, den = np.broadcast_arrays(*pair)
        at = np.random.default_rng(0).integers(len(num), size=(n if row == "run" else 0, len(num)))
        at = np.vstack([np.arange(len(num)), at])
        out[row] = num[at].sum(1) / np.maximum(den[at].sum(1), 1e-9)
    return out


def average(columns, how=np.mean):
    return {row: how([c[row] for c in columns], 0) for row in columns[0]}


def score_drawing(model, meta, enc, tok, n, cfg, folder):
    """toy-GenEval, four pictures a prompt: ({benchmark: {column: {row: share}}}, {benchmark: its overall number}, {group: [(picture, mistake)]})."""
    todo = geneval_prompts(n) + geneval_prompts(n, held_out=True)
    pictures = tok.decode(draw(model, enc, meta, [r["prompt"] for r, _ in todo for _ in range(4)], cfg))
    true = render_all([s for _, s in todo], meta["canvas"])
    scenes = {"run": judge(pictures), "chance": make_scenes(100, SEED + 5) * len(todo),
              "oracle": judge(true), "ceiling": judge(tok.decode(tok.encode(true)))}
    checked = {row: [check(todo[i * len(todo) // len(v)][0], s) for i, s in enumerate(v)] for row, v in scenes.items()}  # 4, 100, 1 and 1 a prompt
    right = {row: np.reshape([ok for ok, _ in v], (len(todo), -1)).mean(1) for row, v in checked.items()}
    tags = np.array([r["tag"] for r, _ in todo])
    parts = {tag: shares({row: (v[tags == tag], 1) for row, v in right.items()}) for tag in TAGS + ("held-out",)}
    lines, wrong = [], {tag: [] for tag in parts}
    for i, (picture, scene, (ok, why)) in enumerate(zip(pictures, scenes["run"], checked["run"])):
        record, file = todo[i // 4][0], f"{i // 4:05d}/samples/{i % 4:04d}.png"
        path = folder / "toy-geneval" / file  # GenEval's layout: a folder a prompt, with its record and its pictures
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parents[1].joinpath("metadata.jsonl").write_text(json.dumps(record) + "\n")
        Image.fromarray(picture).save(path)
        lines.append({"filename": file, "tag": record["tag"], "prompt": record["prompt"], "correct": ok, "reason": why,
                      "metadata": json.dumps(record), "details": dense(scene)})
        if not ok:
            wrong[record["tag"]].append((picture, f"{record['prompt']}: {why}"))
    (folder / "toy-geneval" / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    overall = average([parts[tag] for tag in TAGS if tag != "dense"])  # GenEval's six tags weigh the same, whatever their number of prompts
    return {"toy-GenEval": parts}, {"toy-GenEval": overall}, wrong


def score_answers(model, meta, enc, tok, n, folder):
    """All that is asked: the same three."""
    sets = {"answered": kind_questions(3 * n), "toy-POPE": pope_questions(5 * n), "toy-MME": mme_questions(-(-3 * n // 10)),
            "toy-MMVP": mmvp_questions(-(-3 * n // 20))}
    scenes, asked, where = [], [], {}  # all scenes; all (scene number, question, right answer); the places in `asked` of each group of each set
    for name, (some, groups) in sets.items():
        for group, rows in groups.items():
            where[name, group] = np.arange(len(asked), len(asked) + len(rows))
            asked += [(len(scenes) + i, q, a) for i, q, a in rows]
        scenes += some
    at, asks, label = map(np.array, zip(*asked))
    true = render_all(scenes, meta["canvas"])
    codes, talks = tok.encode(true), [[(q, "")] for q in asks]
    said = {"run": answer(model, enc, meta, codes[at], talks, true[at])}
    for row, seen in (("oracle", judge(true)), ("ceiling", judge(tok.decode(codes)))):
        said[row] = [truth(seen[i], q) or "" for i, q in zip(at, asks)]
    pairs = np.concatenate([where["toy-MMVP", pattern] for pattern in MMVP])
    offers = label[pairs].reshape(-1, 2).repeat(2, 0)  # MMVP offers (a) and (b), here the answers themselves: the likelier beginning is taken
    first = torch.tensor([[enc.encode_ordinary(a)[0] for a in offer] for offer in offers], device=model.rotary.device)
    starts, seen = [asking(model, enc, meta, codes[at[k]], talks[k]) for k in pairs], torch.tensor(true[at[pairs]], device=model.rotary.device)
    taken = extend(model, starts, 1, lambda logits, _: logits.gather(1, first).argmax(1), "understand", seen)
    for k, offer, j in zip(pairs, offers, taken.flatten().tolist()):
        said["run"][k] = str(offer[j])
    out, wrong = {name: {} for name in sets if name != "toy-POPE"}, {}
    tossed = np.random.default_rng(0).random((100, len(asked))) < .5  # so often that a coin's luck does not show
    for (name, group), places in where.items():
        parse = {"toy-POPE": pope_says, "toy-MME": mme_says}.get(name, str)
        got, want, coin = {row: np.array([parse(v[k]) for k in places]) for row, v in said.items()}, label[places], tossed[:, places].ravel()
        right = {row: v == want for row, v in got.items()} | {"chance": coin}
        wrong[name, group] = [(true[at[k]], f"{asks[k]} said: {said['run'][k]}; right: {label[k]}") for k in places[~right["run"]]]
        if name == "toy-POPE":
            yes = {row: v == "yes" for row, v in got.items()} | {"chance": coin}
            rates = {row: pope_rates(v.reshape(-1, 6), np.resize(want == "yes", (v.size // 6, 6))) for row, v in yes.items()}
            out[f"toy-POPE {group}"] = {number: shares({row: r[number] for row, r in rates.items()}) for number in rates["run"]}
            continue
        if name == "toy-MME":
            right = {row: mme_points(v.reshape(-1, 2)) for row, v in right.items()}
        elif name == "toy-MMVP":  # a pair counts if both are right
            right = {row: v.reshape(-1, 2).all(1) for row, v in right.items()}
        else:
            right["chance"] = want == max(want, key=want.tolist().count)
        out[name][group] = shares({row: (v, 1) for row, v in right.items()})
    overall = {"toy-POPE F1": average([out[f"toy-POPE {split}"]["F1"] for split in sets["toy-POPE"][1]]),
               "toy-MME": average(list(out["toy-MME"].values()), np.sum)}  # the five subtasks' points are added up
    overall |= {name: average(list(out[name].values())) for name in ("toy-MMVP", "answered")}
    del sets["answered"]  # no benchmark of the field, so it has no format
    for name, (some, groups) in sets.items():
        given = {g: [(*row, said["run"][k]) for row, k in zip(rows, where[name, g])] for g, rows in groups.items()}
        write_questions(folder / name.lower(), name, render_all(some, meta["canvas"]), given)
    return out, overall, wrong


def write_questions(place, name, pictures, groups):
    """A benchmark in its own format, the answer as one field more. groups: {group: [(picture's number, question, right answer, answer)]}."""
    place.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(place / f"{i:05d}.png")
    if name == "toy-MMVP":
        rows, table = sum(groups.values(), []), [("Index", "Question", "Options", "Correct Answer", "Answer")]
        for k, (_, question, right, said) in enumerate(rows):
            a, b = (row[2] for row in rows[k // 2 * 2:][:2])
            table.append((k + 1, question, f"(a) {a} (b) {b}", *("(a)" if x == a else "(b)" for x in (right, said))))
        csv.writer(open(place / "Questions.csv", "w", newline="")).writerows(table)
        return
    for group, rows in groups.items():
        lines = [(f"{i:05d}.png", q, a, " ".join(said.split())) for i, q, a, said in rows]
        if name == "toy-MME":  # the form of MME's own result files
            (place / f"{group}.txt").write_text("".join(f"{file}\t{q}\t{a.capitalize()}\t{said}\n" for file, q, a, said in lines))
        else:
            records = [{"question_id": k, "image": file, "text": q, "label": a, "answer": said} for k, (file, q, a, said) in enumerate(lines, 1)]
            (place / f"toy_pope_{group}.json").write_text("".join(json.dumps(r) + "\n" for r in records))


def score(model, data, tok, task="both", n=100, cfg=2., *, folder):
    """
    Scores of a network: {benchmark: {column: {"run", "low", "high", "chance", "oracle", "ceiling"}}}; low to high is a 95 % bootstrap interval over
    prompts or pictures. Leaves the benchmarks' files, in their own formats, and mistakes.png in the folder. n = 100 is the full size.
      chance    a random other scene of the world drawn for the prompt; a coin, or the commonest answer to that kind of question
      oracle    the judge on true pictures; answers are read from the scene that it sees        ceiling    the judge on reconstructed ones
    Real pictures have no judge: there it is the share of held-out dialogues answered word for word.
    """
    meta, enc, toy, results = data.meta, data.enc, data.meta["kind"] == "toy", []
    if toy and task != "understand":
        results.append(score_drawing(model, meta, enc, tok, n, cfg, folder))
    if toy and task != "generate":
        results.append(score_answers(model, meta, enc, tok, n, folder))
    if not toy and task != "generate":
        right = answered(model, meta, *(np.array(x[:500]) for x in data.rows["val"]["understand"]))
        results.append(({}, {"answered": shares({"run": (right, 1)})}, {}))
    out, mistakes = {"summary": {}}, []
    for parts, overall, wrong in results:
        out |= parts
        out["summary"] |= overall
        mistakes += [w for turn in zip_longest(*wrong.values()) for w in turn if w][:16]  # by turns from each group
    if mistakes:
        sheet(*zip(*mistakes), folder / "mistakes.png")
    return {b: {c: {row: float(v[0]) for row, v in rows.items()} | dict(zip(("low", "high"), np.quantile(rows["run"][1:], (.025, .975)).tolist()))
                for c, rows in columns.items()} for b, columns in out.items() if columns}


def table(scores):
    """The scores as text, a table a benchmark: the run with half the width of its interval, then chance, oracle and tokenizer ceiling."""
    out = []
    for name, columns in scores.items():
        short = [c.split()[0] if "&" in c or " of " in c else c for c in columns]  # MMVP's patterns by their first word
        wide = [max(len(c), 8) + 2 for c in short]
        lines = [f"{name:20}" + "".join(f"{c:>{w}}" for c, w in zip(short, wide))]
        for row, label in (("run", "this run"), ("half", "  95 % interval ±"), ("chance", "chance"), ("first", "at step 0"),
                           ("oracle", "oracle"), ("ceiling", "tokenizer ceiling")):
            cells = [(v["high"] - v["low"]) / 2 if row == "half" and "low" in v else v.get(row) for v in columns.values()]
            if any(c is not None for c in cells):
                texts = ["-" if c is None else f"{c:.1f}" if c >= 10 else f"{c:.3f}" for c in cells]
                lines.append(f"{label:20}" + "".join(f"{t:>{w}}" for t, w in zip(texts, wide)))
        out.append("\n".join(lines))
    return "\n\n".join(out)


def sheet(pictures, texts, path, columns=8, zoom=144):
    """A contact sheet: pictures (N, S, S, 3) enlarged, each with its text below."""
    font = ImageFont.load_default(13)
    wrapped = [textwrap.wrap(t, zoom // 7, max_lines=6, placeholder=" ...") for t in texts]
    wide, high = zoom + 12, zoom + 12 + 16 * max(map(len, wrapped))  # of a cell
    columns = min(columns, len(pictures))
    page = Image.new("RGB", (columns * wide + 12, -(-len(pictures) // columns) * high + 12), "white")
    for i, (picture, lines) in enumerate(zip(pictures, wrapped)):
        x, y = 12 + i % columns * wide, 12 + i // columns * high
        page.paste(Image.fromarray(picture).resize((zoom, zoom), Image.NEAREST), (x, y))
        ImageDraw.Draw(page).text((x + zoom // 2, y + zoom + 3), "\n".join(lines), (40, 40, 46), font, "ma", spacing=3, align="center")
    page.save(path)


# ---------------------------------------------------------------------------------------------------------------------
# 4. command line


def converse(folder, model, meta, enc, tok, seed, how):
    """
    Lines from standard input, until its end. A drawn picture stays what the network made it, tokens: it answers about them without their ever
    becoming pixels and tokens again. Not so if pictures to understand come in another way than as tokens (see model.PRESETS): then it must be
    decoded and encoded first, which is what two encoders cost.
    """
    print("a sentence draws; ?question asks about the last picture; !file.png loads one; Ctrl-D leaves")
    codes, pixels, talk, n = None, None, [], len(list(Path(folder).glob("talk/*.png")))
    while True:
        line = input("> " if sys.stdin.isatty() else "").strip()
        try:
            if line[:1] == "?":
                if codes is None:
                    raise ValueError("there is no picture yet; draw one with a sentence, or load one with !file.png")
                question = line[1:].strip()
                turns = [*talk, (question, "")]
                while len(asking(model, enc, meta, codes[0], turns)) > model.config.block_size - 21 and len(turns) > 1:
                    turns.pop(0)  # the oldest is forgotten when the context is full
                if pixels is None and model.config.see != "tokens":
                    pixels = tok.decode(codes)
                    print(f"(the tokens it drew are decoded to pixels, for its {model.config.see} to see)")
                said = answer(model, enc, meta, codes, [turns], pixels)[0]
                talk = turns[:-1] + [(question, said)]
                print(said)
            elif line[:1] == "!":
                pixels, talk = load(line[1:].strip(), meta)[None], []
                codes = tok.encode(pixels)
                show(tok.decode(codes)[0])
            else:
                check_prompt(line, enc, meta, model)
                codes, pixels, talk, n = draw(model, enc, meta, [line], seed=seed + n, **how), None, [], n + 1
                picture, file = tok.decode(codes)[0], Path(folder) / "talk" / f"{n:03d}.png"
                file.parent.mkdir(exist_ok=True)
                Image.fromarray(picture).save(file)
                show(picture)
                print(file)
        except (ValueError, OSError) as e:
            print(f"{line or 'the prompt'}: {e}")


def show(picture):
    """A picture in the terminal, two pixels a character, where it can."""
    if sys.stdout.isatty():
        for a, b in zip(picture[::2].tolist(), picture[1::2].tolist()):
            print("".join("\033[38;2;{};{};{}m\033[48;2;{};{};{}m▀".format(*p, *q) for p, q in zip(a, b)) + "\033[0m")


def load(file, meta):
    """A file as the network sees it; says so if it had to be converted. Raises ValueError with the reason."""
    picture, want = read_picture(file, meta["canvas"]), (meta["canvas"],) * 2
    with Image.open(file) as f:
        if f.size != want or f.mode != "RGB":
            print(f"{file}: {f.size[0]} x {f.size[1]} {f.mode}, seen as {want[0]} x {want[1]} RGB", file=sys.stderr)
    return picture


def check_prompt(prompt, enc, meta, model):
    """Raises ValueError if it cannot be drawn; says which of its words are new."""
    long = len(enc.encode_ordinary(prompt)) + 1 + meta["n_image"] - model.config.block_size
    if not prompt.strip():
        raise ValueError("is empty; say what to draw")
    if long > 0:
        raise ValueError(f"{long} tokens too long; shorten it")
    one = lambda w: len(w) > 1 and len(enc.encode_ordinary(w)) == 1  # what was frequent in training is one token
    if new := [w for w in re.findall(r"\w+", prompt) if not one(" " + w) and not one(w)]:
        print(f"note: new or rare to this network: {', '.join(new)}", file=sys.stderr)


def speed(model, meta, enc, tok, task, n=64):
    """Prints pictures and answers (descriptions) a second, with the cache and without, and whether both ways give the same."""
    toy, pixels = meta["kind"] == "toy", render_all(make_scenes(n, SEED), meta["canvas"])
    prompts = [an(c, s) for c in COLORS for s in SHAPES] * 2 if toy else ["a"] * n
    codes, talks = tok.encode(pixels), [[("describe the picture." if toy else "what?", "")]] * n
    works = {"generate": ("pictures", lambda c: draw(model, enc, meta, prompts, cached=c).tolist()),
             "understand": ("answers", lambda c: answer(model, enc, meta, codes, talks, pixels, cached=c))}
    for what, work in [works[t] for t in works if task in (t, "both")]:
        took, got = {}, {}
        for cached in (True, True, False):  # the first warms up
            start = time.perf_counter()
            got[cached] = work(cached)
            took[cached] = time.perf_counter() - start
        print(f"{n} {what}: {n / took[True]:.1f} a second with the cache, {n / took[False]:.1f} without: "
              f"{took[False] / took[True]:.1f} times; {'the same' if got[True] == got[False] else 'NOT the same'}")


if __name__ == "__main__":
    p = argparse.ArgumentParser(description="Draw, answer, or score. Without any of these: a conversation.", formatter_class=Help)
    p.add_argument("out", nargs="?", help="folder of the run (default: the latest under out/)")
    p.add_argument("--prompt", action="append", help="draw this; may be repeated")
    p.add_argument("--prompts", help="draw every line of this file, into --folder")
    p.add_argument("--folder", default="drawn", help="where the pictures of --prompts go, with a contact sheet")
    p.add_argument("--n", type=int, default=4, help="pictures a prompt")
    p.add_argument("--cfg", type=float, default=2., help="classifier-free guidance; 1 is none")
    p.add_argument("--temperature", type=float, default=1., help="0 takes the likeliest token")
    p.add_argument("--top_k", type=int, default=0, help="sample among the k likeliest tokens only; 0: all")
    p.add_argument("--top_p", type=float, default=1., help="sample among the fewest tokens whose probabilities reach p")
    p.add_argument("--seed", type=int, default=0, help="another seed, other pictures")
    p.add_argument("--png", default="grid.png", help="where the sheet of --prompt goes")
    p.add_argument("--image", help="a picture to ask about")
    p.add_argument("--ask", help="the question about it")
    p.add_argument("--score", action="store_true",
                   help="score the run by the toy benchmarks: scores.json, mistakes.png and their files, in the run's folder")
    p.add_argument("--device", help="cpu | cuda | mps (default: what is there)")
    p.add_argument("--speed", action="store_true", help="pictures and answers a second, with the cache and without")
    args = p.parse_args()
    folder = args.out or latest_run()
    print(f"run: {folder}", file=sys.stderr)
    if (args.image is None) != (args.ask is None):
        sys.exit("--image and --ask go together: a picture, and a question about it")
    if not (args.n >= 1 and 0 <= args.temperature < float("inf") and args.top_k >= 0 and 0 < args.top_p <= 1 and 0 <= args.cfg < float("inf")):
        sys.exit(f"--n {args.n} --temperature {args.temperature} --top_k {args.top_k} --top_p {args.top_p} --cfg {args.cfg}: "
                 "wanted is n of at least 1, top_p above 0 and up to 1, the others not negative")
    device = find_device(args.device)
    model, config = load_model(folder, device)
    meta, tok = config["data"], load_tokenizer(Path(folder) / "tokenizer.pt", device)
    enc, how = encoding_of(meta), {k: getattr(args, k) for k in ("cfg", "temperature", "top_k", "top_p")}
    for task, asked in (("generate", args.prompt or args.prompts), ("understand", args.ask)):
        if asked is not None and config["train"]["task"] not in ("both", task):
            sys.exit(f"{folder}: was trained with --task {config['train']['task']} and cannot {task}; name another run")
    prompts = args.prompt or []
    if args.prompts:
        try:
            prompts = prompts + [line.strip() for line in Path(args.prompts).read_text("utf-8-sig").splitlines() if line.strip()]
        except (OSError, ValueError) as e:
            sys.exit(f"--prompts {args.prompts}: cannot be read ({e}); wanted is a text file, a prompt a line")
        if not prompts:
            sys.exit(f"--prompts {args.prompts}: has no line to draw")
    if prompts:
        for prompt in prompts:
            try:
                check_prompt(prompt, enc, meta, model)
            except ValueError as e:
                sys.exit(f"--prompt {prompt[:60]!r}: {e}")
        every = [x for x in prompts for _ in range(args.n)]
        png, shown = Path(args.folder) / "sheet.png" if args.prompts else Path(args.png), []
        try:
            for i in tqdm(range(0, len(every), 64), desc="drawing", unit="x 64 pictures", disable=len(every) <= 64):
                part = every[i:i + 64]
                pictures = tok.decode(draw(model, enc, meta, part, seed=args.seed, first=i, **how))
                shown += list(pictures)[:256 - len(shown)]
                for j, picture in enumerate(pictures if args.prompts else (), i):
                    png.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(picture).save(png.parent / f"{j // args.n:04d}_{j % args.n}.png")
                if meta["kind"] == "toy" and len(every) <= 64:
                    for prompt, scene in zip(part, judge(pictures)):
                        print(f"  {prompt}: the judge sees {dense(scene) or 'nothing'}")
            sheet(shown, every[:len(shown)], png, columns=min(8, max(args.n, 4)))
        except (OSError, ValueError) as e:
            sys.exit(f"{png}: cannot be written ({e}); name another place with {'--folder' if args.prompts else '--png'}")
        print(f"{len(every)} pictures: {png}" + (f", which shows the first {len(shown)}" if len(shown) < len(every) else ""))
    if args.ask is not None:
        try:
            pixels = load(args.image, meta)[None]
            print(answer(model, enc, meta, tok.encode(pixels), [[(args.ask.strip(), "")]], pixels)[0])
        except ValueError as e:
            sys.exit(f"--image {args.image} --ask {args.ask[:60]!r}: {e}")
    if args.speed:
        speed(model, meta, enc, tok, config["train"]["task"])
    if args.score:
        data = load_dataset(config["train"]["data"]) if meta["kind"] == "real" else SimpleNamespace(meta=meta, enc=enc)
        file = Path(folder) / "scores.json"
        scores = json.loads(file.read_text()) if file.exists() else {}
        scores |= score(model, data, tok, config["train"]["task"], cfg=args.cfg, folder=Path(folder))
        save_json(file, scores)
        print(table(scores))
    if not (prompts or args.ask is not None or args.speed or args.score):
        try:
            converse(folder, model, meta, enc, tok, args.seed, how)
        except (EOFError, KeyboardInterrupt):
            print()
