"""The command line. Every error that a newcomer can make is one clear line and exit code 2."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from owl_stream import __version__
from owl_stream.config import Config, load_config, make_config
from owl_stream.errors import ConfigError, DataError, OwlStreamError, UsageError

DEFAULT_CONFIG = Path("owl-stream.yaml")

app = typer.Typer(
    name="owl-stream",
    help="Batches that are right, streamed to trainers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Configuration file; default: ./owl-stream.yaml if it is there.")
]
ShardsOption = Annotated[
    list[str] | None, typer.Option("--shards", "-s", help="Shards: a tar, a brace pattern, a glob or a directory.")
]
TokenizerOption = Annotated[str | None, typer.Option("--tokenizer", "-t", help="A tokenizers file, or a hub id.")]
LayoutOption = Annotated[str | None, typer.Option("--layout", help="owl3-240728 or owl3-241101.")]
BatchOption = Annotated[int | None, typer.Option("--global-batch-size", "-g", help="Rows of one optimizer step.")]
IndexOption = Annotated[
    Path | None, typer.Option("--index-dir", help="Where the index lies; default: .owl-index beside the shards.")
]


@app.command()
def serve(
    config: ConfigOption = None,
    shards: ShardsOption = None,
    tokenizer: TokenizerOption = None,
    layout: LayoutOption = None,
    global_batch_size: BatchOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Assembly processes; default: one per core.")] = None,
    index_dir: IndexOption = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "warning",
) -> None:
    """Serve batches over HTTP until SIGTERM or Ctrl-C."""
    from owl_stream.server import serve as run  # noqa: PLC0415 # `owl-stream --help` need not load a web framework

    settings = _settings(config, shards, tokenizer, layout, global_batch_size, host=host, port=port, workers=workers)
    if log_level not in ("debug", "info", "warning", "error"):
        raise ConfigError(f"--log-level: expected debug, info, warning or error, got {log_level!r}")
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    run(
        settings,
        index_dir=index_dir,
        log_level=log_level,
        on_listening=lambda url: typer.echo(f"owl-stream {__version__} listens on {url}"),
        on_ready=lambda: typer.echo(f"ready: {', '.join(settings.datasets)}"),
    )


@app.command()
def index(
    config: ConfigOption = None,
    shards: ShardsOption = None,
    tokenizer: TokenizerOption = None,
    layout: LayoutOption = None,
    index_dir: IndexOption = None,
) -> None:
    """Scan shards once, so that a server starts at once; an index that is up to date is kept."""
    from owl_stream.assemble import open_dataset  # noqa: PLC0415 # see serve
    from owl_stream.engine.processes import usable_cores  # noqa: PLC0415

    settings = _settings(config, shards, tokenizer, layout, None)
    for name, dataset_config in settings.datasets.items():
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bars:
            bar = bars.add_task(f"indexing {name}", total=None)
            dataset = open_dataset(
                name,
                dataset_config,
                base=settings.base,
                index_dir=index_dir,
                processes=usable_cores(),
                progress=lambda done, bar=bar, bars=bars: bars.update(  # type: ignore[misc] # bound per loop
                    bar, total=done.bytes_total, completed=done.bytes_done
                ),
            )
        typer.echo(
            f"{name}: {dataset.samples} samples, {dataset.quarantined} quarantined, "
            f"{dataset.steps_per_epoch} steps per epoch, fingerprint {dataset.fingerprint}"
        )
        for bad in dataset.quarantine(0, 20):
            typer.echo(f"  {bad['shard']} {bad['key']} {bad['member']} @ {bad['offset']}: {bad['detail']}")
        dataset.close()


@app.command()
def demo(
    directory: Annotated[
        Path | None, typer.Option(help="Where the demo's data go; default: a directory that is removed at the end.")
    ] = None,
) -> None:
    """Train on real photographs, kill the server in the middle of an epoch, show that nothing was lost."""
    try:
        from owl_stream.demo.job import run_demo  # noqa: PLC0415 # needs torch
    except ImportError as exc:
        raise ConfigError(
            f"the demo needs more than is installed ({exc.name}): pip install 'owl-stream[demo]'"
        ) from exc
    if not run_demo(directory, Console()):
        raise typer.Exit(1)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _settings(
    config: Path | None,
    shards: list[str] | None,
    tokenizer: str | None,
    layout: str | None,
    global_batch_size: int | None,
    **server: str | int | None,
) -> Config:
    """The configuration of a file, or of flags alone; flags of the server lie over both."""
    flags = {"shards": shards, "tokenizer": tokenizer, "layout": layout, "global_batch_size": global_batch_size}
    dataset = {key: value for key, value in flags.items() if value is not None}
    given = {key: value for key, value in server.items() if value is not None}
    if dataset and config is not None:
        raise ConfigError(f"--config describes the datasets: leave out {', '.join('--' + key for key in dataset)}")
    if not dataset:
        path = config or DEFAULT_CONFIG
        if config is None and not path.exists():
            raise ConfigError(f"nothing to serve: expected --config FILE, ./{path}, or --shards and --tokenizer")
        return _over(load_config(path), given)
    raw: dict[str, Any] = {"server": given, "datasets": {"train": dataset}}
    return make_config(raw, origin="command line", base=Path.cwd())


def _over(config: Config, server: dict[str, str | int]) -> Config:
    if not server:
        return config
    raw = {"server": {**config.server.model_dump(), **server}, "datasets": {}}
    raw["datasets"] = {name: dataset.model_dump() for name, dataset in config.datasets.items()}
    return make_config(raw, origin="command line", base=config.base, environ={})


def main() -> None:
    """Entry point."""
    try:
        app(standalone_mode=True)
    except OwlStreamError as exc:
        typer.echo(f"owl-stream: {exc}", err=True)
        sys.exit(2 if isinstance(exc, UsageError | DataError) else 1)


if __name__ == "__main__":
    main()
