"""Snapshots: the state of a volatile machine in files of the replica's directory.

    snapshot-<slot>      complete: the state when that slot had been applied
    snapshot.new         being written; removed at the next start

A file is a block with a header, then the chunks of an image (docs/image.md) one behind the other.
It is written under another name, the header last; then fsync, rename, fsync of the directory: so
whatever has the name of a snapshot is whole, unless the device damaged it, which the checksums of
header and chunks and the sums in the final chunk find.

The two newest are kept. The log may be truncated up to the newest one's slot, no further.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mpaxos._native import CHUNK_HEADER, chunk_info, chunk_length, crc32c
from mpaxos.core.invariant import invariant
from mpaxos.core.types import Mark, Slot
from mpaxos.errors import (
    StorageCorrupt,
    StorageForeign,
    StorageFull,
    StorageVersion,
    WireError,
)
from mpaxos.storage.files import NEW, Identity, sync_directory

log = logging.getLogger("mpaxos.storage")

KEPT = 2
"""Snapshots that are kept. The older one is of use when the newest is damaged and the log reaches
back to it: while a replica is away, it does."""

MAGIC, FORMAT = b"mPaxSnap", 1
BLOCK = 4096
"""Bytes of the header's block."""

SYNC_EVERY = 8 << 20
"""Bytes after which what was written is synced: one sync of everything at the end would hold up
those of the log meanwhile."""

_NAME = re.compile(r"snapshot-(\d{1,20})")
_HEADER = struct.Struct("<8sII16sQQQQQ255s")
"""magic, format, replica, cluster, slot, digest, time, length of the file, image, machine"""


class Snapshot(NamedTuple):
    """A complete snapshot: the state at `mark`."""

    mark: Mark
    time: int
    """The largest time stamp applied, nanoseconds since the Unix epoch."""
    size: int
    """Bytes of the file."""


NO_SNAPSHOT = Snapshot(Mark(0, 0), 0, 0)
"""The state before the first slot."""


class Snapshots:
    """The snapshots in one replica's directory."""

    def __init__(self, directory: Path, identity: Identity, machine: str) -> None:
        """`machine`: the service, "module:Class"."""
        self.directory = directory
        self.identity = identity
        self.machine = machine
        self._identity = identity
        self._machine = machine.encode()

    def path(self, slot: Slot) -> Path:
        return self.directory / f"snapshot-{slot}"

    def slots(self) -> list[Slot]:
        """Slots of all snapshots, newest first, damaged ones included."""
        found = [_NAME.fullmatch(path.name) for path in self.directory.iterdir()]
        return sorted((int(name[1]) for name in found if name), reverse=True)

    def clean(self) -> None:
        """Remove what a crash left of one that was being written."""
        with contextlib.suppress(FileNotFoundError):
            self._new_path.unlink()

    def read(self, slot: Slot, install: Callable[[bytes], None]) -> Snapshot:
        """Hand the chunks of a snapshot to `install`, in order.

        Raises StorageCorrupt, StorageForeign, StorageVersion: before the first chunk for what the
        header tells, later for what is wrong with a chunk.
        """
        path = self.path(slot)
        try:
            with path.open("rb") as file:
                found = self._check_header(path, slot, file)
                for chunk in _read_chunks(path, file):
                    install(chunk)
                return found
        except OSError as error:
            raise StorageCorrupt(f"{path} cannot be read: {error.strerror}") from error

    def begin(self) -> SnapshotWriter:
        """Begin to write one. Raises OSError."""
        return SnapshotWriter(self)

    def set_aside(self, slot: Slot) -> None:
        """Take a damaged snapshot out of the way, but keep it for analysis. Raises StorageFull."""
        aside = self.directory / "damaged-snapshot"
        try:
            os.replace(self.path(slot), aside)
        except OSError as error:
            raise StorageFull(f"cannot rename {self.path(slot)}: {error.strerror}") from error
        log.warning("the damaged snapshot of slot %d was set aside as %s", slot, aside)

    def remove_old(self) -> None:
        """Remove all but the newest ones. Raises OSError."""
        for slot in self.slots()[KEPT:]:
            self.path(slot).unlink()

    # ------------------------------------------------------------------------------------

    @property
    def _new_path(self) -> Path:
        return self.directory / f"snapshot{NEW}"

    def _header(self, snapshot: Snapshot, image: int) -> bytes:
        (slot, digest), time, size = snapshot
        whose = (self._identity.replica, self._identity.cluster)
        packed = _HEADER.pack(MAGIC, FORMAT, *whose, slot, digest, time, size, image, self._machine)
        block = packed + bytes(BLOCK - 4 - len(packed))
        return block + crc32c(block).to_bytes(4, "little")

    def _check_header(self, path: Path, slot: Slot, file: BinaryIO) -> Snapshot:
        block = file.read(BLOCK)
        damaged = StorageCorrupt(f"{path} is damaged or incomplete")
        if len(block) < BLOCK or block[:8] != MAGIC:
            raise damaged
        header = _HEADER.unpack_from(block)
        _, format_, replica, cluster, at, digest, time, length, _, machine = header
        if format_ != FORMAT:
            raise StorageVersion(
                f"{path} has format {format_}, this version reads {FORMAT}: use the version that "
                "wrote it"
            )
        if crc32c(block[:-4]) != int.from_bytes(block[-4:], "little"):
            raise damaged
        if (cluster, replica) != (self._identity.cluster, self._identity.replica):
            raise StorageForeign(
                f"{path} belongs to replica {replica} of cluster {cluster.hex()}: check the "
                "cluster file and the directory"
            )
        if machine.rstrip(b"\0") != self._machine:
            raise StorageForeign(
                f"{path} holds the state of service {machine.rstrip(bytes(1)).decode()!r}, not of "
                f"{self._machine.decode()!r}: check `service` in the cluster file"
            )
        if at != slot or length != os.fstat(file.fileno()).st_size:
            raise damaged
        return Snapshot(Mark(at, digest), time, length)


