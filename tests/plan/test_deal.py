"""Dealing a step to ranks and micro-batches."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from owl_stream.errors import RequestError
from owl_stream.plan import Dealt, Plan, search
from owl_stream.plan.deal import deal
from owl_stream.plan.search import Weights
from owl_stream.shards import Costs
from tests.plan.tables import column_table, image_costs, settings

WEIGHTS = Weights(text_token=1, vision_token=1)


def rows(lengths: list[int] | NDArray[np.int64], crops: list[int] | NDArray[np.int64]) -> Costs:
    """Costs of a step, put longest first."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    columns = (np.asarray(lengths, np.int64)[order], np.asarray(crops, np.int64)[order])
    return image_costs(columns[0], columns[0], columns[1])


def random_rows(count: int, seed: int = 0) -> Costs:
    """60 to 400 text tokens and 1 to 6 crops a row."""
    rng = np.random.default_rng(seed)
    return rows(rng.integers(60, 401, count), rng.integers(1, 7, count))


def cost_of(members: NDArray[np.int64], costs: Costs, weights: Weights) -> int:
    """The cost of a micro-batch, spelled out: a filler is a padded row, a lone filler micro-batch repeats row 0."""
    good = members[members >= 0]
    good = good if good.size else np.array([0])
    padded = len(members) * int(costs.text_tokens[good].max())
    return padded * weights.text_token + int(costs.vision_tokens[good].sum()) * weights.vision_token


@st.composite
def deals(draw: st.DrawFn) -> tuple[Costs, int, int, int]:
    """Rows and a (G, W, m) that divides; the step may be far from full."""
    world_size, micros, width = (draw(st.integers(1, 5)) for _ in range(3))
    size = world_size * micros * width
    good = draw(st.integers(1, size))
    return random_rows(good, draw(st.integers(0, 1000))), size, world_size, width


@given(deals(), st.sampled_from([WEIGHTS, Weights(1, 0), Weights(0, 1), Weights(0, 0)]))
@hypothesis_settings(deadline=None)
def test_every_row_is_dealt_once_and_the_costs_are_what_they_say(
    case: tuple[Costs, int, int, int], weights: Weights
) -> None:
    """Rows, micro-batch costs, rank costs and padding, each against its definition."""
    costs, size, world_size, width = case
    dealt = deal(costs, size, world_size, width, weights)
    good = len(costs.text_tokens)
    assert sorted(dealt.rows.ravel().tolist()) == [-1] * (size - good) + list(range(good))
    expected = [[cost_of(micro, costs, weights) for micro in rank] for rank in dealt.rows]
    assert dealt.micro_costs.tolist() == expected
    assert dealt.rank_costs.tolist() == [sum(rank) for rank in expected]
    assert dealt.padded_tokens == sum(cost_of(micro, costs, Weights(1, 0)) for micro in dealt.rows.reshape(-1, width))


@given(deals())
@hypothesis_settings(deadline=None)
def test_no_micro_batch_lacks_a_row_while_there_are_enough(case: tuple[Costs, int, int, int]) -> None:
    """Its mean loss would be NaN. With too few rows, each stands in a micro-batch of its own."""
    costs, size, world_size, width = case
    batches = deal(costs, size, world_size, width, WEIGHTS).rows.reshape(-1, width)
    with_rows = int((batches >= 0).any(axis=1).sum())
    assert with_rows == min(len(batches), len(costs.text_tokens))


@given(deals())
@hypothesis_settings(deadline=None)
def test_micro_batches_are_in_canonical_order_dearest_first(case: tuple[Costs, int, int, int]) -> None:
    """Rows ascend with fillers last; micro k costs about the same on every rank."""
    costs, size, world_size, width = case
    dealt = deal(costs, size, world_size, width, WEIGHTS)
    for micro in dealt.rows.reshape(-1, width).tolist():
        good = [row for row in micro if row >= 0]
        assert micro == sorted(good) + [-1] * (width - len(good))
    assert (np.diff(dealt.micro_costs, axis=1) <= 0).all()


def best_by_hand(costs: Costs, world_size: int, width: int) -> tuple[int, int]:
    """The least (dearest rank, padding) over all deals with one micro-batch per rank."""
    everything = frozenset(range(len(costs.text_tokens)))

    def outcomes(left: frozenset[int], ranks: int) -> set[tuple[int, int]]:
        if ranks == 0:
            return {(0, 0)}
        found = set()
        for others in itertools.combinations(sorted(left)[1:], width - 1):
            mine = np.array([min(left), *others])
            for dearest, padded in outcomes(left - set(mine.tolist()), ranks - 1):
                here = cost_of(mine, costs, WEIGHTS)
                found.add((max(here, dearest), padded + width * int(costs.text_tokens[mine].max())))
        return found

    return min(outcomes(everything, world_size))


@pytest.mark.parametrize(("world_size", "width"), [(2, 3), (2, 4), (3, 2)])
def test_small_deals_are_close_to_the_best_there_is(world_size: int, width: int) -> None:
    """Against every possible deal: at most 3 % dearer, and on average within 1 %."""
    excess = []
    for seed in range(12):
        costs = random_rows(world_size * width, seed)
        dealt = deal(costs, world_size * width, world_size, width, WEIGHTS)
        excess.append(int(dealt.rank_costs.max()) / best_by_hand(costs, world_size, width)[0])
    assert max(excess) <= 1.03
    assert float(np.mean(excess)) <= 1.01


