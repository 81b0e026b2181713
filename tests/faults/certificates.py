"""How a stranger would talk to a server of a cluster: with other certificates, or with none."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from distributed import Security
from distributed.comm import connect

__all__ = ["ask", "raw_reply"]

#: Longest wait for a peer that should not answer, seconds.
TIMEOUT = 5


async def ask(address: str, security: Security | None, message: Any) -> Any:
    """Call a handler as any peer would, and return its reply."""
    arguments = {} if security is None else security.get_connection_args("worker")
    comm = await connect(address, timeout=TIMEOUT, **arguments)
    try:
        await comm.write({**message, "reply": True})
        return await comm.read()
    finally:
        comm.abort()


def raw_reply(address: str, text: bytes) -> bytes:
    """What comes back to somebody who speaks TLS but has no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    host, _, port = address.rpartition("://")[2].rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=TIMEOUT) as plain,
        context.wrap_socket(plain) as secured,
    ):
        secured.sendall(text)
        reply = secured.recv(1)
        if not reply:
            raise ConnectionResetError("closed without a byte")
        return reply
