"""The command line: one module per command, each a thin skin over the packages below.

It never computes what a server would: it asks the same functions, or the server itself.
"""

from owl_stream.cli.app import app, main

__all__ = ["app", "main"]
