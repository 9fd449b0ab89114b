"""Files that operating systems and tools leave between the data are nobody's samples.

Fault 103 of docs/faults.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from owl_stream.shards.junk import is_junk
from tests.shards.readers import scanned
from tests.support.damage import END, header, member, write

JUNK = [
    "._0000.jpg",
    ".DS_Store",
    "__MACOSX/0000.jpg",
    "__MACOSX/._0000.jpg",
    "__MACOSX/train/._0000.jpg",
    ".AppleDouble/0000.jpg",
    ".Spotlight-V100/0000.jpg",
    "Thumbs.db",
    "THUMBS.DB",
    "Desktop.ini",
    "$RECYCLE.BIN/0000.jpg",
    "@eaDir/0000.jpg/SYNOPHOTO_THUMB_M.jpg",
    "#recycle/0000.jpg",
    ".nfs000000000123abcd00000001",
    ".Trash-1000/files/0000.jpg",
    ".~lock.0000.txt#",
    ".ipynb_checkpoints/0000-checkpoint.json",
    "PaxHeader/0000.jpg",
    "PaxHeaders.1234/0000.jpg",
    "PaxHeaders.X/0000.jpg",
    "@PaxHeader",
]


@pytest.mark.parametrize("name", JUNK)
@pytest.mark.parametrize("below", ["", "./", "train/", "a.b/c/"])
def test_junk_never_breaks_a_sample(tmp_path: Path, name: str, below: str) -> None:
    """Before, inside, behind and between, at any depth: no member, no finding, nothing of the samples changes."""
    junk = member(below + name, b"junk")
    samples = [
        member(f"{below}{number:04d}.{ext}", str(number).encode()) for number in range(2) for ext in ("jpg", "json")
    ]
    tar = [junk, *(block for each in samples for block in (each, junk))]
    clean, found = scanned(write(tmp_path / "clean.tar", *samples)), scanned(write(tmp_path / "t.tar", *tar))
    assert found == clean
    assert [key for key, _ in found[0]] == [f"{below}0000", f"{below}0001"]
    assert found[1] == ()


@pytest.mark.parametrize("block", [header("._0001.jpg", 0, b"2", "x"), member("d/.DS_Store", b"x", b"Z")])
def test_junk_that_would_not_be_read_is_no_finding(tmp_path: Path, block: bytes) -> None:
    """A link and a vendor's type: they belong to nobody either."""
    groups, findings = scanned(write(tmp_path / "t.tar", member("0000.jpg"), block, member("0000.json")))
    assert [key for key, _ in groups] == ["0000"]
    assert findings == ()


@pytest.mark.parametrize(
    "name",
    [
        "a._0.jpg",
        "_0.jpg",
        "d/_MACOSX/0.jpg",
        "my__MACOSX/0.jpg",
        "x.DS_Store",
        "thumbs.db.jpg",
        "desktop.ini.txt",
        "PaxHeaders.jpg",
        "PaxHeader.0.jpg",
        "eaDir/0.jpg",
        ".hidden/0.jpg",
    ],
)
def test_names_that_only_look_like_it_are_data(name: str) -> None:
    """Only the listed names, whole; in all others the rule is webdataset's."""
    assert not is_junk(name)


def test_fault_52_a_shard_of_nothing_else_says_what_was_there(tmp_path: Path) -> None:
    """The finding counts the members and names some."""
    blocks = [member("._0.jpg"), member(".DS_Store"), member("d/", b"", b"5"), member("README")]
    _, (finding,) = scanned(write(tmp_path / "t.tar", *blocks))
    assert finding.reason == "shard_empty"
    assert finding.detail.startswith("no sample among its 4 members (`._0.jpg`, `.DS_Store`, `d/`, ...): ")
    _, (finding,) = scanned(write(tmp_path / "t.tar", member("._0.jpg")))
    assert "among its 1 members (`._0.jpg`): " in finding.detail
    _, (finding,) = scanned(write(tmp_path / "t.tar", END))
    assert finding.detail == "an empty archive: 2048 zero bytes"


def test_the_page_lists_every_name() -> None:
    """docs/tars.md says where we differ from webdataset."""
    from owl_stream.shards.junk import JUNK_NAMES, JUNK_PREFIXES

    page = (Path(__file__).parents[2] / "docs" / "tars.md").read_text().lower()
    assert [name for name in [*JUNK_NAMES, *JUNK_PREFIXES] if f"`{name}" not in page] == []
