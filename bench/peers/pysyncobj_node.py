"""One node of the comparison with PySyncObj: python pysyncobj_node.py SELF PARTNER,... TICK_MS

Reads lines of JSON, {"outstanding": n, "size": bytes, "keys": n, "warm_up": s, "duration": s}, and
answers each, on the leader, with what a closed loop of so many puts within this process reached:
PySyncObj has no clients outside of it. Latencies are counted in a histogram of whole microseconds.
"""

from __future__ import annotations

import collections
import json
import sys
import threading
import time
from typing import Any

from pysyncobj import SyncObj, SyncObjConf, replicated


class Node(SyncObj):  # type: ignore[misc]  # has no types
    """A replicated dictionary."""

    def __init__(self, own: str, partners: list[str], tick: float) -> None:
        conf = SyncObjConf(
            autoTickPeriod=tick,
            appendEntriesPeriod=tick,
            commandsQueueSize=1_000_000,
            dynamicMembershipChange=False,
        )
        super().__init__(own, partners, conf)
        self.data: dict[str, bytes] = {}

    @replicated  # type: ignore[untyped-decorator]
    def put(self, key: str, value: bytes) -> None:
        """Set a value."""
        self.data[key] = value


class Loop:
    """A closed loop of puts, driven by the callbacks of the ones before."""

    def __init__(self, node: Node, order: dict[str, Any]) -> None:
        self._node = node
        self._keys = order["keys"]
        self._value = bytes(order["size"])
        self._begin = time.monotonic() + order["warm_up"]
        self._end = self._begin + order["duration"]
        self._next = 0
        self._running = order["outstanding"]
        self._times: collections.Counter[int] = collections.Counter()
        self._failed = 0
        self._over = threading.Event()
        self._processor = [0.0, 0.0]

    def run(self) -> dict[str, Any]:
        for _ in range(self._running):
            self._ask()
        time.sleep(max(0.0, self._begin - time.monotonic()))
        self._processor[0] = time.process_time()
        time.sleep(max(0.0, self._end - time.monotonic()))
        self._processor[1] = time.process_time()
        self._over.wait(timeout=10)
        return {
            "times": sorted(self._times.items()),
            "failed": self._failed,
            "processor": self._processor[1] - self._processor[0],
        }

    def _ask(self) -> None:
        started = time.monotonic()
        self._next += 1
        key = f"k{self._next % self._keys:015d}"

        def answered(result: object, error: int) -> None:
            now = time.monotonic()
            if error:
                self._failed += 1
            elif self._begin <= now < self._end:
                self._times[int((now - started) * 1e6)] += 1
            if now < self._end:
                self._ask()
            else:
                self._running -= 1
                if self._running == 0:
                    self._over.set()

        self._node.put(key, self._value, callback=answered)


def main() -> None:
    """Serve until standard input ends."""
    own, partners, tick = sys.argv[1], sys.argv[2].split(","), float(sys.argv[3]) / 1000
    node = Node(own, partners, tick)
    while not node.isReady():
        time.sleep(0.01)
    print(json.dumps({"leads": str(node._getLeader()) == own}), flush=True)
    for line in sys.stdin:
        print(json.dumps(Loop(node, json.loads(line)).run()), flush=True)


if __name__ == "__main__":
    main()
