"""One rank of a training: its replica, its rows, and how it agrees with the others.

Three ways to agree. *Gradients* are averaged in every step (BSP; all replicas stay the same). With
*local steps*, the mean of the changes of H steps is applied by an outer optimiser. *Stale*: the
change of a clock is added to a table of the store, which all ranks read with its bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse

from dask_petuum.data import Partition
from dask_petuum.nn.agreement import all_agree, bytes_of, own_sums, put_bytes, values_of_rank_0
from dask_petuum.nn.buffers import difference
from dask_petuum.nn.devices import choose_device
from dask_petuum.nn.exchange import GradientExchange
from dask_petuum.nn.mesh import Mesh
from dask_petuum.nn.outer import Outer, flatten, unflatten
from dask_petuum.nn.plan import Plan
from dask_petuum.nn.real_numbers import n_numbers
from dask_petuum.nn.recipe import Recipe, check_shapes, load_weights, shapes_of
from dask_petuum.nn.replica import Batch, Replica
from dask_petuum.nn.seeds import own_random_numbers
from dask_petuum.nn.state import (
    load_lost,
    load_replica,
    lost_arrays,
    module_arrays,
    replica_arrays,
)
from dask_petuum.nn.threads import torch_threads
from dask_petuum.nn.units import plan_units
from dask_petuum.nn.vector_sum import VectorSum
from dask_petuum.nn.wire import Wire

__all__ = ["Settings", "Trainer"]

#: Name in a checkpoint of what a clock left, before the clock's number.
KEPT = "kept."
#: Rows that are looked at together where nothing is learnt from them.
LOOK_ROWS = 1024


@dataclass(frozen=True)
class Settings:
    """How ranks communicate.

    Parameters
    ----------
    device, chooses_device
        Where the module is; whether a rank takes the GPU of its place on its host.
    factors
        Whether Linear layers may send sufficient factors; "auto": unless all ranks share memory.
    wire
        Type of the numbers that are sent: "float32", "float16" or "bfloat16".
    overlap
        Whether gradients leave during the backward pass.
    clip
        Largest norm of a step's gradient, or None.
    outer_rate, outer_momentum
        Of the outer optimiser.
    autocast
        Type of what may be computed less exactly, or None.
    weight_unit
        Factor of the rows' weights that makes their mean 1.
    """

    device: str = "cpu"
    chooses_device: bool = False
    factors: bool | str = "auto"
    wire: str = "float32"
    overlap: bool = True
    clip: float | None = None
    outer_rate: float = 1.0
    outer_momentum: float = 0.0
    autocast: str | None = None
    weight_unit: float = 1.0


class Trainer:
    """One rank of a training.

    Parameters
    ----------
    recipe, plan, settings
        What is trained, by which rows, and how ranks communicate.
    weights
        First parameters and buffers by name; None: the recipe's.
    mesh
        The ranks.
    n_threads
        Threads of torch.

    The mutable state is that of the replica, the wire and the outer optimiser, where the local
    steps began (`_start`), whether a clock has (`_has_begun`), the number of sums so far
    (`_stamp`), `_orders` and `_kept`.
    """

    def __init__(
        self,
        recipe: Recipe,
        plan: Plan,
        settings: Settings,
        weights: Mapping[str, Any] | None,
        mesh: Mesh,
        n_threads: int,
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._mesh = mesh
        self._n_threads = n_threads
        self.partitions: list[tuple[Partition, Any]] = []
        self.wire = Wire(settings.wire)
        self._averages = plan.local_steps == 1 and not plan.stale
        self._exchanges = self._averages and mesh.n_ranks > 1
        self.replica = Replica(
            recipe,
            _device(settings, mesh),
            lambda module: plan_units(
                module,
                mesh.n_ranks if self._exchanges else 1,
                min(plan.batch_size, max(map(plan.n_training, range(len(plan.sizes))))),
                not mesh.is_near if settings.factors == "auto" else bool(settings.factors),
                mesh.is_near,
            ),
            lambda units: GradientExchange(mesh, units, self.wire) if self._exchanges else None,
            settings.clip,
            settings.overlap,
            settings.autocast,
        )
        if weights is not None:
            load_weights(self.replica.module, weights)
        for _ in range(plan.first_epoch):
            self.replica.end_pass()
        tensors = [p for _, p in self.replica.parameters]
        self._buffers = [b for _, b in self.replica.averaged_buffers]
        self._all = [*tensors, *self._buffers]
        n_parameters = sum(map(n_numbers, tensors))
        self._outer = Outer(settings.outer_rate, settings.outer_momentum, n_parameters)
        self._whole = VectorSum(mesh, self.wire, len(self.replica.units))
        # rounding must not touch what is the same in all ranks, nor running variances
        self._exact = VectorSum(mesh, Wire("float32"), len(self.replica.units) + 1)
        self._stamp = 0
        self._has_begun = False
        self._shapes = shapes_of(self.replica.module)
        #: The order of the pass under way, by partition: (pass, (row numbers, seeds of steps)).
        self._orders: dict[int, tuple[int, tuple[Any, Any]]] = {}
        self._start = flatten(self._all)
        #: What was left at the end of passes, by clock: of the best, and of those not judged yet.
        self._kept: dict[int, Any] = {}

    @property
    def vector(self) -> Any:
        """Trained parameters and averaged buffers as one float32 tensor."""
        self.replica.buffers.settle()
        return flatten(self._all)

    def change_since(self, start: Any) -> Any:
        """What has moved from a vector, float32 too; 0 where nothing has."""
        return difference(self.vector, torch.as_tensor(start))

    @property
    def share(self) -> float:
        """This rank's share of the rows that are trained on."""
        return sum(self._plan.share(part.index) for part, _ in self.partitions)

    def train(self, clock: int, vector: Any = None) -> dict[str, float]:
        """Make the steps of a clock; give its metrics, and bytes saved by layer as `saved.NAME`.

        Parameters
        ----------
        clock
            Which, from 0.
        vector
            Where to start, if not where this rank stands.
        """
        if vector is not None:
            self.place(vector)
        is_first = not self._has_begun
        if is_first:
            self._begin_the_same()
        before, saved = self._sent_bytes, self._saved()
        with torch_threads(self._n_threads):
            loss, weight = self._steps(self._plan.steps(clock))
            if is_first:
                check_shapes(self.replica.module, self._shapes)
            looks = self._plan.validation_fraction > 0 and self._plan.ends_pass(clock)
            valid = self._validate() if looks else (0.0, 0.0)
        if looks:
            self._kept[clock] = self.vector
        full = self._full_bytes(len(self._plan.steps(clock)))
        return {
            "loss": loss,
            "weight": weight,
            "valid_loss": valid[0],
            "valid_weight": valid[1],
            "gradient_bytes": float(self._sent_bytes - before),
            "full_bytes": float(full),
            **{f"saved.{name}": n - saved.get(name, 0) for name, n in self._saved().items()},
        }

    def place(self, vector: Any) -> None:
        """Go to a float32 array of trained parameters and averaged buffers."""
        self._go(torch.from_numpy(np.array(vector)))

    def keep_best(self, clock: int | None, n_judged: int) -> None:
        """Keep what the best of the clocks that have been judged left, and all since."""
        self._kept = {n: v for n, v in self._kept.items() if n == clock or n >= n_judged}

    def place_best(self, clock: int | None) -> None:
        """Go back to what the best clock left, where it is kept."""
        if clock in self._kept:
            self.place(self._kept[clock].numpy())

    def arrays(self) -> dict[str, Any]:
        """All that this rank remembers."""
        extra = {"outer": self._outer.velocity.numpy(), "start": self._start.numpy()}
        kept = {f"{KEPT}{clock}": vector.numpy() for clock, vector in self._kept.items()}
        lost = lost_arrays(self.replica, self.wire, self._mesh)
        return replica_arrays(self.replica) | lost | extra | kept

    def load(self, arrays: Mapping[str, Any], clock: int) -> None:
        """Remember what :meth:`arrays` gave at the end of a clock."""
        first = self._plan.steps(clock).start
        load_replica(self.replica, arrays, self._passes_before(first))
        load_lost(self.replica, self.wire, self._mesh, arrays)
        self._outer.velocity = torch.from_numpy(np.array(arrays["outer"]))
        self._start = torch.from_numpy(np.array(arrays["start"]))
        self._kept = {
            int(name.removeprefix(KEPT)): torch.from_numpy(np.array(values))
            for name, values in arrays.items()
            if name.startswith(KEPT)
        }

    def weights(self) -> dict[str, Any]:
        """The module's parameters and buffers by name."""
        self.replica.settle()
        return module_arrays(self.replica.module)

    @property
    def _sent_bytes(self) -> int:
        exchange = self.replica.exchange
        sent = self._whole.n_bytes + self._exact.n_bytes
        return sent + (0 if exchange is None else exchange.n_bytes)

    def _saved(self) -> dict[str, int]:
        exchange = self.replica.exchange
        return {} if exchange is None else dict(exchange.saved)

    def _full_bytes(self, n_steps: int) -> int:
        if self._mesh.n_ranks == 1 or self._plan.stale:
            return 0
        n_ranks = self._mesh.n_ranks
        return n_steps * 4 * (2 * (n_ranks - 1) * len(self._outer.velocity) // n_ranks)

    def _steps(self, steps: range) -> tuple[float, float]:
        losses, weight = [], 0.0
        n_passes = self._passes_before(steps.start)
        self.replica.buffers.begin()
        with own_random_numbers():
            for step in steps:
                if step // self._plan.steps_per_pass > n_passes:
                    self.replica.end_pass()
                    n_passes += 1
                batches = [b for b in self._batches(step) if len(b.rows)]
                own = sum(len(b.rows) for b in batches)
                n_rows = self._plan.n_rows(step) if self._exchanges else own
                losses += self.replica.step(batches, max(n_rows, 1))
                weight += sum(b.weight for b in batches)
                if self._plan.meets_after(step):
                    self._meet()
        self.replica.settle()
        if self._averages and len(self._plan.sizes) > 1:
            self._average_buffers()
        return float(torch.stack(losses).cpu().double().sum()) if losses else 0.0, weight

    def _passes_before(self, step: int) -> int:
        """Passes whose end the schedule has seen when a clock begins with this step."""
        return max(step - 1, 0) // self._plan.steps_per_pass

    def _batches(self, step: int) -> Iterator[Batch]:
        for part, target in self.partitions:
            low, high = self._plan.bounds(part.index, step)
            order, seeds = self._order(part.index, step)
            rows, seed = order[low:high], int(seeds[step % self._plan.steps_per_pass])
            # ranks that step apart have one model each, and so one set of buffers
            yield self._batch(part, target, rows, seed, part.index if self._averages else 0)

    def _order(self, partition: int, step: int) -> tuple[Any, Any]:
        """Row numbers of the pass that a step belongs to, and the seeds of its steps."""
        key = step // self._plan.steps_per_pass
        if self._orders.get(partition, (None,))[0] != key:
            rows = self._plan.training_rows(partition, step)
            self._orders[partition] = key, (rows, self._plan.step_seeds(partition, step))
        return self._orders[partition][1]

    def _batch(
        self, part: Partition, target: Any, rows: Any, seed: int = 0, partition: int = 0
    ) -> Batch:
        data: Any = part.data[rows]
        sparse: bool = bool(issparse(data))
        data = data.toarray() if sparse else data
        weights = None
        if part.sample_weight is not None:
            chosen = part.sample_weight[rows] * self._settings.weight_unit
            weights = torch.from_numpy(np.asarray(chosen, np.float32))
        return Batch(
            torch.from_numpy(np.ascontiguousarray(data, np.float32)),
            torch.from_numpy(target[rows]),
            weights,
            seed,
            partition,
        )

    def _validate(self) -> tuple[float, float]:
        loss = weight = 0.0
        with own_random_numbers():  # a module may draw some here, too
            for part, target in self.partitions:
                held_out = self._plan.held_out_rows(part.index)
                for first in range(0, len(held_out), LOOK_ROWS):
                    rows = held_out[first : first + LOOK_ROWS]
                    batch = self._batch(part, target, rows, part.index)
                    loss += self.replica.losses(batch)
                    weight += batch.weight
        return loss, weight

    def _meet(self) -> None:
        """Let the outer optimiser apply the mean of all ranks' changes since the last time."""
        change = self.change_since(self._start) * self.share
        if self._mesh.n_ranks > 1:
            n = len(self._outer.velocity)
            parts = [self._sum(self._whole, change[:n])]
            if n < len(change):
                parts.append(self._sum(self._exact, change[n:]))
            change = torch.cat(parts)
        self._start = self._outer.move(self._start, change)
        self._go(self._start)

    def _go(self, vector: Any) -> None:
        self.replica.settle()
        self.replica.buffers.settle()
        unflatten(vector, self._all)

    def _average_buffers(self) -> None:
        """Average buffers; see to it that weights are the same where each rank made its own sums.

        Products of the same factors may differ in the last bit between processors of different
        kinds. Checksums go with the buffers; where they differ, all take rank 0's weights, and of
        buffers that are not averaged those of the rank that has the first partition.
        """
        buffers = self.replica.buffers
        shares = {part.index: self._plan.share(part.index) for part, _ in self.partitions}
        changes = buffers.changes(shares)
        others = buffers.others(min(shares, default=0))
        made = [u.parameters[0] for u in self.replica.units if u.kind == "factors"]
        if self._exchanges and (made or changes or others):
            sums = [own_sums(self._mesh, tensors) for tensors in (made, others)]
            vector = self._sum(self._exact, flatten([*changes, *sums]))
            unflatten(vector, [*changes, *sums])
            self._agree(sums[0], made)
            if not all_agree(sums[1]):
                own = bytes_of(others)
                own = own if 0 in shares else torch.zeros_like(own)
                others = put_bytes(self._sum(self._exact, own), others)
        buffers.end(changes, others)

    def _begin_the_same(self) -> None:
        """See to it that all ranks begin with the same parameters and buffers."""
        self._has_begun = True
        if self._plan.stale or self._mesh.n_ranks == 1:
            return
        tensors = [*self.replica.module.parameters(), *self._buffers]
        sums = own_sums(self._mesh, tensors)
        if not self._agree(self._sum(self._exact, sums.reshape(-1)).view(sums.shape), tensors):
            self._start = self.vector

    def _agree(self, sums: Any, tensors: list[Any]) -> bool:
        """Whether all had the same; where not, all have rank 0's now."""
        agree = all_agree(sums)
        if not agree:
            unflatten(self._sum(self._exact, values_of_rank_0(self._mesh, tensors)), tensors)
        return agree

    def _sum(self, vectors: VectorSum, values: Any) -> Any:
        self._stamp += 1
        vectors.leave(values, np.zeros(1, np.int32), self._stamp)
        vectors.reduce(self._stamp)
        return vectors.arrive(self._stamp)[0]


def _device(settings: Settings, mesh: Mesh) -> str:
    if not settings.chooses_device:
        return settings.device
    return choose_device(settings.device, mesh.position, torch.cuda.device_count())
