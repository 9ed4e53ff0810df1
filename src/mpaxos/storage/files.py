"""Small files that survive a crash: whole or not at all, and checked when they are read.

A sealed file is one line of JSON and one with its CRC-32C, so that people can read it too:

    {"kind":"promise","cluster":"...","replica":0,"value":{...}}
    crc32c 1a2b3c4d
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from mpaxos._native import crc32c
from mpaxos.errors import StorageCorrupt, StorageForeign, StorageFull, StorageMissing

T = TypeVar("T")

NEW = ".new"
"""Suffix of a file that is being written; what has it is never read."""


class Identity(msgspec.Struct, frozen=True):
    """Whose file it is."""

    cluster: bytes
    """The cluster's id, 16 bytes."""
    replica: int


class _Sealed(msgspec.Struct, frozen=True):
    kind: str
    cluster: str
    replica: int
    value: msgspec.Raw


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves all of it or what was there before. Raises
    StorageFull."""
    temporary = path.with_name(path.name + NEW)
    try:
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode=0o600
        )
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise StorageFull(f"cannot write {path}: {error.strerror}") from error


def write_sealed(path: Path, kind: str, identity: Identity, value: object) -> None:
    """Replace the sealed file at `path`; durable on return. Raises StorageFull."""
    raw = msgspec.Raw(msgspec.json.encode(value))
    line = msgspec.json.encode(_Sealed(kind, identity.cluster.hex(), identity.replica, raw))
    write_durably(path, line + b"\n" + _seal(line))


def read_sealed(path: Path, kind: str, identity: Identity, type: type[T]) -> T:
    """The value in the sealed file at `path`.

    Raises StorageMissing, StorageCorrupt (it does not fit its checksum, or has no such value),
    StorageForeign (of another cluster or replica).
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise StorageMissing(
            f"{path} is missing. It is not made anew: a replica that forgot what is in it could "
            "make the cluster lose decided commands. Restore it, or replace the replica"
        ) from None
    except OSError as error:
        raise StorageMissing(f"cannot read {path}: {error.strerror}") from error
    line, _, seal = data.partition(b"\n")
    damaged = StorageCorrupt(
        f"{path} is damaged: restore it from a good copy, or replace the replica"
    )
    if seal != _seal(line):
        raise damaged
    try:
        sealed = msgspec.json.decode(line, type=_Sealed)
        value = msgspec.json.decode(sealed.value, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise damaged from None
    if sealed.kind != kind:
        raise StorageForeign(f"{path} is a file for {sealed.kind!r}, not for {kind!r}")
    if (sealed.cluster, sealed.replica) != (identity.cluster.hex(), identity.replica):
        raise StorageForeign(
            f"{path} belongs to replica {sealed.replica} of cluster {sealed.cluster}, not to "
            f"replica {identity.replica} of cluster {identity.cluster.hex()}"
        )
    return value


def _seal(line: bytes) -> bytes:
    return b"crc32c %08x\n" % crc32c(line)
