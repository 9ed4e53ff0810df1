"""The clients against replicas that misbehave (fake_replica.py): every typed error, exactly once,
the window, deadlines, and the blocking twin."""

from __future__ import annotations

import asyncio
import importlib
import random
import re
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mpaxos
from mpaxos import StateMachine, command, errors, query
from mpaxos.client import AsyncClient, Client, Options, admin, connect, connect_blocking, wire
from mpaxos.client.options import parse_addresses
from mpaxos.containers import Dict
from mpaxos.machine.host import MachineHost
from tests.unit.fake_replica import FakeCluster, FakeEngine, FakeReplica, FakeReplies, hosted

# Deadlines are long, so that a slow machine does not meet them; calls that must meet theirs say so.
PATIENT = Options(deadline=60.0, stall_timeout=0.1, close_timeout=0.2)
SHORT = 0.3

Replicas = list[FakeReplica]


def on_cluster(test: Callable[[FakeCluster, Replicas], Awaitable[None]], replicas: int = 1) -> None:
    """Run a test with a cluster of fake replicas."""

    async def run() -> None:
        cluster = FakeCluster()
        started = [await FakeReplica(cluster, i).start() for i in range(replicas)]
        try:
            async with asyncio.timeout(60):
                await test(cluster, started)
        finally:
            for replica in started:
                await replica.stop()

    asyncio.run(run())


def addresses(replicas: Replicas) -> list[str]:
    return [replica.address for replica in replicas]


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


# ------------------------------------------------------------------ the ordinary way


def test_calls_queries_and_closing() -> None:
    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        async with connect(replicas[0].address) as client:
            assert client.cluster_name == "test" and client.machine_name == "m:Toy"
            assert client.replica == 0
            assert await client.call(b"a") == b"=a"
            assert await client.query(b"q") == b"=q"
            replies = await asyncio.gather(*(client.call(b"%d" % i) for i in range(1000)))
            assert replies == [b"=%d" % i for i in range(1000)]
            assert client.stats.answered == client.stats.sent == 1002
            assert client.stats.reconnects == 0
        assert cluster.closed == 1 and not cluster.sessions
        assert [sequence for _, sequence, _ in cluster.executed] == list(range(1, 1002))
        with pytest.raises(errors.ClientError, match="closed"):
            await client.call(b"a")

    on_cluster(test)


def test_requests_made_together_leave_in_few_frames() -> None:
    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        async with connect(replicas[0].address, window=100) as client:
            await asyncio.gather(*(client.call(b"a") for _ in range(100)))
            assert replicas[0].frames == [100]
            # 256 KiB at most, unless one request alone is larger.
            replicas[0].frames.clear()
            sizes = [100_000, 100_000, 100_000, 500_000, 10]
            await asyncio.gather(*(client.call(bytes(size)) for size in sizes))
            assert replicas[0].frames == [2, 1, 1, 1]

    on_cluster(test)


def test_the_window_is_respected_and_fifo() -> None:
    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        [replica] = replicas
        async with connect(replica.address, window=4) as client:
            replica.hold = True
            calls = [client.submit(b"%d" % i) for i in range(20)]
            await until(lambda: len(cluster.executed) == 4)
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(cluster.executed) == 4
            replica.release()
            await asyncio.gather(*calls)
        assert [payload for _, _, payload in cluster.executed] == [b"%d" % i for i in range(20)]
        assert cluster.most_in_flight <= 4

    on_cluster(test)


def test_many_clients() -> None:
    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        async def one(name: int) -> None:
            async with connect(addresses(replicas)) as client:
                for i in range(10):
                    assert await client.call(b"%d.%d" % (name, i)) == b"=%d.%d" % (name, i)

        await asyncio.gather(*(one(name) for name in range(50)))
        assert len({payload for _, _, payload in cluster.executed}) == len(cluster.executed) == 500
        assert all(replica.accepted for replica in replicas)

    on_cluster(test, 3)


# ------------------------------------------------------------------ exactly once


