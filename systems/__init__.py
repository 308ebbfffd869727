"""
systems: what the published systems have in place of tokens. README.md tells where each stands.

  patches.py    eyes: two convolutions on pixels (EVEv2)
  encoder.py    eyes: an encoder of pixels with an adapter (Janus-Pro, BAGEL, UTAMoE)
  siglip.py     from which that encoder has its first weights
  own_head.py   hand: an embedding and a head of its own for what is drawn (Janus-Pro, UTAMoE)
  flow.py       hand: out of noise (Transfusion, LMFusion, BAGEL)
  features.py   hand: features of an encoder (MetaMorph); painter.py makes pixels of them
  queries.py    hand: asks a network that stays as it is (MetaQuery)
  semantic.py   image tokens that stand for features (ILLUME)
  losses.py     what a network is off in each row

  dial.py       a preset, turned by flags; what it costs
  interleave.py rows that stand behind other rows, so that their place does not tell the task
  start.py      one system's weights as the beginning of another; stages
  runs.py       the folders of runs

A pair of eyes is called with pixels (B, S, S, 3) uint8 and returns vectors (B, n_image, C); its
frame(ids, roles) may put markers between a row's image tokens. A hand has embed(x, batch), for the
tokens of what is drawn; then logits(x, head), or if it does not draw token by token
prepare(), say(), off() and draw(), see systems/flow.py.
"""
import torch.nn as nn

from model import Transformer
from systems.encoder import Encoder
from systems.features import Features
from systems.flow import Flow
from systems.own_head import OwnHead
from systems.patches import Patches
from systems.queries import Queries


def build(config):
    """A Transformer with the eyes and the hand that its config asks for, and first weights."""
    model = Transformer(config)
    if config.see == "patches":
        model.eyes = Patches(config)
    if config.see == "encoder":
        model.eyes = Encoder(config)
    if config.own_head:
        model.hand = OwnHead(config)
    if config.draw == "flow":
        model.hand = Flow(config)
    if config.draw == "features":
        model.hand = Features(config, model.eyes)
        model.frozen = ("eyes.encoder.", "hand.frozen.")
    if config.draw == "queries":
        model.hand = Queries(config)
    init_weights(model)
    return model


def init_weights(model):
    """What writes into the residual stream starts silent, and the logits nearly so."""
    for name, p in model.named_parameters():
        if p.dim() != 2:
            continue  # gains are one, biases as torch makes them
        std = p.size(1) ** -.5
        if ".proj." in name or ".down." in name:
            std = 0.
        elif name.startswith("head."):
            std = .002
        nn.init.normal_(p, std=std)
