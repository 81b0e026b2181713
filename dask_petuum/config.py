"""The defaults of ``dask_petuum.yaml``, registered with ``dask.config`` under ``petuum``.

Importing this module registers them; whoever reads a setting imports `get` from here, so no reader
can come before the registration. A user's own files, ``dask.config.set`` and the environment
(``DASK_PETUUM__STALENESS=3``) go before these defaults, as everywhere in Dask.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import dask.config
import yaml

__all__ = ["consistency_and_staleness", "get"]


def _register() -> None:
    text = files("dask_petuum").joinpath("dask_petuum.yaml").read_text(encoding="utf-8")
    dask.config.update_defaults(yaml.safe_load(text))


def get(key: str, override_with: Any = None) -> Any:
    """Return one of dask_petuum's settings.

    Parameters
    ----------
    key
        Its name below ``petuum``, as in ``"staleness"``.
    override_with
        Returned instead where it is not None: what a caller said himself.

    Examples
    --------
    >>> import dask.config
    >>> with dask.config.set({"petuum.staleness": 3}):
    ...     get("staleness"), get("staleness", override_with=0)
    (3, 0)
    """
    return dask.config.get(f"petuum.{key}", override_with=override_with)


def consistency_and_staleness(
    consistency: str | None = None, staleness: int | str | None = None
) -> tuple[str, int | str]:
    """Fill in what a caller did not say of how fresh reads must be.

    The configured staleness is for models that have one: it is 0 for ``bsp`` and ``asp``.

    Examples
    --------
    >>> consistency_and_staleness(), consistency_and_staleness("bsp")
    (('essp', 1), ('bsp', 0))
    """
    model = str(get("consistency", override_with=consistency))
    if staleness is None:
        staleness = 0 if model in ("bsp", "asp") else get("staleness")
    return model, staleness


_register()