@pytest.mark.parametrize("seed", range(12))
def test_exactly_once_under_broken_connections(seed: int) -> None:
    """Connections break at random bytes, in and out; every request runs once, every caller gets its
    own reply."""
    rng = random.Random(seed)

    def cut() -> int | None:
        return rng.choice([rng.randrange(1, 400), rng.randrange(400, 6000), rng.randrange(60_000)])

    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        for replica in replicas:
            replica.cut = cut
        async with AsyncClient(addresses(replicas), Options(deadline=60, window=16)) as client:

            async def worker(name: int) -> None:
                for i in range(25):
                    body = b"%d.%d" % (name, i) + bytes(rng.randrange(50))
                    assert await client.call(body) == b"=" + body
                    if i % 5 == 0:
                        assert await client.query(b"q") == b"=q"

            await asyncio.gather(*(worker(name) for name in range(20)))
            assert client.stats.reconnects > 0
            assert client.stats.sent > client.stats.answered == 20 * 30
            for replica in replicas:
                replica.cut = lambda: None
        payloads = [payload for _, _, payload in cluster.executed]
        assert len(payloads) == len(set(payloads)) == 500
        assert cluster.most_in_flight <= 16

    on_cluster(test, 3)


def test_a_given_up_request_is_not_run_later() -> None:
    """Its sequence is below `lowest` once the session goes on, so that a late copy is void."""

    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        async with AsyncClient(addresses(replicas), PATIENT) as client:
            replicas[0].swallow = True
            with pytest.raises(errors.OutcomeUnknown):
                await client.call(b"lost", deadline=SHORT)
            replicas[0].swallow = False
            assert await client.call(b"next") == b"=next"
        assert [payload for _, _, payload in cluster.executed] == [b"next"]
        session = cluster.executed[0][0]
        cluster.sessions[session] = cluster_session = cluster.sessions.get(session) or _open(
            cluster
        )
        cluster_session.lowest = cluster.executed[0][1]
        assert cluster.run(session, 1, 1, wire.COMMAND, b"lost") is None

    on_cluster(test)


def _open(cluster: FakeCluster) -> Any:
    return cluster.sessions[cluster.open(8)]


def test_cancelled_calls_leave_the_window() -> None:
    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        [replica] = replicas
        async with AsyncClient(replica.address, Options(window=2, deadline=60)) as client:
            replica.swallow = True
            calls = [asyncio.ensure_future(client.call(b"x")) for _ in range(5)]
            await until(lambda: replica.frames == [2])
            for call in calls:
                call.cancel()
            replica.swallow = False
            assert await client.call(b"after") == b"=after"
        assert [payload for _, _, payload in cluster.executed] == [b"after"]

    on_cluster(test)


# ------------------------------------------------------------------ replicas that misbehave


Spoil = Callable[[FakeReplica], None]


def spoil(**attributes: Any) -> Spoil:
    def apply(replica: FakeReplica) -> None:
        for name, value in attributes.items():
            setattr(replica, name, value)

    return apply


BAD_CRC = wire.frame(wire.WELCOME, b"x")[:-1] + b"y"


@pytest.mark.parametrize(
    "how",
    [
        spoil(mute=True),
        spoil(open_sessions=False),
        spoil(garbage=b"HTTP/1.1 400 Bad Request\r\n"),
        spoil(garbage=b"SSH"),
        spoil(garbage=BAD_CRC),
        spoil(garbage=b"mPx1\1\2\0\0\xff\xff\xff\xff" + bytes(4)),
        spoil(garbage=wire.frame(wire.WELCOME, struct.pack("<HHIQ", 1, 0, 0, 0))),
        spoil(garbage=wire.frame(wire.REPLIES, b"")),
        spoil(garbage=wire.frame(77, b"")),
        spoil(goodbye=b"too many connections"),
        spoil(cut=lambda: 1),
        spoil(refusing=wire.REFUSED),
    ],
)
def test_another_replica_is_tried(how: Spoil) -> None:
    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        how(replicas[0])
        how(replicas[1])
        async with AsyncClient(addresses(replicas), PATIENT) as client:
            assert await client.call(b"a") == b"=a"
            assert client.replica == 2
        assert len(cluster.executed) == 1

    on_cluster(test, 3)


@pytest.mark.parametrize("body", [b"short", struct.pack("<QIB3x", 1, 1000, 0), bytes(15)])
def test_malformed_replies_close_the_connection(body: bytes) -> None:
    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        [replica] = replicas
        replica.hold = True
        async with AsyncClient(replica.address, PATIENT) as client:
            call = client.submit(b"a")
            await until(lambda: cluster.executed)
            [connection] = replica.connections
            replica.hold = False
            connection.replies.clear()
            connection.transport.write(wire.frame(wire.REPLIES, body))
            assert await call == b"=a"  # from the next connection
            assert client.stats.reconnects == 1
        assert len(cluster.executed) == 1

    on_cluster(test)


