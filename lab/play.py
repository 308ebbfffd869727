"""
lab/play.py: the command `python sample.py`. It draws prompts, answers a question about a picture,
or opens a conversation (lab/conversation.py).
"""
import os
import sys
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from data import encoding_of, load_tokenizer
from lab.conversation import check_prompt, converse, load_picture
from lab.speed import speed
from sample import GUIDANCE, TOP_P, answer, draw
from systems.flow import STEPS
from systems.runs import latest_run, load_model
from tools.device import find_device
from tools.faults import expect_faults
from tools.files import refuse_unwritable
from tools.flags import Parser, printable, speak_plainly, text
from tools.sheet import refuse_no_picture, sheet
from toy.judge import judge
from toy.words import dense

MOST = 1_000_000  # pictures of a prompt


def read_flags():
    """The flags. What is wrong with them is said before a network is loaded."""
    p = Parser(description="Draw or answer. Without --prompt and --ask: a conversation.")
    add = p.add_argument
    add("out", nargs="?", help="folder of the run (default: the latest under out/)")
    add("--prompt", type=text, action="append", help="draw this; may be repeated")
    add("--prompts", help="draw every line of this file, into --folder")
    add("--folder", default="drawn",
        help="where the pictures of --prompts go, with a contact sheet")
    add("--n", type=int, default=4, help="pictures a prompt")
    add("--cfg", type=float, default=GUIDANCE, help="classifier-free guidance; 1 is none")
    add("--temperature", type=float, default=1., help="0 takes the likeliest token")
    add("--top_k", type=int, default=0, help="sample among the k likeliest tokens only; 0: all")
    add("--top_p", type=float, default=TOP_P,
        help="sample among the fewest tokens whose probabilities reach p")
    add("--flow_steps", type=int, help="by flow: steps from noise to a picture (default: "
                                       f"{STEPS})")
    add("--heun", action="store_true",
        help="by flow: look twice a step, before and behind it, and go by the mean")
    add("--seed", type=int, default=0, help="another seed, other pictures")
    add("--png", default="grid.png", help="where the sheet of --prompt goes")
    add("--image", help="a picture to ask about")
    add("--ask", type=text, help="the question about it")
    add("--device", help="cpu | cuda | mps (default: what is there)")
    add("--speed", action="store_true",
        help="pictures and answers a second, with the cache and without")
    add("--score", action="store_true", help="has moved: python -m exam OUT")
    args = p.parse_args()

    if args.score:
        sys.exit(f"--score: has moved; score a run with: python -m exam {args.out or ''}".rstrip())
    if (args.image is None) != (args.ask is None):
        sys.exit("--image and --ask go together: a picture, and a question about it")
    if not 0 <= args.seed < 2**31:
        sys.exit(f"--seed {args.seed}: wanted is a number from 0 to {2**31 - 1:,}")
    if not 1 <= args.n <= MOST:
        sys.exit(f"--n {args.n}: wanted is a number from 1 to {MOST:,}")
    if args.flow_steps is not None and not 1 <= args.flow_steps <= 10_000:
        sys.exit(f"--flow_steps {args.flow_steps}: wanted is a number from 1 to 10,000")
    if not 0 < args.top_p <= 1:
        sys.exit(f"--top_p {args.top_p}: wanted is a number above 0, and 1 at most")
    for name in ("temperature", "top_k", "cfg"):
        value = getattr(args, name)
        if not 0 <= value < float("inf"):
            sys.exit(f"--{name} {value}: wanted is a finite number that is not negative")
    refuse_idle(p, args)
    if args.prompt:
        refuse_no_picture("--png", args.png)
    if args.prompts:
        refuse_unwritable("--folder", args.folder)
        if (Path(args.folder) / "config.json").exists():
            sys.exit(f"--folder {args.folder}: is a run's; name another, or one in it")
    return args


def refuse_idle(p, args):
    """Exits with one line if a flag was given that would change nothing."""
    draws = args.prompt or args.prompts
    converses = not (draws or args.ask or args.speed)
    idle = {}  # {flag: what it would take for it to act}
    if not args.prompts:
        idle["folder"] = "goes with --prompts; a sheet of --prompt has --png"
    if not args.prompt or args.prompts:
        idle["png"] = "goes with --prompt; pictures of --prompts have --folder"
    if not draws:
        idle["n"] = "goes with --prompt or --prompts"
    if not (draws or converses):
        of_drawing = ("cfg", "temperature", "top_k", "top_p", "flow_steps", "heun", "seed")
        idle |= {name: "is for drawing; add a --prompt, or leave it out" for name in of_drawing}
    for name, remedy in idle.items():
        value = getattr(args, name)
        if value != p.get_default(name):
            sys.exit(f"--{name} {value}: {remedy}")


def read_prompts(file):
    """The lines of a text file that are not empty. (utf-8-sig: some editors begin with a mark.)"""
    if os.path.exists(file) and not os.path.isfile(file):
        sys.exit(f"--prompts {file}: is no ordinary file; wanted is a text file, a prompt a line")
    try:
        lines = Path(file).read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as e:
        sys.exit(f"--prompts {file}: cannot be read ({e}); wanted is a text file, a prompt a line")
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        sys.exit(f"--prompts {file}: has no line to draw; write a prompt a line into it")
    return prompts


