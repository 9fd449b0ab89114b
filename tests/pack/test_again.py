"""A run behind another one goes on, starts anew or is refused; one that wrote nothing stands in nobody's way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from owl_stream.errors import ConfigError, DataError
from owl_stream.pack import Packed, PackSettings, pack
from tests.pack.foreign import llava, write_array, write_captions, write_lines, write_pictures


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Eleven records of eight images."""
    return write_array(tmp_path / "x.json", llava(write_pictures(tmp_path, 8)))


def packed(path: Path, out: Path, **settings: Any) -> Packed:
    """Pack one input into shards of two samples."""
    return pack(PackSettings(inputs=(path,), out=out, **{"shard_samples": 2, **settings}), workers=1)


def shards(out: Path) -> dict[str, bytes]:
    """Every tar by its name."""
    return {path.name: path.read_bytes() for path in out.glob("*.tar")}


def test_a_run_that_found_nothing_good_leaves_nothing(records: Path, tmp_path: Path) -> None:
    """With the wrong --images, or --on-bad fail: the next run may have any settings, and the directory is as it was."""
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    for directory, settings in ((out, {"images": empty}), (out, {"images": empty, "on_bad": "fail"})):
        with pytest.raises(DataError):
            packed(write_array(tmp_path / "y.json", llava(write_pictures(tmp_path, 2))[:2]), directory, **settings)
        assert not out.exists()
    assert packed(records, out).kept == 0


def test_a_directory_that_was_there_stays(records: Path, tmp_path: Path) -> None:
    """Only what the run has made for nothing goes away again."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError):
        packed(records, out, images=out, on_bad="fail")
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_a_run_that_was_killed_before_its_first_shard_binds_nobody(records: Path, tmp_path: Path) -> None:
    """Its journal tells of settings and half a shard may lie there; with other settings it is begun anew."""
    out = tmp_path / "out"
    packed(records, out)
    for shard in out.glob("*.tar"):
        shard.unlink()
    (out / "train-000000.tar.tmp").write_bytes(b"half")
    made = packed(records, out, shard_samples=3)
    assert (made.kept, made.samples, (out / "train-000000.tar.tmp").exists()) == (0, 10, False)


def test_other_settings_are_refused_until_they_are_forced(records: Path, tmp_path: Path) -> None:
    """The refusal names what differs and the remedy; forced, the shards are those of a run in an empty directory."""
    out = tmp_path / "out"
    packed(records, out)
    before = shards(out)
    with pytest.raises(ConfigError, match="begun with shard_samples 2, now it is 4; --force removes its shards"):
        packed(records, out, shard_samples=4)
    assert shards(out) == before
    made = packed(records, out, shard_samples=4, begin="force")
    packed(records, tmp_path / "fresh", shard_samples=4)
    assert made.kept == 0
    assert shards(out) == shards(tmp_path / "fresh")
    assert packed(records, out, shard_samples=4).kept == len(shards(out))


def test_force_leaves_what_others_have_written(records: Path, tmp_path: Path) -> None:
    """Shards of another name, and files whose names only look alike."""
    out = tmp_path / "out"
    packed(records, out)
    packed(records, out, name="train-val", shard_samples=3)
    (out / "train-extra.tar").write_bytes(b"mine")
    others = {name: data for name, data in shards(out).items() if name.startswith(("train-val", "train-extra"))}
    packed(records, out, shard_samples=10, begin="force")
    assert {name: data for name, data in shards(out).items() if name in others} == others
    assert packed(records, out, name="train-val", shard_samples=3).kept == 4


def test_force_does_not_take_shards_that_nobody_knows(records: Path, tmp_path: Path) -> None:
    """Without a journal they may be somebody's only copy."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "train-000000.tar").write_bytes(b"mine")
    for begin in ("auto", "force"):
        with pytest.raises(ConfigError, match="not of this command"):
            packed(records, out, begin=begin)
    assert [path.name for path in out.iterdir()] == ["train-000000.tar"]


def test_force_removes_nothing_before_there_is_something_to_write(records: Path, tmp_path: Path) -> None:
    """Forced with inputs of which nothing is good, the old shards stay and may be gone on with."""
    out = tmp_path / "out"
    packed(records, out)
    before = shards(out)
    with pytest.raises(DataError):
        packed(write_lines(tmp_path / "bad.jsonl", [{"a": 1}]), out, begin="force")
    assert shards(out) == before
    assert packed(records, out).kept == len(before)


def test_a_damaged_journal_is_forced_too(records: Path, tmp_path: Path) -> None:
    """The message says so."""
    out = tmp_path / "out"
    packed(records, out)
    for damage in ("nonsense\n", "[]\n", '{"settings": '):
        (out / ".train.pack.jsonl").write_text(damage)
        with pytest.raises(ConfigError, match=r"is damaged: .*--force"):
            packed(records, out)
    assert packed(records, out, begin="force").kept == 0


def test_resume_wants_something_to_go_on_with(records: Path, tmp_path: Path) -> None:
    """A misspelt --out is not begun anew; where there are shards it goes on."""
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="no shards of 'train' to go on from"):
        packed(records, out, begin="resume")
    assert not out.exists()
    made = packed(records, out)
    (out / made.shards[-1].name).unlink()
    assert packed(records, out, begin="resume").kept == len(made.shards) - 1


def test_a_record_of_an_array_is_named_by_its_number_and_id(tmp_path: Path) -> None:
    """In an array on one line, which is how most of them are written, a line says nothing."""
    good = llava(write_pictures(tmp_path, 1))[0]
    bad = [{**good, "id": "x/7", "image": "no.jpg"}, {**good, "id": 8, "image": "no.jpg"}, 9]
    made = packed(write_array(tmp_path / "one-line.json", [good, *bad], None), tmp_path / "out")  # type: ignore[list-item]
    named = [str(each.origin).removeprefix(f"{tmp_path}/") for each in made.bad]
    assert named == [
        "one-line.json, record 2 (id 'x/7'), line 1",
        "one-line.json, record 3 (id '8'), line 1",
        "one-line.json, record 4, line 1",
    ]
    listed = [json.loads(line) for line in made.bad_list.read_text().splitlines()]
    assert [(each["record"], each["id"], each["line"]) for each in listed] == [(2, "x/7", 1), (3, 8, 1), (4, None, 1)]


def test_a_record_on_a_line_of_its_own_is_named_by_that(tmp_path: Path) -> None:
    """Blank lines count, as they do in an editor; a list of captions is told likewise, an array in one too."""
    good = llava(write_pictures(tmp_path, 1))[0]
    (tmp_path / "x.jsonl").write_text(f"{json.dumps(good)}\n\n{json.dumps({**good, 'image': 'no.jpg'})}\n")
    (bad,) = packed(tmp_path / "x.jsonl", tmp_path / "out").bad
    assert str(bad.origin) == f"{tmp_path / 'x.jsonl'}, line 3"
    folder = write_captions(tmp_path / "c", 1)
    write_array(folder / "metadata.jsonl", [{"file_name": "a/0.png", "text": "Zero."}, {"file_name": "?"}], None)
    (bad,) = packed(folder, tmp_path / "captions").bad
    assert str(bad.origin).endswith("metadata.jsonl, record 2, line 1")
