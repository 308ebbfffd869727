"""
systems/interleave.py: rows that stand behind other rows (--interleave).

In a row the place tells the task: what begins with words is to be drawn, what begins with a picture
is asked about. Behind another row it does not. With --no-cues, which takes the differences of the
special tokens away, nothing but what is said tells the task: the paper's open question.
"""
import numpy as np

SHARE = .5  # of the rows stand behind another; the others begin, as the rows of an exam do


def pick_others(rng, n, n_train):
    """What n rows stand behind: for each a row of either task, (task, number), or None."""
    tasks = list(n_train)
    others = []
    for _ in range(n):
        task = tasks[rng.integers(len(tasks))]
        number = rng.integers(n_train[task])
        others.append((task, number) if rng.random() < SHARE else None)
    return others


def put_behind(ids, roles, others, rows, pad):
    """
    Rows of a task, ids and roles (B, T), as they stand behind others, see pick_others(), of
    rows {task: arrays}: (B, T'). What stands before has no roles: it is read, and no more.
    """
    joined = []
    for row, role, other in zip(ids, roles, others, strict=True):
        length = (row != pad).sum()  # rows are padded on the right
        row, role = row[:length], role[:length]
        if other:
            task, number = other
            before = rows[task][0][number]
            before = before[before != pad]
            row = np.concatenate((before, row[1:]))  # there is one <|bos|>
            role = np.concatenate((np.zeros_like(role, shape=len(before)), role[1:]))
        joined.append((row, role))
    longest = max(len(row) for row, _ in joined)
    ids = np.full((len(joined), longest), pad)
    roles = np.zeros_like(ids)
    for i, (row, role) in enumerate(joined):
        ids[i, :len(row)] = row
        roles[i, :len(role)] = role
    return ids, roles
