"""Getting partitions to their ranks: Dask partitions stay where they are, others are sent once.

Nothing of a Dask collection passes through the client: its partitions are computed where their
inputs lie, measured there, and moved worker to worker only where the balance of work asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distributed import Client, Future, wait

from dask_petuum.runtime.placement import place_partitions

__all__ = ["homes_of", "on_ranks", "put_pieces"]


def put_pieces(client: Client, pieces: Sequence[Any], addresses: Sequence[str]) -> list[Future]:
    """Get every piece onto the cluster, as a future that has been computed.

    Lazy pieces are computed where Dask finds best; pieces in this process are sent, in order,
    an equal share to each worker.

    Raises
    ------
    Exception
        What computing a piece raised.
    """
    if pieces and all(hasattr(piece, "dask") for piece in pieces):
        futures: list[Future] = client.compute(list(pieces), workers=list(addresses))
    else:
        n_ranks = len(addresses)
        futures = [
            piece
            if isinstance(piece, Future)
            else client.scatter(
                [piece], workers=[addresses[index * n_ranks // len(pieces)]], hash=False
            )[0]
            for index, piece in enumerate(pieces)
        ]
    wait(futures)
    for future in futures:
        if future.status == "error":
            future.result()
    return futures


def homes_of(
    client: Client, futures: Sequence[Future], addresses: Sequence[str]
) -> list[list[int]]:
    """Ranks that hold each future's data."""
    rank_of = {address: rank for rank, address in enumerate(addresses)}
    who = client.who_has(list(futures))
    return [
        sorted(rank_of[address] for address in who.get(future.key, ()) if address in rank_of)
        for future in futures
    ]


def on_ranks(client: Client, pieces: Sequence[Any], addresses: Sequence[str]) -> list[list[Any]]:
    """Place pieces of equal weight on ranks: by rank, futures in the pieces' order."""
    futures = put_pieces(client, pieces, addresses)
    placed = place_partitions(
        [1] * len(futures), homes_of(client, futures, addresses), len(addresses)
    )
    by_rank: list[list[Any]] = [[] for _ in addresses]
    for future, rank in zip(futures, placed, strict=True):
        by_rank[rank].append(future)
    return by_rank
