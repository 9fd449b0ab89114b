"""One pass over a shard, good or damaged: what is before the damage stays, nothing vanishes."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest

from owl_stream.errors import DataChangedError, ReadError, ShardError
from owl_stream.shards import Quarantined, Shard, find_shards, read_sample, read_span
from owl_stream.shards.scan import scan_shard
from owl_stream.shards.tar import FileTape, SpanTape, TarDamage, read_entry
from tests.shards.measures import even_only, member_cost
from tests.support.damage import (
    END,
    binary_size,
    cut,
    header,
    member,
    member_offsets,
    overwrite,
    padded,
    pax,
    write,
)
from tests.support.tars import write_shard


def shard_of(path: Path) -> Shard:
    """The file as it is now."""
    (shard,) = find_shards([path.name], path.parent)
    return shard


def scan(path: Path) -> tuple[list[str], tuple[Quarantined, ...]]:
    """Keys of the samples whose bytes read back whole, and the findings."""
    table, costs = scan_shard(shard_of(path), member_cost, lambda *_: None)
    assert len(table.spans) == len(costs.costs)
    keys = []
    for block, length, digest in table.spans.tolist():
        sample = read_sample("s", read_span(path, block * 512, length, digest), block * 512)
        assert [m.ext for m in sample.members] == ["jpg", "json"]
        assert bytes(sample.members[0].data) == sample.key.encode() * 200
        keys.append(sample.key)
    return keys, table.findings


def body(key: str) -> dict[str, bytes]:
    """A sample's members: 800 bytes and 2."""
    return {"jpg": key.encode() * 200, "json": b"{}"}


def five(path: Path) -> Path:
    """Samples 0000 to 0004."""
    return write_shard(path, [(f"{at:04d}", body(f"{at:04d}")) for at in range(5)])


def pair(key: str) -> bytes:
    """The same as raw blocks."""
    return member(f"{key}.jpg", key.encode() * 200) + member(f"{key}.json", b"{}")


def reasons(findings: tuple[Quarantined, ...]) -> list[tuple[str, str]]:
    """(key, reason), by offset."""
    return [(finding.key, finding.reason) for finding in findings]


def test_a_good_shard_has_no_findings(tmp_path: Path) -> None:
    """Whatever writes it: tarfile's three formats and raw blocks."""
    assert scan(five(tmp_path / "pax.tar")) == (["0000", "0001", "0002", "0003", "0004"], ())
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "t.tar", "w", format=form) as tar, tarfile.open(tmp_path / "pax.tar") as source:
            for info in source:
                tar.addfile(info, source.extractfile(info))
        assert scan(tmp_path / "t.tar") == (["0000", "0001", "0002", "0003", "0004"], ())
    assert scan(write(tmp_path / "raw.tar", pair("0000"), pair("0001"))) == (["0000", "0001"], ())


def test_fault_42_cut_inside_data(tmp_path: Path) -> None:
    """Complete samples stay; the cut one is named, and the damage with its offset and what was left unread."""
    path = five(tmp_path / "t.tar")
    _, offset, _ = member_offsets(path)["0003.jpg"]
    cut(path, offset + 100)
    keys, findings = scan(path)
    assert keys == ["0000", "0001", "0002"]
    assert reasons(findings) == [("0003", "tar_cut_in_data"), ("", "tar_cut_in_data")]
    assert findings[1].offset == offset
    assert "0003.jpg should have 800 bytes, the shard ends after 100" in findings[1].detail
    assert "100 bytes were left unread" in findings[1].detail


@pytest.mark.parametrize("extra", [1, 511])
def test_fault_43_cut_at_a_header(tmp_path: Path, extra: int) -> None:
    """The open sample may lack members: it is quarantined with the damage."""
    path = five(tmp_path / "t.tar")
    offset, _, _ = member_offsets(path)["0002.json"]
    cut(path, offset + extra)
    keys, findings = scan(path)
    assert keys == ["0000", "0001"]
    assert reasons(findings) == [("0002", "tar_cut_in_header"), ("", "tar_cut_in_header")]
    assert findings[1].offset == offset


