"""Which rows each step of a training visits, and which steps belong to a clock. Pure; no torch.

Every partition goes through its rows in a new order in each pass, cut into as many batches as the
largest partition needs; into fewer, with steps that it gives no row to, where batches would be of a
single row, of which BatchNorm can make nothing. Orders and the seeds of a step's random numbers
depend on (seed, partition, pass or step) only: never on ranks or on where a run was resumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Plan"]

#: Steps of a clock at most where every step averages gradients: what a lost worker costs.
MAX_STEPS = 100
#: What a random stream is for.
ORDER, STEP, HELD_OUT = 0, 1, 2


@dataclass(frozen=True)
class Plan:
    """The course of a training.

    Parameters
    ----------
    sizes
        Rows of each partition.
    batch_size
        Rows that a partition gives to a step at most; 3 in place of 2, if 1 would be left.
    max_epochs
        Passes over the rows.
    seed
        Root of the random streams.
    shuffle
        New order in each pass.
    validation_fraction
        Share of each partition's rows that is held out; 0: none.
    local_steps
        Steps between two exchanges.
    stale
        Whether changes of the weights go through the store's table, one exchange a clock.
    first_epoch
        Passes made by earlier calls.
    """

    sizes: tuple[int, ...]
    batch_size: int
    max_epochs: int
    seed: int
    shuffle: bool = True
    validation_fraction: float = 0.0
    local_steps: int = 1
    stale: bool = False
    first_epoch: int = 0

    @property
    def steps_per_pass(self) -> int:
        """Steps in which every row is visited once."""
        n_rows = max(map(self.n_training, range(len(self.sizes))))
        return self._n_batches(n_rows, -(-n_rows // self.batch_size))

    @property
    def n_steps(self) -> int:
        """Steps of the whole training."""
        return self.max_epochs * self.steps_per_pass

    @property
    def steps_per_clock(self) -> int | None:
        """Steps of a clock; None: a pass, or an equal part of it of at most MAX_STEPS."""
        if self.stale:
            return self.local_steps
        if self.local_steps > 1:
            return max(1, min(MAX_STEPS, self.steps_per_pass) // self.local_steps) * (
                self.local_steps
            )
        return None

    @property
    def clocks_per_pass(self) -> int:
        """Clocks of a pass, where it has whole ones."""
        return -(-self.steps_per_pass // MAX_STEPS)

    @property
    def n_clocks(self) -> int:
        """Clocks of the whole training."""
        fixed = self.steps_per_clock
        if fixed is None:
            return self.max_epochs * self.clocks_per_pass
        return -(-self.n_steps // fixed)

    def steps(self, clock: int) -> range:
        """Numbers of a clock's steps."""
        fixed = self.steps_per_clock
        if fixed is not None:
            return range(clock * fixed, min((clock + 1) * fixed, self.n_steps))
        ends = [i * self.steps_per_pass // self.clocks_per_pass for i in (clock, clock + 1)]
        return range(*ends)

    def ends_pass(self, clock: int) -> bool:
        """Whether a pass ends within a clock."""
        return self.passes(clock) > self.steps(clock).start // self.steps_per_pass

    def passes(self, clock: int) -> int:
        """Whole passes that have been made at the end of a clock."""
        return self.steps(clock).stop // self.steps_per_pass

    def share(self, partition: int) -> float:
        """A partition's share of the rows that are trained on."""
        return self.n_training(partition) / sum(map(self.n_training, range(len(self.sizes))))

    def meets_after(self, step: int) -> bool:
        """Whether the ranks average their local steps after a step."""
        if self.stale or self.local_steps == 1:
            return False
        return (step + 1) % self.local_steps == 0 or step + 1 == self.n_steps

    def n_training(self, partition: int) -> int:
        """Rows of a partition that are trained on."""
        return self.sizes[partition] - self.n_held_out(partition)

    def n_held_out(self, partition: int) -> int:
        """Rows of a partition that are held out."""
        return int(self.sizes[partition] * self.validation_fraction)

    def bounds(self, partition: int, step: int) -> tuple[int, int]:
        """First and last place (exclusive) in a pass's order that a step visits."""
        n, n_steps = self.n_training(partition), self.steps_per_pass
        n_batches, place = self._n_batches(n, n_steps), step % n_steps
        low, high = (n * (i * n_batches // n_steps) // n_batches for i in (place, place + 1))
        return low, high

    def n_rows(self, step: int) -> int:
        """Rows of a step over all partitions."""
        bounds = [self.bounds(i, step) for i in range(len(self.sizes))]
        return sum(high - low for low, high in bounds)

    def training_rows(self, partition: int, step: int) -> NDArray[np.int64]:
        """The order of the pass that a step belongs to, (n_training,): row numbers."""
        rows = self._split(partition)[self.n_held_out(partition) :]
        if not self.shuffle:
            return np.sort(rows)
        number = self.first_epoch + step // self.steps_per_pass
        order: NDArray[np.int64] = self._rng(ORDER, partition, number).permutation(rows)
        return order

    def held_out_rows(self, partition: int) -> NDArray[np.int64]:
        """Rows that are held out, (n_held_out,)."""
        return np.sort(self._split(partition)[: self.n_held_out(partition)])

    def step_seeds(self, partition: int, step: int) -> NDArray[np.int64]:
        """Seeds of the random numbers (dropout) of a partition, for each step of a step's pass."""
        number = self.first_epoch + step // self.steps_per_pass
        seeds: NDArray[np.int64] = self._rng(STEP, partition, number).integers(
            2**63 - 1, size=self.steps_per_pass
        )
        return seeds

    def _n_batches(self, n_rows: int, n_most: int) -> int:
        """Batches of a partition in a pass: of two rows at least, unless one is asked for."""
        return n_most if self.batch_size == 1 else max(1, min(n_most, n_rows // 2))

    def _split(self, partition: int) -> NDArray[np.int64]:
        rows = np.arange(self.sizes[partition])
        if not self.validation_fraction:
            return rows
        mixed: NDArray[np.int64] = self._rng(HELD_OUT, partition, 0).permutation(rows)
        return mixed

    def _rng(self, what: int, partition: int, number: int) -> Any:
        key = (what, partition, number)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))
