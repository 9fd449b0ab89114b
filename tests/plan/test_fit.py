"""The weights of the cost model, found again in times that were made from known ones."""

from __future__ import annotations

import numpy as np
import pytest

from owl_stream.errors import DataError
from owl_stream.plan import StepTime, fit_costs


def times(count: int = 200, *, fixed: float = 3e-3, text: float = 4e-6, vision: float = 1e-6) -> list[StepTime]:
    """Batches of all lengths with 0 to 40 crops of 729 tokens, 2 % of noise, each tenth one three times too slow."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        tokens, crops = int(rng.integers(100, 8000)), 729 * int(rng.integers(0, 40))
        seconds = (fixed + text * tokens + vision * crops) * rng.normal(1, 0.02) * (3 if number % 10 == 0 else 1)
        made.append(StepTime(tokens, crops, seconds))
    return made


def test_weights_are_found_beside_outliers() -> None:
    """A first batch that compiles and one that met a busy machine do not decide; the ratio is right within 3 %."""
    fit = fit_costs(times())
    assert fit.text_token_cost == 1000
    assert fit.vision_token_cost == pytest.approx(250, rel=0.03)
    assert fit.fixed_s == pytest.approx(3e-3, rel=0.2)
    assert fit.error < 0.03 < fit.even_error


@pytest.mark.parametrize(("text", "vision", "expected"), [(0.0, 2e-6, (0, 1000)), (5e-6, 0.0, (1000, 0))])
def test_no_weight_is_negative(text: float, vision: float, expected: tuple[int, int]) -> None:
    """Where one kind of token costs nothing, noise does not make it less."""
    fit = fit_costs(times(text=text, vision=vision))
    found = (fit.text_token_cost, fit.vision_token_cost)
    assert min(found) >= 0
    assert found == pytest.approx(expected, abs=20)


def test_too_few_batches_say_how_many_are_needed() -> None:
    """A handful of times is refused."""
    with pytest.raises(DataError, match="at least 16 batches, got 15"):
        fit_costs(times(15))


def test_batches_that_are_alike_are_refused() -> None:
    """Where text follows from vision, no ratio can be told."""
    alike = [StepTime(10 * n, 729 * n, 1e-3 * n) for n in range(1, 40)]
    with pytest.raises(DataError, match="one follows from the other"):
        fit_costs(alike)
    with pytest.raises(DataError, match="one follows from the other"):
        fit_costs([StepTime(100, 0, 1e-3)] * 40)


def test_times_that_fall_with_size_are_refused() -> None:
    """Nothing is made of a machine's mood."""
    with pytest.raises(DataError, match="none that do"):
        fit_costs([StepTime(each.text_tokens, each.vision_tokens, 1 / each.seconds) for each in times()])
