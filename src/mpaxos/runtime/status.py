"""What a replica tells about itself: the answers to admin requests on the client port."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from mpaxos.core.output import Resign
from mpaxos.core.replica import Replica
from mpaxos.net.plane import AdminRequest, Plane
from mpaxos.runtime.applier import Applier, Machine
from mpaxos.runtime.loop import Loop
from mpaxos.storage.memory import Memory
from mpaxos.version import __version__

POOL_FIELDS = (
    "size",
    "log_size",
    "log_used",
    "state_used",
    "state_limit",
    "packings",
    "is_pmem",
)
"""What is told of the pool."""


class Status:
    """Answers {"op": "status"}, {"op": "digest"} and {"op": "resign"}."""

    def __init__(
        self,
        *,
        cluster: str,
        service: str,
        plane: Plane[Any],
        replica: Replica,
        memory: Memory,
        setting: dict[str, Any],
        snapshots: Callable[[], dict[str, object]] | None,
        machine: Machine,
        applier: Applier,
        state_digest: Callable[[], int],
        transfer: Callable[[], dict[str, Any]],
        started: float,
    ) -> None:
        """`setting`: what to say of the durability; `snapshots`: reports on them, None where none
        are taken; `transfer`: how far state transfers are; `started`: when this process started,
        seconds of time.monotonic()."""
        self._cluster = cluster
        self._service = service
        self._plane = plane
        self._replica = replica
        self._memory = memory
        self._setting = setting
        self._snapshots = snapshots
        self._machine = machine
        self._applier = applier
        self._state_digest = state_digest
        self._transfer = transfer
        self._started = started
        self._in_step_after: float | None = None
        self._digests: list[tuple[AdminRequest, dict[str, Any]]] = []
        self.loop: Loop | None = None

    def answer(self, request: AdminRequest) -> None:
        """Answer one request, or arrange that it is answered later."""
        try:
            question = msgspec.json.decode(request.data, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            # msgspec raises the latter two as they are: wrong UTF-8, nesting without end.
            self._reply(request, {"error": f"not a JSON object: {error}"})
            return
        operation = question.get("op")
        if operation == "status":
            self._reply(request, self.report())
        elif operation == "digest":
            self._applier.call(lambda: self._compute_digest(request))
        elif operation == "resign":
            resigned = self._replica.is_leader
            if self.loop is not None:
                self.loop.inject(Resign())
            self._reply(request, {"resigned": resigned})
        else:
            known = "status, digest, resign"
            self._reply(request, {"error": f"unknown op {operation!r}; known are {known}"})

    def after_turn(self) -> None:
        """Called after each turn: notes when the replica came into step, sends what is ready."""
        while self._digests:
            request, answer = self._digests.pop(0)
            self._reply(request, answer)
        if self._in_step_after is None and self.in_step():
            self._in_step_after = time.monotonic() - self._started

    def in_step(self) -> bool:
        """A leader is known and all that anybody knew to be decided is applied, but for what is
        under way."""
        replica = self._replica
        lag = replica.known_upto - replica.applied_upto
        return replica.leader is not None and lag <= replica.settings.window

    def report(self) -> dict[str, Any]:
        """The status of this replica; see `mpaxos status --help` for what the fields mean."""
        replica = self._replica
        info = self._memory.info()
        counters = self._plane.counters()
        running = self._machine.running
        slot, digest = self._machine.mark
        return {
            "replica": replica.settings.replica,
            "cluster": self._cluster,
            "service": self._service,
            "version": __version__,
            **self._setting,
            "role": replica.role,
            "waits_for": replica.waits_for,
            "leader": replica.leader,
            "ballot": str(replica.ballot),
            "decided": replica.decided_upto,
            "applied": slot,
            "known": replica.known_upto,
            "truncated": replica.truncated_upto,
            "digest": f"{digest:016x}",
            "in_step": self.in_step(),
            "too_far_behind": replica.too_far_behind,
            "transfer": self._transfer(),
            "clients": counters["connections_client"] + counters["connections_jpaxos"],
            "sessions": info.get("sessions", 0),
            "pool": {name: info[name] for name in POOL_FIELDS if name in info},
            "snapshot": None if self._snapshots is None else self._snapshots(),
            "running": None
            if running is None
            else {
                "command": running.command,
                "slot": running.slot,
                "seconds": (time.monotonic_ns() - running.started) / 1e9,
            },
            "queues": replica.queue_lengths,
            "uptime": time.monotonic() - self._started,
            "started_to_in_step": self._in_step_after,
            "peers": {str(p): {"connected": up} for p, up in replica.connected.items()},
            "counters": counters,
        }

    def _compute_digest(self, request: AdminRequest) -> None:
        """Runs on the thread that applies, between two slots: all it reads belongs together."""
        slot, digest = self._machine.mark
        state = self._state_digest()
        answer = {"applied": slot, "digest": f"{digest:016x}", "state_digest": f"{state:016x}"}
        self._digests.append((request, answer))

    def _reply(self, request: AdminRequest, answer: dict[str, Any]) -> None:
        self._plane.answer(request.token, msgspec.json.encode(answer))
        self._plane.flush()
