"""What replicas say to each other.

Small tagged records. Batches do not travel inside: a message that carries values has them in its
`values` field, which the codec (mpaxos.net.codec) sends beside the control part as (time, batch)
attachments, so that their bytes are never copied through Python. So does a chunk of an image.
"""

from __future__ import annotations

import msgspec

from mpaxos.core.types import Ballot, Chunk, Mark, ReplicaId, Slot, Value


class Message(msgspec.Struct, tag=True, array_like=True, kw_only=False):
    """Base of everything one replica sends another."""


class Prepare(Message, tag="prepare"):
    """Phase 1a, for all slots from `start` on (Lamport 2001, section 2.2)."""

    ballot: Ballot
    start: Slot


class Promise(Message, tag="promise"):
    """Phase 1b. `accepted` lists slot and ballot of each accepted value from `start` on, in the
    order of `values`."""

    ballot: Ballot
    start: Slot
    decided_upto: Slot
    truncated_upto: Slot
    accepted: list[tuple[Slot, Ballot]]
    values: list[Value] = []
    lives: list[int] = []
    """The newest life of each replica, by id, that the sender knows; its own among them."""


class Accept(Message, tag="accept"):
    """Phase 2a. With a `vote` it is sent only once the leader's own record is durable, and is the
    leader's vote. Without, it says nothing of the leader's memory (`decided_upto` is 0, too): then
    the vote follows, as an Accepted (Ongaro 2014, section 10.2.1, for Raft)."""

    ballot: Ballot
    slot: Slot
    decided_upto: Slot
    values: list[Value] = []
    vote: bool = True


class Accepted(Message, tag="accepted"):
    """Phase 2b: votes for all `slots` in one ballot."""

    ballot: Ballot
    slots: list[Slot]
    applied_upto: Slot


class Reject(Message, tag="reject"):
    """Answer to anything of a ballot lower than `promised`."""

    promised: Ballot


class PreVote(Message, tag="prevote"):
    """Would you follow `ballot`? Asked before a real prepare, so that a replica that was cut off
    does not depose a working leader when it returns (Ongaro 2014, section 9.6)."""

    ballot: Ballot
    decided_upto: Slot


class PreVoteReply(Message, tag="prevoted"):
    ballot: Ballot
    granted: bool
    promised: Ballot
    decided_upto: Slot


class Heartbeat(Message, tag="heartbeat"):
    """The leader lives; also the question of the read-index round `number`."""

    ballot: Ballot
    number: int
    decided_upto: Slot
    applied_by_all: Slot
    agreed: Mark
    """Newest mark that a majority reported alike; (0, 0) when there is none yet."""


class HeartbeatReply(Message, tag="alive"):
    ballot: Ballot
    number: int
    decided_upto: Slot
    applied_upto: Slot
    mark: Mark
    """This replica's digest at the newest slot that is a multiple of the marking interval."""


class Forward(Message, tag="forward"):
    """A follower hands batches of its clients to the leader. Times are 0: the leader stamps."""

    values: list[Value] = []


class CatchupRequest(Message, tag="catchup"):
    """Send me decided values of the slots `start` to `end`, both included."""

    start: Slot
    end: Slot


class CatchupReply(Message, tag="caughtup"):
    """Decided values of consecutive slots from `start` on, with the ballot the source holds each
    in, as many as fit. None and a `truncated_upto` of `start` or above: no longer in the log."""

    start: Slot
    truncated_upto: Slot
    decided_upto: Slot
    ballots: list[Ballot]
    values: list[Value] = []


class ReadIndexRequest(Message, tag="readindex"):
    """A follower asks for a slot behind which its waiting reads are linearizable."""

    number: int


class ReadIndexReply(Message, tag="readindexed"):
    number: int
    slot: Slot


class TakeOver(Message, tag="takeover"):
    """The leader asks the receiver to start an election at once (leadership transfer)."""

    ballot: Ballot


class StateRequest(Message, tag="staterequest"):
    """Send me your state, from chunk `next` of `image` on; image 0 asks for a new one. All chunks
    before `next` are durable here. May be repeated at any time."""

    image: int
    next: int
    credit: int
    """Bytes, from chunk `next` on, that may be under way or wait here."""
    again: bool = False
    """What was sent before may be lost: begin at `next` once more."""


class StateChunk(Message, tag="statechunk"):
    """A part of an image (docs/state-transfer.md). `data` is opaque here, with a checksum of its
    own, and travels beside the control part; the image is complete with the chunk that is
    `final`."""

    image: int
    number: int
    slot: Slot
    """Applied at the source when the chunk was made."""
    final: bool
    made: int
    """Bytes of the image so far, this chunk included."""
    total: int
    """Bytes that the whole image will have, an estimate."""
    data: Chunk = None


class StateRefused(Message, tag="staterefused"):
    """There will be no (more) chunks of `image` (0: of a new one) from here."""

    image: int
    reason: str


class Recover(Message, tag="recover"):
    """The sender has forgotten votes, is in a new `life` and asks what it must know to take part
    (Konczak et al., "Recovery Algorithms for Paxos-based State Machine Replication")."""

    life: int


class RecoverReply(Message, tag="recovered"):
    """Answer to the Recover of `life`."""

    life: int
    promised: Ballot
    leads: bool
    """The sender leads the ballot `promised`."""
    log_end: Slot
    """If so, the last slot it has proposed, or must propose; else 0."""
    decided_upto: Slot
    lives: list[int]


AnyMessage = (
    Prepare
    | Promise
    | Accept
    | Accepted
    | Reject
    | PreVote
    | PreVoteReply
    | Heartbeat
    | HeartbeatReply
    | Forward
    | CatchupRequest
    | CatchupReply
    | ReadIndexRequest
    | ReadIndexReply
    | TakeOver
    | StateRequest
    | StateChunk
    | StateRefused
    | Recover
    | RecoverReply
)

VALUE_CARRIERS = (Promise, Accept, Forward, CatchupReply)
"""The messages with a `values` field."""


class Envelope(msgspec.Struct):
    """A message on its way to one replica."""

    to: ReplicaId
    message: AnyMessage
