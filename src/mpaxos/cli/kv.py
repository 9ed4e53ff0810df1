"""`mpaxos kv`: the key-value service by hand."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpaxos.cli.errors import FAILED
from mpaxos.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpaxos.services.kv import KeyValueClient

DEFAULT_ADDRESSES = "127.0.0.1:3001,127.0.0.1:3002,127.0.0.1:3003"
"""Where `mpaxos dev` listens when nothing else does."""

app = typer.Typer(
    help="Use the key-value service by hand. Finds it through --cluster, --address, or at the "
    f"ports of `mpaxos dev`: {DEFAULT_ADDRESSES}.",
    no_args_is_help=True,
)

Cluster = Annotated[
    Path | None, typer.Option("--cluster", "-c", envvar="MPAXOS_CLUSTER", help="The cluster file.")
]
Addresses = Annotated[
    str | None,
    typer.Option("--address", "-a", envvar="MPAXOS_ADDRESS", help="host:port,host:port,..."),
]
Deadline = Annotated[float, typer.Option(help="Seconds until the command gives up.")]
Key = Annotated[str, typer.Argument(help="Key.")]


@contextmanager
def _service(
    cluster: Path | None, address: str | None, deadline: float
) -> Iterator[KeyValueClient]:
    from mpaxos.client.options import Options
    from mpaxos.config import load
    from mpaxos.services.kv import KeyValueClient

    addresses: str | list[str] = address or DEFAULT_ADDRESSES
    if address is None and cluster is not None:
        addresses = load(cluster, environ=os.environ).client_addresses()
    with KeyValueClient(addresses, Options(deadline=deadline)) as client:
        yield client


def _bytes(text: str) -> bytes:
    """The value of an argument; "-" reads standard input."""
    return sys.stdin.buffer.read() if text == "-" else os.fsencode(text)


def _show(value: bytes) -> None:
    """Write a value; a newline follows only where people read it."""
    sys.stdout.buffer.write(value)
    if sys.stdout.isatty():
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


@app.command()
def get(
    key: Key, cluster: Cluster = None, address: Addresses = None, deadline: Deadline = 10.0
) -> None:
    """Print the value of KEY; exit status 1 when there is none.

    mpaxos kv get greeting
    """
    with _service(cluster, address, deadline) as service:
        value = service.get(os.fsencode(key))
    if value is None:
        print(f"mpaxos: there is no key {key!r}", file=sys.stderr)
        raise typer.Exit(FAILED)
    _show(value)


@app.command()
def put(
    key: Key,
    value: Annotated[str, typer.Argument(help="Value; - reads standard input.")],
    cluster: Cluster = None,
    address: Addresses = None,
    deadline: Deadline = 10.0,
) -> None:
    """Set KEY to VALUE.

    mpaxos kv put greeting hello\n
    mpaxos kv put picture - < picture.png
    """
    with _service(cluster, address, deadline) as service:
        service.put(os.fsencode(key), _bytes(value))


@app.command()
def delete(
    key: Key, cluster: Cluster = None, address: Addresses = None, deadline: Deadline = 10.0
) -> None:
    """Remove KEY; exit status 1 when it was not there."""
    with _service(cluster, address, deadline) as service:
        existed = service.delete(os.fsencode(key))
    raise typer.Exit(0 if existed else FAILED)


@app.command()
def cas(
    key: Key,
    expected: Annotated[
        str | None, typer.Option(help="Value it must have; none: no value.")
    ] = None,
    new: Annotated[str | None, typer.Option(help="Value to set; none: remove the key.")] = None,
    cluster: Cluster = None,
    address: Addresses = None,
    deadline: Deadline = 10.0,
) -> None:
    """Compare and set: change KEY only if it has the expected value; exit status 1 if not.

    mpaxos kv cas lock --new me             take it if it is free\n
    mpaxos kv cas lock --expected me        give it back
    """
    if expected is None and new is None:
        raise ConfigError("cas: give --expected, --new, or both")
    before = None if expected is None else _bytes(expected)
    after = None if new is None else _bytes(new)
    with _service(cluster, address, deadline) as service:
        swapped = service.compare_and_set(os.fsencode(key), before, after)
    print("changed" if swapped else "not changed: the value is another")
    raise typer.Exit(0 if swapped else FAILED)


@app.command()
def scan(
    prefix: Annotated[str, typer.Argument(help="Keys that begin with this.")] = "",
    limit: Annotated[int, typer.Option(help="Stop after so many; 0: none.")] = 0,
    keys: Annotated[bool, typer.Option("--keys", help="Keys only.")] = False,
    cluster: Cluster = None,
    address: Addresses = None,
    deadline: Deadline = 10.0,
) -> None:
    """Print keys and values, ascending: key, tab, value, one per line."""
    shown = 0
    with _service(cluster, address, deadline) as service:
        for key, value in service.scan(os.fsencode(prefix)):
            line = key if keys else key + b"\t" + value
            sys.stdout.buffer.write(line + b"\n")
            shown += 1
            if shown == limit:
                break


@app.command()
def size(cluster: Cluster = None, address: Addresses = None, deadline: Deadline = 10.0) -> None:
    """Print the number of keys."""
    with _service(cluster, address, deadline) as service:
        print(service.size())
