"""The commands under one name. Every error that a user can make is one clear line and exit code 2; never a traceback.

Exit codes: 0 done, 1 a check found something or the machinery failed, 2 a wrong call, file or data, 130 Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

import typer

from owl_stream.cli import bench, check, demo, fit_cost, index, inspect, pack, plan, serve, version
from owl_stream.errors import DataError, OwlStreamError, UsageError

NAME = "owl-stream"

app = typer.Typer(
    name=NAME,
    help="Batches that are right, streamed to trainers.",
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

# In the order in which one meets them.
app.command()(demo.demo)
app.command()(pack.pack)
app.command()(check.check)
app.command()(index.index)
app.command()(serve.serve)
app.command()(bench.bench)
app.command()(plan.plan)
app.command()(fit_cost.fit_cost)
app.command()(inspect.inspect)
app.command()(version.version)


@app.callback(invoke_without_command=True)
def _without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; ends in SystemExit.

    `arguments` are those behind the program's name; by default the process's own.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # a test's stream may lack it
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        outcome = app(arguments, prog_name=NAME, standalone_mode=False)
    except OwlStreamError as exc:
        return _say(str(exc), 2 if isinstance(exc, UsageError | DataError) else 1)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as exc:
        # Typer brings its own copy of click, whose exceptions have no public name: know them by what they can do.
        message = getattr(exc, "format_message", None)
        if message is None:
            raise
        context = getattr(exc, "ctx", None)
        where = context.command_path if context is not None else NAME
        said = " ".join(message().split())
        if said.startswith("Got unexpected extra argument") and ".yaml" in said:
            said += "; a configuration is given with --config"
        return _say(f"{said} (see `{where} --help`)", 2)
    return outcome if isinstance(outcome, int) else 0


def _say(message: str, code: int) -> int:
    typer.echo(f"{NAME}: {message}", err=True)
    return code
