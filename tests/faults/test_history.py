"""What the store's checker finds in histories of fingerprints that are not as they should be."""

from __future__ import annotations

import numpy as np
import pytest
from history import check_history

N_PARTITIONS, N_CLOCKS = 3, 12


def reads_in_step():
    """Each partition sees what all have made by its clock: (n_clocks, 1 + n_partitions) each."""
    own = np.arange(N_CLOCKS)[:, np.newaxis]
    epoch = np.full((N_CLOCKS, 1), 7)
    return [np.hstack([epoch, np.tile(own, N_PARTITIONS)]) for _ in range(N_PARTITIONS)]


def check(reads, bound=0, final=(N_CLOCKS,) * N_PARTITIONS):
    clocks = np.full(N_PARTITIONS, N_CLOCKS)
    return {violation.kind for violation in check_history(reads, clocks, final, bound)}


def test_a_history_in_step_is_clean():
    assert check(reads_in_step()) == set()


@pytest.mark.parametrize(
    ("clock", "seen", "bound", "kinds"),
    [
        (8, 5, 2, {"stale", "backwards"}),
        (8, 12, 2, {"too new", "backwards"}),
        (8, 9, 0, set()),  # of a partition on the same worker, in the same clock
        (8, 10, 0, {"too new", "backwards"}),
        (8, 6, 2, {"backwards"}),
        (8, 2, None, {"backwards"}),
    ],
)
def test_a_read_that_is_out_of_bounds_is_found(clock, seen, bound, kinds):
    reads = reads_in_step()
    reads[0][clock, 2] = seen
    assert check(reads, bound) == kinds


def test_a_read_without_one_s_own_increments_is_found():
    reads = reads_in_step()
    reads[1][5, 2] = 4
    assert "own" in check(reads)


def test_a_new_epoch_may_show_less():
    reads = reads_in_step()
    reads[0][7, 2] = 9
    reads[0][8:, 0] = 8
    assert check(reads, 2) == set()


@pytest.mark.parametrize("final", [N_CLOCKS - 1, N_CLOCKS - 2])
def test_what_is_lost_at_the_end_is_found(final):
    assert check(reads_in_step(), final=(N_CLOCKS, final, N_CLOCKS)) == {"final"}
