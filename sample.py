"""
sample.py: a trained network draws and answers. Read it after aia.py; train.py comes last.

  1. one loop over tokens
  2. draw
  3. answer

    python sample.py OUT                                             # a conversation
    python sample.py OUT --prompt "a circle left of a square" --n 4  # draws
    python sample.py OUT --image picture.png --ask "how many circles are there?"

OUT is a run's folder (default: the latest). The command is in lab/play.py.
"""
import numpy as np
import torch
from tqdm import tqdm

from data import WATCHED, make_row, pad_left, special_id, window

# how pictures are sampled if nothing is said: what python -m lab.sampling found best
GUIDANCE = 1.5
TOP_P = .9

# ---------------------------------------------------------------------------------------------
# 1. one loop over tokens


@torch.no_grad()
def extend(model, starts, n, stand_in, choose, pixels=None, end=None, cached=True):
    """
    Continues rows by n tokens, chosen one by one -> ids (B, n); fewer once every row said `end`.

      starts    B rows of different lengths, each a pair of lists: ids, roles
      stand_in  an id of the kind that comes, a word's or an image token's: it holds the place of
                a token that is not chosen yet, so that all else about the place is known
      choose    choose(logits (B, V), k) -> (B,), the k-th token
      pixels    (P, S, S, 3) uint8: the pictures to understand in starts, for eyes that want them
      cached    keep the keys and values of what was read, or read all anew for each token
    """
    # The rows are laid out at full length once, with stand-ins for what is to come. Step k feeds
    # what is new, up to the place `at` that is chosen next. There are logits only where the next
    # token is a target, and no place before `at` is one any more: so there is one a row
    device = model.rotary.device
    ids, roles, pad = pad_left(starts, n, stand_in)
    longest = ids.shape[1] - n
    row = model.describe(ids, roles)
    pad = torch.tensor(pad, device=device)
    cache = model.new_cache(pad, longest + n)
    done = np.zeros(len(starts), bool)
    for k in range(n):
        at = longest + k
        row["is_target"][:, :at] = False
        if not cached:
            cache = model.new_cache(pad, longest + n)
        batch = window(row, cache.used, at, device)
        if pixels is not None and cache.used == 0:
            batch["pixels"] = pixels
        logits = model(batch, cache=cache).logits  # (B, V)
        cache.used = at

        token = choose(logits.float(), k).cpu().numpy()
        row["ids"][:, at] = token
        done |= token == end  # never, if there is no end
        if done.all():
            break
    return torch.from_numpy(row["ids"][:, longest:at + 1])


def legal(logits, config, drawing):
    """
    Logits (..., V) in which only what may come next is possible: image tokens when drawing, else
    text and <|end|>.
    """
    ids = torch.arange(logits.size(-1), device=logits.device)
    first = config.first_image
    if drawing:
        allowed = (ids >= first) & (ids < first + config.n_codes)
    else:
        is_text = ids < special_id("<|bos|>", first)  # the first special token
        allowed = is_text | (ids == special_id("<|end|>", first))
    return logits.masked_fill(~allowed, float("-inf"))


def pick(logits, u, temperature=1., top_k=0, top_p=1.):
    """
    A token for each row of logits (B, V), by a random number from 0 to 1 for each, u (B, 1).
    temperature 0: the likeliest. top_k: among the k likeliest alone. top_p: among the fewest whose
    probabilities reach p (Holtzman et al. 2020, arXiv 1904.09751).
    """
    if temperature == 0:
        return logits.argmax(-1)
    p, ids = (logits / temperature).softmax(-1).sort(descending=True)  # the likeliest first
    before = p.cumsum(-1) - p
    p = p.masked_fill(before >= top_p, 0.)
    if top_k:
        p[:, top_k:] = 0
    # where u falls among the probabilities, laid end to end
    total = p.cumsum(-1)
    place = torch.searchsorted(total, u * total[:, -1:], right=True)
    place = place.clamp(max=p.size(-1) - 1)
    return ids.gather(1, place).squeeze(1)


# ---------------------------------------------------------------------------------------------
# 2. draw


