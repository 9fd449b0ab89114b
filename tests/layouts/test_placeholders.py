"""Runs of placeholders: ids that are repeated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from owl_stream.errors import SampleError
from owl_stream.layouts.placeholders import repeat

MARK = 9


@given(st.lists(st.one_of(st.just(MARK), st.integers(0, 8)), max_size=20), st.data())
def test_a_run_is_its_placeholder_as_often_as_it_has_tokens(ids: list[int], data: st.DataObject) -> None:
    """Every other token stands once, and each token's start is told."""
    runs = [data.draw(st.integers(1, 5)) for _ in range(ids.count(MARK))]
    repeated = repeat(ids, [MARK], runs)
    waiting = iter(runs)
    groups = [[token] * (next(waiting) if token == MARK else 1) for token in ids]
    assert repeated.input_ids.tolist() == [token for group in groups for token in group]
    assert repeated.input_ids.dtype == repeated.starts.dtype == np.int64
    parts = [repeated.input_ids[a:b].tolist() for a, b in zip(repeated.starts, repeated.starts[1:], strict=False)]
    assert parts == groups


@pytest.mark.parametrize("runs", [(), (4, 4)])
def test_ids_with_other_placeholders_than_runs_are_a_bad_sample(runs: tuple[int, ...]) -> None:
    """A text that spells out a placeholder would get the pixels of a picture that it does not have."""
    with pytest.raises(SampleError, match=r"expected token 9 \d times, .* got 1") as caught:
        repeat([1, MARK, 2], [MARK], runs)
    assert caught.value.reason == "placeholder_count"
