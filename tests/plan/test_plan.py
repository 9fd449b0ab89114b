"""The plan: every sample once per epoch, in steps that depend on nothing but data, settings and epoch."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from owl_stream.errors import ConfigError, DataError, RequestError
from owl_stream.plan import Plan, valid_micro_batch_sizes, valid_world_sizes
from owl_stream.plan.table import pools_of
from tests.plan.tables import ArithmeticTable, ColumnTable, column_table, settings

PINNED_IDS = [604, 864, 608, 536, 868, 684, 796, 908]
PINNED_DEAL = [[[0, 1], [6, 7]], [[2, 3], [4, 5]]]
SETTINGS = st.fixed_dictionaries(
    {
        "global_batch_size": st.integers(1, 13),
        "seed": st.integers(0, 2**63 - 1),
        "shuffle": st.sampled_from(["none", "block", "full"]),
        "shuffle_block_shards": st.integers(1, 4),
        "bucket_window": st.integers(1, 6),
        "modality": st.sampled_from(["pure", "off"]),
        "last": st.sampled_from(["fill", "drop"]),
    }
)
TABLES = st.builds(
    column_table,
    st.integers(1, 150),
    st.integers(0, 100),
    text_share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    shards=st.integers(1, 9),
    video_share=st.sampled_from([0.0, 0.0, 0.3, 1.0]),
)


def planned(table: ColumnTable, changes: dict[str, object]) -> Plan | None:
    """A plan, or None where the settings leave no step."""
    chosen = settings(**changes)
    full = sum(table.pool_size(pool) // chosen.global_batch_size for pool in pools_of(chosen.modality))
    if chosen.last == "drop" and full == 0:
        with pytest.raises(ConfigError, match="last: drop"):
            Plan(table, chosen)
        return None
    return Plan(table, chosen)


@given(TABLES, SETTINGS, st.integers(0, 3))
@hypothesis_settings(deadline=None)
def test_every_sample_is_in_an_epoch_once_or_dropped_and_counted(
    table: ColumnTable, changes: dict[str, object], epoch: int
) -> None:
    """And steps, fillers and dropped rows add up to what was promised."""
    plan = planned(table, changes)
    if plan is None:
        return
    size = settings(**changes).global_batch_size
    steps = [plan.step(epoch, step) for step in range(plan.steps_per_epoch)]
    seen = Counter(int(sample) for step in steps for sample in step.ids)
    assert set(seen.values()) <= {1}
    assert len(seen) + plan.dropped_per_epoch == table.samples
    assert sum(step.fillers for step in steps) == plan.fillers_per_epoch
    assert all(len(step.ids) + step.fillers == size and len(step.ids) >= 1 for step in steps)
    assert plan.dropped_per_epoch == 0 or changes["last"] == "drop"
    assert plan.fillers_per_epoch == 0 or changes["last"] == "fill"
    for step in steps:
        columns = table.costs(step.ids)
        assert np.array_equal(step.costs.table, columns.table)
        assert step.supervised_tokens == columns.supervised_tokens.sum()
        if step.pool != "all":
            assert columns.in_pool(step.pool).all()


@given(TABLES, SETTINGS)
@hypothesis_settings(deadline=None, max_examples=40)
def test_a_step_holds_the_same_rows_for_every_world_and_micro_batch_size(
    table: ColumnTable, changes: dict[str, object]
) -> None:
    """Each row of a step is dealt once, whatever W and m; the rest are fillers."""
    plan = planned(table, changes)
    if plan is None:
        return
    size = settings(**changes).global_batch_size
    step = plan.step(1, plan.steps_per_epoch - 1)
    expected = [-1] * step.fillers + list(range(len(step.ids)))
    for world_size in valid_world_sizes(size):
        for micro_batch_size in valid_micro_batch_sizes(size, world_size):
            dealt = step.deal(world_size, micro_batch_size)
            assert dealt.rows.shape == (world_size, size // world_size // micro_batch_size, micro_batch_size)
            assert sorted(dealt.rows.ravel().tolist()) == expected


def test_equal_arguments_give_equal_steps_in_any_order_of_asking() -> None:
    """Two plans agree although one is asked backwards, so nothing depends on what was asked before."""
    table = column_table(500)
    first, second = Plan(table, settings()), Plan(table, settings())
    forwards = {step: first.step(2, step).ids.tolist() for step in range(first.steps_per_epoch)}
    backwards = {step: second.step(2, step).ids.tolist() for step in reversed(range(second.steps_per_epoch))}
    assert forwards == backwards


@pytest.mark.parametrize("shuffle", ["full", "block"])
def test_epochs_and_seeds_differ(shuffle: str) -> None:
    """Another epoch or seed puts other samples together."""
    table = column_table(500)
    steps = [Plan(table, settings(shuffle=shuffle, seed=seed)).step(epoch, 0) for seed in (0, 1) for epoch in (0, 1)]
    assert len({frozenset(step.ids.tolist()) for step in steps}) == 4


def test_shuffle_none_gives_every_epoch_the_same_steps() -> None:
    """And without windows, manifest order itself."""
    table = column_table(100)
    plan = Plan(table, settings(shuffle="none"))
    for step in range(plan.steps_per_epoch):
        assert plan.step(0, step).ids.tolist() == plan.step(5, step).ids.tolist()
    plain = Plan(table, settings(shuffle="none", bucket_window=1, modality="off"))
    assert sorted(plain.step(3, 2).ids.tolist()) == list(range(16, 24))


def test_two_pools_are_interleaved_evenly() -> None:
    """After any number of steps each pool is within one step of its share."""
    plan = Plan(column_table(1000, text_share=0.23), settings())
    pools = [plan.step(0, step).pool for step in range(plan.steps_per_epoch)]
    share = pools.count("text") / len(pools)
    for step in range(len(pools)):
        assert abs(pools[:step].count("text") - share * step) < 1
    assert set(pools) == {"image", "text"}


def test_an_empty_pool_has_no_steps() -> None:
    """Text-only data under `modality: pure` is all text steps."""
    plan = Plan(column_table(40, text_share=1.0), settings())
    assert {plan.step(0, step).pool for step in range(plan.steps_per_epoch)} == {"text"}


def test_windows_are_sorted_by_text_length_and_their_steps_are_permuted() -> None:
    """A window's steps do not overlap in length; their order within the window is not sorted; windows keep order."""
    table = column_table(8 * 16 * 5)
    plan = Plan(table, settings(bucket_window=16, modality="off", shuffle="none"))
    ascending = []
    for window in range(5):
        steps = [plan.step(0, window * 16 + slot) for slot in range(16)]
        rows = sorted(int(row) for step in steps for row in step.ids)
        assert rows == list(range(window * 128, window * 128 + 128))
        longest = [int(step.costs.text_tokens[0]) for step in steps]
        ascending.append(longest in (sorted(longest), sorted(longest)[::-1]))
        ordered = sorted(steps, key=lambda step: -int(step.costs.text_tokens.sum()))
        for longer, shorter in itertools.pairwise(ordered):
            assert longer.costs.text_tokens.min() >= shorter.costs.text_tokens.max()
    assert not any(ascending)


