"""Getting partitions to their ranks: Dask partitions stay where they are, others are sent once.

Nothing of a Dask collection passes through the client: its partitions are computed where their
inputs lie, measured there, and moved worker to worker only where the balance of work asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import Any

from distributed import Client, Future

from dask_petuum.exceptions import RankLostError
from dask_petuum.runtime.cluster_tasks import released_on_failure, wait_pinned
from dask_petuum.runtime.placement import place_partitions

__all__ = ["homes_of", "on_ranks", "put_pieces", "scatter_to"]


def put_pieces(client: Client, pieces: Sequence[Any], addresses: Sequence[str]) -> list[Future]:
    """Get every piece onto the cluster, as a future that has been computed.

    Lazy pieces are computed where Dask finds best; pieces in this process are sent, in order,
    an equal share to each worker.

    Raises
    ------
    RankLostError
        Where a worker is lost meanwhile.
    Exception
        What computing a piece raised.
    """
    lazy = [index for index, piece in enumerate(pieces) if hasattr(piece, "dask")]
    # Wherever Dask likes: tasks keep a demand for workers, even a loose one, and a piece that is to
    # be computed again when all of these were lost at once would wait for them for ever.
    made = list(client.compute([pieces[index] for index in lazy]))
    with released_on_failure(made):
        futures = dict(zip(lazy, made, strict=True))
        for index, piece in enumerate(pieces):
            if isinstance(piece, Future):
                futures[index] = piece
            elif index not in futures:
                home = addresses[index * len(addresses) // len(pieces)]
                futures[index] = scatter_to(client, piece, home)
                made.append(futures[index])
        placed = [futures[index] for index in range(len(pieces))]
        wait_pinned(client, placed, addresses)
    return placed


def scatter_to(client: Client, piece: Any, address: str) -> Future:
    """Send a piece of this process to a worker.

    Raises
    ------
    RankLostError
        Where the worker is gone, whether or not the scheduler knows it yet; or takes nothing.
    """
    try:
        sent: Future = client.scatter([piece], workers=[address], hash=False)[0]
    except TimeoutError as error:
        raise RankLostError(
            f"worker {address} takes no data: it is paused by Dask, since its memory is nearly "
            "full, or retires"
        ) from error
    except (OSError, KeyError) as error:  # the latter is how Dask names a worker that is gone
        raise RankLostError(f"data could not be sent to worker {address}: {error!r}") from error
    return sent


def homes_of(
    client: Client, futures: Sequence[Future], addresses: Sequence[str]
) -> list[list[int]]:
    """Ranks that hold each future's data; none where it was lost and cannot be computed again."""
    rank_of = {address: rank for rank, address in enumerate(addresses)}
    known = [future for future in futures if future.status not in ("cancelled", "lost")]
    try:
        who = client.who_has(known)
    except CancelledError as error:
        raise RankLostError(f"data were lost while their place was asked for: {error}") from error
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
