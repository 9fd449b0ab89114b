"""An examination as text: one line a finding, its remedy below it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from owl_client.doctor.finding import Finding
from owl_stream.inert import inert

_MARKS = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}


def lines(finding: Finding) -> Iterator[str]:
    """What is printed of it. What a server says is inert in it."""
    yield f"{_MARKS[finding.verdict]}  {finding.check:<8} {inert(finding.said)}"
    if finding.remedy and finding.verdict != "ok":
        yield f"{'':<16}-> {inert(finding.remedy)}"


def summary(findings: Sequence[Finding]) -> str:
    """The last line."""
    faults = sum(finding.verdict == "fault" for finding in findings)
    if not faults:
        return "nothing to mend"
    return f"{faults} to mend" if faults > 1 else "one thing to mend"
