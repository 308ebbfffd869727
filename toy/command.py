"""
toy/command.py: the command line of `python data.py`.

    python data.py                               a data set of the toy world: toy/build.py
    python data.py --json PAIRS --images FOLDER  a data set of your own pictures: toy/own.py
    python data.py --train_tokenizer             the toy world's image tokenizer: toy/tokenizer.py

data.py imports nothing of ours, so it asks for main() only when it is run as a command. train.py
asks for make_if_missing(). This file is the top of toy/.
"""
import signal
import sys
from pathlib import Path

from data import ASSETS, load_tokenizer
from tools.device import keep_freed_memory
from tools.faults import expect_faults
from tools.flags import Parser, speak_plainly
from tools.processes import child, rank
from toy.build import STOPPING, build_toy
from toy.own import build_real
from toy.tokenizer import steps_for, tokenizer_path, train_toy_tokenizer
from toy.world import CANVAS

MOST = 10**8  # as many scenes are some 750 GB
OTHERS = ("speckled", "told", "semantic")  # kinds of the toy world, beside the plain one
EXAM_SEED = 2**31  # exam.questions.SEED: no data set may hold what is asked there


def main():
    """
    Makes what the flags ask for. A folder that holds anything is refused and never written over;
    only the image tokenizer in assets/ is replaced, once the new one is whole.
    """
    speak_plainly()
    expect_faults("make fewer scenes (--n), or take fewer records")
    args = read_flags()
    keep_freed_memory()  # arrays come and go: to ask the system for each anew takes time
    for number in STOPPING:
        signal.signal(number, stop)
    if args.train_tokenizer:
        canvas = CANVAS[args.size]
        path = tokenizer_path(canvas, args.speckled)
        train_toy_tokenizer(path, canvas, args.tokenizer_steps, args.seed, args.speckled)
    elif args.json:
        out = args.out or f"data/{Path(args.json).stem}"
        build_real(args.json, args.images, out, args.size, args.seed, args.tokenizer_steps)
    else:
        chosen = [kind for kind in OTHERS if getattr(args, kind)]
        kind = chosen[0] if chosen else "toy"
        out = args.out or f"data/{kind}-{args.size}"
        tok = load_tokenizer(ASSETS / "semantic.pt") if args.semantic else None
        build_toy(out, args.size, args.n, args.seed, args.speckled, args.told, tok)
        does = "told and to be asked about" if args.told else "to draw and to ask about"
        print(f"{out}: {args.n} scenes, each {does}")
        more = {"told": " --task understand", "semantic": " --arch illume"}
        print(f"next: python train.py --data {out}{more.get(kind, '')}")


def read_flags():
    """The flags, checked: exits with one line if a number makes no sense."""
    about = "Make a data set: the toy world by default, or your own pictures with --json."
    p = Parser(description=about)
    p.add_argument("--size", choices=CANVAS, default="nano",
                   help="of the network: nano sees 48 x 48 pixels, small and base 72 x 72 "
                        "(64 x 64 of your own pictures)")
    p.add_argument("--n", type=int, help="toy world: scenes to train on (default: 40,000)")
    p.add_argument("--speckled", action="store_true",
                   help="toy world: patches of ground have pale shades at random, which nobody can "
                        "foretell (with an image tokenizer of its own, trained first)")
    p.add_argument("--told", action="store_true",
                   help="toy world: scenes are told in words in place of pictures, for a network "
                        "of text alone (see lmfusion in systems/README.md)")
    p.add_argument("--semantic", action="store_true",
                   help="toy world: image tokens stand for an encoder's features, not for pixels "
                        "(see illume in systems/README.md); of 48 x 48 pixels alone")
    p.add_argument("--seed", type=int, default=0, help="everything follows from it")
    p.add_argument("--out", help="folder to write (default: data/toy-SIZE, speckled-SIZE, "
                                 "told-SIZE or semantic-nano; with --json: data/ and the file's "
                                 "name)")
    p.add_argument("--json", help="LLaVA-style list of records; 'gpt' saying <image> makes a "
                                  "generation pair, else a dialogue")
    p.add_argument("--images", default=".", help="folder that the records' 'image' is relative to")
    p.add_argument("--train_tokenizer", action="store_true",
                   help="train the toy world's image tokenizer anew, into assets/")
    p.add_argument("--tokenizer_steps", type=int,
                   help="steps to train an image tokenizer (default: 3,000; speckled 5,500)")
    args = p.parse_args()
    for name in ("n", "tokenizer_steps"):
        value = getattr(args, name)
        if value is not None and not 1 <= value <= MOST:
            sys.exit(f"--{name} {value}: wanted is a number from 1 to {MOST:,}")
    refuse_what_does_nothing(args)
    args.n = args.n or 40_000
    args.tokenizer_steps = args.tokenizer_steps or steps_for(args.speckled)
    if not 0 <= args.seed < EXAM_SEED:
        why = "; those above are the exam's" if args.seed > 0 else ""
        sys.exit(f"--seed {args.seed}: wanted is a number from 0 to {EXAM_SEED - 1:,}{why}")
    if args.images != "." and not args.json:
        sys.exit(f"--images {args.images}: goes with --json, which says what the pictures show")
    return args


