"""Which grid an image is cut into."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from owl_stream.layouts.owl3.grid import GRIDS, choose_grid


def test_the_rule_agrees_with_all_golden_cases(golden_dir: Path) -> None:
    """All 928 cases, from 1x1 to 4000 pixels a side, at crops of 378 and 384 pixels."""
    cases = json.loads((golden_dir / "owl3_grid.json").read_text())["rows"]
    assert len(cases) == 928
    wrong = [case for case in cases if choose_grid(case[1], case[2], case[0]) != (case[3], case[4])]
    assert wrong == []


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_any_size_has_a_grid(width: int, height: int) -> None:
    """The rule is total, also for a picture one pixel high."""
    assert choose_grid(width, height, 384) in GRIDS


def test_a_larger_copy_of_a_square_keeps_its_shape() -> None:
    """Shape weighs a hundred times what size does."""
    assert {choose_grid(side, side, 384) for side in (10, 384, 768, 5000)} == {(2, 2)}
