"""Taking turns: contenders run one after the other, round by round; a noisy machine is noisy for all of them then."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.contender import Contender, Turn
from benchmarks.cpu import wait_until_idle

Rounds = dict[str, list[Turn]]
"""Turns by contender; the n-th turns of all belong to one round."""


@dataclass(frozen=True)
class Ratio:
    """The median of a ratio taken in every round, and the least and the greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Ratio:
        """Of one value a round."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.least:.2f} to {self.greatest:.2f}]"


def ratio(rounds: Rounds, one: str, other: str, value: Callable[[Turn], float] = lambda turn: turn.rate) -> Ratio:
    """`value` of one contender over that of another, round by round."""
    pairs = zip(rounds[one], rounds[other], strict=True)
    return Ratio.of([value(mine) / value(theirs) for mine, theirs in pairs])


def take_turns(contenders: Mapping[str, Contender], images: Mapping[str, int], warm: int, rounds: int) -> Rounds:
    """Run the contenders `rounds` times, each for its number of images; every other round from the last to the first.

    A loader goes on filling its queues when its turn has ended: the next one begins when nobody works any more.
    """
    turns: Rounds = {name: [] for name in contenders}
    with ExitStack() as stack:
        for contender in contenders.values():
            stack.enter_context(contender)
        for number in range(rounds):
            for name in list(contenders)[:: -1 if number % 2 else 1]:
                if not wait_until_idle(os.getpid()):
                    print(f"  somebody still works when {name} begins", file=sys.stderr, flush=True)
                turns[name].append(contenders[name].turn(warm, images[name]))
            rates = ", ".join(f"{name} {turns[name][-1].rate:.0f}" for name in contenders)
            print(f"  round {number + 1}: images/s: {rates}", file=sys.stderr, flush=True)
    return turns
