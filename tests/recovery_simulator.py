"""The store's simulator with crashes: workers vanish, and the run goes on from its checkpoint.

One seed is one schedule, as in ``store_simulator``; here it also says which workers vanish when,
how soon the others hear of it, and who goes on then. Real are the store's cores, the savers, the
vaults, their copies in the ring, the scheduler's desk with its ledger, the folder of files and the
client's choice of the checkpoint, among files, too; simulated are the network, threads (jobs in a
queue) and the disk (fsspec's memory), some of whose files get lost or change, as copies do.

Every epoch's history goes through the checker, behind what the cut that it began at must hold: the
increments of the clocks before it, and no others. So an increment that is lost, comes twice, or
comes from an epoch that is over shows up there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
from fsspec.implementations.memory import MemoryFileSystem
from store_simulator import Cores, Rank, Simulation

from dask_petuum.checkpoint.saved import Manifest
from dask_petuum.checkpoint.saver import Saver
from dask_petuum.checkpoint.vault import PartKey
from dask_petuum.exceptions import (
    CheckpointError,
    DamagedPartError,
    ProtocolError,
    RankLostError,
    TransportError,
)
from dask_petuum.runtime.board import Board
from dask_petuum.runtime.checkpoint_desk import CheckpointDesk
from dask_petuum.runtime.checkpoints import Checkpoints, Place
from dask_petuum.runtime.cluster_fit import ClusterFit
from dask_petuum.runtime.kept_parts import KeptParts, _Keeper
from dask_petuum.runtime.options import RunResult
from dask_petuum.runtime.spec import Keeping
from dask_petuum.store.audit import End, Event, Inc, Violation, check
from dask_petuum.store.owner import Cut

FIT = "fit"
#: Bytes of an array that go in one message, for tests: few, so that arrays go in pieces.
PIECE_BYTES = 256
#: Clocks that a rank ends in an epoch that is over for all others.
MOST_ZOMBIE_CLOCKS = 3
#: Checkpoints that may be found damaged, one after the other, when an epoch is to begin.
MOST_CHOICES = 10


Reply = Mapping[str, Any]


def answer_of(coroutine):
    """What a coroutine returns that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as answer:
        return answer.value
    raise AssertionError(f"{coroutine} waits")


class EpochCores(Cores):
    """Cores of one epoch; they hear what others of the fit send, and must refuse it."""

    n_refused = 0
    #: What an owner that has passed a cut calls.
    saver_of: dict[int, Saver]

    def _serve(self, p: int, operation: str, message, answer) -> None:
        try:
            super()._serve(p, operation, message, answer)
        except ProtocolError as error:
            if message["run"] == self.run_id:
                raise
            self.n_refused += 1
            answer({"status": "refused", "text": str(error)})

    def _hear(self, p: int, effect, reply) -> None:
        if not isinstance(reply, TransportError) and reply["status"] == "refused":
            self.transports[p].close()  # it hears that its epoch is over
            return
        super()._hear(p, effect, reply)

    def on_cut(self, p: int, cut: Cut) -> None:
        """Hand a copy of a shard to its rank's saver."""
        super().on_cut(p, cut)
        if p in self.saver_of:
            self.saver_of[p].put_cut(cut)


