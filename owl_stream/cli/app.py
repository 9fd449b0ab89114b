"""The commands under one name. Every error is one clear line on stderr, and no traceback unless OWL_TRACEBACK is set.

Exit codes: 0 done, 1 a check found something or something failed that may pass, 2 a wrong call, file, data or limit of
this machine, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

import typer

from owl_stream import children
from owl_stream.cli import bench, check, demo, doctor, fit_cost, index, inspect, pack, plan, serve, version
from owl_stream.cli.terminal import guarded, say
from owl_stream.errors import DataError, OwlStreamError, UsageError
from owl_stream.inert import MARGIN
from owl_stream.machine import explained

NAME = "owl-stream"
TRACEBACK = "OWL_TRACEBACK"
"""Environment variable: with any value, an error that nobody foresaw comes with its traceback."""

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
app.command()(doctor.doctor)
app.command()(plan.plan)
app.command()(fit_cost.fit_cost)
app.command()(inspect.inspect)
app.command()(version.version)


@app.callback(invoke_without_command=True)
def _without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        for line in context.get_help().splitlines():
            say(line)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; ends in SystemExit.

    `arguments` are those behind the program's name; by default the process's own.
    """
    if arguments is None:
        children.withhold()
    with guarded():
        code = _written(_run(arguments))
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        outcome = app(arguments, prog_name=NAME, standalone_mode=False)
    except OwlStreamError as exc:
        return _say(str(exc), _code(exc))
    except BrokenPipeError:
        return 1  # whoever read the output has stopped, on purpose: like other programs, end without a word
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as exc:
        # Typer brings its own copy of click, whose exceptions have no public name: know them by what they can do.
        message = getattr(exc, "format_message", None)
        if message is None:
            return _failed(exc)
        context = getattr(exc, "ctx", None)
        where = context.command_path if context is not None else NAME
        said = " ".join(message().split())
        if said.startswith("Got unexpected extra argument") and ".yaml" in said:
            said += "; a configuration is given with --config"
        return _say(f"{said} (see `{where} --help`)", 2)
    return outcome if isinstance(outcome, int) else 0


def _failed(exc: Exception) -> int:
    """What no command foresaw: most often the machine's own limits."""
    if os.environ.get(TRACEBACK):
        for line in "".join(traceback.format_exception(exc)).splitlines():
            say(MARGIN + line, err=True)
    error = explained(exc, "this command")
    unforeseen = type(error) is OwlStreamError
    return _say(f"{error} (with {TRACEBACK}=1 the traceback is shown)" if unforeseen else str(error), _code(error))


def _code(error: OwlStreamError) -> int:
    return 2 if isinstance(error, UsageError | DataError) else 1


def _written(code: int) -> int:
    """Write what stdout still holds. Where that fails, Python itself would complain, later and without a remedy."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        with suppress(OSError, ValueError):  # nothing of it may be tried again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _say(f"cannot write to stdout: {exc.strerror}; what was printed is not all there", code or 1)
    return code


def _say(message: str, code: int) -> int:
    for line in f"{NAME}: {message}".split("\n"):  # of the data's none is left in a message
        say(line, err=True)
    return code
