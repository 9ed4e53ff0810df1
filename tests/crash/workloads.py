"""The workloads whose every crash point is examined: each a list of operations from a seed."""

from __future__ import annotations

import itertools
import random
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mpaxos import _native
from mpaxos.services import kv
from tests.chunks import reseal
from tests.crash.replica import (
    Apply,
    Create,
    Entry,
    Install,
    Operation,
    Pack,
    Reopen,
    Replica,
    Run,
    Value,
    Write,
)

SMALL_LOG = 16 << 10
"""Bytes of the log ring: a lap takes a few dozen records."""


@dataclass(frozen=True)
class Workload:
    """Operations on a pool with a log of `log_size` bytes, which exists unless they make it."""

    name: str
    seed: int
    operations: list[Operation]
    log_size: int = SMALL_LOG
    installing: bool = False
    """The pool is made to install an image in it."""

    before: tuple[Operation, ...] = ()
    """What was done before, and is not examined."""


class Script:
    """Writes down a workload: keeps the slot numbers and the ballot."""

    def __init__(self, rng: random.Random, length: float) -> None:
        self.rng = rng
        self.length = length
        self.operations: list[Operation] = []
        self.before: tuple[Operation, ...] = ()
        self.round = 1
        self.accepted = 0
        self.applied = 0
        self.values: dict[int, Value] = {}
        self.sessions: dict[int, list[int]] = {}  # id: next sequence, window, lowest
        self._number = 0

    def turns(self, count: int) -> range:
        """`count` turns of a workload of full length."""
        return range(max(4, round(count * self.length)))

    def value(self, *entries: Entry) -> Value:
        """A value that no other has been."""
        self._number += 1
        return Value(entries, self._number)

    def accept(self, *values: Value, promise: bool = False, truncate: int = 0) -> None:
        """One write with a record for each value."""
        if promise:
            self.round += 1
        records = []
        for value in values:
            self.accepted += 1
            self.values[self.accepted] = value
            records.append((self.accepted, self.round, 1, value))
        promised = (self.round, 1) if promise else None
        self.operations.append(Write(promised, tuple(records), truncate))

    def propose_again(self, slot: int) -> None:
        """A newer leader's record of a slot that has one."""
        self.round += 1
        record = (slot, self.round, 1, self.values[slot])
        self.operations.append(Write((self.round, 1), (record,)))

    def apply(self) -> None:
        """The key-value machine applies the next slot."""
        self.applied += 1
        self.operations.append(Apply(self.applied, self.values[self.applied]))

    def step(self, *entries: Entry) -> None:
        """A batch is accepted and applied."""
        self.accept(self.value(*entries))
        self.apply()

    def open(self, window: int) -> Entry:
        """An entry that opens a session; only ever the first of its batch."""
        session = (self.accepted + 1) << 16
        self.sessions[session] = [0, window, 0]
        return (0, session, 0, _native.ENTRY_OPEN, struct.pack("<I", window))

    def command(self, session: int, request: bytes, *, behind: int = 0) -> Entry:
        """The next request of a session, which still waits for `behind` answers before it."""
        state = self.sessions[session]
        sequence = state[0]
        state[0] += 1
        state[2] = max(state[2], sequence - min(behind, state[1] - 1))
        return (session, sequence, state[2], _native.ENTRY_COMMAND, request)

    def close(self, session: int) -> Entry:
        """An entry that closes a session."""
        del self.sessions[session]
        return (session, 0, 0, _native.ENTRY_CLOSE, b"")


def create(script: Script) -> None:
    """The pool is made; a first promise and slot."""
    script.operations.append(Create())
    script.accept(script.value(), promise=True)


def promises(script: Script) -> None:
    """Promises alone, with records, with records of the slot before in a higher ballot."""
    rng = script.rng
    for turn in script.turns(36):
        if turn % 3 == 0:
            script.accept(promise=True)
        elif turn % 3 == 1:
            size = rng.choice([0, 60, 300])
            script.accept(script.value((1, turn, 0, 0, rng.randbytes(size))), promise=True)
        else:
            script.propose_again(rng.randint(max(1, script.accepted - 3), script.accepted))
        if turn % 12 == 11:
            script.operations.append(Reopen())


