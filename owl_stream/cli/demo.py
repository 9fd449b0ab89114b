"""`owl-stream demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from owl_stream.cli.options import JsonOption
from owl_stream.cli.terminal import Screen, emit
from owl_stream.errors import ConfigError


def demo(
    directory: Annotated[
        Path | None, typer.Option(help="Where the demo's data go; default: a directory that is removed at the end.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train on real photographs, kill the server in the middle of an epoch, show that nothing was lost.

    Takes about half a minute on two cores. Exit code 1: a promise was broken. With --json the story goes to stderr.
    """
    try:
        from owl_stream.demo.job import run_demo  # noqa: PLC0415 # needs torch
    except ImportError as exc:
        raise ConfigError(
            f"the demo needs more than is installed ({exc.name}): pip install 'owl-stream[demo]'"
        ) from exc
    held = run_demo(directory, Screen(stderr=as_json, markup=True, highlight=True))
    if as_json:
        emit({"promises_held": held})
    if not held:
        raise typer.Exit(1)
