"""
tools/faults.py: faults of the machine, not of the code, end a command in one line that says what
to do, and not in a traceback.
"""
import errno
import os
import re
import sys
import traceback
from functools import partial

import torch
from tqdm import tqdm

from tools.flags import printable

# what torch raises as a RuntimeError where memory or the disk ends, or a process of several is gone
NO_MEMORY = "out of memory|can't allocate memory|not enough memory"
FULL_DISK = "inline_container"  # where torch writes its files
LOST_PROCESS = "Connection (closed|reset|refused)|NCCL|gloo|ProcessGroup"
# what a file's name or the rights to it bring about
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EISDIR)


def expect_faults(no_memory, lost_process=""):
    """Sets what to do if memory ends, or if one of several processes that train is gone."""
    sys.excepthook = partial(end, no_memory, lost_process)


def end(no_memory, lost_process, kind, e, where):
    """What Python calls last, with an exception that nobody caught."""
    if isinstance(e, BrokenPipeError):  # its reader has enough, as in: python -m exam | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the rest may go
        return
    if isinstance(e, KeyboardInterrupt):
        tqdm.write("\nstopped", file=sys.stderr)
        return
    line = in_one_line(e, no_memory, lost_process)
    if line is None:
        traceback.print_exception(kind, e, where)
    else:
        tqdm.write(line, file=sys.stderr)  # above a bar that is still there


def in_one_line(e, no_memory, lost_process=""):
    """An exception as a line that says what to do; None if the fault may be in the code."""
    if isinstance(e, (MemoryError, torch.OutOfMemoryError)):
        return f"out of memory: {no_memory}"
    # the file it is about; of a file that is copied, the copy
    name = getattr(e, "filename2", None) or getattr(e, "filename", None)
    place = f"{printable(str(name))}: " if name else ""
    if is_full(e):
        return f"{place}the disk is full: make room; what was saved stays"
    if isinstance(e, OSError) and e.errno in NO_ACCESS:
        return f"{place}cannot be read or written ({e.strerror}); change that, or name another"
    if not isinstance(e, RuntimeError):
        return None
    if re.search(NO_MEMORY, str(e)):
        return f"out of memory: {no_memory}"
    if lost_process and re.search(LOST_PROCESS, str(e)):
        return f"another of the processes is gone: {lost_process}"
    return None


def is_full(e):
    """Whether an exception says that the disk, or one's share of it, is full."""
    if isinstance(e, OSError):
        return e.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(e, RuntimeError) and FULL_DISK in str(e)
