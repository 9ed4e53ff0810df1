"""The policy under which a replica's threads are scheduled."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mpaxos.runtime.scheduling import schedule

SCRIPT = """
import os, sys, threading
from mpaxos.runtime.scheduling import schedule

before, how = sys.argv[1:]
os.sched_setscheduler(0, getattr(os, before), os.sched_param(0))
schedule(how)
seen = []
thread = threading.Thread(target=lambda: seen.append(os.sched_getscheduler(0)))
thread.start()
thread.join()
print(os.sched_getscheduler(0), *seen)
"""


@pytest.mark.parametrize(
    ("before", "how", "after"),
    [
        ("SCHED_OTHER", "batch", "SCHED_BATCH"),
        ("SCHED_OTHER", "inherited", "SCHED_OTHER"),
        ("SCHED_IDLE", "batch", "SCHED_IDLE"),  # somebody wanted it so
    ],
)
def test_the_policy_of_the_process_and_its_later_threads(before: str, how: str, after: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, before, how], capture_output=True, text=True, check=True
    )
    policy = str(getattr(os, after))
    assert done.stdout.split() == [policy, policy]
    assert done.stderr == ""


def test_a_refusal_is_told_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getscheduler", lambda _: os.SCHED_OTHER)
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    schedule("batch")
    (record,) = caplog.records
    assert "Operation not permitted" in record.getMessage()
    assert '"inherited"' in record.getMessage()
