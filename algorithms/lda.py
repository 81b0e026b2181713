"""Latent Dirichlet allocation by collapsed Gibbs sampling.

A document draws its topic shares from a Dirichlet, each token its topic from those shares and its
word from that topic's distribution over words (Blei, Ng and Jordan 2003). Shares and topics are
integrated out, and each token's topic is drawn given all others (Griffiths and Steyvers 2004):

.. math:: p(z_i = k | z_{-i}, w) \\propto
          (n_{dk} + \\alpha_k) \\frac{n_{wk} + \\beta}{n_k + V \\beta}

The samplers are in ``kernels/lda.py`` and ``kernels/lda_sparse.py``, the program that runs them in
``lda_program``, inference for documents in ``lda_infer``. Not here: online variational Bayes.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.callback import with_callbacks
from sklearn.utils.validation import check_is_fitted

from dask_petuum.base import PetuumEstimator
from dask_petuum.data.kinds import dask_backed
from dask_petuum.lazy import map_rows
from dask_petuum.runtime.job import Job
from dask_petuum.store.consistency import Staleness
from dask_petuum.unchanged import unchanged_by_errors

from .inputs import check_chunk_width, of_known_width
from .lda_counts import check_counts, check_input, check_piece
from .lda_fit import Before, keep_result, make_program
from .lda_infer import Topics, document_completion, infer, score_partition
from .lda_parameters import check_parameters
from .lda_sampler import word_log_likelihood
from .lda_tokens import padded
from .lda_topics import npmi, to_dataset, top_indices

__all__ = ["LDA"]

#: Passes over documents that join a model by `LDA.partial_fit`.
PARTIAL_PASSES = 20


class LDA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, PetuumEstimator):  # type: ignore[misc]
    """Topics of documents given as counts of words, in this process or on a Dask cluster.

    The sampler draws from the exact conditional distribution of each token's topic. The same seed
    and partitions give the same result on any number of threads, and in BSP of ranks.

    Parameters
    ----------
    n_components
        Number of topics K.
    doc_topic_prior
        Dirichlet parameter alpha of a document's topic shares. None or "auto": learnt, one per
        topic, beginning with min(0.1, 10 / K) (scikit-learn's 1 / K, alike for all, is worse
        on held-out documents). A number: that, for all topics.
    topic_word_prior
        Dirichlet parameter beta of a topic's words. A number; "auto": learnt; None: 0.01.
    max_iter
        Passes over the documents. The start costs up to 40 passes more (and up to half of
        this), spent on parts of the documents.
    sampler
        "sparse": looks at the topics that the document has; "dense": at all K, in vector
        instructions; "auto": the faster. Both draw from the same distribution.
    evaluate_every
        Passes between two evaluations of the joint log-likelihood per token, kept in
        ``history_``; 0 or -1: never.
    tol
        Stop when that log-likelihood moves by less between two evaluations; 0: never.
    n_jobs
        Threads of each process (None: all it may use; negative: counted back); no effect on the
        result.
    random_state
        Seed of the topics drawn, and of the halves that `perplexity` makes.
    verbose
        1: print each pass.
    consistency, staleness
        How current other ranks' counts are: "bsp", "ssp", "essp" or "asp", and by how many
        passes they may lag: a number, "auto", or a range (low, high) that it moves in. In this
        process every count is current.
    parallelism
        "data": every rank has the whole word-topic table, and counts of other ranks may lag.
        "model": each has a share of it, which moves from rank to rank; counts are exact, and only
        topic totals lag. For tables that are too large for one process.
    warm_start
        ``fit`` starts from the topics of the last fit: the first pass draws from them, then
        they are forgotten.
    scheduler
        None: the active Dask client, else this process; "local"; or a scheduler's address.
    checkpoint
        URL of a folder (anything that fsspec opens) in which checkpoints of a fit are files; None:
        a fit on a cluster keeps them in the memory of its workers. See :doc:`/recovery`.

    Attributes
    ----------
    components_ : ndarray (n_components, n_words) float64
        Pseudo-counts: ``word_topic_mean_`` plus the topic-word prior. Divided by their sums over
        words they are the topics. Made anew at each access.
    word_topic_mean_ : ndarray (n_words, n_components) float32
        Mean over the passes of the tokens of each word in each topic: the counts after every
        second pass and the last one, the s-th of them weighing s (s + 1). All that the model says
        of words and documents comes from it; one pass alone foretells new documents worse.
    word_topic_counts_ : ndarray (n_words, n_components) int32
        The same after the last pass, which `partial_fit` and ``warm_start`` go on from.
    doc_topic_prior_ : ndarray (n_components,) float64
    topic_word_prior_ : float
    doc_log_likelihood_ : float, log p(z | alpha) of the documents seen
    n_tokens_ : int, tokens seen
    n_iter_ : int, passes made by the last fit
    history_ : list of dict, one record per pass: seconds since the start, tokens, share that
        changed topic, ``log_likelihood`` per token where evaluated
    n_features_in_, feature_names_in_ : as in scikit-learn

    Notes
    -----
    Memory of a fit besides X, in bytes: 6 (K < 32768) a token, up to 8 for each topic of each
    document, and 8 K for each word of the vocabulary (16 K where there are several partitions).

    References
    ----------
    T. Griffiths and M. Steyvers, "Finding scientific topics", PNAS 101, 2004.
    H. Wallach, D. Mimno and A. McCallum, "Rethinking LDA: why priors matter", NIPS 2009.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_petuum.algorithms.lda import LDA
    >>> X = np.repeat([[4, 3, 0, 0], [0, 0, 5, 2]], 10, axis=0)
    >>> model = LDA(n_components=2, max_iter=20, random_state=0).fit(X)
    >>> sorted(sorted(words.tolist()) for words in model.top_words(2))
    [[0, 1], [2, 3]]
    """

    word_topic_counts_: NDArray[np.int32]
    word_topic_mean_: NDArray[np.float32]
    doc_topic_prior_: NDArray[np.float64]
    topic_word_prior_: float
    doc_log_likelihood_: float
    n_tokens_: int
    n_iter_: int
    n_features_in_: int

    def __init__(
        self,
        n_components: int = 10,
        *,
        doc_topic_prior: float | str | None = None,
        topic_word_prior: float | str | None = None,
        max_iter: int = 200,
        sampler: str = "auto",
        evaluate_every: int = 10,
        tol: float = 0.0,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
        consistency: str = "bsp",
        staleness: Staleness = 0,
        parallelism: str = "data",
        warm_start: bool = False,
        scheduler: str | None = None,
        checkpoint: str | None = None,
    ) -> None:
        self.n_components = n_components
        self.doc_topic_prior = doc_topic_prior
        self.topic_word_prior = topic_word_prior
        self.max_iter = max_iter
        self.sampler = sampler
        self.evaluate_every = evaluate_every
        self.tol = tol
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose
        self.consistency = consistency
        self.staleness = staleness
        self.parallelism = parallelism
        self.warm_start = warm_start
        self.scheduler = scheduler
        self.checkpoint = checkpoint

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        tags.input_tags.categorical = True  # whole numbers
        return tags

    @property
    def components_(self) -> NDArray[np.float64]:
        """Pseudo-counts of words in topics."""
        try:
            mean = self.__dict__["word_topic_mean_"]
        except KeyError:
            raise AttributeError("components_ is there after fit") from None
        components: NDArray[np.float64] = mean.T + np.float64(self.topic_word_prior_)
        return components

    @property
    def _n_features_out(self) -> int:
        return int(self.word_topic_counts_.shape[1])

    @unchanged_by_errors
    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any = None, *, resume: str | None = None) -> Self:
        """Find the topics.

        Parameters
        ----------
        X
            (n_documents, n_words) counts: whole numbers >= 0, as an ndarray, scipy.sparse,
            DataFrame, xarray or a Dask collection.
        y
            Ignored.
        resume
            URL of the checkpoints of this very fit, as ``checkpoint`` of the one that was
            interrupted: go on from the newest.
        """
        self._goes_on_from(resume)
        check_parameters(self)
        seed = self._seed_counts() if self.warm_start and self._is_fitted() else None
        X = check_input(self, X, reset=True)
        if seed is not None and seed.shape[0] != self.__dict__.setdefault(
            "n_features_in_", seed.shape[0]
        ):
            raise ValueError(
                f"warm_start=True needs the words of the last fit: X has {self.n_features_in_} "
                f"features, the model {seed.shape[0]}"
            )
        with self._job(X) as job:
            self._train(job, seed, Before(), self.max_iter, drop_seed=True)
        return self

    @unchanged_by_errors
    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Let new documents join the model: their topics are drawn, those of others stay.

        Makes 20 passes over the new documents; the first call makes ``max_iter``.
        """
        check_parameters(self)
        first = not self._is_fitted()
        X = check_input(self, X, reset=first)
        seed = None if first else self._seed_counts()
        before = Before() if first else self._before()
        passes = self.max_iter if first else PARTIAL_PASSES
        with self._job(X) as job:
            self._train(job, seed, before, passes, drop_seed=False, callbacks=False)
        return self

    def transform(self, X: Any) -> Any:
        """Infer the topic shares of documents.

        Returns
        -------
        (n_documents, n_components) float64, rows sum to 1; a document without words gets the
        mean of the prior. Lazy for a Dask collection.
        """
        check_is_fitted(self)
        X = check_input(self, X, reset=False)
        function = partial(_infer_block, self._topics(), self.n_jobs)
        if dask_backed(X) is None:
            return function(X)
        return map_rows(function, X, n_columns=self.n_components, dtype=np.float64)

    def perplexity(self, X: Any) -> float:
        """Perplexity of held-out documents, by document completion; lower is better.

        Of each document half of the tokens (rounded down, drawn by ``random_state``) are observed
        and give its topic shares theta; the other half is scored:
        exp(- sum log(sum_k theta_dk phi_kw) / number of scored tokens), the sums over the scored
        tokens only (Wallach, Murray, Salakhutdinov and Mimno 2009, section 5.1).
        """
        return math.exp(-self.score(X))

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood of a held-out token: minus the log of `perplexity`."""
        check_is_fitted(self)
        X = check_input(self, X, reset=False)
        seed = self._seed(self.random_state)
        if dask_backed(X) is not None:
            with self._job(X) as job:
                parts = job.map(partial(score_partition, self._topics(), seed, self.n_jobs))
        else:
            parts = [document_completion(self._topics(), X, seed, self.n_jobs)]
        n_scored = sum(count for _, count in parts)
        if n_scored == 0:
            raise ValueError("X has no tokens to score: every document is empty")
        return sum(total for total, _ in parts) / n_scored

    def log_likelihood(self) -> float:
        """Joint log p(w, z | alpha, beta) of the training documents and the topics last drawn."""
        check_is_fitted(self)
        counts = np.ascontiguousarray(self.word_topic_counts_)
        totals = counts.sum(axis=0, dtype=np.int64)
        words = word_log_likelihood(counts, totals, counts.shape[1], self.topic_word_prior_, _map)
        return self.doc_log_likelihood_ + words

    def top_words(self, n_words: int = 10) -> list[NDArray[Any]]:
        """The most frequent words of each topic: their names, or numbers where X had no names."""
        check_is_fitted(self)
        names = getattr(self, "feature_names_in_", np.arange(self.n_features_in_))
        return [names[row] for row in top_indices(self.word_topic_mean_, n_words)]

    def coherence(self, X: Any, n_words: int = 10) -> NDArray[np.float64]:
        """NPMI coherence of each topic's top words over the documents of X, (n_components,)."""
        check_is_fitted(self)
        X = check_input(self, X, reset=False)
        if dask_backed(X) is not None:
            raise TypeError("coherence needs X in memory; compute a sample of it first")
        return np.asarray(npmi(X, top_indices(self.word_topic_mean_, n_words)))

    def to_xarray(self) -> Any:
        """The model as an xarray.Dataset: topic_word, topic_share, doc_topic_prior."""
        check_is_fitted(self)
        return to_dataset(self)

    def _is_fitted(self) -> bool:
        return "word_topic_counts_" in self.__dict__

    def _topics(self) -> Topics:
        return Topics(self.word_topic_mean_, self.doc_topic_prior_, self.topic_word_prior_)

    def _job(self, X: Any) -> Job:
        check = None if dask_backed(X) is None else check_piece
        return of_known_width(self, self._open_job(X, check=check))

    def _seed_counts(self) -> NDArray[np.int32]:
        """Counts of the model so far, padded; (n_words, n_padded)."""
        if self.word_topic_counts_.shape[1] != self.n_components:
            raise ValueError(
                f"the model has {self.word_topic_counts_.shape[1]} topics, n_components is now "
                f"{self.n_components}; use warm_start=False"
            )
        counts = np.zeros((len(self.word_topic_counts_), padded(self.n_components)), np.int32)
        counts[:, : self.n_components] = self.word_topic_counts_
        return counts

    def _before(self) -> Before:
        surplus = self.word_topic_mean_ - self.word_topic_counts_.astype(np.float32)
        return Before(self.doc_log_likelihood_, self.n_tokens_, surplus)

    def _train(self, job: Job, seed: Any, before: Before, passes: int, **options: Any) -> None:
        """Fit to a job's documents, from the counts of an earlier model or from none."""
        program = make_program(self, job, seed, drop_seed=options.pop("drop_seed"))
        # All partitions but the first wait for one clock at the start.
        max_clocks = passes + (1 if len(job.sizes) > 1 else 0)
        self._run(
            job, program, partial(keep_result, self, program, before),
            max_clocks=max_clocks, seed=self._seed(self.random_state), **options,
        )  # fmt: skip


def _map(function: Any, items: Any) -> list[Any]:
    return list(map(function, items))


def _infer_block(topics: Topics, n_jobs: int | None, block: Any) -> NDArray[np.float64]:
    check_chunk_width(block, len(topics.counts))
    check_counts(block)
    return np.asarray(infer(topics, block, n_jobs))
