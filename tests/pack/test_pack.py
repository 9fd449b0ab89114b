"""Foreign records become samples that a server reads; what cannot is named with its line.

Fault 103 of docs/faults.md.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from owl_stream.errors import ConfigError, DataError
from owl_stream.pack import Packed, PackSettings, pack
from owl_stream.pack.documents import Documents
from tests.pack.foreign import llava, sharegpt, swift, write_array, write_captions, write_lines, write_pictures


def packed(path: Path, out: Path, **settings: Any) -> Packed:
    """Pack one input."""
    return pack(PackSettings(inputs=(path,), out=out, **settings), workers=2)


def members(out: Path) -> dict[str, bytes]:
    """Every member of every shard; a name that comes twice fails."""
    found: dict[str, bytes] = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                assert info.name not in found
                file = tar.extractfile(info)
                assert file is not None
                found[info.name] = file.read()
    return found


def turns(document: bytes) -> list[tuple[str, str]]:
    """The messages of a record."""
    return [(message["role"], message["content"]) for message in json.loads(document)["messages"]]


def bad(made: Packed) -> list[tuple[int, str]]:
    """(line, reason) of what was left out."""
    return [(entry.origin.line, entry.reason) for entry in made.bad]


@pytest.mark.parametrize("write", [write_array, write_lines, lambda path, records: write_array(path, records, None)])
def test_llava_becomes_messages_with_their_pictures(tmp_path: Path, write: Callable[..., Path]) -> None:
    """As an array, pretty or not, or as lines: markers, roles, one or several images, or none."""
    names = write_pictures(tmp_path, 3)
    made = packed(write(tmp_path / "x.json", llava(names)), tmp_path / "out")
    assert (made.samples, made.bad) == (5, ())
    found = members(tmp_path / "out")
    assert turns(found["000000001.json"]) == [
        ("user", "<|image|>\nWhat is images/1.jpg?"),
        ("assistant", "It is images/1.jpg."),
    ]
    assert json.loads(found["000000001.json"])["id"] == "id-images/1.jpg"
    assert found["000000001.jpg"] == (tmp_path / names[1]).read_bytes()
    assert found["000000003.0.jpg"] == (tmp_path / names[0]).read_bytes()
    assert found["000000003.1.jpg"] == (tmp_path / names[1]).read_bytes()
    assert [name for name in found if name.startswith("000000004")] == ["000000004.json"]


def test_sharegpt_and_both_forms_of_swift(tmp_path: Path) -> None:
    """A system prompt, a history, and images as names or objects."""
    names = write_pictures(tmp_path, 2)
    packed(write_lines(tmp_path / "s.jsonl", sharegpt(names)), tmp_path / "s")
    document = members(tmp_path / "s")["000000000.json"]
    assert turns(document) == [("system", "Be brief."), ("user", "<|image|>Why?"), ("assistant", "So.")]
    packed(write_lines(tmp_path / "w.jsonl", swift(names)), tmp_path / "w")
    found = members(tmp_path / "w")
    assert [text for _, text in turns(found["000000000.json"])] == ["<|image|>Who?", "Me.", "Sure?", "Yes."]
    assert [text for _, text in turns(found["000000001.json"])] == ["<|image|>Who?", "They."]
    assert found["000000001.jpg"] == (tmp_path / names[1]).read_bytes()


def test_folders_with_captions_beside_or_in_a_list(tmp_path: Path) -> None:
    """Subfolders count; an image without a caption and a caption without an image are named."""
    folder = write_captions(tmp_path / "c", 2)
    (folder / "lonely.txt").write_text("Nothing.")
    (folder / "a" / "2.png").write_bytes((folder / "a" / "1.png").read_bytes())
    made = packed(folder, tmp_path / "out", prompt="Describe it.")
    assert [(Path(b.origin.source).name, b.reason) for b in made.bad] == [
        ("2.png", "caption_missing"),
        ("lonely.txt", "image_missing"),
    ]
    assert turns(members(tmp_path / "out")["000000000.json"]) == [
        ("user", "<|image|>\nDescribe it."),
        ("assistant", "Picture 0."),
    ]
    listed = [{"file_name": "a/0.png", "text": "Zero."}, {"file_name": "a/9.png", "text": "Nine."}, {"text": "?"}]
    write_lines(folder / "metadata.jsonl", listed)
    made = packed(folder, tmp_path / "listed")
    assert bad(made) == [(2, "image_missing"), (3, "record_field")]
    assert made.samples == 1


@pytest.mark.parametrize(
    "name",
    [
        "._0.png",
        "a/._0.png",
        "a/._0.txt",
        "__MACOSX/0.png",
        "a/__MACOSX/._0.png",
        "a/__MACOSX/b/0.png",
        ".git/0.png",
        "a/.ipynb_checkpoints/0-checkpoint.png",
        "@eaDir/0.png/SYNOPHOTO_THUMB_M.png",
        "a/$RECYCLE.BIN/0.png",
        "PaxHeaders.12/0.png",
    ],
)
def test_hidden_files_and_junk_in_a_folder_are_nobodys_samples(tmp_path: Path, name: str) -> None:
    """At any depth: neither packed nor left out as bad; the folder itself may have such a name."""
    folder = write_captions(tmp_path / ".hidden" / "._c", 2)
    clean = packed(folder, tmp_path / "clean")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")
    made = packed(folder, tmp_path / "out")
    assert (made.samples, made.bad) == (clean.samples, ()) == (2, ())
    assert members(tmp_path / "out") == members(tmp_path / "clean")


def test_bad_records_are_left_out_and_named_with_their_lines(tmp_path: Path) -> None:
    """Whatever is wrong with a record, its neighbours are packed and its reason and line are kept in a file."""
    names = write_pictures(tmp_path, 1)
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (tmp_path / "images" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "images" / "empty.jpg").touch()
    (tmp_path / "images" / "notes").write_text("text")
    good = llava(names)[0]
    faults = {
        "image_missing": {**good, "image": "images/none.jpg"},
        "image_outside": {**good, "image": "../secret.jpg"},
        "image_size": {**good, "image": "empty.jpg"},
        "image_type": {**good, "image": "notes"},
        "image_remote": {**good, "image": "https://example.org/x.jpg"},
        "image_count": {**good, "image": []},
        "record_field": {"id": 1},
        "record_type": {**good, "conversations": {}},
        "record_role": {"conversations": [{"from": "judge", "value": "x"}]},
        "text_surrogate": llava(["\ud800"])[0],
        "media_unsupported": {**good, "video": "x.mp4"},
    }
    lines = [json.dumps(record).encode() for record in [*faults.values(), {**good, "image": "0.jpg"}]]
    lines += [json.dumps({**good, "image": name}).encode() for name in ("link.jpg", str(tmp_path / "secret.jpg"))]
    lines += [b"{", b"[" * 100_000, b"7", b'{"conversations": "\xff"}', b""]
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(lines))
    made = packed(path, tmp_path / "out", images=tmp_path / "images")
    more = ["image_outside", "image_outside", "json_malformed", "json_nesting", "json_malformed", "record_type"]
    expected = [*enumerate(faults, start=1), *enumerate(more, start=len(faults) + 2)]
    assert bad(made) == expected
    assert made.samples == 1
    listed = [json.loads(line) for line in made.bad_list.read_text().splitlines()]
    assert [(entry["line"], entry["reason"]) for entry in listed] == expected
    allowed = packed(path, tmp_path / "allowed", images=tmp_path / "images", allow_outside=True)
    assert allowed.samples == 4
    with pytest.raises(DataError, match=r"x\.jsonl, line 1: .*image_missing"):
        packed(path, tmp_path / "failed", images=tmp_path / "images", on_bad="fail")


@pytest.mark.parametrize(
    ("text", "line"),
    [('[{"a": 1},\n{"a": 2', 2), ('[{"a": 1}\n{"a": 2}]', 2), ("[{}]\n[]", 2), ("[{},\n\n]", 3), ("[", 1)],
)
def test_damage_of_an_array_names_its_line(tmp_path: Path, text: str, line: int) -> None:
    """Nothing behind it can be found again, so it is an error, not a record that is left out."""
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=f"x.json, line {line}: "):
        list(Documents(path))


def test_an_array_is_read_in_pieces_whatever_their_edges_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a few characters at a time, the records and their lines are the same."""
    records = [{"text": 'quote " bracket ] brace } \\', "n": at} for at in range(5)]
    path = write_array(tmp_path / "x.json", records, indent=2)
    whole = list(Documents(path))
    assert [(number, record) for number, _, record in whole] == list(enumerate(records, start=1))
    monkeypatch.setattr("owl_stream.pack.documents._CHUNK", 3)
    assert list(Documents(path)) == whole


