"""
toy/records.py: what is said of pictures, as the field writes it down.

LLaVA, InternVL, Qwen and LLaMA-Factory write the same thing in different words. Each of these is
read; a file holds a list of such records, or one in each line:

    {"image": "cat.jpg", "conversations": [{"from": "human", "value": "<image>what is this?"},
                                           {"from": "gpt", "value": "a cat"}]}
    {"images": ["cat.jpg"], "messages": [{"role": "user", "content": "a cat"},
                                         {"role": "assistant", "content": "Here it is: <image>"}]}

Where the meaning is plain it is taken; otherwise the record is skipped, and the reason says what
stands there. Reasons come in kinds: of each the first few are printed, and all go into a file.
"""
import json
import os
import re
import sys
from collections import Counter, namedtuple
from pathlib import Path

from tqdm import tqdm

# what a usable record says: a picture's file, then either a prompt or [(question, answer)]
Talk = namedtuple("Talk", "image prompt turns")
# why a record cannot be used: a kind of reason, and what stands there
Fault = namedtuple("Fault", "kind detail", defaults=("",))

HUMAN = ("human", "user")
GPT = ("gpt", "assistant")
NAMED = "<img>(.*?)</img>"  # a picture's name in a text, as Qwen has it
PRINTED = 3          # reasons of a kind
LONGEST_NAME = 4096  # characters: no system has longer paths


def load_records(file):
    """The records in a file of JSON or of JSON lines. Exits with one line if there are none."""
    if os.path.exists(file) and not os.path.isfile(file):
        sys.exit(f"--json {file}: is no ordinary file; wanted is a file of records")
    try:
        text = Path(file).read_text("utf-8-sig")
    except FileNotFoundError:
        sys.exit(f"{file}: no such file; --json names a LLaVA-style list of records")
    except UnicodeDecodeError as e:
        sys.exit(f"{file}: cannot be read ({e}); wanted is JSON in UTF-8")
    except OSError as e:
        sys.exit(f"{file}: cannot be read ({e.strerror}); wanted is a file of records")
    try:
        records = json.loads(text)
    except RecursionError:
        sys.exit(f"{file}: is nested too deeply to be a list of records")
    except ValueError as e:
        records = read_lines(text)
        if records is None:
            sys.exit(f"--json {file}: is not JSON ({e}); wanted is a LLaVA-style list of records")
    if isinstance(records, dict) and "\n" not in text.strip():
        records = [records]  # one line: one record
    if not isinstance(records, list):
        sys.exit(f"{file}: holds a {type(records).__name__}, not a list of records")
    if not records:
        sys.exit(f"{file}: holds no record; wanted is a list of at least one")
    return records


def read_lines(text):
    """A record in each line; None if some line is not JSON."""
    records = []
    for line in text.split("\n"):  # splitlines() would cut at what JSON allows within a text, too
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            return None
    return records or None


def understand(record):
    """A record -> a Talk and None, or None and a Fault."""
    if not isinstance(record, dict):
        return None, Fault(f"is a {type(record).__name__}, not an object")
    images = images_of(record)
    fault = fault_of_names(images)
    if fault:
        return None, fault
    turns, fault = turns_of(record)
    if fault:
        return None, fault
    images += [name for _, _, names in turns for name in names]
    fault = fault_of_names(images)
    if fault:
        return None, fault
    images = list(dict.fromkeys(images))  # each once, however often it is named
    if not images:
        return None, Fault("has no picture")
    if len(images) > 1:
        return None, Fault("has several pictures, and one is wanted", f"here are {len(images)}")

    asked = [without_pictures(text).strip() for _, text, _ in turns[::2]]
    told = [text.strip() for _, text, _ in turns[1::2]]
    if not all(asked + told):
        return None, Fault("a turn has an empty text")
    for text in asked + told:
        if re.search("[\ud800-\udfff]", text):
            return None, Fault("a text has half a character (a lone surrogate)", shorten(text))
    draws = [without_pictures(text) != text for text in told]
    if not any(draws):
        return Talk(images[0], None, list(zip(asked, told))), None
    if len(told) > 1:
        return None, Fault("a generation pair has one human and one gpt turn",
                           f"here are {len(turns)} turns")
    return Talk(images[0], asked[0], []), None  # words beside the picture are left out


# ---------------------------------------------------------------------------------------------
# turns


