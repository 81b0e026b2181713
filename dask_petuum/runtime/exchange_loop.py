"""The loop of programs whose partitions show each other arrays in rounds.

In a round each rank sends every other one message with what all its partitions gave, and waits for
theirs. Nobody can be more than a round ahead: the message of a round is sent when those of the
one before have come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dask_petuum.data import Partition
from dask_petuum.exceptions import ProtocolError
from dask_petuum.runtime.context import Array
from dask_petuum.runtime.exchange_program import ExchangeProgram
from dask_petuum.runtime.loop import begin_states, run_arrays, state_arrays
from dask_petuum.runtime.metrics import LoopPlan, Metrics, RankResult, add_metrics
from dask_petuum.runtime.program import State
from dask_petuum.runtime.rotation_loop import RotationContext

__all__ = ["run_exchange"]


def run_exchange(
    ctx: RotationContext,
    program: ExchangeProgram,
    partitions: Sequence[Partition],
    plan: LoopPlan,
) -> RankResult:
    """Run a program whose partitions exchange arrays to its end in one rank."""
    ctx.defer_increments()
    metrics = Metrics(ctx, program, plan)
    states = begin_states(ctx, program, partitions)
    both = list(zip(partitions, states, strict=True))
    post = _Post(ctx, plan.homes)
    if ctx.saved is None:
        hands = post.deal({part.index: program.deal(ctx, part, state) for part, state in both})
        for part, state in both:
            program.collect(ctx, part, state, hands.pop(part.index))
        ctx.barrier()
    stopped_by = "max_clocks"
    while (number := metrics.n_done) < plan.max_clocks:
        for turn in range(program.n_rounds(number)):
            at = number, turn
            given = post.show({p.index: program.give(ctx, p, s, at) for p, s in both})
            for part, state in both:
                program.take(ctx, part, state, at, given)
        totals = dict.fromkeys(program.metrics, 0.0)
        for part, state in both:
            add_metrics(totals, program.measure(ctx, part, state))
        metrics.add(totals)
        metrics.end_clock()
        stop = metrics.update()
        if stop:
            stopped_by = stop
            break
        if metrics.saves_now():
            ctx.save(state_arrays(ctx, program, partitions, states) | run_arrays(ctx, metrics))
    n_clocks = metrics.n_done
    ctx.barrier()
    metrics.update()
    outputs = {part.index: program.finish(ctx, part, state) for part, state in both}
    history = metrics.history if ctx.rank == 0 else []
    return RankResult(outputs, history, n_clocks, stopped_by)


class _Post:
    """Messages of rounds to and from the other ranks.

    The mutable state is `_n_sent`, the number of the next round: the same in every rank.
    """

    def __init__(self, ctx: RotationContext, homes: Sequence[int]) -> None:
        self._ctx = ctx
        self._homes = homes
        self._others = sorted(set(homes) - {ctx.rank})
        self._n_sent = 0

    def show(self, given: Mapping[int, State]) -> list[State]:
        """Show all ranks what this one's partitions gave; return what all partitions gave."""
        message = {f"{source}/{name}": v for source, s in given.items() for name, v in s.items()}
        out: dict[int, State] = {source: {} for source in range(len(self._homes))}
        out.update(given)
        for rank, arrays in self._swap(dict.fromkeys(self._others, message)).items():
            for key, values in arrays.items():
                source, _, name = key.partition("/")
                out[self._partition_of(source, rank)][name] = values
        return [out[source] for source in range(len(self._homes))]

    def deal(self, hands: Mapping[int, Sequence[State]]) -> dict[int, list[State]]:
        """Give each partition what is for it; return for each one here what it gets, in order."""
        messages: dict[int, dict[str, Array]] = {rank: {} for rank in self._others}
        own = [index for index, rank in enumerate(self._homes) if rank == self._ctx.rank]
        out: dict[int, list[State]] = {index: [{} for _ in self._homes] for index in own}
        for source, hand in hands.items():
            for to, state in enumerate(hand):
                if to in out:
                    out[to][source] = state
                    continue
                for name, values in state.items():
                    messages[self._homes[to]][f"{source}/{to}/{name}"] = values
        for rank, arrays in self._swap(messages).items():
            for key, values in arrays.items():
                giver, taker, name = key.split("/")
                hand = out[self._partition_of(taker, self._ctx.rank)]
                hand[self._partition_of(giver, rank)][name] = values
        return out

    def _swap(self, messages: Mapping[int, Mapping[str, Array]]) -> dict[int, dict[str, Array]]:
        """Send each other rank a message, and wait for those of all of them."""
        number, self._n_sent = self._n_sent, self._n_sent + 1
        for rank in self._others:
            partition = self._homes.index(rank)
            self._ctx.send_block(rank, partition, self._ctx.rank, number, messages[rank])
        no_limit = len(self._others)
        return {rank: self._ctx.take_block(rank, rank, number, no_limit) for rank in self._others}

    def _partition_of(self, text: str, rank: int) -> int:
        """Read the number of a partition that lies at a rank."""
        if not text.isdecimal() or int(text) not in range(len(self._homes)):
            raise ProtocolError(f"rank {rank} sent arrays of a partition {text!r} of others")
        if self._homes[int(text)] != rank:
            raise ProtocolError(f"partition {text} is not at rank {rank}, which sent its arrays")
        return int(text)
