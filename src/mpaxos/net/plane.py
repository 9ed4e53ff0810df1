"""The seam between a replica's loop and whatever carries its bytes.

Implemented by NativePlane (mpaxos.net.adapter, real sockets) and by the simulated world. All
methods but wake() are called by one thread, the one that turns the loop.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

from mpaxos.core.messages import Envelope
from mpaxos.core.output import Event, Output
from mpaxos.core.types import Instant

RepliesT = TypeVar("RepliesT", contravariant=True)
"""What the engine at hand hands out as replies; the plane passes them on unread."""


class AdminRequest(NamedTuple):
    """Somebody asks about the replica itself, not about the state machine."""

    token: int
    """Goes back into answer()."""
    data: bytes
    """JSON text as it was sent, unchecked."""


class Notice(NamedTuple):
    """Worth a line in the log: a connection that was closed for cause, a peer not reached."""

    port: str
    """"peer", "client" or "jpaxos"."""
    address: str
    """host:port of the other side."""
    reason: str
    """What is wrong, in words."""


class Polled(NamedTuple):
    """What one poll() brought."""

    now: Instant
    events: list[Event]
    admin: list[AdminRequest]
    notices: list[Notice]


class Plane(Protocol[RepliesT]):
    """All connections of one replica."""

    def poll(self, output: Output) -> Polled:
        """Wait until something happened or `output.wake_at`, at most a tenth of a second. Hands out
        at most `output.room` batches of local clients; with `output.quorum` False their requests
        are refused instead; with `output.votes` False votes alone do not end the wait at once, with
        `output.useful_upto` no message of a replica does."""

    def send(self, messages: list[Envelope]) -> None:
        """Queue messages. They may be lost: when a peer is not connected, or too slow."""

    def deliver(self, replies: RepliesT) -> None:
        """Queue replies for those clients that are connected here; the rest is nobody's."""

    def answer(self, token: int, data: bytes) -> None:
        """Queue the answer (JSON text) to an AdminRequest; nothing if its asker has gone."""

    def flush(self) -> None:
        """Send what is queued."""

    def wake(self) -> None:
        """Make a poll() of another thread return soon. Safe from any thread."""

    def counters(self) -> dict[str, int]:
        """Totals since the start, by name."""

    def close(self) -> None:
        """Close everything. A later poll() returns at once with nothing."""