def test_every_cut_keeps_what_is_whole_and_reports_the_rest(tmp_path: Path) -> None:
    """Cut at every block and beside it: samples before the cut read back whole, and there is always a finding."""
    whole = five(tmp_path / "whole.tar").read_bytes()
    offsets = member_offsets(tmp_path / "whole.tar")
    end = offsets["0004.json"][1] + 512
    path = tmp_path / "t.tar"
    for size in sorted({at + step for at in range(0, end, 512) for step in (0, 1, 300)}):
        path.write_bytes(whole[:size])
        keys, findings = scan(path)
        assert keys == [f"{at:04d}" for at in range(len(keys))]
        complete = sum(offsets[f"{at:04d}.json"][1] + 2 <= size for at in range(5))
        # The last whole sample is kept only if a header behind it shows that it is whole.
        assert complete - 1 <= len(keys) <= complete
        assert findings
        assert findings[-1].key == ""


@pytest.mark.parametrize("name", ["0002.jpg", "0002.json"])
def test_fault_44_a_wrong_header_checksum(tmp_path: Path, name: str) -> None:
    """One flipped byte in a header: the open sample is suspect, the rest of the shard is reported unread."""
    path = write(tmp_path / "t.tar", *(pair(f"{at:04d}") for at in range(5)))
    offset, _, _ = member_offsets(path)[name]
    overwrite(path, offset + 3, b"X")
    keys, findings = scan(path)
    touched = "0001" if name.endswith("jpg") else "0002"
    assert keys == [f"{at:04d}" for at in range(int(touched))]
    assert reasons(findings) == [(touched, "tar_checksum"), ("", "tar_checksum")]
    assert findings[1].offset == offset
    assert f"{path.stat().st_size - offset} bytes were left unread" in findings[1].detail


def test_a_checksum_above_sixteen_bits_is_right_and_is_checked() -> None:
    """Prefix, link, owner and group full of high bytes: a sum that an Adler-32 of the whole block would wrap round."""
    block = bytearray(header("0000.jpg", 4))
    block[157:257], block[265:329], block[345:500] = b"\xff" * 100, b"\xff" * 64, b"\xff" * 155
    block[148:156] = b" " * 8
    total = sum(block)
    assert total > 0xFFFF
    block[148:156] = b"%06o\0 " % total
    entry = read_entry(SpanTape(bytes(block), 0), 0)
    assert entry is not None
    assert entry.size == 4
    block[148:156] = b"%06o\0 " % (total - 65521)
    with pytest.raises(TarDamage, match="checksum"):
        read_entry(SpanTape(bytes(block), 0), 0)


def test_fault_45_no_zero_blocks_at_the_end(tmp_path: Path) -> None:
    """It may be cut at a member's edge, so the last sample is suspect."""
    keys, findings = scan(write(tmp_path / "t.tar", pair("0000"), pair("0001"), end=b""))
    assert keys == ["0000"]
    assert reasons(findings) == [("0001", "tar_no_end"), ("", "tar_no_end")]


def test_one_zero_block_is_an_end(tmp_path: Path) -> None:
    """The second one tells nothing that the first did not."""
    assert scan(write(tmp_path / "t.tar", pair("0000"), end=bytes(512))) == (["0000"], ())


@pytest.mark.parametrize("tail", [b"x", padded(b"junk"), pair("0009")])
def test_bytes_behind_the_end_are_damage(tmp_path: Path, tail: bytes) -> None:
    """A wiped header or joined tars: samples may be hidden there, and the last sample may lack members."""
    path = write(tmp_path / "t.tar", pair("0000"), pair("0001"), end=END + bytes(4096) + tail)
    keys, findings = scan(path)
    assert keys == ["0000"]
    assert reasons(findings) == [("0001", "tar_trailing"), ("", "tar_trailing")]
    assert findings[1].offset == path.stat().st_size - len(tail)


@pytest.mark.parametrize(
    ("raw_size", "reason"),
    [
        (binary_size(-1), "tar_size"),
        (binary_size(-(2**80)), "tar_size"),
        (b"-0000000001\0", "tar_size"),
        (binary_size(2**70), "tar_size"),
        (binary_size(2**62), "tar_cut_in_data"),
        (b"77777777777\0", "tar_cut_in_data"),
        (b"9z9z9z9z9z9\0", "tar_size"),
    ],
)
def test_fault_46_negative_and_absurd_sizes(tmp_path: Path, raw_size: bytes, reason: str) -> None:
    """Nothing of that size is allocated; what comes before stays, and the sample of that member is named."""
    hostile = header("0001.jpg", raw_size=raw_size) + padded(b"data")
    keys, findings = scan(write(tmp_path / "t.tar", pair("0000"), pair("0001x"), hostile, pair("0002")))
    assert keys == ["0000", "0001x"]
    assert reasons(findings) == [("0001", reason), ("", reason)]


