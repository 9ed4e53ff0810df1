"""The client port and the turn: real sockets against a real plane."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from mpaxos import _native
from mpaxos.core.messages import Envelope, Reject
from mpaxos.core.output import LocalBatch, LocalReads, Output
from mpaxos.core.types import Ballot, Batch
from mpaxos.errors import ConfigError
from mpaxos.net.adapter import NativePlane
from mpaxos.net.plane import AdminRequest, Notice, Plane
from tests.unit.plane_world import (
    ADMIN,
    ADMIN_REPLY,
    BYE,
    CLUSTER,
    OPENED,
    WELCOME,
    World,
    entry,
    frame,
    hello,
    requests,
)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def port(world: World) -> int:
    return world.planes[0].ports()[1]


# ------------------------------------------------------------------ sessions


def test_opening_a_session(world: World) -> None:
    world.open(max_request=5000)
    wire = world.wire(port(world))
    wire.send(hello(window=33))
    kind, payload = wire.frame()
    assert kind == WELCOME
    assert payload == struct.pack("<HHIQ", 1, 0, 5000, 0) + CLUSTER + b"\x04test\x02kv"
    world.wait(world.entries, "the opening")
    [(session, token, _, entry_kind, window)] = world.entries()
    assert (session, entry_kind, window) == (0, _native.ENTRY_OPEN, struct.pack("<I", 33))
    world.reply((0, token + 1, _native.STATUS_OPENED, struct.pack("<Q", 1)))  # somebody else's
    world.reply((0, token, _native.STATUS_OPENED, struct.pack("<Q", 777)))
    assert wire.frame() == (OPENED, struct.pack("<Q", 777))
    wire.send(requests(entry(777, 1, b"x")))
    world.wait(lambda: len(world.entries()) == 2, "the request")
    assert world.entries()[1] == (777, 1, 1, 0, b"x")
    world.reply((777, 1, _native.STATUS_OK, b"y"))
    assert wire.replies(1) == [(1, 0, b"y")]


def test_tokens_differ(world: World) -> None:
    world.open()
    for _ in range(20):
        world.wire(port(world)).send(hello())
    world.wait(lambda: len(world.entries()) == 20, "openings")
    assert len({e[1] for e in world.entries()}) == 20


def test_client_leaves_before_its_session_is_open(world: World) -> None:
    world.open()
    wire = world.wire(port(world))
    wire.send(hello())
    world.wait(world.entries, "the opening")
    wire.socket.close()
    world.wait(lambda: world.counter("closed_eof") + world.counter("closed_reset"), "the end")
    world.reply((0, world.entries()[0][1], _native.STATUS_OPENED, struct.pack("<Q", 5)))
    assert world.client(5)


def test_newest_connection_of_a_session_gets_the_replies(world: World) -> None:
    world.open()
    older = world.client(9)
    older.send(requests(entry(9, 1)))
    world.wait(world.entries, "the request")
    newer = world.client(9)
    kind, reason = older.frame()
    assert (kind, b"took over" in reason) == (BYE, True)
    assert older.end() == b""
    world.reply((9, 1, 0, b"late"))
    assert newer.replies(1) == [(1, 0, b"late")]
    assert world.counter("closed_replaced") == 1
    assert world.notices() == []


def test_replies_to_nobody_are_dropped(world: World) -> None:
    world.open()
    world.reply((1, 1, 0, b"x"), (0, 4, _native.STATUS_OPENED, b"short"))
    wire = world.client(2)
    wire.socket.close()
    world.reply((2, 1, 0, b"x" * 100_000))
    world.reply((2, 2, 0, b"x" * 100_000))
    world.wait(lambda: world.counter("connections_client") == 0, "the end")
    assert world.counter("replies") >= 1


# ------------------------------------------------------------------ requests


def test_several_frames_at_once_and_byte_by_byte(world: World) -> None:
    world.open()
    first, second = world.wire(port(world)), world.wire(port(world))
    data = hello(3) + requests(entry(3, 1, b"a"), entry(3, 2, b"bb")) + requests(entry(3, 3))
    first.send(data)
    world.wait(lambda: len(world.entries()) == 3, "three requests")
    assert [e[4] for e in world.entries()] == [b"a", b"bb", b""]
    second.dribble(data)
    world.wait(lambda: len(world.entries()) == 6, "three more")
    assert world.entries()[3:] == world.entries()[:3]
    assert world.counter("closed_replaced") == 1


def test_queries_go_their_own_way(world: World) -> None:
    world.open()
    wire = world.client(3)
    world.room = 0
    query = entry(3, 2**63, b"q", kind=_native.ENTRY_QUERY)
    close = entry(3, 2, kind=_native.ENTRY_CLOSE)
    wire.send(requests(entry(3, 1, b"c"), query, close))
    world.wait(lambda: world.of_kind(_native.EVENT_READS), "the query")
    assert world.entries(_native.EVENT_READS) == [(3, 2**63, 1, 3, b"q")]
    assert world.entries() == []
    world.room = 1
    world.wait(world.entries, "the commands")
    assert [(e[1], e[3]) for e in world.entries()] == [(1, 0), (2, 2)]


def test_batches_are_numbered_and_bounded(world: World) -> None:
    world.open(max_batch=1000)
    world.room = 0
    wire = world.client(3)
    wire.send(requests(*[entry(3, i, b"x" * 100) for i in range(1, 31)]))
    wire.send(requests(entry(3, 31, b"y" * 5000)))  # one request may exceed it
    world.wait(lambda: world.counter("requests") == 31, "all requests")
    world.room = 2
    world.turn()
    assert len(world.of_kind(_native.EVENT_BATCH)) == 2
    world.wait(lambda: len(world.entries()) == 31, "all batches")
    batches = [event[1] for event in world.of_kind(_native.EVENT_BATCH)]
    assert [b.number for b in batches] == list(range(1, len(batches) + 1))
    assert {(b.origin, b.incarnation) for b in batches} == {(0, 1000)}
    assert all(b.length <= 1000 or b.count == 1 for b in batches)
    assert [e[1] for e in world.entries()] == list(range(1, 32))
    assert len(batches) == 30 // 7 + 1 + 1


def test_reading_stops_while_too_much_waits(world: World) -> None:
    world.open(max_pending=200_000, max_batch=50_000)
    world.room = 0
    wire = world.client(3)
    wire.socket.setblocking(False)
    data = b"".join(requests(entry(3, i, b"x" * 10_000)) for i in range(1, 2001))
    sent = 0
    while world.counter("pauses") == 0:
        try:
            sent += wire.socket.send(data[sent:])
        except BlockingIOError:
            world.turn()
    pending = world.counter("requests") * 10_000
    assert 200_000 <= pending < 600_000
    for _ in range(20):
        world.turn()
    assert world.counter("requests") * 10_000 == pending
    status = world.wire(port(world))  # whoever asks how it is gets an answer
    status.send(frame(ADMIN, b"{}"))
    world.wait(lambda: world.of_kind(_native.EVENT_ADMIN), "the admin request")
    world.room = 8
    wire.send(data[sent:])
    world.wait(lambda: len(world.entries()) == 2000, "all requests")
    assert [e[1] for e in world.entries()] == list(range(1, 2001))


def test_large_requests(world: World) -> None:
    world.open()
    wire = world.client(3)
    body = bytes(range(256)) * 4096
    wire.send(requests(entry(3, 1, body)) + requests(entry(3, 2, body[:-1])))
    world.wait(lambda: len(world.entries()) == 2, "large requests")
    assert [e[4] for e in world.entries()] == [body, body[:-1]]
    world.reply((3, 1, 0, body), (3, 2, 0, body[1:]))
    assert wire.replies(2) == [(1, 0, body), (2, 0, body[1:])]


def test_without_quorum_requests_are_refused(world: World) -> None:
    world.open()
    wire = world.client(3)
    world.quorum = False
    query = entry(3, 2**63, kind=_native.ENTRY_QUERY)
    wire.send(requests(entry(3, 1), query))
    refused = _native.STATUS_REFUSED
    assert wire.replies(2) == [(1, refused, b""), (2**63, refused, b"")]
    newcomer = world.wire(port(world))
    newcomer.send(hello())
    kind, reason = newcomer.frame()
    assert (kind, b"no quorum" in reason) == (BYE, True)
    assert newcomer.end() == b""
    assert (world.counter("closed_no_quorum"), world.counter("refused")) == (1, 2)
    world.quorum = True
    wire.send(requests(entry(3, 1)))
    world.wait(world.entries, "the request")


def test_paused_clients_are_refused_when_the_quorum_is_lost(world: World) -> None:
    world.open(max_pending=1000)
    world.room = 0
    wire = world.client(3)
    wire.send(requests(entry(3, 1, b"x" * 2000)))
    world.wait(lambda: world.counter("pauses") == 1, "the pause")
    wire.send(requests(entry(3, 2)))
    world.quorum = False
    assert wire.replies(1) == [(2, _native.STATUS_REFUSED, b"")]


# ------------------------------------------------------------------ admin


def test_admin_requests_need_no_hello(world: World) -> None:
    plane = world.open()
    wire = world.wire(port(world))
    wire.send(frame(ADMIN, b'{"a":1}') + frame(ADMIN, b"x" * 65536))
    world.wait(lambda: len(world.of_kind(_native.EVENT_ADMIN)) == 2, "admin requests")
    events = world.of_kind(_native.EVENT_ADMIN)
    assert [event[2] for event in events] == [b'{"a":1}', b"x" * 65536]
    for event, text in zip(events, (b"one", b"2" * 3_000_000), strict=True):
        plane.answer(event[1], text)
    plane.answer(events[0][1], b"one too many")
    plane.answer(123456, b"nobody")
    plane.flush()
    assert wire.frame() == (ADMIN_REPLY, b"one")
    assert wire.frame() == (ADMIN_REPLY, b"2" * 3_000_000)
    wire.send(hello(4))
    assert wire.frame()[0] == WELCOME


# ------------------------------------------------------------------ the turn


def test_poll_returns_when_its_time_has_come(world: World) -> None:
    plane = world.open()
    now, events = plane.poll(0, 8, True)
    assert events == []
    before = time.monotonic_ns()
    assert before - 1_000_000_000 < now <= before
    after, _ = plane.poll(before + 20_000_000, 8, True)
    assert after >= before + 20_000_000
    plane.poll(2**62, 8, True)  # a hundred milliseconds: Python gets to its signals


def test_wake_ends_a_poll(world: World) -> None:
    plane = world.open()

    def ends_early(wake_first: bool) -> bool:
        """Whether a poll that lasts 100 ms otherwise was ended by a wake."""
        waker = threading.Thread(target=plane.wake)
        start = time.monotonic_ns()
        waker.start()
        if wake_first:
            waker.join()
        now, _ = plane.poll(2**62, 8, True)
        waker.join()
        return now - start < 90_000_000

    # A busy machine can make any single try slow, but not all of them.
    for wake_first in (True, False):
        assert any(ends_early(wake_first) for _ in range(100))


def test_ports_in_use_and_bad_settings(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        place = ("127.0.0.1", number)
        for name, users in (("peer", "peers"), ("client", "clients"), ("jpaxos", "JPaxos clients")):
            expected = f"cannot listen on 127.0.0.1:{number} for {users}: Address already in use"
            with pytest.raises(ConfigError, match=expected):
                world.open(0, **{f"listen_{name}": place})
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1:0 for clients: "):
        world.open(listen_client=("192.0.2.1", 0))
    with pytest.raises(ConfigError, match=r"cannot listen on no-such-host\.invalid:0 for peers"):
        world.open(listen_peer=("no-such-host.invalid", 0))
    with pytest.raises(ConfigError, match="a port is 0 to 65535"):
        world.open(listen_client=("127.0.0.1", 65536))
    with pytest.raises(ConfigError, match="16 bytes"):
        world.open(cluster=b"short")
    plane = world.open(listen_client=("localhost", 0), listen_jpaxos=None)
    assert plane.ports()[2] == 0
    with pytest.raises(ConfigError, match="255"):
        plane.set_identity("x" * 256, "kv")


def test_listening_on_ipv6(world: World) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    plane = world.open(listen_client=("::1", 0))
    with socket.create_connection(("::1", plane.ports()[1])) as wire:
        wire.sendall(b"GET / HTTP/1.0\r\n\r\n")
        world.wait(world.notices, "the notice")
    [notice] = world.of_kind(_native.EVENT_NOTICE)
    assert notice[1] == "client"
    assert notice[2].startswith("[::1]:")


def test_ports_are_free_after_close(world: World) -> None:
    plane = world.open()
    wire = world.client(1)
    _, client, _ = plane.ports()
    plane.close()
    plane.close()
    assert wire.end() == b""
    assert plane.poll(2**62, 8, True)[1] == []
    world.open(listen_client=("127.0.0.1", client))


def test_connections_beyond_the_limit_are_closed(world: World) -> None:
    world.open(max_connections=3)
    kept = [world.client(i) for i in (1, 2, 3)]
    for _ in range(3):
        assert world.wire(port(world)).end() == b""
    assert world.counter("closed_limit") == 3
    assert len(world.notices()) == 1
    kept[0].socket.close()
    world.wait(lambda: world.counter("connections_client") == 2, "the end of one")
    assert world.client(4)


def test_adapter(world: World) -> None:
    native = world.open()
    adapted: Plane[_native.ReplySet] = NativePlane(native)
    wire = world.client(3)
    query = entry(3, 9, b"q", kind=_native.ENTRY_QUERY)
    wire.send(requests(entry(3, 1, b"c"), query) + frame(ADMIN, b"{}"))
    world.wire(port(world)).send(b"garbage")
    batches: list[Batch] = []
    reads: list[Batch] = []
    admin: list[AdminRequest] = []
    notices: list[Notice] = []
    end = time.monotonic() + 30
    while not (batches and reads and admin and notices):
        assert time.monotonic() < end
        turn = adapted.poll(Output(wake_at=time.monotonic_ns() + 1_000_000, room=1))
        batches += [e.batch for e in turn.events if isinstance(e, LocalBatch)]
        reads += [e.batch for e in turn.events if isinstance(e, LocalReads)]
        admin += turn.admin
        notices += turn.notices
    assert (batches[0].count, reads[0].count, admin[0].data) == (1, 1, b"{}")
    assert (notices[0].port, "wrong magic" in notices[0].reason) == ("client", True)
    adapted.answer(admin[0].token, b"[]")
    adapted.send([Envelope(1, Reject(Ballot(1, 1)))])  # no such peer
    adapted.flush()
    assert wire.frame() == (ADMIN_REPLY, b"[]")
    assert (adapted.counters()["peer_dropped"], adapted.counters()["undecodable"]) == (1, 0)
