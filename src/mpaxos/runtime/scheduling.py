"""How a replica's threads share processors with others that have work."""

from __future__ import annotations

import logging
import os

log = logging.getLogger("mpaxos")


def schedule(how: str) -> None:
    """Let this process, and the threads it starts from now on, be scheduled as `how` says: see
    ClusterConfig.scheduling. Where the system refuses, it says so and changes nothing.

    "batch" is Linux' SCHED_BATCH: as large a share of the processors as before, and at once where
    one is free; but a thread that wakes up does not take the processor from one that runs. Between
    a replica and those that send to it this gathers messages without waiting for any: the sender
    goes on to its next ones, and they are read together. A policy that whoever started the process
    gave it, real-time or idle, stays.
    """
    if how != "batch" or not hasattr(os, "SCHED_BATCH"):
        return
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:  # a container may forbid it
        log.warning(
            'scheduling = "batch" is refused by the system: %s; goes on as it was started. '
            'scheduling = "inherited" does not ask',
            error.strerror,
        )
