"""Three forms of a record become one; what is wrong with a text is named."""

from __future__ import annotations

import json

import pytest

from owl_stream.errors import SampleError
from owl_stream.records import Message
from owl_stream.shards import Member, Record, Sample, read_record
from tests.support.tars import chat


def sample(**members: bytes) -> Sample:
    """A sample `s.tar`/`k`: sample(json=..., _0_jpg=...); `_` separates and begins extensions."""
    return of({ext.removeprefix("_").replace("_", "."): data for ext, data in members.items()})


def of(members: dict[str, bytes], key: str = "k") -> Sample:
    """The same from extensions."""
    made = (
        Member(f"{key}.{ext}", ext.lower(), 512 * at, memoryview(data))
        for at, (ext, data) in enumerate(members.items())
    )
    return Sample("s.tar", key, tuple(made))


def turns(*messages: tuple[str, str], **extra: object) -> bytes:
    """A `messages` record with roles of choice."""
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in messages], **extra}).encode()


def llava(*messages: tuple[str, str], **extra: object) -> bytes:
    """A `conversations` record."""
    return json.dumps({"conversations": [{"from": who, "value": text} for who, text in messages], **extra}).encode()


def names(record: Record) -> list[str]:
    """Names of the images, in order."""
    return [member.name for member in record.images]


def refused(bad: Sample) -> SampleError:
    """The error, which always names shard and key."""
    with pytest.raises(SampleError) as caught:
        read_record(bad)
    assert (caught.value.shard, caught.value.key) == ("s.tar", "k")
    return caught.value


def test_messages_with_images_in_natural_order() -> None:
    """2 comes before 10, whatever the order in the tar."""
    record = read_record(
        of({"10.jpg": b"c", "json": chat(("<|image|><|image|>a<|image|>", "b")), "2.PNG": b"b", "0.jpg": b"a"})
    )
    assert record.messages == (Message("user", "<|image|><|image|>a<|image|>"), Message("assistant", "b"))
    assert names(record) == ["k.0.jpg", "k.2.PNG", "k.10.jpg"]
    assert record.videos == ()


@pytest.mark.parametrize("ext", ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "JPG", "a.b.Png"])
def test_image_members_are_known_by_their_suffix(ext: str) -> None:
    """In any case."""
    assert len(read_record(of({ext: b"x", "json": chat(("<|image|>", "b"))})).images) == 1


def test_members_that_could_run_code_are_never_looked_at() -> None:
    """Pickles and unknown members are ignored, empty ones too."""
    record = read_record(of({"pyd": b"\x80\x04.", "pkl": b"", "pt": b"PK", "cls": b"3", "json": chat(("a", "b"))}))
    assert record.images == ()


def test_a_system_turn_may_come_first() -> None:
    """Then user and assistant in turns."""
    record = read_record(
        sample(json=turns(("system", "s"), ("user", "a"), ("assistant", ""), ("user", "b"), ("assistant", "c")))
    )
    assert [message.role for message in record.messages] == ["system", "user", "assistant", "user", "assistant"]


def test_llava_conversations_become_messages() -> None:
    """Markers change, every other letter stays; its own and the canonical marker are both understood."""
    record = read_record(
        sample(
            json=llava(
                ("system", "s"), ("human", "<image>\nWhat? <|image|>"), ("gpt", "A."), ("user", "q"), ("assistant", "r")
            ),
            _0_jpg=b"x",
            _1_jpg=b"y",
        )
    )
    assert record.messages == (
        Message("system", "s"),
        Message("user", "<|image|>\nWhat? <|image|>"),
        Message("assistant", "A."),
        Message("user", "q"),
        Message("assistant", "r"),
    )


def test_a_caption_is_the_answer_to_its_images() -> None:
    """`txt` or `caption`; white space around it goes."""
    for ext in ("txt", "caption"):
        record = read_record(of({"1.jpg": b"b", "0.jpg": b"a", ext: "  Ein Hund – 犬.\n".encode()}))
        assert record.messages == (Message("user", "<|image|><|image|>"), Message("assistant", "Ein Hund – 犬."))
        assert names(record) == ["k.0.jpg", "k.1.jpg"]


