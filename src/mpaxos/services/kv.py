"""A replicated key-value service: its state machine and its clients.

Keys and values are bytes. The requests are described in docs/wire.md; `KeyValue` here gives them
their meaning in Python, and the native engine called "kv" is the same in C++.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, ClassVar, Self

from mpaxos._native import MAX_KEY
from mpaxos.errors import WireError
from mpaxos.machine import BadRequest, Context, Dict, StateMachine

if TYPE_CHECKING:
    from mpaxos.client.options import Addresses, Options

MAX_SCAN_REPLY = 1 << 20
"""A scan's reply ends before it exceeds this, but has at least one item if there is one: otherwise
a large item could never be passed."""

_LENGTH = struct.Struct(">I")
_COUNT = struct.Struct(">Q")

Key = bytes | str
"""Keys given as str are sent in UTF-8."""


class _Fields:
    """Reads a request from front to back. Raises BadRequest where it is too short."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._at = 1

    def number(self) -> int:
        return int(_LENGTH.unpack(self._take(4))[0])

    def flag(self) -> bool:
        value = self._take(1)[0]
        if value > 1:
            raise BadRequest("a flag is neither 0 nor 1")
        return value == 1

    def text(self) -> bytes:
        return self._take(self.number())

    def key(self) -> bytes:
        key = self.text()
        if len(key) > MAX_KEY:
            raise BadRequest(f"the key is longer than {MAX_KEY} bytes")
        return key

    def rest(self) -> bytes:
        return self._take(len(self._request) - self._at)

    def end(self) -> None:
        if self._at != len(self._request):
            raise BadRequest("the request is too long")

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._request):
            raise BadRequest("the request is cut short")
        taken = self._request[self._at : end]
        self._at = end
        return taken


class KeyValue(StateMachine):
    """The key-value service as a state machine."""

    native: ClassVar[str | None] = "kv"

    data: Dict[bytes, bytes]

    def execute(self, request: bytes, context: Context) -> bytes:
        """Run any operation of docs/wire.md. Raises BadRequest for anything else."""
        operation = _OPERATIONS.get(request[:1])
        if operation is None:
            raise BadRequest("unknown operation" if request else "the request is empty")
        return operation(self, _Fields(request))

    def read(self, request: bytes, context: Context) -> bytes:
        """Answer the operations that change nothing."""
        if request[:1] not in _QUERIES:
            raise BadRequest("not a query: only g, s and n are")
        return self.execute(request, context)

    def _jpaxos_get(self, fields: _Fields) -> bytes:
        key = fields.key()
        fields.end()
        return self.data.get(key, b"")

    def _jpaxos_put(self, fields: _Fields) -> bytes:
        key, value = fields.key(), fields.rest()
        previous = self.data.get(key, b"")
        self.data[key] = value
        return previous

    def _get(self, fields: _Fields) -> bytes:
        key = fields.key()
        fields.end()
        value = self.data.get(key)
        return b"\0" if value is None else b"\1" + value

    def _put(self, fields: _Fields) -> bytes:
        key = fields.key()
        self.data[key] = fields.rest()
        return b""

    def _delete(self, fields: _Fields) -> bytes:
        key = fields.key()
        fields.end()
        return b"\0" if self.data.pop(key, None) is None else b"\1"

    def _compare_and_set(self, fields: _Fields) -> bytes:
        key = fields.key()
        expected = fields.text() if fields.flag() else None
        new = fields.rest() if fields.flag() else None
        fields.end()
        if self.data.get(key) != expected:
            return b"\0"
        if new is not None:
            self.data[key] = new
        elif expected is not None:
            del self.data[key]
        return b"\1"

    def _scan(self, fields: _Fields) -> bytes:
        limit = fields.number()
        after = fields.text() if fields.flag() else None
        prefix = fields.rest()
        items: list[bytes] = []
        size = _LENGTH.size
        count = 0
        start = prefix if after is None else max(prefix, after + b"\0")
        for key, value in self.data.range(start):
            item = 2 * _LENGTH.size + len(key) + len(value)
            if count == limit or not key.startswith(prefix):
                break
            if count and size + item > MAX_SCAN_REPLY:
                break
            items += (_LENGTH.pack(len(key)), key, _LENGTH.pack(len(value)), value)
            size += item
            count += 1
        return b"".join((_LENGTH.pack(count), *items))

    def _size(self, fields: _Fields) -> bytes:
        fields.end()
        return _COUNT.pack(len(self.data))


_OPERATIONS: dict[bytes, Callable[[KeyValue, _Fields], bytes]] = {
    b"G": KeyValue._jpaxos_get,
    b"P": KeyValue._jpaxos_put,
    b"g": KeyValue._get,
    b"p": KeyValue._put,
    b"d": KeyValue._delete,
    b"c": KeyValue._compare_and_set,
    b"s": KeyValue._scan,
    b"n": KeyValue._size,
}
_QUERIES = (b"g", b"s", b"n")


# ------------------------------------------------------------------ requests and replies


