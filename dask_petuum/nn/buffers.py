"""A module's buffers, such as BatchNorm's running means, apart for each partition within a clock.

Batch statistics are those of a partition's batch, so the running ones are the partition's as well.
At the end of a clock, the changes that partitions made are averaged by their rows; of whole numbers
and truth values, such as BatchNorm's count of batches, those of the first partition stand. So what
a module has learnt does not depend on how partitions lie on ranks. Buffers that nobody changes keep
their bits. A module may put a new tensor in a buffer's place, as in
``self.mean = self.mean + ...``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

__all__ = ["PartitionBuffers", "difference", "is_averaged"]


def is_averaged(buffer: Any) -> bool:
    """Whether a mean of a buffer's values is one: floating numbers and complex ones."""
    return bool(buffer.is_floating_point() or buffer.is_complex())


def difference(value: Any, first: Any) -> Any:
    """How far values have moved; 0 where they are the same: these may be infinite."""
    return torch.where(value == first, 0, value - first)


class PartitionBuffers:
    """The buffers of a module that is trained.

    The mutable state is the module's (`_tensors` are those that it had first), what it had at the
    clock's beginning (`_first`), and whose buffers it has now (`_now`); `_kept` has those of the
    others.
    """

    def __init__(self, module: Any) -> None:
        self._tensors = list(module.buffers())
        numbers = {id(each): n for n, each in enumerate(self._tensors)}
        #: Where each is: (number, its module, name in it).
        self._places = [
            (numbers[id(each)], part, name)
            for part in module.modules()
            for name, each in part.named_buffers(recurse=False, remove_duplicate=False)
        ]
        self.begin()

    @property
    def _averaged(self) -> list[int]:
        return [n for n, each in enumerate(self._tensors) if is_averaged(each)]

    def settle(self) -> None:
        """Let the module have its first tensors again, with the numbers that it has now.

        A buffer that has another shape now, or is none any more, is left alone.
        """
        for number, part, name in self._places:
            now, own = getattr(part, name, None), self._tensors[number]
            if isinstance(now, torch.Tensor) and now is not own and now.shape == own.shape:
                with torch.no_grad():
                    own.copy_(now)
                part._buffers[name] = own

    def begin(self) -> None:
        """Begin a clock."""
        self._first = self.copy()
        self._kept: dict[int, list[Any]] = {}
        self._now: int | None = None

    def copy(self) -> list[Any]:
        """Copies of what the module has now."""
        self.settle()
        return [each.clone() for each in self._tensors]

    def restore(self, values: Sequence[Any]) -> None:
        """Let the module have what was copied."""
        self.settle()
        with torch.no_grad():
            for own, value in zip(self._tensors, values, strict=True):
                own.copy_(value)

    def switch(self, partition: int) -> None:
        """Let the module have the buffers of a partition."""
        if partition == self._now:
            return
        if self._now is not None:
            self._kept[self._now] = self.copy()
            self.restore(self._kept.get(partition, self._first))
        self._now = partition

    def changes(self, shares: Mapping[int, float]) -> list[Any]:
        """Changes of averaged buffers in this clock, the sum over partitions by their shares."""
        if self._now is not None:
            self._kept[self._now] = self.copy()
        out = []
        for place in self._averaged:
            first = self._first[place]
            total = torch.zeros_like(first)
            for partition, share in shares.items():
                value = self._kept.get(partition, self._first)[place]
                total += share * difference(value, first)
            out.append(total)
        return out

    def others(self, partition: int) -> list[Any]:
        """What a partition has in buffers that are not averaged, once `changes` has been called."""
        values = self._kept.get(partition, self._first)
        return [each for each in values if not is_averaged(each)]

    def end(self, changes: Sequence[Any], others: Sequence[Any]) -> None:
        """End a clock: give all partitions the same, what is averaged and what is not."""
        own = iter(others)
        self.restore([each if is_averaged(each) else next(own) for each in self._first])
        with torch.no_grad():
            for place, change in zip(self._averaged, changes, strict=True):
                self._tensors[place].copy_(self._first[place] + change)