class Jobs:
    """A saver's thread: what it is to do lies in a queue until the schedule comes to it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._queue: list[Callable[[], None]] = []
        self.is_alive = True

    def submit(self, function, *arguments) -> None:
        self._queue.append(partial(function, *arguments))
        self._world.later.append(self._run_next)

    def shutdown(self, **keywords) -> None:
        self.is_alive = False

    def _run_next(self) -> None:
        job = self._queue.pop(0)
        if self.is_alive:
            job()


class Disk:
    """The files of one run, in memory; knows which are still what was written."""

    def __init__(self, seed: int) -> None:
        self._fs = MemoryFileSystem()
        self._root = f"/recovery-{seed}"
        self.checkpoints = Checkpoints(Place(f"memory:/{self._root}"), {})
        self._written: dict[str, bytes] = {}
        #: Manifests that were written when their parts were there.
        self._complete: list[str] = []

    def note(self, folder: str) -> None:
        """Remember a checkpoint's files as they are now, but those that are known.

        A manifest may come so late that its parts are no more: then it makes no checkpoint.
        """
        there = [path for path in self._files() if f"/{folder}/" in path]
        for path in there:
            if path not in self._written:
                self._written[path] = self._fs.cat_file(path)
                n_parts = self._written[path].count(b'"rank":')
                if path.endswith(".json") and len(there) == n_parts + 1:
                    self._complete.append(path)

    def damage(self, random: Random, name: str = "") -> None:
        """Let a file get lost, or lose its second half, or change there."""
        files = [path for path in self._files() if name in path]
        if not files:
            return
        path = random.choice(files)
        data = self._fs.cat_file(path)
        half, kind = len(data) // 2, random.choice(("lost", "cut", "changed"))
        if kind == "lost":
            self._fs.rm_file(path)
        else:
            rest = b"" if kind == "cut" else bytes(byte ^ 1 for byte in data[half:])
            self._fs.pipe_file(path, data[:half] + rest)

    def is_whole(self, name: str) -> bool:
        """Whether a file is what was written."""
        path = f"{self._root}/run-0000/{name}"
        return path in self._files() and self._fs.cat_file(path) == self._written[path]

    def newest(self) -> tuple[str, int] | None:
        """Run and clock of the newest checkpoint whose files are all what was written."""
        found = [place for place, files in self._checkpoints() if all(map(self.is_whole, files))]
        return found[-1] if found else None

    def removed(self) -> list[str]:
        """Files of the two newest checkpoints that are not there: where none is damaged, none."""
        newest = self._checkpoints()[-2:]
        return [name for _, files in newest for name in files if not self.is_whole(name)]

    def _checkpoints(self) -> list[tuple[tuple[str, int], list[str]]]:
        """Run and clock of each manifest that was written, and its files; the newest last."""
        found = []
        for path in self._complete:
            body = json.loads(self._written[path])
            parts = [part["file"]["name"] for part in body["parts"]]
            epoch = int(body["run_id"].partition(".")[2])
            manifest = "/".join(path.rsplit("/", 2)[1:])
            place = (body["run_id"], body["clock"])
            found.append((epoch, body["clock"], place, [manifest, *parts]))
        return [(place, files) for _, _, place, files in sorted(found)]

    def close(self) -> list[str]:
        """Remove all; return the files that there were."""
        files = self._files()
        for path in files:
            self._fs.rm_file(path)
        return files

    def _files(self) -> list[str]:
        return sorted(self._fs.find(self._root))


class SlowKeeper(_Keeper):
    """A keeper whose report is a message under way, and so is what rank 0 writes then."""

    def __init__(self, world: World, keeping: Keeping, address: str, rank: int) -> None:
        super().__init__(world.workers[address], keeping, rank, world.node(address))
        self._world = world
        self._address = address

    def keep(self, key, part, arrays):
        """Keep, and remember the file."""
        kept = super().keep(key, part, arrays)
        self._note(kept)
        return kept

    def report(self, key, part) -> None:
        self._world.later.append(partial(self._world.take_report, key, asdict(part)))
        if part.rank == 0 and part.file is not None:
            self._world.waiting.append((key, partial(self._write_manifest, key, part)))

    def _write_manifest(self, key, part, reply) -> None:
        if self._address in self._world.workers:
            self._world.answer_with(reply)
            super().report(key, part)
            self._note(part)
            if self.is_done(key):
                self.discard(key)  # as its saver does

    def _note(self, part) -> None:
        if part.file is not None:
            self._world.disk.note(part.file.name.partition("/")[0])

    def give_up(self, key, why) -> None:
        self._world.later.append(partial(self._world.take_loss, key, why))


class World:
    """Workers with their vaults, the scheduler's desk, and what is under way between them."""

    def __init__(self, rng: Random, copy_loss: float, disk: Disk | None, fates: Random) -> None:
        self._random = rng
        self._copy_loss = copy_loss
        self.disk = disk
        #: Rank 0 of runs, which waits until a checkpoint is complete, and what it does then.
        self.waiting: list[tuple[PartKey, Callable[[Reply], None]]] = []
        self._reply: Reply = {}
        # a stream of its own: schedules that were found stay what they were
        self.fates = fates
        self.workers: dict[str, KeptParts] = {}
        #: What happens some time, in any order; and what comes when everything is over.
        self.later: list[Callable[[], None]] = []
        self.strays: list[Callable[[], None]] = []
        self._casts: dict[str, list] = {}
        self.desk = CheckpointDesk(self, lambda: list(self.workers))
        self.desk.begin(FIT, "client")
        self.board: Board | None = None
        self.n_started = 0
        self.n_copies_lost = 0
        #: Run and clock of the newest checkpoint that is complete.
        self.newest: tuple[str, int] | None = None
        self.on_death: Callable[[str], None] = lambda address: None

    def start_worker(self) -> str:
        """Start a worker; return its address."""
        address = f"w{self.n_started}"
        self.n_started += 1
        node = self.node(address)
        self.workers[address] = KeptParts(address, node, lambda reply: reply, self._ask)
        return address

    def damage_copies(self, random: Random, most: int) -> None:
        """Let an array change in the memory of some workers; of all, and its file, too."""
        vaults = [kept.vault for kept in self.workers.values()]
        keys = sorted({key for vault in vaults for key in vault.keys})
        if not keys:
            return
        newest = [key for key in keys if (key.run_id, key.clock) == self.newest]
        key = random.choice(newest or keys)
        found = [vault._parts[key] for vault in vaults if vault._parts.get(key)]
        for arrays in found[:most]:
            name = min(arrays)
            changed = arrays[name].copy()
            changed.reshape(-1).view(np.uint8)[:1] ^= 1
            arrays[name] = changed
        if self.disk is not None and most >= len(found):
            self.disk.damage(
                random, f"checkpoint-{key.clock:012d}-{key.run_id}/part-{key.rank:04d}"
            )

    def node(self, address: str) -> SimpleNamespace:
        """A worker's way to the others."""
        return SimpleNamespace(wrap=np.copy, call=partial(self._call, address))

    def kill(self, address: str) -> None:
        """Let a worker vanish, with its vault."""
        del self.workers[address]
        self.on_death(address)

    def step(self) -> None:
        """Let one thing happen that was under way."""
        index = self._random.randrange(len(self.later))
        self.later[index], self.later[-1] = self.later[-1], self.later[index]
        self.later.pop()()

    def take_report(self, key, part) -> None:
        """As the scheduler's plugin does."""
        board = self.board
        if board is None or board.run_id != key.run_id:
            return
        if self.desk.add(FIT, part, board, key.clock):
            self.newest = (key.run_id, key.clock)
            waiting, self.waiting = self.waiting, []
            for other, write in waiting:  # a saver waits for one checkpoint at a time
                if other[:3] == key[:3]:
                    is_last = self.fates.random() < 0.1
                    under_way = self.strays if is_last else self.later
                    under_way.append(partial(write, answer_of(self.desk.checkpoint(FIT))))

    def take_loss(self, key, why) -> None:
        """As the scheduler's plugin does where a part cannot be saved."""
        board = self.board
        if board is not None and board.run_id == key.run_id:
            self.desk.give_up(FIT, key.run_id, key.clock, why)

    def answer_with(self, reply: Reply) -> None:
        """Say what the scheduler has answered to a report, before that is asked for."""
        self._reply = reply

    def _ask(self, operation: str, **message) -> Reply:
        assert operation == "petuum_saved"
        return self._reply

    def send_all(self, clients, messages) -> None:
        """As Dask's scheduler: one message to each worker, all of whose messages come in order."""
        for address, (message,) in messages.items():
            self._casts.setdefault(address, []).append(message)
            self.later.append(partial(self._hear_next, address))

    def hear_all(self) -> None:
        """Deliver what the scheduler has sent: the word that a rank begins comes after it."""
        for address, messages in self._casts.items():
            for _ in list(messages):
                self._hear_next(address)

    def _hear_next(self, address: str) -> None:
        if self._casts[address]:
            message = self._casts[address].pop(0)
            if address in self.workers:
                wanted = (message[name] for name in ("fit_id", "run_id", "clock"))
                self.workers[address].vault.keep_only(*wanted)

    def _call(self, sender: str, address: str, operation: str, message):
        if operation == "petuum_kept":
            return self._target(address).give(message)
        if sender not in self.workers:
            raise TransportError(f"{sender} is no more")
        fate = self._random.random()
        if fate < self._copy_loss:
            self.n_copies_lost += 1
            if fate < self._copy_loss / 4:
                self.kill(sender)
            raise TransportError(f"a piece from {sender} to {address} was lost")
        if fate > 0.9:
            again = self.later if fate > 0.95 else self.strays
            again.append(partial(self._repeat, address, message))
        return self._target(address).take(message)

    def _target(self, address: str) -> KeptParts:
        if address not in self.workers:
            raise TransportError(f"{address} is gone")
        return self.workers[address]

    def _repeat(self, address: str, message) -> None:
        if address in self.workers:
            try:
                self.workers[address].take(message)
            except CheckpointError:
                return  # the fit is over


