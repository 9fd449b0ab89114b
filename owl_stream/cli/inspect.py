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
    ShardsOption,
    TokenizerOption,
    choose,
    settings,
)
from owl_stream.cli.peer import CaOption, Peer, TokenOption
from owl_stream.cli.rows import PALETTE, BatchRow, Speller, read_rows
from owl_stream.cli.terminal import Screen, emit
from owl_stream.errors import ConfigError, ServerError
from owl_stream.inert import MARGIN, inert
from owl_stream.wire import BatchHeader, Frame, parse_frames

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
    pictures: Annotated[bool, typer.Option("--pictures", help="Show the crops too, as coloured half blocks.")] = False,
    token: TokenOption = None,
    ca: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one batch just as a trainer gets it: where each row came from, its text, and what its tokens can see.

    A token's colour says how many of its row's crops it may attend to; tokens that are learned are underlined, padding
    is dim. Of a running server the frame itself is shown; its ids become text if --tokenizer says which tokenizer.
    """
    place = {"rank": rank, "world_size": world_size}
    if url is not None:
        if config or shards or layout or global_batch_size or index_dir:
            raise ConfigError("inspect URL shows the server's own data: leave out --config, --shards and the like")
        query = {**place, **({"micro_batch_size": micro_batch_size} if micro_batch_size else {})}
        frame = _from_server(Peer(url, token, ca), dataset, (epoch, step, micro), query)
        spell = _speller(tokenizer)
    else:
        wanted = settings(config, shards, tokenizer, layout, global_batch_size)
        name, dataset_config = choose(wanted, dataset)
        opened = open_indexed(name, dataset_config, wanted.base, index_dir)
        try:
            size = micro_batch_size or max(1, opened.global_batch_size // world_size)
            job = opened.job(epoch, step, micro, rank, world_size, size)
            frame, spell = _assemble(opened, job), opened.pieces.of
        finally:
            opened.close()
    rows = read_rows(frame, spell)
    if as_json:
        emit(_describe(_header(frame), rows))
    else:
        _print(Screen(), _header(frame), rows, pictures)


def _from_server(peer: Peer, dataset: str | None, at: tuple[int, int, int], query: dict[str, int]) -> Frame:
    path = f"/v1/datasets/{peer.choose(dataset)}/batches/" + "/".join(map(str, at))
    for frame in peer.frames(path, query):
        return frame
    raise ServerError(f"{peer.url}: expected a frame, got nothing")


def _assemble(dataset: Dataset, job: Job) -> Frame:
    """In this process: one micro-batch is not worth starting workers for."""
    buffer, assembler = memoryview(bytearray(dataset.capacity(job))), dataset.assembler()
    try:
        made = assembler.assemble(job, buffer)
    finally:
        assembler.close()
    return next(parse_frames(bytes(buffer[made.start : made.start + made.nbytes])))


def _speller(tokenizer: str | None) -> Speller | None:
    if tokenizer is None:
        return None
    from owl_stream.assemble import load_tokenizer  # noqa: PLC0415 # see serve
    from owl_stream.assemble.pieces import Pieces  # noqa: PLC0415

    return Pieces(load_tokenizer(tokenizer, Path.cwd())).of


def _header(frame: Frame) -> BatchHeader:
    if not isinstance(frame.header, BatchHeader):
        raise ServerError(f"expected a batch, got a frame of kind {frame.header.kind}")
    return frame.header


def _describe(header: BatchHeader, rows: list[BatchRow]) -> dict[str, Any]:
    return {
        "fingerprint": header.fingerprint,
        "epoch": header.epoch,
        "step": header.step,
        "micro": header.micro,
        "rank": header.rank,
        "world_size": header.world_size,
        "attended_tokens": header.attended_tokens,
        "supervised_tokens": header.supervised_tokens,
        "step_supervised_tokens": header.step_supervised_tokens,
        "crops": header.crops,
        "rows": [row.describe() for row in rows],
    }


def _print(console: Screen, header: BatchHeader, rows: list[BatchRow], pictures: bool) -> None:
    console.print(
        f"epoch {header.epoch}, step {header.step}, micro {header.micro}, rank {header.rank} of {header.world_size}: "
        f"{len(rows)} rows, {header.attended_tokens} tokens, {header.supervised_tokens} supervised, "
        f"{header.crops} crops",
        soft_wrap=True,
    )
    most = max((run.sees for row in rows for run in row.runs), default=0)
    legend = Text("a token sees ")
    for number in range(min(most, len(PALETTE)) + 1):
        legend.append(f" {number} ", style=_style(number))
    legend.append(" crops; ").append("supervised", style="underline").append("; ").append("padding", style="dim")
    console.print(legend)
    for number, row in enumerate(rows):
        console.print()
        _print_row(console, number, row, pictures)


def _print_row(console: Screen, number: int, row: BatchRow, pictures: bool) -> None:
    info = row.info
    style = {"ok": "bold green", "masked": "bold red"}.get(info.status, "bold yellow")
    title = Text(f"row {number}  ").append(inert(info.status), style=style)
    title.append(inert(f"  {info.shard} {info.key}".rstrip()))
    title.append(f"  {row.tokens} tokens, {row.supervised_tokens} supervised, {len(row.crops)} crops", style="dim")
    console.print(title, soft_wrap=True)
    if info.reason:
        console.print(Text(f"  {inert(info.reason)}", style="red"), soft_wrap=True)
    text = Text()
    for run in row.runs:
        if run.padding:
            text.append(f"[{run.tokens} x padding]", style="dim")
        else:
            shown = "⏎\n".join(inert(line) for line in run.text.split("\n"))
            text.append(shown, style=_style(run.sees) + (" underline" if run.supervised else ""))
    for line in text.wrap(console, max(console.width - len(MARGIN), 1)):
        console.print(Text(MARGIN).append_text(line), soft_wrap=True)
    if pictures and len(row.crops):
        for line in side_by_side(row.crops, PICTURE_COLUMNS, console.width):
            console.print(line)


def _style(sees: int) -> str:
    return PALETTE[(sees - 1) % len(PALETTE)] if sees else "default"
