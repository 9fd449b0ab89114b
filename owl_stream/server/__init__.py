"""The HTTP side: a FastAPI app over datasets and an engine. It never decodes, plans or imports torch.

`create_app` makes the app, `serve` runs it until SIGTERM or Ctrl-C.
"""

from owl_stream.server.app import create_app
from owl_stream.server.run import serve

__all__ = ["create_app", "serve"]