def draw_prompts(args, prompts, model, enc, tok, meta, sampling):
    """
    Draws --n pictures of each prompt: a sheet, and for --prompts a file each. Of the toy world it
    also prints what the judge sees in them. sampling: flags for sample.draw()
    """
    # all prompts are looked at before anything is drawn
    for prompt in prompts:
        try:
            check_prompt(prompt, enc, model)
        except ValueError as e:
            sys.exit(f"--prompt {prompt[:60]!r}: {e}")
    png = Path(args.folder) / "sheet.png" if args.prompts else Path(args.png)
    texts = [prompt for prompt in prompts for _ in range(args.n)]
    shown = []  # a sheet shows 256 pictures at most
    alone = len(texts) <= 64
    try:
        for i in tqdm(range(0, len(texts), 64), "drawing", unit="x 64 pictures", disable=alone):
            part = texts[i:i + 64]
            codes = draw(model, enc, part, seed=args.seed, first=i, **sampling)
            pictures = tok.decode(codes)
            shown += list(pictures)[:256 - len(shown)]
            if args.prompts:
                png.parent.mkdir(parents=True, exist_ok=True)
                for j, picture in enumerate(pictures, i):
                    name = f"{j // args.n:04d}_{j % args.n}.png"
                    Image.fromarray(picture).save(png.parent / name)
            if meta["kind"] == "toy" and alone:
                for prompt, scene in zip(part, judge(pictures)):
                    print(f"  {printable(prompt)}: the judge sees {dense(scene) or 'nothing'}")
        sheet(shown, texts[:len(shown)], png, columns=min(8, max(args.n, 4)))
    except (OSError, ValueError) as e:
        flag = "--folder" if args.prompts else "--png"
        sys.exit(f"{png}: cannot be written ({e}); name another place with {flag}")
    limit = f", which shows the first {len(shown)}" if len(shown) < len(texts) else ""
    print(f"{len(texts)} pictures: {png}{limit}")


def sampling_of(args, config, folder):
    """The flags for sample.draw(). Exits with one line if the network's hand has no use for one."""
    sampling = {"cfg": args.cfg}
    if config.draw == "tokens":
        if args.flow_steps or args.heun:
            sys.exit(f"--flow_steps, --heun: are of drawing by flow, and {folder} draws token by "
                     "token; leave them out")
        return sampling | {name: getattr(args, name) for name in ("temperature", "top_k", "top_p")}
    if (args.temperature, args.top_k, args.top_p) != (1., 0, TOP_P):
        sys.exit(f"--temperature, --top_k, --top_p: are of drawing token by token, and {folder} "
                 f"draws by {config.draw}; leave them out")
    if config.draw == "features":
        if args.flow_steps or args.heun:
            sys.exit(f"--flow_steps, --heun: are of drawing by flow, and {folder} draws by "
                     "features; leave them out")
        if args.cfg != GUIDANCE or args.seed:
            sys.exit(f"--cfg, --seed: {folder} draws by features, and leaves nothing to chance; "
                     "leave them out")
        args.n = 1  # all would be alike
        return sampling
    return sampling | {"steps": args.flow_steps or STEPS, "heun": args.heun}


def main():
    """Draws, answers, both, or converses, as the flags say."""
    speak_plainly()
    expect_faults("draw fewer pictures at a time (--n)")
    args = read_flags()
    folder = args.out or latest_run()
    print(f"run: {folder}", file=sys.stderr)
    device = find_device(args.device)
    model, config = load_model(folder, device)
    tok = load_tokenizer(Path(folder) / "tokenizer.pt", device)
    meta = config["data"]
    enc = encoding_of(meta)
    if meta["kind"] == "told":
        sys.exit(f"{folder}: knows scenes as they are told, and no pictures; score it with: "
                 f"python -m exam {folder}")
    sampling = sampling_of(args, model.config, folder)

    trained_on = config["train"]["task"]
    # a network that was trained for one task is not asked for the other
    wanted = {"generate": args.prompt or args.prompts, "understand": args.ask}
    for task, asked in wanted.items():
        if asked and trained_on not in ("both", task):
            sys.exit(f"{folder}: was trained with --task {trained_on} and cannot {task}; "
                     "name another run")

    prompts = args.prompt or []
    if args.prompts:
        prompts = prompts + read_prompts(args.prompts)
    if prompts:
        draw_prompts(args, prompts, model, enc, tok, meta, sampling)
    if args.ask is not None:
        try:
            pixels = load_picture(args.image, meta["canvas"])[None]
        except ValueError as e:
            sys.exit(f"--image {args.image}: {e}; name a picture that Pillow can read")
        try:
            talk = [(args.ask.strip(), "")]
            print(answer(model, enc, tok.encode(pixels), [talk], pixels)[0])
        except ValueError as e:
            sys.exit(f"--ask {args.ask[:60]!r}: {e}")
    if args.speed:
        speed(model, enc, tok, meta, trained_on)
    if not (prompts or args.ask is not None or args.speed):
        converse(folder, model, enc, tok, meta["canvas"], args.seed, sampling, trained_on)