def test_steps_are_permuted_anew_in_every_window_epoch_and_seed() -> None:
    """Else every window would show its long rows at the same time."""

    def ranking(seed: int, epoch: int, window: int) -> tuple[int, ...]:
        plan = Plan(ArithmeticTable(8 * 16 * 4), settings(bucket_window=16, modality="off", seed=seed))
        longest = [int(plan.step(epoch, window * 16 + slot).costs.text_tokens[0]) for slot in range(16)]
        return tuple(sorted(range(16), key=lambda slot: longest[slot]))

    assert len({ranking(*where) for where in itertools.product((0, 1), repeat=3)}) == 8


def test_rows_of_a_step_come_longest_first_with_ties_by_place() -> None:
    """Canonical order: what `the first good row` means is the same everywhere."""
    table = column_table(64)
    table.text_tokens[:] = np.arange(64) % 3 + 60
    step = Plan(table, settings(shuffle="none", modality="off", bucket_window=8, global_batch_size=64)).step(0, 0)
    expected = sorted(range(64), key=lambda row: (-int(table.text_tokens[row]), row))
    assert step.ids.tolist() == expected


def test_the_partial_step_takes_the_shortest_rows_of_the_last_window() -> None:
    """Fillers stand beside short rows, where they cost least."""
    table = column_table(8 * 6 + 3)
    plan = Plan(table, settings(modality="off", shuffle="none"))
    steps = [plan.step(0, step) for step in range(plan.steps_per_epoch)]
    partial = [number for number, step in enumerate(steps) if step.fillers]
    assert len(partial) == 1
    assert partial[0] >= 4
    assert steps[partial[0]].costs.text_tokens.tolist() == sorted(table.text_tokens[32:].tolist())[:3][::-1]


