"""Which server to try next, how long to wait before, and when to give up."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from owl_client.deadline import Deadline
from owl_client.transport import Interrupt
from owl_stream.errors import FrameError, OwlStreamError, ServerBusyError, StateMismatchError

log = logging.getLogger("owl_client")

MOST_WAIT_S = 30.0
"""Longest single wait, whatever a server advises."""
TELL_AFTER_S = 3.0
"""Seconds without a batch after which a trainer is told what it waits for, once."""
LAST_TRY_S = 1.0
"""How long the last try may take when no time is left: a server may have come back."""
ONLY_TRY_S = 15.0
"""How long the only try may take where `give_up_after_s` is 0: three heartbeats."""
MOST_SHARE_S = 300.0
"""How long one of several servers is tried where `give_up_after_s` is infinite."""
REPEATS_TO_BELIEVE = 5
"""Noise on a line gives another error each time: the same FrameError so often at one cursor comes from the server."""


@dataclass(frozen=True)
class Backoff:
    """Waits between rounds over all servers: doubling from `first_s` to `most_s`, half of each at random."""

    first_s: float = 0.1
    most_s: float = 5.0

    def delay_s(self, rounds: int) -> float:
        """How long to wait after `rounds` rounds (from 1) without progress."""
        whole = min(self.most_s, self.first_s * 2.0 ** min(rounds - 1, 32))
        return whole * random.uniform(0.5, 1.0)


@dataclass(frozen=True)
class _Outcome:
    error: OwlStreamError
    repeats: int

    @property
    def final(self) -> bool:
        """Whether this server's answer will be the same next time."""
        if isinstance(self.error, FrameError):
            return self.repeats >= REPEATS_TO_BELIEVE
        return not self.error.retryable


class Failover:
    """The servers in the order given; the one that works is kept until it fails.

    The clock counts the time since the last batch, over all servers, whatever else arrives. `deadline` is when the
    current try ends: each of n servers gets `give_up_after_s` / n, so that all are asked, and nobody gets more than is
    left. One that gives no batch until then has failed.

    A server that refuses for good (another fingerprint, no such dataset, wrong token) is named in a warning and passed
    over as long as another may still serve.
    """

    def __init__(
        self,
        urls: Sequence[str],
        give_up_after_s: float,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._urls, self._give_up_after_s = tuple(urls), give_up_after_s
        self._backoff, self._clock = backoff or Backoff(), clock
        self._share_s = _share_s(give_up_after_s, len(self._urls))
        self.deadline = Deadline(self._share_s, clock)
        self._at, self._named = 0, set[tuple[str, str]]()
        self.progressed()

    @property
    def url(self) -> str:
        """The server to try now."""
        return self._urls[self._at]

    def progressed(self) -> None:
        """What was asked for came: earlier failures no longer count."""
        self._since, self._failures, self._told = self._clock(), 0, False
        self.deadline.move(self._share_s)
        self._outcomes: dict[str, _Outcome] = {}

    def failed(self, error: OwlStreamError, interrupt: Interrupt) -> None:
        """Note that the current server failed, move to the next, and wait when all have failed in turn.

        Raises:
            OwlStreamError: every server refuses for good, or no batch has come for `give_up_after_s`.
        """
        before = self._outcomes.get(self.url)
        repeats = before.repeats + 1 if before and str(before.error) == str(error) else 1
        outcome = self._outcomes[self.url] = _Outcome(error, repeats)
        if outcome.final:
            self._name_refusal(error)
        if len(self._outcomes) == len(self._urls) and all(each.final for each in self._outcomes.values()):
            raise self._all_refused() from error
        left_s = self._since + self._give_up_after_s - self._clock()
        if left_s <= 0:
            raise self._gave_up() from error
        if not self._told and self._clock() - self._since >= TELL_AFTER_S:
            self._told = True
            how_long = "for ever" if math.isinf(left_s) else f"for {left_s:.0f} s more"
            log.warning("waiting for a server: %s; trying %s (give_up_after_s)", error, how_long)
        self._failures += 1
        self._at = (self._at + 1) % len(self._urls)
        if self._failures % len(self._urls) == 0:
            interrupt.wait(min(left_s, self._delay_s()))
        left_s = self._since + self._give_up_after_s - self._clock()
        self.deadline.move(min(self._share_s, max(left_s, LAST_TRY_S)))

    def _delay_s(self) -> float:
        asked = [
            each.error.retry_after_s for each in self._outcomes.values() if isinstance(each.error, ServerBusyError)
        ]
        advised = min(asked) if len(asked) == len(self._outcomes) else 0.0
        return min(MOST_WAIT_S, max(advised, self._backoff.delay_s(self._failures // len(self._urls))))

    def _name_refusal(self, error: OwlStreamError) -> None:
        if (self.url, type(error).code) not in self._named and len(self._urls) > 1:
            self._named.add((self.url, type(error).code))
            log.warning("passed over %s: %s", self.url, error)

    def _all_refused(self) -> OwlStreamError:
        errors = [outcome.error for outcome in self._outcomes.values()]
        best = next((error for error in errors if isinstance(error, StateMismatchError)), errors[0])
        if len(errors) == 1:
            return best
        text = f"all {len(errors)} servers refused: " + "; ".join(str(error) for error in errors)
        return _same_kind(best, text)

    def _gave_up(self) -> OwlStreamError:
        outcomes = list(self._outcomes.values())
        last = next((each.error for each in reversed(outcomes) if not each.final), outcomes[-1].error)
        tried = "; ".join(f"{url} ({outcome.error})" for url, outcome in self._outcomes.items())
        return _same_kind(last, f"gave up after {self._give_up_after_s:g} s without a batch; tried {tried}")


def _share_s(give_up_after_s: float, servers: int) -> float:
    if not give_up_after_s:
        return ONLY_TRY_S
    if math.isinf(give_up_after_s) and servers > 1:
        return MOST_SHARE_S
    return give_up_after_s / servers


def _same_kind(error: OwlStreamError, text: str) -> OwlStreamError:
    if isinstance(error, StateMismatchError):
        return StateMismatchError(text, error.differences)
    return type(error)(text)
