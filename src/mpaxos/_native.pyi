"""The C++ extension: everything that touches each request or must be made persistent.

Times are nanoseconds. All calls that do work release the GIL. Errors are those of mpaxos.errors.
"""

from collections.abc import Callable, Mapping
from typing import Any, Generic, NoReturn, TypeVar, final, overload

from mpaxos.machine.codec import KeyCodec, ValueCodec
from mpaxos.machine.declaration import Method

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

# ---------------------------------------------------------------- digests, frames

def crc32c(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """CRC-32C (Castagnoli) of `data`, continuing from `crc`."""

def digest64(data: bytes | bytearray | memoryview) -> int:
    """XXH3 64-bit digest of `data`, seed 0."""

# Kinds of entries in a batch
ENTRY_COMMAND: int  # 0
ENTRY_OPEN: int  # 1: opens a session; `sequence` is the connection's token, payload is u32 window
ENTRY_CLOSE: int  # 2: closes the session
ENTRY_QUERY: int  # 3: only in batches of queries

# Status of a reply
STATUS_OK: int  # 0
STATUS_FAILED: int  # 1: the command raised; payload is msgpack [type, message]
STATUS_EXPIRED: int  # 2: no such session
STATUS_NOSPACE: int  # 3
STATUS_REFUSED: int  # 4: not executed: no quorum
STATUS_OVERLOADED: int  # 5: not executed: queues full
STATUS_BAD: int  # 6: malformed request or sequence outside the window; payload: text
STATUS_OPENED: int  # 7: reply to ENTRY_OPEN; payload is u64 session id (little-endian)

@final
class Batch:
    """Requests that are decided together; immutable, shared without copying."""

    @property
    def digest(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def origin(self) -> int: ...
    @property
    def incarnation(self) -> int: ...
    @property
    def number(self) -> int: ...
    @staticmethod
    def parse(data: bytes) -> Batch:
        """Raises WireError unless `data` is exactly one well-formed batch."""
    @staticmethod
    def noop(origin: int = 0, incarnation: int = 0, number: int = 0) -> Batch: ...
    @staticmethod
    def build(
        origin: int,
        incarnation: int,
        number: int,
        entries: list[tuple[int, int, int, int, bytes]],
    ) -> Batch:
        """Entries are (session, sequence, lowest, kind, payload)."""
    def data(self) -> bytes: ...
    def entries(self) -> list[tuple[int, int, int, int, bytes]]: ...

@final
class ReplySet:
    """Replies on their way to the clients of this replica."""

    def __init__(self) -> None: ...
    def add(self, session: int, sequence: int, status: int, payload: bytes) -> None: ...
    def entries(self) -> list[tuple[int, int, int, bytes]]: ...
    def __len__(self) -> int: ...

# ---------------------------------------------------------------- the plane: sockets

EVENT_PEER_MESSAGE: int  # (kind, peer, control: bytes, [(time, Batch), ...] or a Chunk)
EVENT_PEER_UP: int  # (kind, peer)
EVENT_PEER_DOWN: int  # (kind, peer)
EVENT_BATCH: int  # (kind, Batch)
EVENT_READS: int  # (kind, Batch)
EVENT_ADMIN: int  # (kind, token, bytes)
EVENT_NOTICE: int  # (kind, port: str, address: str, reason: str)  a connection closed for cause
EVENT_MET: int  # (kind, peer, life, birth)  comes before its EVENT_PEER_UP, when it is news
EVENT_ESTRANGED: int  # (kind, peer, reason: str)  it knows this replica with other data

@final
class Plane:
    """All sockets of one replica, served by the thread that calls poll()."""

    def __init__(
        self,
        *,
        replica: int,
        cluster: bytes,  # 16 bytes
        incarnation: int,
        agreement: int,  # digest of the settings that must be equal on all replicas
        peers: dict[int, tuple[str, int]],  # advertised peer addresses of the others
        listen_peer: tuple[str, int],
        listen_client: tuple[str, int],
        listen_jpaxos: tuple[str, int] | None,
        max_request: int = 1 << 20,  # bytes of one request's payload
        max_batch: int = 1 << 18,  # target bytes of one batch; one request may exceed it
        max_pending: int = 1 << 23,  # bytes of requests held before sockets are not read any more
        max_connections: int = 10_000,
        handshake_seconds: float = 5.0,
        frame_seconds: float = 20.0,  # a frame once begun must be complete by then
    ) -> None:
        """Binds all ports (0 picks a free one). Raises ConfigError naming port and reason."""
    def ports(self) -> tuple[int, int, int]:
        """The bound (peer, client, jpaxos) ports; 0 where there is none."""
    def poll(
        self, until: int, room: int, quorum: bool, votes: bool = True, useful_upto: int = 0
    ) -> tuple[int, list[tuple[object, ...]]]:
        """Serve sockets until something happened or the monotonic clock reads `until`; at most
        100 ms. Returns (now, events). At most `room` batches of local commands are handed out;
        with `quorum` False new commands and queries are answered STATUS_REFUSED; with `votes` False
        a message that was sent as a vote waits up to 2 ms for another event to come with; with
        `useful_upto` above 0 every message of a peer does, up to 5 ms, and of the accepts of later
        slots only the first is handed out, the others are counted as `spared`."""
    def send(
        self, peer: int, control: bytes, values: list[tuple[int, Batch]], vote: bool = False
    ) -> None:
        """Queue a message; dropped when the peer is not connected or its queue is full."""
    def send_chunk(self, peer: int, control: bytes, chunk: Chunk) -> None:
        """The same, of a message that carries a chunk."""
    def deliver(self, replies: ReplySet) -> None:
        """Queue replies for those clients that are connected here."""
    def answer(self, token: int, data: bytes) -> None:
        """Answer an EVENT_ADMIN."""
    def flush(self) -> None:
        """Write queued bytes: one system call per connection that has any."""
    def wake(self) -> None:
        """Make a poll() in another thread return soon. The only call safe from other threads."""
    def serve(self, hand_over: HandOver) -> None:
        """Return from poll() when the machine's thread has done something; under a mandate its
        replies are delivered within poll(). It is kept."""
    def counters(self) -> dict[str, int]:
        """Connections, bytes, frames, and closed_<reason> counts."""
    def set_identity(self, cluster_name: str, machine: str) -> None:
        """Texts sent to clients in the welcome."""
    def attach(self, steady: Steady, pool: Pool, engine: Engine | None) -> None:
        """Take ordinary turns within poll() while `steady` has a mandate. What they decide is
        applied by `engine` at once; without one it is handed over to the machine's thread (see
        serve). All three are kept."""
    def introduce(self, life: int, birth: int, met: dict[int, tuple[int, int]]) -> None:
        """Which data this replica comes with, and with which (life, birth) it has met others; 0 is
        a birth that is not known. A peer with other data and no higher life is refused."""
    def close(self) -> None: ...

# ---------------------------------------------------------------- a machine's own thread

WORK_SLOT: int
WORK_READS: int
WORK_CALL: int
WORK_STOP: int

@final
class HandOver:
    """Slots and reads on their way to the thread of a machine, and what came of them. take() and
    done() are that thread's; the others may be called from any."""

    def __init__(self) -> None: ...
    def put_slot(self, slot: int, time: int, batch: Batch) -> None: ...
    def put_reads(self, batch: Batch) -> None: ...
    def put_call(self) -> None:
        """Something else is to be done at this place of the order."""
    def stop(self) -> None:
        """Drop what waits; from now on only WORK_STOP is taken."""
    def take(self) -> tuple[int, int, int, Batch]:
        """(WORK_SLOT, slot, time, Batch), (WORK_READS, 0, 0, Batch), (WORK_CALL, 0, 0, None) or
        (WORK_STOP, 0, 0, None); waits for it."""
    def done(self, slot: int, digest: int, replies: ReplySet) -> None:
        """`replies` is empty afterwards. Of reads: slot 0."""
    def results(self) -> list[tuple[int, int, ReplySet]]:
        """What is done, as it was given to done(), unless a Plane has taken it."""

# ---------------------------------------------------------------- ordinary turns

@final
class Steady:
    """Takes ordinary turns of the protocol under a mandate (native/src/steady.hpp). A replica only
    begins and ends mandates, its Plane does the rest; the simulated world drives it event by
    event, with batches of its own."""

    def __init__(
        self,
        *,
        replica: int,
        replicas: int,
        window: int,
        local_batches: int,
        max_apply_lag: int,
        mark_interval: int,
        record_overhead: int,
        log_size: int,
        epoch: int,
        incarnation: int,
    ) -> None: ...
    @property
    def active(self) -> bool: ...
    @property
    def decided(self) -> int: ...
    @property
    def room(self) -> int:
        """Batches of own clients that are welcome."""
    def begin(self, standing: tuple[Any, ...]) -> None:
        """The fields of mpaxos.core.standing.Standing, in order."""
    def end(self) -> tuple[Any, ...] | None:
        """The same; None when no turn was taken."""
    def copy(self) -> Steady: ...
    def begin_turn(self, now: int) -> bool: ...
    def on_batch(self, batch: Any) -> bool: ...
    def on_reads(self, batch: Any) -> bool: ...
    def on_message(self, sender: int, message: tuple[Any, ...]) -> bool:
        """(kind, ballot, slot or number, decided, applied, time, mark, vote, batch)"""
    def on_applied(self, slot: int, marks: list[Any]) -> None: ...
    def on_room(self, room: int) -> None: ...
    def finish(self) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
        """Records (slot, time, batch), letters (kind, to or -1 for all, slot or number, decided,
        applied, time, mark, batch), decided like records, batches of reads."""
    @staticmethod
    def encoded(
        kind: str,
        ballot: tuple[int, int],
        slot: int,
        decided: int,
        applied: int,
        mark: tuple[int, int],
    ) -> bytes:
        """The control part of a letter."""
    @staticmethod
    def decoded(control: bytes, values: int) -> tuple[Any, ...] | None:
        """(kind, ballot, slot or slots or number, decided, applied, mark, vote), or None."""

# ---------------------------------------------------------------- persistent memory

def gives_large_pages(directory: str) -> bool:
    """Pools made in this directory, on a tmpfs, get pages of 2 MiB."""

@final
class Pool:
    """One replica's persistent memory: promise, log ring, positions, sessions, containers."""

    @staticmethod
    def create(
        path: str,
        *,
        size: int,
        log_size: int,
        cluster: bytes,
        replica: int,
        replicas: int,
        machine: str,
        state_limit: int,
        max_sessions: int,
        max_reply_slots: int,
        installing: bool = False,
        log_only: bool = False,
        brief: bool = False,
    ) -> None:
        """Create atomically (temporary name, fsync, rename, fsync of the directory). With
        `installing` it is one for an ImageTarget, and no replica until the image is complete.
        With `log_only` (the limits are 0 then) it is for promise and log of a replica whose state
        lives elsewhere: its applied position means nothing and does not bound truncation. With
        `brief` another is soon to take its place: its memory is reserved, but not made ready.
        Raises StorageFull, StorageForeign (something is already there)."""
    def __init__(
        self, path: str, *, cluster: bytes, replica: int, size: int, installing: bool = False
    ) -> None:
        """Open and verify; `size` is the file size recorded when it was created. A pool whose
        image is not complete is refused unless `installing`. Raises StorageMissing,
        StorageForeign, StorageLocked, StorageVersion, StorageCorrupt, StorageIncomplete."""
    @property
    def installing(self) -> bool:
        """An image is to be installed in this pool and is not complete."""
    @property
    def log_only(self) -> bool: ...
    def info(self) -> dict[str, int | str]:
        """size, log_size, replicas, machine, state_limit, state_used, sessions, packings (since
        it was opened), ..."""
    @property
    def promised(self) -> tuple[int, int]: ...
    @property
    def decided_upto(self) -> int:
        """Of a log_only pool: records up to here are decided; it may be too low."""
    def write_decided(self, upto: int) -> None:
        """Of a log_only pool."""
    @property
    def applied_upto(self) -> int: ...
    @property
    def applied_digest(self) -> int: ...
    @property
    def applied_time(self) -> int: ...
    @property
    def truncated_upto(self) -> int: ...
    @property
    def log_room(self) -> int:
        """Free bytes of the log ring."""
    @property
    def log_size(self) -> int: ...
    def slots(self) -> list[tuple[int, int, int]]:
        """(slot, round, leader) of the newest record of each slot above truncated_upto."""
    def write(
        self,
        promise: tuple[int, int] | None,
        records: list[tuple[int, int, int, int, Batch]],
        truncate_upto: int,
    ) -> None:
        """Make durable in this order: the promise, the records (slot, round, leader, time,
        batch), the truncation (0: none). Durable on return. Raises StorageFull when the ring has
        no room (nothing written)."""
    def read(self, slot: int) -> tuple[int, int, int, Batch] | None:
        """(round, leader, time, batch) of the newest record, checksums verified."""
    def close(self) -> None: ...

@final
class Engine:
    """Applies decided batches to the state machine in a Pool: duplicates are recognised by the
    session table; one transaction per slot holds state, replies and applied position.

    All calls for one Pool come from one thread (libpmemobj transactions are per thread); that
    thread may differ from the one that writes the log."""

    def __init__(self, pool: Pool) -> None: ...
    # native machine ("kv")
    def apply_kv(self, slot: int, time: int, batch: Batch) -> ReplySet: ...
    def query_kv(self, batch: Batch) -> ReplySet: ...
    # machine in Python: begin, run each request, finish
    def begin(self, slot: int, time: int, batch: Batch) -> list[tuple[int, int, int, bytes]]:
        """The requests to run, in order: (index in the batch, session, sequence, payload)."""
    def finish(
        self,
        replies: list[tuple[int, bytes]],
        changes: list[tuple[int, bytes, bytes | None]],
    ) -> ReplySet:
        """Commit the slot begun last: (status, payload) for each request to run and the merged
        changes (container, key, value or None to delete)."""
    @property
    def mark(self) -> tuple[int, int]:
        """(slot, digest) of the last applied slot."""
    def container(self, name: str) -> int:
        """Number of the container called `name` (up to 63 bytes); created when new."""
    def get(self, container: int, key: bytes) -> bytes | None: ...
    def scan(
        self, container: int, start: bytes, end: bytes | None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """Up to `limit` items with start <= key < end (None: no end), ascending by key bytes."""
    def size(self, container: int) -> int: ...
    def state_used(self) -> int:
        """Bytes of the state as counted against state_limit; the same on every replica."""
    def pack(self, percent: int) -> int:
        """Between two slots: move what lies in blocks of memory that are filled to less than
        `percent` together, so that whole blocks become free; returns how many bytes. A slot that
        finds no room does it by itself."""
    def state_digest(self) -> int:
        """64-bit digest over the contents of all containers and sessions; reads all of it."""

# ---------------------------------------------------------------- containers of machines in Python

ITEM_OVERHEAD: int  # bytes that each item counts against the state's limit, beside key and value
MAX_KEY: int  # bytes of one key, encoded

@final
class Overlay:
    """The changes of the slot that is being applied, laid over the engine: what the commands of a
    machine in Python read and write. A command that raises is taken back alone; the slot's changes
    go to the engine together, with the replies.

    All calls come from one thread. Its methods raise what the engine raises."""

    def __init__(self, engine: object) -> None:
        """`engine`: an Engine, or an object that has the calls of mpaxos.machine.engine.Engine."""
    def table(self, name: str) -> Table:
        """The container called `name`, created in the engine when it is new."""
    def begin(self, slot: int, time: int, batch: Any) -> list[tuple[int, int, int, bytes]]:
        """What Engine.begin() returns; from here on commands run and may change containers."""
    def begin_queries(self) -> None:
        """From here on queries run: containers may be read."""
    def close(self) -> None:
        """From here on containers may not be changed."""
    def merge(self, limit: int) -> int:
        """The command succeeded: its changes become the slot's, and the result is 0. If the state
        would have more than `limit` bytes they are taken back, and the result is what it would
        have. Raises what the storage raised when the command read, even if that was swallowed."""
    def rollback(self) -> None:
        """The command failed: nothing of it remains. Raises as merge() does."""
    def finish(self, replies: list[tuple[int, bytes]]) -> Any:
        """Make the slot durable with (status, payload) for each request; what Engine.finish()
        returns."""

@final
class Table:
    """One container as bytes: an ordered map over the engine and the slot's changes."""

    def get(self, key: bytes) -> bytes | None: ...
    def put(self, key: bytes, value: bytes) -> None:
        """Raises ValueError when the key is longer than MAX_KEY, ReadOnly outside a command."""
    def delete(self, key: bytes) -> bool:
        """Remove `key`; False when it was not there. Raises ReadOnly outside a command."""
    def __len__(self) -> int: ...
    def recent(self, start: bytes, end: bytes | None) -> list[tuple[bytes, bytes | None]]:
        """The slot's changes with start <= key < end, ascending; None for a removal."""
    def stored(self, start: bytes, end: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to `limit` items of the engine with start <= key < end, ascending."""
    def newest(self, key: bytes, value: bytes) -> bytes:
        """The value that the slot gave `key`, or `value` if it did not."""
    @property
    def name(self) -> str: ...
    @property
    def changes(self) -> int:
        """Counts additions and removals of keys, to notice them during an iteration."""

class Items(Generic[K, V]):
    """Access to a container by key, with keys and values as objects (mpaxos.machine.codec)."""

    def __init__(self, table: Table, keys: KeyCodec, values: ValueCodec) -> None: ...
    def __getitem__(self, key: K) -> V: ...
    def __setitem__(self, key: K, value: V) -> None: ...
    def __delitem__(self, key: K) -> None: ...
    def __contains__(self, key: object) -> bool: ...
    def __len__(self) -> int: ...
    @overload
    def get(self, key: K) -> V | None: ...
    @overload
    def get(self, key: K, default: V | D) -> V | D: ...

@final
class Methods:
    """The commands or the queries of a machine in Python, called with requests as bytes."""

    def __init__(
        self,
        machine: object,
        decode: Callable[[bytes], Any] | None,
        methods: Mapping[type, Method],
        explain: Callable[[bytes], tuple[Method, tuple[Any, ...]]],
        unfit: Callable[[Method, object, BaseException], NoReturn],
    ) -> None:
        """`machine`: their self. `decode` makes of a request an object whose type is a key of
        `methods`, with the arguments as attributes a0, a1, ... When it raises, `explain` raises
        what the client is told, or returns method and arguments. `unfit(method, result, error)`
        raises what the client is told of a result that cannot be encoded."""
    def run(self, request: bytes) -> bytes:
        """The encoded result. Raises what the method raises."""
    @property
    def running(self) -> tuple[str, int] | None:
        """Name of the method that runs and when it began (monotonic clock, nanoseconds). May be
        asked from any thread."""

# ---------------------------------------------------------------- images of the whole state

CHUNK_HEADER: int  # bytes of a chunk from which chunk_length() tells the whole length
MAX_CHUNK: int  # bytes that a source may be asked for at once
MAX_IMAGES: int  # images being taken of one engine at a time

def chunk_length(header: bytes) -> int:
    """Bytes of the whole chunk that begins with `header`. Raises WireError."""

def chunk_info(chunk: bytes) -> tuple[int, int, int, bool]:
    """(image, number, slot, final) of a chunk, length and checksum verified: image is random and
    the same in all chunks of one; numbers count from 0; slot was applied when the chunk was made.
    Raises WireError."""

@final
class Chunk:
    """A chunk whose checksum was compared when it was received or parsed, or that was made here.
    Replicas hand it on as it is: its bytes are not copied through Python, nor checked again."""

    @staticmethod
    def parse(data: bytes) -> Chunk:
        """Raises WireError unless length and checksum fit."""
    @property
    def image(self) -> int: ...
    @property
    def number(self) -> int: ...
    @property
    def slot(self) -> int: ...
    @property
    def final(self) -> bool: ...
    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...

@final
class ImageSource:
    """Takes a consistent image of an engine's whole state, in chunks, while slots go on being
    applied between the calls (docs/image.md). All calls come from the thread that applies,
    between two slots: never between begin() and finish()."""

    def __init__(
        self,
        engine: Engine,
        *,
        max_dirty: int = 128 << 20,  # bytes of memory for what is to be sent again
    ) -> None:
        """Raises ImageError when MAX_IMAGES are being taken already."""
    def next(self, max_bytes: int = 256 << 10) -> bytes | None:
        """The next chunk, None after the final one. Chunks are to be kept until the target has
        installed them: they are made once. Raises ImageError when the image was given up, because
        chunks were asked for so seldom that more than `max_dirty` has changed, or because a slot
        was applied anew (Engine.pack)."""
    def next_chunk(self, max_bytes: int = 256 << 10) -> Chunk | None:
        """next(), for a chunk that is handed on."""
    @property
    def image(self) -> int:
        """Random number of this image."""
    @property
    def cut(self) -> bool:
        """The image's position is fixed; what is applied now is not in it."""
    def progress(self) -> dict[str, int]:
        """chunks and bytes made; items passed of total; again: items and sessions sent once more;
        dirty: those still to be; memory: bytes they take."""
    def close(self) -> None:
        """Stop; the engine no longer keeps track for it. Also done by deletion."""

@final
class ImageTarget:
    """Installs the chunks of an image, in order, into a Pool that was created `installing`."""

    def __init__(self, pool: Pool, *, larger: bool = False) -> None:
        """`larger`: the pool may have a higher limit of the state than the image's replica.

        Begins, or goes on where the pool is. Raises ImageError when the pool is not one that
        is being installed, StorageCorrupt."""
    def install(self, chunk: bytes | Chunk, promise: tuple[int, int] | None = None) -> bool:
        """Install the chunk that is expected, durably. True for the final one: state, counts and
        sessions were verified, the log begins after the image's slot, `promise` is set, and the
        pool can be used by an Engine. All or nothing. Raises WireError for bytes that are not a
        chunk; ImageError for another chunk than the expected one, another image, other limits, or
        a state that is not the source's; StorageFull."""
    @property
    def complete(self) -> bool: ...
    def progress(self) -> dict[str, int]:
        """image: its number; next: number of the expected chunk; records and bytes installed;
        slot: what the source had applied at the last chunk. All 0 once complete."""

# ---------------------------------------------------------------- write-ahead log on disk

WAL_PROMISE: int  # 1
WAL_RECORD: int  # 2
WAL_TRUNCATE: int  # 3
WAL_DECIDED: int  # 6

@final
class Wal:
    """A write-ahead log: promise and accepted batches of one replica on disk. Format and argument
    in docs/storage-disk.md. All calls come from one thread; submit() writes on a thread of the
    log's own. StorageError from any call means that the device failed: nothing is written any
    more."""

    @staticmethod
    def create(
        path: str, *, cluster: bytes, replica: int, segments: int, segment_size: int
    ) -> None:
        """Create atomically (temporary name, fsync, rename, fsync of the directory) a directory
        of `segments` files of `segment_size` bytes. Raises StorageFull, StorageForeign (something
        is already there), ConfigError (3 to 65536 segments of 64 KiB to 1 GiB)."""
    def __init__(
        self,
        path: str,
        *,
        cluster: bytes,
        replica: int,
        cache_size: int = 33554432,  # bytes of recently written batches kept in memory
        traced: bool = False,  # note the calls to the device: for tests
    ) -> None:
        """Open and verify. Raises StorageMissing, StorageForeign, StorageVersion, StorageCorrupt,
        StorageFull (no room for the record of the start), StorageError."""
    def info(self) -> dict[str, int]:
        """format, segments, segment_size, segment, free_segments, log_size, log_used, largest
        (bytes of one record), generation (counts the starts), torn (bytes of a torn tail dropped
        when it was opened)."""
    @property
    def promised(self) -> tuple[int, int]: ...
    @property
    def truncated_upto(self) -> int: ...
    @property
    def decided_upto(self) -> int:
        """Records up to here are decided; it may be too low."""
    @property
    def log_room(self) -> int:
        """Free bytes for records of up to info()["largest"] bytes."""
    @property
    def log_size(self) -> int: ...
    def slots(self) -> list[tuple[int, int, int]]:
        """(slot, round, leader) of the newest record of each slot above truncated_upto."""
    def write(self, writes: list[tuple[int, int, int, int, int, Batch | None]]) -> None:
        """Make (kind, slot, round, leader, time, batch) durable in their order, with one write and
        one fdatasync; WAL_PROMISE needs round and leader, WAL_TRUNCATE and WAL_DECIDED slot.
        Raises StorageFull (nothing was written), StorageError."""
    def submit(self, writes: list[tuple[int, int, int, int, int, Batch | None]]) -> int:
        """Begin to do so, on the log's own thread; the ticket to wait for."""
    def wait(self, ticket: int) -> None:
        """Return when it is durable."""
    def durable_upto(self) -> int:
        """The last ticket that is durable."""
    def fileno(self) -> int:
        """An eventfd that becomes readable when durable_upto() has moved (or would raise)."""
    def read(self, slot: int) -> tuple[int, int, int, Batch] | None:
        """(round, leader, time, batch) of the newest record, checksums verified."""
    def close(self) -> None:
        """Make all durable and end the log in order."""
    def calls(self) -> list[tuple[str, int, int, bytes]]:
        """Of a traced log: ("w", file, offset, bytes) and ("s", file, 0, b"") since last time."""
    def fail_after(self, calls: int) -> None:
        """Of a traced log: let the device fail, once, after so many more calls."""
