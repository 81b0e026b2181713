"""What is installed here and on the workers of a cluster, and what is missing or differs.

`compare` is pure; `versions_here` and `versions_of_cluster` look.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

__all__ = ["OPTIONAL", "REQUIRED", "Finding", "compare", "versions_here", "versions_of_cluster"]

#: Without these nothing works.
REQUIRED = (
    "dask_petuum",
    "dask",
    "distributed",
    "numba",
    "numpy",
    "scipy",
    "scikit-learn",
    "xarray",
    "msgpack",
)
#: Wanted by the extra in brackets only.
OPTIONAL = {"matplotlib": "demo", "pandas": "demo", "bokeh": "viz"}
#: Where another version on a worker breaks a fit: the store's messages and the pickles it sends.
MUST_MATCH = ("python", "dask_petuum", "dask", "distributed", "numpy")

#: Package to version; None where it is not installed.
Versions = Mapping[str, str | None]


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Parameters
    ----------
    place
        ``"here"``, ``"scheduler"`` or a worker's address.
    text
        What is wrong, and what to do.
    fatal
        Whether a fit would fail.
    """

    place: str
    text: str
    fatal: bool


def versions_here(names: Sequence[str] = (*REQUIRED, *OPTIONAL)) -> dict[str, str | None]:
    """Return the versions of Python and of packages in this process."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def versions_of_cluster(address: str, timeout: float = 10.0) -> dict[str, dict[str, str | None]]:
    """Return the versions on the scheduler and on every worker of a cluster.

    Parameters
    ----------
    address
        The scheduler's.
    timeout
        How long to try to reach it, in seconds.

    Returns
    -------
    dict
        ``"scheduler"`` and the workers' addresses to what is installed there.

    Raises
    ------
    OSError
        Where the scheduler cannot be reached.
    """
    from distributed import Client

    names = (*REQUIRED, *OPTIONAL)

    def look() -> dict[str, str | None]:  # nested, so that it travels without this package
        import platform
        from importlib import metadata

        found: dict[str, str | None] = {"python": platform.python_version()}
        for name in names:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = None
        return found

    with Client(address, timeout=timeout, set_as_default=False) as client:
        return {"scheduler": client.run_on_scheduler(look), **client.run(look)}


def compare(places: Mapping[str, Versions]) -> list[Finding]:
    """Say what is missing, and where a version differs from the one here.

    Parameters
    ----------
    places
        Place to versions; ``"here"`` must be among them.

    Examples
    --------
    >>> here = {name: "1.0" for name in (*REQUIRED, *OPTIONAL, "python")}
    >>> compare({"here": here, "tcp://a:1": {**here, "numpy": "0.9"}})[0].text
    'numpy is 0.9, but 1.0 here: install the same version'
    """
    here = places["here"]
    findings = []
    for place, versions in places.items():
        for name, version in versions.items():
            finding = _judge(place, name, version, here.get(name))
            if finding is not None:
                findings.append(finding)
    return findings


def _judge(place: str, name: str, version: str | None, here: str | None) -> Finding | None:
    if version is None:
        if name in OPTIONAL:
            if place != "here":
                return None  # what is drawn and read is drawn and read by the client
            extra = f"pip install 'dask_petuum[{OPTIONAL[name]}]'"
            return Finding(place, f"{name} is not installed ({extra})", fatal=False)
        return Finding(place, f"{name} is not installed: pip install {name}", fatal=True)
    if name in MUST_MATCH and here is not None and version != here:
        text = f"{name} is {version}, but {here} here: install the same version"
        return Finding(place, text, fatal=name == "dask_petuum")
    return None
