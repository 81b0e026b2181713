"""The mean of the word-topic counts over the passes of a fit: the topics that are shown.

One state of the sampler says of each token one topic, and where a word is rare that is mostly
chance. The mean over passes estimates the expected counts given the documents, within the mode
that the sampler is in, and foretells new documents better (Nguyen, Boyd-Graber and Resnik,
"Sometimes average is best", EMNLP 2014). Early passes, whose topics have not settled, must fade:
with samples x_1, x_2, ...

    mean_s = mean_{s-1} + 3 / (s + 2) * (x_s - mean_{s-1}),   mean_n ~ sum_s s (s + 1) x_s

(polynomial-decay averaging, Shamir and Zhang, ICML 2013, with eta = 2), which is right at any pass
at which a fit may end, and keeps no samples. The counts before every `EVERY`-th pass are samples,
and those at the end.

Measured 2026-11, held-out perplexity of the last sample, and of means with weights 1, s, s^2, s^3:
20 Newsgroups, K = 100, after 60 passes 2762; 2724, 2696, 2693, 2695; after 100 passes 2671; 2630,
2600, 2595, 2595. Four topics with words of their own, after 20 passes 33.4; 35.9, 34.1, 33.5, 33.3.
The mean has 2503 after 188 passes on 20 Newsgroups, which no sample has within 400.

The rows of the table are shared out: every partition keeps the mean of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kernels.lda_model import move_mean
from .lda_sampler import Map, chunks_of

__all__ = ["EVERY", "add_sample", "is_sample", "row_share"]

Array = NDArray[Any]
#: Passes between two samples.
EVERY = 2


def is_sample(clock: int, slack: int = 0) -> bool:
    """Whether the counts before pass ``clock`` (from 0) are a sample.

    The first clock is partition 0's alone, and what others did may be seen ``slack`` clocks late.
    """
    return clock >= 2 + slack and clock % EVERY == 0


def row_share(n_words: int, partition: int, n_partitions: int) -> slice:
    """Rows of the word-topic table whose mean a partition keeps."""
    return slice(n_words * partition // n_partitions, n_words * (partition + 1) // n_partitions)


def add_sample(mean: Array, counts: Array, number: int, threads: Map) -> None:
    """Move a mean towards one more sample.

    Parameters
    ----------
    mean
        (n, n_topics) float32, changed in place.
    counts
        (n, >= n_topics) int32, the sample.
    number
        Of the sample, from 1.
    threads
        Maps a function over chunks of rows.
    """
    weight = np.float32(3.0 / (number + 2))
    threads(lambda rows: move_mean(counts, weight, rows, mean), chunks_of(len(mean)))