def test_among_equally_cheap_deals_lengths_stay_together() -> None:
    """With no images and one rank's micro-batches, the padding is the least possible."""
    costs = rows([400, 390, 300, 290, 200, 190, 100, 90], [0] * 8)
    dealt = deal(costs, 8, 1, 2, WEIGHTS)
    assert dealt.rows.tolist() == [[[0, 1], [2, 3], [4, 5], [6, 7]]]


def test_rows_rich_in_crops_go_to_different_ranks() -> None:
    """Balanced by vision cost, where lengths alone would put both on one rank."""
    dealt = deal(rows([100, 100, 99, 99], [9, 9, 1, 1]), 4, 2, 2, WEIGHTS)
    assert sorted(int(np.count_nonzero(rank < 2)) for rank in dealt.rows) == [1, 1]


def summary(steps: list[Costs], dealt: list[Dealt]) -> tuple[float, float]:
    """(mean of dearest / mean rank cost, attended / all text tokens)."""
    attended = sum(int(costs.text_tokens.sum()) for costs in steps)
    ratio = float(np.mean([one.rank_costs.max() / one.rank_costs.mean() for one in dealt]))
    return ratio, attended / sum(one.padded_tokens for one in dealt)


@pytest.mark.parametrize(("bucket_window", "ratio", "efficiency"), [(32, 1.03, 0.98), (4, 1.03, 0.92)])
def test_ranks_cost_alike_while_little_is_padded(bucket_window: int, ratio: float, efficiency: float) -> None:
    """G 32, W 4, m 8; 1 to 6 crops of 729 tokens, 60 to 400 text tokens: both goals in the same plan."""
    plan = Plan(column_table(32 * 64, text_share=0.0), settings(global_batch_size=32, bucket_window=bucket_window))
    steps = [plan.step(0, step) for step in range(plan.steps_per_epoch)]
    found = summary([step.costs for step in steps], [step.deal(4, 8) for step in steps])
    assert found[0] <= ratio
    assert found[1] >= efficiency


def test_micro_batches_of_a_rank_keep_lengths_together() -> None:
    """G 32, W 4, m 2 without windows: four micro-batches a rank are room enough."""
    steps = [random_rows(32, seed) for seed in range(20)]
    ratio, efficiency = summary(steps, [deal(costs, 32, 4, 2, WEIGHTS) for costs in steps])
    assert ratio <= 1.03
    assert efficiency >= 0.93


def test_many_ranks_cost_alike_and_pad_little() -> None:
    """G 512, W 64, m 8 without windows."""
    steps = [random_rows(512, seed) for seed in range(2)]
    ratio, efficiency = summary(steps, [deal(costs, 512, 64, 8, WEIGHTS) for costs in steps])
    assert ratio <= 1.05
    assert efficiency >= 0.93


def test_equally_cheap_deals_are_told_apart_by_padding() -> None:
    """G 32, W 4, m 8 without windows: bringing down the tightest deal pads less than tightening a balanced one."""
    steps = [random_rows(32, seed) for seed in range(40)]
    ratio, efficiency = summary(steps, [deal(costs, 32, 4, 8, WEIGHTS) for costs in steps])
    assert ratio <= 1.02
    assert efficiency >= 0.805


@pytest.mark.parametrize(("size", "world_size"), [(512, 64), (65536, 8)])
def test_a_huge_global_batch_weighs_a_bounded_number_of_swaps(
    size: int, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work of the search does not grow with G beyond its limit, and still the ranks cost alike."""
    weighed = []

    class Counted(search._Swaps):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            weighed.append(self.growth.size)

    monkeypatch.setattr(search, "_Swaps", Counted)
    dealt = deal(random_rows(size), size, world_size, 8, WEIGHTS)
    assert max(weighed) <= 1 << 14
    assert sum(weighed) <= 1_500_000
    assert dealt.rank_costs.max() / dealt.rank_costs.mean() < 1.05


def test_equal_rows_give_equal_deals() -> None:
    """A deal is a function of its arguments, ties included."""
    costs = rows([100] * 24, [2] * 24)
    assert np.array_equal(deal(costs, 24, 3, 2, WEIGHTS).rows, deal(costs, 24, 3, 2, WEIGHTS).rows)


def test_a_step_remembers_its_deals_but_not_all_of_them() -> None:
    """A rank asks for the same deal once per micro-batch; a client may ask for any sizes."""
    step = Plan(column_table(720, text_share=0), settings(global_batch_size=720)).step(0, 0)
    assert step.deal(4, 9) is not step.deal(2, 9)
    assert step.deal(4, 9) is step.deal(4, 9)
    for width in (1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 15):
        step.deal(1, width)
    assert len(step._dealt) <= 8


@pytest.mark.parametrize(("rank", "micro"), [(-1, 0), (2, 0), (0, -1), (0, 2)])
def test_fault_86_a_micro_batch_that_is_not_there_is_refused(rank: int, micro: int) -> None:
    """No Python-style counting from the end."""
    dealt = deal(random_rows(8), 8, 2, 2, WEIGHTS)
    assert dealt.micro_batch(1, 1).shape == (2,)
    with pytest.raises(RequestError):
        dealt.micro_batch(rank, micro)


def test_fault_86_sizes_that_do_not_divide_are_refused() -> None:
    """Before anything is dealt."""
    with pytest.raises(RequestError, match="valid world_size"):
        deal(random_rows(8), 8, 3, 1, WEIGHTS)
