"""A picture of a history that cannot be ordered: one HTML file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Iterator

from mpaxos.sim.linearizability import Operation, Verdict

ROW, LEFT, WIDTH = 26, 120, 1400
AROUND = 60
"""Operations shown before and after the one that does not fit."""

_STYLE = """
body { font: 14px system-ui, sans-serif; margin: 24px; background: #fff; color: #222 }
rect.ordered { fill: #b7d7b0 } rect.open { fill: #f3d08a } rect.stuck { fill: #e06a5a }
rect.pending { stroke: #888; stroke-dasharray: 4 3 } text { font: 11px monospace }
"""


def timeline(verdict: Verdict) -> str:
    """HTML with the operations of the offending key over time, a row for each process.

    Green: ordered in the longest order found (numbered). Yellow: not ordered yet. Red: its
    response fits nowhere after that.
    """
    part = verdict.part
    stuck = verdict.stuck if verdict.stuck is not None else 0
    shown = list(range(max(0, stuck - AROUND), min(len(part), stuck + AROUND)))
    if not shown:
        return "<!doctype html><title>nothing to show</title>"
    start = min(part[i].invoked for i in shown)
    end = max(max(part[i].invoked, part[i].returned or 0) for i in shown)
    rows = {name: n for n, name in enumerate(sorted({part[i].process for i in shown}))}
    height = ROW * (len(rows) + 1)
    bars = "\n".join(_bars(verdict, shown, rows, start, max(1, end - start)))
    labels = "\n".join(
        f'<text x="4" y="{ROW * row + 17}">{html.escape(name)}</text>' for name, row in rows.items()
    )
    return (
        f"<!doctype html><meta charset=utf-8><title>not linearizable</title>"
        f"<style>{_STYLE}</style><h1>Not linearizable</h1><p>{html.escape(verdict.text)}</p>"
        f"<p>Operations of key {html.escape(repr(verdict.key))} around the one that does not fit "
        f"(red). Green: ordered, with their place in the order. Yellow: not ordered. Dashed: never "
        f"answered. Rest the pointer on a bar to see all of it.</p>"
        f'<svg width="{LEFT + WIDTH + 20}" height="{height}">{labels}\n{bars}</svg>'
    )


def _bars(
    verdict: Verdict, shown: list[int], rows: dict[str, int], start: int, span: int
) -> Iterator[str]:
    places = {index: place for place, index in enumerate(verdict.ordered, 1)}
    for index in shown:
        operation = verdict.part[index]
        x = LEFT + WIDTH * (operation.invoked - start) / span
        until = start + span if operation.returned is None else operation.returned
        width = max(3.0, WIDTH * (until - operation.invoked) / span)
        y = ROW * rows[operation.process] + 3
        kind = "stuck" if index == verdict.stuck else "ordered" if index in places else "open"
        if operation.returned is None:
            kind += " pending"
        text = f"{places.get(index, '')} {_short(operation)}"
        yield (
            f'<g><title>{html.escape(str(operation))}</title><rect class="{kind}" x="{x:.1f}" '
            f'y="{y}" width="{width:.1f}" height="{ROW - 6}" rx="3"/>'
            f'<text x="{x + 3:.1f}" y="{y + 14}">{html.escape(text)}</text></g>'
        )


def _short(operation: Operation) -> str:
    kind, *arguments = operation.action
    told = "?" if operation.returned is None else repr(operation.result)
    return f"{kind}({', '.join(map(repr, arguments[1:]))}) {told}"
