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
        self.given_up = []

    def keep(self, key, part, arrays):
        return part

    def report(self, key, part):
        raise self._error

    def give_up(self, key, why):
        self.given_up.append((key.clock, why))
        raise OSError("nobody listens")

    def is_done(self, key):
        return False

    def discard(self, key):
        raise AssertionError("it was reported: others may count on it")


@pytest.mark.parametrize(
    ("error", "level"),
    [(OSError("the disk is full"), "WARNING"), (RunInterruptedError("run r is over"), "INFO")],
)
def test_the_end_of_a_run_is_no_warning_but_a_failure_is(caplog, error, level):
    keeper = Refusing(error)
    saver = Saver("f", "r", 0, keeper)
    with caplog.at_level(logging.INFO, logger="dask_petuum"):
        saver.put_states(4, {"n": np.zeros(2)})
        saver.put_cut(Cut(4, []))
        saver.wait()
    assert saver.has_failed
    assert saver.is_idle
    failed, *more = [(r.levelname, repr(error) in r.getMessage()) for r in caplog.records]
    assert failed == (level, True)
    assert [level for level, _ in more] == ["INFO"] * len(keeper.given_up)
    assert keeper.given_up == ([] if level == "INFO" else [(4, repr(error))]), "who waits is told"
