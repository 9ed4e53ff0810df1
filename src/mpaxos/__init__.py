"""mpaxos: highly available services by state machine replication.

    from mpaxos import StateMachine, command, query
    from mpaxos.containers import Dict

See StateMachine for writing a service, `connect` and `connect_blocking` for using one, and
mpaxos.errors for everything that can be raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpaxos.compiled import RUNS as RUNS  # before all others: it decides how they are loaded
from mpaxos.errors import (
    ClientError,
    CommandFailed,
    ConfigError,
    ConnectionFailed,
    MpaxosError,
    NoQuorum,
    NoSpace,
    OutcomeUnknown,
    Overloaded,
    RequestTooLarge,
    SessionExpired,
    StorageCorrupt,
    VersionMismatch,
)
from mpaxos.machine import BadRequest, Context, ReadOnly, StateMachine, command, query
from mpaxos.version import __version__

if TYPE_CHECKING:
    from mpaxos.client import AsyncClient, Client, Options, connect, connect_blocking

__all__ = [
    "AsyncClient",
    "BadRequest",
    "Client",
    "ClientError",
    "CommandFailed",
    "ConfigError",
    "ConnectionFailed",
    "Context",
    "MpaxosError",
    "NoQuorum",
    "NoSpace",
    "Options",
    "OutcomeUnknown",
    "Overloaded",
    "ReadOnly",
    "RequestTooLarge",
    "SessionExpired",
    "StateMachine",
    "StorageCorrupt",
    "VersionMismatch",
    "__version__",
    "command",
    "connect",
    "connect_blocking",
    "query",
]

_CLIENT = frozenset({"AsyncClient", "Client", "Options", "connect", "connect_blocking"})


def __getattr__(name: str) -> Any:
    # The client needs the extension and asyncio; the protocol and the simulator need neither.
    if name in _CLIENT:
        from mpaxos import client

        return getattr(client, name)
    raise AttributeError(f"module 'mpaxos' has no attribute {name!r}")