class SnapshotWriter:
    """One snapshot on its way to the disk. Used by one thread."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._path = snapshots._new_path
        descriptor = os.open(
            self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode=0o600
        )
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._size = 0
        self._unsynced = 0
        self._last: tuple[int, Slot, bool] | None = None
        try:
            self._write(bytes(BLOCK))
        except OSError:
            self.abandon()
            raise

    def add(self, chunk: bytes) -> None:
        """Write the next chunk. Raises OSError: then abandon()."""
        image, _, slot, final = chunk_info(chunk)
        self._last = (image, slot, final)
        self._write(chunk)

    def finish(self, mark: Mark, time: int) -> Snapshot:
        """Complete it, durably, and remove those that are older than the two newest. To be called
        after the final chunk of an image cut at `mark`. Raises OSError: then abandon()."""
        invariant(self._last is not None and self._last[2], "a snapshot without its final chunk")
        image, slot, _ = self._last or (0, 0, True)
        invariant(slot == mark.slot, f"an image of slot {slot} for a snapshot of {mark.slot}")
        snapshots, snapshot = self._snapshots, Snapshot(mark, time, self._size)
        # What has the name of a snapshot has a header, and a header comes after all else.
        os.fdatasync(self._file.fileno())
        os.pwrite(self._file.fileno(), snapshots._header(snapshot, image), 0)
        os.fsync(self._file.fileno())
        self._file.close()
        os.rename(self._path, snapshots.path(slot))
        sync_directory(snapshots.directory)
        snapshots.remove_old()
        return snapshot

    def abandon(self) -> None:
        """Give up, and take away what was written."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._size += len(data)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_EVERY:
            os.fdatasync(self._file.fileno())
            self._unsynced = 0


def _read_chunks(path: Path, file: BinaryIO) -> Iterator[bytes]:
    final = False
    while header := file.read(CHUNK_HEADER):
        at = file.tell() - len(header)
        try:
            chunk = header + file.read(chunk_length(header) - len(header))
            final = chunk_info(chunk)[3]
        except WireError as error:
            raise StorageCorrupt(f"{path} is damaged at byte {at}: {error}") from error
        yield chunk
    if not final:
        raise StorageCorrupt(f"{path} ends before its final chunk")
