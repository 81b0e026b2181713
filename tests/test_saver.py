"""What a saver says when a part cannot be kept."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from dask_petuum.checkpoint.saver import Saver
from dask_petuum.exceptions import RunInterruptedError
from dask_petuum.store.owner import Cut


class Refusing:
    """A keeper whose report ends with an error."""

    def __init__(self, error):
        self._error = error

    def keep(self, key, part, arrays):
        return part

    def report(self, key, part):
        raise self._error


@pytest.mark.parametrize(
    ("error", "level"),
    [(OSError("the disk is full"), "WARNING"), (RunInterruptedError("run r is over"), "INFO")],
)
def test_the_end_of_a_run_is_no_warning_but_a_failure_is(caplog, error, level):
    saver = Saver("f", "r", 0, Refusing(error))
    with caplog.at_level(logging.INFO, logger="dask_petuum"):
        saver.put_states(4, {"n": np.zeros(2)})
        saver.put_cut(Cut(4, []))
        saver.wait()
    assert saver.has_failed
    assert saver.is_idle
    assert [(r.levelname, repr(error) in r.getMessage()) for r in caplog.records] == [(level, True)]
