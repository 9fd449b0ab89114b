"""`owl-stream inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from owl_stream.cli.halfblocks import side_by_side
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
from owl_stream.cli.peer import CaOption, Peer, TokenOption
from owl_stream.cli.rows import PALETTE, Speller, pictures_of, runs_of, supervised_tokens
from owl_stream.cli.terminal import Screen, emit
from owl_stream.errors import ConfigError
from owl_stream.inert import MARGIN, inert
from owl_stream.wire import BatchLook, LookRow, parse_frames

if TYPE_CHECKING:
    from owl_stream.assemble import Dataset, Job

PICTURE_COLUMNS = 24


def inspect(
    url: Annotated[
        str | None,
        typer.Argument(metavar="URL", help="A running server, http://host:port; without it the configuration is used."),
    ] = None,
    config: ConfigOption = None,
    shards: ShardsOption = None,
    model: ModelOption = None,
    tokenizer: TokenizerOption = None,
    layout: LayoutOption = None,
    global_batch_size: BatchOption = None,
    dataset: DatasetOption = None,
    index_dir: IndexOption = None,
    epoch: Annotated[int, typer.Option("--epoch", "-e", min=0, help="Which epoch, from 0.")] = 0,
    step: Annotated[int, typer.Option(min=0, help="Which global step, from 0.")] = 0,
    micro: Annotated[int, typer.Option(min=0, help="Which micro-batch of the rank's share of the step, from 0.")] = 0,
    rank: Annotated[int, typer.Option("--rank", "-r", min=0, help="Whose share, from 0.")] = 0,
    world_size: Annotated[int, typer.Option("--world-size", "-w", min=1, help="Ranks that share a step.")] = 1,
    micro_batch_size: Annotated[
        int | None, typer.Option("--micro-batch-size", "-m", min=1, help="Rows a batch; default: a rank's whole share.")
    ] = None,
    pictures: Annotated[bool, typer.Option("--pictures", help="Show pictures too, as coloured half blocks.")] = False,
    token: TokenOption = None,
    ca: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one batch just as a trainer gets it: where each row came from, its text, and what its tokens can see.

    A token's colour says how many of its row's units (crops, images, tiles, videos) it may attend to; tokens that are
    learned are underlined, padding is dim. Of a running server its own batch is shown; the ids become text if
    --tokenizer says which tokenizer.
    """
    place = {"rank": rank, "world_size": world_size}
    if url is not None:
        if config or shards or model or layout or global_batch_size or index_dir:
            raise ConfigError("inspect URL shows the server's own data: leave out --config, --shards and the like")
        query = {**place, **({"micro_batch_size": micro_batch_size} if micro_batch_size else {})}
        batch = _from_server(Peer(url, token, ca), dataset, (epoch, step, micro), query)
        spell = _speller(tokenizer)
    else:
        wanted = settings(config, shards, model, tokenizer, layout, global_batch_size)
        name, dataset_config = choose(wanted, dataset)
        opened = open_indexed(name, dataset_config, wanted.base, index_dir)
        try:
            size = micro_batch_size or max(1, opened.global_batch_size // world_size)
            job = opened.job(epoch, step, micro, rank, world_size, size)
            batch, spell = _assemble(opened, job), opened.pieces.of
        finally:
            opened.close()
    if as_json:
        emit(_describe(batch, spell))
    else:
        _print(Screen(), batch, spell, pictures)


def _from_server(peer: Peer, dataset: str | None, at: tuple[int, int, int], query: dict[str, int]) -> BatchLook:
    return peer.look(f"/v1/datasets/{peer.choose(dataset)}/looks/" + "/".join(map(str, at)), query)


def _assemble(dataset: Dataset, job: Job) -> BatchLook:
    """In this process: one micro-batch is not worth starting workers for."""
    from owl_stream.assemble import look_at  # noqa: PLC0415 # see serve

    buffer, assembler = memoryview(bytearray(dataset.capacity(job))), dataset.assembler()
    try:
        made = assembler.assemble(job, buffer)
    finally:
        assembler.close()
    return look_at(dataset.layout, next(parse_frames(bytes(buffer[made.start : made.start + made.nbytes]))))


def _speller(tokenizer: str | None) -> Speller | None:
    if tokenizer is None:
        return None
    from owl_stream.assemble import load_tokenizer  # noqa: PLC0415 # see serve
    from owl_stream.assemble.pieces import Pieces  # noqa: PLC0415

    return Pieces(load_tokenizer(tokenizer, Path.cwd())).of


def _describe(batch: BatchLook, spell: Speller | None) -> dict[str, Any]:
    """Ready for JSON: texts in place of ids, sizes in place of pictures."""
    rows = [
        {
            "shard": row.shard,
            "key": row.key,
            "status": row.status,
            "reason": row.reason,
            "replaces": row.replaces,
            "tokens": len(row.ids),
            "padding": row.padding,
            "supervised_tokens": supervised_tokens(row),
            "units": row.units,
            "pictures": [[picture.width, picture.height] for picture in row.pictures],
            "runs": [vars(run) for run in runs_of(row, spell)],
        }
        for row in batch.rows
    ]
    return {**vars(batch), "rows": rows}


def _print(console: Screen, batch: BatchLook, spell: Speller | None, pictures: bool) -> None:
    console.print(
        f"epoch {batch.epoch}, step {batch.step}, micro {batch.micro}, rank {batch.rank} of {batch.world_size}: "
        f"{len(batch.rows)} rows, {batch.attended_tokens} tokens, {batch.supervised_tokens} supervised, "
        f"{batch.units} {inert(batch.unit)}s",
        soft_wrap=True,
    )
    most = max((run.sees for row in batch.rows for run in row.runs), default=0)
    legend = Text("a token sees ")
    for number in range(min(most, len(PALETTE)) + 1):
        legend.append(f" {number} ", style=_style(number))
    legend.append(f" {inert(batch.unit)}s; ").append("supervised", style="underline").append("; ").append(
        "padding", style="dim"
    )
    console.print(legend)
    for number, row in enumerate(batch.rows):
        console.print()
        _print_row(console, number, row, inert(batch.unit), spell, pictures)


def _print_row(console: Screen, number: int, row: LookRow, unit: str, spell: Speller | None, pictures: bool) -> None:
    style = {"ok": "bold green", "masked": "bold red"}.get(row.status, "bold yellow")
    title = Text(f"row {number}  ").append(inert(row.status), style=style)
    title.append(inert(f"  {row.shard} {row.key}".rstrip()))
    facts = f"  {len(row.ids)} tokens, {supervised_tokens(row)} supervised, {len(row.units)} {unit}s"
    console.print(title.append(facts, style="dim"), soft_wrap=True)
    if row.reason:
        console.print(Text(f"  {inert(row.reason)}", style="red"), soft_wrap=True)
    text = Text()
    for run in runs_of(row, spell):
        shown = "⏎\n".join(inert(line) for line in run.text.split("\n"))
        text.append(shown, style=_style(run.sees) + (" underline" if run.supervised else ""))
    if row.padding:
        text.append(f"[{row.padding} x padding]", style="dim")
    for line in text.wrap(console, max(console.width - len(MARGIN), 1)):
        console.print(Text(MARGIN).append_text(line), soft_wrap=True)
    if pictures and row.pictures:
        for line in side_by_side(pictures_of(row), PICTURE_COLUMNS, console.width):
            console.print(line)


def _style(sees: int) -> str:
    return PALETTE[(sees - 1) % len(PALETTE)] if sees else "default"
