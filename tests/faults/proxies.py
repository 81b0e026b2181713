"""TCP proxies for bad links, without root: they delay, stall, reset and record what passes.

A worker that is given ``contact_address`` of one proxy and the scheduler's address through another
has nothing but bad links.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self

__all__ = ["Proxies", "Proxy", "free_port"]

HOST = "127.0.0.1"
#: Bytes that are taken at a time.
CHUNK = 2**16
#: Ports below those for connections (Linux: from 32768 on), from a place of this process on.
_PORTS = iter(range(12_000 + os.getpid() * 100 % 19_000, 32_000))
#: Close with a RST: SO_LINGER on, zero seconds.
LINGER = struct.pack("ii", 1, 0)


def free_port() -> int:
    """A port that nobody listens on now, and that the system gives to nobody who asks for any.

    Whoever is told it may come to listen there some seconds later; connections of all processes
    take the system's ports meanwhile. Two processes of tests begin at different places.
    """
    for port in _PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise OSError("no free port is left")


class Proxy:
    """One listening port, and where it leads to.

    ``delay`` (seconds, each way) holds for what passes from now on; ``recorded`` is kept where
    ``records`` is set.
    """

    # The mutable state is the pairs of streams, changed on the proxies' loop only, and what a test
    # sets: `delay` and `_open`.

    def __init__(self, target: str, records: bool = False) -> None:
        host, _, port = target.rpartition("://")[2].rpartition(":")
        self._target = host, int(port)
        self._scheme = target.partition("://")[0]
        self.delay = 0.0
        self.records = records
        self.recorded = bytearray()
        self.n_bytes = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # what goes to the target, and what comes back
        self._flows = asyncio.Event(), asyncio.Event()
        self.flow()

    def __repr__(self) -> str:
        return f"<Proxy to {self._target}, {len(self._writers)} streams, delay {self.delay} s>"

    @property
    def address(self) -> str:
        """Where to reach what is behind it."""
        return f"{self._scheme}://{HOST}:{self.port}"

    async def start(self, port: int = 0) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, port, limit=CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def reset(self) -> None:
        """Cut all connections with a RST; new ones are taken."""
        for writer in [w for w in self._writers if not w.transport.is_closing()]:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
            writer.transport.abort()

    def stall(self) -> None:
        """Let nothing through, until `flow`."""
        for flows in self._flows:
            flows.clear()

    def stall_answers(self) -> None:
        """Let through what goes to the target, and nothing that comes back, until `flow`."""
        self._flows[1].clear()

    def flow(self) -> None:
        for flows in self._flows:
            flows.set()

    async def close(self) -> None:
        self._server.close()
        self.flow()
        self.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target, limit=CHUNK)
        except OSError:
            writer.transport.abort()
            return
        ways = (reader, far_writer), (far_reader, writer)
        for (source, sink), flows in zip(ways, self._flows, strict=True):
            self._writers.add(sink)
            task = asyncio.create_task(self._pass_on(source, sink, flows))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, flows: asyncio.Event
    ) -> None:
        """Read; write the delay later, in order, while more is read."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        writing = asyncio.create_task(self._write(queue, sink, flows))
        try:
            with suppress(OSError):
                while data := await source.read(CHUNK):
                    self.n_bytes += len(data)
                    if self.records:
                        self.recorded += data
                    queue.put_nowait((asyncio.get_running_loop().time() + self.delay, data))
            queue.put_nowait((0.0, b""))
            await writing
        finally:
            writing.cancel()
            self._writers.discard(sink)
            sink.close()

    async def _write(
        self,
        queue: asyncio.Queue[tuple[float, bytes]],
        sink: asyncio.StreamWriter,
        flows: asyncio.Event,
    ) -> None:
        while True:
            due, data = await queue.get()
            if not data:
                return
            await asyncio.sleep(max(due - asyncio.get_running_loop().time(), 0.0))
            await flows.wait()
            try:
                sink.write(data)
                await sink.drain()
            except OSError:
                return


class Proxies:
    """Proxies, on an event loop in a thread of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies")
        self._all: list[Proxy] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        for proxy in self._all:
            self.call(proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def opened(self) -> list[Proxy]:
        """All that were ever opened."""
        return list(self._all)

    def open(self, target: str, port: int = 0, records: bool = False) -> Proxy:
        """Open a proxy to an address, on a port (0: any)."""
        proxy = Proxy(target, records)
        self._all.append(proxy)
        return self.call(proxy.start(port))

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def soon(self, function: Any, after: float = 0.0) -> None:
        """Call a function on the proxies' loop, some seconds from now."""
        self._loop.call_soon_threadsafe(self._loop.call_later, after, function)