def _text(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _key(key: Key) -> bytes:
    return _text(key.encode() if isinstance(key, str) else key)


def get_request(key: Key) -> bytes:
    """The request for a value; the reply is read by `got`."""
    return b"g" + _key(key)


def put_request(key: Key, value: bytes) -> bytes:
    """The request that sets a value; the reply is empty."""
    return b"".join((b"p", _key(key), value))


def delete_request(key: Key) -> bytes:
    """The request that removes a key; the reply is read by `flag`."""
    return b"d" + _key(key)


def compare_and_set_request(key: Key, expected: bytes | None, new: bytes | None) -> bytes:
    """The request that sets a value if it is as expected; the reply is read by `flag`."""
    before = b"\0" if expected is None else b"\1" + _text(expected)
    after = b"\0" if new is None else b"\1" + new
    return b"".join((b"c", _key(key), before, after))


def scan_request(prefix: Key, after: bytes | None, limit: int) -> bytes:
    """The request for up to `limit` items after the key `after`; the reply is read by `items`."""
    start = prefix.encode() if isinstance(prefix, str) else prefix
    follows = b"\0" if after is None else b"\1" + _text(after)
    return b"".join((b"s", _LENGTH.pack(limit), follows, start))


def size_request() -> bytes:
    """The request for the number of keys; the reply is read by `count`."""
    return b"n"


def got(reply: bytes) -> bytes | None:
    """The value, None when there is none."""
    return reply[1:] if flag(reply[:1]) else None


def flag(reply: bytes) -> bool:
    """A reply of yes or no."""
    if reply not in (b"\0", b"\1"):
        raise WireError("a reply of the key-value service is malformed")
    return reply == b"\1"


def count(reply: bytes) -> int:
    """A reply that is a number."""
    if len(reply) != _COUNT.size:
        raise WireError("a reply of the key-value service is malformed")
    return int(_COUNT.unpack(reply)[0])


def items(reply: bytes) -> list[tuple[bytes, bytes]]:
    """The items of a scan, in key order."""
    try:
        fields = _Fields(b"s" + reply)
        found = [(fields.text(), fields.text()) for _ in range(fields.number())]
        fields.end()
    except BadRequest as error:
        raise WireError(f"a reply of the key-value service is malformed: {error}") from None
    return found


# ------------------------------------------------------------------ clients


class AsyncKeyValueClient:
    """The key-value service over asyncio. Everything is linearizable; the errors are those of
    AsyncClient, which is there as `client`, for example to pipeline:
    `client.submit(put_request(key, value))`."""

    def __init__(self, addresses: Addresses, options: Options | None = None) -> None:
        # Imported here: the state machine is also run where there is no extension.
        from mpaxos.client.aio import AsyncClient

        self.client = AsyncClient(addresses, options)

    async def get(self, key: Key) -> bytes | None:
        """The value of `key`, None when there is none."""
        return got(await self.client.query(get_request(key)))

    async def put(self, key: Key, value: bytes) -> None:
        """Set the value of `key`."""
        await self.client.call(put_request(key, value))

    async def delete(self, key: Key) -> bool:
        """Remove `key`; False when it was not there."""
        return flag(await self.client.call(delete_request(key)))

    async def compare_and_set(self, key: Key, expected: bytes | None, new: bytes | None) -> bool:
        """Set `key` to `new` (None: remove it) if its value is `expected` (None: there is none)."""
        return flag(await self.client.call(compare_and_set_request(key, expected, new)))

    async def scan(
        self, prefix: Key = b"", *, page: int = 1000
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """All items whose key begins with `prefix`, in key order. Each page of up to `page` items
        is linearizable; between pages others may write."""
        after: bytes | None = None
        while found := items(await self.client.query(scan_request(prefix, after, page))):
            for item in found:
                yield item
            after = found[-1][0]

    async def size(self) -> int:
        """The number of keys."""
        return count(await self.client.query(size_request()))

    async def close(self) -> None:
        """End the session."""
        await self.client.close()

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self.client.__aexit__(kind, error, trace)


class KeyValueClient:
    """The blocking twin of AsyncKeyValueClient, safe to use from any number of threads."""

    def __init__(self, addresses: Addresses, options: Options | None = None) -> None:
        from mpaxos.client.blocking import Client

        self.client = Client(addresses, options)

    def get(self, key: Key) -> bytes | None:
        """The value of `key`, None when there is none."""
        return got(self.client.query(get_request(key)))

    def put(self, key: Key, value: bytes) -> None:
        """Set the value of `key`."""
        self.client.call(put_request(key, value))

    def delete(self, key: Key) -> bool:
        """Remove `key`; False when it was not there."""
        return flag(self.client.call(delete_request(key)))

    def compare_and_set(self, key: Key, expected: bytes | None, new: bytes | None) -> bool:
        """Set `key` to `new` (None: remove it) if its value is `expected` (None: there is none)."""
        return flag(self.client.call(compare_and_set_request(key, expected, new)))

    def scan(self, prefix: Key = b"", *, page: int = 1000) -> Iterator[tuple[bytes, bytes]]:
        """All items whose key begins with `prefix`, in key order. Each page of up to `page` items
        is linearizable; between pages others may write."""
        after: bytes | None = None
        while found := items(self.client.query(scan_request(prefix, after, page))):
            yield from found
            after = found[-1][0]

    def size(self) -> int:
        """The number of keys."""
        return count(self.client.query(size_request()))

    def close(self) -> None:
        """End the session."""
        self.client.close()

    def __enter__(self) -> Self:
        self.client.__enter__()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.client.__exit__(kind, error, trace)
