"""The client's side of the client port, as bytes: frames, entries, replies (docs/wire.md)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mpaxos._native import crc32c
from mpaxos.errors import VersionMismatch, WireError

PROTOCOL = 1

HELLO, WELCOME, OPENED, REQUESTS, REPLIES, ADMIN, ADMIN_REPLY, BYE = range(1, 9)

COMMAND, OPEN, CLOSE, QUERY = range(4)

OK, FAILED, EXPIRED, NOSPACE, REFUSED, OVERLOADED, BAD = range(7)

FIRST_QUERY = 1 << 63
"""Queries are numbered from here, commands from 1."""

MAX_FRAME = 64 << 20
"""Longest payload taken from a replica: nothing longer is meant, so it is garbage."""

_MAGIC = b"mPx1"
_HEADER = struct.Struct("<4sBBHI")
_FRAME = struct.Struct("<4sBBHII")
_HELLO = struct.Struct("<HHIQ")
_WELCOME = struct.Struct("<HHIQ16s")
_ENTRY = struct.Struct("<QQQIB3x")
_REPLY = struct.Struct("<QIB3x")

entry_header = _ENTRY.pack
"""Header of an entry: session, sequence, lowest, length, kind."""

ENTRY_HEADER = _ENTRY.size


class Welcome(NamedTuple):
    """What a replica says of itself."""

    replica: int
    max_request: int
    session: int
    cluster: bytes
    cluster_name: str
    machine: str


def frame(kind: int, payload: bytes) -> bytes:
    """A whole frame."""
    header = _HEADER.pack(_MAGIC, 1, kind, 0, len(payload))
    crc = crc32c(payload, crc32c(header))
    return b"".join((header, crc.to_bytes(4, "little"), payload))


def hello(window: int, session: int) -> bytes:
    """The first frame of a connection; session 0 opens a new one."""
    return frame(HELLO, _HELLO.pack(PROTOCOL, window, 0, session))


def parse_welcome(payload: bytes) -> Welcome:
    """Raises WireError, or VersionMismatch when the replica speaks another protocol."""
    # The protocol number comes first so that it can be read whatever follows it.
    if len(payload) >= 2 and (version := int.from_bytes(payload[:2], "little")) != PROTOCOL:
        raise VersionMismatch(
            f"the replica speaks client protocol {version}, this client {PROTOCOL}: use the same "
            "version of mpaxos on both sides"
        )
    try:
        _, replica, max_request, session, cluster = _WELCOME.unpack_from(payload)
        at = _WELCOME.size
        cluster_name, at = _text(payload, at)
        machine, at = _text(payload, at)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise WireError(f"malformed welcome: {error}") from None
    return Welcome(replica, max_request, session, cluster, cluster_name, machine)


def _text(payload: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + payload[at]
    if end > len(payload):
        raise IndexError("a text is cut short")
    return payload[at + 1 : end].decode(), end


def parse_opened(payload: bytes) -> int:
    """The id of the session. Raises WireError."""
    if len(payload) != 8 or payload == bytes(8):
        raise WireError("malformed opening of a session")
    return int.from_bytes(payload, "little")


def parse_replies(payload: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Sequence, status, payload of each reply. Raises WireError."""
    at, total = 0, len(payload)
    unpack, header = _REPLY.unpack_from, _REPLY.size
    while at < total:
        if total - at < header:
            raise WireError("a reply is cut short")
        sequence, length, status = unpack(payload, at)
        at += header
        end = at + length
        if end > total:
            raise WireError("a reply is cut short")
        yield sequence, status, payload[at:end]
        at = end


class FrameReader:
    """Takes bytes as they arrive, gives whole frames. Useless after it raised."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterable[tuple[int, bytes]]:
        """Kind and payload of each frame completed by `data`.

        Raises WireError on anything that is no frame, VersionMismatch on a frame of another version
        of the format.
        """
        if self._rest:
            self._rest += data
            # Only once the frame is whole is it copied out of the buffer.
            if len(self._rest) < self._needed():
                return ()
            data = bytes(self._rest)
            self._rest.clear()
        frames = []
        at, total = 0, len(data)
        while total - at >= _FRAME.size:
            magic, version, kind, reserved, length, crc = _FRAME.unpack_from(data, at)
            _check(magic, version, reserved, length)
            end = at + _FRAME.size + length
            if end > total:
                break
            payload = data[at + _FRAME.size : end]
            if crc32c(payload, crc32c(data[at : at + _HEADER.size])) != crc:
                raise WireError("a frame does not match its checksum")
            frames.append((kind, payload))
            at = end
        if at < total:
            self._rest += memoryview(data)[at:]
            self._needed()
        return frames

    def _needed(self) -> int:
        """Bytes until the first frame in the buffer is whole."""
        if len(self._rest) < _FRAME.size:
            if not _MAGIC.startswith(bytes(self._rest[:4])):
                raise WireError("not a frame of mpaxos: is this the client port of a replica?")
            return _FRAME.size
        magic, version, _, reserved, length, _ = _FRAME.unpack_from(self._rest)
        _check(magic, version, reserved, length)
        return _FRAME.size + int(length)


def _check(magic: bytes, version: int, reserved: int, length: int) -> None:
    if magic != _MAGIC:
        raise WireError("not a frame of mpaxos: is this the client port of a replica?")
    if version != 1:
        raise VersionMismatch(
            f"the replica sends frames of version {version}, this client knows 1: use the same "
            "version of mpaxos on both sides"
        )
    if reserved != 0 or length > MAX_FRAME:
        raise WireError(f"a frame of {length} bytes is not meant for a client")


def names_machine(text: str, name: str) -> bool:
    """Whether a welcome's machine text names the class `name` (texts may qualify or extend it); an
    empty text names any."""
    return not text or name in re.findall(r"\w+", text)
