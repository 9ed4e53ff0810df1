"""What users write: state machines as classes with commands and queries.

mpaxos.machine.inspection looks at such a class before it serves, mpaxos.machine.host runs it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from mpaxos.errors import ConfigError, MpaxosError
from mpaxos.machine.context import Context

F = TypeVar("F", bound=Callable[..., Any])

COMMAND = "command"
QUERY = "query"
MARK = "__mpaxos_kind__"
"""The attribute of a decorated method that says which of the two it is."""


class BadRequest(MpaxosError):
    """Raised by `execute` or `read` for bytes that are no request of this state machine; the
    client gets a ClientError with the text. Nothing is changed."""


class StateMachine:
    """Base of replicated services.

    Either annotate containers and decorate methods with @command and @query:

        class Bank(StateMachine):
            accounts: Dict[str, int]

            @command
            def deposit(self, name: str, amount: int) -> int:
                self.accounts[name] = self.accounts.get(name, 0) + amount
                return self.accounts[name]

    or override `execute` (and `read`, for queries) and work on bytes. A command runs on every
    replica, in the same order; what it does may depend only on its arguments, the containers and
    `self.context`. A command that raises is undone, and its error is the client's. An instance has
    no attributes besides its containers: anything else would be gone after a restart.
    """

    native: ClassVar[str | None] = None
    """Name of a native engine with the same meaning, used where there is one."""

    context: Context
    """Slot, time, random source ... of the running command or query."""

    def execute(self, request: bytes, context: Context) -> bytes:
        """Run one command; the bytes returned are the client's reply."""
        raise NotImplementedError

    def read(self, request: bytes, context: Context) -> bytes:
        """Answer one query without changing anything."""
        raise BadRequest(f"{type(self).__name__} answers no queries: send it as a command")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"{type(self).__name__}.{name} cannot be set: only containers are replicated and kept; "
            f"declare `{name}: Value[...]`, or use an item or set() if it is a container"
        )


def command(method: F) -> F:
    """Make a method a command: logged, run on every replica, exactly once. Arguments and result are
    annotated with types that msgspec knows."""
    return _mark(method, COMMAND)


def query(method: F) -> F:
    """Make a method a query: linearizable, not logged, run on one replica; it may not change the
    state. Arguments and result are annotated with types that msgspec knows."""
    return _mark(method, QUERY)


def _mark(method: F, kind: str) -> F:
    if not inspect.isfunction(method):
        raise ConfigError(f"@{kind} belongs on a plain method, not on {type(method).__name__}")
    if hasattr(method, MARK):
        raise ConfigError(f"{method.__qualname__} has @command and @query, or one twice: keep one")
    setattr(method, MARK, kind)
    return method