def refuse_what_does_nothing(args):
    """Exits with one line if a flag would be ignored: something else is meant."""
    if args.train_tokenizer and (args.json or args.out or args.n):
        sys.exit("--train_tokenizer: makes an image tokenizer in assets/ and no data set; leave "
                 "out --json, --out and --n")
    if args.json and args.n:
        sys.exit(f"--n {args.n}: is of the toy world; a data set of --json has all its records")
    chosen = [f"--{kind}" for kind in OTHERS if getattr(args, kind)]
    if args.json and chosen:
        sys.exit(f"{chosen[0]}: is of the toy world; leave it out, or --json")
    if len(chosen) > 1:
        sys.exit(f"{', '.join(chosen)}: are worlds of their own; take one of them")
    if args.told and args.train_tokenizer:
        sys.exit("--told: has no pictures; leave out --train_tokenizer")
    if args.semantic and args.train_tokenizer:
        sys.exit("--semantic: its image tokenizer is trained otherwise: python -m systems.semantic")
    if args.semantic and args.size != "nano":
        sys.exit(f"--size {args.size}: a world of --semantic has 48 x 48 pixels; leave it out")
    if args.tokenizer_steps and args.semantic:
        sys.exit("--tokenizer_steps: that of --semantic is trained by python -m systems.semantic "
                 "--steps")
    if args.tokenizer_steps and not args.json and not args.train_tokenizer:
        more = " --speckled" if args.speckled else ""
        sys.exit(f"--tokenizer_steps {args.tokenizer_steps}: no data set of the toy world trains "
                 f"its image tokenizer anew; do it with --train_tokenizer{more}")


def stop(signal_number, frame):
    """Ctrl-C, or kill: what is half made is removed on the way out."""
    sys.exit("\nstopped before anything was written")


def worlds(size):
    """{folder: kind} of the toy world's data sets for a size, which train.py makes if missing"""
    plain = {f"data/{kind}-{size}": kind for kind in ("toy", "speckled", "told")}
    return plain | {"data/semantic-nano": "semantic"}  # a network of any size can read it


def make_if_missing(folder, size):
    """
    The toy world's data set for a size, of one of worlds(), made by a process of its own, if its
    folder is not there. Another folder is not made up: exits with one line.
    """
    if (Path(folder) / "meta.json").exists():
        return
    kinds = worlds(size)
    if folder not in kinds:
        if Path(folder).is_file():
            sys.exit(f"--data {folder}: is a file; wanted is the folder of a data set")
        sys.exit(f"{folder}: no data set here; make one with: python data.py --out FOLDER, or of "
                 "your own pictures: python data.py --json PAIRS.json --images FOLDER --out FOLDER")
    print(f"{folder} is missing: making the toy world first")
    command = Path(__file__).parent.parent / "data.py"
    more = ["--size", size]
    if kinds[folder] == "semantic":
        more = ["--semantic"]
    elif kinds[folder] != "toy":
        more.append(f"--{kinds[folder]}")
    if rank == 0 and child(command, "--out", folder, *more, quiet=True):
        sys.exit(f"{folder}: could not be made (the reason is above)")
