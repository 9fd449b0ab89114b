"""World sizes and micro-batch sizes that go together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from owl_stream.errors import RequestError
from owl_stream.plan import check_deal, check_rank, valid_micro_batch_sizes, valid_world_sizes


@given(st.integers(1, 200), st.integers(-3, 210), st.integers(-3, 210))
def test_what_is_called_valid_is_what_is_accepted(size: int, world_size: int, micro_batch_size: int) -> None:
    """Both lists agree with the check, and with each other."""
    fits = micro_batch_size in valid_micro_batch_sizes(size, world_size)
    assert fits == (world_size in valid_world_sizes(size, micro_batch_size))
    if fits:
        assert check_deal(size, world_size, micro_batch_size) * world_size * micro_batch_size == size
    else:
        with pytest.raises(RequestError):
            check_deal(size, world_size, micro_batch_size)


def test_fault_86_a_world_size_that_does_not_divide_names_the_valid_ones() -> None:
    """The message lists micro-batch sizes for this world size, and world sizes."""
    with pytest.raises(RequestError) as caught:
        check_deal(12, 4, 2)
    text = str(caught.value)
    assert "global batch of 12" in text
    assert "valid micro_batch_size for world_size 4: 1, 3;" in text
    assert "valid world_size for micro_batch_size 2: 1, 2, 3, 6;" in text
    with pytest.raises(RequestError) as caught:
        check_deal(12, 5, 1)
    text = str(caught.value)
    assert "valid micro_batch_size for world_size 5: none;" in text
    assert text.endswith("valid world_size at all: 1, 2, 3, 4, 6, 12")


@pytest.mark.parametrize(("rank", "world_size"), [(-1, 4), (4, 4), (0, 0), (7, 2)])
def test_fault_86_a_rank_outside_the_world_is_refused(rank: int, world_size: int) -> None:
    """The message names the valid ranks."""
    with pytest.raises(RequestError, match=r"valid ranks: (0 to|none)"):
        check_rank(rank, world_size)


def test_a_rank_of_the_world_is_itself() -> None:
    """Every rank from 0 to W-1."""
    assert [check_rank(rank, 4) for rank in range(4)] == [0, 1, 2, 3]
