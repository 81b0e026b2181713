"""Clusters of dask-cloudprovider whose virtual machines are processes of this one.

What the machine of a cloud would get is what runs: its cloud-init is read as YAML and the commands
in it run in bash, in a session of their own, with a `docker` of ours first on the path that starts
this Python in place of an image. So the command line, its quoting, the environment, the settings of
Dask and the certificates come the way they come in a cloud.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from dask_cloudprovider.generic.vmcluster import (
    SchedulerMixin,
    VMCluster,
    VMInterface,
    WorkerMixin,
)
from proxies import free_port

__all__ = ["LocalVMCluster"]

#: Runs the command behind ``docker run [-e NAME=VALUE | --option[=value]]... IMAGE``.
DOCKER = """#!{python}
import os, sys
verb, *words = sys.argv[1:]
assert verb == "run", sys.argv
environment = dict(os.environ, PATH={folder!r} + os.pathsep + os.environ["PATH"])
while words[0].startswith("-"):
    if words.pop(0) == "-e":
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
image, *command = words
os.execvpe(command[0], command, environment)
"""


class LocalVM(VMInterface):
    """A machine that is the processes of one session.

    Parameters
    ----------
    cluster
        Whose it is.
    env_vars
        Environment of its container.
    """

    def __init__(
        self,
        *,
        cluster: Any,
        env_vars: dict[str, str] | None = None,
        docker_image: str = "",
        protocol: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.cluster = cluster
        self.env_vars = env_vars or {}
        self.docker_image = docker_image
        self.auto_shutdown = False
        self.bootstrap = False
        self.process: subprocess.Popen[bytes] | None = None

    async def create_vm(self) -> tuple[str, None]:
        """Run what the machine is told to run when it boots."""
        told = yaml.safe_load(self.cluster.render_process_cloud_init(self))
        folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=self.cluster.folder))
        docker = folder / "docker"
        docker.write_text(
            DOCKER.format(python=sys.executable, folder=str(Path(sys.executable).parent))
        )
        docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", "\n".join(told["runcmd"])],
                env=dict(os.environ, PATH=f"{folder}{os.pathsep}{os.environ['PATH']}"),
                cwd=folder,
                start_new_session=True,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return "127.0.0.1", None

    async def destroy_vm(self) -> None:
        """Take the machine away, as clouds do."""
        self.kill()

    def kill(self) -> None:
        """End all its processes at once."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class LocalVMScheduler(SchedulerMixin, LocalVM):
    """A machine for the scheduler."""


class LocalVMWorker(WorkerMixin, LocalVM):
    """A machine for a worker and its nanny."""


class LocalVMCluster(VMCluster):
    """A cluster with TLS, as dask-cloudprovider makes it.

    Parameters
    ----------
    folder
        Where the machines leave their logs.
    n_workers
        Machines, with one thread each.
    """

    def __init__(self, folder: Path, n_workers: int, **more: Any) -> None:
        self.folder = folder
        self.scheduler_class = LocalVMScheduler
        self.worker_class = LocalVMWorker
        self.options = {"cluster": self}
        self.scheduler_options = dict(self.options)
        self.worker_options = dict(self.options)
        options = {"port": free_port(), "host": "127.0.0.1", "dashboard_address": ":0"}
        super().__init__(
            n_workers=n_workers,
            scheduler_options=options,
            worker_options={"nthreads": 1},
            security=True,
            **more,
        )
