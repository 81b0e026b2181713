"""Memory of a big LDA fit in one process: 100 million tokens, 1,000 topics."""

from __future__ import annotations

import resource

import numpy as np
import scipy.sparse as sp

from benchmarks.report import Row
from dask_petuum import LDA


def corpus(n_docs: int, n_words: int, distinct: int, seed: int = 0) -> sp.csr_matrix:
    """Documents of ``distinct`` words with counts of 1 to 3, drawn with Zipf-like frequencies."""
    rng = np.random.default_rng(seed)
    indices = (n_words * rng.random(n_docs * distinct, dtype=np.float32) ** 2).astype(np.int32)
    np.minimum(indices, n_words - 1, out=indices)
    counts = rng.integers(1, 4, size=len(indices), dtype=np.int32)
    indptr = np.arange(0, len(indices) + 1, distinct, dtype=np.int64)
    X = sp.csr_matrix((counts, indices, indptr), shape=(n_docs, n_words))
    X.sum_duplicates()
    return X


def run(quick: bool) -> list[Row]:
    """Fit two passes and read the process's peak."""
    n_docs = 10_000 if quick else 500_000
    X = corpus(n_docs, 50_000, 100)
    n_tokens = int(X.sum(dtype=np.int64))
    model = LDA(1000, max_iter=2, evaluate_every=0, random_state=0, scheduler="local").fit(X)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = model.history_[-1]["seconds"]
    return [
        Row(
            f"LDA, K=1000, {n_tokens / 1e6:.0f} M tokens, V=50,000: peak memory of the process",
            "-",
            [peak],
            target="<= 8 GiB",
            unit="GiB",
            note=f"two passes in {seconds:.0f} s; X itself {X.data.nbytes * 2 / 2**30:.2f} GiB",
        )
    ]
