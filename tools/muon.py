"""
tools/muon.py: Muon, the optimiser of the blocks' matrices.
"""
import torch

from tools.device import has_bfloat16
from tools.processes import in_shards, on_each_process

# of the quintic a x + b x^3 + c x^5 in newton_schulz(), Jordan's
A = 3.4445
B = -4.7750
C = 2.0315


class Muon(torch.optim.Muon):
    """
    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum whose singular
    values are driven to about 1, so that a matrix learns alike in all its directions.

    The step is torch.optim.Muon's, but faster: matrices of one shape take it as one batch, and
    where torch knows of no instructions for products in bfloat16, it is in float32 (where it does,
    on a CPU, the step is the same bit for bit). They may be DTensors, in shards: then each process
    takes the step of whole matrices, and keeps its part.
    """

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for matrices in by_shape(group["params"]):
                self.step_together(matrices, group)

    def step_together(self, matrices, group):
        """The step of matrices that all have one shape (rows, cols)."""
        gradients = [p.grad for p in matrices]
        momenta = [self.momentum_of(p) for p in matrices]
        aims = look_ahead(gradients, momenta, group["momentum"])  # (N, rows, cols)
        directions = newton_schulz(on_each_process(aims))
        directions = [in_shards(d, p) for d, p in zip(directions.unbind(), matrices)]
        move(matrices, directions, group["lr"], group["weight_decay"])

    def momentum_of(self, p):
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        return state["momentum"]


def by_shape(parameters):
    """Lists of parameters of one shape each; what has no gradient does not train."""
    groups = {}
    for p in parameters:
        if p.grad is not None:
            groups.setdefault(p.shape, []).append(p)
    return groups.values()


def look_ahead(gradients, momenta, beta):
    """
    Nesterov's momentum: momenta, moving averages of the gradients, move on; and where they would
    be after the same gradients once more is what is stepped along. (N, rows, cols)
    """
    dtype = torch.bfloat16 if has_bfloat16(momenta[0].device.type) else torch.float32
    torch._foreach_lerp_(momenta, gradients, 1 - beta)
    ahead = [g.lerp(m, beta).to(dtype) for g, m in zip(gradients, momenta)]
    return torch.stack(ahead)


def newton_schulz(x, steps=5):
    """
    Matrices x (N, rows, cols) with their singular values s driven to about 1; their singular
    vectors stay. Each step makes of every s the value A s + B s^3 + C s^5. That grows fast from
    near 0 and then stays between 0.5 and 1.5, about.
    """
    is_tall = x.size(1) > x.size(2)
    if is_tall:
        x = x.mT  # lies down meanwhile: then x x' is the smaller of the two products
    lengths = torch.stack(torch._foreach_norm(x.unbind()))  # (N,)
    x = x / lengths.clamp(min=1e-7)[:, None, None]  # no singular value is above 1 now
    for _ in range(steps):
        square = x @ x.mT  # (N, rows, rows)
        factor = torch.baddbmm(square, square, square, beta=B, alpha=C)
        x = torch.baddbmm(x, factor, x, beta=A)
    return x.mT if is_tall else x


def move(matrices, directions, lr, weight_decay):
    """Weights decay a little, and move by lr along their directions; tall ones move more."""
    rows, cols = matrices[0].shape
    stretch = max(1, rows / cols) ** .5
    torch._foreach_mul_(matrices, 1 - lr * weight_decay)
    torch._foreach_add_(matrices, directions, alpha=-lr * stretch)


def optimizers(model, lr, weight_decay=.01, shares=None):
    """
    Those of a Transformer: Muon for the matrices between the ends, which alone decay; AdamW for
    embeddings, heads, routers and gains, at 0.4 of its learning rate. shares: {name of a weight
    that has but a share of the learning rate: the share}, which its group says.
    """
    shares = shares or {}
    groups = {}  # {(is a matrix, share): weights}
    for name, p in model.named_parameters():
        is_between = name.startswith(("blocks.", "eyes.", "hand.", "towers."))
        is_table = "router" in name or "place" in name or "word" in name
        is_matrix = p.dim() == 2 and is_between and not is_table
        groups.setdefault((is_matrix, shares.get(name, 1.)), []).append(p)
    matrices = []
    rest = []
    for (is_matrix, share), weights in groups.items():
        group = {"params": weights, "share": share}
        if is_matrix:
            matrices.append(group)
        else:
            rest.append(group)
    adamw = torch.optim.AdamW(rest, lr=lr * .4, betas=(.9, .95), weight_decay=0., fused=True)
    return [Muon(matrices, lr, weight_decay=weight_decay), adamw]
