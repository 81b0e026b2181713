"""Network namespaces, named after the process that owns them: those of a killed one are swept.

A namespace outlives its maker. So its name holds the maker's process id, and who makes namespaces
first removes those whose maker is gone, with the processes that live in them, and their folder.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["entered", "ip", "make", "make_folder", "name_of", "remove", "sweep", "why_not"]

PREFIX = "petuum"
FOLDER = Path("/run/netns")
DEVICES = Path("/dev/net/tun")
#: How often processes are killed: one may start another meanwhile.
N_KILLS = 2
#: CLONE_NEWNET of linux/sched.h.
NETWORK = 0x40000000


def why_not() -> str:
    """Why there can be no namespaces with devices of their own here; empty: there can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    try:
        subprocess.run(["ip", "netns", "list"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no `ip netns` here: {error}"
    if not DEVICES.exists():
        return f"there is no {DEVICES}"
    name = name_of("probe")
    try:
        make(name)
    except subprocess.CalledProcessError as error:
        return f"no namespace can be made: {error}"
    remove(name)
    return ""


def name_of(host: str) -> str:
    """Name of a namespace of this process."""
    return f"{PREFIX}-{os.getpid()}-{host}"


def make(name: str) -> None:
    """Make a namespace with a loopback device."""
    ip("netns", "add", name)
    ip("-n", name, "link", "set", "lo", "up")


def remove(name: str) -> None:
    """End all processes of a namespace, and remove it; not there: nothing."""
    if not (FOLDER / name).exists():
        return
    for _ in range(N_KILLS):
        for pid in _processes(name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    try:
        ip("netns", "del", name)
    except subprocess.CalledProcessError:
        if (FOLDER / name).exists():  # else another process has swept it
            raise


def make_folder() -> Path:
    """Make a folder for the files of hosts; `sweep` removes it when its owner is gone."""
    return Path(tempfile.mkdtemp(prefix=f"{name_of('hosts')}-"))


def sweep() -> list[str]:
    """Remove the namespaces whose owners are gone, and their folders; return the names."""
    found = [path.name for path in FOLDER.glob(f"{PREFIX}-*")] if FOLDER.exists() else []
    left = [name for name in found if not _is_owned(name)]
    for name in left:
        remove(name)
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}-*-hosts-*"):
        if not _is_owned(path.name):
            shutil.rmtree(path, ignore_errors=True)
    return left


@contextmanager
def entered(name: str) -> Iterator[None]:
    """Let this thread, and the threads and processes that it starts, be in a namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(FOLDER / name, os.O_RDONLY)
    try:
        _enter(there, name)
        try:
            yield
        finally:
            _enter(home, "home")
    finally:
        os.close(home)
        os.close(there)


def ip(*words: str) -> None:
    """Run ``ip``; what it says of an error is shown."""
    subprocess.run(["ip", *words], check=True)


def _is_owned(name: str) -> bool:
    """Whether the process that made a namespace lives; another one's with its id counts, too."""
    parts = re.fullmatch(rf"{PREFIX}-(\d+)-.+", name)
    return parts is None or Path("/proc", parts[1]).exists()


def _processes(name: str) -> list[int]:
    out = subprocess.run(["ip", "netns", "pids", name], check=False, capture_output=True, text=True)
    return [int(pid) for pid in out.stdout.split() if int(pid) != os.getpid()]


def _enter(descriptor: int, name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, NETWORK):
        raise OSError(ctypes.get_errno(), f"setns to {name}")
