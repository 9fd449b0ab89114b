"""Which members a record means, by whatever name it calls them; and what lies beside it that nothing can use.

Faults 100, 101 and 102 of docs/faults.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from owl_stream.errors import SampleError
from owl_stream.shards import Member, Record, Sample, read_record
from tests.records.both import asked, packed, turns_of
from tests.support.tars import picture


def read(members: dict[str, bytes], key: str = "k") -> Record:
    """The record of a sample with these members by extension."""
    made = [Member(f"{key}.{ext}", ext.lower(), 0, memoryview(data)) for ext, data in members.items()]
    return read_record(Sample("s.tar", key, tuple(made)))


def refused(members: dict[str, bytes]) -> SampleError:
    """Why there is none."""
    with pytest.raises(SampleError) as caught:
        read(members)
    return caught.value


@pytest.mark.parametrize("images", [["dir/1.jpg"], "dir/1.jpg", [{"path": "dir/1.jpg"}], ["http://h/1.jpg"]])
@pytest.mark.parametrize("name", ["images", "image", "image_path", "image_file"])
def test_a_single_name_stands_for_the_single_image(name: str, images: object) -> None:
    """A path of the data set that the sample came from, as one text or in a list."""
    record = read({"json": json.dumps(asked("<image>a", **{name: images})).encode(), "jpg": picture(8, 8, 0)})
    assert [member.name for member in record.images] == ["k.jpg"]


@pytest.mark.parametrize("name", ["images", "image", "image_paths"])
def test_several_names_are_found_by_their_base_names(name: str) -> None:
    """Under either spelling; names that nothing fits are not guessed."""
    members = {"0.jpg": picture(8, 8, 0), "1.jpg": picture(8, 8, 1)}
    record = read({**members, "json": json.dumps(asked("<image><image>", **{name: ["x/k.1.jpg", "k.0.jpg"]})).encode()})
    assert [member.name for member in record.images] == ["k.1.jpg", "k.0.jpg"]
    guess = json.dumps(asked("<image><image>", **{name: ["x/a.jpg", "x/b.jpg"]})).encode()
    assert refused({**members, "json": guess}).reason == "image_unknown"


@pytest.mark.parametrize("form", [{"image": ["0.jpg"]}, {"images": "0.jpg"}, {"image": "0.jpg"}, {"img": "0.jpg"}])
def test_pack_finds_images_under_either_spelling(form: dict[str, Any], tmp_path: Path) -> None:
    """`{image: [...], messages}` too."""
    record = packed({**asked("<image>a"), **form}, tmp_path)
    assert turns_of(record)[0] == ("user", "<|image|>a")
    assert isinstance(record, Record)
    assert bytes(record.images[0].data) == picture(8, 8, 0)


def test_a_picture_that_is_only_an_address_is_missing() -> None:
    """The record means one, and there is none."""
    record = asked("What is it?", image_url="http://h/x.jpg")
    assert refused({"json": json.dumps(record).encode()}).reason == "image_missing"
    assert read({"json": json.dumps(record).encode(), "jpg": picture(8, 8, 0)}).images


@pytest.mark.parametrize("ext", ["mp4", "webm", "wav", "MOV", "0.mp4"])
def test_a_video_or_audio_member_is_not_left_out_in_silence(ext: str) -> None:
    """Unless the record lists what it uses."""
    chat = json.dumps(asked("What is it?")).encode()
    error = refused({"json": chat, ext: b"x"})
    assert (error.reason, error.member) == ("media_unsupported", f"k.{ext}")
    listed = json.dumps(asked("<image>What is it?", images=["0.jpg"])).encode()
    assert len(read({"json": listed, ext: b"x", "0.jpg": picture(8, 8, 0)}).images) == 1


def test_members_that_nothing_uses_are_counted() -> None:
    """By suffix; members that were used are not."""
    chat = json.dumps(asked("<image>a", images=["0.jpg"])).encode()
    record = read({"json": chat, "0.jpg": picture(8, 8, 0), "1.jpg": b"x", "cls": b"3", "0.npy": b"x", "1.npy": b"x"})
    assert record.notes == ("unused_member:jpg", "unused_member:cls", "unused_member:npy")


@pytest.mark.parametrize("ext", ["jfif", "jpe", "img", "0", "picture", "JPG_large"])
def test_a_picture_is_known_by_its_content(ext: str) -> None:
    """Whatever its member is called."""
    record = read({"json": json.dumps(asked("<image>a")).encode(), ext: picture(8, 8, 0)})
    assert len(record.images) == 1


METADATA = [
    b'{"url": "http://h/x.jpg", "score": NaN}',
    b"\xef\xbb\xbf" + b'{"url": "x"}',
    '{"author": "José"}'.encode("latin-1"),
    b'["a", "b"]',
    b'"a text"',
    b"null",
    b"3",
    b'{"message_id": "17"}',
    b'{"message": "uploaded from my phone"}',
    b'[{"bbox": [1]}]',
    b'{"messages": null}',
    b'{"messages": []}',
    b'{"messages": "none"}',
    b'{"conversation_id": [1]}',
    b"",
    b"{",
    b'{"a": ' * 200 + b"1" + b"}" * 200,
    b"\x00\x01",
]


@pytest.mark.parametrize("metadata", METADATA)
@pytest.mark.parametrize("ext", ["txt", "caption"])
def test_the_caption_wins_over_a_json_that_is_no_conversation(metadata: bytes, ext: str) -> None:
    """Whatever a downloader wrote there."""
    record = read({"jpg": picture(8, 8, 0), ext: b"A dog.", "json": metadata})
    assert turns_of(record) == [("user", "<|image|>"), ("assistant", "A dog.")]


def test_a_conversation_wins_over_a_text_and_its_faults_are_named() -> None:
    """A damaged one is never replaced by the text in silence; an unused text is counted."""
    chat = json.dumps(asked("<image>a")).encode()
    rest = {"jpg": picture(8, 8, 0), "txt": b"A dog."}
    assert read({**rest, "json": chat}).notes == ("unused_member:txt",)
    assert refused({**rest, "json": chat[:-1]}).reason == "json_malformed"
    assert refused({**rest, "json": chat[:-1] + b', "score": NaN}'}).reason == "json_malformed"
    assert refused({**rest, "json": chat.replace(b'"b"', b'"\xe9"')}).reason == "text_utf8"
    assert refused({**rest, "json": chat.replace(b"messages", b"Messages")}).reason == "record_field"
    assert turns_of(read({**rest, "json": json.dumps(asked("<image>a")["messages"]).encode()}))[1] == ("assistant", "b")


def test_a_caption_may_begin_with_a_byte_order_mark() -> None:
    """Editors on Windows write one; it is no part of the text."""
    record = read({"jpg": picture(8, 8, 0), "txt": b"\xef\xbb\xbfA dog."})
    assert turns_of(record)[1] == ("assistant", "A dog.")


def test_a_key_that_ends_too_soon_is_explained() -> None:
    """`a_0.05.png` and `a_0.05.txt` are a sample `a_0`."""
    error = refused({"05.png": picture(8, 8, 0), "05.txt": b"A dog."})
    assert error.reason == "record_missing"
    assert "a key ends at the first dot" in error.detail


def test_code_that_draws_is_no_picture_unless_its_name_says_so() -> None:
    """An SVG under another name is text beside the picture; under its own it is a picture that cannot be decoded."""
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    chat = json.dumps(asked("<image>a")).encode()
    assert len(read({"json": chat, "jpg": picture(8, 8, 0), "code": svg}).images) == 1
    assert refused({"json": chat, "jpg": picture(8, 8, 0), "svg": svg}).reason == "image_count"


def test_names_that_fit_too_few_or_too_many_members_are_refused() -> None:
    """No picture is used twice for two names, and none is guessed among several."""
    one = {"jpg": picture(8, 8, 0), "json": json.dumps(asked("a", images=["front/k.jpg", "back/k.jpg"])).encode()}
    assert refused(one).reason == "image_ambiguous"
    two = {"A.jpg": picture(8, 8, 0), "a.jpg": picture(8, 8, 1)}
    record = read({**two, "json": json.dumps(asked("a", images=["a.jpg", "A.jpg"])).encode()})
    assert [member.name for member in record.images] == ["k.a.jpg", "k.A.jpg"]


@pytest.mark.parametrize("name", ["x.mp4", "['0.jpg', '1.jpg']"])
def test_a_name_that_is_no_picture_does_not_stand_for_one(name: str) -> None:
    """A video's path, or a list written as text."""
    chat = json.dumps(asked("a", image=name)).encode()
    assert refused({"json": chat, "jpg": picture(8, 8, 0)}).reason == "image_unknown"


