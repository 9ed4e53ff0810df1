"""The `mpaxos` command: its subcommands, arguments and help. What they do is in their modules."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated

import typer

from mpaxos.cli import kv
from mpaxos.cli.bench import bench
from mpaxos.cli.errors import report
from mpaxos.compiled import RUNS
from mpaxos.config import ClusterConfig, example, from_dict, load
from mpaxos.config.durability import SURVIVES
from mpaxos.config.files import small_pages
from mpaxos.errors import ConfigError, InvariantViolated, MpaxosError
from mpaxos.version import __version__

EPILOG = (
    "First steps: [bold]mpaxos dev[/bold], and in another terminal "
    "[bold]mpaxos kv put greeting hello[/bold], then [bold]mpaxos status[/bold]."
    "\n\n"
    "A real cluster: [bold]mpaxos cluster new cluster.toml[/bold], edit it, and on the machine "
    "of each replica N, once, [bold]mpaxos init -c cluster.toml -r N[/bold], then "
    "[bold]mpaxos serve -c cluster.toml -r N[/bold]. "
    "Watch it with [bold]mpaxos status -c cluster.toml --watch[/bold]."
)

app = typer.Typer(
    name="mpaxos",
    help="Highly available services by state machine replication.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
cluster_app = typer.Typer(help="Cluster files.", no_args_is_help=True)
app.add_typer(cluster_app, name="cluster")
app.add_typer(kv.app, name="kv")
app.command()(bench)

ClusterOption = Annotated[
    Path, typer.Option("--cluster", "-c", envvar="MPAXOS_CLUSTER", help="The cluster file.")
]
MaybeCluster = Annotated[
    Path | None, typer.Option("--cluster", "-c", envvar="MPAXOS_CLUSTER", help="The cluster file.")
]
ReplicaOption = Annotated[
    int | None, typer.Option("--replica", "-r", envvar="MPAXOS_REPLICA", help="Its id: 0, 1, ...")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting over the file's, e.g. --set pool.size=1GiB; repeatable."),
]


def run() -> int:
    """Run the command line in sys.argv; returns the exit status."""
    try:
        app()
    except (MpaxosError, InvariantViolated) as error:
        return report(error)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


def _load(path: Path, settings: list[str] | None) -> ClusterConfig:
    from mpaxos.cli.serve import parse_overrides

    return load(path, parse_overrides(settings or []), os.environ)


@cluster_app.command("new")
def cluster_new(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("cluster.toml"),
    name: Annotated[str, typer.Option(help="What to call the cluster.")] = "demo",
    replicas: Annotated[int, typer.Option(help="1, 3, 5 or 7.")] = 3,
    service: Annotated[str, typer.Option(help="module:Class")] = "mpaxos.services.kv:KeyValue",
    durability: Annotated[
        str, typer.Option(help="pmem, disk, view, epoch or none: see docs/durability.md.")
    ] = "pmem",
    machine: Annotated[
        str | None,
        typer.Option(help="persistent (with pmem only) or volatile; default: what suits."),
    ] = None,
) -> None:
    """Write an example cluster file with a fresh cluster id.

    mpaxos cluster new cluster.toml --name bank --service bank:Bank

    mpaxos cluster new cluster.toml --durability disk
    """
    text = example(name, replicas=replicas, service=service, durability=durability, machine=machine)
    from_dict(tomllib.loads(text), where="arguments")
    try:
        with file.open("x") as output:
            output.write(text)
    except FileExistsError:
        raise ConfigError(f"{file} exists already; it is left as it is") from None
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    print(f"wrote {file}; edit addresses and directories, then: mpaxos init -c {file} --all")


@app.command()
def init(
    cluster: ClusterOption,
    replica: ReplicaOption = None,
    all_replicas: Annotated[bool, typer.Option("--all", help="All replicas: on one host.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="For a replica whose data is lost for good.")
    ] = False,
    setting: SetOption = None,
) -> None:
    """Make the data of a replica, as its durability asks, and a marker of cluster and replica.

    Done once in the life of a replica, before its first `serve`. What exists is never touched: a
    replica that lost its data must not come back empty under its id (the others would notice and
    refuse it). Room for the log, and for
    the state where it is persistent, is reserved now: a full device shows here and not later.

    mpaxos init -c cluster.toml --replica 0

    With --replace it makes a replica that takes the place of one whose data is lost (a wiped
    machine, a broken device). A majority of the others, the leader among them, must be up when it
    is started: it first learns from them what it may have voted for, and gets their state. The old
    data must be gone for good: never start the old replica again.

    mpaxos init -c cluster.toml --replica 2 --replace
    """
    config = _load(cluster, setting)
    if replace and replica is None:
        raise ConfigError("init --replace: give --replica N, one at a time")
    if replace:
        from mpaxos.cli.storage import replace as replace_replica

        replace_replica(config, replica or 0)
        print(f"replica {replica}: {config.directory(replica or 0)} is ready; start it")
        _advise(config, replica or 0)
        return
    if all_replicas == (replica is not None):
        raise ConfigError("init: give either --replica N or --all")
    from mpaxos.cli.storage import initialise

    numbers = [entry.id for entry in config.replicas] if replica is None else [replica]
    for number in numbers:
        initialise(config, number)
        print(
            f"replica {number}: {config.directory(number)} is ready (durability "
            f"{config.durability}, {config.machine} machine: {SURVIVES[config.durability]})"
        )
    _advise(config, numbers[0])


def _advise(config: ClusterConfig, replica: int) -> None:
    """What would make a replica with this data faster, if anything."""
    if config.machine != "persistent":
        return
    from mpaxos.storage.pmem import gives_large_pages

    directory = config.directory(replica)
    advice = small_pages(directory, config.pool.size)
    if advice is not None and not gives_large_pages(directory):
        print(f"note: {advice}")


@app.command()
def serve(
    cluster: ClusterOption,
    replica: ReplicaOption = None,
    setting: SetOption = None,
) -> None:
    """Run one replica until SIGTERM or Ctrl-C.

    mpaxos serve -c cluster.toml --replica 0

    Settings: --set over the environment (MPAXOS_POOL_SIZE=1GiB) over the file over defaults.
    Exit status: 2 for a wrong setting, 3 for the replica's storage, 1 for anything else.
    """
    # Only reached for --help: main() goes the short way to mpaxos.cli.serve.
    from mpaxos.cli.serve import serve_command

    words = ["--cluster", str(cluster)]
    words += [] if replica is None else ["--replica", str(replica)]
    for pair in setting or []:
        words += ["--set", pair]
    raise typer.Exit(serve_command(words))


@app.command()
def grow(
    cluster: ClusterOption,
    replica: Annotated[int, typer.Option("--replica", "-r", help="Its id: 0, 1, ...")],
    size: Annotated[str, typer.Option(help="Of the new pool, e.g. 2GiB.")],
    state_limit: Annotated[
        str | None, typer.Option(help="New limit of the state; default: as it was.")
    ] = None,
    setting: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Make the pool of a replica larger. The replica must not run.

    All of it is copied to a new pool, verified, and renamed: there must be room for both. A crash
    in between leaves the old one.

    Pools may grow one replica after the other while the cluster runs. The limit of the state
    decides which commands are refused, so it has to change on all of them at the same slot: stop
    the clients, wait until `mpaxos status` shows the same applied slot everywhere, stop all
    replicas, and grow each with the same --state-limit; then set limits.state_limit in the cluster
    file. docs/state-transfer.md has both step by step.

    mpaxos grow -c cluster.toml --replica 0 --size 2GiB
    """
    from mpaxos.cli import storage
    from mpaxos.config import parse_size

    config = _load(cluster, setting)
    limit = None if state_limit is None else parse_size(state_limit)
    storage.grow(config, replica, parse_size(size), limit, as_json=as_json)


