"""Training in several processes: each has a share of every batch, and gradients are averaged before each update.

The first process composes the run and writes its folder. The others are told by it what to compose, and write nothing.
"""

import json
import os
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from lightning.fabric.strategies.launchers.subprocess_script import (
    _ChildProcessObserver,  # pyright: ignore[reportPrivateUsage]
)
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

ARGUMENTS = "SRGAN_ARGUMENTS"  # in the environment of processes that Lightning starts: the run to take part in
STARTED_BY_LIGHTNING = ("LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE")
WRITE_NOTHING = ("hydra.output_subdir=null", "hydra/job_logging=stdout", "hydra.job_logging.root.level=WARNING")
FOLDER = "srgan/folder"  # a key of the store in which the processes of torchrun find each other
PATIENCE = timedelta(minutes=5)

# The first process may serve it, as long as it lives.
_stores: list[torch.distributed.Store] = []  # pyright: ignore[reportPrivateImportUsage]


@contextmanager
def leading(arguments: Sequence[str], folder: str) -> Generator[None]:
    """In the first process, around a run: tell the others which run it is, and end them and their group with it.

    `arguments` are Hydra's of this run, its folder among them, for processes that Lightning will start; `folder` is the
    one that sets the folder of the run or of the whole sweep, for those that torchrun has started.
    """
    before = {name: os.environ.get(name) for name in (*STARTED_BY_LIGHTNING, ARGUMENTS)}
    os.environ[ARGUMENTS] = json.dumps(list(arguments))
    if _by_torchrun() and not _stores:
        _stores.append(_store())
        _stores[0].set(FOLDER, folder)
    try:
        yield
    finally:
        if before["LOCAL_RANK"] is None:  # the next run of a sweep starts its own
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def release() -> None:
    """End Lightning's watch over the processes that it started: it kills this one when they end first, with an error.

    That is right as long as they train together, but not after the last of it.
    """
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            thread._child_processes = []  # pyright: ignore[reportPrivateUsage]


def following(arguments: Sequence[str]) -> list[str]:
    """In any other process: the arguments, for Hydra, of the run in which the first process takes part."""
    if ARGUMENTS in os.environ and not _by_torchrun():
        arguments = json.loads(os.environ[ARGUMENTS])
    elif _by_torchrun():
        arguments = [*arguments, _store().get(FOLDER).decode()]
    return [*arguments, *WRITE_NOTHING]


def _by_torchrun() -> bool:
    return torch.distributed.is_torchelastic_launched()


def _store() -> torch.distributed.Store:  # pyright: ignore[reportPrivateImportUsage]
    """The store that all processes of torchrun reach."""
    meeting = torch.distributed.rendezvous("env://", timeout=PATIENCE)  # pyright: ignore[reportPrivateImportUsage]
    store, _, _ = next(meeting)
    return store


class Processes(DDPStrategy):
    """Lightning's DDP without torch's DistributedDataParallel, which expects one network and one backward pass.

    Instead `Step` averages a network's gradients by `average` before its update, in one collective operation. All
    processes start from the first one's weights.
    """

    strategy_name = "srgan_processes"

    def configure_ddp(self) -> None:
        assert self.model is not None
        for tensor in self.model.state_dict().values():
            if isinstance(tensor, Tensor) and tensor.device.type == self.root_device.type:  # others: see RandomViews
                torch.distributed.broadcast(tensor, src=0)


@torch.no_grad()
def average(network: nn.Module, beside: Tensor) -> None:
    """Average a network's gradients, the running statistics of its BN, and `beside`, over all processes.

    All processes then make the same update and hold the same network, so one of them can save or validate for all.
    """
    tensors = [beside, *(parameter.grad for parameter in network.parameters() if parameter.grad is not None)]
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            tensors += [x for x in (module.running_mean, module.running_var) if x is not None]
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    parts = flat.split([tensor.numel() for tensor in tensors])
    shaped = [part.view(tensor.shape) for tensor, part in zip(tensors, parts, strict=True)]
    torch._foreach_copy_(tensors, shaped)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
