"""Which checkpoint a fit goes on from, and when a part may lack a copy: without a cluster."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from dask_petuum.checkpoint.saved import Manifest, SavedPart
from dask_petuum.checkpoint.vault import PartKey, Vault
from dask_petuum.exceptions import CheckpointError, RankLostError, TransportError
from dask_petuum.runtime.cluster_fit import ClusterFit
from dask_petuum.runtime.kept_parts import _Keeper
from dask_petuum.runtime.spec import Keeping

ERROR = RankLostError("rank 1 was lost")


def choose(holders, there, newest_file=None, files=False):
    """Ask for the checkpoint whose parts have these holders, while these workers are there."""

    def newest():
        if newest_file is None:
            raise CheckpointError("there is none")
        return newest_file

    found = None
    if holders is not None:
        parts = [SavedPart(rank, {}, tuple(who)) for rank, who in enumerate(holders)]
        found = Manifest("fit", "run", 5, {}, tuple(parts)).to_dict()
    reply = {"checkpoint": found, "there": there}
    url = "memory://somewhere" if files else None
    fit = SimpleNamespace(
        _client=SimpleNamespace(sync=lambda *arguments, **keywords: reply),
        _fit_id="fit",
        _checkpoints=SimpleNamespace(url=url, identity={}, newest=newest),
        _saved="where the epoch began",
    )
    fit._saved_in_files = lambda: ClusterFit._saved_in_files(fit)
    return ClusterFit._checkpoint_of(fit, ERROR)


def test_holders_that_are_gone_are_not_asked():
    manifest = choose(["ab", "bc", "ca"], ["a", "c"])
    assert [part.holders for part in manifest.parts] == [("a",), ("c",), ("c", "a")]


def test_without_a_new_checkpoint_the_fit_begins_where_its_epoch_did():
    assert choose(None, ["a"]) == "where the epoch began"


def test_a_part_that_is_lost_with_its_copy_is_named():
    with pytest.raises(RankLostError, match=r"parts of ranks 1 \(b and c\)"):
        choose(["ab", "bc", "ca"], ["a"])


def test_files_stand_in_for_parts_that_are_lost():
    file = Manifest("fit", "run", 4)
    assert choose(["ab", "bc", "ca"], ["a"], file, files=True) is file
    assert choose(["ab", "bc", "ca"], ["a"], None, files=True) is None


def test_a_fit_on_one_worker_begins_again_without_it():
    """Its part had no copy: it was kept so that others could join."""
    assert choose(["a"], ["b"]) is None
    assert choose(["a"], ["a", "b"]).parts[0].holders == ("a",)
    with pytest.raises(RankLostError, match="lost with the workers"):
        choose(["ab"], ["c"])


def test_a_lone_worker_is_said_to_be_one():
    assert Keeping("fit").is_lone
    assert not Keeping("fit", ("b", "a")).is_lone
    assert not Keeping("fit", url="memory://somewhere").is_lone


@pytest.mark.parametrize("error", [TransportError("b is gone"), CheckpointError("b is full")])
def test_only_a_single_rank_does_without_a_copy(error):
    """The worker that has it has no rank, and may leave; among several ranks the run is lost."""

    def fail(address, key, arrays, node):
        raise error

    kept = SimpleNamespace(address="a", vault=Vault(), copy_to=fail)
    key, part = PartKey("fit", "run", 5, 0), SavedPart(0, {})
    saved = _Keeper(kept, Keeping("fit", ("b",)), 0, None).keep(key, part, {"run/0/x": np.ones(3)})
    assert saved.holders == ("a",)
    assert kept.vault.keys == [key]
    with pytest.raises(type(error)):
        _Keeper(kept, Keeping("fit", ("b", "a")), 0, None).keep(key, part, {})
