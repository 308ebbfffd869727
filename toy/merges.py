"""
toy/merges.py: learning a data set's text tokens, once. data.encoding_of() makes a tokenizer of
them. Stands on data.py.
"""
import heapq
import re
from collections import Counter, defaultdict

from tqdm import tqdm

from data import PATTERN


def learn_merges(texts, n_text):
    """
    Byte pair encoding (Sennrich et al. 2016, arXiv 1508.07909): again and again, the most frequent
    pair of neighbouring tokens becomes a token of its own, until there are n_text. The first 256
    are the bytes, so any text can be spelled. Returns the others, as Latin-1 text.

    Ties go by the bytes, so that the same texts give the same merges anywhere. After a merge only
    the words with that pair are spelled and counted anew.
    """
    words = Counter()
    for text in texts:
        words.update(re.findall(PATTERN, text))
    spelling = {word: tuple(word.encode()) for word in words}  # as token ids: bytes, at first
    tokens = [bytes([b]) for b in range(256)]
    counts = Counter()           # how often a pair of neighbours occurs
    places = defaultdict(set)    # in which words it does, or did
    for word, n in words.items():
        count_pairs(spelling[word], n, word, counts, places)
    heap = [entry(pair, n, tokens) for pair, n in counts.items()]
    heapq.heapify(heap)

    bar = tqdm(total=n_text - 256, desc="learning words", leave=False)
    while len(tokens) < n_text:
        best = most_frequent(heap, counts)
        if best is None:  # every word is one token
            break
        new = len(tokens)
        tokens.append(tokens[best[0]] + tokens[best[1]])
        change = Counter()  # by how much pairs occur more or less often now
        for word in places.pop(best):
            count_pairs(spelling[word], -words[word], word, change, places)
            spelling[word] = merge(spelling[word], best, new)
            count_pairs(spelling[word], words[word], word, change, places)
        for pair, n in change.items():
            counts[pair] += n
            if n != 0 and counts[pair] > 0:
                heapq.heappush(heap, entry(pair, counts[pair], tokens))
        bar.update()
    bar.close()
    return [token.decode("latin-1") for token in tokens[256:]]


def count_pairs(ids, n, word, counts, places):
    """Adds n to the count of each pair of neighbours in a word."""
    for pair in zip(ids, ids[1:]):
        counts[pair] += n
        places[pair].add(word)


def entry(pair, n, tokens):
    """
    A pair in a heap, whose smallest entry comes first: the most frequent pair, of equally frequent
    ones that with the largest bytes. The 1 in the end makes "ab" smaller than "a" is.
    """
    first, second = [(*[-b for b in tokens[i]], 1) for i in pair]
    return -n, first, second, pair


def most_frequent(heap, counts):
    """The most frequent pair; None if there is none. Entries whose count is out of date go."""
    while heap:
        negative, _, _, pair = heapq.heappop(heap)
        if counts[pair] == -negative and -negative > 0:
            return pair
    return None


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
