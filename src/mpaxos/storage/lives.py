"""Lives: what a replica remembers of its starts, and of the lives of the others.

A replica that forgets something at a crash (votes, under `view` and `epoch`; everything, when it
was replaced) begins a new *life*: a number that only ever grows, and is durable before anything
of that life is said. A message of an earlier life then cannot be taken for one of the present.
Who keeps everything stays in life 1 through all its restarts.

Somebody who forgets it all and does not say so would be a danger: a directory that was lost and
made once more with a plain `mpaxos init`. So each directory has a number of its own, its *birth*,
and replicas remember with which one they have met each other: whoever comes with another one, and
in no later life, is refused, and told why (native/src/peer_connection.cpp, check_births).

The file `lives` holds the own life and the newest known one of each other replica, and births. It
is written at a start that begins a new life, and when another replica is met or its new life is
heard of: hardly ever.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec

from mpaxos.config.durability import FORGETS
from mpaxos.core.output import Write, WriteLives
from mpaxos.core.types import Record, Recovered, Slot
from mpaxos.errors import StorageForgotten
from mpaxos.storage.files import Identity, read_sealed, write_sealed
from mpaxos.storage.store import LaterStore, Store

LIVES = "lives"


class Lives(msgspec.Struct):
    """Contents of the file."""

    life: int = 1
    started: bool = False
    """This replica was started in this life."""
    recovering: bool = False
    """It has to recover before it votes: it has forgotten something, or was replaced."""
    known: tuple[int, ...] = ()
    """The newest known life of each replica, by id; empty: all are in their first one."""
    birth: int = 0
    """Drawn when the directory was made; 0: before there were births."""
    met: dict[int, tuple[int, int]] = {}
    """The life and birth with which each other replica was met last, by id."""


class LivesFile:
    """The file, and what is in it."""

    def __init__(self, path: Path, identity: Identity, lives: Lives) -> None:
        self._path = path
        self._identity = identity
        self.lives = lives

    @classmethod
    def create(cls, directory: Path, identity: Identity, lives: Lives) -> LivesFile:
        """Make or replace it, with a birth of its own. Raises StorageFull."""
        lives.birth = secrets.randbits(62) + 1
        file = cls(directory / LIVES, identity, lives)
        file.save()
        return file

    @classmethod
    def open(cls, directory: Path, identity: Identity) -> LivesFile:
        """Raises StorageMissing, StorageForeign, StorageCorrupt."""
        path = directory / LIVES
        return cls(path, identity, read_sealed(path, LIVES, identity, Lives))

    def save(self) -> None:
        """Make `lives` durable. Raises StorageFull."""
        write_sealed(self._path, LIVES, self._identity, self.lives)

    def check(self, durability: str) -> None:
        """Raise StorageForgotten when this replica may not start again."""
        if self.lives.started and durability == "none":
            raise StorageForgotten(
                f"{self._path.parent}: this replica was started before, and durability = 'none' "
                "keeps nothing of what it promised and voted for: under its id it must not come "
                "back. The others go on without it while they are a majority. To have it back, "
                "let it be replaced by a new one under its id (`mpaxos init --replace`), or stop "
                "all and begin a new cluster; to keep more, choose another durability"
            )

    def meet(self, replica: int, life: int, birth: int) -> None:
        """Another replica connected with these data: durable on return, so that before any of its
        votes. Raises StorageFull."""
        self.lives.met[replica] = (life, birth)
        self.save()

    def begin(self, durability: str) -> None:
        """This replica is about to take part: begin a new life where that is due, durably.

        Raises StorageForgotten, StorageFull.
        """
        self.check(durability)
        lives = self.lives
        if lives.started and durability in FORGETS:
            lives.life += 1
            lives.recovering = True
        if not lives.started or durability in FORGETS:
            lives.started = True
            self.save()


class LivesStore:
    """mpaxos.storage.store.Store that adds the lives to another one."""

    def __init__(self, inner: Store, file: LivesFile) -> None:
        self._inner = inner
        self._file = file

    def recovered(self) -> Recovered:
        lives = self._file.lives
        return msgspec.structs.replace(
            self._inner.recovered(),
            life=lives.life,
            lives=lives.known,
            recovering=lives.recovering,
        )

    def write(self, writes: list[Write]) -> None:
        """As Store.write. Lives are made durable in their place among the other writes: that a
        recovery is done must not be found without what it learned."""
        first = 0
        for index, write in enumerate(writes):
            if isinstance(write, WriteLives):
                if index > first:
                    self._inner.write(writes[first:index])
                self._save(write)
                first = index + 1
        if first < len(writes):
            self._inner.write(writes[first:])

    def _save(self, write: WriteLives) -> None:
        lives = self._file.lives
        lives.known, lives.recovering = write.lives, write.recovering
        self._file.save()

    def read(self, slot: Slot) -> Record | None:
        return self._inner.read(slot)

    @property
    def log_room(self) -> int:
        return self._inner.log_room

    def close(self) -> None:
        self._inner.close()


class LivesLaterStore(LivesStore):
    """The same over a store that makes writes durable while its caller goes on."""

    def __init__(self, inner: LaterStore, file: LivesFile) -> None:
        super().__init__(inner, file)
        self._later = inner
        self._ticket = 0

    def write(self, writes: list[Write]) -> None:
        """Lives come after all that was submitted before them, too."""
        if any(isinstance(write, WriteLives) for write in writes):
            self._later.wait(self._ticket)
        super().write(writes)

    def submit(self, writes: list[Write]) -> int:
        """Lives change so seldom that they are waited for."""
        if any(isinstance(write, WriteLives) for write in writes):
            self.write(writes)
            self._ticket = max(self._ticket, self._later.durable_upto())
        else:
            self._ticket = self._later.submit(writes)
        return self._ticket

    def durable_upto(self) -> int:
        return self._later.durable_upto()

    def wait(self, ticket: int) -> None:
        self._later.wait(ticket)

    def fileno(self) -> int:
        return self._later.fileno()
