"""The command line: one module per command, each a thin skin over the packages below.

It never computes what a server would: it asks the same functions, or the server itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; ends in SystemExit. Where only the client is installed, one line says how to get the commands.

    `arguments` are those behind the program's name; by default the process's own.
    """
    try:
        from owl_stream.cli.app import main as run  # noqa: PLC0415 # a trainer's machine may lack what it imports
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("owl_stream"):
            raise
        print(
            f"owl-stream: the commands need more than is installed ({exc.name}): pip install 'owl-stream[server]'",
            file=sys.stderr,
        )
        sys.exit(2)
    run(arguments)