def test_a_stalled_replica_is_left() -> None:
    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        async with AsyncClient(addresses(replicas), PATIENT) as client:
            assert await client.call(b"a") == b"=a"
            served = client.replica
            assert served is not None
            replicas[served].mute = True
            assert await client.call(b"b") == b"=b"
            assert client.replica == 1 - served
            assert client.stats.longest_gap_seconds >= PATIENT.stall_timeout
        assert [payload for _, _, payload in cluster.executed] == [b"a", b"b"]

    on_cluster(test, 2)


def test_an_idle_connection_does_not_stall() -> None:
    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        async with AsyncClient(replicas[0].address, PATIENT) as client:
            await asyncio.sleep(3 * PATIENT.stall_timeout)
            assert await client.call(b"a") == b"=a"
            assert client.stats.reconnects == 0

    on_cluster(test)


def test_a_replica_of_another_cluster_is_refused() -> None:
    """Its sessions are other sessions: requests sent there could run twice."""

    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        foreign = FakeCluster()
        foreign.cluster_id = bytes(16)
        foreign.open(8)
        stranger = await FakeReplica(foreign).start()
        try:
            client = AsyncClient([replicas[0].address], PATIENT)
            await client.open()
            client._rotation._addresses.append(("127.0.0.1", stranger.port))
            await replicas[0].stop()
            await until(lambda: client.replica is None)
            with pytest.raises(errors.ConnectionFailed, match=r"refused|another cluster"):
                await client.call(b"a", deadline=SHORT)
            await until(lambda: stranger.accepted)
            await client.close()
            assert not foreign.executed
        finally:
            await stranger.stop()

    on_cluster(test)


# ------------------------------------------------------------------ typed errors


def raises(
    error: type[Exception],
    text: str,
    *hows: Spoil,
    request: bytes = b"a",
    query: bool = False,
    deadline: float | None = None,
) -> None:
    """A call over an open session meets the error once all replicas are spoilt."""

    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        client = AsyncClient(addresses(replicas), PATIENT)
        await client.open()
        for how in hows:
            for replica in replicas:
                how(replica)
        while True:
            with pytest.raises(errors.ClientError) as caught:
                await client.submit(request, query=query, deadline=deadline)
            # The deadline may come while a repetition is on its way: then nobody can know.
            if error is errors.OutcomeUnknown or type(caught.value) is not errors.OutcomeUnknown:
                break
        assert type(caught.value) is error
        assert re.search(text, str(caught.value))
        await client.close()

    on_cluster(test, 2)


def test_outcome_unknown() -> None:
    raises(
        errors.OutcomeUnknown, "may or may not have happened", spoil(swallow=True), deadline=SHORT
    )


def test_an_unanswered_query_is_safe_to_repeat() -> None:
    raises(errors.NoQuorum, "asking again is safe", spoil(swallow=True), query=True, deadline=SHORT)


def test_no_quorum() -> None:
    raises(errors.NoQuorum, "no majority", spoil(refusing=wire.REFUSED), deadline=SHORT)


def test_overloaded_by_the_cluster() -> None:
    raises(
        errors.Overloaded, "queues of the cluster", spoil(refusing=wire.OVERLOADED), deadline=SHORT
    )


def test_statuses() -> None:
    raises(errors.NoSpace, "full up", request=b"!3full up")
    raises(errors.ClientError, "malformed: what is this", request=b"!6what is this")
    raises(errors.ClientError, "cannot be read", request=b"!1\xc1")
    raises(errors.ClientError, "unknown status 9", request=b"!9")
    failed = b"!1" + b"\x92\xa8KeyError\xa3'a'"
    raises(errors.CommandFailed, "KeyError: 'a'", request=failed)
    raises(errors.CommandFailed, "KeyError: 'a'", request=failed, query=True)


def test_request_too_large() -> None:
    raises(
        errors.RequestTooLarge,
        "1048577 bytes; the cluster takes 1048576",
        request=bytes((1 << 20) + 1),
    )


def test_overloaded_by_the_own_window() -> None:
    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        [replica] = replicas
        async with AsyncClient(replica.address, Options(window=1)) as client:
            replica.hold = True
            first = client.submit(b"first", deadline=60)
            with pytest.raises(errors.Overloaded, match="window was full"):
                await client.call(b"second", deadline=0.1)
            replica.release()
            assert await first == b"=first"
        assert len(cluster.executed) == 1

    on_cluster(test)


