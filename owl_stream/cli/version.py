"""`owl-stream version`."""

from __future__ import annotations

import platform

from owl_stream import __version__
from owl_stream.cli.options import JsonOption
from owl_stream.cli.terminal import emit, say
from owl_stream.wire import PROTOCOL_VERSION


def version(as_json: JsonOption = False) -> None:
    """Print the version; with --json also those of the wire protocol and of Python."""
    if as_json:
        emit({"version": __version__, "protocol": PROTOCOL_VERSION, "python": platform.python_version()})
    else:
        say(__version__)