def test_a_json_of_metadata_beside_a_caption_is_passed_over() -> None:
    """As image downloaders write it; but a misspelt conversation is not taken for metadata."""
    metadata = json.dumps({"url": "http://h/x.jpg", "width": 3, "caption": "A dog"}).encode()
    record = read_record(sample(jpg=b"x", txt=b"A dog", json=metadata))
    assert record.messages[1] == Message("assistant", "A dog")
    misspelt = turns(("user", "a"), ("assistant", "b")).replace(b"messages", b"mesages")
    assert refused(sample(jpg=b"x", txt=b"A dog", json=misspelt)).reason == "record_field"


def test_images_may_be_listed_by_name_base_name_or_extension() -> None:
    """In the order of the list; one may come twice, others may be left out."""
    members = {"0.jpg": b"a", "1.jpg": b"b", "2.jpg": b"c"}
    for wanted in (["d/k.2.jpg", "d/k.0.jpg"], ["k.2.jpg", "k.0.jpg"], ["2.jpg", "0.JPG"]):
        record = read_record(of({**members, "json": chat(("<|image|><|image|>", "b"), images=wanted)}, key="d/k"))
        assert names(record) == ["d/k.2.jpg", "d/k.0.jpg"]
    twice = of({**members, "json": chat(("<|image|><|image|>", "b"), images=["1.jpg", "1.jpg"])})
    assert names(read_record(twice)) == ["k.1.jpg", "k.1.jpg"]


def test_llava_image_paths_are_of_the_data_set_they_came_from() -> None:
    """A single path that fits nothing is the single image; several must fit by base name; a fit gives the order."""
    single = llava(("human", "<image>"), ("gpt", "b"), image="coco/train2017/000000033471.jpg")
    assert names(read_record(sample(json=single, jpg=b"x"))) == ["k.jpg"]
    several = llava(("human", "<image><image>"), ("gpt", "b"), image=["x/k.1.jpg", "y/k.0.jpg"])
    assert names(read_record(sample(json=several, _0_jpg=b"a", _1_jpg=b"b"))) == ["k.1.jpg", "k.0.jpg"]
    guess = llava(("human", "<image><image>"), ("gpt", "b"), image=["x/first.jpg", "y/second.jpg"])
    error = refused(sample(json=guess, _0_jpg=b"a", _1_jpg=b"b"))
    assert error.reason == "image_unknown"
    assert "k.0.jpg, k.1.jpg" in error.detail


def test_null_and_empty_lists_of_images() -> None:
    """null says nothing; an empty list says: none, whatever lies there."""
    assert names(read_record(sample(json=chat(("<|image|>", "b"), image=None, images=None), jpg=b"x"))) == ["k.jpg"]
    assert names(read_record(sample(json=chat(("a", "b"), images=[]), jpg=b"x"))) == []


def test_videos_take_their_frames_from_the_images() -> None:
    """Frames in the order of the list; the other images stay images."""
    members = {f"{at}.jpg": b"x" for at in range(4)}
    record = read_record(
        of({**members, "json": chat(("<|video|>a<|image|>", "b"), videos=[["3.jpg", "1.jpg", "2.jpg"]])})
    )
    assert [[frame.name for frame in video] for video in record.videos] == [["k.3.jpg", "k.1.jpg", "k.2.jpg"]]
    assert names(record) == ["k.0.jpg"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "json_malformed"),
        (b'{"messages": []} x', "json_malformed"),
        (b"\xef\xbb\xbf{}", "text_bom"),
        (b'{"messages": [], "score": NaN}', "json_malformed"),
        (b'{"score": -Infinity}', "json_malformed"),
        (b"[]", "json_malformed"),
        (b'{"n": ' + b"9" * 5000 + b"}", "json_malformed"),
    ],
)
def test_fault_69_malformed_json(data: bytes, reason: str) -> None:
    """Malformed, a byte order mark, NaN: named with member and offset."""
    error = refused(sample(jpg=b"x", json=data))
    assert (error.reason, error.member, error.offset) == (reason, "k.json", 512)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", [65, 900, 100_000])
def test_fault_70_nesting(opening: bytes, depth: int) -> None:
    """The same reason for any depth beyond the limit, however deep the parser gets before it gives up."""
    closing = b"]" if opening == b"[" else b"}"
    error = refused(sample(json=b'{"x": ' + opening * depth + b"1" + closing * depth + b"}"))
    assert error.reason == "json_nesting"
    assert refused(sample(json=b'{"x": ' + opening * depth)).reason in ("json_nesting", "json_malformed")


