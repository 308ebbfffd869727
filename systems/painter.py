"""
systems/painter.py: how the painter was trained, which makes pixels of an encoder's features
(systems/features.py, systems/semantic.py).

    python -m systems.painter    # makes assets/painter.pt, and says what it is worth

Its papers have a diffusion model for it; in this world a few convolutions do.
"""
import torch
from tqdm import tqdm

from data import load_tokenizer
from systems.encoder import PATCH, SIDE, VisionTransformer, load_encoder
from systems.features import FILE, Painter
from tools.device import find_device, keep_freed_memory
from tools.files import save_state
from tools.flags import Parser, refuse_beyond, speak_plainly
from toy.judge import judge, same_scene
from toy.tokenizer import ScenePictures, tokenizer_path
from toy.world import make_scenes

SEED = 4  # beside the user's: of scenes that are no data set's


def train_painter(painter, encoder, steps, seed, device, lr=2e-3):
    """
    To make of an encoder's features the pixels that they are of: by L1 plus L2, and, as paintings
    become tokens in the end, by how far their digits are off those of the picture.
    """
    tok = load_tokenizer(tokenizer_path(SIDE * PATCH), device).requires_grad_(False)
    pictures = ScenePictures(make_scenes(50_000, [seed, SEED]), SIDE * PATCH, speckled=False)
    opt = torch.optim.AdamW(painter.parameters(), lr, betas=(.9, .98), weight_decay=1e-4)
    bar = tqdm(range(steps), desc="painter")
    for step in bar:
        opt.param_groups[0]["lr"] = lr * min(1, (step + 1) / 100, (steps - step) / steps * 1.5)
        numbers = torch.randint(len(pictures), (32,), generator=torch.Generator().manual_seed(step))
        pixels = torch.from_numpy(pictures[numbers.numpy()]).to(device)
        wanted = pixels.permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            features = encoder(pixels)
        painted = painter(features)
        off = painted - wanted
        off_digits = tok.encode_digits(painted) - tok.encode_digits(wanted)
        loss = off.abs().mean() + off.square().mean() + .03 * off_digits.abs().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")


@torch.no_grad()
def share_read_back(painted, seed, n=1000):
    """
    The share of n new scenes that the judge reads as they are from what becomes of their pictures:
    painted(pixels), (N, S, S, 3) uint8 both.
    """
    scenes = make_scenes(n, [seed, SEED, 1])
    pixels = ScenePictures(scenes, SIDE * PATCH, speckled=False)[torch.arange(n).numpy()]
    return sum(map(same_scene, scenes, judge(painted(pixels)))) / n


def main():
    p = Parser(prog="python -m systems.painter",
               description="Trains the painter, which makes pixels of an encoder's features.")
    p.add_argument("--steps", type=int, default=2000, help="of the optimiser")
    p.add_argument("--seed", type=int, default=0, help="everything follows from it")
    p.add_argument("--device", help="cpu | cuda | mps (default: what is there)")
    speak_plainly()
    args = p.parse_args()
    refuse_beyond(args, "steps", 1, 10**8)
    refuse_beyond(args, "seed", 0, 2**31 - 1)
    keep_freed_memory()
    device = find_device(args.device)
    encoder = VisionTransformer().to(device)
    load_encoder(encoder)
    torch.manual_seed(args.seed)
    painter = Painter().to(device)
    train_painter(painter, encoder, args.steps, args.seed, device)
    tok = load_tokenizer(tokenizer_path(SIDE * PATCH), device)

    @torch.no_grad()
    def painted(pixels):
        """As they are drawn: painted, and put into tokens"""
        painting = painter(encoder(torch.from_numpy(pixels).to(device)))
        digits = tok.encode_digits(painting.clamp(-1, 1)).round().long()
        return tok.decode((digits * tok.worth).sum(-1).flatten(1).cpu())

    share = share_read_back(painted, args.seed)
    save_state(FILE, {name: weight.half() for name, weight in painter.state_dict().items()})
    print(f"{FILE}: of 1,000 new scenes the judge reads {share:.1%} from their paintings' tokens")


if __name__ == "__main__":
    main()
