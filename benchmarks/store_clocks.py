"""One clock of the store on two worker processes: small, middling and big tables.

Peers: the same step as a Dask graph (what is done today), torch.distributed's gloo allreduce (what
a distributed trainer uses), and Bösen's C++ (figures measured on this kind of machine, quoted).
Every figure is the median over many clocks of one run; a run is repeated.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

import dask_petuum as petuum
from benchmarks.report import Row

#: Milliseconds a clock of Bösen's get + inc of 1,000 rows x 100 floats took (2 processes, s=2).
BOSEN_MS = 1.8

GLOO = """
import os, sys, time, statistics, torch, torch.distributed as dist, torch.multiprocessing as mp
def work(rank, n, q):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    x = torch.ones(2_500_000)
    times = []
    for _ in range(n):
        t = time.perf_counter(); dist.all_reduce(x); x /= 2; times.append(time.perf_counter() - t)
    if rank == 0: q.put(statistics.median(times[5:]))
    dist.destroy_process_group()
if __name__ == "__main__":
    q = mp.get_context("spawn").SimpleQueue()
    mp.spawn(work, args=(int(sys.argv[1]), q), nprocs=2)
    print(q.get() * 1e3)
"""


def clocks(ctx: Any, partition: Any, name: str, n: int) -> float:
    """Median milliseconds of get + inc + clock over a whole table."""
    view = ctx.table(name).view()
    delta = np.ones_like(view.values)
    times = []
    for _ in range(n + 10):
        start = time.perf_counter()
        view.values[0].sum()
        view.inc(delta)
        ctx.clock()
        times.append(time.perf_counter() - start)
    return statistics.median(times[10:]) * 1e3


def measure(
    client: Client, shape: tuple[int, int], consistency: str, staleness: int, n: int, repeats: int
) -> list[float]:
    """Milliseconds a clock, one figure a run."""
    out = []
    with petuum.connect(client) as ps:
        ps.create_table("t", shape=shape, dtype="float32")
        for _ in range(repeats):
            run = ps.run(
                lambda ctx, part: clocks(ctx, part, "t", n),
                consistency=consistency,
                staleness=staleness,
            )
            out.append(max(run))
    return out


def graph_steps(client: Client, n: int) -> list[float]:
    """Milliseconds of a gradient step as a Dask graph of 8 blocks, as dask-ml makes it."""
    x = client.persist(da.random.default_rng(0).normal(size=(8 * 1000, 20), chunks=(1000, 20)))
    y = client.persist(da.random.default_rng(1).normal(size=8 * 1000, chunks=1000))
    w = np.zeros(20)
    times = []
    for _ in range(n + 2):
        start = time.perf_counter()
        (gradient,) = dask.compute(x.T @ (x @ w - y))
        w = w - 1e-5 * gradient
        times.append((time.perf_counter() - start) * 1e3)
    return times[2:]


def gloo(n: int, port: int) -> float | None:
    """Milliseconds of an allreduce of 10 MB over two processes, or None without torch."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(GLOO)
        script.flush()
        command = [sys.executable, script.name, str(n), str(port)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None


def run(quick: bool) -> list[Row]:
    """Measure the three sizes."""
    n, repeats = (30, 1) if quick else (300, 3)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        measure(client, (10, 10), "bsp", 0, 20, 1)
        tiny = measure(client, (10, 10), "bsp", 0, n, repeats)
        graph = graph_steps(client, 5 if quick else 20)
        middling = measure(client, (1000, 100), "essp", 1, n, repeats)
        big = measure(client, (25_000, 100), "bsp", 0, n // 5, repeats)
        with dask.config.set({"petuum.shared-memory": False}):
            client.run(dask.config.set, {"petuum.shared-memory": False})
            comms = measure(client, (25_000, 100), "bsp", 0, n // 5, repeats)
    reduced = [ms for port in range(29500, 29500 + repeats) if (ms := gloo(40, port)) is not None]
    return [
        Row(
            "one BSP clock of a 10 x 10 float32 table, 2 ranks, nothing to compute",
            "a gradient step as a Dask graph of 8 blocks",
            tiny,
            graph,
            "<= 0.0333",
            "ms",
        ),
        Row(
            "one clock of get + inc of 1,000 rows x 100 float32, 2 ranks, ESSP s=1",
            "Bösen (C++), SSPPush s=2, quoted",
            middling,
            [BOSEN_MS],
            "<= 4 ms",
            "ms",
        ),
        Row(
            "one BSP clock of a dense 10 MB float32 table, 2 ranks on one host, all changed",
            "torch gloo allreduce of 10 MB" if reduced else "-",
            big,
            reduced,
            "<= 2" if reduced else "<= 22 ms",
            "ms",
            note="arrays in shared memory",
        ),
        Row(
            "the same over Dask's comms, as between hosts",
            "torch gloo allreduce of 10 MB" if reduced else "-",
            comms,
            reduced,
            "",
            "ms",
            note="20 MB cross the loopback a clock at 1.2-1.4 GB/s a process: 14-17 ms at best",
        ),
    ]