class Zombie:
    """A rank that does not hear that its epoch is over."""

    def __init__(self, cores: EpochCores, p: int, n_columns: int, n_clocks: int) -> None:
        self._cores = cores
        self._p = p
        self._shape = (n_columns, n_clocks)
        self._left = MOST_ZOMBIE_CLOCKS

    def step(self) -> bool:
        """Compute on for a clock; False where there is nothing more to do."""
        core = self._cores.ranks[self._p]
        p, n_clocks = self._p, self._shape[1]
        if not self._left or core.clock >= n_clocks or not core.ready():
            return False
        if self._cores.opening[p]:
            return False
        self._left -= 1
        core.install()
        for view in core._views[:1]:
            delta = np.zeros((view.shape[0], *self._shape), dtype=view.spec.dtype)
            delta[:, p, core.clock] = 1
            view.inc(delta.reshape(view.shape))
        self._cores.send(p, core.end_clock(last=core.clock + 1 == n_clocks))
        return True


class RecoverySimulation(Simulation):
    """One run of the store over as many epochs as it takes."""

    CLOCKS = (3, 6)
    MOST_RANKS = 4

    def __init__(self, seed: int, model: str | None = None) -> None:
        super().__init__(seed, model)
        rng = self.random
        self.cut_clocks = {clock for clock in range(1, self.n_clocks) if rng.random() < 0.6}
        copy_loss = rng.choice((0, 0, 0.003))
        self.fates = Random(f"{seed} damage")
        disk = Disk(seed) if rng.random() < 0.3 else None
        self.world = World(rng, copy_loss, disk, self.fates)
        self.wear = self.fates.choice((0, 0.005, 0.03))
        #: Checkpoints of which no copy was whole.
        self.damaged: set[tuple[str, int]] = set()
        self.world.on_death = self._vanish
        self.n_partitions = rng.randint(1, 5)
        self.n_crashes = rng.choice((0, 1, 1, 1, 2, 2, 3))
        self.n_recovered = 0
        #: Checkpoint that was lost, with the workers that kept it.
        self.reported: str | None = None
        self.kept: list[Event] = []
        self.zombies: list[Zombie] = []
        self.epoch = -1
        self._saved: Manifest | None = None
        for _ in range(self.n_ranks):
            self.world.start_worker()
        self._begin_epoch(None)

    def _n_columns(self) -> int:
        self.n_ranks = min(self.n_ranks, self.MOST_RANKS)
        return self.MOST_RANKS

    def _begin(self) -> None:
        """Nothing yet: the first epoch begins when everything is drawn."""

    def run(self) -> list[Violation]:
        """Run to the end, or to a loss that cannot be survived."""
        try:
            return self._run()
        finally:
            if self.world.disk is not None:
                self.world.disk.close()

    def _run(self) -> list[Violation]:
        for _ in range(60_000):
            if self.ended or not self._happens():
                break
        if not self.ended:
            self._check_end()
            self._check_history(self.events, crashed=False)
        return self.violations

    @property
    def ended(self) -> bool:
        """Whether the run cannot go on."""
        return self.reported is not None or bool(self.violations)

    def _happens(self) -> bool:
        """Let one thing happen; False where nothing can."""
        rng = self.random
        if self.fates.random() < self.wear:
            self._wear()
        self._countdown -= 1
        if self._countdown <= 0 and self._stage != "calm":
            self._next_stage()
            return True
        ways = []
        runnable = [p for p in range(self.n_ranks) if self._runnable(p)]
        if runnable:
            ways += [lambda: self._advance(rng.choices(runnable, self._weights(runnable))[0])]
        if self.network.n_under_way:
            ways += [self.network.step] * (2 if runnable else 1)
        if self.world.later and rng.random() < self.eagerness:
            ways += [self.world.step]
        if self.zombies and rng.random() < 0.2:
            zombie = rng.choice(self.zombies)
            if not zombie.step():
                self.zombies.remove(zombie)
        if ways:
            rng.choice(ways)()
        elif self.world.later:
            self.world.step()
        elif self._dead:
            self._countdown = 0
        else:
            return bool(self.zombies)
        return True

    def _wear(self) -> None:
        """Let a file, or a copy in memory, change."""
        if self.world.disk is None or self.fates.random() < 0.3:
            self.world.damage_copies(self.fates, self.fates.choice((1, 9)))
        else:
            self.world.disk.damage(self.fates)

    def _weights(self, ranks: list[int]) -> list[float]:
        return [self.ranks[p].weight for p in ranks]

    def _next_stage(self) -> None:
        if self._stage == "fated":
            self._stage = "calm"
            if all(rank.state == "done" for rank in self.ranks):
                return
            first = self.random.randrange(self.n_ranks)
            lost = {first, (first + self.random.choice((1, 1, 1, 2)) - 1) % self.n_ranks}
            if self.world.disk is not None and self.fates.random() < 0.5:
                lost = set(range(self.n_ranks))  # then there are files only
                if self.wear:
                    self.world.disk.damage(self.fates, "part-")
            elif self.wear and self.fates.random() < 0.3:
                self.world.damage_copies(self.fates, 9)
            for p in lost:
                self.world.kill(self.addresses[p])
        elif self._stage == "unheard":
            for address in self._dead:
                self.world.board.lose_worker(address)
            self._stage, self._countdown = "heard", self.random.randrange(40)
        else:
            self._recover()

    def _vanish(self, address: str) -> None:
        """A worker is gone; nobody has heard of it yet."""
        if address not in self.addresses:
            return
        p = self.addresses.index(address)
        self.ranks[p].state = "dead"
        self.cores.transports[p].close()
        self.network.serve(p, lambda operation, message, answer: None)
        if p in self.cores.saver_of:
            self.cores.saver_of[p]._thread.is_alive = False
        if not self._dead:
            self._stage, self._countdown = "unheard", self.random.randrange(60)
        self._dead.append(address)

    def _recover(self) -> None:
        """Begin the next epoch, or report what was lost."""
        self._check_history(self.events, crashed=True)
        self._check_cuts()
        rng = self.random
        for p, rank in enumerate(self.ranks):
            if rank.state != "dead" and rng.random() < 0.4:
                self.zombies.append(Zombie(self.cores, p, self.n_columns, self.n_clocks))
            elif rank.state != "dead":
                self.cores.transports[p].close()
                if p in self.cores.saver_of:
                    self.cores.saver_of[p].close()
        self.n_recovered += 1
        kept = [*self.kept, *self.events]
        for _ in range(MOST_CHOICES):
            try:
                manifest = self._choose()
            except (RankLostError, DamagedPartError) as error:
                self.reported = str(error)
                self._check_loss()
                return
            before = 0 if manifest is None else manifest.clock
            gone = [e for e in kept if isinstance(e, Inc) and e.clock < before]
            self.kept = [replace(inc, view=-1) for inc in gone]
            for _ in range(rng.randint(0 if self.world.workers else 1, 2)):
                self.world.start_worker()
            if self._begin_epoch(manifest):
                return
        text = f"{MOST_CHOICES} epochs without a clock, {self.damaged} are damaged"
        self.violations.append(Violation("lost", text))

    def _choose(self) -> Manifest | None:
        """Ask the client's code which checkpoint to go on from."""
        reply = answer_of(self.world.desk.checkpoint(FIT))
        disk = self.world.disk
        client = SimpleNamespace(
            _client=SimpleNamespace(sync=lambda *arguments, **keywords: reply),
            _fit_id=FIT,
            _checkpoints=Checkpoints(Place(), {}) if disk is None else disk.checkpoints,
            _saved=self._saved,
            _damaged=self.damaged,
        )
        client._saved_in_files = lambda: ClusterFit._saved_in_files(client)
        manifest = ClusterFit._checkpoint_of(client, RankLostError("a rank was lost"))
        found = None if manifest is None else (manifest.run_id, manifest.clock)
        self._check_files()
        expected = self._expected()
        if found != expected:
            text = f"{found} is chosen, {expected} is whole, {self.world.newest} is complete"
            self.violations.append(Violation("old", text))
        return manifest

    def _check_files(self) -> None:
        """The two newest checkpoints are there, but for those that the schedule damages."""
        disk = self.world.disk
        if disk is not None and not self.wear and disk.removed():
            self.violations.append(Violation("old", f"{disk.removed()} were removed"))

    def _expected(self) -> tuple[str, int] | None:
        """The newest checkpoint of which there is a copy of each part, as far as anybody knows."""
        newest, disk = self.world.newest, self.world.disk
        if newest is not None and newest not in self.damaged:
            parts, kept = self.world.desk._ledger.newest(FIT)["parts"], self._ranks_kept()
            lost = [part["file"] for part in parts if part["rank"] not in kept]
            if not lost or (disk and all(disk.is_whole(file["name"]) for file in lost)):
                return newest
        if disk is not None:
            return disk.newest()
        return None if self._lone_part_is_lost() else newest

    def _check_loss(self) -> None:
        """A loss is reported only where some part is nowhere, or no copy of it is whole."""
        n_ranks, there = self.n_ranks_of[self.world.newest[0]], self._ranks_kept()
        is_there = len(there) == n_ranks and self.world.newest not in self.damaged
        if is_there or self.world.disk is not None:
            self.violations.append(Violation("lost", f"{self.reported}, but {there} are there"))

    def _ranks_kept(self) -> set[int]:
        """Ranks whose parts of the newest checkpoint some holder has in its memory."""
        there = set()
        for part in self.world.desk._ledger.newest(FIT)["parts"]:
            key = PartKey(FIT, *self.world.newest, part["rank"])
            holders = [self.world.workers.get(address) for address in part["holders"]]
            if any(kept is not None and key in kept.vault.keys for kept in holders):
                there.add(part["rank"])
        return there

    def _lone_part_is_lost(self) -> bool:
        """A single rank's part need not have a copy; the run begins again without it."""
        newest = self.world.newest
        return newest is not None and self.n_ranks_of[newest[0]] == 1 and not self._ranks_kept()

    n_ranks_of: dict[str, int]

    def _begin_epoch(self, manifest: Manifest | None) -> bool:
        """Begin an epoch; False where no copy of a part of its checkpoint is whole."""
        rng, world = self.random, self.world
        self.epoch += 1
        self._saved = manifest
        self._dead: list[str] = []
        world.hear_all()
        there = list(world.workers)
        self.addresses = rng.sample(there, min(len(there), self.MOST_RANKS, rng.randint(2, 9)))
        self.n_ranks = n_ranks = len(self.addresses)
        run_id = f"{FIT}.{self.epoch}"
        if self.epoch == 0:
            self.n_ranks_of = {}
        self.n_ranks_of[run_id] = n_ranks
        world.board = Board(run_id, "client", self.addresses, fit_id=FIT)
        self.first_clock = 0 if manifest is None else manifest.clock
        for p in range(n_ranks, self.MOST_RANKS):
            self.network.serve(p, lambda operation, message, answer: None)
        self.cores = EpochCores(
            n_ranks,
            self.specs,
            self.consistency,
            self.network,
            self.own_by_network,
            self.memory,
            self.joins,
            run_id,
            self.epoch,
            self.first_clock,
        )
        self._make_savers(run_id)
        self.events = []
        self.ranks = [Rank(c, self.n_clocks, rng.choice((0.2, 1, 1))) for c in self.cores.ranks]
        self.where = [rng.randrange(n_ranks) for _ in range(self.n_partitions)]
        self.eagerness = rng.choice((0.2, 1, 1))
        self._stage, self._countdown = "calm", 0
        if self.epoch < self.n_crashes:
            most = (self.n_clocks - self.first_clock) * n_ranks * (8 + 4 * n_ranks)
            when = max(rng.randrange(most), rng.randrange(most))
            self._stage, self._countdown = "fated", when
        try:
            self._fill(manifest)
        except DamagedPartError as error:
            if not self.wear:
                self.violations.append(Violation("lost", str(error)))
            self.damaged.add((manifest.run_id, manifest.clock))
            self._stage = "calm"
            return False
        except (CheckpointError, TransportError) as error:
            self.violations.append(Violation("lost", str(error)))
        else:
            self._check_restored()
        return True

    def _make_savers(self, run_id: str) -> None:
        """One for each rank, where there is any place to keep parts."""
        self.cores.saver_of = {}
        others = [address for address in self.world.workers if address not in self.addresses]
        ring = [*self.addresses, *others[:1]] if self.n_ranks == 1 else self.addresses
        buddies = [ring[(p + 1) % len(ring)] for p in range(self.n_ranks)]
        keeping = Keeping(FIT, tuple(buddies) if len(ring) > 1 else (), self._url, {})
        for p, address in enumerate(self.addresses):
            saver = Saver(FIT, run_id, p, SlowKeeper(self.world, keeping, address, p))
            saver._thread = Jobs(self.world)
            self.cores.saver_of[p] = saver

    def _fill(self, manifest: Manifest | None) -> None:
        """Give owners and partitions what the checkpoint holds."""
        self.states = [
            {"trail": np.zeros(self.n_clocks, np.int64), "sum": np.zeros((), np.float64)}
            for _ in range(self.n_partitions)
        ]
        if manifest is None:
            return
        specs = {spec.name: spec for spec in self.specs}
        for p, address in enumerate(self.addresses):
            spec = SimpleNamespace(saved=manifest, keeping=Keeping(FIT, (), self._url))
            saved = self.world.workers[address].open(spec)
            self.cores.owners[p].fill(
                lambda name, start, stop, saved=saved: saved.rows(specs[name], start, stop)
            )
            for i, where in enumerate(self.where):
                if where == p:
                    self.states[i] = saved.arrays("state", i)

    @property
    def _url(self) -> str | None:
        return None if self.world.disk is None else self.world.disk.checkpoints.url

    def _plan_clock(self, p: int) -> None:
        super()._plan_clock(p)
        rank = self.ranks[p]
        clock = rank.core.clock
        if clock in self.cut_clocks and clock > self.first_clock and p in self.cores.saver_of:
            rank.core.cut()
            arrays = {
                f"state/{i}/{key}": values
                for i, where in enumerate(self.where)
                if where == p
                for key, values in self.states[i].items()
            }
            self.cores.saver_of[p].put_states(clock, arrays)
        for i, where in enumerate(self.where):
            if where == p:
                rank.todo.insert(self.random.randrange(len(rank.todo) + 1), ("work", i))

    def _work(self, p: int, i: int) -> None:
        state, clock = self.states[i], self.ranks[p].core.clock
        state["trail"][clock] += i + 1
        state["sum"] += clock

    def _mark(self, core) -> None:
        """Cuts are marked when the states are saved."""

    def _runnable(self, p: int) -> bool:
        return self.ranks[p].state != "dead" and super()._runnable(p)

    def _check_restored(self) -> None:
        """Everything before the cut is there, and nothing of what came after it."""
        self._check_states(self.first_clock)
        for spec in self.specs:
            with np.errstate(all="ignore"):
                values = (self.cores.table(spec) - self.base[spec.name]).astype(np.int64)
            if not np.array_equal(values, self._issued_before(self.first_clock, spec.name)):
                text = f"{spec.name} in epoch {self.epoch} from clock {self.first_clock}"
                self.violations.append(Violation("restored", text))

    def _check_states(self, n_clocks: int) -> None:
        done = np.arange(self.n_clocks) < n_clocks
        for i, state in enumerate(self.states):
            total = n_clocks * (n_clocks - 1) / 2
            if not np.array_equal(state["trail"], done * (i + 1)) or state["sum"] != total:
                self.violations.append(Violation("state", f"partition {i} at {n_clocks}: {state}"))

    def _issued_before(self, clock: int, name: str) -> np.ndarray:
        events, self.events = self.events, [*self.kept, *self.events]
        issued = super()._issued_before(clock, name)
        self.events = events
        return issued

    def _check_history(self, events: list[Event], crashed: bool) -> None:
        """Check an epoch, behind what the cut that it began at holds."""
        before: list[Event] = [*self.kept]
        for p in range(self.MOST_RANKS):
            if p >= self.n_ranks:
                before.append(End(p, 1, last=True))
                continue
            before += [End(p, clock + 1) for clock in range(self.first_clock)]
        n_rows = {spec.name: spec.n_rows for spec in self.specs}
        found = check([*before, *events], self.n_columns, self.n_clocks, n_rows, one_order=True)
        self.violations += [v for v in found if not crashed or v.kind != "final"]

    def _check_end(self) -> None:
        super()._check_end()
        if self.violations:
            return
        self._check_states(self.n_clocks)
        asked = self.world.desk._ledger.forget(FIT)
        for kept in self.world.workers.values():
            kept.forget([FIT], done=True)
        left: list[object] = []
        if self.world.disk is not None:
            self._check_files()
            self.world.disk.checkpoints.end(RunResult({}, [], [], self.n_clocks))
        for arrive in self.world.strays:
            arrive()
        if self.world.disk is not None:
            left += self.world.disk.close()
        left += [key for kept in self.world.workers.values() for key in kept.vault.keys]
        if left or not asked:
            self.violations.append(Violation("left", f"{left} stay"))

    def _check_cuts(self) -> None:
        for cut in self.cores.cuts:
            self._check_cut(cut)
        if self._dead or not self.cores.saver_of:
            return
        due = {clock for clock in self.cut_clocks if clock > self.first_clock}
        found = Counter(cut.clock for cut in self.cores.cuts)
        if found != dict.fromkeys(due, self.n_ranks):
            self.violations.append(Violation("cuts", f"{found} of {due}"))
        newest = (self.cores.run_id, max(due, default=0))
        if due and not self.world.n_copies_lost and self.world.newest != newest:
            text = f"{newest} is not complete, but {self.world.newest}"
            self.violations.append(Violation("cuts", text))
