"""How messages travel: three calls (call, cast, close), whatever carries them."""

from dask_petuum.transport.base import OnReply, Reply, Transport

__all__ = ["OnReply", "Reply", "Transport"]