def test_nesting_up_to_the_limit_is_fine() -> None:
    """63 lists inside the object."""
    record = read_record(sample(json=b'{"x": ' + b"[" * 63 + b"]" * 63 + b"," + chat(("a", "b"))[1:]))
    assert len(record.messages) == 2


def test_fault_71_invalid_utf8() -> None:
    """In a JSON document and in a caption; the byte and its place are named."""
    error = refused(sample(json=b'{"messages": "\xe9"}'))
    assert (error.reason, error.detail) == ("text_utf8", "byte 0xe9 at 14 is not UTF-8")
    assert refused(sample(jpg=b"x", txt=b"caf\xe9")).reason == "text_utf8"


@pytest.mark.parametrize(
    ("text", "reason"),
    [(b"\\ud800", "text_surrogate"), (b"\\udc00\\ud800", "text_surrogate"), (b"a\\u0000", "text_nul")],
)
def test_fault_72_lone_surrogates_and_nul(text: bytes, reason: str) -> None:
    """JSON can spell what no tokenizer can take."""
    document = b'{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "b"}]}' % text
    assert refused(sample(json=document)).reason == reason


def test_fault_72_a_nul_in_a_caption_and_a_whole_surrogate_pair() -> None:
    """Raw NUL bytes are refused too; a pair is a letter."""
    assert refused(sample(jpg=b"x", txt=b"a\0b")).reason == "text_nul"
    record = read_record(sample(json=chat(("a", "b")).replace(b'"b"', b'"\\ud83d\\udc36"')))
    assert record.messages[1].content == "🐶"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"mesages": []}, "got `mesages`: did you mean `messages`?"),
        ({"Messages": []}, "got `Messages`: did you mean `messages`?"),
        ({"conversation": []}, "got `conversation`: did you mean `conversations`?"),
        ({"id": 1, "text": "x"}, "expected the field `messages` or `conversations`, got `id`, `text`"),
        ({}, "got no field at all"),
        ({"messages": [{"role": "user", "contnet": "a"}]}, "messages[0]: expected the field `content`, got `contnet`"),
        ({"messages": [{"content": "a"}]}, "messages[0]: expected the field `role`, got `content`"),
        ({"conversations": [{"from": "human", "val": "a"}]}, "conversations[0]: expected the field `value`"),
    ],
)
def test_fault_73_missing_and_misspelt_fields(document: object, expected: str) -> None:
    """The nearest valid name is offered."""
    error = refused(sample(json=json.dumps(document).encode()))
    assert error.reason == "record_field"
    assert expected in error.detail


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"messages": {}}, "`messages`: expected a list, got an object"),
        ({"messages": ["a"]}, "messages[0]: expected an object, got a string"),
        (
            {"messages": [{"role": "user", "content": [1]}]},
            "messages[0].content[0]: expected an object with `type`, got a number",
        ),
        ({"messages": [{"role": 1, "content": ""}]}, "messages[0].role: expected a string, got a number"),
    ],
)
def test_wrong_types_are_named(document: object, expected: str) -> None:
    """With the path into the document."""
    error = refused(sample(json=json.dumps(document).encode()))
    assert (error.reason, error.detail) == ("record_type", expected)


@pytest.mark.parametrize("images", [0, 1, 3])
def test_fault_74_more_or_fewer_images_than_markers(images: int) -> None:
    """Both numbers are in the message."""
    error = refused(of({"json": chat(("<|image|>a<|image|>", "b")), **{f"{at}.jpg": b"x" for at in range(images)}}))
    assert error.reason == "image_count"
    assert error.detail.startswith(f"2 markers `<|image|>`, but {images} images")


def test_fault_74_more_or_fewer_videos_than_markers() -> None:
    """Likewise; a video without frames is none."""
    error = refused(sample(json=chat(("<|video|><|video|>", "b"), videos=[["0.jpg"]]), _0_jpg=b"x"))
    assert error.detail == "2 markers `<|video|>`, but 1 videos"
    assert refused(sample(json=chat(("<|video|>", "b"), videos=[[]]))).reason == "video_empty"


@pytest.mark.parametrize("marker", ["<|image|>", "<|video|>"])
@pytest.mark.parametrize("role", ["system", "assistant"])
def test_fault_75_markers_outside_a_user_turn(role: str, marker: str) -> None:
    """Even where the number of images would fit."""
    messages = [("system", "s"), ("user", "a"), ("assistant", "b")]
    bad = [(who, text + marker if who == role else text) for who, text in messages]
    error = refused(sample(json=turns(*bad), jpg=b"x"))
    assert error.reason == "marker_role"
    assert role in error.detail


