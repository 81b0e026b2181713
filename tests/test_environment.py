"""What is missing, here and on workers."""

from __future__ import annotations

import re

import pytest

from dask_petuum.environment import OPTIONAL, REQUIRED, compare, versions_here, versions_of_cluster

HERE = dict.fromkeys((*REQUIRED, *OPTIONAL, "python"), "1.0")


def test_here_has_what_it_needs() -> None:
    assert not [finding for finding in compare({"here": versions_here()}) if finding.fatal]


@pytest.mark.parametrize(
    ("place", "changed", "text", "fatal"),
    [
        ("here", {"numba": None}, "numba is not installed: pip install numba", True),
        ("here", {"pandas": None}, r"pandas is not installed \(pip install", False),
        ("tcp://a:1", {"dask_petuum": None}, "dask_petuum is not installed", True),
        ("tcp://a:1", {"dask_petuum": "0.9"}, "dask_petuum is 0.9, but 1.0 here", True),
        ("scheduler", {"numpy": "0.9"}, "numpy is 0.9, but 1.0 here", False),
    ],
)
def test_findings(place: str, changed: dict, text: str, fatal: bool) -> None:
    places = {"here": HERE, "scheduler": HERE, "tcp://a:1": HERE}
    (finding,) = compare({**places, place: {**HERE, **changed}})
    assert (finding.place, finding.fatal) == (place, fatal)
    assert re.match(text, finding.text)


def test_what_only_the_client_draws_is_not_asked_of_workers() -> None:
    assert compare({"here": HERE, "tcp://a:1": {**HERE, "matplotlib": None, "xarray": "0.9"}}) == []


@pytest.mark.slow
def test_a_cluster_is_asked() -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        found = versions_of_cluster(cluster.scheduler_address)
        worker = next(iter(cluster.scheduler.workers))
    assert set(found) == {"scheduler", worker}
    assert found[worker] == found["scheduler"] == versions_here()
