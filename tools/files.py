"""
tools/files.py: files that are whole or not there, and places that can be written.
"""
import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from tools.faults import is_full

# ---------------------------------------------------------------------------------------------
# whole or not there


def save_json(path, value):
    """
    Writes a value as JSON, atomically: whoever reads meanwhile sees the old file or the new one,
    never half of one.
    """
    part = Path(f"{path}.part")
    part.write_text(json.dumps(value, indent=1))
    os.replace(part, path)


def save_state(path, state, keep=None):
    """
    Writes what torch.save() can, atomically. keep: the name that the file which was there gets, so
    that there is one more to go on from.
    """
    path = Path(path)
    part = Path(f"{path}.part")
    try:
        torch.save(state, part)
        with open(part, "rb") as f:
            os.fsync(f.fileno())  # on the disk before it takes the old one's name
    except (OSError, RuntimeError) as e:  # torch's writer raises the second on a full disk
        part.unlink(missing_ok=True)
        why = "the disk is full" if is_full(e) else first_line(e)
        sys.exit(f"\n{path}: cannot be written ({why}); what was there is kept. "
                 "Make room, or see to the folder, and do it again")
    if keep and path.exists():
        os.replace(path, path.with_name(keep))
    os.replace(part, path)


def load_state(path, device="cpu"):
    """What save_state() wrote. Raises ValueError if it is damaged: torch.load() looks at no sum."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"{damaged} differs from its checksum")
        return torch.load(path, map_location=device, weights_only=True)
    except OSError:
        raise
    except Exception as e:  # a damaged file may trip torch anywhere
        raise ValueError(first_line(e)) from None


def first_line(e):
    lines = str(e).strip().splitlines()
    return lines[0][:200] if lines else type(e).__name__


# ---------------------------------------------------------------------------------------------
# places


def refuse_unwritable(flag, folder):
    """Exits with one line if a folder cannot be made, or not be written, by trying."""
    place = Path(folder).absolute()
    try:
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            sys.exit(f"{flag} {folder}: cannot be made ({place} is a file); name another folder")
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as e:
        sys.exit(f"{flag} {folder}: cannot be written ({e.strerror}); name another folder")


locked = {}  # folders, by what they are on the disk: this process's handles


def lock(folder):
    """
    Whether this process, and no other, writes into a folder from now on. The lock is the
    process's, and gone with it however it ends, or with unlock().
    """
    about = os.stat(folder)
    place = about.st_dev, about.st_ino
    if sys.platform == "win32" or place in locked:
        return True
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    locked[place] = handle
    return True


def unlock(folder):
    """Lets others write there again; nothing, if this process did not lock it."""
    about = os.stat(folder)
    handle = locked.pop((about.st_dev, about.st_ino), None)
    if handle is not None:
        os.close(handle)
