"""The seam between the loop and the sockets, real or simulated."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from mpaxos.core.messages import Envelope
from mpaxos.core.output import Event, Output
from mpaxos.core.types import Instant

if TYPE_CHECKING:
    from mpaxos._native import ReplySet


class AdminRequest(NamedTuple):
    """Somebody asks about the replica itself, over the client port."""

    token: int
    """Names the connection that asked."""
    data: bytes
    """JSON, not yet looked at."""


class Notice(NamedTuple):
    """Something worth a line in the log: mostly, why a connection was closed."""

    port: str
    address: str
    reason: str


class Polled(NamedTuple):
    """Everything that has arrived."""

    now: Instant
    events: list[Event]
    admin: list[AdminRequest]
    notices: list[Notice]


class Plane(Protocol):
    """All connections of one replica, to the others and to clients."""

    def poll(self, output: Output) -> Polled:
        """Wait until something arrived or `output.wake_at`. Takes at most `output.room` batches
        of commands, and refuses clients while `output.quorum` is False."""

    def send(self, messages: list[Envelope]) -> None:
        """Queue messages for other replicas; those that are not connected do not get them."""

    def deliver(self, replies: ReplySet) -> None:
        """Queue the replies of those clients that are connected here."""

    def answer(self, token: int, data: bytes) -> None:
        """Answer an AdminRequest."""

    def flush(self) -> None:
        """Hand everything queued to the operating system."""

    def counters(self) -> dict[str, int]:
        """What happened so far, by name."""

    def close(self) -> None: ...
