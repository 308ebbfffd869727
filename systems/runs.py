"""
systems/runs.py: the folders of runs. train.py writes config.json and ckpt.pt; whoever wants the
network again asks here.
"""
import json
import sys
from dataclasses import asdict
from pathlib import Path

from data import checksum
from model import Config
from systems import build
from tools.files import first_line, load_state

# a run's weights: the newest, those before, and those where the second phase began
WEIGHTS = ("ckpt.pt", "ckpt-before.pt", "pretrained.pt")
VERSION = 4  # of what weights mean: a run of another version is refused, never misread


def as_saved(config):
    """A network's Config as config.json has it: a dict, with lists for tuples."""
    return json.loads(json.dumps(asdict(config)))


def latest_run():
    """The folder under out/ with the newest checkpoint. Exits with one line if there is none."""
    checkpoints = list(Path("out").glob("*/ckpt.pt"))
    if not checkpoints:
        sys.exit("out/: no run here yet; train one: python train.py --aia 0.1")
    newest = max(checkpoints, key=lambda file: file.stat().st_mtime)
    return str(newest.parent)


def read_config(folder):
    """What the config.json of a run says. Exits with one line if it is no run that can be read."""
    file = Path(folder) / "config.json"
    if Path(folder).is_file():
        sys.exit(f"{folder}: is a file; wanted is the folder of a run")
    if not file.exists():
        sys.exit(f"{folder}: no run here (config.json is missing); "
                 f"train one: python train.py --out {folder}")
    try:
        config = json.loads(file.read_text())
    except (ValueError, RecursionError) as e:
        sys.exit(f"{file}: is damaged ({first_line(e)}); train the run again")
    if not isinstance(config, dict):
        sys.exit(f"{file}: is damaged (it is no object); train the run again")
    version = config.get("version")
    if version != VERSION:
        sys.exit(f"{folder}: a run of version {version}, this code reads {VERSION}; train it again")
    wrong = what_is_wrong(config)
    if wrong:
        sys.exit(f"{file}: is damaged ({wrong}); train the run again")
    model = config["model"]
    sees_so = model.get("see") == "encoder" and model.get("draw") != "features"
    if sees_so and "noises" not in config["train"]:
        sys.exit(f"{folder}: a run from when eyes were another encoder; train it again")
    return config


def what_is_wrong(config):
    """Why a config is none of a run's, or one of a network that fills any memory; or None."""
    wanted = {"model": ("n_layer", "n_embd", "vocab_size", "block_size", "first_image"),
              "train": ("task", "data", "arch", "size"),
              "data": ("merges", "kind", "canvas")}
    for part, names in wanted.items():
        if not isinstance(config.get(part), dict):
            return f"it has no {part}"
        missing = [name for name in names if name not in config[part]]
        if missing:
            return f"its {part} has no {missing[0]}"
    if not all(isinstance(merged, str) for merged in config["data"]["merges"]):
        return "its merges are no texts"
    model = config["model"]
    for name in wanted["model"]:
        if not isinstance(model[name], int):
            return f"its {name} is no number"
        if model[name] < 0:
            return f"its {name} is below 0"
    if model["first_image"] >= model["vocab_size"]:
        return "its image tokens are none of its vocabulary"
    sizes = [value for value in model.values() if isinstance(value, int)]
    if max(sizes) > 1e6 or model["n_layer"] * model["n_embd"] ** 2 > 1e10:
        return "its network has more weights than any machine holds"
    return None


