"""Runs a state machine class over an engine: one slot at a time, rolling back what raises.

Everything a command answers is part of the replicated state, so its error must be the same text on
every replica: no memory addresses, no texts that depend on how deep the stack was.
"""

from __future__ import annotations

import re
import time as clock
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import msgspec

from mpaxos._native import Methods, Overlay
from mpaxos.errors import invariant
from mpaxos.machine.codec import pack
from mpaxos.machine.context import Context
from mpaxos.machine.declaration import Method
from mpaxos.machine.declare import COMMAND, QUERY, BadRequest, StateMachine
from mpaxos.machine.engine import Engine, Replies, Requests
from mpaxos.machine.inspection import inspect_machine

STATUS_OK = 0
STATUS_FAILED = 1
STATUS_NOSPACE = 3
STATUS_BAD = 6
ENTRY_QUERY = 3

MAX_ERROR_TEXT = 4096
"""Bytes of an error's text; longer ones are cut."""

MAX_REPLY = 16 << 20
"""Bytes of one reply: replies are kept in the session table until they are acknowledged."""

_ADDRESS = re.compile(r"(?: at)? 0x[0-9a-fA-F]+")
_HIDDEN = "(its text cannot be shown)"

Reply = tuple[int, bytes]


class Running(NamedTuple):
    """The command or query that is being run."""

    slot: int
    command: str
    started: int
    """`time.monotonic_ns()` at its start."""


def _native_replies() -> Replies:
    from mpaxos._native import ReplySet

    return ReplySet()


class MachineHost:
    """One replica's instance of a state machine.

    All calls but `running` and `schema` come from one thread. `state_limit` is in bytes as counted
    by the overlay, and must be equal on all replicas. `make_replies` builds what answers queries;
    the default is the native ReplySet.

    Raises ConfigError when the class is not fit to be a state machine.
    """

    def __init__(
        self,
        engine: Engine,
        machine_class: type[StateMachine],
        state_limit: int,
        *,
        make_replies: Callable[[], Replies] | None = None,
        time: int = 0,
    ) -> None:
        """`time`: the largest time stamp applied so far, nanoseconds since the epoch; queries see
        it as their clock until the next slot."""
        self._declaration = inspect_machine(machine_class)
        self._engine = engine
        self._limit = state_limit
        self._make_replies = make_replies or _native_replies
        self._overlay = Overlay(engine)
        self._machine = machine_class()
        # Past the machine's own __setattr__, which keeps users from losing state.
        self._attributes: dict[str, Any] = vars(self._machine)
        for spec in self._declaration.containers:
            self._attributes[spec.name] = spec.build(self._overlay.table(spec.name))
        machine, declaration = self._machine, self._declaration
        self._commands = None if declaration.takes_bytes else _methods(machine, COMMAND)
        self._queries = None if declaration.takes_bytes else _methods(machine, QUERY)
        self._slot = 0
        self._running: tuple[str, int] | None = None
        """Name and start of what runs when the machine takes bytes."""
        self._time = time
        self._in_slot = False

    def apply(self, slot: int, time: int, batch: Any) -> Any:
        """Run the commands of a decided batch and make the slot durable; returns the Replies.

        Time never runs backwards for the commands, whatever stamps the leaders put on batches.

        Raises what the engine raises: then the replica cannot go on.
        """
        overlay = self._overlay
        invariant(not self._in_slot, "a slot is applied inside another")
        self._in_slot = True
        self._slot = slot
        time = max(time, self._time)
        replies: list[Reply] = []
        try:
            for index, session, sequence, payload in overlay.begin(slot, time, batch):
                context = Context(slot, index, session, sequence, time)
                replies.append(self._command(context, payload))
        finally:
            overlay.close()
        result = overlay.finish(replies)
        self._time = time
        self._in_slot = False
        return result

    def query(self, batch: Requests) -> Any:
        """Answer queries from the state as it is; returns the Replies."""
        invariant(not self._in_slot, "a query inside a slot")
        replies = self._make_replies()
        self._slot = slot = self._engine.mark[0]
        overlay = self._overlay
        overlay.begin_queries()
        try:
            for index, (session, sequence, _, kind, payload) in enumerate(batch.entries()):
                invariant(kind == ENTRY_QUERY, "a command among queries")
                context = Context(slot, index, session, sequence, self._time)
                status, reply = self._invoke(QUERY, context, payload)
                overlay.rollback()
                replies.add(session, sequence, status, reply)
        finally:
            overlay.close()
        return replies

    @property
    def mark(self) -> tuple[int, int]:
        """(slot, digest) of the last applied slot."""
        return self._engine.mark

    @property
    def running(self) -> Running | None:
        """What is being run now, None between requests. May be asked from any thread."""
        running = self._running
        for methods in (self._commands, self._queries):
            running = running or (None if methods is None else methods.running)
        return None if running is None else Running(self._slot, *running)

    def schema(self) -> str:
        """Class, containers and methods as stable text: equal texts fit together."""
        return self._declaration.schema()

    # -------------------------------------------------------------- one request

    def _command(self, context: Context, payload: bytes) -> Reply:
        reply = self._invoke(COMMAND, context, payload)
        if reply[0] != STATUS_OK:
            self._overlay.rollback()
            return reply
        needed = self._overlay.merge(self._limit)
        if needed:
            text = f"the state may have {self._limit} bytes and would have {needed}"
            return STATUS_NOSPACE, text.encode()
        return reply

    def _invoke(self, kind: str, context: Context, payload: bytes) -> Reply:
        try:
            self._attributes["context"] = context
            methods = self._commands if kind == COMMAND else self._queries
            if methods is not None:
                reply = methods.run(payload)
            else:
                reply = self._run_bytes(kind, context, payload)
            if len(reply) > MAX_REPLY:
                return failed("ValueError", f"the reply is above the limit of {MAX_REPLY} bytes")
            return STATUS_OK, reply
        except BadRequest as error:
            return STATUS_BAD, _cut(_shown(error))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # SystemExit and its like included: a command must never stop a replica.
            return _failure(error)

    def _run_bytes(self, kind: str, context: Context, payload: bytes) -> bytes:
        name = "execute" if kind == COMMAND else "read"
        self._running = (name, clock.monotonic_ns())
        try:
            reply = getattr(self._machine, name)(payload, context)
        finally:
            self._running = None
        if type(reply) is not bytes:
            raise TypeError(f"{name} must return bytes, not {type(reply).__name__}")
        return reply


