"""Crash points of persistent memory: every image that a power failure could leave is reopened.

`shim` records what a workload stores, flushes and fences (native/crash, put before libpmem by
LD_PRELOAD); `images` enumerates what a crash could have left at each point; `check` opens each
image in the real code and compares it with what the workload was told; `runner` deals the points
out to processes. `mutants` breaks the storage code on purpose: the same check must notice.

    python -m tests.crash run            # all workloads, the budget of `make crash`
    python -m tests.crash mutants
"""

from tests.crash.given import use_given_extension

use_given_extension()