def test_connection_failed() -> None:
    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        await replicas[0].stop()
        client = AsyncClient(replicas[0].address, Options(deadline=SHORT))
        with pytest.raises(
            errors.ConnectionFailed, match=r"no replica .* 127\.0\.0\.1:\d+: .*refused"
        ):
            await client.call(b"a")
        with pytest.raises(errors.ConnectionFailed):
            await client.open()
        await client.close()

    on_cluster(test)


def test_no_quorum_to_open_a_session() -> None:
    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        replicas[0].open_sessions = False
        client = AsyncClient(replicas[0].address, Options(deadline=SHORT, stall_timeout=0.1))
        with pytest.raises((errors.NoQuorum, errors.ConnectionFailed)):
            await client.open()
        await until(lambda: replicas[0].accepted > 1)
        with pytest.raises(errors.NoQuorum):
            await client.call(b"a")
        await client.close()

    on_cluster(test)


def test_version_mismatch() -> None:
    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        cluster.protocol = 9
        client = AsyncClient(addresses(replicas), PATIENT)
        with pytest.raises(errors.VersionMismatch, match="speaks client protocol 9"):
            await client.open()
        with pytest.raises(errors.VersionMismatch):
            await client.call(b"a")
        await client.close()
        cluster.protocol = 1
        with pytest.raises(errors.VersionMismatch, match="m:Toy, not Bank"):
            async with connect(addresses(replicas), Bank):
                pass

    on_cluster(test, 2)


def test_frames_of_another_version() -> None:
    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        replicas[0].garbage = b"mPx1\2\2" + bytes(10)
        with pytest.raises(errors.VersionMismatch, match="frames of version 2"):
            async with AsyncClient(replicas[0].address, PATIENT):
                pass

    on_cluster(test)


def test_session_expired() -> None:
    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        [replica] = replicas
        async with AsyncClient(replica.address, Options(window=2, deadline=60)) as client:
            replica.swallow = True
            calls = [client.submit(b"%d" % i) for i in range(4)]
            ask = client.submit(b"q", query=True)
            await until(lambda: sum(replica.frames) == 3)
            cluster.sessions.clear()
            replica.swallow = False
            replica.drop()
            results = await asyncio.gather(*calls, ask, return_exceptions=True)
            # What was in flight may have happened; what waited goes to the new session.
            assert [type(r) for r in results[:2]] == [errors.SessionExpired] * 2
            assert results[2:] == [b"=2", b"=3", b"=q"]
            assert await client.call(b"again") == b"=again"
        assert cluster.opened == 2
        assert [payload for _, _, payload in cluster.executed] == [b"2", b"3", b"again"]

    on_cluster(test)


def test_overload_that_passes_is_not_seen() -> None:
    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        [replica] = replicas
        async with AsyncClient(replica.address, Options(deadline=60)) as client:
            replica.refusing = wire.OVERLOADED
            calls = [client.submit(b"%d" % i) for i in range(10)]
            await until(lambda: len(replica.frames) >= 3)
            replica.refusing = 0
            await asyncio.gather(*calls)
            assert client.stats.reconnects == 0
        assert len(cluster.executed) == 10

    on_cluster(test)


def test_closing_with_open_requests() -> None:
    async def test(cluster: FakeCluster, replicas: Replicas) -> None:
        [replica] = replicas
        client = AsyncClient(replica.address, Options(window=1, close_timeout=0.1))
        await client.open()
        replica.hold = True
        sent, waiting = client.submit(b"a"), client.submit(b"b")
        await until(lambda: cluster.executed)
        await client.close(drain=False)
        with pytest.raises(errors.OutcomeUnknown):
            await sent
        with pytest.raises(errors.ClientError, match="closed"):
            await waiting
        replica.hold = False
        async with AsyncClient(replica.address) as other:
            late = other.submit(b"c")
        assert late.result() == b"=c"  # leaving the block waited for it

    on_cluster(test)


@pytest.mark.parametrize(
    "wrong", ["", "nowhere", "host:", "host:99999", ":1", "::1:3001", [], [("h", 0)], "a:1,,b:2"]
)
def test_bad_addresses(wrong: Any) -> None:
    with pytest.raises(errors.ConfigError):
        parse_addresses(wrong)


