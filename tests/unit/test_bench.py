"""The benchmark as far as it goes without a cluster: percentiles, /proc, profiles, tables."""

from __future__ import annotations

import math
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from mpaxos.bench import cluster, grow, hotspots, percentiles, plots, usage
from mpaxos.bench.load import LoadFailed, RawHistogram, Workload, drive, find_program
from mpaxos.bench.measure import Measurement, ServerUse, Target, measure, warnings_of
from mpaxos.bench.services import PythonKeyValue
from mpaxos.bench.show import describe, markdown, microseconds, print_measurement
from mpaxos.client import wire
from mpaxos.config import ClusterConfig, example, load
from mpaxos.errors import ConfigError
from mpaxos.machine.codec import pack

Serve = Callable[[socket.socket], None]


@contextmanager
def server(serve: Serve) -> Iterator[str]:
    """A listener that hands every connection to `serve` on a thread of its own; its address."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=guarded, args=(connection,), daemon=True).start()

        def guarded(connection: socket.socket) -> None:
            with connection:
                try:
                    serve(connection)
                except OSError:  # the load generator has gone
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=10)


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def frames(connection: socket.socket) -> Iterator[tuple[int, bytes]]:
    reader = wire.FrameReader()
    while data := connection.recv(65536):
        yield from reader.feed(data)


def entries(payload: bytes) -> Iterator[tuple[int, int, int, int, bytes]]:
    """session, sequence, lowest, kind, request of each."""
    at = 0
    while at < len(payload):
        session = int.from_bytes(payload[at : at + 8], "little")
        sequence = int.from_bytes(payload[at + 8 : at + 16], "little")
        lowest = int.from_bytes(payload[at + 16 : at + 24], "little")
        length = int.from_bytes(payload[at + 24 : at + 28], "little")
        kind = payload[at + 28]
        yield session, sequence, lowest, kind, payload[at + 32 : at + 32 + length]
        at += 32 + length


def welcome(session: int) -> bytes:
    payload = (1).to_bytes(2, "little") + bytes(2) + (1 << 20).to_bytes(4, "little")
    payload += session.to_bytes(8, "little") + bytes(16) + b"\1c" + b"\1m"
    return wire.frame(wire.WELCOME, payload)


def reply(sequence: int, status: int = 0, payload: bytes = b"") -> bytes:
    head = sequence.to_bytes(8, "little") + len(payload).to_bytes(4, "little")
    return head + bytes([status, 0, 0, 0]) + payload


class FakeReplica:
    """Answers like a replica, keeps what it was asked, and checks the rules of sessions."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, bytes]] = []
        self.wrong: list[str] = []
        self.closed: set[int] = set()
        self.windows: list[int] = []
        self.hang_up_after = 0
        self.refuse_first = False
        self._lock = threading.Lock()
        self._sessions = 0
        self._answered: dict[int, set[int]] = {}

    def serve(self, connection: socket.socket) -> None:
        session = 0
        for kind, payload in frames(connection):
            if kind == wire.HELLO:
                session = self._greet(connection, payload)
            elif kind == wire.REQUESTS and not self._requests(connection, session, payload):
                return

    def _greet(self, connection: socket.socket, payload: bytes) -> int:
        session = int.from_bytes(payload[8:16], "little")
        connection.sendall(welcome(session))
        if session:
            return session
        with self._lock:
            self.windows.append(int.from_bytes(payload[2:4], "little"))
            self._sessions += 1
            session = 1000 + self._sessions
            self._answered[session] = set()
        connection.sendall(wire.frame(wire.OPENED, session.to_bytes(8, "little")))
        return session

    def _requests(self, connection: socket.socket, session: int, payload: bytes) -> bool:
        out = b""
        for sent, sequence, lowest, kind, request in entries(payload):
            with self._lock:
                if sent != session:
                    self.wrong.append(f"session {sent} in {session}")
                if kind == wire.CLOSE:
                    self.closed.add(session)
                elif kind == wire.COMMAND:
                    self._command(session, sequence, lowest)
                self.requests.append((kind, request))
                if self.hang_up_after and len(self.requests) >= self.hang_up_after:
                    self.hang_up_after = 0
                    return False
                if self.refuse_first:
                    self.refuse_first = False
                    self._answered[session].discard(sequence)
                    out += reply(sequence, wire.REFUSED)
                    continue
            out += reply(sequence)
        connection.sendall(wire.frame(wire.REPLIES, out))
        return True

    def _command(self, session: int, sequence: int, lowest: int) -> None:
        answered = self._answered[session]
        missing = [n for n in range(1, lowest) if n not in answered]
        if missing or lowest > sequence:
            self.wrong.append(f"lowest {lowest} with sequence {sequence}, missing {missing[:3]}")
        answered.add(sequence)


