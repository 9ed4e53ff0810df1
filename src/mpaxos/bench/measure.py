"""One measurement: a workload, put on servers, and what it cost them."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from mpaxos.bench.load import LoadReport, Workload, drive
from mpaxos.bench.percentiles import Latency, summarise
from mpaxos.bench.usage import Sample, sample

BUSY = 0.9
"""Share of a core from which the load generator may be what limits a measurement."""


class Server(msgspec.Struct, frozen=True):
    """A process that serves, on this machine."""

    name: str
    """As it is called in tables: "replica 0"."""
    role: str
    """leader, follower, or server."""
    pid: int


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where the load goes."""

    addresses: list[str]
    """host:port; connections are spread over them in turn."""
    servers: list[Server] = []
    """Whose processor time is measured; none when they run elsewhere."""
    text: str = ""
    """What this is, for people."""


class ServerUse(msgspec.Struct, frozen=True, kw_only=True):
    """What a server used while it was measured."""

    name: str
    role: str
    share: float
    """Of one core."""
    per_request: float
    """Microseconds of processor time per request of the whole run."""
    minor_faults: int
    major_faults: int
    preemptions: int
    waited: float = 0.0
    """Share of the measured time in which it could have run and no processor was free."""


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome. Times in microseconds unless said otherwise."""

    target: str
    workload: Workload
    seconds: float
    """Measured time, without warm-up."""
    requests: int
    throughput: float
    """Requests answered per second."""
    latency: Latency | None
    """Of all requests; None when there were none."""
    reads: Latency | None
    writes: Latency | None
    client_per_request: float
    """Processor time of the load generator per request."""
    client_share: float
    """Of one core, its busiest thread."""
    servers: list[ServerUse] = []
    errors: dict[str, int] = {}
    refused: int = 0
    reconnections: int = 0
    unanswered: int = 0
    lag: float = 0.0
    stalls: list[tuple[float, float]] = []
    """(seconds since the beginning, milliseconds) without any answer, above 10 ms."""
    warnings: list[str] = []

    def of_role(self, role: str) -> float | None:
        """Processor time per request of the servers of a role together; None without any."""
        found = [server.per_request for server in self.servers if server.role == role]
        return sum(found) if found else None

    @property
    def all_servers(self) -> float | None:
        """Processor time per request of all servers together; None without any."""
        return sum(server.per_request for server in self.servers) if self.servers else None


class Show:
    """Told what goes on; this one keeps silent."""

    def begin(self, what: str, seconds: float) -> None:
        """A measurement begins that takes about so long, warm-up included."""

    def progress(self, done: float, rate: float) -> None:
        """Seconds since it began; answers per second of late."""

    def end(self) -> None:
        """It is over."""


class _Watch:
    """Samples the servers at the two ends of the measured time, and tells the progress."""

    def __init__(self, servers: list[Server], show: Show) -> None:
        self._servers = servers
        self._show = show
        self._before: dict[int, Sample] = {}
        self._after: dict[int, Sample] = {}
        self._times = [0.0, 0.0]
        self._began = time.monotonic()
        self._answers = [(self._began, 0)]

    def measure(self) -> None:
        self._times[0] = time.monotonic()
        self._before = self._samples()

    def measured(self) -> None:
        self._times[1] = time.monotonic()
        self._after = self._samples()

    def progress(self, answers: int) -> None:
        now = time.monotonic()
        self._answers.append((now, answers))
        # Over a second: single steps jump with every pause of the machine.
        (then, before), *_ = self._answers[-5:]
        rate = (answers - before) / max(1e-6, now - then)
        self._show.progress(now - self._began, rate)

    def _samples(self) -> dict[int, Sample]:
        taken = {server.pid: sample(server.pid) for server in self._servers}
        return {pid: found for pid, found in taken.items() if found is not None}

    def uses(self, rate: float) -> list[ServerUse]:
        seconds = max(1e-6, self._times[1] - self._times[0])
        found = []
        for server in self._servers:
            before, after = self._before.get(server.pid), self._after.get(server.pid)
            if before is None or after is None:
                continue
            used = after.since(before)
            found.append(
                ServerUse(
                    name=server.name,
                    role=server.role,
                    share=used.processor / seconds,
                    per_request=used.processor / seconds / max(1e-9, rate) * 1e6,
                    minor_faults=used.minor_faults,
                    major_faults=used.major_faults,
                    preemptions=used.preemptions,
                    waited=used.waited / seconds,
                )
            )
        return found


def measure(
    target: Target,
    workload: Workload,
    *,
    show: Show | None = None,
    begun: Callable[[], None] = lambda: None,
) -> Measurement:
    """Put a workload on a target. `begun` is called when warm-up is over: what is to be observed
    besides (a profiler) starts there. Raises LoadFailed, ConfigError."""
    show = show or Show()
    watch = _Watch(target.servers, show)

    def start() -> None:
        watch.measure()
        begun()

    show.begin(target.text, workload.warm_up + workload.duration)
    try:
        report = drive(
            workload,
            target.addresses,
            on_measure=start,
            on_measured=watch.measured,
            on_progress=watch.progress,
        )
    finally:
        show.end()
    return _outcome(target, workload, report, watch)


def _outcome(target: Target, workload: Workload, report: LoadReport, watch: _Watch) -> Measurement:
    requests = report.reads.total + report.writes.total - report.unanswered
    counted = workload.count > 0
    # An open loop's answers may come long after the last request was due.
    late = report.until_last_answer if counted or workload.rate > 0 else 0
    nanoseconds = late if counted else max(report.planned, late)
    seconds = max(1e-9, nanoseconds / 1e9)
    measured = seconds if counted else report.planned / 1e9
    rate = requests / seconds
    outcome = Measurement(
        target=target.text,
        workload=workload,
        seconds=seconds,
        requests=requests,
        throughput=rate,
        latency=summarise(report.reads, report.writes),
        reads=summarise(report.reads),
        writes=summarise(report.writes),
        client_per_request=report.processor / 1000 / max(1, requests),
        client_share=report.busiest / 1e9 / measured,
        servers=watch.uses(rate),
        errors=report.errors,
        refused=report.refused,
        reconnections=report.reconnections,
        unanswered=report.unanswered,
        lag=report.lag / 1000,
        stalls=[(at / 1e9, length / 1e6) for at, length in report.stalls],
    )
    return msgspec.structs.replace(outcome, warnings=warnings_of(outcome))


def warnings_of(outcome: Measurement) -> list[str]:
    """What one should know before believing the numbers."""
    texts = []
    if outcome.client_share > BUSY:
        threads = outcome.workload.threads
        texts.append(
            f"the load generator used {100 * outcome.client_share:.0f} % of a core: it may be the "
            f"limit, not the cluster; try --threads {threads + 1} where there are cores to spare"
        )
    if outcome.workload.rate > 0 and outcome.throughput < 0.98 * outcome.workload.rate:
        texts.append(
            f"the cluster answered {outcome.throughput:,.0f} of {outcome.workload.rate:,.0f} "
            "requests per second: above its maximum, latency only tells how long one waited"
        )
    if outcome.workload.rate > 0 and outcome.lag > 10_000:
        texts.append(
            f"the load generator was up to {outcome.lag / 1000:.0f} ms late in sending: it did not "
            "get the processor in time, and latencies include that"
        )
    failed = sum(outcome.errors.values())
    if failed:
        text, count = max(outcome.errors.items(), key=lambda item: item[1])
        texts.append(f"{failed:,} requests failed, {count:,} of them with: {text}")
    if outcome.unanswered:
        texts.append(f"{outcome.unanswered:,} requests were not answered in time")
    if outcome.reconnections:
        texts.append(f"{outcome.reconnections:,} connections broke and were taken up again")
    return texts
