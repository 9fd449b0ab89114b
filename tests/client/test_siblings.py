"""Siblings of faults 133 to 142 that were found afterwards."""

from __future__ import annotations

import traceback

import pytest
import torch
from torch.utils.data import DataLoader

from owl_client import OwlStreamDataset, crossing
from owl_client.order import describe_differences
from owl_stream.errors import ConfigError, PeerGoneError, ServerError
from owl_stream.wire import ErrorInfo, pack_frame
from tests.client.peers import chunk
from tests.client.test_silent_peers import CHUNKED, HEAD, HELLO, Talker, dataset_of, talking

SECRET = "sekrit-token-0123456789"


@pytest.mark.parametrize("said", [b"FOO \x1b[2J" + SECRET.encode(), b"HTTP/9\x1b[2J 200 OK", b"HTTP/1.1 9\x1b[2J OK"])
def test_an_answer_that_is_none_reaches_no_traceback(said: bytes) -> None:
    """`http.client` quotes it raw; whoever lets the error end a program prints its causes too."""
    talker = Talker(lambda: [said + b"\r\n\r\n"], 0, describes=False)
    with talking(talker) as url, pytest.raises(PeerGoneError) as caught:
        list(dataset_of(url, 0.3, token=SECRET))
    told = "".join(traceback.format_exception(caught.value))
    assert "\x1b" not in told
    assert SECRET not in told


def test_an_error_of_a_worker_keeps_its_lines() -> None:
    """torch makes it anew from the text of a traceback."""
    error = pack_frame(ErrorInfo("internal", "it broke\x1b[2J\nFORGED", False))
    talker = Talker(lambda: [HEAD + CHUNKED, chunk(HELLO), chunk(error)], 0, describes=True)
    with talking(talker) as url, pytest.raises(ServerError) as caught:
        list(DataLoader(dataset_of(url, 30.0), batch_size=None, num_workers=1))
    lines = str(caught.value).split("\n")
    assert lines[0].startswith("Caught ServerError in DataLoader worker")
    assert all(line.startswith("    ") for line in lines[1:])
    assert lines[-1].endswith(r"it broke\x1b[2J\nFORGED")


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".com"])
def test_a_host_that_cannot_be_looked_up(host: str) -> None:
    """Its labels have 1 to 63 characters."""
    with pytest.raises(ConfigError):
        OwlStreamDataset(f"http://{host}:80")


def test_a_worker_that_cannot_hand_over_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TMPDIR that is too long for a socket: torch's queue only prints it, and the trainer waits for ever."""

    def refuse(descriptor: int) -> None:
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr(crossing, "DupFd", refuse)
    crossing._check_sender.cache_clear()
    with pytest.raises(ConfigError, match="TMPDIR"):
        crossing.share({"a": torch.zeros(3)})
    crossing._check_sender.cache_clear()


def test_an_error_frame_shows_no_token() -> None:
    """A server may repeat what it was sent."""
    error = pack_frame(ErrorInfo("internal", f"who sent {SECRET}?", False))
    talker = Talker(lambda: [HEAD + CHUNKED, chunk(HELLO), chunk(error)], 0, describes=True)
    with talking(talker) as url, pytest.raises(ServerError, match=r"who sent \*\*\*\?"):
        list(dataset_of(url, 30.0, token=SECRET))


def test_differences_without_end_are_told_in_part() -> None:
    """The error says how many more there are; all of them are in `differences`."""
    told = describe_differences({f"{n}" * 4000: ("1" * 4000, "2" * 4000) for n in range(250)})
    assert len(told) < 4000
    assert told.endswith("and 242 more")
