"""LDA's parameters: their checks, and the priors that a fit begins with."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["check_parameters", "first_priors", "growth_of"]

#: Passes' worth of work in each stage of the start, at most.
MAX_GROWTH = 10.0
#: Tokens below which a start on few documents makes too much of them.
MIN_GROWTH_TOKENS = 500_000

SAMPLERS = ("auto", "dense", "sparse")


def check_parameters(model: Any) -> None:
    """Refuse parameters that cannot be.

    Raises
    ------
    ValueError
        Naming the parameter, its value and what it may be.
    """
    for name, low in (("n_components", 1), ("max_iter", 1)):
        value = getattr(model, name)
        if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
            raise ValueError(f"{name} must be an integer >= {low}, got {value!r}")
    for name in ("doc_topic_prior", "topic_word_prior"):
        _check_prior(name, getattr(model, name))
    if model.parallelism not in ("data", "model"):
        raise ValueError(f"parallelism must be 'data' or 'model', got {model.parallelism!r}")
    if model.sampler not in SAMPLERS:
        raise ValueError(f"sampler must be one of {SAMPLERS}, got {model.sampler!r}")
    if not isinstance(model.tol, Real) or not float(model.tol) >= 0:
        raise ValueError(f"tol must be a number >= 0, got {model.tol!r}")
    if not isinstance(model.evaluate_every, Integral):
        raise ValueError(f"evaluate_every must be an integer, got {model.evaluate_every!r}")


def first_priors(model: Any, going_on: bool) -> tuple[NDArray[np.float64], float]:
    """Priors to begin with; a model that goes on keeps those that it learnt.

    Returns
    -------
    alpha (n_topics,), beta
    """
    n_topics = int(model.n_components)
    alpha, beta = model.doc_topic_prior, model.topic_word_prior
    learnt = is_learnt(alpha)
    if learnt and going_on:
        alphas = np.array(model.doc_topic_prior_, dtype=np.float64)
    else:
        alphas = np.full(n_topics, min(0.1, 10.0 / n_topics) if learnt else float(alpha))
    if beta == "auto" and going_on:
        return alphas, float(model.topic_word_prior_)
    return alphas, 0.01 if beta is None or beta == "auto" else float(beta)


def is_learnt(doc_topic_prior: Any) -> bool:
    """Whether the document prior is learnt: for None and "auto"."""
    return doc_topic_prior is None or (
        isinstance(doc_topic_prior, str) and doc_topic_prior == "auto"
    )


def _check_prior(name: str, value: Any) -> None:
    if value is None or (isinstance(value, str) and value == "auto"):
        return
    if not isinstance(value, Real) or isinstance(value, bool) or not float(value) > 0:
        raise ValueError(f"{name} must be None, 'auto' or a number > 0, got {value!r}")


def growth_of(max_iter: int, n_tokens: int) -> float:
    """Passes over the first partition's documents for each stage of the start."""
    if n_tokens < MIN_GROWTH_TOKENS:
        return 0.0
    return min(MAX_GROWTH, max_iter / 8)
