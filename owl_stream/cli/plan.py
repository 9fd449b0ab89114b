"""`owl-stream plan`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from owl_stream.cli.index import open_indexed
from owl_stream.cli.options import (
    BatchOption,
    ConfigOption,
    DatasetOption,
    IndexOption,
    JsonOption,
    LayoutOption,
    ModelOption,
    ShardsOption,
    TokenizerOption,
    choose,
    settings,
)
from owl_stream.cli.terminal import Bar, Screen, emit, say

if TYPE_CHECKING:
    from owl_stream.assemble import Dataset


def plan(
    config: ConfigOption = None,
    shards: ShardsOption = None,
    model: ModelOption = None,
    tokenizer: TokenizerOption = None,
    layout: LayoutOption = None,
    global_batch_size: BatchOption = None,
    dataset: DatasetOption = None,
    index_dir: IndexOption = None,
    epoch: Annotated[int, typer.Option("--epoch", "-e", min=0, help="Which epoch, from 0.")] = 0,
    step: Annotated[int, typer.Option(min=0, help="First global step, from 0.")] = 0,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="How many steps; 0: to the end of the epoch.")] = 8,
    world_size: Annotated[int, typer.Option("--world-size", "-w", min=1, help="Ranks that share a step.")] = 1,
    micro_batch_size: Annotated[
        int | None, typer.Option("--micro-batch-size", "-m", min=1, help="Rows a batch; default: a rank's whole share.")
    ] = None,
    rows: Annotated[bool, typer.Option("--rows", help="List each step's samples by rank and micro-batch.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show which samples are in which global steps, what they cost, and how evenly they are dealt to the ranks.

    Tokens are text tokens. Efficiency is real tokens over padded ones. Cost is what dealing weighs: padded text tokens
    and vision tokens; "slowest" compares the dearest rank with the average one, which wait for each other.
    """
    wanted = settings(config, shards, model, tokenizer, layout, global_batch_size)
    name, dataset_config = choose(wanted, dataset)
    opened = open_indexed(name, dataset_config, wanted.base, index_dir)
    try:
        size = micro_batch_size or max(1, opened.global_batch_size // world_size)
        last = min(step + count, opened.steps_per_epoch) if count else opened.steps_per_epoch
        with Bar("planning") as bar:
            steps = []
            for number in range(step, max(last, step + 1)):
                steps.append(_plan_step(opened, epoch, number, world_size, size))
                bar.update(len(steps), last - step, note=f"{len(steps)} steps")
        if as_json:
            emit(_describe(opened, epoch, world_size, size, steps))
        else:
            _print(opened, world_size, size, steps, rows)
    finally:
        opened.close()


@dataclass(frozen=True)
class PlannedStep:
    """A global step and how it is dealt; `step` and `deal` as the dataset describes them."""

    step: dict[str, Any]
    deal: dict[str, Any]

    @property
    def tokens(self) -> int:
        """Text tokens; a filler has one."""
        return sum(int(row["text_tokens"]) for row in self.step["rows"]) + int(self.step["fillers"])

    @property
    def padded_tokens(self) -> int:
        """Rows times the longest row, over all micro-batches."""
        return int(self.deal["padded_tokens"])

    @property
    def vision_tokens(self) -> int:
        """Vision tokens of all rows."""
        return sum(int(row["vision_tokens"]) for row in self.step["rows"])

    @property
    def rank_costs(self) -> list[int]:
        """What each rank's share costs."""
        return [int(cost) for cost in self.deal["rank_costs"]]

    @property
    def slowest_to_mean(self) -> float:
        """The dearest rank's cost over the mean one; 1 where all cost the same."""
        costs = self.rank_costs
        return max(costs) * len(costs) / max(sum(costs), 1)

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            **self.step,
            "tokens": self.tokens,
            "padded_tokens": self.padded_tokens,
            "vision_tokens": self.vision_tokens,
            "slowest_to_mean": round(self.slowest_to_mean, 4),
            "deal": self.deal,
        }


def _plan_step(dataset: Dataset, epoch: int, step: int, world_size: int, micro_batch_size: int) -> PlannedStep:
    deal = dataset.describe_deal(epoch, step, world_size, micro_batch_size)
    return PlannedStep(dataset.describe_step(epoch, step), deal)


def _efficiency(steps: list[PlannedStep]) -> float:
    return sum(step.tokens for step in steps) / max(sum(step.padded_tokens for step in steps), 1)


def _slowest_to_mean(steps: list[PlannedStep]) -> float:
    """Over the steps as a whole: ranks wait for the dearest one at each of them."""
    slowest = sum(max(step.rank_costs) for step in steps)
    mean = sum(sum(step.rank_costs) / len(step.rank_costs) for step in steps)
    return slowest / max(mean, 1)


def _describe(
    dataset: Dataset, epoch: int, world_size: int, micro_batch_size: int, steps: list[PlannedStep]
) -> dict[str, Any]:
    return {
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "epoch": epoch,
        "steps_per_epoch": dataset.steps_per_epoch,
        "global_batch_size": dataset.global_batch_size,
        "world_size": world_size,
        "micro_batch_size": micro_batch_size,
        "padding_efficiency": round(_efficiency(steps), 4),
        "slowest_to_mean": round(_slowest_to_mean(steps), 4),
        "steps": [step.describe() for step in steps],
    }


def _print(dataset: Dataset, world_size: int, micro_batch_size: int, steps: list[PlannedStep], rows: bool) -> None:
    console = Screen()
    names = ("step", "pool", "rows", "fillers", "tokens", "padded", "effic.", "vision", "slowest")
    table = Table(*names, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for planned in steps:
        table.add_row(
            str(planned.step["step"]),
            planned.step["pool"],
            str(len(planned.step["rows"])),
            str(planned.step["fillers"]),
            str(planned.tokens),
            str(planned.padded_tokens),
            f"{planned.tokens / max(planned.padded_tokens, 1):.1%}",
            str(planned.vision_tokens),
            f"{planned.slowest_to_mean:.3f}",
        )
    console.print(table)
    if rows:
        for planned in steps:
            for line in _dealt_rows(planned):
                say(line)
    say(
        f"{dataset.name}: {len(steps)} of {dataset.steps_per_epoch} steps of {dataset.global_batch_size} rows, "
        f"W = {world_size}, m = {micro_batch_size}: padding efficiency {_efficiency(steps):.1%}, "
        f"slowest/mean rank {_slowest_to_mean(steps):.3f}"
    )


def _dealt_rows(planned: PlannedStep) -> list[str]:
    lines = []
    for rank, micros in enumerate(planned.deal["rows"]):
        for micro, places in enumerate(micros):
            cost = planned.deal["micro_costs"][rank][micro]
            lines.append(f"step {planned.step['step']}, rank {rank}, micro {micro}: cost {cost}")
            lines += ["  " + _row(planned.step["rows"][place]) if place >= 0 else "  filler" for place in places]
    return lines


def _row(row: dict[str, Any]) -> str:
    return (
        f"{row['shard']} {row['key']}: {row['text_tokens']} tokens, {row['supervised_tokens']} supervised, "
        f"{row['vision_tokens']} vision tokens"
    )
