"""From an LDA estimator and its documents to the program that fits it, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_petuum.data import Partition
from dask_petuum.runtime.context import Array
from dask_petuum.runtime.job import Job, RunResult
from dask_petuum.store.consistency import Consistency

from .lda_counts import LARGEST, check_totals, count_tokens
from .lda_mean import add_sample
from .lda_parameters import first_priors, growth_of, is_learnt
from .lda_program import LDAProblem, LDAProgram
from .lda_rotation import LDARotation, assemble, in_word_order
from .lda_tokens import choose_sampler

__all__ = ["Before", "keep_result", "make_problem", "make_program"]


@dataclass(frozen=True)
class Before:
    """What a model has of documents that earlier fits saw, and that stay counted.

    Attributes
    ----------
    doc_log_likelihood, n_tokens : their part of the attributes of these names
    surplus : (n_words, n_topics) float32, by how much the mean of the counts is larger than the
        counts, or None; added to the mean of samples that all hold these counts
    """

    doc_log_likelihood: float = 0.0
    n_tokens: int = 0
    surplus: Array | None = None


def make_program(model: Any, job: Job, seed: Any, *, drop_seed: bool) -> LDAProgram | LDARotation:
    """Make the program that fits a model to a job's documents.

    Parameters
    ----------
    model
        The estimator, its parameters checked.
    job
        The documents.
    seed
        (n_words, n_padded) counts of an earlier model, or None.
    drop_seed
        Forget them after the first pass.
    """
    problem = make_problem(model, job, seed, drop_seed=drop_seed)
    if model.parallelism == "data":
        return LDAProgram(problem)
    frequency = np.array(job.map(_count_words)).sum(axis=0)
    return LDARotation(problem, frequency)


def make_problem(model: Any, job: Job, seed: Any, *, drop_seed: bool) -> LDAProblem:
    """Turn parameters and data into what is to be sampled; as `make_program`."""
    sizes = job.map(count_tokens)
    n_tokens, n_docs = sum(tokens for tokens, _ in sizes), sum(docs for _, docs in sizes)
    if n_tokens > LARGEST:
        check_totals(np.array(job.map(_count_words)).sum(axis=0))
    n_topics = int(model.n_components)
    sampler = model.sampler
    if sampler == "auto":
        # Where words come block by block, only the sampler that goes by words is fast.
        by_words = model.parallelism == "model" and len(sizes) > 1
        sampler = "sparse" if by_words else choose_sampler(n_topics, n_tokens, n_docs)
    learn = seed is None or drop_seed  # a few new documents say little of priors
    alpha, beta = first_priors(model, seed is not None)
    return LDAProblem(
        n_topics, job.n_features, alpha, beta, sampler,
        learn_alpha=learn and is_learnt(model.doc_topic_prior),
        learn_beta=learn and model.topic_word_prior == "auto",
        evaluate_every=max(int(model.evaluate_every), 0),
        growth=growth_of(model.max_iter, n_tokens),
        tol=float(model.tol),
        n_partitions=len(job.sizes),
        slack=Consistency.parse(model.consistency, model.staleness).high,
        seed_counts=seed,
        drop_seed=drop_seed,
    )  # fmt: skip


def keep_result(
    model: Any,
    program: LDAProgram | LDARotation,
    before: Before,
    result: RunResult,
) -> None:
    """Turn a run's result into attributes."""
    if isinstance(program, LDARotation):
        counts: Any = assemble(program, result.blocks)
    else:
        counts = result.tables["word_topic"]
    if not isinstance(counts, np.ndarray):
        counts = counts.toarray()
    model.word_topic_counts_ = np.array(counts[:, : model.n_components], np.int32, order="C")
    model.word_topic_mean_ = _mean(program, result, model.word_topic_counts_)
    if before.surplus is not None:
        np.maximum(model.word_topic_mean_ + before.surplus, 0, out=model.word_topic_mean_)
    first = result.outputs[0]
    model.doc_topic_prior_ = np.array(first["alpha"])
    model.topic_word_prior_ = float(first["beta"][0])
    parts = [float(output["doc_log_likelihood"][0]) for output in result.outputs]
    model.doc_log_likelihood_ = before.doc_log_likelihood + math.fsum(parts)
    model.n_tokens_ = before.n_tokens + sum(int(output["n_tokens"][0]) for output in result.outputs)
    model.n_iter_ = result.n_clocks
    model.history_ = result.history


def _mean(program: LDAProgram | LDARotation, result: RunResult, counts: Array) -> Array:
    """Put the partitions' means together; the counts at the end are one more sample."""
    outputs = result.outputs
    mean = np.concatenate([output["mean"] for output in outputs])
    if isinstance(program, LDARotation):
        mean = in_word_order(program, mean)
    add_sample(mean, counts, int(outputs[0]["n_samples"][0]) + 1, _one_by_one)
    return mean


def _one_by_one(function: Any, items: Any) -> list[Any]:
    return list(map(function, items))


def _count_words(partition: Partition) -> Array:
    """Tokens of each word in a partition."""
    return np.asarray(partition.data.sum(axis=0, dtype=np.int64)).ravel()
