"""docs/wire.md is true: its numbers are the code's, its bytes are the code's bytes, and its script reads a stream."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from owl_stream.errors import DrainingError, ServerBusyError, TemporaryError
from owl_stream.server.refusals import STATUS, refusal
from owl_stream.wire import (
    ALIGNMENT,
    DTYPES,
    MAX_FRAME_BYTES,
    MAX_HEADER_BYTES,
    MAX_SLABS,
    MEDIA_TYPE,
    MEMORY_EXTENSION,
    MEMORY_HEADER,
    PROTOCOL_VERSION,
    BatchHeader,
    End,
    ErrorInfo,
    Frame,
    Heartbeat,
    Hello,
    MemoryOffer,
    MemoryPlace,
    Normalise,
    RowInfo,
    SchemaEntry,
    Stats,
    Status,
    Totals,
    frame_nbytes,
    lay_out,
    pack_frame,
    parse_frames,
    tensor_views,
)
from owl_stream.wire.bounds import (
    MAX_BATCH_ROWS,
    MAX_COUNT,
    MAX_DIMENSIONS,
    MAX_MESSAGE_LENGTH,
    MAX_NAME_LENGTH,
    MAX_NAMED_VALUES,
    MAX_REPEAT,
    MAX_STEPS,
    MAX_TENSORS,
    MAX_WORLD_SIZE,
    Channels,
    Letter,
)
from owl_stream.wire.schema import LEAST_STD
from tests.client.peers import finish_after, serving
from tests.client.world import World
from tests.support.patience import PATIENCE_S

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "wire.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")


def part(name: str) -> str:
    """What stands between two markers of the document, without the fence."""
    found = re.search(rf"<!-- {name}: begin -->\n```\w*\n(.*?)```\n<!-- {name}: end -->", TEXT, re.DOTALL)
    assert found, f"docs/wire.md has no part {name!r}"
    return found[1]


def section(title: str) -> str:
    """The text under a heading."""
    found = re.search(rf"^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert found, f"docs/wire.md has no section {title!r}"
    return found[1]


SPECS, PAYLOAD_NBYTES = lay_out([("input_ids", "int64", (1, 2))])
EXAMPLE = BatchHeader(
    fingerprint="5eed",
    epoch=0,
    step=7,
    micro=0,
    rank=1,
    world_size=2,
    tensors=SPECS,
    rows=(RowInfo("a.tar", "0001", "ok", "", None),),
    attended_tokens=2,
    supervised_tokens=1,
    step_supervised_tokens=300,
    vision_tokens=0,
    units=0,
    lengths={"B": 1, "L": 2},
)
EXAMPLE_FRAME = pack_frame(EXAMPLE, np.array([[27, 91]], "<i8").tobytes())


def explained(frame: bytes) -> str:
    """The listing that the document shows: each part's bytes in hex, and what they are."""
    header_nbytes = len(frame) - frame_nbytes(0, PAYLOAD_NBYTES)
    header_end = 6 + header_nbytes
    payload_end = header_end + 5 + PAYLOAD_NBYTES
    parts = [
        (frame[:1], "an array of four"),
        (frame[1:6], f"header of {header_nbytes} bytes"),
        (frame[6:header_end], "the header"),
        (frame[header_end : header_end + 5], f"payload of {PAYLOAD_NBYTES} bytes"),
        (frame[header_end + 5 : payload_end], "27 and 91, int64, little endian"),
        (frame[payload_end:], "xxh3-64 of all bytes before"),
    ]
    return "".join(f"{line}\n" for data, meaning in parts for line in listing(data, meaning))


def listing(data: bytes, meaning: str, width: int = 16) -> list[str]:
    """Lines of at most 16 bytes; the header's bytes are shown as text too, the others have their meaning behind."""
    rows = [data[i : i + width] for i in range(0, len(data), width)]
    if len(rows) == 1:
        return [f"{data.hex(' '):<47}  {meaning}"]
    text = [re.sub(r"[^\x20-\x7e]", ".", row.decode("latin-1")) for row in rows]
    return [f"{row.hex(' '):<47}  |{shown}|" for row, shown in zip(rows, text, strict=True)]


def test_the_worked_example_is_what_the_code_writes() -> None:
    """The bytes in the document are those of `pack_frame`; on a mismatch the right text is in the message."""
    assert part("frame") == explained(EXAMPLE_FRAME), "\n" + explained(EXAMPLE_FRAME)


def test_the_worked_examples_hex_reads_back() -> None:
    """Whoever types the document's hex in gets the frame it tells of."""
    hexed = "".join(line[:47] for line in part("frame").splitlines())
    (frame,) = parse_frames(bytes.fromhex(hexed))
    assert isinstance(frame, Frame)
    assert frame.header == EXAMPLE
    assert tensor_views(frame.payload, SPECS)["input_ids"].tolist() == [[27, 91]]


KINDS = [Hello, BatchHeader, Heartbeat, Stats, End, ErrorInfo]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_every_field_of_every_kind_is_documented(kind: type) -> None:
    """The table of a kind names exactly the fields of its class."""
    documented = re.findall(r"^\| (`.*?) \|", section(kind.kind), re.MULTILINE)  # type: ignore[attr-defined]
    names = [name for cell in documented for name in re.findall(r"`(\w+)`", cell)]
    fields = [field.name for field in dataclasses.fields(kind)]
    extra = {"batch": list(get_args(Status)), "error": []}.get(kind.kind, [])  # type: ignore[attr-defined]
    codes = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (?:yes|no)", section(kind.kind), re.MULTILINE)  # type: ignore[attr-defined]
    extra += [code for cell in codes for code in re.findall(r"`(\w+)`", cell)]
    assert names == fields + extra