def test_shards_are_full_but_no_fuller(tmp_path: Path) -> None:
    """By samples, by bytes, and never a sample split or lost; the same bytes however many are written at a time."""
    path = write_array(tmp_path / "x.json", llava(write_pictures(tmp_path, 20)))
    by_samples = packed(path, tmp_path / "samples", shard_samples=4)
    assert [shard.samples for shard in by_samples.shards] == [4, 4, 4, 4, 4, 2]
    by_bytes = packed(path, tmp_path / "bytes", shard_bytes=10_000)
    assert all(shard.nbytes <= 10_000 for shard in by_bytes.shards)
    assert all(len(made.shards) > 1 for made in (by_samples, by_bytes))
    assert members(tmp_path / "samples") == members(tmp_path / "bytes")
    alone = pack(PackSettings(inputs=(path,), out=tmp_path / "alone", shard_samples=4), workers=1)
    assert alone.shards == by_samples.shards


def test_what_is_done_is_kept_and_what_changed_is_written_again(tmp_path: Path) -> None:
    """A second run writes nothing; a changed picture costs its shards, fewer records remove those behind."""
    records = llava(write_pictures(tmp_path, 8))
    path, out = write_array(tmp_path / "x.json", records), tmp_path / "out"
    assert packed(path, out, shard_samples=2).kept == 0
    times = {shard: shard.stat().st_mtime_ns for shard in out.glob("*.tar")}
    assert packed(path, out, shard_samples=2).kept == 5
    assert {shard: shard.stat().st_mtime_ns for shard in out.glob("*.tar")} == times
    with (out / ".train.pack.jsonl").open("ab") as journal:
        journal.write(b'{"assignment": "torn by a ki')
    os.utime(tmp_path / "images" / "0.jpg", ns=(1, 1))
    assert packed(path, out, shard_samples=2).kept == 3
    write_array(path, records[:4])
    assert packed(path, out, shard_samples=2).kept == 2
    assert len(list(out.glob("*.tar"))) == 2


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    """Shards of other origin or other settings are never overwritten, and two runs never share a directory."""
    path = write_array(tmp_path / "x.json", llava(write_pictures(tmp_path, 1)))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train-000007.tar").touch()
    with pytest.raises(ConfigError, match="not of this command"):
        packed(path, tmp_path / "other")
    packed(path, tmp_path / "out")
    with pytest.raises(ConfigError, match="begun with shard_samples 10000, now it is 5"):
        packed(path, tmp_path / "out", shard_samples=5)
    made = packed(path, tmp_path / "out")
    import fcntl

    with (tmp_path / "out" / ".train.pack.jsonl").open() as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another run"):
            packed(path, tmp_path / "out")
    assert packed(path, tmp_path / "out").shards == made.shards


