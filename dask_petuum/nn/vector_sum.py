"""The sum of one vector over all ranks, the same bits in each of them.

Two ranks send each other all of it. More than two cut it into one slice a rank: an owner adds up
its slice in the order of ranks and sends the sum back, which is the traffic of a ring but two
messages long. Sending is apart from waiting: `leave`, then `reduce`, then `arrive`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dask_petuum.nn.mesh import Mesh
from dask_petuum.nn.wire import Wire

__all__ = ["BLOCKS_EACH", "OF_OWNER", "VectorSum"]

#: Block numbers that one needs, by rank: there and back.
BLOCKS_EACH = 2
#: End of the name under which the wire remembers what it lost of an owner's sum.
OF_OWNER = ".sum"


class VectorSum:
    """One vector that is summed again and again.

    Parameters
    ----------
    mesh, wire
        Where and how to send.
    number
        Of this vector, unique in the run: its blocks are named by it.

    The mutable state is what was sent in this round, `_own`, and an owner's `_sum`.
    """

    def __init__(self, mesh: Mesh, wire: Wire, number: int) -> None:
        self._mesh = mesh
        self._wire = wire
        self._name = str(number)
        self._there = number * BLOCKS_EACH * mesh.n_ranks
        self._back = self._there + mesh.n_ranks
        self._others = [r for r in range(mesh.n_ranks) if r != mesh.rank]
        self._own: dict[int, dict[str, Any]] = {}
        self._sum: dict[str, Any] = {}
        #: Bytes sent so far.
        self.n_bytes = 0

    @property
    def _is_direct(self) -> bool:
        return self._mesh.n_ranks == 2

    def leave(self, values: Any, used: Any, stamp: int) -> None:
        """Send a float32 vector, and an int32 array that is summed as well."""
        if self._is_direct:
            packed = {**self._wire.pack(values, self._name), "u": used}
            self._own = {self._mesh.rank: packed}
            self._send(self._others, self._there + self._mesh.rank, stamp, packed)
            return
        for rank, part in enumerate(torch.tensor_split(values, self._mesh.n_ranks)):
            packed = {**self._wire.pack(part, f"{self._name}.{rank}"), "u": used}
            self._own[rank] = packed
            if rank != self._mesh.rank:
                self._send([rank], self._there + self._mesh.rank, stamp, packed)

    def reduce(self, stamp: int) -> None:
        """Add up this rank's slice and send the sum; waits for the others' slices."""
        if self._is_direct:
            return
        total, used = self._added(self._own[self._mesh.rank], stamp)
        self._sum = {**self._wire.pack(total, self._name + OF_OWNER), "u": used}
        self._send(self._others, self._back + self._mesh.rank, stamp, self._sum)

    def arrive(self, stamp: int) -> tuple[Any, Any]:
        """Wait for the sums: the vector's, and the array's."""
        if self._is_direct:
            return self._added(self._own[self._mesh.rank], stamp)
        parts = [
            self._sum
            if rank == self._mesh.rank
            else self._mesh.take(rank, self._back + rank, stamp)
            for rank in range(self._mesh.n_ranks)
        ]
        return torch.cat([self._wire.unpack(part) for part in parts]), parts[0]["u"]

    def forget(self) -> None:
        """Forget what rounding took: there is no next vector to add it to."""
        for name in list(self._wire.lost):
            if name == self._name or name.startswith(f"{self._name}."):
                del self._wire.lost[name]

    def _added(self, own: dict[str, Any], stamp: int) -> tuple[Any, Any]:
        if self._is_direct and self._mesh.is_near:
            return self._added_in_place(own, stamp)
        total, used = None, np.zeros_like(own["u"])
        for rank in range(self._mesh.n_ranks):
            here = rank == self._mesh.rank
            part = own if here else self._take(rank, stamp)
            values = self._wire.unpack(part)
            total = values if total is None else total + values
            used = used + part["u"]
        return total, used

    def _added_in_place(self, own: dict[str, Any], stamp: int) -> tuple[Any, Any]:
        """The sum of two, in this rank's own vector: it has been copied when it was sent."""
        theirs = self._take(self._others[0], stamp)
        total = self._wire.unpack(own)
        return total.add_(self._wire.unpack(theirs)), own["u"] + theirs["u"]

    def _take(self, rank: int, stamp: int) -> dict[str, Any]:
        return self._mesh.take(rank, self._there + rank, stamp)

    def _send(self, ranks: list[int], block: int, stamp: int, arrays: dict[str, Any]) -> None:
        self.n_bytes += len(ranks) * sum(values.nbytes for values in arrays.values())
        self._mesh.send(ranks, block, stamp, arrays)