def test_addresses_and_options() -> None:
    assert parse_addresses(" a:1, b:2,a:1") == [("a", 1), ("b", 2)]
    assert parse_addresses([("a", 1), "[::1]:2"]) == [("a", 1), ("::1", 2)]
    for wrong in ({"window": 0}, {"window": 1025}, {"deadline": 0}, {"stall_timeout": -1}):
        with pytest.raises(errors.ConfigError):
            Options(**wrong)


# ------------------------------------------------------------------ the blocking twin


@contextmanager
def in_background(cluster: FakeCluster, count: int = 1) -> Iterator[tuple[Replicas, Any]]:
    """Replicas in a thread of their own; also gives a function to run something in it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def within(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

    replicas = [within(FakeReplica(cluster, i).start()) for i in range(count)]
    try:
        yield replicas, within
    finally:
        for replica in replicas:
            within(replica.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_blocking_from_several_threads() -> None:
    cluster = FakeCluster()
    failures: list[BaseException] = []
    with (
        in_background(cluster, 3) as (replicas, _),
        connect_blocking(addresses(replicas), window=8) as client,
    ):

        def work(name: int) -> None:
            try:
                for i in range(50):
                    assert client.call(b"%d.%d" % (name, i)) == b"=%d.%d" % (name, i)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        futures = [client.submit(b"f%d" % i) for i in range(200)]
        assert [future.result() for future in futures] == [b"=f%d" % i for i in range(200)]
        assert client.query(b"q") == b"=q"
        assert client.machine_name == "m:Toy" and client.cluster_name == "test"
    assert len(cluster.executed) == 600
    assert cluster.closed == 1 and cluster.most_in_flight <= 8


def test_blocking_errors_and_closing() -> None:
    cluster = FakeCluster()
    with in_background(cluster) as (replicas, within):
        client = Client(addresses(replicas), PATIENT)
        client.open()
        replicas[0].swallow = True
        with pytest.raises(errors.OutcomeUnknown):
            client.call(b"a", deadline=SHORT)
        replicas[0].swallow = False

        # A callback may submit more; it runs in the client's thread and must not wait.
        chained: Future[bytes] = Future()

        def more(_: Future[bytes]) -> None:
            client.submit(b"2").add_done_callback(lambda f: chained.set_result(f.result()))

        client.submit(b"1").add_done_callback(more)
        assert chained.result(60) == b"=2"
        client.close()
        client.close()
        with pytest.raises(errors.ClientError, match="closed"):
            client.call(b"b")
        within(replicas[0].stop())
        short = Options(deadline=SHORT)
        with pytest.raises(errors.ConnectionFailed), Client(addresses(replicas), short):
            pass


async def _drop(replica: FakeReplica) -> None:
    replica.drop()


def test_blocking_submit_waits_for_room() -> None:
    cluster = FakeCluster()
    with in_background(cluster) as (replicas, within):
        replicas[0].hold = True
        client = Client(addresses(replicas), Options(window=1, deadline=60))
        futures = [client.submit(b"%d" % i) for i in range(2)]
        with pytest.raises(errors.Overloaded):
            client.submit(b"more", deadline=0.05)
        replicas[0].hold = False
        within(_drop(replicas[0]))  # the replies are asked for again
        assert [future.result() for future in futures] == [b"=0", b"=1"]
        client.close()
    assert len(cluster.executed) == 2


# ------------------------------------------------------------------ typed machines


class Bank(StateMachine):
    accounts: Dict[str, int]

    @command
    def deposit(self, name: str, amount: int = 1) -> int:
        """Put money in."""
        self.accounts[name] = self.accounts.get(name, 0) + amount
        return self.accounts[name]

    @command
    def transfer(self, source: str, target: str, amount: int) -> None:
        self.accounts[source] -= amount
        if self.accounts[source] < 0:
            raise ValueError("not enough")
        self.accounts[target] = self.accounts.get(target, 0) + amount

    @query
    def balance(self, name: str) -> int:
        return self.accounts.get(name, 0)


def bank_cluster() -> FakeCluster:
    host = MachineHost(FakeEngine(), Bank, 1 << 20, make_replies=FakeReplies)
    return FakeCluster(hosted(host), "examples.bank:Bank")


def test_typed_methods() -> None:
    async def run() -> None:
        replica = await FakeReplica(bank_cluster()).start()
        async with mpaxos.connect(replica.address, Bank) as bank:
            assert await bank.deposit("ann", 10) == 10
            assert await bank.deposit(name="ann") == 11
            with pytest.raises(errors.CommandFailed, match="ValueError: not enough") as caught:
                await bank.transfer("ann", "bob", 100)
            assert (caught.value.type, caught.value.message) == ("ValueError", "not enough")
            assert await bank.balance("ann") == 11
            await bank.with_deadline(20).transfer("ann", "bob", 1)
            typed: int = await bank.invoke(Bank.balance, "bob")
            assert typed == 1
            with pytest.raises(errors.CommandFailed, match="Expected `int`, got `str`"):
                await bank.deposit("ann", "ten")
            with pytest.raises(TypeError, match="missing a required argument"):
                await bank.transfer("ann")
            with pytest.raises(AttributeError, match="Bank has no @command or @query fly"):
                await bank.fly()
            with pytest.raises(errors.ConfigError, match="is not a @command or @query of Bank"):
                await bank.invoke(lambda bank: 5)
            assert bank.deposit.__doc__ == "Put money in." and "transfer" in dir(bank)
        await replica.stop()

    asyncio.run(run())


def test_typed_methods_blocking() -> None:
    with (
        in_background(bank_cluster()) as (replicas, _),
        mpaxos.connect_blocking(addresses(replicas), Bank) as bank,
    ):
        futures = [bank.submit(Bank.deposit, "ann", 2) for _ in range(20)]
        assert sorted(future.result() for future in futures) == list(range(2, 42, 2))
        bank.transfer("ann", "bob", 5)
        typed: int = bank.invoke(Bank.balance, "bob")
        assert typed == 5 and bank.with_deadline(9).balance("ann") == 35
        with pytest.raises(errors.CommandFailed):
            bank.submit(Bank.transfer, "ann", "bob", 100).result()


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    "name, machine, output",
    [
        ("bank", "Bank", "refused: ValueError: ann has not enough money\nann has 50, bob has 50\n"),
        ("counter", "Counter", "from 0 to 1000\n"),
        ("locks", "Locks", "ann gets 1\nbob gets None\nbob gets 4\nheld: [('printer', Lock("),
    ],
)
def test_the_examples(
    name: str,
    machine: str,
    output: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    module: Any = importlib.import_module(name)
    host = MachineHost(FakeEngine(), getattr(module, machine), 1 << 20, make_replies=FakeReplies)
    with in_background(FakeCluster(hosted(host), f"{name}:{machine}")) as (replicas, _):
        done = module.main(replicas[0].address)
        if done is not None:
            asyncio.run(done)
    assert capsys.readouterr().out.startswith(output)


# ------------------------------------------------------------------ admin


def test_admin_questions() -> None:
    with in_background(FakeCluster()) as (replicas, within):
        [replica] = replicas
        expected = {"asked": {"status": 1}}
        assert admin.ask_blocking(replica.address, {"status": 1}) == expected
        assert asyncio.run(admin.ask(replica.address, {"status": 1})) == expected
        within(replica.stop())
        with pytest.raises(errors.ConnectionFailed, match="is the replica up"):
            admin.ask_blocking(replica.address, {})
        with pytest.raises(errors.ConnectionFailed, match="is the replica up"):
            asyncio.run(admin.ask(replica.address, {}))


@pytest.mark.parametrize(
    "answer, error, text",
    [
        (wire.frame(wire.BYE, b"not now"), errors.ClientError, "refused the question: not now"),
        (wire.frame(wire.ADMIN_REPLY, b"[1]"), errors.ClientError, "not a JSON object"),
        (wire.frame(wire.OPENED, b""), errors.ClientError, "is no answer"),
        (b"HTTP/1.1 200", errors.ClientError, "not a frame of mpaxos"),
        (b"", errors.ConnectionFailed, "closed the connection"),
        (None, errors.ConnectionFailed, "did not answer within"),
    ],
)
def test_admin_errors(answer: bytes | None, error: type[Exception], text: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        if answer is not None:
            writer.write(answer)
            writer.close()
        else:
            await reader.read()
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()[:2]
        timeout = 60.0 if answer is not None else 0.1
        with pytest.raises(error, match=text):
            await admin.ask(address, {}, timeout=timeout)
        with pytest.raises(error, match=text):
            await asyncio.to_thread(admin.ask_blocking, address, {}, timeout=timeout)
        server.close()

    asyncio.run(run())
