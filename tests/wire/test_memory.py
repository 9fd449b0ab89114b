"""Offers and places: what a reader and a server on one machine say to each other about memory."""

from __future__ import annotations

import pytest

from owl_stream.errors import FrameError
from owl_stream.wire import MemoryOffer, MemoryPlace


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.1.2.3"])
def test_an_offer_survives_its_header(host: str) -> None:
    """What a server reads is what the reader meant; no two offers are alike."""
    offer = MemoryOffer.make(host, 40123)
    assert MemoryOffer.from_header(offer.to_header()) == offer
    other = MemoryOffer.make(host, 40123)
    assert (other.name == offer.name, other.key == offer.key, other.path == offer.path) == (False, False, False)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "yes",
        f"{'0' * 32} {'0' * 32} 127.0.0.1",
        f"{'0' * 31}/ {'0' * 32} 127.0.0.1 80",
        f"{'0' * 33} {'0' * 32} 127.0.0.1 80",
        f"{'0' * 32} {'0' * 32} 127.0.0.1 80\n",
        f"{'0' * 32} {'0' * 32} 127.0.0.1 port",
    ],
)
def test_anything_else_is_no_offer(value: str) -> None:
    """A name that is not ours to make up cannot send a server anywhere."""
    assert MemoryOffer.from_header(value) is None


def test_an_offer_names_a_socket_of_ours() -> None:
    """Whatever a reader says, a server goes to no other kind of socket."""
    assert MemoryOffer.make("127.0.0.1", 1).path.startswith(b"\0owl-stream-")


@pytest.mark.parametrize("forget", [(), (1,), (2**63, 0, 7)])
def test_a_place_survives_its_bytes(forget: tuple[int, ...]) -> None:
    """Numbers of 64 bits, and any number of slabs to forget."""
    place = MemoryPlace(3, 64 + 17, 2**40, forget)
    assert MemoryPlace.from_bytes(place.to_bytes()) == place


@pytest.mark.parametrize("nbytes", [0, 8, 23, 25, 31])
def test_bytes_of_another_length_are_no_place(nbytes: int) -> None:
    """The message names both lengths."""
    with pytest.raises(FrameError, match=f"got {nbytes}"):
        MemoryPlace.from_bytes(b"\1" * nbytes)


def test_a_place_without_bytes_is_refused() -> None:
    """It would be an end of the body that nobody meant."""
    with pytest.raises(FrameError, match="expected a frame"):
        MemoryPlace.from_bytes(MemoryPlace(1, 64, 0).to_bytes())
