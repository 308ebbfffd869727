"""
tools/balance.py: steps in which both tasks pull equally hard (train.py --balance).

The gradients of the two tasks differ in norm, and the larger decides where a step goes: on
Janus-Pro one is 11 to 14 times the other (arXiv 2603.17044). So each task's gradient is set aside
after its backward pass, and all are put back with the same norm, the mean of theirs. So --ratio
says no more than how many rows of a task are seen, and what AIA and routers add to a task's loss
is part of its pull. The norm is over all weights that the task uses.
"""
import torch


def set_aside(model, pull):
    """Adds what the backward pass left to a task's {parameter: gradient}, and takes it away."""
    for p in model.parameters():
        if p.grad is None:
            continue
        pull[p] = pull[p] + p.grad if p in pull else p.grad
        p.grad = None


def put_back(pulls):
    """The tasks' {parameter: gradient}, each scaled to the mean of their norms, as gradients."""
    if not pulls:
        return
    norms = [torch.linalg.vector_norm(torch.stack([g.norm() for g in pull.values()]))
             for pull in pulls]
    wanted = sum(norms) / len(norms)
    for pull, norm in zip(pulls, norms):
        for p, gradient in pull.items():
            scaled = gradient * (wanted / norm.clamp(min=1e-12))
            p.grad = scaled if p.grad is None else p.grad + scaled