def test_fault_46_a_pax_size_is_checked_too(tmp_path: Path) -> None:
    """Negative, not a number, or longer than any file."""
    for value in (b"-5", b"x", b"9" * 30, b""):
        keys, findings = scan(write(tmp_path / "t.tar", pair("0000"), pax([(b"size", value)]), member("0001.jpg")))
        assert keys == ["0000"]
        assert reasons(findings) == [("0001", "tar_size"), ("", "tar_size")]


@pytest.mark.parametrize(
    "bomb",
    [
        member("././@LongLink", b"a" * (17 << 20), kind=b"L"),
        member("x", b"", kind=b"x") * 33_000,
        pax([(b"comment", b"c" * (17 << 20))]),
        header("././@LongLink", 1 << 33, kind=b"L"),
        pax([(b"comment", b"c" * (9 << 20))]) * 2,
    ],
    ids=["long name", "many", "pax", "endless", "two"],
)
def test_fault_47_long_name_and_pax_bombs(tmp_path: Path, bomb: bytes) -> None:
    """Headers of one member take at most 16 MiB together, whatever they are made of."""
    keys, findings = scan(write(tmp_path / "t.tar", pair("0000"), pair("0001"), bomb, member("0002.jpg")))
    assert keys == ["0000"]
    assert reasons(findings) == [("0001", "tar_extension"), ("", "tar_extension")]


@pytest.mark.parametrize("data", [b"5 a=b\n", b"999 path=a\n", b"path=a\n", b"0 a=\n", b"-7 a=b\n", b"7 a=bc"])
def test_a_malformed_pax_header_is_damage(tmp_path: Path, data: bytes) -> None:
    """A wrong length would shift every later record."""
    _, findings = scan(write(tmp_path / "t.tar", pair("0000"), member("x", data, kind=b"x"), member("0001.jpg")))
    assert reasons(findings) == [("0000", "tar_pax"), ("", "tar_pax")]


@pytest.mark.parametrize("kind", [b"S", b"M", b"D", b"A", b"N", b"E", b"8", b"Z"])
@pytest.mark.parametrize("place", ["alone", "inside", "last"])
def test_fault_49_a_member_that_is_not_read_loses_its_own_sample_alone(tmp_path: Path, kind: bytes, place: str) -> None:
    """Its size field says where the next header is, and its name which sample is bad."""
    odd = member("0001.bin", b"x" * 700, kind)
    blocks = {
        "alone": [pair("0000"), odd, pair("0002")],
        "inside": [pair("0000"), member("0001.jpg"), odd, member("0001.json"), pair("0002")],
        "last": [pair("0000"), pair("0002"), odd],
    }[place]
    keys, findings = scan(write(tmp_path / "t.tar", *blocks))
    assert keys == ["0000", "0002"]
    assert [(f.key, f.member, f.reason) for f in findings] == [("0001", "0001.bin", "member_type")]
    assert "write the shard without" in findings[0].detail or "regular file" in findings[0].detail


@pytest.mark.parametrize("key", [b"path", b"size", b"GNU.sparse.major"])
def test_global_headers_may_comment_but_not_rename(tmp_path: Path, key: bytes) -> None:
    """`git archive` writes a comment; a path for every member is nonsense, and no span could carry it."""
    fine = write(tmp_path / "fine.tar", pax([(b"comment", b"c")], kind=b"g"), pair("0000"))
    assert scan(fine) == (["0000"], ())
    _, findings = scan(write(tmp_path / "t.tar", pax([(key, b"1")], kind=b"g"), pair("0000")))
    assert [finding.key for finding in findings] == [""]


