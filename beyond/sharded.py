"""
Parallel: many processes, one model, the same curve.

Every process draws its own part of the batch and works out its own gradients; before the step
they take the mean of them, so that all take the same step and nobody could tell how many they
were. Two ways to hold the model:

    ddp     data parallel: each process has all of it. Simple, and fast while it fits.
    fsdp    fully sharded: each keeps one slice of every weight, gradient and optimiser state, and
            gathers a block's weights only while it computes that block. For models that outgrow
            one device.

    torchrun --standalone --nproc_per_node 2 -- train.py                   # one machine
    torchrun --standalone --nproc_per_node 2 -- train.py --parallel fsdp

On several machines, which share the folder they work in, the same on each, given the address of
the first:

    torchrun --nnodes 2 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint HOST:29500 \
        -- train.py

torchrun starts the processes and tells each, through the environment, its number and how many
there are; the lone -- keeps it from reading our flags as its own. Without torchrun there is one
process, nobody to wait for, and nothing to share.

Papers: PyTorch Distributed (Li et al., 2020), for DDP; ZeRO (Rajbhandari et al., 2020) and PyTorch
FSDP (Zhao et al., 2023).
"""
import contextlib
import os
import sys
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions, get_model_state_dict, get_optimizer_state_dict, set_model_state_dict,
    set_optimizer_state_dict)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel


def join(device):
    """Meet the other processes. Returns rank, which of them this is, world, how many, and device.

    Process r of a machine takes its r-th GPU; what they tell each other goes over NCCL between
    GPUs and over gloo between CPUs.
    """
    if "RANK" not in os.environ:
        return SimpleNamespace(rank=0, world=1, device=device)
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    elif device != "cpu":
        raise ValueError(f"several processes train on cpu or cuda, not on {device}")
    dist.init_process_group("cpu:gloo,cuda:nccl" if "cuda" in device else "gloo")
    return SimpleNamespace(rank=dist.get_rank(), world=dist.get_world_size(), device=device)


def leave():
    """Part from the others: what comes after is for each process alone."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def end(code=0):
    """End this process with this exit code; gloo's threads may keep Python from doing so itself."""
    sys.stdout.flush()
    sys.stderr.flush()
    if "RANK" in os.environ:
        os._exit(code)
    sys.exit(code)


def tell_all(p, value):
    """What process 0 says, heard by all of them."""
    if p.world == 1:
        return value
    said = [value]
    dist.broadcast_object_list(said, device=torch.device("cpu"))
    return said[0]


def total(p, numbers):
    """The sum over all processes of each of these numbers, as float64."""
    numbers = torch.tensor(numbers, dtype=torch.float64)
    if p.world > 1:
        dist.all_reduce(numbers)
    return numbers.tolist()


def spread(model, how, p):
    """The model as the processes share it, on its device: call the result as you would the model.

    model itself stays what holds the weights: all of them (ddp), or this process's slices (fsdp).
    """
    if p.world == 1:
        return model.to(p.device)
    if how == "ddp":
        model.to(p.device)
        # DDP sends what gradients it has while backward is still working out the others.
        return DistributedDataParallel(model, broadcast_buffers=False,
                                       gradient_as_bucket_view=True)
    mesh = init_device_mesh(p.device.split(":")[0], (p.world,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)       # a block at a time is moved; and gathered, used, let go
    return fully_shard(model, mesh=mesh)


def send_gradients(net, yes):
    """Whether the next backward pass sends the gradients round, or only adds to this process's.

    Of the parts that accumulate to one step, only the last needs to.
    """
    if isinstance(net, DistributedDataParallel):
        net.require_backward_grad_sync = yes
    elif hasattr(net, "set_requires_gradient_sync"):
        net.set_requires_gradient_sync(yes)


def gather_states(model, optimizers):
    """All weights and all optimiser states, by the weights' names, whole and on the CPU.

    However many processes shared the model, the result is the same, and any number can go on
    with it. All of them must call this; the result is process 0's.
    """
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return (get_model_state_dict(model, options=whole),
            [get_optimizer_state_dict(model, optimizer, options=whole)
             for optimizer in optimizers])


def scatter_states(model, optimizers, weights, states):
    """The way back: every process takes from the whole what it needs.

    The optimisers take their memory of past gradients, and keep the settings they were made with.
    """
    whole = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, weights, options=whole)
    for optimizer, state in zip(optimizers, states):
        settings = [{k: v for k, v in group.items() if k != "params"}
                    for group in optimizer.param_groups]
        set_optimizer_state_dict(model, optimizer, state, options=whole)
        for group, made_with in zip(optimizer.param_groups, settings):
            group.update(made_with)


def whole(x):
    """A number as every process has it, where each may hold a part of it."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


@contextlib.contextmanager
def one_for_all(p, advice):
    """Wrap what the processes do together: if one of them dies, the others end with one line.

    They notice when they next wait for it: its connections close with it.
    """
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or any(
            word in str(error) for word in ("gloo", "Connection", "connection", "peer"))
        if p.world == 1 or not lost:
            raise
        print(f"{os.path.basename(sys.argv[0])}: process {p.rank} ends, as another one has gone; "
              f"{advice}", file=sys.stderr, flush=True)
        os._exit(1)     # no farewell to the others: it would wait for them
