"""docs/faults.md tells the truth: ninety faults, and every test file it names mentions the fault's number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROWS = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", (TESTS.parent / "docs" / "faults.md").read_text(), re.MULTILINE)


def mentioned(text: str) -> set[int]:
    """Fault numbers that a test file names: `fault_44_...`, `fault_3_and_16_...`, "Faults 26 to 29"."""
    numbers: set[int] = set()
    for first, link, second in re.findall(r"[Ff]aults?[ _](\d+)(?:(?:, |_| )(and|to)?[_ ]?(\d+))?", text):
        numbers.add(int(first))
        if link:
            numbers |= set(range(int(first), int(second) + 1)) if link == "to" else {int(second)}
    return numbers


def test_all_ninety_are_listed() -> None:
    """Each number stands there once, in order."""
    assert [int(number) for number, _ in ROWS] == list(range(1, 91))


@pytest.mark.parametrize(("number", "shown_in"), ROWS, ids=[number for number, _ in ROWS])
def test_the_named_tests_are_there(number: str, shown_in: str) -> None:
    """A file that is named exists and names the fault; what has none says so."""
    if shown_in == "not yet":
        return
    files = re.findall(r"`([^`]+)`", shown_in)
    assert files
    for name in files:
        assert int(number) in mentioned((TESTS / name).read_text())
