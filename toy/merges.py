"""
toy/merges.py: learning a data set's text tokens, once. data.encoding_of() makes a tokenizer of
them. Stands on data.py.
"""
import re
from collections import Counter

from data import PATTERN


def learn_merges(texts, n_text):
    """
    Byte pair encoding (Sennrich et al. 2016, arXiv 1508.07909): again and again, the most frequent
    pair of neighbouring tokens becomes a token of its own, until there are n_text. The first 256
    are the bytes, so any text can be spelled. Returns the others, as Latin-1 text.
    """
    words = Counter()
    for text in texts:
        words.update(re.findall(PATTERN, text))
    spelling = {word: tuple(word.encode()) for word in words}  # as token ids: bytes, at first
    tokens = [bytes([b]) for b in range(256)]
    while len(tokens) < n_text:
        pairs = Counter()
        for word, n in words.items():
            ids = spelling[word]
            for pair in zip(ids, ids[1:]):
                pairs[pair] += n
        if not pairs:  # every word is one token
            break
        # ties go by the bytes, so that the same texts give the same merges anywhere
        best = max(pairs, key=lambda pair: (pairs[pair], tokens[pair[0]], tokens[pair[1]]))
        for word, ids in spelling.items():
            spelling[word] = merge(ids, best, len(tokens))
        tokens.append(tokens[best[0]] + tokens[best[1]])
    return [token.decode("latin-1") for token in tokens[256:]]


def merge(ids, pair, new):
    """ids with `new` in the place of each occurrence of the pair, from the left"""
    merged = []
    i = 0
    while i < len(ids):
        if ids[i:i + 2] == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return tuple(merged)
