"""What matrix factorisation minimises, and the layout that its solvers share.

Ratings are scaled, ``r' = (r - mean) / scale``, so that step sizes do not depend on their unit. A
user is a row of ``width`` float32 lanes, and so is an item; a prediction is their product:

====================  =====================  =====================
lanes                 user                   item
====================  =====================  =====================
0 (with biases)       bias                   1, held
1 (with biases)       1, held                bias
next                  factors                factors
to a multiple of 8    0                      0
====================  =====================  =====================
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dask_petuum.data import Partition
from dask_petuum.runtime.job import Job

from .kernels.mf_lanes import LANES

__all__ = ["Penalty", "Problem", "Split", "pose", "split_ratings"]

#: Spread of the first factors; products of 40 of them are a sixteenth of a rating's spread.
FIRST_SPREAD = 0.1

Floats = NDArray[np.float32]


class Penalty(NamedTuple):
    """Strength of the penalties, in the unit of the ratings."""

    factors: float
    biases: float
    #: Whether a row's penalty counts once for each of its ratings.
    weighted: bool


class Split(NamedTuple):
    """A partition's ratings, scaled: CSR to train on, and triplets held out."""

    data: Floats
    indices: NDArray[Any]
    indptr: NDArray[Any]
    held_users: NDArray[np.int64]
    held_items: NDArray[np.int64]
    held_ratings: Floats


@dataclass(frozen=True)
class Problem:
    """The objective, without the ratings.

    Attributes
    ----------
    rank
        Number of factors.
    has_biases
        Whether there are biases and a mean.
    penalty
        As the user gave it.
    mean, scale
        Ratings are ``(r - mean) / scale`` inside.
    item_counts
        (n_items,) int64 ratings of each item to train on.
    n_ratings, n_held
        Ratings to train on, and held out.
    share, seed
        Share of the ratings to hold out, and the root of all random numbers.
    """

    rank: int
    has_biases: bool
    penalty: Penalty
    mean: float
    scale: float
    item_counts: NDArray[np.int64]
    n_ratings: int
    n_held: int
    share: float
    seed: int

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.item_counts)

    @property
    def width(self) -> int:
        """Lanes of a row."""
        return -(-(self.rank + 2 * self.has_biases) // LANES) * LANES

    @property
    def factors(self) -> slice:
        """Lanes of the factors."""
        return slice(2 * self.has_biases, 2 * self.has_biases + self.rank)

    def lanes(self) -> Floats:
        """Say which lanes are free and their penalties.

        Returns
        -------
        (4, width): free lanes (1, else 0) and penalties of users, the same of items
        """
        out = np.zeros((4, self.width), np.float32)
        # Lanes that pad a row count as factors: they are 0 on both sides, and stay so.
        out[0::2, self.factors.start :] = 1
        # In scaled ratings factors are smaller by sqrt(scale), biases by scale.
        out[1::2, self.factors.start :] = self.penalty.factors / self.scale
        if self.has_biases:
            for side in (0, 1):
                out[2 * side, side] = 1
                out[2 * side + 1, side] = self.penalty.biases
        return out

    def counts(self, ratings: NDArray[Any]) -> Floats:
        """Factor of each row's penalty, from its number of ratings."""
        if self.penalty.weighted:
            return ratings.astype(np.float32)
        return np.ones(len(ratings), np.float32)

    def first(self, n_rows: int, side: int, rng: np.random.Generator) -> Floats:
        """Draw first rows of users (side 0) or items (side 1)."""
        out = np.zeros((n_rows, self.width), np.float32)
        out[:, self.factors] = FIRST_SPREAD * rng.standard_normal(
            (n_rows, self.rank), dtype=np.float32
        )
        if self.has_biases:
            out[:, 1 - side] = 1
        return out

    def first_items(self) -> Floats:
        """First rows of the items; those without ratings stay 0."""
        out = self.first(self.n_items, 1, np.random.default_rng([self.seed, 1]))
        out[self.item_counts == 0, self.factors] = 0
        return out

    def unpack(self, rows: Floats, side: int) -> tuple[Floats, Floats]:
        """Return factors (n_rows, rank) and biases (n_rows,) in the unit of the ratings."""
        factors = rows[:, self.factors] * np.float32(np.sqrt(self.scale))
        if not self.has_biases:
            return factors, np.zeros(len(rows), np.float32)
        return factors, rows[:, side] * np.float32(self.scale)

    def pack(self, factors: Floats, biases: Floats, side: int) -> Floats:
        """Return the rows of given factors and biases; undoes `unpack`."""
        out = np.zeros((len(factors), self.width), np.float32)
        out[:, self.factors] = factors / np.float32(np.sqrt(self.scale))
        if self.has_biases:
            out[:, side] = biases / np.float32(self.scale)
            out[:, 1 - side] = 1
        return out


def _held(partition: Partition, share: float, seed: int) -> NDArray[np.bool_]:
    """Say which of a partition's ratings are held out."""
    rng = np.random.default_rng([seed, 2, partition.index])
    out: NDArray[np.bool_] = rng.random(len(partition.data.data)) < share
    return out


def split_ratings(problem: Problem, partition: Partition) -> Split:
    """Scale a partition's ratings and hold out its share."""
    csr: Any = partition.data
    data = ((csr.data - problem.mean) / problem.scale).astype(np.float32)
    if not problem.share:
        none = np.empty(0, np.int64)
        return Split(data, csr.indices, csr.indptr, none, none, np.empty(0, np.float32))
    held = _held(partition, problem.share, problem.seed)
    users = np.repeat(np.arange(partition.n_rows), np.diff(csr.indptr))
    kept = np.concatenate([[0], np.cumsum(~held)])
    return Split(
        data[~held],
        csr.indices[~held],
        kept[csr.indptr],
        users[held],
        csr.indices[held].astype(np.int64),
        data[held],
    )


class _Sums(NamedTuple):
    """What `pose` needs to know of a partition."""

    n_ratings: int
    total: float
    squares: float
    item_counts: NDArray[np.int64]


def _sum_up(share: float, seed: int, partition: Partition) -> _Sums:
    csr: Any = partition.data
    indices, values = csr.indices, csr.data
    if share:
        kept = ~_held(partition, share, seed)
        indices, values = indices[kept], values[kept]
    counts = np.bincount(indices, minlength=csr.shape[1]).astype(np.int64)
    total = float(values.sum(dtype=np.float64))
    return _Sums(len(values), total, float(np.vdot(values, values.astype(np.float64))), counts)


def pose(
    job: Job, *, rank: int, has_biases: bool, penalty: Penalty, share: float, seed: int
) -> Problem:
    """Look at the ratings where they lie, and put the problem together.

    Raises
    ------
    ValueError
        Where there is no rating to train on.
    """
    parts = job.map(partial(_sum_up, share, seed))
    n_ratings = sum(part.n_ratings for part in parts)
    if not n_ratings:
        raise ValueError("there is no rating to train on: X holds none (or all are held out)")
    mean = sum(part.total for part in parts) / n_ratings if has_biases else 0.0
    spread = sum(part.squares for part in parts) / n_ratings - mean**2
    n_all = sum(size.nnz for size in job.sizes)
    return Problem(
        rank,
        has_biases,
        penalty,
        mean,
        float(np.sqrt(spread)) if spread > 1e-12 * max(1.0, mean**2) else 1.0,
        np.sum([part.item_counts for part in parts], axis=0),
        n_ratings,
        n_all - n_ratings,
        share,
        seed,
    )
