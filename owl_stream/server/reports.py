"""What clients say of their own waiting: a summary that comes with their next request."""

from __future__ import annotations

import math
from collections.abc import Mapping
from urllib.parse import parse_qsl

ACTIVITIES = ("wait_s", "receive_s", "verify_s", "copy_s")
"""The trainer waiting for batches, its thread waiting for bytes, checking digests, and copying to the device.

In the request's header `Owl-Client-Stats`: `wait_s=1.5&receive_s=0.9&...`, each since the client's last report, so that
servers may add them up.
"""

MAX_HEADER_CHARS = 512
MAX_SECONDS = 1e7
"""More than any run lasts; a larger number is nonsense and would spoil the sums for ever."""


def read_report(header: str) -> Mapping[str, float]:
    """The seconds of a report by activity. What is not a sensible number of seconds is left out: it is only a hint."""
    if not header or len(header) > MAX_HEADER_CHARS:
        return {}
    try:
        given = dict(parse_qsl(header, max_num_fields=32))
        seconds = {name: float(given[name]) for name in ACTIVITIES if name in given}
    except ValueError:
        return {}
    return {name: value for name, value in seconds.items() if math.isfinite(value) and 0 <= value <= MAX_SECONDS}
