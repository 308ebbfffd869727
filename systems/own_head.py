"""
systems/own_head.py: a hand of its own (Janus-Pro: Chen et al. 2025, arXiv 2501.17811; UTAMoE: Zhang
et al. 2025, arXiv 2506.03591).

What is drawn comes in through an MLP behind the embedding, and goes out through another before the
head. The loss is the cross-entropy of the next token, as everywhere, but over image tokens alone:
this head cannot say a word. One samples token by token, as with the hand that is tokens.
"""
import torch.nn as nn
import torch.nn.functional as F


class OwnHead(nn.Module):
    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.first = config.first_image
        self.last = config.first_image + config.n_codes
        self.after = config.vocab_size - self.last
        self.embedding = nn.Sequential(nn.Linear(C, C), nn.GELU(), nn.Linear(C, C))
        self.head = nn.Linear(C, C)

    def embed(self, x, batch):
        """x (..., C), embedded tokens -> (..., C), as the trunk takes them when drawing"""
        return self.embedding(x)

    def logits(self, x, head):
        """x (n, C); head (V, C), the shared one -> (n, V), -inf for all but image tokens"""
        x = F.gelu(self.head(x))
        picture = F.linear(x, head[self.first:self.last])
        return F.pad(picture, (self.first, self.after), value=float("-inf"))
