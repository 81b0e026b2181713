"""Build sdist and wheel, install the wheel in a folder of its own, and use it from there.

tests/test_packaging.py compares the wheel's files with the tree; this is the check that what was
built also works for somebody who has only the wheel.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROBE = """
import os, pkgutil, sys
import dask_petuum as petuum
import dask_petuum.algorithms

assert petuum.__file__.startswith(os.environ["PYTHONPATH"]), petuum.__file__
for package in (petuum, dask_petuum.algorithms):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        __import__(found.name)
for name in petuum.__all__:
    getattr(petuum, name)
assert not any(name.split(".")[0] == "algorithms" for name in sys.modules)
print(f"wheel: {len(petuum.__all__)} public names load from {petuum.__path__[0]}")
"""


def main() -> None:
    """Build, unpack and probe; raises where anything fails."""
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder:
        dist, target = Path(folder, "dist"), Path(folder, "target")
        build = [python, "-m", "build", "--outdir", str(dist), str(ROOT)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = dist.glob("*.whl")
        install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
        subprocess.run([*install, str(wheel)], check=True)
        environment = {**os.environ, "PYTHONPATH": str(target)}
        subprocess.run([python, "-c", PROBE], check=True, cwd=folder, env=environment)


if __name__ == "__main__":
    main()
