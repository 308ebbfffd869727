"""
tools/processes.py: several processes that train one network together, and tensors in shards.

torchrun starts a process for each GPU and tells each who it is. They share out the rows of a step
in one of two ways:

  DDP   (Li et al. 2020, arXiv 2006.15704) each process has the whole network, and their
        gradients are averaged
  FSDP  (Zhao et al. 2023, arXiv 2304.11277) each has a shard of every weight, of its gradient and
        of the optimisers' states; a layer's weights are whole only while it computes. Such
        tensors are DTensors: they look whole, but a process holds only its part.

Alone, what is of several does nothing, or returns what it was given, so train.py need not ask.
What only shards need is imported late, as it takes half as long as all the rest of torch.
"""
import ctypes
import os
import signal
import subprocess
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

rank = int(os.environ.get("RANK", 0))         # which of the processes this is
world = int(os.environ.get("WORLD_SIZE", 1))  # how many there are

# ---------------------------------------------------------------------------------------------
# processes


def speak_for_all():
    """What is printed is printed by the first process alone."""
    if rank > 0:
        sys.stdout = open(os.devnull, "w")


def join(device):
    """Meets the other processes. Returns this one's device: of GPUs, one of its own."""
    if world == 1:
        return device
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"  # which of the processes on this machine
        torch.cuda.set_device(device)
    on_gpu = torch.device(device).type == "cuda"
    dist.init_process_group("nccl" if on_gpu else "gloo")
    return device


def wait():
    """Until all processes are here."""
    if world > 1:
        dist.barrier()


def mean(tensor):
    """The mean of a tensor over the processes."""
    if world == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / world


def leave():
    """Parts with the other processes."""
    if world > 1:
        dist.destroy_process_group()


# ---------------------------------------------------------------------------------------------
# a network that all train


def shard(model, kind):
    """
    FSDP: each process keeps a shard of the model's weights. What gathers them, layer by layer,
    is hooked into its blocks and itself. kind: of device, "cuda" or "cpu"
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(kind, (world,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def share(model, fsdp, some_idle):
    """
    What is called in a training step in place of the model.

      fsdp       whether the model is in shards: then it averages gradients by itself
      some_idle  whether a row may leave some weights without a gradient, which takes DDP a search
    """
    if world == 1 or fsdp:
        return model
    return DistributedDataParallel(model, find_unused_parameters=some_idle)


def sync_gradients(net, now):
    """
    Whether the next backward pass of net, from share(), averages gradients over the processes.
    Once a step is enough, at its last part: until then each process adds up its own.
    """
    if world == 1:
        return
    if isinstance(net, DistributedDataParallel):
        net.require_backward_grad_sync = now  # what its no_sync() sets
    else:
        net.set_requires_gradient_sync(now)


# ---------------------------------------------------------------------------------------------
# tensors in shards


def is_sharded(x):
    """Whether x is a DTensor. Without a group of processes there are none."""
    if not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(x, DTensor)


def in_shards(x, like):
    """
    A tensor in shards, as a tensor of its shape is, or as it was where that one is in none.
    x is whole on each process: an ordinary tensor, or a DTensor from on_each_process().
    """
    if not is_sharded(like) or x.shape != like.shape:
        return x
    if is_sharded(x):
        return x.redistribute(placements=like.placements)
    from torch.distributed.tensor import distribute_tensor

    # no source: each process cuts its part from what it has, and nothing is sent
    return distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)


def on_each_process(x):
    """The DTensor x with all of its data on each process; another tensor as it is."""
    if not is_sharded(x):
        return x
    from torch.distributed.tensor import Replicate

    return x.redistribute(placements=[Replicate()])


def whole(state):
    """
    A state as it is saved: each DTensor in it, however deep in dicts and lists, as an ordinary
    tensor on the CPU. All processes have to call it, as each has a part to give.
    """
    return tree_map(gather, state)


def gather(x):
    if is_sharded(x):
        return x.full_tensor().cpu()
    return x


def load_weights(model, saved):
    """Weights from whole(model.state_dict()) into a model, which may be in shards."""
    own = model.state_dict()
    model.load_state_dict({name: in_shards(saved[name], p) for name, p in own.items()})


def load_optimizer(opt, saved):
    """A state from whole(opt.state_dict()) into an optimiser of weights that may be in shards."""
    parameters = [p for group in opt.param_groups for p in group["params"]]
    states = {}
    for i, state in saved["state"].items():
        p = parameters[i]
        states[i] = {name: in_shards(x, p) for name, x in state.items()}
    opt.load_state_dict(saved | {"state": states})


# ---------------------------------------------------------------------------------------------
# a command of ours, run by another


def child(file, *flags, quiet=False):
    """
    Runs a Python file with flags, and returns its exit status. Ctrl-C reaches it too: it tidies up
    and says so, and meanwhile we wait.
    """
    output = subprocess.DEVNULL if quiet else None
    before = signal.signal(signal.SIGINT, wait_for_child)
    command = [sys.executable, str(file), *flags]
    die = die_with_parent if sys.platform == "linux" else None
    status = subprocess.run(command, stdout=output, preexec_fn=die).returncode
    signal.signal(signal.SIGINT, before)
    return status


def wait_for_child(signal_number, frame):
    pass


def die_with_parent():
    """On Linux a process ends when the one that started it does, however that came to its end."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
