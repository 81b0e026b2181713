"""The defaults are there, and give way to what the user says."""

from __future__ import annotations

import os
import subprocess
import sys

import dask.config
import pytest

from dask_petuum import config


def test_defaults_are_registered_under_petuum() -> None:
    assert dask.config.get("petuum.consistency") == config.get("consistency") == "essp"
    assert config.get("staleness") == 1


def test_what_a_caller_says_goes_first() -> None:
    with dask.config.set({"petuum.staleness": 3}):
        assert config.get("staleness") == 3
        assert config.get("staleness", override_with=0) == 0


def test_models_without_staleness_do_not_get_the_configured_one() -> None:
    with dask.config.set({"petuum.consistency": "bsp", "petuum.staleness": 3}):
        assert config.consistency_and_staleness() == ("bsp", 0)
        assert config.consistency_and_staleness("ssp") == ("ssp", 3)
        assert config.consistency_and_staleness("ssp", 1) == ("ssp", 1)


def test_an_unknown_setting_is_an_error() -> None:
    with pytest.raises(KeyError):
        config.get("no-such-setting")


def test_the_environment_goes_before_the_defaults() -> None:
    command = "from dask_petuum import config; print(config.get('staleness'))"
    done = subprocess.run(
        [sys.executable, "-c", command],
        env={**os.environ, "DASK_PETUUM__STALENESS": "7"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "7"
