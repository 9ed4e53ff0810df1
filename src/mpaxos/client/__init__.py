"""Clients of a cluster: `connect` for asyncio, `connect_blocking` for everything else."""

from __future__ import annotations

from typing import TypeVar, overload

from mpaxos.client.aio import AsyncClient
from mpaxos.client.blocking import Client
from mpaxos.client.options import Addresses, Options
from mpaxos.client.proxy import AsyncMachine, Machine
from mpaxos.client.stats import Stats
from mpaxos.machine.declare import StateMachine

__all__ = [
    "AsyncClient",
    "AsyncMachine",
    "Client",
    "Machine",
    "Options",
    "Stats",
    "connect",
    "connect_blocking",
]

M = TypeVar("M", bound=StateMachine)


@overload
def connect(
    addresses: Addresses,
    machine: None = None,
    *,
    deadline: float = 10.0,
    window: int = 256,
    stall_timeout: float = 2.0,
) -> AsyncClient: ...
@overload
def connect(
    addresses: Addresses,
    machine: type[M],
    *,
    deadline: float = 10.0,
    window: int = 256,
    stall_timeout: float = 2.0,
) -> AsyncMachine[M]: ...
def connect(
    addresses: Addresses,
    machine: type[M] | None = None,
    *,
    deadline: float = 10.0,
    window: int = 256,
    stall_timeout: float = 2.0,
) -> AsyncClient | AsyncMachine[M]:
    """A client for asyncio; use it with `async with`, which waits until a session is open.

    Args:
        addresses: client ports of the replicas, "host:port,host:port" or a list; any subset will
            do, and another is tried when one fails.
        machine: the StateMachine class that the cluster runs: the client has its methods. Without
            it the client speaks bytes: `call`, `query`, `submit`.
        deadline: seconds a call may take.
        window: requests in flight, 1 to 1024; further calls wait for their turn.
        stall_timeout: seconds of silence after which another replica is tried.

    Raises ConfigError.
    """
    options = Options(deadline=deadline, window=window, stall_timeout=stall_timeout)
    if machine is None:
        return AsyncClient(addresses, options)
    return AsyncMachine(addresses, machine, options)


@overload
def connect_blocking(
    addresses: Addresses,
    machine: None = None,
    *,
    deadline: float = 10.0,
    window: int = 256,
    stall_timeout: float = 2.0,
) -> Client: ...
@overload
def connect_blocking(
    addresses: Addresses,
    machine: type[M],
    *,
    deadline: float = 10.0,
    window: int = 256,
    stall_timeout: float = 2.0,
) -> Machine[M]: ...
def connect_blocking(
    addresses: Addresses,
    machine: type[M] | None = None,
    *,
    deadline: float = 10.0,
    window: int = 256,
    stall_timeout: float = 2.0,
) -> Client | Machine[M]:
    """The blocking twin of `connect`; use it with `with`. The arguments mean the same."""
    options = Options(deadline=deadline, window=window, stall_timeout=stall_timeout)
    if machine is None:
        return Client(addresses, options)
    return Machine(addresses, machine, options)
