"""Every error a user of mpaxos can see, as types.

    MpaxosError
      ClientError            what a call through a client can raise
        Overloaded             not executed: no room; try later
        NoQuorum               not executed: no majority of replicas could be reached
        SessionExpired         the cluster forgot this session; nothing is silently run again
        OutcomeUnknown         the deadline passed; the command may or may not have happened
        RequestTooLarge        not executed: above the cluster's limit
        CommandFailed          the command raised; its changes were rolled back
        NoSpace                not executed: the state has reached its size limit
        VersionMismatch        client and cluster do not speak the same version or state machine
        ConnectionFailed       no replica could be reached at all
      StorageError           a replica's own storage
        StorageMissing, StorageForeign, StorageLocked, StorageVersion, StorageCorrupt, StorageFull,
        StorageIncomplete, StorageForgotten
      ImageError             a transfer of the state cannot go on; a new one may be begun
      ConfigError            a setting, a cluster file, an address
      WireError              bytes that are not a valid frame, batch or message

Beside them stands InvariantViolated (defined in mpaxos.core.invariant): a state that cannot be
right, which stops the replica.
"""

from __future__ import annotations

from mpaxos.core.invariant import InvariantViolated, invariant

__all__ = [
    "ClientError",
    "CommandFailed",
    "ConfigError",
    "ConnectionFailed",
    "ImageError",
    "InvariantViolated",
    "MpaxosError",
    "NoQuorum",
    "NoSpace",
    "OutcomeUnknown",
    "Overloaded",
    "RequestTooLarge",
    "SessionExpired",
    "StorageCorrupt",
    "StorageError",
    "StorageForeign",
    "StorageForgotten",
    "StorageFull",
    "StorageIncomplete",
    "StorageLocked",
    "StorageMissing",
    "StorageVersion",
    "VersionMismatch",
    "WireError",
    "invariant",
]


class MpaxosError(Exception):
    """Base of all errors of this library. The text says what is wrong and what to do."""


class ClientError(MpaxosError):
    """Base of what a call through a client can raise."""


class Overloaded(ClientError):
    """The request was not executed: queues are full. Trying again later is safe."""


class NoQuorum(ClientError):
    """The request was not executed: no majority of replicas could be reached in time."""


class SessionExpired(ClientError):
    """The cluster has forgotten this session (it was the least recently used one beyond the
    limit). Requests that were in flight may or may not have happened; none is run again."""


class OutcomeUnknown(ClientError):
    """The deadline passed after the request was sent: it may or may not have happened, now or
    later, but at most once. It is never retried behind your back."""


class RequestTooLarge(ClientError):
    """The request is above the cluster's size limit and was not sent."""


class CommandFailed(ClientError):
    """The command or query raised inside the state machine. Its changes were rolled back, the
    same on every replica."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__(type, message)
        self.type = type
        self.message = message

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class NoSpace(ClientError):
    """The command was not executed: the state has reached the cluster's size limit. Deletes and
    reads go on."""


class VersionMismatch(ClientError):
    """Client and cluster do not speak the same protocol version."""


class ConnectionFailed(ClientError):
    """None of the replicas could be reached; nothing was sent."""


class ReadOnly(MpaxosError):
    """Something that may not change the state tried to: a query, or code outside a command."""


class StorageError(MpaxosError):
    """Base of errors of a replica's own storage. The replica does not start, or stops."""


class StorageMissing(StorageError):
    """There is no storage where it should be. A missing pool is never replaced by an empty one."""


class StorageForeign(StorageError):
    """The storage belongs to something else: another program, cluster or replica."""


class StorageLocked(StorageError):
    """Another process uses this storage."""


class StorageVersion(StorageError):
    """The storage was written in a format that this version does not read."""


class StorageCorrupt(StorageError):
    """What was read does not match its checksum, or the file is cut short."""


class StorageFull(StorageError):
    """No room on the device or in the pool."""


class StorageIncomplete(StorageError):
    """A state transfer into this storage has not ended: it is not a replica yet."""


class StorageForgotten(StorageError):
    """What this replica promised and voted for was not kept, as its durability says: under its
    id it cannot take part any more."""


class ImageError(MpaxosError):
    """An image of the state cannot be taken, or a chunk of one cannot be installed. The state is
    as it was; the text says whether to go on with another chunk or to take a new image."""


class ConfigError(MpaxosError):
    """A setting is wrong; the text names it and says what is allowed."""


class WireError(MpaxosError):
    """Bytes from a socket or a log that are not what the format says."""
