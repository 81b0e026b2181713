"""Collapsed Gibbs sampling of LDA as a program: one clock is one pass over the documents.

Documents and the topics of their tokens stay in their partition. The tables are the word-topic
counts, the topic totals, and the sums from which the document prior is learnt. A pass starts from
the tables as the rank sees them, samples on a private copy, and adds the difference, so bounded
staleness means that a pass may not have seen the latest topics of other ranks' tokens
(AD-LDA, Newman, Asuncion, Smyth and Welling 2009; SSP: Ho et al. 2013).

The start: partition 0 draws the topics of its tokens one after the other, each given those before
it, first for an eighth of its documents, which it visits many times, then for a quarter, half and
all. The other partitions wait for its counts (one clock) and draw theirs from there. Drawn all at
once, each would find topics of its own in an order of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Array, Context, View
from dask_petuum.runtime.program import DataParallelProgram, Record, State
from dask_petuum.store.spec import TableSpec

from .lda_mean import add_sample, is_sample, row_share
from .lda_sampler import (
    FLOOR,
    doc_likelihood,
    learnt,
    minka_sums,
    sample_pass,
    word_log_likelihood,
    word_prior_sum,
)
from .lda_start import grow
from .lda_tokens import lay_out, padded

__all__ = ["LDAHistory", "LDAProblem", "LDAProgram", "last_stage"]

#: Passes before priors are learnt: the first topics say little of how they are shared.
BURN_IN = 10
#: Sums for the document prior are kept in these parts of one: whole numbers add up to the same in
#: any order.
FINE = 2**20
#: Topics from which the rows of the word-topic table are sparse where it is sent: few words have
#: tokens in more than a small part of so many.
SPARSE_TOPICS = 512


@dataclass(frozen=True)
class LDAProblem:
    """What is to be sampled.

    Attributes
    ----------
    n_topics, n_words : sizes
    alpha : (n_topics,) float64, document-topic prior (its first value, where learnt)
    beta : topic-word prior (its first value, where learnt)
    sampler : "dense" or "sparse"
    learn_alpha, learn_beta : learn the priors by Minka's fixed point
    evaluate_every : passes between two evaluations of the log-likelihood; 0: never
    growth : passes' worth of work in each stage of the start
    tol : end when the log-likelihood per token moves by less between two evaluations; 0: never
    n_partitions : partitions of the run
    slack : clocks by which a read may lag
    seed_counts : (n_words, n_padded) int32, counts of an earlier model, or None
    drop_seed : forget the earlier model's counts after the first pass (warm start), or keep
        them (new documents join the model)
    """

    n_topics: int
    n_words: int
    alpha: NDArray[np.float64]
    beta: float
    sampler: str
    learn_alpha: bool = False
    learn_beta: bool = False
    evaluate_every: int = 0
    growth: float = 0.0
    tol: float = 0.0
    n_partitions: int = 1
    slack: int = 0
    seed_counts: Array | None = field(default=None, repr=False)
    drop_seed: bool = False


class LDAHistory:
    """What the history of a fit shows, and when it ends."""

    problem: LDAProblem
    metrics: tuple[str, ...] = ("tokens", "changed", "log_likelihood", "evaluated")

    def objective(self, totals: Mapping[str, float]) -> Mapping[str, float]:
        """Show tokens sampled, share that changed, and the joint log-likelihood per token."""
        shown = {
            "tokens": totals["tokens"],
            "changed": min(totals["changed"] / max(totals["tokens"], 1.0), 1.0),
        }
        if totals["evaluated"] > 0:
            shown["log_likelihood"] = totals["log_likelihood"] / totals["evaluated"]
        return shown

    def converged(self, history: Sequence[Record]) -> bool:
        """Stop when the log-likelihood per token hardly moves between two evaluations."""
        if self.problem.tol <= 0 or "log_likelihood" not in history[-1]:
            return False
        values = [record["log_likelihood"] for record in history if "log_likelihood" in record]
        return len(values) > 1 and abs(values[-1] - values[-2]) < self.problem.tol


class LDAProgram(LDAHistory, DataParallelProgram):
    """One clock is one pass of Gibbs sampling over every document."""

    def __init__(self, problem: LDAProblem) -> None:
        self.problem = problem
        self.n_padded = padded(problem.n_topics)

    def tables(self) -> Sequence[TableSpec]:
        """Specify the counts; columns from ``n_topics`` on are padding and stay zero."""
        problem = self.problem
        seed = problem.seed_counts
        totals: Any = 0 if seed is None else seed.sum(axis=0, dtype=np.int64)[np.newaxis]
        specs = [
            TableSpec(
                "word_topic",
                (problem.n_words, self.n_padded),
                "int32",
                init=0 if seed is None else seed,
                dims=("word", "topic"),
                sparse=problem.n_partitions > 1 and problem.n_topics >= SPARSE_TOPICS,
            ),
            TableSpec(
                "topic_total", (1, self.n_padded), "int64", init=totals, dims=("all", "topic")
            ),
        ]
        if problem.learn_alpha:
            shape = (1, problem.n_topics + 1)
            specs.append(TableSpec("prior_sums", shape, "int64", dims=("all", "sum")))
        return specs

    def start(self, ctx: Context, partition: Partition) -> State:
        """Lay the tokens out; none has a topic yet."""
        state = lay_out(partition.data, self.problem.n_topics, self.problem.sampler)
        state["alpha"] = self.problem.alpha.copy()
        state["beta"] = np.array([self.problem.beta])
        state["prior_sums"] = np.zeros(self.problem.n_topics + 1, dtype=np.int64)
        state["passes"] = np.zeros(2, dtype=np.int64)  # made, waited
        own = row_share(self.problem.n_words, partition.index, self.problem.n_partitions)
        state["mean"] = np.zeros((own.stop - own.start, self.problem.n_topics), np.float32)
        state["n_samples"] = np.zeros(1, dtype=np.int64)
        for spec in self.tables():
            self._view(ctx, spec.name)
        return state

    def step(self, ctx: Context, partition: Partition, state: State) -> Mapping[str, float]:
        """Draw a new topic for each of the partition's tokens."""
        nothing = dict.fromkeys(self.metrics, 0.0)
        if self._must_wait(ctx, partition, state):
            state["passes"][1] += 1
            return nothing
        self._learn_priors(ctx, state)
        n_wk, n_k, in_place = self._working_copy(ctx)
        if is_sample(int(state["passes"].sum()), self.problem.slack):
            own = row_share(self.problem.n_words, partition.index, self.problem.n_partitions)
            state["n_samples"] += 1
            add_sample(state["mean"], n_wk[own], int(state["n_samples"][0]), ctx.map)
        args = (state, n_wk, n_k, state["alpha"], float(state["beta"][0]))
        seeds = ctx.seed(partition)
        drawn = 0
        if state["passes"][0] == 0 and not n_k.any():
            # Several partitions begin with one prior, and learn it from the sums of all.
            alone = self.problem.learn_alpha and self.problem.n_partitions == 1
            last = last_stage(self.problem)
            drawn = grow(*args, seeds, ctx.map, self.problem.growth, last, learn_alpha=alone)
        changed = sample_pass(*args, seeds.spawn(1)[0], ctx.map)
        state["passes"][0] += 1
        made = int(state["passes"][0])
        self._drop_seed(partition, made, n_wk, n_k)
        every = self.problem.evaluate_every
        # By the clock, not by the passes made: some partitions began a clock later.
        evaluated = every > 0 and int(state["passes"].sum()) % every == 0
        likelihood = self._likelihood(ctx, partition, state, (n_wk, n_k)) if evaluated else 0.0
        if not in_place:
            self._add_difference(ctx, n_wk, n_k)
        if self.problem.learn_alpha and made >= BURN_IN:
            sums = np.rint(minka_sums(state, state["alpha"], ctx.map) * FINE).astype(np.int64)
            self._view(ctx, "prior_sums").inc((sums - state["prior_sums"])[np.newaxis])
            state["prior_sums"] = sums
        n_tokens = float(len(state["topics"]))
        return {
            "tokens": n_tokens + drawn,
            "changed": float(changed),
            "log_likelihood": likelihood,
            "evaluated": n_tokens if evaluated else 0.0,
        }

    def finish(self, ctx: Context, partition: Partition, state: State) -> State:
        """Give the learnt priors, the documents' part of the log-likelihood, and the mean."""
        likelihood = doc_likelihood(state, state["alpha"], ctx.map)
        return {
            "mean": state["mean"],
            "n_samples": state["n_samples"],
            "alpha": state["alpha"],
            "beta": state["beta"],
            "doc_log_likelihood": np.array([likelihood]),
            "n_tokens": np.array([len(state["topics"])], dtype=np.int64),
        }

    def _view(self, ctx: Context, name: str) -> View:
        """A whole table; the same declaration gives the same view."""
        return ctx.table(name).view()

    def _word_counts(self, ctx: Context) -> Array:
        """A copy of the word-topic counts that may be changed, (n_words, n_padded)."""
        values = self._view(ctx, "word_topic").values
        dense: Array = np.array(values if isinstance(values, np.ndarray) else values.toarray())
        return dense

    def _must_wait(self, ctx: Context, partition: Partition, state: State) -> bool:
        """Whether there is nothing to start from yet; not for ever, should partition 0 be empty."""
        if partition.index == 0 or state["passes"][0] or state["passes"][1] > self.problem.slack:
            return False
        return not self._view(ctx, "topic_total").values.any()

    def _working_copy(self, ctx: Context) -> tuple[Array, Array, bool]:
        """Counts that may be changed, and whether they are the tables themselves."""
        words, totals = self._view(ctx, "word_topic"), self._view(ctx, "topic_total")
        tables = words.writable, totals.writable
        if self.problem.n_partitions == 1 and tables[0] is not None and tables[1] is not None:
            return tables[0], tables[1][0], True
        return self._word_counts(ctx), np.array(totals.values[0]), False

    def _add_difference(self, ctx: Context, n_wk: Array, n_k: Array) -> None:
        words, totals = self._view(ctx, "word_topic"), self._view(ctx, "topic_total")
        if isinstance(words.values, np.ndarray):
            np.subtract(n_wk, words.values, out=n_wk)
            words.inc(n_wk)
        else:
            words.inc(sp.csr_array(n_wk - words.values.toarray()))
        totals.inc((n_k - totals.values[0])[np.newaxis])

    def _drop_seed(self, partition: Partition, made: int, n_wk: Array, n_k: Array) -> None:
        seed = self.problem.seed_counts
        if seed is not None and self.problem.drop_seed and partition.index == 0 and made == 1:
            n_wk -= seed
            n_k -= seed.sum(axis=0, dtype=np.int64)

    def _learn_priors(self, ctx: Context, state: State) -> None:
        """One step of Minka's fixed point for each prior that is learnt (Wallach 2009)."""
        made = int(state["passes"][0])
        if self.problem.learn_alpha and made > BURN_IN:
            state["alpha"] = learnt(state["alpha"], self._view(ctx, "prior_sums").values[0])
        if self.problem.learn_beta and made > BURN_IN:
            n_wk = self._word_counts(ctx)
            n_k = self._view(ctx, "topic_total").values[0]
            ratio = word_prior_sum(
                n_wk, n_k, self.problem.n_topics, float(state["beta"][0]), ctx.map
            )
            state["beta"] = np.maximum(state["beta"] * ratio, FLOOR)

    def _likelihood(
        self, ctx: Context, partition: Partition, state: State, counts: tuple[Array, Array]
    ) -> float:
        """Joint log-likelihood: this partition's documents; the words once, in partition 0."""
        likelihood = doc_likelihood(state, state["alpha"], ctx.map)
        if partition.index == 0:
            beta, n_topics = float(state["beta"][0]), self.problem.n_topics
            likelihood += word_log_likelihood(*counts, n_topics, beta, ctx.map)
        return likelihood


def last_stage(problem: LDAProblem) -> int:
    """One document in so many is what the last stage of the start has."""
    return 2 if problem.n_partitions == 1 else 1
