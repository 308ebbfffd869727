"""
sample.py: all that a trained network does: draw, answer, be scored. Read it after aia.py; train.py comes last.

    python sample.py OUT --prompt "a red circle left of a blue square" --n 4      # draws (default run: the latest under out/)
    python sample.py OUT --image picture.png --ask "how many circles are there?"  # answers
    python sample.py OUT --score                                                  # scores it, and says what could at best be reached
"""
import argparse, json, sys, textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from data import (HELD_OUT, KINDS, SPECIAL, TAGS, Help, caption, dense, encoding_of, judge, load_dataset, load_tokenizer, make_row, make_scenes, pack, questions,
                  read_picture, relations, render, same_scene, save_json, to_batch)
from model import latest_run, load_model


def legal(logits, meta, image):
    """Logits (..., V) with the other modality's ids, special ids but <|end|>, and the vocabulary's padding made impossible."""
    ids = torch.arange(logits.size(-1), device=logits.device)
    if image:
        return logits.masked_fill((ids < meta["first_image"]) | (ids >= meta["first_image"] + meta["n_codes"]), float("-inf"))
    n_text = 256 + len(meta["merges"])
    end = n_text + SPECIAL.index("<|end|>")
    return logits.masked_fill((ids >= n_text) & (ids != end), float("-inf"))


