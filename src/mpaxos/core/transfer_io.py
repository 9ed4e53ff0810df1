"""What a state transfer asks of the world, and what the world answers: see mpaxos.core.transfer.

Steps go out in Output.transfer, events come back into a later step, in any order and at any time.
Each names the *job* it belongs to, a number that is never used twice in an incarnation: what comes
back for a job that was given up meanwhile is ignored.
"""

from __future__ import annotations

import msgspec

from mpaxos.core.types import Chunk, Slot

# ------------------------------------------------------------------ the source


class MakeChunk(msgspec.Struct):
    """Make the next chunk of the image of `job`; the first one begins an image. Answered by
    ChunkMade or ImageFailed."""

    job: int


class CloseImage(msgspec.Struct):
    """No more chunks of this image are wanted."""

    job: int


class ChunkMade(msgspec.Struct):
    """The fields are those of mpaxos.core.messages.StateChunk."""

    job: int
    image: int
    number: int
    slot: Slot
    final: bool
    made: int
    total: int
    data: Chunk


class ImageFailed(msgspec.Struct):
    """There is no image for this job, or not any more."""

    job: int
    reason: str


# ------------------------------------------------------------------ the target


class InstallChunk(msgspec.Struct):
    """Install this chunk, the next one of its image, in the store beside the present one. Chunk 0
    begins a new store, whatever was there. Answered by Installed or InstallFailed."""

    job: int
    image: int
    number: int
    data: Chunk


class DropInstall(msgspec.Struct):
    """Remove what was installed: it is not wanted any more."""


class Switch(msgspec.Struct):
    """The image is installed and verified. Now, before another step: carry promise and records
    over (mpaxos.core.transfer.carried_over), put the new store in the place of the old one, and
    begin a new life with it."""

    slot: Slot
    """The one that the image is of."""


class Installed(msgspec.Struct):
    """All chunks before `next` are durable."""

    job: int
    next: int
    slot: Slot | None = None
    """None: the image is not complete. Else it is, was verified, and is of this slot."""


class InstallFailed(msgspec.Struct):
    """The image cannot be installed."""

    job: int
    reason: str


class InstallFound(msgspec.Struct):
    """At the start: a part of an image is there from the life before."""

    image: int
    next: int


TransferStep = MakeChunk | CloseImage | InstallChunk | DropInstall | Switch
TransferEvent = ChunkMade | ImageFailed | Installed | InstallFailed | InstallFound
