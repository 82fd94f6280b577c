"""What a CUDA graph's capture forbids, seen without a GPU: the work runs under a mode that looks at each operation."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.masked_select}


class CaptureError(Exception):
    """An operation that a capture forbids, or that reads memory which may be gone at the replay."""


class Rehearsal(TorchDispatchMode):
    """Within it, operations may read what `owners` hold and what was made within it, all on one device.

    Attributes:
        operations: each operation so far with the shapes that it saw.
    """

    def __init__(self, device: str, *owners: object) -> None:
        super().__init__()
        self.device = torch.device(device)
        self.operations: list[tuple[object, ...]] = []
        self._kept = [tensor.untyped_storage() for tensor in held(owners, set())]
        self._known = {storage._cdata for storage in self._kept}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket in WAITS:
            raise CaptureError(f"{func} waits for the device")
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        out = func(*args, **kwargs)
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        for tensor in (*read, *made):
            if tensor.device != self.device:
                raise CaptureError(f"{func} has a tensor on {tensor.device}")
        for tensor in read:
            if tensor.untyped_storage()._cdata not in self._known:
                raise CaptureError(f"{func} reads a tensor {tuple(tensor.shape)} that nobody holds")
        for tensor in made:
            self._kept.append(tensor.untyped_storage())  # or its place could be taken by another one
            self._known.add(self._kept[-1]._cdata)
        self.operations.append((func, *(tuple(tensor.shape) for tensor in (*read, *made))))
        return out


def held(thing: object, seen: set[int]) -> Iterator[Tensor]:
    """All tensors that an object holds, directly or through its attributes and containers, not in functions' caches."""
    if id(thing) in seen or isinstance(thing, type):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, dict | list | tuple | set):
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from held(part, seen)
    elif hasattr(thing, "__dict__"):
        yield from held(vars(thing), seen)
