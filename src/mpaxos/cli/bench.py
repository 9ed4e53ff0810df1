"""`mpaxos bench`: how fast a cluster is."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpaxos.cli.errors import OK
from mpaxos.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpaxos.bench.grow import Row
    from mpaxos.bench.load import Workload
    from mpaxos.bench.measure import Measurement, Target

Cluster = Annotated[
    Path | None, typer.Option("--cluster", "-c", envvar="MPAXOS_CLUSTER", help="The cluster file.")
]
Addresses = Annotated[
    str | None,
    typer.Option("--address", "-a", help="Client ports of all replicas, host:port,..."),
]
Replicas = Annotated[int, typer.Option(help="Of the cluster that is started.")]
Machine = Annotated[
    str, typer.Option(help="kv: native service; python: the same as a Python class.")
]
PoolDir = Annotated[Path | None, typer.Option(help="Where its pools go.", show_default="/dev/shm")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A setting of it; repeatable.")]
Where = Annotated[
    str, typer.Option(help="Where clients connect: leader, spread, or a replica's number.")
]
Protocol = Annotated[str, typer.Option(help="native or jpaxos.")]
Connections = Annotated[int, typer.Option(help="Clients.")]
Depth = Annotated[int, typer.Option(help="Requests in flight per connection.")]
Size = Annotated[int, typer.Option(help="Bytes of a value.")]
Keys = Annotated[int, typer.Option(help="How many different ones.")]
Reads = Annotated[float, typer.Option(help="Share of gets, 0 to 1.")]
Distribution = Annotated[str, typer.Option(help="uniform or zipfian.")]
Theta = Annotated[float, typer.Option(help="Skew of zipfian, as in YCSB.")]
Rate = Annotated[float, typer.Option(help="Requests/s of an open loop; 0: closed loop.")]
Duration = Annotated[float, typer.Option(help="Seconds that are measured.")]
WarmUp = Annotated[float, typer.Option(help="Seconds before, not measured.")]
Threads = Annotated[int, typer.Option(help="Of the load generator.")]
Seed = Annotated[int, typer.Option(help="Of keys and reads.")]
SweepName = Annotated[
    str | None, typer.Option(help="connections, size, window, batch, replicas, state or latency.")
]
PlotFile = Annotated[Path | None, typer.Option(help="Write an SVG file.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def bench(
    cluster: Cluster = None,
    address: Addresses = None,
    replicas: Replicas = 3,
    machine: Machine = "kv",
    pool_dir: PoolDir = None,
    setting: Settings = None,
    target: Where = "leader",
    protocol: Protocol = "native",
    connections: Connections = 100,
    depth: Depth = 1,
    size: Size = 128,
    keys: Keys = 1000,
    reads: Reads = 0.0,
    distribution: Distribution = "uniform",
    theta: Theta = 0.99,
    rate: Rate = 0.0,
    duration: Duration = 10.0,
    warm_up: WarmUp = 2.0,
    threads: Threads = 1,
    seed: Seed = 1,
    sweep: SweepName = None,
    plot: PlotFile = None,
    as_json: Json = False,
) -> None:
    """Measure throughput and latency of a cluster, and what a request costs.

    mpaxos bench                                three local replicas in memory\n
    mpaxos bench -c cluster.toml --reads 0.9    a running cluster\n
    mpaxos bench --rate 50000 --plot lat.svg    open loop: latency at a rate\n
    mpaxos bench --connections 10 --depth 50    few clients that pipeline\n
    mpaxos bench --sweep connections            how it grows, table and plot

    In a closed loop a client asks again when it has its answer: that finds the maximum. In an \
open loop (--rate) requests are due at fixed times, and latency counts from when a request was \
due: so a stall is seen by all the requests it delayed (no coordinated omission).

    A running cluster must run mpaxos.services.kv:KeyValue, or with --machine python \
mpaxos.bench.services:PythonKeyValue; the keys written to it are "k" and 15 digits.

    Processor times are shown for replicas on this machine. When the load generator itself takes \