def load_model(folder, device="cpu", file="ckpt.pt"):
    """
    The network of a run's folder, in eval mode, and what its config.json says. Exits with one line
    if there is none, or none that can be read.
    """
    folder = Path(folder)
    config = read_config(folder)
    refuse_other_tokenizer(folder, config)
    try:
        model = build(Config(**config["model"]))
    except Exception as e:  # numbers that no network has may trip torch anywhere
        sys.exit(f"{folder / 'config.json'}: is damaged ({first_line(e)}); train the run again")
    remedy = "train it again, in an empty folder"
    if file == "ckpt.pt" and (folder / "ckpt-before.pt").exists():
        remedy = f"go on from the checkpoint before: python train.py --out {folder} --resume"
    if not (folder / file).exists():
        sys.exit(f"{folder}: no network here ({file} is missing); {remedy}")
    model.to(device)
    try:
        model.load_state_dict(load_state(folder / file, device)["model"])
    except PermissionError:  # see tools/faults.py
        raise
    except Exception as e:  # so may a damaged file
        sys.exit(f"{folder}: {file} or config.json is damaged ({first_line(e)}); {remedy}")
    return model.eval(), config


def refuse_other_tokenizer(folder, config):
    """Exits with one line if a run's tokenizer.pt is not its own. An older run does not know."""
    file = folder / "tokenizer.pt"
    known = config["data"].get("tokenizer")
    if known and file.exists() and checksum(file) != known:
        sys.exit(f"{file}: is not the one that the run was trained with; copy that from its data "
                 f"set, which was {config['train']['data']}")


def load_checkpoint(folder, device):
    """
    What --resume goes on from: the newest checkpoint of a run, or the one before if it is damaged,
    or if the run was stopped in its exam: the newest has no optimisers then.
    """
    why = f"{folder}: no checkpoint that can be read; train the run again"
    for name in ("ckpt.pt", "ckpt-before.pt"):
        file = Path(folder) / name
        if not file.exists():
            continue
        try:
            saved = load_state(file, device)
        except ValueError as e:
            print(f"{file}: is damaged ({e})")
            continue
        if "opts" not in saved:
            why = f"{folder}: this run is finished; score it with: python -m exam {folder}"
            if was_scored(folder):
                break
            continue
        if name != "ckpt.pt":
            print(f"going on from the checkpoint before, {file}")
        return saved
    sys.exit(why)


def was_scored(folder):
    """Whether train.py came to its end, where it writes losses beside the exam's scores."""
    try:
        scores = json.loads((Path(folder) / "scores.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(scores, dict) and "loss" in scores


def refuse_other_data(folder, config, data, flag, rows=False):
    """
    Exits with one line if a run was trained on other words or image tokens than a data set has;
    rows: or on other rows. Its weights would load, and mean something else.
    """
    theirs = config["data"]
    mine = data.meta
    wrong = None
    if not (Path(folder) / "tokenizer.pt").exists():
        sys.exit(f"{flag} {folder}: its tokenizer.pt is missing; copy it from the run's data set, "
                 f"which was {config['train']['data']}")
    if theirs["merges"] != mine["merges"]:
        wrong = "its words are cut into other tokens"
    elif checksum(Path(folder) / "tokenizer.pt") != checksum(data.folder / "tokenizer.pt"):
        wrong = "its image tokenizer is another"
    elif rows:
        known = theirs.get("files", {})
        other = [name for name, about in mine["files"].items() if about != known.get(name)]
        if other:
            wrong = f"its {other[0]} is another"
    if not wrong:
        return
    its_own = config["train"]["data"]
    if Path(its_own).resolve() == data.folder.resolve():
        sys.exit(f"{flag} {folder}: {data.folder} was made anew since the run was trained on it "
                 f"({wrong}); make that data set again, and name it with --data FOLDER, or train "
                 "a new run")
    sys.exit(f"{flag} {folder}: was trained on another data set than {data.folder} ({wrong}); "
             f"name its own, which was {its_own}: --data FOLDER")


def next_command(folder, task, meta, prompts):
    """What to type to see what a run has learned. meta: of its data set; prompts: for example"""
    if meta["kind"] == "told":
        return f"python train.py --arch lmfusion --init_from {folder} --data data/toy-nano"
    is_toy = meta["kind"] == "toy"
    if task == "understand":
        question = "what color is the circle?" if is_toy else "what is this?"
        return f'python sample.py {folder} --image picture.png --ask "{question}"'
    prompt = "a circle left of a square" if is_toy else prompts[0]
    return f'python sample.py {folder} --prompt "{prompt}"'
