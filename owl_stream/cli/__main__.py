"""`python -m owl_stream.cli`, the same as `owl-stream`."""

from owl_stream.cli import main

main()