LIST_OF_TURNS = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


@pytest.mark.parametrize(
    ("text", "samples"),
    [
        (json.dumps(LIST_OF_TURNS), 1),
        (json.dumps(LIST_OF_TURNS, indent=1), 1),
        (f"{json.dumps(LIST_OF_TURNS)}\n{json.dumps(LIST_OF_TURNS)}\n", 2),
        (json.dumps([LIST_OF_TURNS, LIST_OF_TURNS], indent=1), 2),
    ],
)
def test_a_list_of_turns_is_a_record_alone_in_lines_and_in_an_array(tmp_path: Path, text: str, samples: int) -> None:
    """A file of one, a line each, or a list of them."""
    (tmp_path / "x.json").write_text(text)
    made = packed(tmp_path / "x.json", tmp_path / "out")
    assert (made.samples, made.bad) == (samples, ())


@pytest.mark.parametrize("array", [False, True])
def test_a_key_that_comes_twice_costs_its_record_only(tmp_path: Path, array: bool) -> None:
    """In lines and in an array; its neighbours are packed."""
    good = json.dumps({"conversations": LIST_OF_TURNS})
    twice = good[:-1] + ', "system": "x", "system": ""}'
    rows = [good, twice, good]
    (tmp_path / "x.json").write_text(f"[{','.join(rows)}]" if array else "\n".join(rows))
    made = packed(tmp_path / "x.json", tmp_path / "out")
    assert made.samples == 2
    assert [bad.reason for bad in made.bad] == ["json_malformed"]
    assert "'system' comes twice" in made.bad[0].detail
