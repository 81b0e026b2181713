"""How a stranger would talk to a server of a cluster: with other certificates, or with none."""

from __future__ import annotations

import datetime
import socket
import ssl
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import Security
from distributed.comm import connect

__all__ = ["SHORT", "Authority", "ask", "raw_reply"]

#: Longest wait for an answer, seconds.
TIMEOUT = 60
#: The same of one that should not come: until then Dask tries again.
SHORT = 5


@dataclass(frozen=True)
class Authority:
    """Who signs certificates that last as long as a test wants."""

    key: Any
    certificate: x509.Certificate

    @classmethod
    def new(cls) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(key, _signed(key, key, "authority", 1, is_authority=True))

    def security(self, days: int) -> Security:
        """A certificate that is good for so many days from now; of those before now if negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        text = _pem(_signed(key, self.key, "peer", days))
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()
        roles = ("client", "scheduler", "worker")
        return Security(
            tls_ca_file=_pem(self.certificate),
            require_encryption=True,
            **{f"tls_{role}_cert": text for role in roles},
            **{f"tls_{role}_key": private for role in roles},
        )


def _signed(
    key: Any, by: Any, name: str, days: int, *, is_authority: bool = False
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, until) - datetime.timedelta(days=1))
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    return builder.sign(by, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


async def ask(
    address: str, security: Security | None, message: Any, timeout: float = TIMEOUT
) -> Any:
    """Call a handler as any peer would, and return its reply."""
    arguments = {} if security is None else security.get_connection_args("worker")
    comm = await connect(address, timeout=timeout, **arguments)
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