QUICK = Workload(connections=4, size=20, keys=10, warm_up=0.0, count=200)


def test_native_protocol_is_spoken_as_written() -> None:
    replica = FakeReplica()
    with server(replica.serve) as address:
        report = drive(changed(depth=3, reads=0.5), [address])
    assert replica.wrong == []
    assert replica.windows == [3] * 4
    assert len(replica.closed) == 4, "sessions are closed at the end"
    assert report.reads.total + report.writes.total == 200
    assert report.errors == {} and report.unanswered == 0
    asked = [request for kind, request in replica.requests if kind != wire.CLOSE]
    assert len(asked) == 200
    for kind, request in replica.requests:
        if kind == wire.QUERY:
            assert request[:5] == b"g\0\0\0\x10" and len(request) == 21
        elif kind == wire.COMMAND:
            assert request[:5] == b"p\0\0\0\x10" and len(request) == 21 + 20
            assert int(request[6:21]) < 10
    assert {kind for kind, _ in replica.requests} == {wire.COMMAND, wire.QUERY, wire.CLOSE}


def changed(**changes: object) -> Workload:
    return msgspec.structs.replace(QUICK, **changes)


@pytest.mark.parametrize("size", [20, 300, 70_000])
def test_typed_calls_are_what_typed_clients_send(size: int) -> None:
    replica = FakeReplica()
    with server(replica.serve) as address:
        drive(changed(machine="command", size=size, reads=0.5), [address])
    commands = [request for kind, request in replica.requests if kind == wire.COMMAND]
    queries = [request for kind, request in replica.requests if kind == wire.QUERY]
    assert commands and queries
    for request in commands:
        value = request[-size:]
        key = request[6:22].decode()
        assert request == pack(("put", key, value))
    for request in queries:
        assert request == pack(("get", request[-16:].decode()))
    assert PythonKeyValue.put is not None


def test_a_broken_connection_is_taken_up_again_with_its_session() -> None:
    replica = FakeReplica()
    replica.hang_up_after = 50
    with server(replica.serve) as address:
        report = drive(changed(depth=2), [address])
    assert replica.wrong == []
    assert report.reconnections == 1
    assert report.writes.total == 200
    assert len(replica.windows) == 4, "no second session"


def test_what_is_refused_is_sent_again() -> None:
    replica = FakeReplica()
    replica.refuse_first = True
    with server(replica.serve) as address:
        report = drive(changed(), [address])
    assert report.refused == 1
    assert report.writes.total == 200
    assert replica.wrong == []


