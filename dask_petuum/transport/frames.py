"""Frames in a pipe that several processes write to: each whole, or not taken.

A frame is a head (a mark, the length and a checksum of what follows) and msgpack of at most
``FRAME_BYTES``: with its head it goes in one piece, so that frames of several writers do not mix.
Only processes of the same user can open a pipe, and they could do worse. But whatever comes is
looked at: bytes that are no frame are passed over, up to the next one that is, and told in the log.
"""

from __future__ import annotations

import logging
import select
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import msgpack

__all__ = ["FRAME_BYTES", "PIPE_BYTES", "frame_of", "frames_in"]

logger = logging.getLogger(__name__)

#: Room of a pipe, bytes, where the system gives it; and what is read of it at once: all.
PIPE_BYTES = 2**18
#: Mark, length, checksum. The mark's first byte is one that msgpack never uses.
_HEAD = struct.Struct("<2sHI")
_MARK = b"\xc1P"
#: Longest message of a frame, bytes.
FRAME_BYTES = select.PIPE_BUF - _HEAD.size


def frame_of(packed: bytes) -> bytes:
    """Put a head before a message of at most ``FRAME_BYTES``."""
    return _HEAD.pack(_MARK, len(packed), zlib.crc32(packed)) + packed


def frames_in(data: bytes, rank: int) -> Iterator[list[Any]]:
    """Give the frames in what was read of a pipe, as lists; what is none is told and left out.

    Parameters
    ----------
    data
        All that the pipe had: a frame that is written in one piece is then read in one.
    rank
        Whose pipe it is, for the log.
    """
    at, n_other = 0, 0
    while at < len(data):
        end = _end_of(data, at)
        if end:
            yield from _unpacked(data[at + _HEAD.size : end], rank)
            at = end
            continue
        found = data.find(_MARK, at + 1)
        n_other += (len(data) if found < 0 else found) - at
        at = len(data) if found < 0 else found
    if n_other:
        text = "%d bytes in the pipe of rank %d are no frame: they are passed over"
        logger.warning(text, n_other, rank)


def _unpacked(packed: bytes, rank: int) -> Iterator[list[Any]]:
    try:
        frame = msgpack.unpackb(packed, raw=False, strict_map_key=False)
    except (ValueError, msgpack.UnpackException) as error:
        logger.warning("A frame to rank %d is refused: %r", rank, error)
        return
    if not isinstance(frame, list):
        logger.warning("A frame to rank %d is refused: %.80r", rank, frame)
        return
    yield frame


def _end_of(data: bytes, at: int) -> int:
    """Where the frame ends that begins at a place; 0 if none does."""
    if not data.startswith(_MARK, at) or at + _HEAD.size > len(data):
        return 0
    _, size, checksum = _HEAD.unpack_from(data, at)
    end = at + _HEAD.size + int(size)
    is_whole = end <= len(data) and zlib.crc32(data[at + _HEAD.size : end]) == checksum
    return end if is_whole else 0