def test_dropping_leaves_the_shortest_rows_of_the_last_window_out() -> None:
    """`last: drop` counts them and keeps the full steps of the window."""
    table = column_table(8 * 6 + 3)
    plan = Plan(table, settings(modality="off", shuffle="none", last="drop"))
    seen = {int(row) for step in range(plan.steps_per_epoch) for row in plan.step(0, step).ids}
    dropped = sorted(set(range(51)) - seen)
    assert (plan.steps_per_epoch, plan.dropped_per_epoch, plan.fillers_per_epoch) == (6, 3, 0)
    assert sorted(table.text_tokens[dropped].tolist()) == sorted(table.text_tokens[32:].tolist())[:3]


@pytest.mark.parametrize("shuffle", ["none", "block", "full"])
def test_a_hundred_million_samples_cost_one_window(shuffle: Literal["none", "block", "full"]) -> None:
    """Making the plan reads nothing, one step reads its own window, and the next of that window reads nothing more."""
    table = ArithmeticTable(100_000_000)
    plan = Plan(table, settings(shuffle=shuffle, bucket_window=32, shuffle_block_shards=8))
    assert plan.steps_per_epoch == 12_500_000
    assert table.calls == []
    step = plan.step(7, 9_999_999)
    assert len(step.ids) == 8
    assert (table.ids_read, table.costs_read) == (256, 256)
    plan.step(7, 9_999_999)
    plan.step(7, 9_999_998)
    assert table.ids_read <= 512
    assert len(table.calls) - table.calls.count("pool_counts_by_shard") <= 4


def test_the_plan_never_changes_silently() -> None:
    """Pinned; a change here changes saved runs, so PLAN_VERSION must rise with it."""
    plan = Plan(ArithmeticTable(1000), settings(seed=5))
    assert plan.step(2, 17).ids.tolist() == PINNED_IDS
    assert plan.step(2, 17).deal(2, 2).rows.tolist() == PINNED_DEAL
    assert [plan.step(0, step).pool for step in range(9)].count("text") == 2


@pytest.mark.parametrize(("epoch", "step"), [(-1, 0), (1 << 63, 0), (0, -1), (0, 13), (0, 1 << 70)])
def test_fault_20_a_step_that_is_not_there_is_refused(epoch: int, step: int) -> None:
    """Negative, past the end, or absurd."""
    plan = Plan(column_table(100), settings(modality="off"))
    with pytest.raises(RequestError, match="expected"):
        plan.step(epoch, step)


def test_fault_79_no_sample_at_all_is_said_at_once() -> None:
    """An empty manifest is an error, not an epoch without end."""
    with pytest.raises(DataError, match="no good sample"):
        Plan(column_table(0), settings())


def test_a_window_too_large_to_sort_is_refused_at_once() -> None:
    """The message names both settings and the limit."""
    with pytest.raises(ConfigError, match="bucket_window 65536 x global_batch_size 1024"):
        Plan(ArithmeticTable(100_000_000), settings(bucket_window=65536, global_batch_size=1024))
    assert Plan(ArithmeticTable(1000), settings(bucket_window=65536, global_batch_size=1024)).steps_per_epoch == 2


def test_the_rows_of_a_step_cannot_be_written() -> None:
    """Steps are shared between streams."""
    step = Plan(column_table(100), settings()).step(0, 0)
    for column in (step.ids, step.costs.text_tokens, step.deal(2, 2).rows):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 0


def test_four_pools_are_interleaved_evenly() -> None:
    """After any number of steps each pool has had its share of them, to within one."""
    plan = Plan(column_table(4000, text_share=0.4, video_share=0.3), settings())
    pools = [plan.step(0, step).pool for step in range(plan.steps_per_epoch)]
    assert set(pools) == {"text", "image", "video", "image_video"}
    totals = Counter(pools)
    seen: Counter[str] = Counter()
    for steps, pool in enumerate(pools, 1):
        seen[pool] += 1
        assert all(abs(seen[each] - steps * total / len(pools)) < 1 for each, total in totals.items()), steps