def draw(model, enc, prompts, cfg=GUIDANCE, temperature=1., top_k=0, top_p=TOP_P, seed=0, first=0,
         batch=64, cached=True, **by_hand):
    """
    Image codes (N, n_image) for N prompts.

    cfg: classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598) takes the logits without
    the prompt, <|null|> in place of each of its tokens, and moves from there cfg times the way to
    those with it. 1 is none, and costs half.

    Picture i is drawn by numbers from (seed, first + i) alone, whatever it is batched with. A hand
    other than tokens draws in its own way, see systems/: of what is said here it takes cfg and
    seed, and by_hand is for it alone.
    """
    c = model.config
    codes = []
    for i in tqdm(range(0, len(prompts), batch), "drawing", unit=f"x {batch} pictures",
                  disable=len(prompts) <= batch):
        # rows up to where their pictures begin
        starts = [make_row(enc, c.first_image, (), prompt) for prompt in prompts[i:i + batch]]
        n = len(starts)
        if cfg != 1:
            starts += [without_prompt(c, *start) for start in starts]
        seeds = [seed * 1_000_003 + first + j for j in range(i, i + n)]
        if c.draw != "tokens":
            codes.append(model.hand.draw(model, starts, seeds, cfg, **by_hand))
            continue
        u = torch.stack([random_numbers(s, c.n_image) for s in seeds]).to(model.rotary.device)

        def choose(logits, k):
            if cfg != 1:
                known, null = logits.chunk(2)
                logits = null + cfg * (known - null)
            token = pick(legal(logits, c, drawing=True), u[:, k:k + 1], temperature, top_k, top_p)
            return token.repeat(len(starts) // n)  # both halves go on alike

        ids = extend(model, starts, c.n_image, c.first_image, choose, cached=cached)
        codes.append(ids[:n] - c.first_image)
    return torch.cat(codes)


def without_prompt(config, ids, roles):
    null = special_id("<|null|>", config.first_image)
    hidden = [null if role & WATCHED else i for i, role in zip(ids, roles)]
    return hidden, roles


def random_numbers(seed, n):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------
# 3. answer

LONGEST = 40  # tokens of an answer


def answer(model, enc, codes, talks, pixels=None, batch=250, cached=True):
    """
    The answers to N dialogues, as texts, each token the likeliest. Raises ValueError if a dialogue
    asks nothing, or does not fit the context.

      codes   (N, n_image), the picture of each
      talks   N lists [(question, answer), ..., (question, "")]: the last answer is wanted
      pixels  (N, S, S, 3) uint8, the same pictures, for eyes that want them
    """
    c = model.config
    end = special_id("<|end|>", c.first_image)

    def likeliest(logits, k):
        return legal(logits, c, drawing=False).argmax(-1)

    texts = []
    for i in tqdm(range(0, len(talks), batch), "answering", unit=f"x {batch} questions",
                  disable=len(talks) <= batch):
        part = slice(i, i + batch)
        starts = [talk_row(model, enc, *row) for row in zip(codes[part], talks[part])]
        room = c.block_size - max(len(ids) for ids, _ in starts)
        if room < 1:
            raise ValueError(f"{1 - room} tokens too long; shorten it")
        seen = pictures_for(model, pixels, part)
        said = extend(model, starts, min(LONGEST, room), end, likeliest, seen, end, cached)
        for ids in said.tolist():
            if end in ids:
                ids = ids[:ids.index(end)]
            texts.append(enc.decode(ids).strip())
    return texts


def talk_row(model, enc, codes, talk):
    """Ids and roles of a dialogue up to where its last answer begins."""
    question, _ = talk[-1]
    if not question.strip():
        raise ValueError("the question is empty; ask something")
    ids, roles = make_row(enc, model.config.first_image, codes.tolist(), turns=talk)
    ids = np.array([ids[:-1]])  # the last token ends the answer, which is "" as yet
    roles = np.array([roles[:-1]])
    if model.eyes is not None:
        ids, roles = model.eyes.frame(ids, roles)
    return ids[0], roles[0]


def pictures_for(model, pixels, part):
    """These pictures on the network's device; None if its eyes are tokens."""
    if model.eyes is None:
        return None
    return torch.tensor(pixels[part], device=model.rotary.device)


def prefer(model, enc, codes, talks, offers, pixels=None):
    """
    For each of N dialogues, see answer(), which of two answers offered, a pair of texts, is the
    likelier by its first token: 0 or 1; 0 if they begin alike.
    """
    starts = [talk_row(model, enc, *row) for row in zip(codes, talks)]
    first = [[enc.encode_ordinary(text)[0] for text in offer] for offer in offers]
    first = torch.tensor(first, device=model.rotary.device)  # (N, 2)

    def the_likelier(logits, k):
        best = logits.gather(1, first).argmax(1, keepdim=True)
        return first.gather(1, best).squeeze(1)

    seen = pictures_for(model, pixels, slice(None))
    taken = extend(model, starts, 1, special_id("<|end|>", model.config.first_image), the_likelier,
                   seen)
    return (taken[:, 0] != first[:, 0].cpu()).int().tolist()


@torch.no_grad()
def answered(model, ids, roles, pixels, batch=250):
    """
    For each row of a data set, ids and roles (N, T + 1) and pixels, whether every target is the
    likeliest legal token: that is, whether answer() would say just that. (N,) bool
    """
    right = []
    for i in range(0, len(ids), batch):
        part = slice(i, i + batch)
        b = model.to_batch(ids[part], roles[part], pixels[part])
        logits = legal(model(b).logits, model.config, drawing=False)  # (n, V)
        is_wrong = logits.argmax(-1) != b["targets"][b["loss"]]
        wrong = torch.zeros_like(b["loss"]).masked_scatter(b["loss"], is_wrong)  # (B, T)
        right.append(~wrong.any(1).cpu())
    return torch.cat(right).numpy()


if __name__ == "__main__":
    from lab.play import main
    main()