@torch.no_grad()
def draw(model, enc, meta, prompts, cfg=2., temperature=1., top_k=0, seed=0, batch=64, progress=False):
    """
    Codes (N, n_image) for N prompts. Classifier-free guidance: logits = without + cfg * (with - without), where `without` has seen
    <|null|> in place of every prompt token; both run as one doubled batch. Picture i is drawn with numbers from (seed, i) alone, so
    it does not depend on what it was batched with. temperature 0 takes the likeliest token.
    """
    device, sp, out = next(model.parameters()).device, enc._special_tokens, []
    for i in tqdm(range(0, len(prompts), batch), desc="drawing", unit=f"x {batch} pictures", disable=not progress):
        texts = [enc.encode_ordinary(p) for p in prompts[i:i + batch]]
        longest = max(map(len, texts))
        pad = torch.tensor([longest - len(t) for t in texts], device=device)
        start = lambda t, known: [sp["<|pad|>"]] * (longest - len(t)) + [sp["<|bos|>"], *(t if known else [sp["<|null|>"]] * len(t)), sp["<|boi|>"]]
        idx = torch.tensor([start(t, True) for t in texts] + [start(t, False) for t in texts] * (cfg != 1), device=device)
        pad = pad.repeat(len(idx) // len(texts))
        u = torch.stack([torch.rand(meta["n_image"], generator=torch.Generator().manual_seed(seed * 1_000_003 + i + j))
                         for j in range(len(texts))]).to(device)
        cache, codes = model.new_cache(pad, longest + 2 + meta["n_image"]), []
        for k in range(meta["n_image"]):
            logits = model(idx, cache=cache)[0][:, -1].float()  # (B or 2B, V)
            if cfg != 1:
                known, null = logits.chunk(2)
                logits = null + cfg * (known - null)
            logits = legal(logits, meta, image=True)
            if temperature == 0:
                token = logits.argmax(-1)
            else:
                logits = logits / temperature
                if top_k:
                    logits = logits.masked_fill(logits < logits.topk(min(top_k, logits.size(-1))).values[:, -1:], float("-inf"))
                total = logits.softmax(-1).cumsum(-1)  # draw by inverting the cumulative distribution at u
                token = torch.searchsorted(total, u[:, k:k + 1] * total[:, -1:]).squeeze(1).clamp(max=logits.size(-1) - 1)
            codes.append(token - meta["first_image"])
            idx = token.repeat(len(idx) // len(token))[:, None]
        out.append(torch.stack(codes, 1).cpu())
    return torch.cat(out)


@torch.no_grad()
def answer(model, enc, meta, codes, question, longest=40):
    """The answer (text) to a question about one picture's codes (n_image,), greedily."""
    ids, _ = make_row(enc, meta["first_image"], codes, turns=[(question, "")])
    idx = torch.tensor([ids[:-1]], device=next(model.parameters()).device)  # without the <|end|> of the empty answer
    room = model.config.block_size - idx.size(1)
    cache, said = model.new_cache(torch.zeros(1, dtype=torch.long, device=idx.device), model.config.block_size), []
    for _ in range(min(longest, room)):
        token = int(legal(model(idx, cache=cache)[0][0, -1], meta, image=False).argmax())
        if token == enc._special_tokens["<|end|>"]:
            break
        said.append(token)
        idx = torch.tensor([[token]], device=idx.device)
    return enc.decode(said).strip()


@torch.no_grad()
def answered(model, meta, ids, roles, batch=250):
    """Per row (N, T + 1), whether every target is the likeliest legal token: that is, whether greedy decoding would answer so."""
    out, device = [], next(model.parameters()).device
    for i in range(0, len(ids), batch):
        b = to_batch(ids[i:i + batch], roles[i:i + batch], device=device)
        wrong = legal(model(b["idx"], at=b["at"])[0], meta, image=False).argmax(-1) != b["targets"][b["at"]]
        miss = torch.zeros(b["idx"].shape, dtype=torch.bool, device=device).masked_scatter(b["at"], wrong)
        out.append(~miss.any(1).cpu().numpy())
    return np.concatenate(out)


def check(record, scene):
    """
    GenEval's rule for one picture: (whether the judged scene satisfies the record, the reason if not). Every `include` must
    be found; only an `exclude` forbids extras.
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


def exam(n, seed=2**31, held_out=False):
    """
    What a network of the toy world is scored on, from a seed that no data set uses: up to n (caption record, its scene) a tag, no prompt
    twice (if held_out, all about held-out pairs), and for 3 n scenes (scene, kind, question, answer) of all their questions.
    """
    rng, records, asked = np.random.default_rng([seed, held_out]), {t: {} for t in TAGS}, []
    scenes = make_scenes(60 * n, [seed, held_out, 1], held_out)
    for s in scenes:
        for tag in TAGS:
            if len(records[tag]) < n and (r := caption(s, rng, tag)):
                if not held_out or any(tuple((i.get("color"), i["class"])) in HELD_OUT for i in r["include"]):
                    records[tag].setdefault(r["prompt"], (r, s))
    for s in scenes[:3 * n]:
        asked += [(s, *q) for q in questions(s, rng, frozenset())]
    return [r for t in TAGS for r in records[t].values()], asked


def score(model, data, tok, task="both", n=60, cfg=2.):
    """
    Scores of a network, {name: {"run", "chance", "oracle", "ceiling"}}. For the toy world: `drawn TAG` is the share of prompts whose picture the
    judge accepts (up to n prompts a tag, `held-out` ones apart), `answered KIND` that of questions answered exactly (3 n scenes).
      chance    a random other scene of the world drawn for the prompt; the commonest answer to the kind
      oracle    the judge on the true pictures        ceiling    the judge on reconstructed ones
    Real pictures have no judge: there it is the share of held-out dialogues answered word for word.
    """
    meta, enc, out = data.meta, data.enc, {}
    if meta["kind"] == "real":
        if task != "generate":
            out["answered"] = {"run": float(answered(model, meta, *(np.array(x[:500]) for x in data.rows["val"]["understand"])).mean())}
        return out
    canvas = meta["canvas"]
    records, asked = exam(n)
    see = lambda scenes: np.stack([np.asarray(render(s, canvas)) for s in scenes])
    if task != "understand":
        todo = [(r["tag"], r, s) for r, s in records] + [("held-out", r, s) for r, s in exam(n, held_out=True)[0]]
        codes = draw(model, enc, meta, [r["prompt"] for _, r, _ in todo], cfg, progress=True)
        true = see([s for *_, s in todo])
        shown = {"run": judge(tok.decode(codes)), "oracle": judge(true), "ceiling": judge(tok.decode(tok.encode(true))),
                 "chance": [todo[j][2] for j in np.random.default_rng(0).permutation(len(todo))]}
        right = {k: np.array([check(r, s)[0] for (_, r, _), s in zip(todo, v)]) for k, v in shown.items()}
        for tag in TAGS + ("held-out",):
            at = [i for i, t in enumerate(todo) if t[0] == tag]
            out[f"drawn {tag}"] = {k: float(v[at].mean()) for k, v in right.items()}
        out["drawn"] = {k: float(np.mean([out[f"drawn {t}"][k] for t in TAGS])) for k in right}
    if task != "generate":
        true = see([s for s, *_ in asked])
        codes = tok.encode(true)
        rows = [make_row(enc, meta["first_image"], c, turns=[(q, a)]) for c, (_, _, q, a) in zip(codes.numpy(), asked)]
        right = answered(model, meta, *pack(rows, meta["block_size"] + 1, enc._special_tokens["<|pad|>"]))
        # whoever reads a scene exactly answers everything about it; every question of a scene shows the same picture, so one of them will do
        one = [i for i, x in enumerate(asked) if x[1] == "describe"]
        read = {k: float(np.mean([same_scene(asked[i][0], j) for i, j in zip(one, judge(p))]))
                for k, p in (("oracle", true[one]), ("ceiling", tok.decode(codes[one])))}
        for kind in KINDS:
            at = [i for i, (_, k, *_) in enumerate(asked) if k == kind]
            answers = [asked[i][3] for i in at]
            out[f"answered {kind}"] = {"run": float(right[at].mean()), "chance": max(map(answers.count, set(answers))) / len(at), **read}
        out["answered"] = {k: float(np.mean([out[f"answered {kind}"][k] for kind in KINDS])) for k in ("run", "chance", "oracle", "ceiling")}
    return out


def table(scores):
    """The scores as lines of text, the totals first; a dash where a column has no meaning."""
    cell = lambda v, k: f"{v[k]:>9.3f}" if k in v else f"{'-':>9}"
    rows = sorted(scores.items(), key=lambda r: (r[0] not in ("drawn", "answered"), r[0].split()[0] not in ("loss", "distance")))
    return "\n".join([f"{'':24}{'run':>9}{'chance':>9}{'oracle':>9}{'tokenizer ceiling':>20}"]
                     + [f"{name:24}{cell(v, 'run')}{cell(v, 'chance')}{cell(v, 'oracle')}{' ' * 11}{cell(v, 'ceiling')}" for name, v in rows])


def sheet(pictures, texts, path, columns=8, zoom=144):
    """A contact sheet: pictures (N, S, S, 3) enlarged, each with its text below."""
    font, line = ImageFont.load_default(13), 16
    wrapped = [textwrap.wrap(t, zoom // 7)[:4] for t in texts]
    high = zoom + 12 + line * max(map(len, wrapped))
    columns = min(columns, len(pictures))
    page = Image.new("RGB", (columns * (zoom + 12) + 12, -(-len(pictures) // columns) * high + 12), "white")
    pen = ImageDraw.Draw(page)
    for i, (picture, lines) in enumerate(zip(pictures, wrapped)):
        x, y = 12 + i % columns * (zoom + 12), 12 + i // columns * high
        page.paste(Image.fromarray(picture).resize((zoom, zoom), Image.NEAREST), (x, y))
        for j, text in enumerate(lines):
            pen.text((x + zoom // 2, y + zoom + 3 + j * line), text, (40, 40, 46), font, "ma")
    page.save(path)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description="Draw, answer, or score.", formatter_class=Help)
    p.add_argument("out", nargs="?", help="folder of the run (default: the latest under out/)")
    p.add_argument("--prompt", action="append", help="draw this; may be repeated")
    p.add_argument("--n", type=int, default=4, help="pictures a prompt")
    p.add_argument("--cfg", type=float, default=2., help="classifier-free guidance; 1 is none")
    p.add_argument("--temperature", type=float, default=1., help="0 takes the likeliest token")
    p.add_argument("--top_k", type=int, default=0, help="sample among the k likeliest tokens only; 0: all")
    p.add_argument("--seed", type=int, default=0, help="another seed, other pictures")
    p.add_argument("--png", default="grid.png", help="where the drawn pictures go")
    p.add_argument("--image", help="a picture to ask about")
    p.add_argument("--ask", help="the question about it")
    p.add_argument("--score", action="store_true", help="score the run as train.py does, into its scores.json")
    args = p.parse_args()
    folder = args.out or latest_run()
    if not (args.prompt or args.image or args.ask or args.score):
        sys.exit(f'{folder}: what shall it do? --prompt "..." draws, --image FILE --ask "..." answers, --score scores')
    if bool(args.image) != bool(args.ask):
        sys.exit("--image and --ask go together: a picture, and a question about it")
    if args.n < 1 or args.temperature < 0 or args.top_k < 0:
        sys.exit(f"--n {args.n} --temperature {args.temperature} --top_k {args.top_k}: wanted is n of at least 1, the others not negative")
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    model, config = load_model(folder, device)
    meta, tok = config["data"], load_tokenizer(Path(folder) / "tokenizer.pt", device)
    enc = encoding_of(meta)
    if args.prompt:
        for prompt in args.prompt:
            long = len(enc.encode_ordinary(prompt)) + 2 + meta["n_image"] - model.config.block_size
            if not prompt.strip() or long > 1:
                sys.exit(f"--prompt {prompt[:60]!r}: " + (f"{long - 1} tokens too long; shorten it" if prompt.strip() else "is empty; say what to draw"))
        prompts = [x for x in args.prompt for _ in range(args.n)]
        codes = draw(model, enc, meta, prompts, args.cfg, args.temperature, args.top_k, args.seed, progress=len(prompts) > 64)
        pictures = tok.decode(codes)
        try:
            sheet(pictures, prompts, args.png, columns=min(8, max(args.n, 4)))
        except (OSError, ValueError) as e:
            sys.exit(f"--png {args.png}: cannot be written ({e})")
        print(f"{len(pictures)} pictures: {args.png}")
        if meta["kind"] == "toy":
            for prompt, scene in zip(prompts, judge(pictures)):
                print(f"  {prompt}: the judge sees {dense(scene) or 'nothing'}")
    if args.ask:
        try:
            picture = read_picture(args.image, meta["canvas"])
        except ValueError as e:
            sys.exit(f"--image {args.image}: {e}")
        long = len(enc.encode_ordinary(args.ask)) + 5 + meta["n_image"] - model.config.block_size
        if not args.ask.strip() or long > 0:
            sys.exit(f"--ask {args.ask[:60]!r}: " + (f"{long} tokens too long; shorten it" if args.ask.strip() else "is empty; ask something"))
        print(answer(model, enc, meta, tok.encode(picture[None])[0].numpy(), args.ask))
    if args.score:
        data = load_dataset(config["train"]["data"]) if meta["kind"] == "real" else SimpleNamespace(meta=meta, enc=enc)
        scores = score(model, data, tok, config["train"]["task"], config["train"]["exam"], args.cfg)
        file = Path(folder) / "scores.json"
        old = json.loads(file.read_text()) if file.exists() else {}
        save_json(file, old | scores)
        print(table(old | scores))