@pytest.mark.parametrize("record", [RowInfo, SchemaEntry, Normalise, Totals])
def test_nested_records_are_documented(record: type) -> None:
    """Rows, schema entries, what is made of pixels, and totals are named field by field."""
    for field in dataclasses.fields(record):
        assert f"`{field.name}`" in TEXT


def test_every_field_of_a_schema_is_documented() -> None:
    """The table names exactly the fields of an entry and of its `normalise`, in their order."""
    cells = re.findall(r"^\| (`.*?) \|", section("schema"), re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    fields = [field.name for record in (SchemaEntry, Normalise) for field in dataclasses.fields(record)]
    assert names == fields


def longest(bound: Any) -> int:
    """How long a text or list that has this type may be."""
    (limits,) = bound.__metadata__
    most: int = limits.max_length
    return most


def test_numbers_and_names_are_the_codes() -> None:
    """Limits, alignment, media type, version and dtypes of the document are those of the implementation."""
    assert f"# The wire, version {PROTOCOL_VERSION}\n" in TEXT
    assert f"`{MEDIA_TYPE}`" in TEXT
    assert f"({MAX_FRAME_BYTES} bytes)" in section("Limits")
    assert f"({MAX_HEADER_BYTES} bytes)" in section("Limits")
    for what, limit in {
        "tensors of a batch, entries of a schema": f"{MAX_TENSORS}",
        "dimensions of a tensor": f"{MAX_DIMENSIONS}",
        "rows of a batch, `micro_batch_size`, `micros_per_step`": f"{MAX_BATCH_ROWS}",
        "`world_size`": f"2^{MAX_WORLD_SIZE.bit_length() - 1}",
        "`steps_per_epoch`": f"2^{MAX_STEPS.bit_length() - 1}",
        "entries of `components` and of `values`": f"{MAX_NAMED_VALUES}",
        "a letter of `dims` and of `lengths`; entries of `lengths`": f"{longest(Letter)} characters; {MAX_TENSORS}",
        "numbers of `mean` and of `std`; `repeat`": f"{longest(Channels)}; {MAX_REPEAT}",
        "a text": f"{MAX_NAME_LENGTH} characters (an error's `message` {MAX_MESSAGE_LENGTH})",
        "any other count, and the absolute value of any other number": f"2^{MAX_COUNT.bit_length() - 1} (of an epoch",
    }.items():
        assert f"| {what} | {limit}" in section("Limits")
    assert f"`std` at least 2^{math.frexp(LEAST_STD)[1] - 1} |" in section("schema")
    assert f"a multiple of {ALIGNMENT};" in section("Tensors")
    rows = re.findall(r"^\| (`.*?) \| (\d+) \|$", section("Tensors"), re.MULTILINE)
    assert {name: int(size) for cell, size in rows for name in re.findall(r"`(\w+)`", cell)} == DTYPES
    assert f"A frame has {frame_nbytes(0, 0)} + H + P bytes" in section("A frame")


def run_script(url: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """The document's script, as a user would run it."""
    script = tmp_path / "read.py"
    script.write_text(part("script"), encoding="utf-8")
    command = [sys.executable, str(script), url]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_codes_of_refusals_are_those_that_are_sent() -> None:
    """Each status with its code is that of an error of ours, and none that a client can meet is missing."""
    table = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", section("Asking for a stream"), re.MULTILINE)
    refused = [*STATUS, DrainingError, ServerBusyError]
    expected = {(refusal(kind("no")).status_code, kind.code) for kind in refused if kind is not TemporaryError}
    assert {(int(status), code) for status, code in table} == expected


def test_the_script_is_short_and_needs_only_msgpack() -> None:
    """About twenty lines, and no import but sys, urllib and msgpack."""
    lines = part("script").splitlines()
    assert len(lines) <= 24
    assert re.findall(r"^(?:import|from) (\w+)", part("script"), re.MULTILINE) == ["sys", "urllib", "msgpack"]


def test_the_script_reads_a_stream_from_a_real_socket(tmp_path: Path) -> None:
    """Every batch of the epoch is printed once, in order, and `end` is the only good end."""
    with serving(World()) as server:
        url = f"{server.url}/v1/datasets/train/stream?rank=0&world_size=1&micro_batch_size=4&epochs=1"
        whole = run_script(url, tmp_path)
        server.misdeeds = [finish_after(4)]
        cut = run_script(url, tmp_path)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert [line.split()[:3] for line in whole.stdout.splitlines()] == [["0", str(step), "0"] for step in range(3)]
    assert "'input_ids': [4, 3]" in whole.stdout
    assert cut.returncode == 1
    assert "closed without `end`" in cut.stderr


def test_what_is_said_of_shared_memory_is_what_is_sent() -> None:
    """The header, the socket's name, the chunk of the table and the number of slabs."""
    text = section("Shared memory")
    offer = MemoryOffer("{name}", "{key}", "{host}", 7)
    assert f"`{MEMORY_HEADER}: {offer.to_header()}`".replace(" 7", " {port}") in text
    assert f"`{offer.path.decode().removeprefix(chr(0))}`" in text
    assert f"more than {MAX_SLABS} slabs" in text
    place = MemoryPlace(3, 75, 1_000_000).to_bytes()
    assert f"`{len(place):x};{MEMORY_EXTENSION.decode()}` CR LF" in text
    assert "".join(re.findall(r"^\| `([0-9a-f]{16})` \|", text, re.MULTILINE)) == place.hex()