def test_fault_75_markers_in_llava_answers_and_captions() -> None:
    """They are markers in every form."""
    assert refused(sample(json=llava(("human", "a"), ("gpt", "<image>")), jpg=b"x")).reason == "marker_role"
    assert refused(sample(txt=b"a <|image|>", jpg=b"x")).reason == "marker_role"


@pytest.mark.parametrize("document", [b'{"messages": []}', b'{"conversations": []}'])
def test_fault_77_empty_conversations(document: bytes) -> None:
    """No turn at all, or a caption of nothing but white space."""
    assert refused(sample(json=document)).reason == "record_empty"
    assert refused(sample(jpg=b"x", txt=b" \n")).reason == "record_empty"


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ("s", "expected the last turn to be the assistant's, got system"),
        ("u", "expected the last turn to be the assistant's, got user"),
        ("uau", "expected the last turn to be the assistant's, got user"),
        ("a", "turn 0: expected user, got assistant"),
        ("uua", "turn 1: expected assistant, got user"),
        ("usa", "turn 1: expected assistant, got system"),
        ("ssua", "turn 1: expected user, got system"),
    ],
)
def test_the_order_of_roles_is_said(roles: str, expected: str) -> None:
    """Optional system, user and assistant in turns, the assistant last."""
    full = {"s": "system", "u": "user", "a": "assistant"}
    error = refused(sample(json=turns(*((full[letter], "x") for letter in roles))))
    assert (error.reason, error.detail) == ("record_order", expected)


def test_unknown_roles_are_said_with_the_nearest() -> None:
    """In either form."""
    error = refused(sample(json=turns(("usr", "a"))))
    assert (error.reason, "did you mean `user`?" in error.detail) == ("record_role", True)
    error = refused(sample(json=llava(("Human", "a"))))
    assert (error.reason, "did you mean `human`?" in error.detail) == ("record_role", True)


@pytest.mark.parametrize(
    "bad",
    [
        sample(json=b""),
        sample(jpg=b"", json=chat(("<|image|>", "b"))),
        sample(_0_jpg=b"", json=chat(("<|image|>", "b"), images=["0.jpg"])),
        sample(jpg=b"x", txt=b""),
        sample(jpg=b"", txt=b"a"),
    ],
)
def test_fault_56_members_of_zero_bytes(bad: Sample) -> None:
    """Documents, captions and images."""
    assert refused(bad).reason == "member_empty"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (sample(jpg=b"x"), "record_missing"),
        (sample(txt=b"a"), "image_count"),
        (sample(jpg=b"x", txt=b"a", caption=b"b"), "record_ambiguous"),
        (sample(json=b'{"messages": [], "conversations": []}'), "record_empty"),
        (sample(json=chat(("a", "b"), images=[], image="x")), "record_ambiguous"),
        (sample(json=chat(("<|image|>", "b"), images=["k.json"])), "image_type"),
        (sample(json=chat(("<|image|>", "b"), images=["0.jgp"]), _0_jpg=b"x", _1_jpg=b"y"), "image_unknown"),
        (sample(json=chat(("<|image|>", "b"), images={"a": "0.jpg"}), _0_jpg=b"x"), "record_type"),
        (sample(json=chat(("<|image|>", "b"), images=[{"path": 1}]), _0_jpg=b"x"), "record_type"),
        (sample(json=chat(("<|video|>", "b"), videos=["0.jpg"]), _0_jpg=b"x"), "record_type"),
        (sample(json=chat(("<|video|>", "b"), videos="0.jpg"), _0_jpg=b"x"), "record_type"),
        (sample(json=b" " * (16 << 20) + b"{}"), "text_too_long"),
    ],
)
def test_what_cannot_be_understood_is_refused(bad: Sample, reason: str) -> None:
    """No guess is made."""
    assert refused(bad).reason == reason


def test_a_misspelt_image_name_is_answered_with_the_nearest() -> None:
    """By name or extension."""
    error = refused(sample(json=chat(("<|image|>", "b"), images=["0.jgp"]), _0_jpg=b"x", _1_jpg=b"y"))
    assert "did you mean `0.jpg`?" in error.detail
