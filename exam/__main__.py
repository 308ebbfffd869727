"""
exam/__main__.py: the exam's command, at the end of this folder.

    python -m exam              # the latest run under out/
    python -m exam out/mine

Prints a table a benchmark. Leaves scores.json, mistakes.png and the benchmarks' files in the run's
folder; what else scores.json held, as the losses that train.py wrote, stays in it.
"""
import json
import sys
from pathlib import Path
from types import SimpleNamespace

from data import encoding_of, load_dataset, load_tokenizer
from exam import examine
from exam.marks import table
from sample import GUIDANCE
from systems.runs import latest_run, load_model, refuse_other_data
from tools.device import find_device
from tools.faults import expect_faults
from tools.files import first_line, refuse_unwritable, save_json
from tools.flags import Parser, speak_plainly


def main():
    p = Parser(
        prog="python -m exam",
        description="Scores a run by the toy benchmarks: a table, and in the run's folder "
                    "scores.json, mistakes.png and the benchmarks' files.")
    p.add_argument("out", nargs="?", help="folder of the run (default: the latest under out/)")
    p.add_argument("--cfg", type=float, default=GUIDANCE,
                   help="classifier-free guidance; 1 is none")
    p.add_argument("--data", help="where the data set of a run on your own pictures is now "
                                  "(default: where it was)")
    p.add_argument("--device", help="cpu | cuda | mps (default: what is there)")
    speak_plainly()
    args = p.parse_args()

    # what is wrong is said at once, not after minutes of drawing
    expect_faults("end what else runs on this device, or name another (--device cpu)")
    folder = Path(args.out or latest_run())
    print(f"run: {folder}", file=sys.stderr)
    if not 0 <= args.cfg < float("inf"):
        sys.exit(f"--cfg {args.cfg}: wanted is a finite number that is not negative")
    device = find_device(args.device)
    model, config = load_model(folder, device)
    tok = load_tokenizer(folder / "tokenizer.pt", device)
    refuse_unwritable("run", folder)
    file = folder / "scores.json"
    scores = read_scores(file)
    data = data_of(config, folder, args.data)

    # only what the run was trained for is examined; other scores in the file stay
    task = config["train"]["task"]
    scores |= examine(model, data, tok, task, cfg=args.cfg, folder=folder)
    save_json(file, scores)
    print(table(scores))
    print(f"in {folder}: scores.json, mistakes.png, and what was drawn and answered, a folder a "
          "benchmark", file=sys.stderr)


def read_scores(file):
    """The scores that the run has already; none if there is no file yet."""
    if not file.exists():
        return {}
    try:
        scores = json.loads(file.read_text())
        table(scores)  # fails here if these are no scores, and not after minutes of drawing
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError) as e:
        sys.exit(f"{file}: holds no scores ({first_line(e)}); remove it, and it is made anew")
    return scores


def data_of(config, folder, moved_to=None):
    """The data set of a run. Of the toy world all that is needed stands in the run's config."""
    meta = config["data"]
    if meta["kind"] == "toy":
        return SimpleNamespace(meta=meta, enc=encoding_of(meta))
    place = Path(moved_to or config["train"]["data"])
    if not (place / "meta.json").exists():
        sys.exit(f"{place}: the data set of {folder} is not here; say where it is: --data FOLDER")
    data = load_dataset(place)
    refuse_other_data(folder, config, data, "run", rows=True)
    return data


if __name__ == "__main__":
    main()