def test_fault_48_compressed_bytes_under_a_plain_name(tmp_path: Path) -> None:
    """The finding names the form and the remedy."""
    path = tmp_path / "t.tar"
    path.write_bytes(gzip.compress(five(tmp_path / "x.tar").read_bytes()))
    keys, findings = scan(path)
    assert keys == []
    assert reasons(findings) == [("", "shard_compressed")]
    assert "gzip data" in findings[0].detail
    assert "decompress it to .tar" in findings[0].detail


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6"])
@pytest.mark.parametrize("place", ["inside", "before", "alone", "elsewhere"])
def test_fault_49_links_and_devices_are_never_followed(tmp_path: Path, kind: bytes, place: str) -> None:
    """The sample that has one is bad, wherever it lies; its neighbours are untouched, even one that it interrupts."""
    link = header("0001.png", 0, kind, "/etc/passwd")
    blocks = {
        "inside": [pair("0000"), member("0001.jpg", b"0001" * 200), link, member("0001.json", b"{}"), pair("0002")],
        "before": [pair("0000"), link, pair("0001"), pair("0002")],
        "alone": [pair("0000"), link, pair("0002")],
        "elsewhere": [pair("0001"), member("0000.jpg", b"0000" * 200), link, member("0000.json", b"{}"), pair("0002")],
    }[place]
    keys, findings = scan(write(tmp_path / "t.tar", *blocks))
    assert keys == ["0000", "0002"]
    assert [(f.key, f.member, f.reason) for f in findings] == [("0001", "0001.png", "member_type")]


@pytest.mark.parametrize("name", [b"../0001.png", b"/0001.png", b"0001.\xff.png", b"a/../0001.png"])
def test_fault_49_hostile_names_spoil_only_their_sample(tmp_path: Path, name: bytes) -> None:
    """Absolute, climbing or not UTF-8: quarantined under a printable key."""
    keys, findings = scan(write(tmp_path / "t.tar", pair("0000"), member(name), pair("0002")))
    assert keys == ["0000", "0002"]
    assert [f.reason for f in findings] == ["member_name"]
    assert (findings[0].key + findings[0].member).isprintable()


def test_fault_50_a_doubled_member_spoils_its_sample(tmp_path: Path) -> None:
    """As for webdataset, extensions that differ in case are the same."""
    doubled = pair("0001") + member("0001.JPG", b"other")
    keys, findings = scan(write(tmp_path / "t.tar", pair("0000"), doubled, pair("0002")))
    assert keys == ["0000", "0002"]
    assert [(f.key, f.member, f.reason) for f in findings] == [("0001", "0001.JPG", "member_duplicate")]


def test_fault_50_a_key_that_comes_again_spoils_every_piece(tmp_path: Path) -> None:
    """Which one is meant cannot be known; each piece is named with its offset."""
    again = [pair("0001"), pair("0000"), pair("0001"), pair("0002"), pair("0001")]
    keys, findings = scan(write(tmp_path / "t.tar", *again))
    assert keys == ["0000", "0002"]
    size = len(pair("0000"))
    assert [(f.key, f.reason, f.offset) for f in findings] == [
        ("0001", "key_interleaved", at * size) for at in (0, 2, 4)
    ]


def test_fault_51_interleaved_keys_spoil_both(tmp_path: Path) -> None:
    """Members of a sample must lie together."""
    mixed = [member(name) for name in ("0001.jpg", "0002.jpg", "0001.json", "0002.json")]
    keys, findings = scan(write(tmp_path / "t.tar", pair("0000"), *mixed, pair("0003")))
    assert keys == ["0000", "0003"]
    assert [f.key for f in findings] == ["0001", "0002", "0001", "0002"]
    assert {f.reason for f in findings} == {"key_interleaved"}


@pytest.mark.parametrize(
    "content", [b"", bytes(512), bytes(10240), member("d/", b"", b"5") + END, member("noext") + END]
)
def test_fault_52_an_empty_shard_is_a_finding(tmp_path: Path, content: bytes) -> None:
    """Zero bytes, only zeros, or nothing that belongs to a sample."""
    path = tmp_path / "t.tar"
    path.write_bytes(content)
    keys, findings = scan(path)
    assert keys == []
    assert reasons(findings) == [("", "shard_empty")]


def test_fault_54_an_io_error_while_scanning_is_retryable() -> None:
    """The kernel answers EIO for unmapped memory, as a disk would: no damage, no quarantine, a ReadError."""
    with Path("/proc/self/mem").open("rb") as file, pytest.raises(ReadError, match="shard s @ 0"):
        FileTape(file.fileno(), 4096, "s").take(0, 512)


