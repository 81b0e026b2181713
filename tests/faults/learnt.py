"""All that an estimator knows, so that a refusal can be shown to leave it alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from bad_input import Refused

__all__ = ["refused_unchanged"]


@contextmanager
def refused_unchanged(model: Any, expected: Refused) -> Iterator[None]:
    """The block must raise the error that is expected, and the model be what it was before."""
    before = copy.deepcopy(vars(model))
    with pytest.raises(expected.kind) as caught:
        yield
    text = str(caught.value)
    assert all(word in text for word in expected.words), text
    np.testing.assert_equal(vars(model), before)
