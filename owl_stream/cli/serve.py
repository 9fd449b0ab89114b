"""`owl-stream serve`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, get_args

import typer

from owl_stream import __version__, children
from owl_stream.cli.options import (
    BatchOption,
    ConfigOption,
    IndexOption,
    JsonOption,
    LayoutOption,
    ModelOption,
    ShardsOption,
    TokenizerOption,
    settings,
)
from owl_stream.cli.terminal import emit, say
from owl_stream.config import LogLevel


def serve(
    config: ConfigOption = None,
    shards: ShardsOption = None,
    model: ModelOption = None,
    tokenizer: TokenizerOption = None,
    layout: LayoutOption = None,
    global_batch_size: BatchOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default 8000; 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Assembly processes; default: one per core.")] = None,
    index_dir: IndexOption = None,
    log_level: Annotated[
        str | None,
        typer.Option(help="debug, info, warning (default) or error.", autocompletion=lambda: list(get_args(LogLevel))),
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="text (default), or json: one object a line.")] = None,
    allow_anonymous: Annotated[
        bool, typer.Option("--allow-anonymous", help="Listen beyond loopback although no tokens are asked for.")
    ] = False,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="End when standard input is closed: with whoever started this.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Serve batches over HTTP until SIGTERM or Ctrl-C.

    With --json, stdout has one object a line: {"event": "listening", "url"} and {"event": "ready", "datasets"}. A
    dataset that cannot be served is not among those; the log, /health and the dashboard say why. Where none can be
    served the command ends with the reason.
    """
    from owl_stream.server import serve as run  # noqa: PLC0415 # `owl-stream --help` need not load a web framework

    flags = {"host": host, "port": port, "workers": workers, "log_format": log_format, "log_level": log_level}
    wanted = settings(config, shards, model, tokenizer, layout, global_batch_size, **flags)
    if allow_anonymous:
        wanted = wanted.allowing_anonymous()
    children.forget_tokens()
    if with_parent:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        wanted = wanted.with_workers(_share_of_cores())

    def listening(url: str) -> None:
        with suppress(OSError):  # nobody reads stdout any more: that is no reason not to serve
            if as_json:
                emit({"event": "listening", "url": url, "version": __version__})
            else:
                say(f"owl-stream {__version__} listens on {url}")

    def ready(names: Sequence[str]) -> None:
        with suppress(OSError):
            if as_json:
                emit({"event": "ready", "datasets": list(names)})
            else:
                failed = [name for name in wanted.datasets if name not in names]
                say(f"ready: {', '.join(names)}" + (f" (failed: {', '.join(failed)})" if failed else ""))

    run(wanted, index_dir=index_dir, on_listening=listening, on_ready=ready)


def _share_of_cores() -> int:
    """The cores of one of this machine's ranks, each of which has a server: torchrun says how many there are."""
    from owl_stream.engine.cores import usable_cores  # noqa: PLC0415 # see serve

    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, usable_cores() // max(1, int(ranks) if ranks.isdecimal() else 1))


def _end_with_parent() -> None:
    """SIGTERM to ourselves once standard input is closed. What is written to it is read and ignored."""
    with suppress(OSError):
        while os.read(0, 1 << 16):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