def ring(script: Script) -> None:
    """Laps of the log: records of all sizes, several per write, skip records, truncations."""
    rng = script.rng
    used = 0
    for turn in script.turns(70):
        sizes = [rng.choice([0, 32, 64, 200, 700]) for _ in range(rng.choice([1, 1, 2, 3]))]
        values = [script.value((1, turn, 0, 0, rng.randbytes(size))) for size in sizes]
        script.accept(*values, promise=turn % 10 == 5)
        used += sum(size + 256 for size in sizes)
        if used > SMALL_LOG // 3:
            upto = script.accepted - rng.randint(0, 3)
            while script.applied < upto:
                script.apply()
            if rng.random() < 0.3:
                script.accept(script.value(), truncate=upto)
            else:
                script.operations.append(Write(truncate=upto))
            used = 0


def values(script: Script) -> None:
    """Puts in place and with allocation, growing and shrinking, deletes, compare-and-set."""
    rng = script.rng
    script.step(script.open(4))
    (session,) = script.sessions
    keys = [b"", b"a", b"a\0", b"ab", b"b" * 70, *[rng.randbytes(3) for _ in range(5)]]
    for _ in script.turns(36):
        entries = []
        for _ in range(rng.choice([1, 1, 2])):
            key, data = rng.choice(keys), rng.randbytes(rng.choice([0, 8, 40, 90, 700]))
            request = rng.choice(
                [
                    kv.put_request(key, data),
                    kv.put_request(key, data),
                    kv.put_request(key, data[:30]),
                    kv.delete_request(key),
                    kv.compare_and_set_request(key, None, data),
                ]
            )
            entries.append(script.command(session, request, behind=rng.choice([0, 2])))
        script.step(*entries)


def put_and_tell(key: bytes, data: bytes) -> bytes:
    """A put that answers with the value before it: a long reply."""
    return b"P" + struct.pack(">I", len(key)) + key + data


def sessions(script: Script) -> None:
    """Sessions opened, closed, expired, requests repeated, long replies kept and replaced."""
    rng = script.rng
    sent: list[Entry] = []
    for turn in script.turns(40):
        if turn % 6 == 0 or not script.sessions:
            script.step(script.open(rng.choice([1, 2, 5, 12])))
            continue
        session = rng.choice(list(script.sessions))
        what = rng.random()
        if what < 0.1:
            script.step(script.close(session))
        elif what < 0.3 and sent:
            script.step(rng.choice(sent[-4:]))
        else:
            request = put_and_tell(b"key", rng.randbytes(rng.choice([5, 30, 400])))
            sent.append(script.command(session, request, behind=rng.choice([0, 1, 3])))
            script.step(sent[-1])


def machine(script: Script) -> None:
    """A machine in Python: changes of two containers and replies, short and long."""
    rng = script.rng
    script.step(script.open(3))
    (session,) = script.sessions
    for turn in script.turns(30):
        entries = [script.command(session, b"run") for _ in range(rng.choice([1, 2]))]
        value = script.value(*entries)
        script.accept(value)
        script.applied += 1
        changes: list[tuple[str, bytes, bytes | None]] = []
        for name in ("accounts", "journal")[: 1 + turn % 2]:
            for key in {rng.choice([b"ann", b"bob", b"carol", b"dan"]) for _ in range(3)}:
                data = None if rng.random() < 0.2 else rng.randbytes(rng.choice([8, 8, 100]))
                changes.append((name, key, data))
        replies = tuple((0, rng.randbytes(rng.choice([0, 20, 21, 200]))) for _ in entries)
        changes.sort(key=lambda change: change[:2])
        script.operations.append(Run(script.applied, value, replies, tuple(changes)))
        if turn % 10 == 9:
            script.operations.append(Reopen())