@app.command()
def dev(
    service: Annotated[str, typer.Argument(help="module:Class")] = "mpaxos.services.kv:KeyValue",
    replicas: Annotated[int, typer.Option(help="1, 3, 5 or 7.")] = 3,
    pool_size: Annotated[str, typer.Option(help="Of each replica.")] = "256 MiB",
    durability: Annotated[str, typer.Option(help="pmem, disk, view, epoch or none.")] = "pmem",
    machine: Annotated[str | None, typer.Option(help="persistent or volatile.")] = None,
) -> None:
    """Run local replicas in the foreground, to try a service: nothing to set up, Ctrl-C ends it.

    mpaxos dev                 the key-value service\n
    mpaxos dev bank:Bank       class Bank of bank.py in this directory
    """
    from mpaxos.cli.dev import run_dev

    raise typer.Exit(run_dev(service, replicas, pool_size, durability, machine))


@app.command()
def status(
    cluster: MaybeCluster = None,
    address: Annotated[
        str | None,
        typer.Option("--address", "-a", envvar="MPAXOS_ADDRESS", help="host:port,host:port,..."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
) -> None:
    """Show every replica: role, ballot, positions, lag, clients, pool use.

    mpaxos status -c cluster.toml\n
    mpaxos status -a 127.0.0.1:3001,127.0.0.1:3002,127.0.0.1:3003 --json
    """
    from mpaxos.cli.status import show_status

    if cluster is not None:
        addresses = dict(enumerate(_load(cluster, None).client_addresses()))
    else:
        texts = (address or kv.DEFAULT_ADDRESSES).split(",")
        addresses = dict(enumerate(text.strip() for text in texts))
    raise typer.Exit(show_status(addresses, as_json=as_json, watch=watch))


@app.command()
def sim(
    seed: Annotated[int | None, typer.Option(help="The first seed; default 0.")] = None,
    count: Annotated[
        int | None, typer.Option(help="How many seeds; default 1 after --seed, else 1000.")
    ] = None,
    replicas: Annotated[
        int, typer.Option(help="1, 3, 5 or 7; 0: every third seed has 5, the others 3.")
    ] = 0,
    durability: Annotated[
        str, typer.Option(help="pmem, disk, view, epoch or none; default: each seed draws one.")
    ] = "",
    jobs: Annotated[int, typer.Option(help="Processes; 0: one per core.")] = 0,
    trace: Annotated[bool, typer.Option("--trace", help="Print every event of a run.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per seed.")] = False,
) -> None:
    """Run the protocol in a simulated world with faults; a seed replays exactly.

    The product's own protocol, loop and state machine run over a simulated network (loss,
    duplication, reordering, partitions), simulated storage (slow, full, dying between two writes,
    flipping bits) and clocks. With durability view and epoch a crashed replica has forgotten votes,
    with none it stays away; with pmem and disk some lose everything and are replaced. Safety is
    checked after every event; then everything is healed, and the cluster has to come back. The
    exit status is 1 when a seed failed.

    mpaxos sim --count 20000

    mpaxos sim --durability epoch --count 5000

    mpaxos sim --seed 4711 --trace
    """
    from mpaxos.cli.simulate import simulate

    count = count if count is not None else 1000 if seed is None else 1
    raise typer.Exit(
        simulate(
            seed or 0, count, replicas, jobs, durability=durability, trace=trace, as_json=as_json
        )
    )


@app.command()
def exhaustive(
    scope: Annotated[
        list[str] | None, typer.Option(help="A scope by name, again for more; default all.")
    ] = None,
    states: Annotated[int, typer.Option(help="Distinct states per scope, at most.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Of the order in which states are visited.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes; 0: one per core.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per scope.")] = False,
) -> None:
    """Search every run of small worlds: all orders of delivery, loss, duplication, crashes.

    The product's own protocol is run, not a model of it. A scope whose last column says "all" was
    searched to its end; "cut" means that the bound on states came first. The exit status is 1 when
    a promise was broken; then the steps that lead there are printed.

    mpaxos exhaustive --scope quick --scope crash
    """
    from mpaxos.cli.exhaustive import exhaustive as run_all
    from mpaxos.sim.exhaustive import SCOPES

    raise typer.Exit(run_all(scope or list(SCOPES), states, seed, jobs, as_json=as_json))


@app.command()
def version() -> None:
    """Print the version, and whether the protocol runs compiled or from its source."""
    print(f"mpaxos {__version__} ({RUNS})")
