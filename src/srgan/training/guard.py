"""Keeps a step that is not finite from changing anything, and notes which loss it was. The device is not waited for."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an element


@dataclass(frozen=True)
class Skipped:
    """Steps since the last report that were not finite and were not applied.

    Attributes:
        step: the first of them, counted from 0 within the phase.
        cause: the loss or gradient that was the first in it to be not finite; None if it was another process's.
        count: how many there were.
        in_a_row: the most in a row, over reports.
        pictures: `lr`, `hr` and `sr` of the first of them, each (B, 3, H, W); with `separate_batches` the SR of one
            half of the batch.
    """

    step: int
    cause: str | None
    count: int
    in_a_row: int
    pictures: Mapping[str, Tensor]


class Guard:
    """Leaves networks and optimizers as they were before a step if a loss or a gradient in it was not finite.

    A fused Adam skips its own update, so neither its weights nor its states are copied. All else that a step changes is
    copied at its beginning and put back at its end: buffers, and what other optimizers update.

    A skipped update depends on what comes before it. So with fused Adam the discriminator, which learns first, keeps an
    update that was finite even if the generator's part of the step was not.

    A step calls `begin` and `keep`; `watch` for each loss and gradient, and `look` before each update; `decide` when
    both networks have had theirs, and `end`. All but `begin` may be replayed within a CUDA graph.

    Args:
        parts: modules that the step changes; what is in their state dicts is guarded.
        optimizers: those of the step. What a first step adds to their states is taken back: on a CPU it is removed,
            elsewhere it becomes 0, as all of torch's optimizers begin but NAdam, Rprop and ASGD. A count that an
            optimizer keeps on another device than its weights goes on.

    Attributes:
        finite: 1 while all that was looked at in the step is finite, else less; several processes average it.
        reads: `end` may look whether the step was finite, which saves its work. On a CPU nothing has to be waited for.
    """

    def __init__(self, parts: Sequence[nn.Module], optimizers: Sequence[Optimizer]) -> None:
        self._parts = parts
        self._device = next(parts[0].parameters()).device
        self.finite, self._skip, self._step, self._at, self._count, self._row, self._longest = torch.zeros(
            7, device=self._device
        ).unbind()
        self.reads = self._device.type == "cpu"
        self._copied: list[Optimizer] = []  # optimizers whose weights and states are copied
        self._guarded: dict[Tensor, None] = {}
        for optimizer in optimizers:
            if _can_skip(optimizer):
                cast(Any, optimizer).found_inf = self._skip  # torch's name for: skip the update if this is 1
                self._guarded |= dict.fromkeys(p for group in optimizer.param_groups for p in group["params"])
            else:
                self._copied.append(optimizer)
        self._watched: list[tuple[str, Tensor]] = []  # since the last look
        # By what was watched together: the steps in which it was first not finite.
        self._first: dict[tuple[str, ...], Tensor] = {}
        self._pictures: dict[str, Tensor] = {}
        self._new: list[Optimizer] = []  # of those, without a state at the step's beginning
        self._found = -1  # values in the optimizers' states when they were last looked through
        self._bits: defaultdict[torch.dtype, list[Tensor]] = defaultdict(list)  # of what is copied, as integers
        self._kept: defaultdict[torch.dtype, list[Tensor]] = defaultdict(list)  # the copies, in the same order

    @torch.no_grad()
    def begin(self, step: int) -> None:
        """Note the number of the next step: finished steps of the phase."""
        self._step.fill_(step)

    @torch.no_grad()
    def keep(self) -> None:
        """Copy what may have to be put back."""
        self.finite.fill_(1)
        self._watched.clear()
        self._new = [optimizer for optimizer in self._copied if not optimizer.state]
        self._find()
        for dtype, tensors in self._bits.items():
            kept = self._kept[dtype]
            kept += [torch.empty_like(tensor) for tensor in tensors[len(kept) :]]
            torch._foreach_copy_(kept, tensors)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

    def watch(self, name: str, value: Tensor) -> None:
        """Take note of a loss or of a gradient's norm, a single number without a gradient."""
        self._watched.append((name, value))

    @torch.no_grad()
    def look(self) -> None:
        """See whether what was watched since the last look is finite; if not, fused Adam skips updates from here on."""
        if self._watched:
            names = tuple(name for name, _ in self._watched)
            finite = torch.stack([value.float() for _, value in self._watched]).isfinite()
            self._watched.clear()
            if names not in self._first:
                self._first[names] = torch.full(finite.shape, torch.inf, device=self._device)
            first = self._first[names]
            first.copy_(torch.where(finite, first, first.minimum(self._step)))
            self.finite.mul_(finite.all())
        self._skip.copy_(self.finite != 1)

    @torch.no_grad()
    def decide(self, **pictures: Tensor) -> None:
        """Count the step if it was not finite, and keep its pictures if it is the first since the last report."""
        taken = self.finite == 1
        first = ~taken & (self._count == 0)
        for name, picture in pictures.items():
            if name not in self._pictures:
                self._pictures[name] = torch.zeros_like(picture)
            kept = self._pictures[name]
            torch.where(first, picture, kept, out=kept)
        self._at.copy_(torch.where(first, self._step, self._at))
        self._count.add_(~taken)
        self._row.add_(1).mul_(~taken)
        self._longest.copy_(self._longest.maximum(self._row))
        self.finite.copy_(taken)

    @torch.no_grad()
    def end(self) -> None:
        """Put back what was copied if the step was not finite, to the bit: on integers, since 0 · NaN is NaN."""
        if self.reads and self.finite == 1:
            return
        if self.reads:
            for optimizer in self._new:
                optimizer.state.clear()
        self._find()
        for dtype, tensors in self._bits.items():
            taken, kept = self.finite.to(dtype), self._kept[dtype]
            torch._foreach_mul_(tensors, taken)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            torch._foreach_mul_(kept, 1 - taken)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            torch._foreach_add_(tensors[: len(kept)], kept)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

    def report(self) -> Skipped | None:
        """What was not applied since the last report; None if all was. Waits for the device."""
        count = int(self._count)
        if not count:
            return None
        at = float(self._at)
        causes = [
            name
            for names, first in self._first.items()
            for name, step in zip(names, first.tolist(), strict=True)
            if step == at
        ]
        pictures = {name: picture.clone() for name, picture in self._pictures.items()}
        for first in self._first.values():
            first.fill_(torch.inf)
        self._count.zero_()
        return Skipped(int(at), causes[0] if causes else None, count, int(self._longest), pictures)

    def _find(self) -> None:
        """Look for the tensors to copy; an optimizer makes those of its state when it first needs them."""
        states = [value for optimizer in self._copied for state in optimizer.state.values() for value in state.values()]
        if len(states) == self._found:
            return
        self._found = len(states)
        values = [value for part in self._parts for value in part.state_dict(keep_vars=True).values()]
        for value in (*values, *states):
            if isinstance(value, Tensor) and value.device == self._device and value not in self._guarded:
                self._guarded[value] = None
                bits = value.detach().view(_BITS[value.element_size()])
                self._bits[bits.dtype].append(bits)


def _can_skip(optimizer: Optimizer) -> bool:
    """True if the optimizer skips an update, its count included, when a tensor on the device says so.

    A fused SGD does, too, but leaves its momentum undefined if that is its first step.
    """
    return isinstance(optimizer, Adam) and all(group["fused"] for group in optimizer.param_groups)
