"""The first topics of a fit: found on a part of the documents, then on ever more of them.

Topics take some fifty passes to part from each other, on few documents as on all. So most of these
passes are made over an eighth of the documents, where `lda_split` also moves whole topics.
"""

from __future__ import annotations

import numpy as np

from .lda_sampler import Array, Map, learnt, minka_sums, sample_pass
from .lda_split import Tokens, choose_exchanges, regroup
from .lda_tokens import State, token_docs, token_words

__all__ = ["grow", "list_topics"]

#: Document groups below which a fit does not start on some of them.
MIN_GROUPS = 4
#: Rounds of exchanging topics, at most, and passes after each.
MAX_ROUNDS = 3
#: Tokens among which topics are exchanged, at most: some 50 bytes each.
MAX_EXCHANGED = 8_000_000
#: Passes of a stage, at most.
MAX_PASSES = 100
PASSES_BETWEEN = 8
#: One topic in so many, the smallest ones, may be dissolved.
DISSOLVED = 4
#: Topics that are dissolved on trial, at most: each costs K times its tokens.
MAX_DISSOLVED = 50
#: Tokens of a topic below which one round will do: nearly every topic can be parted with a gain,
#: and round after round costs more than it brings (K = 1000, 2 M tokens; 2026-11).
FEW_TOKENS = 1000
#: Passes of the first stage before the prior is learnt: at first all topics are alike, and a prior
#: learnt from that holds them so (K = 100: from 10 passes on is worse than never; 2026-11).
LEARN_AFTER = 20


def grow(
    state: State,
    n_wk: Array,
    n_k: Array,
    alpha: Array,
    beta: float,
    seeds: np.random.SeedSequence,
    threads: Map,
    effort: float,
    last: int = 2,
    learn_alpha: bool = False,
) -> int:
    """Find first topics on few documents, then on twice as many, and so on up to half of them.

    The first stage has a quarter of a million tokens, or a 32nd of them. Each stage costs as much
    as ``effort`` passes over all documents at most, and makes 100 passes at most. The first
    documents' topics are drawn with equal probability; the others' are drawn one after the other,
    each given those before, and so fall in with topics that are there, which saves passes. (Drawn
    so from the start, the first documents' topics stay too much as they came: measured 2026-11.)
    At the end of each stage topics are exchanged, see `lda_split`, but not where that would take
    too much memory.

    Parameters
    ----------
    state, n_wk, n_k, alpha, beta, seeds, threads
        As in `sample_pass`; no token has a topic yet.
    effort
        Passes' worth of each stage; 0: every topic is drawn with equal probability.
    last
        The last stage has one document in so many: 2, or 1 where the documents are themselves
        but a part.
    learn_alpha
        Learn ``alpha``, in place, as soon as the first topics have parted (Minka's fixed point).

    Returns
    -------
    Number of tokens drawn.
    """
    n_groups = len(state["cuts"]) - 1
    staged = effort > 0 and n_groups >= MIN_GROUPS
    stages = [share for share in (32, 16, 8, 4, 2, 1) if n_groups % share == 0 and share >= last]
    shares = stages if staged else [1]
    # Priors far above any count: all topics are alike.
    even = np.full(len(alpha), 1e5)
    sample_pass(state, n_wk, n_k, even, 1e5, seeds.spawn(1)[0], threads, n_groups // shares[0])
    drawn = _count_active(state, n_groups // shares[0])
    for share in shares if staged else ():
        n_active = n_groups // share
        prior = (alpha, beta)
        n_tokens = _count_active(state, n_active)
        n_passes = max(1, min(round(share * effort), MAX_PASSES))
        for number, seed in enumerate(seeds.spawn(n_passes)):
            sample_pass(state, n_wk, n_k, *prior, seed, threads, n_active)
            drawn += n_tokens
            if learn_alpha and (share < shares[0] or number >= LEARN_AFTER):
                alpha[:] = learnt(alpha, minka_sums(state, alpha, threads))
        for seed in seeds.spawn(_count_rounds(n_tokens, len(alpha))):
            if not exchange_topics(state, n_wk, n_k, *prior, seed, threads, n_active):
                break
            for seed_of_pass in seed.spawn(PASSES_BETWEEN):
                sample_pass(state, n_wk, n_k, *prior, seed_of_pass, threads, n_active)
                drawn += n_tokens
    return drawn


def exchange_topics(
    state: State,
    n_wk: Array,
    n_k: Array,
    alpha: Array,
    beta: float,
    seeds: np.random.SeedSequence,
    threads: Map,
    n_active: int,
) -> int:
    """Part topics in two, and join others to free their numbers, where that is likelier.

    Parameters
    ----------
    state, n_wk, n_k, alpha, beta, seeds, threads, n_active
        As in `sample_pass`; the counts are those of the active documents' tokens alone.

    Returns
    -------
    Number of topics that were parted.
    """
    n_tokens = _count_active(state, n_active)
    topics = state["topics"][:n_tokens]
    words, docs = token_words(state, n_active), token_docs(state, n_active)
    tokens = Tokens(words, docs, topics, n_wk.shape[0], len(alpha))
    prior = float(alpha.mean())
    gains, half = tokens.part(prior, beta, seeds.spawn(1)[0], threads)
    sizes = np.bincount(topics, minlength=len(alpha))
    n_candidates = min(-(-len(alpha) // DISSOLVED), MAX_DISSOLVED)
    candidates = np.argsort(sizes, kind="stable")[:n_candidates]
    changes, new = tokens.dissolve(candidates, n_wk, prior, beta, seeds.spawn(1)[0], threads)
    exchanges = choose_exchanges(gains, candidates, changes)
    positions, chosen = regroup(tokens, half, new, exchanges)
    np.subtract.at(n_wk, (words[positions], topics[positions]), 1)
    np.add.at(n_wk, (words[positions], chosen), 1)
    topics[positions] = chosen
    n_k[: len(alpha)] = np.bincount(topics, minlength=len(alpha))
    if "docs" in state:
        list_topics(state, docs, topics)
    return len(exchanges)


def list_topics(state: State, docs: Array, topics: Array) -> None:
    """Write the lists of the documents' topics anew, from their tokens."""
    n_docs = int(docs.max(initial=-1)) + 1
    last = int(state["list_ptr"][n_docs])
    state["list_topics"][:last] = 0
    state["list_counts"][:last] = 0
    n_topics = int(topics.max(initial=0)) + 1
    pairs, counts = np.unique(docs.astype(np.int64) * n_topics + topics, return_counts=True)
    of = pairs // n_topics
    sizes = np.bincount(of, minlength=n_docs)
    place = np.arange(len(pairs)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    at = state["list_ptr"][of] + place
    state["list_topics"][at] = pairs % n_topics
    state["list_counts"][at] = counts
    state["list_size"][:n_docs] = sizes


def _count_rounds(n_tokens: int, n_topics: int) -> int:
    """Rounds of exchanging topics, at most, of a stage with so many tokens."""
    if n_tokens > MAX_EXCHANGED:
        return 0
    return 1 if n_tokens < FEW_TOKENS * n_topics else MAX_ROUNDS


def _count_active(state: State, n_groups: int) -> int:
    """Tokens of the first groups of documents."""
    return int(state["lengths"][: state["cuts"][n_groups]].sum())