def test_a_shard_that_is_being_written_is_not_indexed(tmp_path: Path) -> None:
    """Grown or touched between finding and scanning, or while it is scanned."""
    path = five(tmp_path / "t.tar")
    found = shard_of(path)

    def append(_sample: object) -> None:
        with path.open("ab") as file:
            file.write(bytes(512))

    with pytest.raises(DataChangedError, match="changed while it was being indexed"):
        scan_shard(found, lambda sample: append(sample) or member_cost(sample), lambda *_: None)
    with pytest.raises(DataChangedError, match="changed while it was being indexed"):
        scan_shard(found, member_cost, lambda *_: None)


def test_a_file_that_shrinks_under_the_scan_is_data_that_changed(tmp_path: Path) -> None:
    """The bytes that were promised are not there."""
    path = tmp_path / "f"
    path.write_bytes(bytes(1000))
    with path.open("rb") as file, pytest.raises(DataChangedError, match="shrank"):
        FileTape(file.fileno(), 2000, "s").take(0, 1500)


def test_a_sample_too_large_to_hold_is_bad_and_is_not_read(tmp_path: Path) -> None:
    """5 GiB of a sparse file: quarantined by its header alone, its neighbours are good."""
    path = write(tmp_path / "t.tar", pair("0000"), end=b"")
    size = 5 << 30
    with path.open("r+b") as file:
        at = file.seek(0, 2)
        file.write(header("0001.bin", raw_size=binary_size(size)))
        file.seek(at + 512 + size)
        file.write(pair("0002") + END)
    seen: list[int] = []
    table, _ = scan_shard(shard_of(path), member_cost, lambda nbytes, _: seen.append(nbytes))
    assert reasons(table.findings) == [("0001", "sample_too_large")]
    assert len(table.spans) == 2


def test_a_shard_larger_than_a_block_number_can_say_is_refused(tmp_path: Path) -> None:
    """Offsets are kept in 32 bits of 512 bytes each."""
    path = five(tmp_path / "t.tar")
    with pytest.raises(ShardError, match="more than 2199023255552"):
        scan_shard(Shard("t.tar", path, (2 << 40) + 1, 0), member_cost, lambda *_: None)


def test_every_byte_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across chunks, samples larger than a chunk, and the tail."""
    import os

    big = [("0000", {"jpg": b"x" * 3_000_000}), ("0001", {"jpg": b"y" * 10}), ("0002", {"jpg": b"z" * 1_500_000})]
    path = write_shard(tmp_path / "t.tar", big)
    reads: list[tuple[int, int]] = []
    pread = os.pread

    def counting(file: int, nbytes: int, offset: int) -> bytes:
        data = pread(file, nbytes, offset)
        reads.append((offset, len(data)))
        return data

    monkeypatch.setattr(os, "pread", counting)
    table, _ = scan_shard(shard_of(path), member_cost, lambda *_: None)
    assert len(table.spans) == 3
    assert sum(nbytes for _, nbytes in reads) == path.stat().st_size
    assert [offset + nbytes for offset, nbytes in reads[:-1]] == [offset for offset, _ in reads[1:]]


def test_what_the_measure_refuses_is_kept_apart_from_what_is_broken(tmp_path: Path) -> None:
    """The span stays in the scan table, for another recipe; the cost table names the reason."""
    table, costs = scan_shard(shard_of(five(tmp_path / "t.tar")), even_only(), lambda *_: None)
    assert len(table.spans) == 5
    assert not table.findings
    assert costs.measured.tolist() == [True, False, True, False, True]
    assert [(f.key, f.reason, f.detail) for f in costs.findings] == [
        ("0001", "odd", "an odd key"),
        ("0003", "odd", "an odd key"),
    ]


def test_a_broken_sample_is_found_once(tmp_path: Path) -> None:
    """A key that the measure refused and that comes again later is a finding of the scan alone."""
    path = write(tmp_path / "t.tar", pair("0001"), pair("0002"), pair("0001"))
    table, costs = scan_shard(shard_of(path), even_only(), lambda *_: None)
    assert reasons(table.findings) == [("0001", "key_interleaved")] * 2
    assert not costs.findings
