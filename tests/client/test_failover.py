"""The policy of trying again: rounds, waits, advice of servers, giving up; with a clock of its own."""

from __future__ import annotations

import pytest

from owl_client.failover import Backoff, Failover
from owl_client.transport import Interrupt
from owl_stream.errors import OwlStreamError, PeerGoneError, ServerBusyError, StateMismatchError, UnknownDatasetError


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now, self.waits = 0.0, list[float]()

    def __call__(self) -> float:
        """Seconds since the beginning."""
        return self.now


class Waiting(Interrupt):
    """An interrupt whose waits are noted instead of slept."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.waits.append(seconds)
        self.clock.now += seconds


def fail(failover: Failover, interrupt: Interrupt, error: OwlStreamError, times: int = 1) -> None:
    """The same failure so often."""
    for _ in range(times):
        failover.failed(error, interrupt)


def fail_in_turn(failover: Failover, interrupt: Interrupt, errors: list[OwlStreamError]) -> None:
    """One failure after the other."""
    for error in errors:
        failover.failed(error, interrupt)


def test_waits_double_up_to_a_limit_and_are_jittered() -> None:
    """A lone server is asked ever more rarely; half of each wait is chance, so that ranks do not come back together."""
    clock = Clock()
    failover = Failover(["a"], 1000.0, Backoff(1.0, 8.0), clock)
    fail(failover, Waiting(clock), PeerGoneError("x"), 6)
    for wait, whole in zip(clock.waits, [1, 2, 4, 8, 8, 8], strict=True):
        assert whole / 2 <= wait <= whole
    assert len({wait / whole for wait, whole in zip(clock.waits, [1, 2, 4, 8, 8, 8], strict=True)}) > 1


def test_all_servers_are_tried_before_anyone_waits() -> None:
    """Failing over is immediate; only a whole round without success is followed by a wait."""
    clock = Clock()
    failover, interrupt, tried = Failover(["a", "b", "c"], 1000.0, Backoff(1.0, 1.0), clock), Waiting(clock), []
    for _ in range(7):
        tried.append((failover.url, len(clock.waits)))
        fail(failover, interrupt, PeerGoneError("x"))
    assert tried == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("c", 1), ("a", 2)]


def test_the_server_that_works_is_kept() -> None:
    """After progress the same server is asked again, and counting starts anew."""
    clock = Clock()
    failover, interrupt = Failover(["a", "b"], 1000.0, Backoff(1.0, 1.0), clock), Waiting(clock)
    fail(failover, interrupt, PeerGoneError("x"))
    failover.progressed()
    assert failover.url == "b"
    fail(failover, interrupt, PeerGoneError("x"))
    assert (failover.url, clock.waits) == ("a", [])


def test_retry_after_is_heeded_up_to_a_limit() -> None:
    """A busy server's advice lengthens the wait; an absurd one does not stall the run."""
    clock = Clock()
    failover, interrupt = Failover(["a"], 1e6, Backoff(0.1, 0.1), clock), Waiting(clock)
    fail(failover, interrupt, ServerBusyError("x", 7.0))
    fail(failover, interrupt, ServerBusyError("x", 1e9))
    assert clock.waits == [7.0, 30.0]


def test_giving_up_takes_as_long_as_it_was_told() -> None:
    """The last try is made when the time is up, then the last error is raised with all addresses."""
    clock = Clock()
    failover, interrupt = Failover(["a", "b"], 20.0, Backoff(4.0, 4.0), clock), Waiting(clock)
    with pytest.raises(PeerGoneError, match=r"gave up after 20 s.*a \(x\).*b \(x\)"):
        fail(failover, interrupt, PeerGoneError("x"), 1000)
    assert clock.now == pytest.approx(20.0)


def test_progress_starts_the_time_anew() -> None:
    """Giving up is about time without a batch, not about the length of a run."""
    clock = Clock()
    failover, interrupt = Failover(["a"], 20.0, Backoff(15.0, 15.0), clock), Waiting(clock)
    for _ in range(50):
        fail(failover, interrupt, PeerGoneError("x"))
        failover.progressed()
    assert clock.now > 300


def test_one_server_that_refuses_does_not_end_the_wait_for_another() -> None:
    """As long as one may come back, a refusal of the other is only named, once."""
    clock = Clock()
    failover, interrupt = Failover(["a", "b"], 20.0, Backoff(4.0, 4.0), clock), Waiting(clock)
    with pytest.raises(PeerGoneError, match="gave up"):
        fail_in_turn(failover, interrupt, [StateMismatchError("other data"), PeerGoneError("down")] * 100)
    assert clock.now == pytest.approx(20.0)


def test_when_all_refuse_the_mismatch_is_the_error_that_is_raised() -> None:
    """Among different refusals the one with differences says most."""
    failover, interrupt = Failover(["a", "b"], 20.0), Interrupt()
    failover.failed(UnknownDatasetError("none"), interrupt)
    with pytest.raises(StateMismatchError, match="all 2 servers refused: none; other") as caught:
        failover.failed(StateMismatchError("other", {"seed": ("0", "1")}), interrupt)
    assert caught.value.differences == {"seed": ("0", "1")}


def test_a_trainer_is_told_once_what_it_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    """Not for a moment's loss, and not with every try; again only after something came in between."""
    clock = Clock()
    failover, waiting = Failover(["a"], 300.0, Backoff(1.0, 1.0), clock), Waiting(clock)
    fail(failover, waiting, PeerGoneError("a: refused; is the server running there?"), 3)
    assert caplog.messages == []
    fail(failover, waiting, PeerGoneError("a: refused; is the server running there?"), 20)
    (told,) = caplog.messages
    assert "waiting for a server: a: refused; is the server running there?; trying for 29" in told
    assert "give_up_after_s" in told
    failover.progressed()
    fail(failover, waiting, PeerGoneError("a: reset"), 20)
    assert len(caplog.messages) == 2
