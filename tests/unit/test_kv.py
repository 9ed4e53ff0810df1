"""The key-value service: its byte protocol (docs/wire.md) and its clients."""

from __future__ import annotations

import asyncio
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpaxos.client import Options
from mpaxos.errors import ClientError, NoSpace, WireError
from mpaxos.machine.host import MachineHost
from mpaxos.services import kv
from mpaxos.services.kv import AsyncKeyValueClient, KeyValue, KeyValueClient
from tests.unit.fake_replica import (
    FakeBatch,
    FakeCluster,
    FakeEngine,
    FakeReplica,
    FakeReplies,
    hosted,
)

OK, NOSPACE, BAD = 0, 3, 6


class Service:
    def __init__(self, limit: int = 1 << 30) -> None:
        self.engine = FakeEngine()
        self.host = MachineHost(self.engine, KeyValue, limit, make_replies=FakeReplies)
        self.slot = 0

    def run(self, request: bytes) -> tuple[int, bytes]:
        self.slot += 1
        replies = self.host.apply(self.slot, 0, FakeBatch([(1, 1, 1, 0, request)]))
        _, _, status, payload = replies.entries()[0]
        return status, payload

    def ask(self, request: bytes) -> tuple[int, bytes]:
        _, _, status, payload = self.host.query(FakeBatch([(1, 1, 1, 3, request)])).entries()[0]
        return status, payload

    def data(self) -> dict[bytes, bytes]:
        return self.engine.tables[self.engine.names.index("data")]


def text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def test_the_operations_byte_by_byte() -> None:
    service = Service()
    key = b"\0\0\0\1k"
    steps = [
        (b"G" + key, b""),
        (b"P" + key + b"one", b""),
        (b"P" + key + b"two", b"one"),
        (b"G" + key, b"two"),
        (b"g" + key, b"\1two"),
        (b"g\0\0\0\1x", b"\0"),
        (b"p" + key, b""),
        (b"g" + key, b"\1"),
        (b"d" + key, b"\1"),
        (b"d" + key, b"\0"),
        (b"c" + key + b"\1\0\0\0\1a" + b"\1b", b"\0"),
        (b"c" + key + b"\0" + b"\1b", b"\1"),
        (b"c" + key + b"\0" + b"\1c", b"\0"),
        (b"c" + key + b"\1\0\0\0\1b" + b"\1c", b"\1"),
        (b"n", b"\0\0\0\0\0\0\0\1"),
        (b"c" + key + b"\1\0\0\0\1c" + b"\0", b"\1"),
        (b"c" + key + b"\0\0", b"\1"),
        (b"n", bytes(8)),
    ]
    for request, reply in steps:
        assert service.run(request) == (OK, reply), request
    assert service.data() == {}


def test_scans() -> None:
    service = Service()
    for key in (b"a1", b"a2", b"a3", b"b", b"a"):
        service.run(b"p" + text(key) + key * 2)

    def scan(limit: int, after: bytes | None, prefix: bytes) -> list[bytes]:
        status, reply = service.ask(kv.scan_request(prefix, after, limit))
        assert status == OK
        assert all(value == key * 2 for key, value in kv.items(reply))
        return [key for key, _ in kv.items(reply)]

    assert kv.scan_request(b"p", b"ab", 7) == b"s\0\0\0\7\1\0\0\0\2abp"
    assert scan(9, None, b"a") == [b"a", b"a1", b"a2", b"a3"]
    assert scan(2, None, b"") == [b"a", b"a1"]
    assert scan(9, b"a1", b"a") == [b"a2", b"a3"]
    assert scan(9, b"a", b"a") == [b"a1", b"a2", b"a3"]
    assert scan(9, b"A", b"b") == [b"b"]
    assert scan(9, b"z", b"a") == [] and scan(0, None, b"") == []
    assert service.ask(kv.scan_request(b"b", None, 1)) == (
        OK,
        b"\0\0\0\1" + text(b"b") + text(b"bb"),
    )


def test_scans_end_at_one_mebibyte() -> None:
    service = Service()
    size = (1 << 19) - 16
    for key, length in ((b"a", size), (b"b", size), (b"c", 1), (b"d", (1 << 20) - 10), (b"e", 1)):
        service.run(b"p" + text(key) + bytes(length))
    found = []
    after = None
    while page := kv.items(service.ask(kv.scan_request(b"", after, 99))[1]):
        found.append([key for key, _ in page])
        after = page[-1][0]
    # The first page is exactly 1 MiB; an item larger than that comes alone.
    assert found == [[b"a", b"b", b"c"], [b"d"], [b"e"]]