over 90 % of a core, that is said: then it may be what was measured.
    """
    from mpaxos.bench.load import Workload

    _check_words(protocol, machine)
    workload = Workload(
        protocol=protocol,
        machine="kv" if machine == "kv" else "command",
        connections=connections,
        depth=depth,
        size=size,
        keys=keys,
        reads=reads,
        distribution=distribution,
        theta=theta,
        rate=rate,
        duration=duration,
        warm_up=warm_up,
        threads=threads,
        seed=seed,
    )
    workload.check()
    _check_libraries(plot)
    running = _Running(cluster, address, replicas, pool_dir, setting or [], machine)
    with _sigterm_as_interrupt():
        if sweep is not None:
            raise typer.Exit(_sweep(sweep, workload, running, target, plot, as_json=as_json))
        raise typer.Exit(_single(workload, running, target, plot, as_json=as_json))


def _check_words(protocol: str, machine: str) -> None:
    if protocol not in ("native", "jpaxos"):
        raise ConfigError(f"--protocol {protocol}: native or jpaxos")
    if machine not in ("kv", "python"):
        raise ConfigError(f"--machine {machine}: kv or python")
    if machine == "python" and protocol == "jpaxos":
        raise ConfigError("--machine python has typed methods: JPaxos clients cannot call them")


def _check_libraries(plot: Path | None) -> None:
    """Complain before the run rather than after it."""
    from mpaxos.bench import percentiles, plots

    percentiles.library()
    if plot is not None:
        plots.check_library()


class _Running:
    """Where the cluster comes from."""

    def __init__(
        self,
        cluster: Path | None,
        address: str | None,
        replicas: int,
        pool_dir: Path | None,
        settings: list[str],
        machine: str,
    ) -> None:
        from mpaxos.bench.services import PYTHON
        from mpaxos.cli.serve import parse_overrides
        from mpaxos.local import KV

        self.cluster = cluster
        self.address = address
        self.replicas = replicas
        self.pool_dir = pool_dir
        self.settings = parse_overrides(settings)
        self.service = KV if machine == "kv" else PYTHON

    @property
    def exists(self) -> bool:
        return self.cluster is not None or self.address is not None

    @contextmanager
    def target(self, workload: Workload, target: str) -> Iterator[Target]:
        """The servers, for as long as they are needed."""
        from mpaxos.bench import cluster as clusters

        if self.exists:
            yield self._existing(workload, target)
            return
        with clusters.started(
            workload,
            replicas=self.replicas,
            service=self.service,
            parent=self.pool_dir,
            settings=self.settings,
        ) as started:
            yield clusters.find_in(started, workload, target)

    def _existing(self, workload: Workload, target: str) -> Target:
        from mpaxos.bench import cluster as clusters
        from mpaxos.config import load

        if self.address is not None:
            addresses = [text.strip() for text in self.address.split(",")]
            return clusters.find(addresses, workload, target)
        if self.cluster is None:
            raise ConfigError("give --cluster or --address")
        config = load(self.cluster, environ=os.environ)
        jpaxos = [entry.jpaxos for entry in config.replicas if entry.jpaxos is not None]
        complete = jpaxos if len(jpaxos) == len(config.replicas) else None
        return clusters.find(config.client_addresses(), workload, target, complete)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end us as Ctrl-C does: with clean-up of pools and processes."""

    def interrupt(sign: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {sign: signal.signal(sign, interrupt) for sign in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _single(
    workload: Workload, running: _Running, target: str, plot: Path | None, *, as_json: bool
) -> int:
    from mpaxos.bench import plots
    from mpaxos.bench.measure import measure
    from mpaxos.bench.show import make_show, print_measurement

    with make_show() as show, running.target(workload, target) as where:
        outcome = measure(where, workload, show=show)
    if as_json:
        _print_json(outcome)
    else:
        print_measurement(outcome, sys.stdout)
    if plot is not None:
        plots.draw_latency([(outcome.target, outcome)], plot)
    return OK


def _print_json(document: Measurement | list[Row]) -> None:
    import msgspec

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    sys.stdout.buffer.flush()


def _sweep(
    name: str,
    workload: Workload,
    running: _Running,
    target: str,
    plot: Path | None,
    *,
    as_json: bool,
) -> int:
    from mpaxos.bench import grow, plots
    from mpaxos.bench.show import make_show, print_rows

    sweep = grow.find_sweep(name)
    if running.exists:
        raise ConfigError("--sweep starts clusters of its own: without --cluster and --address")
    with make_show() as show:
        rows = grow.run_sweep(
            sweep,
            workload,
            target=target,
            parent=running.pool_dir,
            service=running.service,
            settings=running.settings,
            show=show,
        )
    if as_json:
        _print_json(rows)
    else:
        print_rows(sweep.title, (sweep.x, *grow.HEAD), grow.table_rows(rows), sys.stdout)
    if plot is not None:
        plots.draw(grow.plot_of(sweep, rows), plot)
    return OK