def test_an_open_loop_counts_from_when_a_request_was_due() -> None:
    """The server stalls once: requests that were due meanwhile show it, sent or not."""
    stalled = threading.Event()

    def stalling(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            if len(data) < 30_000 and not stalled.is_set() and entered.wait(0):
                stalled.set()
                release.wait(30)
            connection.sendall(data)

    entered, release = threading.Event(), threading.Event()
    threading.Timer(0.6, entered.set).start()
    threading.Timer(1.1, release.set).start()
    workload = Workload(
        protocol="echo", connections=1, depth=1, size=16, rate=1000, warm_up=0.0, duration=1.5
    )
    with server(stalling) as address:
        report = drive(workload, [address])
    assert report.writes.total == 1500, "what was due is asked for, however late"
    late = sum(count for value, count in report.writes.buckets if value > 100e6)
    # 500 ms without an answer at 1000 a second: a closed loop would have seen one late request.
    assert stalled.is_set()
    assert late > 100
    assert any(length > 200e6 for _, length in report.stalls)


def test_the_zipfian_distribution_is_skewed_and_stays_in_range() -> None:
    counts: dict[bytes, int] = {}
    replica = FakeReplica()
    with server(replica.serve) as address:
        drive(changed(distribution="zipfian", keys=1000, count=4000), [address])
    for kind, request in replica.requests:
        if kind == wire.COMMAND:
            counts[request[5:21]] = counts.get(request[5:21], 0) + 1
    assert all(int(key[1:]) < 1000 for key in counts)
    hottest = sorted(counts.values(), reverse=True)
    # Theory for theta 0.99, 1000 keys: 13 % of all for the first rank.
    assert 0.09 < hottest[0] / 4000 < 0.18


def test_a_sequential_run_names_every_key_once() -> None:
    replica = FakeReplica()
    with server(replica.serve) as address:
        drive(changed(distribution="sequential", keys=200, threads=2), [address])
    keys = [request[5:21] for kind, request in replica.requests if kind == wire.COMMAND]
    assert sorted(keys) == [b"k%015d" % n for n in range(200)]


def test_nonsense_ends_the_run_with_one_line() -> None:
    def nonsense(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.recv(65536)

    with server(nonsense) as address, pytest.raises(LoadFailed, match="nonsense"):
        drive(changed(), [address])
    with pytest.raises(LoadFailed, match="refused"):
        drive(changed(), ["127.0.0.1:1"])
    with pytest.raises(ConfigError, match="--depth"):
        drive(changed(protocol="jpaxos", depth=2), ["127.0.0.1:1"])


def test_a_replica_that_takes_no_clients_is_quoted() -> None:
    def refusing(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(wire.frame(wire.BYE, b"no quorum: try another replica"))

    with server(refusing) as address, pytest.raises(LoadFailed, match="no quorum"):
        drive(changed(), [address])


def test_a_dead_replica_among_others_is_passed_over() -> None:
    """Its connections go to the next address, also when nobody listens at the one after."""
    replica = FakeReplica()
    replica.hang_up_after = 20
    with server(replica.serve) as address:
        # Who loses the first goes to the second, where nobody is, and then back.
        with socket.create_server(("127.0.0.1", 0)) as gone:
            nobody = f"127.0.0.1:{gone.getsockname()[1]}"
        report = drive(changed(connections=1), [address, nobody])
    assert report.writes.total == 200
    assert report.reconnections == 2
    assert replica.wrong == []


def test_the_program_refuses_what_it_does_not_know() -> None:
    for words in (["--nonsense", "1"], ["--depth", "0"], ["--address", "x"], ["--depth"], []):
        done = subprocess.run(
            [str(find_program()), *words], capture_output=True, timeout=30, check=False
        )
        assert done.returncode == 1
        assert done.stdout.startswith(b'{"event":"failure"')


def test_measure_counts_rate_and_client() -> None:
    workload = Workload(protocol="echo", connections=2, size=8, warm_up=0.05, duration=0.4)
    with server(echo) as address:
        outcome = measure(Target(addresses=[address], text="echo"), workload)
    assert outcome.requests > 0
    assert outcome.throughput == pytest.approx(outcome.requests / 0.4)
    assert outcome.latency is not None and outcome.latency.count == outcome.requests
    assert 0 < outcome.client_share <= 1.5


# ------------------------------------------------------------------ percentiles


def test_percentiles_are_those_of_the_values() -> None:
    values = [random.Random(1).lognormvariate(11, 1) for _ in range(20_000)]
    buckets = [(int(value), 1) for value in sorted(values)]
    raw = RawHistogram(len(buckets), max(v for v, _ in buckets), math.fsum(values), buckets)
    found = percentiles.summarise(raw)
    assert found is not None
    ordered = sorted(values)
    for percentile, value in ((50, found.p50), (90, found.p90), (99, found.p99)):
        assert value * 1000 == pytest.approx(ordered[20_000 * percentile // 100 - 1], rel=0.005)
    assert found.maximum * 1000 == int(ordered[-1])
    assert found.p999 <= found.maximum
    points = percentiles.distribution(found)
    assert points[0][0] == 0 and points[-1][0] > 99.99
    assert [y for _, y in points] == sorted(y for _, y in points)


def test_nothing_has_no_percentiles() -> None:
    assert percentiles.summarise(RawHistogram()) is None


# ------------------------------------------------------------------ /proc


def test_stat_of_a_process_with_an_evil_name() -> None:
    text = "42 (a) b (c)) S 1 2 3 4 5 6 100 0 7 0 250 50 0 0 20 0 1 0 0"
    assert usage.parse_stat(text, 100) == (3.0, 100, 7)


def test_this_process_uses_the_machine() -> None:
    before = usage.sample(os.getpid())
    sum(i * i for i in range(2_000_000))
    after = usage.sample(os.getpid())
    assert before is not None and after is not None
    assert after.since(before).processor >= 0
    assert usage.sample(2**30) is None
    assert usage.available_memory() > 0


def test_the_process_behind_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert usage.listening_pid(port) == os.getpid()
    assert usage.listening_pid(port) is None


# ------------------------------------------------------------------ profiles

KERNEL = "([kernel.kallsyms])"
NATIVE = "(/x/src/mpaxos/_native.cpython-311-x86_64-linux-gnu.so)"

SCRIPT = f"""
\tffff1 tcp_ack+0x10 {KERNEL}
\tffff2 __x64_sys_sendto+0x26 {KERNEL}
\t  d54 __send+0x7 (/usr/lib/x86_64-linux-gnu/libc.so.6)

\t  d55 mpaxos::Tree::branch_at(unsigned long) const+0x7 {NATIVE}

\t  d56 _PyEval_EvalFrameDefault+0x7 (/usr/bin/python3.11)

\t  d57 __memmove_avx_unaligned_erms+0x7 (/usr/lib/x86_64-linux-gnu/libc.so.6)
\t  d58 mpaxos::ClientConnection::on_requests(std::string_view)+0x1 {NATIVE}

\t  d59 [unknown] (/usr/lib/x86_64-linux-gnu/libpmem.so.1.0.0)
\t  d60 mpaxos::Log::append()+0x1 {NATIVE}

\tffff3 exc_page_fault+0x10 {KERNEL}
\t  d61 something {NATIVE}
"""


def test_samples_are_sorted_by_what_they_serve() -> None:
    found = hotspots.classify(hotspots.chains(SCRIPT.splitlines()))
    assert found.samples == 6
    groups = {name for name, share in found.groups.items() if share}
    assert groups == {"socket: send", "apply", "Python step", "parsing", "store", "kernel: other"}
    assert sum(found.groups.values()) == pytest.approx(1)
    names = [(group, name) for group, name, _ in found.functions]
    assert ("store", "[unknown] in libpmem.so.1.0.0") in names


def test_a_profile_of_nothing_is_none() -> None:
    if hotspots.why_not() is not None:
        pytest.skip("perf cannot observe here")
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    profile = hotspots.Profile(process.pid)
    profile.start(0.1)
    assert profile.finish() is None


# ------------------------------------------------------------------ clusters and sweeps


@pytest.mark.parametrize("name", grow.SWEEPS)
def test_every_stage_of_a_sweep_has_a_cluster_file_that_is_accepted(
    name: str, tmp_path: Path
) -> None:
    for number, stage in enumerate(grow.SWEEPS[name].stages(Workload())):
        assert stage.points
        largest = max(stage.points, key=lambda point: point.workload.size).workload
        settings = cluster.settings_for(largest, stage.settings)
        config = config_with(tmp_path / f"{number}.toml", stage.replicas, settings)
        for point in stage.points:
            point.workload.check()
            assert config.limits.max_request > point.workload.size + 100
            needed = point.workload.keys * (64 + 16 + point.workload.size)
            assert config.state_limit >= needed


def config_with(path: Path, replicas: int, settings: dict[str, str]) -> ClusterConfig:
    path.write_text(example("bench", replicas=replicas))
    return load(path, settings)


def test_targets() -> None:
    assert cluster.parse_target("leader", 3) == -1
    assert cluster.parse_target("spread", 3) is None
    assert cluster.parse_target("replica 2", 3) == 2
    assert cluster.parse_target("0", 3) == 0
    for text in ("3", "nobody", "replica", "-1"):
        with pytest.raises(ConfigError, match="--target"):
            cluster.parse_target(text, 3)


def test_pools_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(cluster.NoRoom, match="--pool-dir"),
        cluster.pool_directory(tmp_path, 1 << 60),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
    with cluster.pool_directory(tmp_path, 1) as directory:
        assert directory.is_dir()
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ what is shown


def outcome(**changes: object) -> Measurement:
    raw = RawHistogram(3, 3000, 6000.0, [(1000, 1), (2000, 1), (3000, 1)])
    latency = percentiles.summarise(raw)
    values: dict[str, object] = {
        "target": "somewhere",
        "workload": Workload(),
        "seconds": 1.0,
        "requests": 3,
        "throughput": 3.0,
        "latency": latency,
        "reads": None,
        "writes": latency,
        "client_per_request": 5.0,
        "client_share": 0.5,
    }
    return Measurement(**(values | changes))  # type: ignore[arg-type]


def test_warnings() -> None:
    assert warnings_of(outcome()) == []
    assert "load generator used 95 %" in warnings_of(outcome(client_share=0.95))[0]
    open_loop = outcome(workload=Workload(rate=100.0))
    assert "answered 3 of 100" in warnings_of(open_loop)[0]
    assert "2 requests failed" in warnings_of(outcome(errors={"no space": 2}))[0]
    assert "not answered" in warnings_of(outcome(unanswered=1))[0]


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    use = ServerUse(
        name="replica 0",
        role="leader",
        share=0.5,
        per_request=7.25,
        minor_faults=0,
        major_faults=0,
        preemptions=0,
    )
    shown = outcome(servers=[use], stalls=[(0.5, 12.0)])
    print_measurement(shown, sys.stdout)
    text = capsys.readouterr().out
    for part in ("p99.9", "replica 0, leader 7.25 us", "12 ms", "3 requests/s", "100 connections"):
        assert part in text
    assert "open loop" in describe(outcome(workload=Workload(rate=1.0)))
    assert [microseconds(v) for v in (None, 1.5, 150.0, 1500.0)] == [
        "-",
        "1.50 us",
        "150 us",
        "1.50 ms",
    ]
    assert markdown(["a", "b"], [["1", "2"]]).splitlines()[1] == "|---|---:|"


def test_plots_are_svg_and_the_same_each_time(tmp_path: Path) -> None:
    rows = [
        grow.Row(point=grow.Point(x=x, label=str(x), workload=Workload()), outcome=outcome())
        for x in (1, 10, 100)
    ]
    rows.append(
        grow.Row(point=grow.Point(x=1000, label="x", workload=Workload()), skipped="no room")
    )
    plot = grow.plot_of(grow.SWEEPS["connections"], rows)
    for name in ("a.svg", "b.svg"):
        plots.draw(plot, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
    plots.draw_latency([("one", outcome())], tmp_path / "c.svg")
    assert b"<svg" in (tmp_path / "c.svg").read_bytes()
    with pytest.raises(ConfigError, match="--plot"):
        plots.draw(plot, tmp_path / "none" / "a.svg")
    assert "skipped: no room" in grow.table_rows(rows)[3]
