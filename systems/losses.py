"""
systems/losses.py: what a network is off in each row: the mean over the row's words, or image tokens
that it foretells, and over what another hand draws. So a picture and an answer weigh the same.
"""
import torch.nn.functional as F


def row_losses(output, batch):
    """
    (B,), of a model's Output for a batch: the cross-entropy of next tokens (nats), and what a hand
    that is not tokens says itself, see systems/flow.py.
    """
    predicts = batch["loss"]  # (B, T)
    targets = batch["targets"][predicts]
    nll = F.cross_entropy(output.logits.float(), targets, reduction="none")
    losses = mean_of_rows(nll, predicts)
    return losses if output.off is None else losses + output.off


def mean_of_rows(values, places):
    """Values that stand in these places (B, T) -> their mean in each row (B,), 0 without any"""
    spread = values.new_zeros(places.shape).masked_scatter(places, values)
    return spread.sum(1) / places.sum(1).clamp(min=1)
