"""
tools/device.py: the machine. Which device there is, what its matrix products are computed in, how
fast it could be, and what becomes of memory that is freed.
"""
import ctypes
import os
import platform
import re
import shutil
import sys
from pathlib import Path

import torch

# Multiplications and additions a second of dense products in bfloat16, as the makers publish
# them. The first name that occurs in a GPU's own counts, so the longer ones stand first.
PEAK = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}

# two parameters of mallopt(3), with their numbers in malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def keep_freed_memory():
    """
    On Linux, memory that is freed stays with the process, for its next tensors. Otherwise each
    large tensor of each training step gets new pages, which the kernel has to clear.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):  # a C library other than glibc
        return
    libc.mallopt(M_TRIM_THRESHOLD, -1)  # nothing at the heap's end goes back
    libc.mallopt(M_MMAP_MAX, 0)         # and everything is on the heap


def find_device(name=None):
    """A device that works: the one named, or the best there is. Exits with one line if not."""
    if name is None:
        return best_device()
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        sys.exit(f"--device {name}: wanted is cpu, cuda, cuda:N or mps")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as e:  # only trying tells
        reason = str(e).splitlines()[0]
        sys.exit(f"--device {name}: cannot be used here ({reason}); leave the flag out, and the "
                 f"best that works is taken: {best_device()}")
    return name


def best_device():
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def set_products(kind, dtype=None):
    """
    Settles what the matrix products of training are computed in, and returns its name.

      kind   the kind of device: "cuda", "cpu" or "mps"
      dtype  "float32" or "bfloat16"; by default bfloat16 where there are instructions for it

    Some products of bfloat16 runs stay in float32, such as the logits. On a GPU they may then use
    TF32. On a CPU they may go by oneDNN instead of MKL, which is faster; where the CPU has AMX it
    may round what goes in, but not what comes out.
    """
    if dtype is None:
        dtype = "bfloat16" if has_bfloat16(kind) else "float32"
    if dtype == "float32":
        precision = "highest"
    elif kind == "cuda":
        precision = "high"
    else:
        precision = "medium"
    torch.set_float32_matmul_precision(precision)
    return dtype


def has_bfloat16(kind):
    """Whether this kind of device has instructions for products in bfloat16."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # older torch cannot tell
        return False
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))


def gpu_name(device):
    """The name of a GPU, such as "NVIDIA H100 80GB HBM3"; "" for other devices."""
    if torch.device(device).type != "cuda":
        return ""
    return torch.cuda.get_device_name(device)


def peak_flops(device, dtype):
    """FLOP/s that a device could do at most in bfloat16; None if that is not known."""
    if dtype != "bfloat16":
        return None
    gpu = gpu_name(device)
    for name, flops in PEAK.items():
        if re.search(rf"\b{name}\b", gpu):  # whole words: an L40S is no L4
            return flops
    return None


def name_of(device):
    """A device in words: "cpu", "cuda (NVIDIA H100 80GB HBM3)"."""
    gpu = gpu_name(device)
    return f"{device} ({gpu})" if gpu else str(device)


def name_of_processor():
    """The CPU in words, "AMD EPYC 9R14", or what the system says of it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def has_compiler():
    """Whether torch.compile() finds what it compiles with."""
    names = (os.environ.get("CXX", "g++"), "g++", "clang++", "gcc", "clang", "cc", "cl")
    return any(shutil.which(name) for name in names)


def compile_layers(model, choice=None):
    """
    Compiles a Transformer's layers with torch.compile, where they stand. choice: True, False or
    None: on a GPU, but not with routers, whose experts' shares differ in size each time.
    """
    if choice is None:
        choice = model.rotary.is_cuda and not model.config.routed() and has_compiler()
    if not choice:
        return
    if not has_compiler():
        sys.exit("--compile: there is no C compiler here; install one, such as gcc, or leave the "
                 "flag out")
    # one graph serves all layers; there is one for each task, with AIA and without, in each stage
    torch._dynamo.config.recompile_limit = 64
    for block in model.blocks:
        block.compile(dynamic=False)