@pytest.mark.parametrize("ext", ["mp4", "wav"])
def test_a_video_beside_a_caption_is_not_left_out_in_silence(ext: str) -> None:
    """As beside a conversation."""
    assert refused({"jpg": picture(8, 8, 0), "txt": b"A dog.", ext: b"x"}).reason == "media_unsupported"


@pytest.mark.parametrize(
    "damaged",
    [
        b'[{"from":"human","value":"a"},{"from":"gpt","val',
        b'{"Messages":[{"role":"user"',
        json.dumps(asked("a")).encode("utf-16"),
    ],
)
def test_a_damaged_conversation_in_any_form_is_not_replaced_by_the_caption(damaged: bytes) -> None:
    """A list of turns that was cut, another spelling, another encoding."""
    assert refused({"jpg": picture(8, 8, 0), "txt": b"A dog.", "json": damaged}).member == "k.json"


def test_a_key_that_comes_twice_is_refused() -> None:
    """Parsers keep the last; nobody can know which was meant."""
    chat = json.dumps(asked("a", system="x")).encode()
    error = refused({"json": chat[:-1] + b', "system": ""}'})
    assert (error.reason, "'system' comes twice" in error.detail) == ("json_malformed", True)


def test_fields_beside_a_caption_in_a_folder_are_judged(tmp_path: Path) -> None:
    """In `metadata.jsonl`, and in a json beside the caption."""
    from owl_stream.pack import PackSettings, pack

    (tmp_path / "in").mkdir()
    for at in range(4):
        (tmp_path / "in" / f"{at}.jpg").write_bytes(picture(8, 8, at))
    extra: list[dict[str, Any]] = [{"kto_tag": False}, {"system": "French"}, {"mood": 1}, {"literal_markers": True}]
    lines = [
        {"file_name": f"{at}.jpg", "text": "a <image> tag" if at == 3 else "a", **more} for at, more in enumerate(extra)
    ]
    (tmp_path / "in" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = pack(PackSettings(inputs=(tmp_path / "in",), out=tmp_path / "out"), workers=1)
    assert [bad.reason for bad in made.bad] == ["preference_pair", "record_ambiguous"]
    assert (made.samples, made.notes) == (2, {"unknown_field:mood": 1})
    (tmp_path / "in" / "metadata.jsonl").unlink()
    for at in range(2):
        (tmp_path / "in" / f"{at}.txt").write_text("a")
    (tmp_path / "in" / "0.json").write_text(json.dumps(asked("a")))
    (tmp_path / "in" / "1.json").write_text('{"url": "x"}')
    made = pack(PackSettings(inputs=(tmp_path / "in",), out=tmp_path / "other"), workers=1)
    assert made.samples == 1
    assert made.bad[0].reason == "record_ambiguous"


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def test_a_caption_that_is_a_git_lfs_pointer_is_never_learned(tmp_path: Path) -> None:
    """In a shard and in a folder."""
    from owl_stream.pack import PackSettings, pack

    assert refused({"jpg": picture(8, 8, 0), "txt": LFS}).reason == "text_lfs_pointer"
    (tmp_path / "in").mkdir()
    for at, (suffix, text) in enumerate([("txt", LFS), ("TXT", b"a"), ("caption", b"b")]):
        (tmp_path / "in" / f"{at}.jpg").write_bytes(picture(8, 8, at))
        (tmp_path / "in" / f"{at}.{suffix}").write_bytes(text)
    (tmp_path / "in" / "3.jpg").write_bytes(picture(8, 8, 3))
    (tmp_path / "in" / "3.txt").write_bytes(b"a")
    (tmp_path / "in" / "3.caption").write_bytes(b"b")
    made = pack(PackSettings(inputs=(tmp_path / "in",), out=tmp_path / "out"), workers=1)
    assert [bad.reason for bad in made.bad] == ["caption_lfs_pointer", "record_ambiguous"]
    assert made.samples == 2


def test_a_picture_that_the_metadata_of_a_folder_names_is_the_picture(tmp_path: Path) -> None:
    """`file_name` beside `messages`: packed with it; a shard without it is refused; other files are harmless."""
    record = packed(asked("What is it?", file_name="1.jpg"), tmp_path)
    assert isinstance(record, Record)
    assert bytes(record.images[0].data) == picture(8, 8, 1)
    chat = json.dumps(asked("What is it?", file_name="1.jpg")).encode()
    assert refused({"json": chat}).reason == "image_missing"
    assert len(read({"json": chat, "jpg": picture(8, 8, 0)}).images) == 1
    assert read({"json": json.dumps(asked("a", file_name="chat.json")).encode()}).images == ()


@pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_file_is_found_in_either_unicode_form(tmp_path: Path, written: str, stored: str) -> None:
    """macOS keeps names decomposed, JSON mostly does not."""
    import unicodedata

    (tmp_path / unicodedata.normalize(stored, "é.jpg")).write_bytes(picture(8, 8, 0))
    record = packed(asked("<image>a", images=[unicodedata.normalize(written, "é.jpg")]), tmp_path)
    assert isinstance(record, Record)
    assert len(record.images) == 1
