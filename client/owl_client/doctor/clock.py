"""This machine's clock beside the server's, which stands in every answer (`Date`, RFC 9110, 6.6.1)."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

from owl_client.doctor.asking import Reply
from owl_client.doctor.finding import Finding

MOST_SKEW_S = 60.0
"""Clocks set by NTP differ by milliseconds; `Date` has whole seconds."""


def skew_s(reply: Reply) -> float | None:
    """How far this machine's clock is ahead; None where the answer has no date."""
    try:
        date = parsedate_to_datetime(reply.headers["Date"])
        return reply.at - date.replace(tzinfo=date.tzinfo or UTC).timestamp() - 0.5
    except (TypeError, ValueError, OverflowError):
        return None


def skewed(skew: float) -> Finding | None:
    """A fault, where the clocks are apart."""
    if abs(skew) <= MOST_SKEW_S:
        return None
    ahead = "ahead of" if skew > 0 else "behind"
    return Finding(
        "clock",
        "fault",
        f"this machine's clock is {abs(skew):.0f} s {ahead} the server's",
        "set both by NTP: certificates count by them, and so does whoever compares logs and metrics of both",
    )


def clock(reply: Reply) -> Finding:
    """How the clocks stand to each other."""
    skew = skew_s(reply)
    if skew is None:
        return Finding("clock", "note", "the server's answers have no date, so clocks cannot be compared")
    return skewed(skew) or Finding("clock", "ok", "within a minute of the server's")