@pytest.mark.parametrize(
    "request_, why",
    [
        (b"", "empty"),
        (b"x", "unknown operation"),
        (b"g", "cut short"),
        (b"g\0\0\0\2k", "cut short"),
        (b"g\0\0\0\1kk", "too long"),
        (b"G\0\0\0\1kk", "too long"),
        (b"d\0\0\0\1kk", "too long"),
        (b"nn", "too long"),
        (b"p\0\0\0", "cut short"),
        (b"c\0\0\0\1k", "cut short"),
        (b"c\0\0\0\1k\2", "neither 0 nor 1"),
        (b"c\0\0\0\1k\0", "cut short"),
        (b"c\0\0\0\1k\0\0x", "too long"),
        (b"s\0\0\0\1", "cut short"),
    ],
)
def test_malformed_requests_are_bad(request_: bytes, why: str) -> None:
    status, payload = Service().run(request_)
    assert status == BAD and why in payload.decode()


def test_queries() -> None:
    service = Service()
    service.run(b"p" + text(b"k") + b"v")
    assert service.ask(b"g" + text(b"k")) == (OK, b"\1v")
    assert service.ask(b"n") == (OK, b"\0\0\0\0\0\0\0\1")
    for request in (b"P" + text(b"k"), b"d" + text(b"k"), b"G" + text(b"k"), b""):
        status, payload = service.ask(request)
        assert status == BAD and b"not a query" in payload
    assert service.data() == {b"k": b"v"}


def test_no_space() -> None:
    service = Service(limit=64 + 1 + 4)
    assert service.run(b"p" + text(b"k") + b"1234")[0] == OK
    assert service.run(b"p" + text(b"k") + b"12345")[0] == NOSPACE
    assert service.run(b"p" + text(b"l"))[0] == NOSPACE
    assert service.run(b"p" + text(b"k") + b"abcd")[0] == OK
    assert service.run(b"c" + text(b"k") + b"\1" + text(b"abcd") + b"\1")[0] == OK
    assert service.run(b"d" + text(b"k")) == (OK, b"\1")
    assert service.run(b"p" + text(b"l"))[0] == OK


@given(st.lists(st.tuples(st.sampled_from("pdcg"), st.sampled_from("abc"), st.binary(max_size=2))))
def test_agrees_with_a_dict(operations: list[tuple[str, str, bytes]]) -> None:
    service = Service()
    model: dict[bytes, bytes] = {}
    for operation, name, value in operations:
        key = name.encode()
        if operation == "p":
            service.run(kv.put_request(name, value))
            model[key] = value
        elif operation == "d":
            assert kv.flag(service.run(kv.delete_request(name))[1]) == (key in model)
            model.pop(key, None)
        elif operation == "c":
            swapped = kv.flag(service.run(kv.compare_and_set_request(name, value, b"new"))[1])
            assert swapped == (model.get(key) == value)
            if swapped:
                model[key] = b"new"
        else:
            assert kv.got(service.ask(kv.get_request(name))[1]) == model.get(key)
    assert service.data() == model
    assert kv.count(service.ask(kv.size_request())[1]) == len(model)


def test_the_clients() -> None:
    async def run() -> None:
        service = Service(limit=1 << 16)
        replica = await FakeReplica(FakeCluster(hosted(service.host), "kv")).start()
        async with AsyncKeyValueClient(replica.address, Options(deadline=60)) as client:
            assert await client.get("k") is None
            await client.put("kö", b"1")
            assert await client.get("kö".encode()) == b"1"
            assert await client.compare_and_set("kö", b"1", b"2")
            assert not await client.compare_and_set("kö", None, b"3")
            await asyncio.gather(*(client.put(f"x{i:03}", b"%d" % i) for i in range(100)))
            found = [item async for item in client.scan("x", page=7)]
            assert found == [(b"x%03d" % i, b"%d" % i) for i in range(100)]
            assert await client.size() == 101
            assert await client.delete("kö") and not await client.delete("kö")
            with pytest.raises(NoSpace):
                await client.put("big", bytes(1 << 16))
            with pytest.raises(ClientError, match="malformed: unknown operation"):
                await client.client.call(b"?")
        await asyncio.to_thread(blocking, replica.address)
        await replica.stop()

    def blocking(address: str) -> None:
        with KeyValueClient(address, Options(deadline=60)) as client:
            client.put("k", b"1")
            assert client.get(b"k") == b"1" and client.get("none") is None
            assert client.compare_and_set("k", b"1", None) and client.size() == 100
            assert len(list(client.scan(b"x", page=30))) == 100
            assert client.delete("x000")
            client.close()

    asyncio.run(run())


@pytest.mark.parametrize("reply", [b"", b"\2", b"\0\0", b"\0\0\0\1", b"\0\0\0\0x"])
def test_malformed_replies(reply: bytes) -> None:
    for read in (kv.flag, kv.count, kv.items):
        with pytest.raises(WireError, match="malformed"):
            read(reply)