def mixed(script: Script) -> None:
    """All of it as it comes in a life: leaders change, clients come and go, the log is cut."""
    rng = script.rng
    script.accept(promise=True)
    for turn in script.turns(70):
        entries = [] if script.sessions and turn % 9 else [script.open(rng.choice([2, 6]))]
        for session in list(script.sessions)[-3:]:
            if rng.random() < 0.5 and (not entries or entries[0][1] != session):
                key = rng.choice([b"x", b"y", b"z" * 40])
                data = rng.randbytes(rng.choice([10, 60, 300]))
                request = rng.choice(
                    [kv.put_request(key, data), put_and_tell(key, data), kv.delete_request(key)]
                )
                entries.append(script.command(session, request, behind=1))
        script.accept(script.value(*entries), promise=rng.random() < 0.15)
        if rng.random() < 0.8:
            while script.applied < script.accepted:
                script.apply()
        if turn % 8 == 7 and script.applied > 2:
            script.operations.append(Write(truncate=script.applied - rng.randint(0, 2)))
        if turn % 20 == 19:
            script.operations.append(Reopen())


def install(script: Script) -> None:
    """An image is installed, long values in parts; promise and votes are carried over to it, as a
    switch does; and it is a pool like any other."""
    inner = Script(script.rng, script.length / 2)
    inner.round, inner.sessions = 1, script.sessions
    values(inner)
    applies = [operation for operation in inner.operations if isinstance(operation, Apply)]
    made = chunks(applies)
    script.operations += [Install(chunk) for chunk in made]
    script._number = inner._number
    # The last field of the final chunk's header: the slot that the image is of.
    script.accepted = script.applied = int.from_bytes(made[-1][32:40], "little")
    script.operations.append(Reopen())
    for _ in range(3):
        script.accept(script.value((1, 1, 0, 0, script.rng.randbytes(100))))
    script.accept(promise=True)
    script.operations.append(Reopen())
    script.apply()


def packing(script: Script) -> None:
    """Few of many items are left, in every block of memory; items and branches are moved together,
    and the state is used and packed again."""
    rng = script.rng
    script.step(script.open(3))
    (session,) = script.sessions

    def run(changes: list[tuple[str, bytes, bytes | None]]) -> None:
        value = script.value(script.command(session, b"run"))
        script.accept(value, truncate=script.applied)
        script.applied += 1
        script.operations.append(Run(script.applied, value, ((0, b""),), tuple(changes)))

    def change(name: str, key: int, size: int | None) -> tuple[str, bytes, bytes | None]:
        return name, b"%05d" % key, None if size is None else rng.randbytes(size)

    many = {"short": (10_000, 0), "long": (5000, 90)}
    for name, (count, size) in many.items():
        run([change(name, key, size) for key in range(count)])
        left = {rng.randrange(count) for _ in range(40)}
        run([change(name, key, None) for key in range(count) if key not in left])
    script.before, script.operations = tuple(script.operations), [Pack(75)]
    for turn in script.turns(8):
        name, (count, size) = rng.choice(list(many.items()))
        run([change(name, rng.randrange(count), rng.choice([None, size])) for _ in range(3)])
        if turn == 3:
            script.operations.append(Reopen())


def chunks(applies: list[Apply]) -> list[bytes]:
    """Of an image that is taken while the second half is applied. The same each time: the number
    of an image is random, so it is given another one."""
    made: list[bytes] = []
    with tempfile.TemporaryDirectory(prefix="mpaxos-crash-") as directory:
        replica = Replica(Path(directory) / "source", SMALL_LOG)
        replica.create()
        replica.open()
        half = len(applies) // 2
        for operation in applies[:half]:
            replica.run(operation)
        later = iter(applies[half:])
        source = replica.image()
        while (chunk := source.next(256)) is not None:
            made.append(reseal(chunk, image=7))
            for operation in itertools.islice(later, 1):
                replica.run(operation)
        source.close()
        replica.close()
    return made


SCRIPTS: dict[str, Callable[[Script], None]] = {
    made.__name__: made
    for made in (create, promises, ring, values, sessions, machine, mixed, install, packing)
}
"""By name; in the order in which they run."""


def workload(name: str, seed: int, length: float = 1.0) -> Workload:
    """The workload `name` from `seed`, so much of its full length; the same each time. Raises
    KeyError."""
    script = Script(random.Random(f"{name}:{seed}"), length)
    SCRIPTS[name](script)
    installing = name == "install"
    return Workload(name, seed, script.operations, installing=installing, before=script.before)
