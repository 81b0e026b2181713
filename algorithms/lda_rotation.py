"""LDA with the word-topic counts in blocks that move: no rank holds more than its share.

The words are dealt into blocks; in a pass every block visits every partition once and is at one of
them at a time, where the block's tokens get new topics. So word-topic counts are exact at every
draw; only the topic totals lag, by what other partitions changed in the same pass (Lee et al.
2014, section 3.1; Petuum's own LDA). One clock is one pass.

The start: partition 0 finds first topics among as many of the most frequent words as its share of
the table has room for, as `lda_start` does, and gives each block the counts of these tokens at its
first visit. The other partitions wait for that pass, and draw their first topics from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dask_petuum.data import Partition
from dask_petuum.model_parallel.rotation import Rotation, first_block, home, next_holder
from dask_petuum.runtime.block_program import Batch, BlockSpec, ModelParallelProgram
from dask_petuum.runtime.context import Array, Context
from dask_petuum.runtime.program import State
from dask_petuum.store.spec import TableSpec

from .lda_mean import add_sample, is_sample
from .lda_program import BURN_IN, FINE, LDAHistory, LDAProblem, last_stage
from .lda_sampler import (
    Prior,
    cell_sampler,
    doc_likelihood,
    learnt,
    minka_sums,
    total_likelihood,
    word_prior_ratio,
    word_prior_terms,
    words_likelihood,
)
from .lda_start import grow, list_topics
from .lda_tokens import WordGroups, deal_words, lay_out, padded, token_docs, token_words

__all__ = ["LDARotation", "assemble", "in_word_order", "n_blocks_of"]

#: Groups into which the words of a block are cut, so that threads share no row of counts.
N_SUB = 4
#: Blocks for each partition: with one on its way in and one out, a rank of two has 26 of 48.
PER_PARTITION = 24


def n_blocks_of(n_partitions: int) -> int:
    """Blocks of a run: many for each partition, so that those on their way are a small part."""
    return 1 if n_partitions == 1 else PER_PARTITION * n_partitions


class LDARotation(LDAHistory, ModelParallelProgram):
    """One clock is one pass of Gibbs sampling, block by block.

    Parameters
    ----------
    problem
        What is to be sampled.
    frequency
        (n_words,) tokens of each word in all partitions.
    """

    def __init__(self, problem: LDAProblem, frequency: Array) -> None:
        self.problem = problem
        self.n_padded = padded(problem.n_topics)
        self.n_blocks = n_blocks_of(problem.n_partitions)
        self.words = deal_words(frequency, self.n_blocks, N_SUB)
        room = -(-problem.n_words // problem.n_partitions)
        order = np.argsort(-frequency, kind="stable")
        #: The words among which first topics are found.
        self.frequent = np.sort(order[:room])
        sizes = np.bincount(self.block, minlength=self.n_blocks)
        #: Where each block's rows begin when all blocks are put one after the other.
        self.first_row = np.concatenate([[0], np.cumsum(sizes)])
        self.cost = np.bincount(self.block, weights=frequency, minlength=self.n_blocks) + 1.0

    @property
    def block(self) -> Array:
        """Block of each word."""
        block: Array = self.words.group // N_SUB
        return block

    def blocks(self) -> Sequence[BlockSpec]:
        """Word-topic counts of each block's words."""
        seed = self.problem.seed_counts
        specs = []
        for number, size in enumerate(np.diff(self.first_row).tolist()):
            if seed is None:
                counts = np.broadcast_to(np.int32(0), (size, self.n_padded))
            else:
                counts = seed[self.block == number]
            specs.append(BlockSpec({"counts": counts}, self.cost[number]))
        return specs

    def schedule(self) -> Rotation:
        """Every block visits every partition, in a fixed order."""
        return Rotation()

    def tables(self) -> Sequence[TableSpec]:
        """Specify the topic totals and the sums from which priors are learnt."""
        problem, seed = self.problem, self.problem.seed_counts
        totals: Any = 0 if seed is None else seed.sum(axis=0, dtype=np.int64)[np.newaxis]
        shape = (1, self.n_padded)
        specs = [TableSpec("topic_total", shape, "int64", init=totals, dims=("all", "topic"))]
        if problem.learn_alpha:
            shape = (1, problem.n_topics + 1)
            specs.append(TableSpec("prior_sums", shape, "int64", dims=("all", "sum")))
        if problem.learn_beta:
            specs.append(TableSpec("word_sums", (1, 1), "int64", dims=("all", "sum")))
        return specs

    def start(self, ctx: Context, partition: Partition) -> State:
        """Lay the tokens out; in partition 0, find first topics for some of them."""
        problem = self.problem
        everywhere = np.arange(problem.n_words, dtype=np.int32)
        words = WordGroups(self.words.group, everywhere, self.words.n_groups)
        state = lay_out(partition.data, problem.n_topics, problem.sampler, words)
        state["alpha"] = problem.alpha.copy()
        state["beta"] = np.array([problem.beta])
        state["prior_sums"] = np.zeros(problem.n_topics + 1, dtype=np.int64)
        state["word_sums"] = np.zeros(self.n_blocks, dtype=np.int64)
        state["n_k"] = np.zeros(self.n_padded, dtype=np.int64)
        own = self._own_rows(partition.index)
        state["mean"] = np.zeros((own.stop - own.start, problem.n_topics), dtype=np.float32)
        state["n_samples"] = np.zeros(1, dtype=np.int64)
        state["begun"] = np.array([-1])
        state["made"] = np.zeros(3, dtype=np.int64)  # passes, tokens drawn, changes of the pass
        for spec in self.tables():
            ctx.table(spec.name).view()
        if partition.index == 0 and problem.growth > 0 and problem.seed_counts is None:
            self._find_first_topics(ctx, partition, state)
        row = self.words.row
        if "docs" in state:
            state["word_order"] = row[state["word_order"]]
        else:
            state["words"] = row[state["words"]]
        return state

    def push(self, ctx: Context, partition: Partition, state: State, batch: Batch) -> None:
        """Draw new topics for the tokens of the block's words."""
        self._begin_pass(ctx, state, batch.number)
        counts, block = batch.values[0]["counts"], batch.blocks[0]
        first = int(state["made"][0]) == 0
        if first and "first_rows" in state:
            own = state["first_blocks"] == block
            place = state["first_rows"][own], state["first_topics"][own]
            np.add.at(counts, place, 1)
        if is_sample(batch.number):
            self._add_sample(ctx, partition, state, block, counts)
        if not self._waits(partition, state, batch.number):
            args = (state, counts, state["alpha"], float(state["beta"][0]))
            state["made"][2] += self._sample(ctx, *args, batch)
            seed = self.problem.seed_counts
            if seed is not None and self.problem.drop_seed and partition.index == 0 and first:
                counts -= seed[self.block == block]

    def sync(
        self, ctx: Context, partition: Partition, state: State, batch: Batch
    ) -> Mapping[str, float]:
        """At a block's last visit of a pass, add its part of what needs all of its tokens."""
        block, counts = batch.blocks[0], batch.values[0]["counts"]
        n = self.problem.n_partitions
        if next_holder(partition.index, n) != home(block, self.n_blocks, n):
            return {}
        beta, n_topics = float(state["beta"][0]), self.problem.n_topics
        if self.problem.learn_beta and batch.number >= BURN_IN:
            terms = int(np.rint(word_prior_terms(counts, n_topics, beta, ctx.map) * FINE))
            ctx.table("word_sums").view().inc([[terms - state["word_sums"][block]]])
            state["word_sums"][block] = terms
        if not self._is_evaluated(batch.number):
            return {}
        return {"log_likelihood": words_likelihood(counts, n_topics, beta, ctx.map)}

    def measure(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Add the pass's changes to the totals; sum what the document prior is learnt from."""
        number = int(state["begun"][0])
        if self._waits(partition, state, number):
            return {}
        totals = ctx.table("topic_total").view()
        before = totals.values[0]
        likelihood = 0.0
        evaluated = self._is_evaluated(number)
        if evaluated:
            likelihood = doc_likelihood(state, state["alpha"], ctx.map)
            if partition.index == 0:
                size = self.problem.n_words, self.problem.n_topics
                likelihood += total_likelihood(state["n_k"], *size, float(state["beta"][0]))
        drop = self.problem.drop_seed and partition.index == 0 and state["made"][0] == 0
        if drop and self.problem.seed_counts is not None:
            state["n_k"] -= self.problem.seed_counts.sum(axis=0, dtype=np.int64)
        totals.inc((state["n_k"] - before)[np.newaxis])
        state["made"][0] += 1
        if self.problem.learn_alpha and state["made"][0] >= BURN_IN:
            sums = np.rint(minka_sums(state, state["alpha"], ctx.map) * FINE).astype(np.int64)
            ctx.table("prior_sums").view().inc((sums - state["prior_sums"])[np.newaxis])
            state["prior_sums"] = sums
        drawn, changed = int(state["made"][1]), int(state["made"][2])
        state["made"][1:] = 0
        for name in ("first_rows", "first_topics", "first_blocks"):
            state.pop(name, None)
        n_tokens = float(len(state["topics"]))
        return {
            "tokens": n_tokens + drawn,
            "changed": float(changed),
            "log_likelihood": likelihood,
            "evaluated": n_tokens if evaluated else 0.0,
        }

    def finish(self, ctx: Context, partition: Partition, state: State) -> State:
        """Give the learnt priors, the documents' part of the log-likelihood, and the mean."""
        return {
            "mean": state["mean"],
            "n_samples": state["n_samples"],
            "alpha": state["alpha"],
            "beta": state["beta"],
            "doc_log_likelihood": np.array([doc_likelihood(state, state["alpha"], ctx.map)]),
            "n_tokens": np.array([len(state["topics"])], dtype=np.int64),
        }

    def _add_sample(
        self, ctx: Context, partition: Partition, state: State, block: int, counts: Array
    ) -> None:
        """At a block's first visit of a pass, when its counts are those after whole passes."""
        if home(block, self.n_blocks, self.problem.n_partitions) == partition.index:
            row = int(self.first_row[block]) - self._own_rows(partition.index).start
            mean = state["mean"][row : row + len(counts)]
            add_sample(mean, counts, int(state["n_samples"][0]), ctx.map)

    def _own_rows(self, partition: int) -> slice:
        """Rows of the blocks that visit a partition first: it keeps their mean."""
        n = self.problem.n_partitions
        own = [first_block(number, self.n_blocks, n) for number in (partition, partition + 1)]
        return slice(int(self.first_row[own[0]]), int(self.first_row[own[1]]))

    def _find_first_topics(self, ctx: Context, partition: Partition, state: State) -> None:
        """Grow topics on the frequent words; note their tokens' topics and counts."""
        problem = self.problem
        data = partition.data[:, self.frequent]
        small = lay_out(data, problem.n_topics, problem.sampler)
        n_wk = np.zeros((len(self.frequent), self.n_padded), dtype=np.int32)
        n_k = np.zeros(self.n_padded, dtype=np.int64)
        args = (small, n_wk, n_k, problem.alpha, problem.beta, ctx.seed(partition))
        state["made"][1] = grow(*args, ctx.map, problem.growth, last_stage(problem))
        n_groups = len(small["cuts"]) - 1
        docs, words = token_docs(small, n_groups), self.frequent[token_words(small, n_groups)]
        has = small["topics"] >= 0
        found = np.lexsort((words[has], docs[has]))
        # The same tokens in the order of the whole state: those of a word in a document are alike.
        n_groups = len(state["cuts"]) - 1
        all_docs, all_words = token_docs(state, n_groups), token_words(state, n_groups)
        kept = np.zeros(problem.n_words, dtype=np.bool_)
        kept[self.frequent] = True
        seen = np.zeros(partition.n_rows, dtype=np.bool_)
        seen[docs[has]] = True
        chosen = np.flatnonzero(kept[all_words] & seen[all_docs])
        order = chosen[np.lexsort((all_words[chosen], all_docs[chosen]))]
        state["topics"][order] = small["topics"][has][found]
        if "docs" in state:
            list_topics(state, all_docs[order], state["topics"][order])
        state["first_rows"] = self.words.row[all_words[order]]
        state["first_blocks"] = self.block[all_words[order]]
        state["first_topics"] = state["topics"][order].astype(np.int64)

    def _begin_pass(self, ctx: Context, state: State, number: int) -> None:
        """Take the totals and the priors as they are at the beginning of a pass."""
        if state["begun"][0] == number:
            return
        state["begun"][0] = number
        state["n_samples"] += is_sample(number)
        state["n_k"] = np.array(ctx.table("topic_total").view().values[0])
        if state["made"][0] == 0 and "first_topics" in state:
            state["n_k"] += np.bincount(state["first_topics"], minlength=self.n_padded)
        if state["made"][0] <= BURN_IN:
            return
        if self.problem.learn_alpha:
            state["alpha"] = learnt(state["alpha"], ctx.table("prior_sums").view().values[0])
        if self.problem.learn_beta:
            terms = float(ctx.table("word_sums").view().values[0, 0]) / FINE
            size = self.problem.n_words, self.problem.n_topics
            beta = float(state["beta"][0])
            state["beta"][0] = beta * word_prior_ratio(terms, state["n_k"], *size, beta)

    def _sample(
        self, ctx: Context, state: State, counts: Array, alpha: Array, beta: float, batch: Batch
    ) -> int:
        """Sample the block's tokens: document groups times word groups, diagonal by diagonal."""
        prior = Prior.of(alpha, beta, (self.problem.n_words, self.n_padded))
        cell = cell_sampler(state)
        n_groups = len(state["cuts"]) - 1
        runs = np.array_split(np.arange(n_groups), min(N_SUB, n_groups))
        first = batch.blocks[0] * N_SUB
        seeds = batch.seeds.generate_state(n_groups * N_SUB, np.uint64).reshape(N_SUB, n_groups)
        n_k = state["n_k"]
        changed = 0
        for diagonal in range(N_SUB):
            totals = [n_k.copy() for _ in runs]

            def sample(run: int, diagonal: int = diagonal, totals: list[Array] = totals) -> int:
                column = first + (run + diagonal) % N_SUB
                return sum(
                    cell(state, g, column, prior, seeds[diagonal, g], counts, totals[run])
                    for g in runs[run].tolist()
                )

            changed += sum(ctx.map(sample, range(len(runs))))
            n_k += sum(part - n_k for part in totals)
        return changed

    def _waits(self, partition: Partition, state: State, number: int) -> bool:
        """Whether there is nothing to start from yet."""
        return partition.index > 0 and number == 0 and self.problem.seed_counts is None

    def _is_evaluated(self, number: int) -> bool:
        every = self.problem.evaluate_every
        return every > 0 and number > 0 and number % every == 0


def assemble(program: LDARotation, blocks: Sequence[Mapping[str, Any]]) -> Array:
    """Put the blocks' counts together: (n_words, n_padded) int32."""
    counts = np.zeros((program.problem.n_words, program.n_padded), dtype=np.int32)
    for number, values in enumerate(blocks):
        counts[program.block == number] = values["counts"]
    return counts


def in_word_order(program: LDARotation, rows: Array) -> Array:
    """Rows that stand block by block, as the means that the partitions keep, word by word."""
    out = np.empty_like(rows)
    out[np.argsort(program.block, kind="stable")] = rows
    return out
