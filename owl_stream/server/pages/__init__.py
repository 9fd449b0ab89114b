"""Pages for people: a dashboard of the running server, and an inspector that shows what is in a batch.

All of it hangs on one router. The pages are static files; what they show comes as JSON, and batches as the very frames
that trainers get. Nothing from the data is ever made into HTML.
"""

from owl_stream.server.pages.routes import router

__all__ = ["router"]
