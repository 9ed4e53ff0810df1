"""`mpaxos status`: asks every replica and shows what they say side by side."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, Literal

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from mpaxos.cli.errors import FAILED, OK
from mpaxos.client.admin import ask
from mpaxos.errors import ClientError

_TIMEOUT = 2.0
"""Seconds a replica has to answer."""

COLUMNS = (
    "replica",
    "role",
    "ballot",
    "decided",
    "applied",
    "lag",
    "clients",
    "sessions",
    "log",
    "state",
    "digest",
)

Answers = dict[int, dict[str, Any]]
"""Per replica: its status, or {"error": text}."""


async def _one(address: str) -> dict[str, Any]:
    try:
        return await ask(address, {"op": "status"}, timeout=_TIMEOUT)
    except ClientError as error:
        return {"error": str(error)}


async def ask_all(addresses: dict[int, str]) -> Answers:
    """The status of the replicas at these addresses, all asked at once."""
    answers = await asyncio.gather(*(_one(address) for address in addresses.values()))
    return {
        answer.get("replica", number): {"address": address, **answer}
        for (number, address), answer in zip(addresses.items(), answers, strict=True)
    }


def exit_status(answers: Answers) -> int:
    """0 when a majority of the replicas asked answered and one of them leads."""
    good = [a for a in answers.values() if "error" not in a]
    leads = any(a["role"] == "leader" for a in good)
    return OK if leads and 2 * len(good) > len(answers) else FAILED


def table(answers: Answers) -> Group:
    """The answers as people read them: figures side by side, then what one should know."""
    good = [a for a in answers.values() if "error" not in a]
    name = good[0]["cluster"] if good else "no replica answered"
    setting = f", {good[0]['durability']} + {good[0]['machine']}" if good else ""
    shown = Table(
        title=f"cluster {name}{setting}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in COLUMNS:
        side: Literal["left", "right"] = "left" if column == "role" else "right"
        shown.add_column(column, justify=side, no_wrap=True)
    furthest = max((a["decided"] for a in good), default=0)
    notes = []
    for number, answer in sorted(answers.items()):
        if "error" in answer:
            shown.add_row(str(number), "[red]no answer", *["-"] * (len(COLUMNS) - 2))
            notes.append(f"[red]replica {number}: {answer['error']}")
        else:
            shown.add_row(*_row(number, answer, furthest))
            notes += [f"[yellow]replica {number} {note}" for note in _notes(answer)]
    return Group(shown, *notes)


def _row(number: int, answer: dict[str, Any], furthest: int) -> list[str]:
    pool = answer["pool"]
    role = answer["role"]
    return [
        str(number),
        f"[green]{role}" if role == "leader" else role,
        answer["ballot"],
        str(answer["decided"]),
        str(answer["applied"]),
        str(max(0, furthest - answer["applied"])),
        str(answer["clients"]),
        str(answer["sessions"]),
        f"{100 * pool['log_used'] // max(1, pool['log_size'])} %",
        f"{100 * pool['state_used'] // max(1, pool['state_limit'])} %",
        answer["digest"][:8],
    ]


def _notes(answer: dict[str, Any]) -> list[str]:
    """What the replica does that one should know; nothing when all is well."""
    notes = []
    running = answer["running"]
    if running is not None:
        text = f"{running['command']} at slot {running['slot']} for {running['seconds']:.1f} s"
        notes.append(f"runs {text}")
    if answer["role"] == "recovering":
        notes.append("is recovering: it asks the others what it has forgotten")
        if answer.get("waits_for") is not None:  # replicas of earlier versions do not tell
            notes.append(f"waits for {answer['waits_for']}")
    elif not answer["in_step"]:
        notes.append("is catching up")
    snapshot = answer["snapshot"]
    if snapshot is not None and snapshot["failure"] is not None:
        notes.append(f"cannot take a snapshot, and keeps its log: {snapshot['failure']}")
    if "transfer" in answer:  # replicas of earlier versions do not tell
        notes += _transfer_notes(answer["transfer"])
    packings = answer["pool"].get("packings", 0)
    if packings:
        times = "once" if packings == 1 else f"{packings} times"
        notes.append(
            f"found its pool's free memory scattered, and packed its state {times} since it "
            "started, while commands waited: a larger pool does so less often (mpaxos grow)"
        )
    cut = [n for n, peer in answer["peers"].items() if not peer["connected"]]
    if cut:
        notes.append(f"is not connected to {', '.join(cut)}")
    if answer["leader"] is None:
        notes.append("knows no leader")
    return notes


def _transfer_notes(transfer: dict[str, Any]) -> list[str]:
    """How far the state is that a replica receives, and those that it sends."""
    notes = []
    receiving = transfer["receiving"]
    if receiving is not None:
        source = receiving["source"]
        whose = "a state" if source is None else f"the state of replica {source}"
        notes.append(f"receives {whose}: {_progress(receiving, receiving['installed'])}")
    for sending in transfer["sending"]:
        notes.append(
            f"sends its state to replica {sending['target']}: {_progress(sending, sending['made'])}"
        )
    if transfer["problem"] is not None and receiving is None:
        notes.append(f"could not receive a state: {transfer['problem']}")
    return notes


def _progress(transfer: dict[str, Any], done: int) -> str:
    rate = transfer["rate"] / (1 << 20)
    return f"{done / (1 << 20):.0f} MiB, about {transfer['percent']} %, {rate:.0f} MiB/s"


def show_status(addresses: dict[int, str], *, as_json: bool, watch: bool) -> int:
    """Ask and print, once or until Ctrl-C; returns the exit status."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    answers = asyncio.run(ask_all(addresses))
    if as_json:
        document = {"replicas": {str(n): a for n, a in sorted(answers.items())}}
        print(json.dumps(document, indent=2))
        return exit_status(answers)
    if not watch:
        console.print(table(answers))
        return exit_status(answers)
    try:
        with Live(table(answers), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(0.5)  # how often people want to see news
                answers = asyncio.run(ask_all(addresses))
                live.update(table(answers), refresh=True)
    except KeyboardInterrupt:
        return exit_status(answers)
