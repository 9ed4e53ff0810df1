"""Accounts and transfers: a command that raises leaves no trace.

mpaxos dev examples.bank:Bank            # three local replicas
python examples/bank.py 127.0.0.1:3001   # the client port of one or more of them
"""

from __future__ import annotations

import asyncio
import sys

import mpaxos
from mpaxos import CommandFailed, StateMachine, command, query
from mpaxos.containers import Dict


class Bank(StateMachine):
    """Balances by name; they never go below zero."""

    accounts: Dict[str, int]

    @command
    def deposit(self, name: str, amount: int) -> int:
        """Put money in; returns the new balance."""
        if amount <= 0:
            raise ValueError("the amount must be positive")
        self.accounts[name] = self.accounts.get(name, 0) + amount
        return self.accounts[name]

    @command
    def transfer(self, source: str, target: str, amount: int) -> int:
        """Move money; returns what is left at the source."""
        if amount <= 0:
            raise ValueError("the amount must be positive")
        self.accounts[source] = self.accounts.get(source, 0) - amount
        self.accounts[target] = self.accounts.get(target, 0) + amount
        if self.accounts[source] < 0:
            # Both changes above are undone: the command happens whole or not at all.
            raise ValueError(f"{source} has not enough money")
        return self.accounts[source]

    @query
    def balance(self, name: str) -> int:
        """What is on an account."""
        return self.accounts.get(name, 0)


async def main(addresses: str) -> None:
    """Some transfers, all in flight at once."""
    async with mpaxos.connect(addresses, Bank) as bank:
        await bank.deposit("ann", 100)
        await asyncio.gather(*(bank.transfer("ann", "bob", 1) for _ in range(50)))
        try:
            await bank.transfer("ann", "bob", 1_000_000)
        except CommandFailed as error:
            print(f"refused: {error}")
        # invoke() is the same call, with types that editors and mypy know.
        ann: int = await bank.invoke(Bank.balance, "ann")
        print(f"ann has {ann}, bob has {await bank.balance('bob')}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:3001"))
