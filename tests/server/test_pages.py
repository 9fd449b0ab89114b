"""The pages' routes without a browser: headers, files, and the facts that scripts read."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from owl_stream.server.pages.files import STATIC
from owl_stream.server.pages.history import KEPT, History, Sample
from owl_stream.wire import BatchHeader, parse_frames, read_look, tensor_views
from tests.support.http import get
from tests.support.server import ServerProcess

PAGES = ["/", "/inspect/train/0/0/0", "/inspect/train/0/0", "/quarantine/train", "/static/base.css", "/pages/overview"]


@pytest.mark.parametrize("path", PAGES)
def test_every_answer_has_strict_headers(server: ServerProcess, path: str) -> None:
    """Our own scripts and styles run, and nothing else: no inline code, no other origin, no frame around it."""
    headers = get(server.url + path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_files_are_self_contained(server: ServerProcess) -> None:
    """No page asks another host for anything, and none has inline code, which the policy would refuse."""
    for path in STATIC.iterdir():
        text = path.read_text()
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", ""), path
        assert "style=" not in text, path
        assert "innerHTML" not in text, path
        assert get(f"{server.url}/static/{path.name}").body.decode() == text


@pytest.mark.parametrize("name", ["files.py", "..%2ffiles.py", "%2e%2e%2ffiles.py", "base.css%00", ".", "absent.js"])
def test_only_the_pages_own_files_can_be_asked_for(server: ServerProcess, name: str) -> None:
    """Fault 88: whatever a path spells, it is a name in a table or nothing."""
    assert get(f"{server.url}/static/{name}").status == 404


def test_a_file_that_a_browser_has_is_not_sent_again(server: ServerProcess) -> None:
    """An unchanged file answers 304 to its own tag, and anew to another."""
    first = get(f"{server.url}/static/base.css")
    assert get(f"{server.url}/static/base.css", {"If-None-Match": first.headers["etag"]}).status == 304
    assert get(f"{server.url}/static/base.css", {"If-None-Match": '"other"'}).body == first.body


def test_the_inspector_gets_the_batch_that_a_trainer_gets(server: ServerProcess) -> None:
    """The page's route and the data route tell the same, and it is what the frame of that place holds."""
    place = "0/3/1?rank=1&world_size=2&micro_batch_size=1"
    told = get(f"{server.url}/v1/datasets/train/looks/{place}").body
    assert get(f"{server.url}/pages/datasets/train/looks/{place}").body == told
    look = read_look(told)
    (frame,) = parse_frames(get(f"{server.url}/v1/datasets/train/batches/{place}").body)
    assert isinstance(frame.header, BatchHeader)
    tensors = tensor_views(frame.payload, frame.header.tensors)
    assert [row.key for row in look.rows] == [row.key for row in frame.header.rows]
    pictures = [picture.rgb for row in look.rows for picture in row.pictures]
    assert pictures == [crop.transpose(1, 2, 0).tobytes() for crop in tensors.get("pixel_values", ())]
    for row, ids, labels in zip(look.rows, tensors["input_ids"], tensors["labels"], strict=True):
        assert list(row.ids) == ids[: len(row.ids)].tolist()
        assert len(row.ids) + row.padding == len(ids)
        learned = {at for begin, end in row.supervised for at in range(begin, end)}
        assert learned == {at for at, label in enumerate(labels.tolist()) if label != -100}


def test_members_are_where_the_tar_has_them(server: ServerProcess) -> None:
    """Names, offsets and lengths agree with `tarfile`, an independent witness."""
    step = get(f"{server.url}/pages/datasets/train/steps/0/1?world_size=2").json
    shards = Path(server.log).parent
    for place, row in enumerate(step["rows"]):
        members = get(f"{server.url}/pages/datasets/train/members/0/1/{place}").json
        with tarfile.open(shards / row["shard"]) as tar:
            expected = [
                {"name": member.name, "offset": member.offset_data, "nbytes": member.size}
                for member in tar.getmembers()
                if member.name.startswith(row["key"] + ".")
            ]
        assert members == expected
    assert sorted(place for rank in step["deal"]["rows"] for micro in rank for place in micro) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/pages/datasets/absent/pieces?ids=1", 404),
        ("/pages/datasets/train/pieces?ids=1,x", 422),
        ("/pages/datasets/train/pieces?ids=999999", 422),
        ("/pages/datasets/train/pieces", 422),
        ("/pages/datasets/train/steps/0/99", 422),
        ("/pages/datasets/train/steps/0/0?world_size=3", 422),
        ("/pages/datasets/train/members/0/0/4", 422),
        ("/pages/datasets/train/members/0/0/-1", 422),
        ("/pages/datasets/train/quarantine?limit=0", 422),
        ("/pages/overview?since=-1", 422),
    ],
)
def test_nonsense_is_refused(server: ServerProcess, path: str, status: int) -> None:
    """Faults 86 and 87, for the pages' own routes: an error body that says what was expected."""
    answer = get(server.url + path)
    assert answer.status == status
    assert answer.error["message"]


def test_history_is_bounded_and_tells_only_what_is_new() -> None:
    """Ten minutes are kept; who has asked before gets what came since, and who missed some gets what there is."""
    moments = iter(range(10_000))
    history = History(lambda: Sample(next(moments), 0, 0, 0, 0, 0, 0))
    for _ in range(KEPT + 5):
        history.sample()
    following, everything = history.since(0)
    assert (following, len(everything), everything[0].at_s) == (KEPT + 5, KEPT, 5)
    history.sample()
    assert [sample.at_s for sample in history.since(following)[1]] == [KEPT + 5]
    assert history.since(following + 1) == (following + 1, [])
    assert history.since(following + 99) == (following + 1, [])
