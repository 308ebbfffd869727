"""
systems/interleave.py: rows that stand behind other rows (--interleave).

In a row the place tells the task: what begins with words is to be drawn, what begins with a picture
is asked about. Behind another row it does not. With --no-cues, which takes the differences of the
special tokens away, all that tells the task is what is said: the paper's open question. (But for
<|null|>, which stands for the prompt of one picture in ten.)
"""
import numpy as np

SHARE = .5  # of the rows to train on stand behind another; an exam's rows do not


def pick_others(rng, n, n_rows, share=SHARE):
    """
    What n rows stand behind: for a share of them a row of either task, (task, number), else None.
    n_rows: {task: how many there are}.
    """
    tasks = list(n_rows)
    others = []
    for _ in range(n):
        task = tasks[rng.integers(len(tasks))]
        number = rng.integers(n_rows[task])
        others.append((task, number) if rng.random() < share else None)
    return others


def all_behind(rows, pad, seed=0):
    """The rows of a split, {task: arrays}, all behind another."""
    n_rows = {task: len(arrays[0]) for task, arrays in rows.items()}
    behind = {}
    for task, (ids, roles, *pixels) in rows.items():
        others = pick_others(np.random.default_rng(seed), len(ids), n_rows, share=1)
        behind[task] = (*put_behind(ids, roles, others, rows, pad), *pixels)
    return behind


def put_behind(ids, roles, others, rows, pad):
    """
    Rows of a task, ids and roles (B, T), as they stand behind others, see pick_others(), of
    rows {task: arrays}: (B, T'). What stands before has no roles: it is read, and no more.
    """
    joined = []
    for row, role, other in zip(ids, roles, others, strict=True):
        is_said = row != pad
        row, role = row[is_said], role[is_said]
        if other:
            task, number = other
            before = rows[task][0][number]
            before = before[before != pad]
            row = np.concatenate((before, row[1:]))  # there is one <|bos|>
            role = np.concatenate((np.zeros_like(before, role.dtype), role[1:]))
        joined.append((row, role))
    widest = 2 * max(arrays[0].shape[1] for arrays in rows.values())
    return padded(joined, widest, pad)


def padded(joined, widest, pad):
    """
    Rows [(ids, roles)] -> ids, roles (B, T). Layers are compiled for each width, so there are few:
    multiples of 32, and the widest.
    """
    longest = max(len(row) for row, _ in joined)
    width = min(32 * -(-longest // 32), widest)
    ids = np.full((len(joined), width), pad)
    roles = np.zeros_like(ids)
    for i, (row, role) in enumerate(joined):
        ids[i, :len(row)] = row
        roles[i, :len(role)] = role
    return ids, roles
