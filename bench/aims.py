"""What the numbers should be, and what they are: the aims of the data path."""

from __future__ import annotations

import msgspec

from bench.systems import COMMANDS, DISK, ETCD_DISK, GETS, LIMIT, PUTS, SPREAD
from bench.table import Cell, Comparison, of_limit, ratio


class Aim(msgspec.Struct, frozen=True, kw_only=True):
    """One of them."""

    text: str
    aim: str
    measured: str
    met: bool | None
    """None when something it needs was not measured."""


class _Numbers:
    """Looks up cells; what is missing makes every comparison with it unknown."""

    def __init__(self, comparison: Comparison) -> None:
        self._cells = comparison.cells

    def cell(self, row: str, column: str) -> Cell | None:
        return self._cells.get(row, {}).get(column)

    def rate(self, row: str, column: str) -> float | None:
        cell = self.cell(row, column)
        return None if cell is None else cell.median.throughput

    def p50(self, row: str, column: str) -> float | None:
        cell = self.cell(row, column)
        latency = cell.median.latency if cell is not None else None
        return None if latency is None else latency.p50

    def ratio(self, row: str, other: str, column: str) -> float | None:
        return ratio(self.cell(row, column), self.cell(other, column))

    def of_limit(self, row: str, column: str) -> float | None:
        return of_limit(self._cells, row, column)

    def of_puts(self, row: str, column: str) -> float | None:
        """They ran at different times: each is held against the limit beside it."""
        mine, puts = self.of_limit(row, column), self.of_limit(PUTS, column)
        return None if mine is None or not puts else mine / puts

    def servers(self, row: str, column: str) -> float | None:
        """Microseconds of processor time per request of all servers."""
        cell = self.cell(row, column)
        return None if cell is None else cell.median.all_servers


def _at_least(text: str, wanted: float, found: float | None, unit: str = "") -> Aim:
    shown = "not measured" if found is None else f"{found:,.2f}{unit}"
    met = None if found is None else found >= wanted
    return Aim(text=text, aim=f"at least {wanted:,.2f}{unit}", measured=shown, met=met)


def _at_most(text: str, wanted: float, found: float | None, unit: str = "") -> Aim:
    shown = "not measured" if found is None else f"{found:,.2f}{unit}"
    met = None if found is None else found <= wanted
    return Aim(text=text, aim=f"at most {wanted:,.2f}{unit}", measured=shown, met=met)


def aims_of(comparison: Comparison) -> list[Aim]:
    """All of them, with what was measured."""
    n = _Numbers(comparison)
    mine, limit = n.p50(PUTS, "one"), n.p50(LIMIT, "one")
    deep = n.rate(PUTS, "deep")
    busy, least = n.servers(PUTS, "c500"), n.servers(LIMIT, "c500")
    return [
        _at_least("puts of the limit, 100 connections", 0.65, n.of_limit(PUTS, "c100")),
        _at_least("puts of the limit, 500 connections", 0.65, n.of_limit(PUTS, "c500")),
        _at_least("puts of the limit, 1 KiB", 0.6, n.of_limit(PUTS, "k1")),
        _at_least("clients spread, of all at the leader", 0.8, n.of_puts(SPREAD, "c100")),
        _at_most("p50 of one connection, of the limit's", 3, mine and limit and mine / limit),
        _at_most("p50 of one connection", 150, mine, " us"),
        _at_least("pipelined puts", 500, deep and deep / 1000, " k/s"),
        _at_least("Python @command, of native puts", 0.5, n.of_puts(COMMANDS, "c100")),
        _at_least("durability disk, of etcd on that disk", 3, n.ratio(DISK, ETCD_DISK, "c100")),
        _at_least("gets, of puts, 100 connections", 1.5, n.of_puts(GETS, "c100")),
        _at_least("gets, of puts, pipelined", 1.5, n.of_puts(GETS, "deep")),
        _at_most("processor time per put of all servers, 500 connections", 14, busy, " us"),
        _at_most(
            "the same, of the limit's (14 us where that takes 7)",
            2,
            busy and least and busy / least,
        ),
    ]
