"""Runs of placeholders: a text that is filled, and ids that are repeated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from owl_stream.errors import SampleError
from owl_stream.layouts.placeholders import Replacement, fill, repeat

MARK = 9


@given(st.lists(st.tuples(st.text("ab \n", max_size=4), st.sampled_from(["<i>", "<v>"])), max_size=6))
def test_each_marker_is_replaced_by_its_own_next_text(pieces: list[tuple[str, str]]) -> None:
    """Two kinds of markers in any order; the spans hold the replacements, and runs follow the text."""
    text = "".join(words + marker for words, marker in pieces) + "end"
    given_ = {
        kind: [Replacement(f"[{kind}{n}]", (n + 1, len(kind))) for n in range(text.count(kind))]
        for kind in ("<i>", "<v>")
    }
    waiting = {kind: list(replacements) for kind, replacements in given_.items()}
    chosen = [waiting[marker].pop(0) for _, marker in pieces]
    filled = fill(text, given_)
    assert filled.text == "".join(words + new.text for (words, _), new in zip(pieces, chosen, strict=True)) + "end"
    assert [filled.text[first:end] for first, end in filled.spans] == [new.text for new in chosen]
    assert filled.runs == tuple(run for new in chosen for run in new.runs)


def test_a_replacement_that_holds_its_own_marker_is_left_as_it_is() -> None:
    """Gemma's marker is a part of what replaces it."""
    filled = fill("<i> and <i>", {"<i>": [Replacement("(<i>)", (1,)), Replacement("<i><i>", (1, 1))]})
    assert filled.text == "(<i>) and <i><i>"


def test_a_text_without_media_is_unchanged() -> None:
    """No marker is looked for where there is none to replace."""
    assert fill("a <i> b", {}) == ("a <i> b", (), ())


@pytest.mark.parametrize("text", ["no marker", "<i> and <i>"])
def test_a_text_with_other_markers_than_media_is_a_bad_sample(text: str) -> None:
    """The marker is named with both numbers."""
    with pytest.raises(SampleError, match=f"expected <i> 1 times, .* got {text.count('<i>')}") as caught:
        fill(text, {"<i>": [Replacement("x", (1,))]})
    assert caught.value.reason == "placeholder_count"


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