def turns_of(record):
    """[(who, text, images)], human and gpt by turns; and a Fault, or None."""
    said = record.get("conversations", record.get("messages"))
    if not isinstance(said, list) or not said:
        return None, Fault("'conversations' is no list of human and gpt turns in pairs",
                           f"it is {shorten(said)}")
    turns = []
    for turn in said:
        read = read_turn(turn)
        if read is None:
            return None, Fault("a turn is not {'from': 'human' or 'gpt', 'value': text}",
                               f"it is {shorten(turn)}")
        turns.append(read)
    if turns[0][0] == "system":  # what all records of a file are told
        turns = turns[1:]
    if turns and turns[0][0] == "gpt":  # LLaVA's reader drops it, too
        turns = turns[1:]
    speakers = [who for who, _, _ in turns]
    if not turns or speakers != ["human", "gpt"] * (len(turns) // 2):
        return None, Fault("'conversations' is no list of human and gpt turns in pairs",
                           f"it goes {', '.join(speakers[:6])}")
    return turns, None


def read_turn(turn):
    """(who, text, images named in it), or None if it is no turn."""
    if not isinstance(turn, dict):
        return None
    who = turn.get("from", turn.get("role"))
    content = turn.get("value", turn.get("content"))
    if who in HUMAN:
        who = "human"
    elif who in GPT:
        who = "gpt"
    elif who != "system":
        return None
    if isinstance(content, str):
        return who, content, re.findall(NAMED, content, re.DOTALL)
    if not isinstance(content, list):
        return None

    # Qwen's: a list of pieces
    text = ""
    images = []
    for piece in content:
        if not isinstance(piece, dict):
            return None
        if isinstance(piece.get("text"), str):
            text += piece["text"]
        elif piece.get("type") == "image" or "image" in piece:
            text += "<image>"
            if isinstance(piece.get("image"), str):
                images.append(piece["image"])
        else:
            return None
    return who, text, images


# ---------------------------------------------------------------------------------------------
# pictures


def images_of(record):
    """The pictures that a record names beside its turns, a list."""
    named = record.get("image", record.get("images"))
    if named is None:
        return []
    if not isinstance(named, list):
        return [named]
    return list(named)


def fault_of_names(names):
    """A Fault if one of these cannot be a file's name; or None."""
    for name in names:
        if not is_name(name):
            return Fault("its picture's name is no file name", f"it is {shorten(name)}")
    return None


def is_name(name):
    """Whether this may be a file's name. (Whether it can be one here, read_picture() tries.)"""
    return isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and "\0" not in name


def without_pictures(text):
    """A text without the places and the names of its pictures."""
    return re.sub(f"{NAMED}|<image>", "", text, flags=re.DOTALL)


# ---------------------------------------------------------------------------------------------
# reports


class Report:
    """Why records were skipped."""

    def __init__(self):
        self.lines = []
        self.counts = Counter()

    def skip(self, number, record, fault):
        """Prints the reason above the progress bar, if it is one of the first of its kind."""
        line = f"record {number}: {subject(record)}{fault.kind}"
        if fault.detail:
            line += f": {fault.detail}"
        self.lines.append(line)
        self.counts[fault.kind] += 1
        if self.counts[fault.kind] <= PRINTED:
            tqdm.write(line)

    def close(self):
        """Says how many reasons there are beside those that were printed."""
        for kind, n in self.counts.items():
            if n > PRINTED:
                print(f"... and {n - PRINTED:,} more: {kind}")

    def save(self, file):
        """All reasons, a line each. What a terminal may not show is written with escapes."""
        if self.lines:
            Path(file).write_text("\n".join(self.lines) + "\n", "utf-8", "backslashreplace")


def subject(record):
    """
    The picture that a record is about. A name that is cut cannot be looked for, so only what is
    longer than a name ever is, as a picture in base64, is cut.
    """
    name = record.get("image") if isinstance(record, dict) else None
    if is_name(name):
        return f"{shorten(name, 300)}: "
    if isinstance(record, dict):
        return ""
    return f"{shorten(record)}: "


def shorten(value, longest=80):
    """What stands there, if it is longer than that only its beginning: it may be base64."""
    text = repr(value)
    if len(text) <= longest:
        return text
    return f"{text[:60]} ... ({len(text):,} characters)"
