"""
systems: what the published systems have in place of tokens. README.md tells where each stands.

  patches.py    eyes: two convolutions on pixels (EVEv2)
  encoder.py    eyes: an encoder of pixels with an adapter (Janus-Pro, BAGEL, UTAMoE)
  own_head.py   hand: an embedding and a head of its own for what is drawn (Janus-Pro, UTAMoE)

  dial.py       a preset, turned by flags; what it costs
  interleave.py rows that stand behind other rows, so that their place does not tell the task
  start.py      one system's weights as the beginning of another; stages
  runs.py       the folders of runs

A pair of eyes is called with pixels (B, S, S, 3) uint8 and returns vectors (B, n_image, C); its
frame(ids, roles) may put markers between a row's image tokens. A hand has embed(x), for the tokens
of what is drawn, and logits(x, head).
"""
from model import Transformer
from systems.encoder import Encoder
from systems.own_head import OwnHead
from systems.patches import Patches


def build(config):
    """A Transformer with the eyes and the hand that its config asks for, and first weights."""
    model = Transformer(config)
    if config.see == "patches":
        model.eyes = Patches(config)
    if config.see == "encoder":
        model.eyes = Encoder(config)
    if config.own_head:
        model.hand = OwnHead(config)
    model.init_weights()
    return model
