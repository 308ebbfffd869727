"""
systems/queries.py: a hand that asks a network which stays as it is, as MetaQuery (Pan et al. 2025,
arXiv 2504.06256) does. Read systems/flow.py first.

Behind the prompt, in the first places of the picture, stand learned queries. What the trunk makes
of them goes through a connector, blocks in which each sees all others, to a decoder, which draws by
flow: it has the connector's vectors and the noised latents side by side. Only queries, connector
and decoder train, so the network answers as before, to the bit.

What comes in: the queries. What goes out: the vectors that the trunk ends with, of which the
decoder makes the v of flow.py, with its loss. (The paper's decoder has them by cross-attention.)
To draw, the trunk is asked once; the decoder alone takes the steps from noise to a picture.

  --queries N       how many; at most as many as a picture has tokens
  --connector       enc-proj: its blocks, then an MLP; proj-enc: the other way round (the paper's
                    MLP changes the width, from the network's to the decoder's; here they are equal)
  --condition last  not the queries' vectors, but those that the trunk ends with before the picture
"""
import torch
import torch.nn as nn

from data import pad_left, window
from model import Block, Config, Layout, RMSNorm
from systems.flow import STEPS, Flow, waves

CONNECTOR_LAYERS = 2
DECODER_LAYERS = 3


class Together(nn.Module):
    """x (B, n, C) -> (B, n, C): blocks in which each vector sees all that are there (B, n)"""

    def __init__(self, config, n_layer):
        super().__init__()
        plain = Config(n_layer, config.n_head, config.n_embd)
        self.blocks = nn.ModuleList(Block(plain) for _ in range(n_layer))

    def forward(self, x, there):
        B, n, C = x.shape
        itself = torch.eye(n, dtype=torch.bool, device=x.device)  # a softmax over nothing is nan
        layout = Layout(B, n, mask=there[:, None, None] | itself)  # (B, 1, n, n)
        x = x.flatten(0, 1)
        for block in self.blocks:
            x, _, _ = block(x, layout)
        return x.view(B, n, C)


class Queries(nn.Module):
    def __init__(self, config):
        super().__init__()
        C = config.n_embd
        self.config = config
        self.query_places = nn.Embedding(config.queries, C)
        self.connector = Together(config, CONNECTOR_LAYERS)
        self.mlp = nn.Sequential(nn.Linear(C, C), nn.GELU(), nn.Linear(C, C), RMSNorm(C))
        self.latent_places = nn.Embedding(config.n_image, C)
        self.decoder = Together(config, DECODER_LAYERS)
        self.flow = Flow(config)  # by it noised latents come in, and v goes out

    def prepare(self, batch, seeds=None):
        """
        A batch of rows that each draw one picture, with its latents noised, see Flow.noised(), and
        the places whose vectors go to the decoder ("draws"). The queries are watching.
        """
        if not batch["n_generated"]:
            return batch
        c = self.config
        codes = batch["ids"][batch["generated"]].view(-1, c.n_image)
        is_query = batch["generated"] & (batch["place"] < c.queries)
        before_picture = batch["generated"].cumsum(1) == 0
        drawn_next = batch["next_generated"]
        draws = is_query if c.condition == "queries" else before_picture
        return batch | self.flow.noised(self.flow.latents(codes), seeds) | {
            "draws": draws,
            "watching": (batch["watching"] & ~drawn_next) | (is_query & draws),
            "loss": batch["loss"] & ~drawn_next,
            "loss_sizes": [batch["loss_sizes"][0], 0]}

    def embed(self, x, batch):
        """(B, T, C), whatever x was; places of a picture behind the queries have the last one's"""
        return self.query_places(batch["place"].clamp(max=self.config.queries - 1))

    def say(self, x, batch):
        """The trunk's x (B, T, C) -> what the decoder is told (B, n, C), what is there (B, n)"""
        there = batch["draws"]
        if self.config.condition == "queries":  # as many in each row
            x = x[there].view(len(x), -1, x.size(-1))
            there = torch.ones_like(x[..., 0], dtype=torch.bool)
        if self.config.connector == "enc-proj":
            return self.mlp(self.connector(x, there)), there
        return self.connector(self.mlp(x), there), there

    def decode(self, told, there, noised, time):
        """told (B, n, C), there (B, n), latents noised at a time, see flow.py -> (B, n_image, D)"""
        x = self.flow.into(noised) + self.flow.time(waves(time)) + self.latent_places.weight
        is_there = torch.ones_like(noised[..., 0], dtype=torch.bool)
        x = self.decoder(torch.cat((told, x), 1), torch.cat((there, is_there), 1))
        x = x[:, told.size(1):]
        return self.flow.proj(self.flow.norm(x)).float()

    def off(self, said, batch):
        """(B,), the mean of the squared error over a row's latents"""
        v = self.decode(*said, batch["noised"], batch["time"])
        return (v - batch["wanted"]).square().mean((1, 2))

    @torch.no_grad()
    def draw(self, model, starts, seeds, cfg=1., steps=STEPS, heun=False):
        """Codes (n, n_image) of n pictures, see Flow.draw()"""
        c = self.config
        device = model.rotary.device
        ids, roles, pad = pad_left(starts, c.n_image + 1, c.first_image)
        first = ids.shape[1] - c.n_image - 1
        row = model.describe(ids, roles)
        row["is_target"][:] = False  # no next token is asked for
        pad = torch.tensor(pad, device=device)
        batch = window(row, 0, first + c.n_image, device)
        draws = batch["generated"] & (batch["place"] < c.queries)
        if c.condition == "last":
            place = torch.arange(draws.size(1), device=device)
            draws = (place >= pad[:, None]) & (place < first)
        cache = model.new_cache(pad, first + c.n_image)  # it knows what is padding
        told, there = model(batch | {"draws": draws}, cache=cache).drawn

        def say(noised, time):
            return self.decode(told, there, noised, time)

        return self.flow.denoise(say, len(starts), seeds, device, cfg, steps, heun)
