"""A simulated store: a durable image that survives crashes, and everything that storage does wrong:
it dies between two writes, is slow, is full, and flips bits. What it keeps in a crash depends on
the durability setting."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

from mpaxos.core.invariant import invariant
from mpaxos.core.output import Truncate, Write, WriteLives, WritePromise, WriteRecord
from mpaxos.core.types import ZERO_BALLOT, Mark, Record, Recovered, Slot
from mpaxos.errors import StorageCorrupt, StorageFull

_RECORD = struct.Struct("<QQIQQ")
_PROMISE = struct.Struct("<QI")
_CRC = struct.Struct("<I")


DURABILITIES = ("pmem", "disk", "view", "epoch", "none")
"""The settings. pmem and disk keep all, view the promise, epoch a number of lives; with none a
crashed replica stays away."""

FORGETFUL = frozenset({"view", "epoch"})


class Crash(Exception):
    """The simulated process dies here."""


def _always() -> bool:
    return True


def sealed(data: bytes) -> bytearray:
    """`data` with its checksum behind it."""
    return bytearray(data + _CRC.pack(zlib.crc32(data)))


def intact(image: bytearray) -> bool:
    """True when the checksum fits."""
    return bool(image[-_CRC.size :] == _CRC.pack(zlib.crc32(image[: -_CRC.size])))


class SimStore:
    """Implements mpaxos.storage.store.Store in memory. The object itself is the durable image:
    whoever recovers uses the same one.

    Beside every value lies what a storage device would hold of it: bytes with a checksum. Bits are
    flipped in these bytes, and whoever reads the value verifies them first.
    """

    OVERHEAD = 64
    """Bytes that a record takes beside its batch."""

    def __init__(
        self, log_size: int, applied: Callable[[], tuple[Mark, int]], durability: str = "pmem"
    ) -> None:
        """`applied`: the machine's durable position and time, which live beside the log."""
        self.durability = durability
        self.life = 0
        self.lives: tuple[int, ...] = ()
        """The newest life of each replica that was made durable here."""
        self.recovering = False
        self.replaced = 0
        """How often the replica was replaced by an empty one."""
        self.promised = ZERO_BALLOT
        self.records: dict[Slot, Record] = {}
        self.truncated_upto: Slot = 0
        self.crash_after: int | None = None
        """Die after so many more single writes; None: do not."""
        self.full = False
        """No room for anything: as if somebody else had filled the device."""
        self.delay = 0
        """Nanoseconds that each write takes."""
        self.busy = 0
        """Nanoseconds that the writes of this turn took."""
        self.damaged = False
        """A bit was flipped."""
        self.may_die: Callable[[], bool] = _always
        """False while the loss of what this store forgets would be more than the setting bears."""
        self.on_record: Callable[[Record], None] | None = None
        self._images: dict[Slot, bytearray] = {}
        self._promise_image = sealed(_PROMISE.pack(*ZERO_BALLOT))
        self._used = 0
        self.log_size = log_size
        self.applied = applied

    def begin_life(self) -> None:
        """A process starts: where the last one's memory is not all here, in a new life."""
        if self.life == 0:
            self.life = 1
        elif self.durability in FORGETFUL:
            self._forget(promise=self.durability == "epoch")
            self.life += 1
            self.recovering = True

    def replace(self) -> None:
        """An operator replaces the replica by an empty one under its id."""
        self._forget(promise=True)
        self.replaced += 1
        self.lives = ()
        self.life += 1
        self.recovering = True

    def become(self, other: SimStore) -> None:
        """This one takes the place of `other`: all that a switch of stores does not touch."""
        for name in ("life", "lives", "recovering", "replaced", "full", "delay", "damaged"):
            setattr(self, name, getattr(other, name))
        self.may_die = other.may_die

    def _forget(self, promise: bool) -> None:
        self.records.clear()
        self._images.clear()
        self._used = 0
        self.truncated_upto = self.applied()[0].slot
        if promise:
            self.promised = ZERO_BALLOT
            self._promise_image = sealed(_PROMISE.pack(*ZERO_BALLOT))

    def recovered(self) -> Recovered:
        self._verify_promise()
        for slot in self.records:
            self._verify(slot)
        mark, time = self.applied()
        return Recovered(
            promised=self.promised,
            accepted=sorted(
                (slot, record.ballot) for slot, record in self.records.items() if slot > mark.slot
            ),
            applied=mark,
            applied_time=time,
            truncated_upto=self.truncated_upto,
            log_room=self.log_room,
            log_size=self.log_size,
            life=self.life,
            lives=self.lives,
            recovering=self.recovering,
        )

    def write(self, writes: list[Write]) -> None:
        if self.full and self.may_die():
            raise StorageFull("the simulated device is full")
        self.busy += self.delay
        for write in writes:
            if self.crash_after is not None:
                if self.crash_after == 0 and self.may_die():
                    raise Crash("between two writes of a turn")
                self.crash_after = max(0, self.crash_after - 1)
            self._write_one(write)

    def read(self, slot: Slot) -> Record | None:
        record = self.records.get(slot)
        if record is not None:
            self._verify(slot)
        return record

    @property
    def log_room(self) -> int:
        return self.log_size - self._used

    def close(self) -> None:
        """Nothing to let go of."""

    def flip_bit(self, rng: random.Random) -> str:
        """Damage what is stored; returns what was hit."""
        self.damaged = True
        slot = rng.choice([0, *self.records])
        image = self._images[slot] if slot else self._promise_image
        bit = rng.randrange(8 * len(image))
        image[bit // 8] ^= 1 << bit % 8
        return f"bit {bit} of the record of slot {slot}" if slot else f"bit {bit} of the promise"

    def _write_one(self, write: Write) -> None:
        if isinstance(write, WritePromise):
            invariant(write.ballot > self.promised, f"promise {write.ballot} is not above")
            self._verify_promise()
            self.promised = write.ballot
            self._promise_image = sealed(_PROMISE.pack(*write.ballot))
        elif isinstance(write, WriteRecord):
            self._append(write.record)
        elif isinstance(write, WriteLives):
            self.lives = write.lives
            self.recovering = write.recovering
        else:
            invariant(isinstance(write, Truncate), f"unknown write {write!r}")
            invariant(write.upto <= self.applied()[0].slot, f"{write} beyond the applied slot")
            self._truncate(write.upto)

    def _truncate(self, upto: Slot) -> None:
        for slot in [slot for slot in self.records if slot <= upto]:
            self._used -= self._size(self.records.pop(slot))
            del self._images[slot]
        self.truncated_upto = max(self.truncated_upto, upto)

    def _append(self, record: Record) -> None:
        held = self.records.get(record.slot)
        if record.ballot < self.promised or (held is not None and held.ballot > record.ballot):
            invariant(False, f"accepted {record} below the promise {self.promised} or {held}")
        invariant(record.slot > self.truncated_upto, f"slot {record.slot} was truncated")
        size = self._size(record)
        if size > self.log_room:
            raise StorageFull("the simulated log is full")
        if held is not None:
            self._used -= self._size(held)
        self._used += size
        self.records[record.slot] = record
        self._images[record.slot] = sealed(_packed(record))
        if self.on_record is not None:
            self.on_record(record)

    def _size(self, record: Record) -> int:
        return record.value.batch.length + self.OVERHEAD

    def _verify(self, slot: Slot) -> None:
        if not intact(self._images[slot]):
            raise StorageCorrupt(f"the checksum of the record of slot {slot} does not match")

    def _verify_promise(self) -> None:
        if not intact(self._promise_image):
            raise StorageCorrupt("the checksum of the promise does not match")


def _packed(record: Record) -> bytes:
    slot, (round_, leader), value = record
    return _RECORD.pack(slot, round_, leader, value.time, value.batch.digest)