def _methods(machine: StateMachine, kind: str) -> Methods:
    declaration = inspect_machine(type(machine))

    def explain(request: bytes) -> tuple[Method, tuple[Any, ...]]:
        return declaration.decode(request, kind)

    return Methods(
        machine, declaration.decoder(kind), declaration.by_arguments, explain, _refuse_result
    )


def _refuse_result(method: Method, result: object, error: BaseException) -> NoReturn:
    if not isinstance(error, Exception):
        raise error
    # Only the type is named: the value may hold addresses or be of any size.
    cause = str(error) if type(error) is TypeError else type(error).__name__
    raise TypeError(
        f"{method.name} returned a {type(result).__name__} that cannot be encoded: {cause}"
    )


def failed(kind: str, text: str) -> Reply:
    """The reply for a command that raised."""
    return STATUS_FAILED, pack((kind, text))


def _failure(error: BaseException) -> Reply:
    if isinstance(error, RecursionError):
        # Python's own text names the call that happened to be the deepest.
        return failed("RecursionError", "maximum recursion depth exceeded")
    if isinstance(error, MemoryError):
        return failed("MemoryError", "out of memory")
    name = type(error).__name__
    if isinstance(error, msgspec.ValidationError):
        name = "ValidationError"
    return failed(name, _cut(_shown(error)).decode())


def _shown(error: BaseException) -> str:
    try:
        return str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return _HIDDEN


def _cut(text: str) -> bytes:
    """The text without memory addresses, in UTF-8, at most MAX_ERROR_TEXT bytes."""
    # The address pattern is searched only in what can still be in the result.
    plain = _ADDRESS.sub("", text[: 4 * MAX_ERROR_TEXT])
    data = plain.encode(errors="backslashreplace")
    if len(data) <= MAX_ERROR_TEXT:
        return data
    return data[: MAX_ERROR_TEXT - 3].decode(errors="ignore").encode() + b"..."
