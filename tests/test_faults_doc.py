"""docs/faults.md tells the truth: its faults are numbered, and every test file it names mentions the fault's number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROWS = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", (TESTS.parent / "docs" / "faults.md").read_text(), re.MULTILINE)


def mentioned(text: str) -> set[int]:
    """Fault numbers that a test file names: `fault_44_...`, `faults_5_to_12_and_24_to_29`, "Faults 26, 27 and 29"."""
    numbers: set[int] = set()
    for run in re.findall(r"[Ff]aults?[ _](\d+(?:(?:[ _](?:and|to)[ _]|, )\d+)*)", text):
        last = int(re.split(r"\D", run)[0])
        numbers.add(last)
        for link, number in re.findall(r"(and|to|,)[ _](\d+)", run):
            numbers |= set(range(last, int(number) + 1)) if link == "to" else {int(number)}
            last = int(number)
    return numbers


def test_all_are_listed() -> None:
    """Each number stands there once, in order, and none has gone."""
    assert [int(number) for number, _ in ROWS] == list(range(1, 143))


@pytest.mark.parametrize(("number", "shown_in"), ROWS, ids=[number for number, _ in ROWS])
def test_the_named_tests_are_there(number: str, shown_in: str) -> None:
    """A file that is named exists and names the fault; what has none says so."""
    if shown_in == "not yet":
        return
    files = re.findall(r"`([^`]+)`", shown_in)
    assert files
    for name in files:
        assert int(number) in mentioned((TESTS / name).read_text())
