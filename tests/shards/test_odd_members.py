"""Members that no usual writer makes any more, or that are not read: each spoils its own sample and no other.

Fault 104 of docs/faults.md.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from owl_stream.errors import SampleError
from owl_stream.shards import read_sample
from owl_stream.shards.scan import scan_shard
from tests.shards.measures import member_cost
from tests.shards.readers import scanned, shard_at
from tests.support.damage import END, binary_size, header, member, padded, pax, write

BAD_PAX = member("pax", b"999 path=0001.bin\n", b"x")


def pair(key: str) -> bytes:
    """A sample of two members."""
    return member(f"{key}.jpg", key.encode() * 200) + member(f"{key}.json", b"{}")


def checked(block: bytearray, *, signed: bool = False) -> bytes:
    """The header with a checksum that fits, its bytes added up as old writers did or as all others do."""
    block[148:156] = b" " * 8
    total = sum(block) - (256 * sum(byte > 127 for byte in block) if signed else 0)
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def sparse(name: str, data: bytes, map_blocks: int) -> bytes:
    """A sparse member in GNU tar's old form, with blocks of map behind its header."""
    block = bytearray(header(name, len(data), b"S"))
    block[257:265], block[482] = b"ustar  \0", map_blocks > 0
    maps = b"".join(bytes(504) + bytes([number < map_blocks - 1]) + bytes(7) for number in range(map_blocks))
    return checked(block) + maps + padded(data)


def keys_and_reasons(path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Keys of the good samples; (key, reason) of the findings."""
    groups, findings = scanned(path)
    return [key for key, _ in groups], [(finding.key, finding.reason) for finding in findings]


@pytest.mark.parametrize("name", ["ключ.jpg", "日本.jpg", "é.jpg"])
@pytest.mark.parametrize("magic", [b"ustar\x0000", b"ustar  \0", bytes(8)])
def test_a_checksum_of_signed_bytes_is_right(tmp_path: Path, name: str, magic: bytes) -> None:
    """Old writers added bytes up as signed char; tarfile and GNU tar take both sums, and so do we."""
    block = bytearray(header(name, 4))
    block[257:265] = magic
    plain, signed = checked(block), checked(block, signed=True)
    assert plain != signed
    path = write(tmp_path / "t.tar", pair("0000"), signed + padded(b"data"), pair("0002"))
    with tarfile.open(path) as theirs:
        assert name in theirs.getnames()
    assert keys_and_reasons(path) == (["0000", name.removesuffix(".jpg"), "0002"], [])
    wrong = bytearray(signed)
    wrong[0] ^= 1
    _, reasons = keys_and_reasons(write(tmp_path / "t.tar", pair("0000"), bytes(wrong) + padded(b"data")))
    assert ("", "tar_checksum") in reasons


@pytest.mark.parametrize("magic", [b"ustar  \0", bytes(8)])
def test_only_a_posix_header_has_a_prefix(tmp_path: Path, magic: bytes) -> None:
    """GNU tar's old form has the times of access and change there, v7 nothing that means anything."""
    block = bytearray(header("0001.jpg", 4))
    block[257:265], block[345:369] = magic, b"14000000000\x0014000000000\0"
    keys, reasons = keys_and_reasons(write(tmp_path / "t.tar", pair("0000"), checked(block) + padded(b"data")))
    assert (keys, reasons) == (["0000", "0001"], [])
    block[257:265], block[345:369] = b"ustar\x0000", b"train".ljust(24, b"\0")
    keys, reasons = keys_and_reasons(write(tmp_path / "t.tar", pair("0000"), checked(block) + padded(b"data")))
    assert (keys, reasons) == (["0000", "train/0001"], [])


def test_a_contiguous_member_and_a_solaris_header_are_read(tmp_path: Path) -> None:
    """Type 7 is a file like any other, an `X` header is a PAX header."""
    longer = pax([(b"path", b"d/0001.jpg")], b"X") + member("cut", b"data", b"7")
    assert keys_and_reasons(write(tmp_path / "t.tar", longer, pair("0002"))) == (["d/0001", "0002"], [])


@pytest.mark.parametrize("data", [b"", b"x" * 700])
def test_a_hard_link_may_have_data_or_only_a_size(tmp_path: Path, data: bytes) -> None:
    """POSIX allows the data, most writers leave it out; what follows is found either way."""
    link = header("0001.jpg", 700, b"1", "0000.jpg") + padded(data)
    keys, reasons = keys_and_reasons(write(tmp_path / "t.tar", pair("0000"), link, pair("0002")))
    assert (keys, reasons) == (["0000", "0002"], [("0001", "member_type")])
    keys, reasons = keys_and_reasons(write(tmp_path / "t.tar", pair("0000"), link))
    assert (keys, reasons) == (["0000"], [("0001", "member_type")])


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"5", b"6"])
def test_the_size_of_what_has_no_data_is_not_believed(tmp_path: Path, kind: bytes) -> None:
    """A negative or an absurd one on a link, a device or a folder."""
    for raw in (binary_size(-1), binary_size(2**70), b"x" * 12):
        odd = header("0001.jpg", kind=kind, raw_size=raw)
        keys, _ = keys_and_reasons(write(tmp_path / "t.tar", pair("0000"), odd, pair("0002")))
        assert keys == ["0000", "0002"]


@pytest.mark.parametrize("map_blocks", [0, 1, 2, 300])
def test_fault_49_the_map_of_a_sparse_member_is_passed_over(tmp_path: Path, map_blocks: int) -> None:
    """However many blocks it takes, alone and inside its sample; a map that ends in the middle is damage of its own."""
    odd = sparse("0001.bin", b"data", map_blocks)
    path = write(tmp_path / "t.tar", pair("0000"), odd, pair("0002"))
    assert keys_and_reasons(path) == (["0000", "0002"], [("0001", "member_type")])
    path = write(tmp_path / "t.tar", member("0001.jpg"), odd, member("0001.json"), pair("0002"))
    assert keys_and_reasons(path) == (["0002"], [("0001", "member_type")])
    if map_blocks > 1:
        path = write(tmp_path / "t.tar", pair("0000"), odd[:1024], end=b"")
        reason = "tar_cut_in_header"
        assert keys_and_reasons(path) == (["0000"], [("0001", reason), ("", reason)])


def test_fault_47_a_map_without_end_is_damage(tmp_path: Path) -> None:
    """More than 16 MiB of it are not read."""
    odd = sparse("0001.bin", b"data", 33_000)
    keys, reasons = keys_and_reasons(write(tmp_path / "t.tar", pair("0000"), odd, pair("0002")))
    assert (keys, reasons) == (["0000"], [("0001", "tar_extension"), ("", "tar_extension")])


def test_a_large_extension_header_is_no_damage(tmp_path: Path) -> None:
    """Extended attributes, and the list of a large folder that `tar --incremental` writes."""
    attribute = pax([(b"SCHILY.xattr.user.thumbnail", b"\0\xff" * 200_000)])
    listed = pax([(b"GNU.dumpdir", b"Y0000.jpg\0" * 200_000)]) + member("train/", b"", b"5")
    keys, reasons = keys_and_reasons(write(tmp_path / "t.tar", listed, attribute, pair("0000"), pair("0002")))
    assert (keys, reasons) == (["0000", "0002"], [])


@pytest.mark.parametrize(
    ("blocks", "good", "bad"),
    [
        ([pair("0000"), BAD_PAX, pair("0001"), pair("0002")], ["0002"], ["0000", "0001"]),
        ([pair("0000"), BAD_PAX, member("x.bin"), pair("0001"), pair("0002")], ["0002"], ["0000", "0001"]),
        ([member("0000.jpg"), BAD_PAX, member("x.bin"), member("0000.json"), pair("0001")], ["0001"], ["0000"]),
        ([member("0000.jpg"), BAD_PAX, member("0000.json"), pair("0001"), pair("0002")], ["0002"], ["0000", "0001"]),
        ([BAD_PAX, member("x.bin"), pair("0000"), pair("0001"), pair("0002")], ["0001", "0002"], ["0000"]),
        ([pair("0000"), pair("0001"), BAD_PAX, member("x.bin")], ["0000"], ["0001"]),
        ([pair("0000"), BAD_PAX, member("train/", b"", b"5"), pair("0001")], ["0000", "0001"], []),
        ([pair("0000"), BAD_PAX, header("x", 0, b"2", "y"), pair("0001"), pair("0002")], ["0002"], ["0000", "0001"]),
    ],
    ids=["first of the next", "alone", "inside", "last", "at the start", "at the end", "of a folder", "of a link"],
)
def test_fault_47_a_member_of_unknown_name_spoils_what_it_may_belong_to(
    tmp_path: Path, blocks: list[bytes], good: list[str], bad: list[str]
) -> None:
    """The sample before it and the one behind; everything else stays, and the broken PAX header is a finding."""
    path = write(tmp_path / "t.tar", *blocks)
    keys, reasons = keys_and_reasons(path)
    assert keys == good
    assert [key for key, _ in reasons if key] == bad
    assert {reason for _, reason in reasons} == ({"tar_pax"} if bad else set())
    assert len([key for key, _ in reasons if not key]) == bool(bad)


def test_a_size_before_the_malformed_record_is_believed(tmp_path: Path) -> None:
    """Where the next header is, is known, though the name is not."""
    broken = member("pax", b"12 size=700\n99 path", b"x") + header("cut", 0) + padded(b"x" * 700)
    keys, reasons = keys_and_reasons(write(tmp_path / "t.tar", pair("0000"), pair("0001"), broken, *map(pair, "23")))
    assert (keys, [key for key, _ in reasons]) == (["0000", "3"], ["0001", "", "2"])


@pytest.mark.parametrize("reason", ["tar_size", "tar_cut_in_data"])
@pytest.mark.parametrize("kind", [b"0", b"S", b"Z"])
def test_fault_46_a_size_that_cannot_be_loses_its_sample_and_what_lies_behind(
    tmp_path: Path, kind: bytes, reason: str
) -> None:
    """Nothing says where the next header is; but the name is known, so the sample before it is whole."""
    odd = header("0001.bin", kind=kind, raw_size=binary_size(-5 if reason == "tar_size" else 2**50))
    keys, reasons = keys_and_reasons(write(tmp_path / "t.tar", pair("0000"), odd, pair("0002")))
    own = reason if kind == b"0" or reason == "tar_size" else "member_type"
    assert (keys, reasons) == (["0000"], [("0001", own), ("", reason)])


def test_a_span_with_a_member_that_is_not_read_is_no_sample() -> None:
    """Cut out by hand, it is refused as the scan refuses it."""
    for odd, reason in (
        (header("0001.bin", 0, b"2", "x"), "member_type"),
        (sparse("0001.bin", b"data", 2), "member_type"),
        (BAD_PAX + member("0001.bin"), "tar_span"),
    ):
        with pytest.raises(SampleError) as caught:
            read_sample("s", member("0001.jpg") + odd + member("0001.json"), 0)
        assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["__meta__/x", "._0000.jpg", "noext", "0009.bin"])
def test_what_lies_between_samples_is_passed_over_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """5 GiB of it (a file with a hole): neither read nor held, though a sample was open before it."""
    path = write(tmp_path / "t.tar", pair("0000"), end=b"")
    size = 5 << 30
    with path.open("r+b") as file:
        at = file.seek(0, os.SEEK_END)
        file.write(header(name, kind=b"Z" if name == "0009.bin" else b"0", raw_size=binary_size(size)))
        file.seek(at + 512 + size)
        file.write(pair("0002") + END)
    nbytes = 0
    pread = os.pread

    def counting(file: int, length: int, offset: int) -> bytes:
        nonlocal nbytes
        data = pread(file, length, offset)
        nbytes += len(data)
        return data

    monkeypatch.setattr(os, "pread", counting)
    table, _ = scan_shard(shard_at(path), member_cost, lambda *_: None)
    assert len(table.spans) == 2
    assert nbytes < 4 << 20


def test_a_name_of_64_kib_is_not_kept_as_it_is(tmp_path: Path) -> None:
    """It is bad and is named; what is held and written of it is short, and names that begin alike stay bad."""
    long = b"a" * 65_000
    names = [member("././@LongLink", long + b"%d.jpg\0" % number, b"L") + member("cut") for number in range(3)]
    groups, findings = scanned(write(tmp_path / "t.tar", pair("0000"), *names, pair("0002")))
    assert [key for key, _ in groups] == ["0000", "0002"]
    assert {finding.reason for finding in findings} == {"member_name"}
    assert max(len(finding.key) + len(finding.member) for finding in findings) < 1000


KINDS = {
    "file": lambda key: member(f"{key}.jpg", key.encode() * 50),
    "json": lambda key: member(f"{key}.json", b"{}" * 300),
    "junk": lambda key: member(f"._{key}.jpg", b"junk"),
    "folder": lambda key: member(f"{key}/", b"", b"5"),
    "link": lambda key: header(f"{key}.png", 0, b"2", "x"),
    "data link": lambda key: header(f"{key}.png", 9, b"1", "x") + padded(b"some data"),
    "sparse": lambda key: sparse(f"{key}.png", b"data" * 200, 2),
    "pax sparse": lambda key: pax([(b"GNU.sparse.name", f"{key}.png".encode())]) + member(f"GNUSparseFile.0/{key}.png"),
    "vendor": lambda key: member(f"{key}.png", b"acl", b"A"),
    "volume": lambda key: member(f"{key}.png", b"rest" * 200, b"M"),
    "nameless": lambda key: BAD_PAX + member(f"{key}.cut"),
}
ODD = {"link", "data link", "sparse", "pax sparse", "vendor", "volume"}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.sampled_from("abcd")), max_size=14))
def test_in_any_mixture_each_key_is_whole_or_found(tmp_path: Path, made: list[tuple[str, str]]) -> None:
    """A sample is good if and only if its files lie together, none is doubled, and nothing odd is its own or beside."""
    path = write(tmp_path / "t.tar", *(KINDS[kind](key) for kind, key in made))
    runs: list[tuple[str, list[str], bool]] = []
    nameless = False
    for kind, key in made:
        if kind in ("file", "json"):
            if runs and runs[-1][0] == key:
                runs[-1][1].append(kind)
            else:
                runs.append((key, [kind], nameless))
            nameless = False
        elif kind == "nameless":
            nameless = True
            if runs:
                runs[-1] = (*runs[-1][:2], True)
    whole = {
        key: kinds
        for key, kinds, beside in runs
        if not beside
        and [other for other, *_ in runs].count(key) == 1
        and len(set(kinds)) == len(kinds)
        and not any(kind in ODD and own == key for kind, own in made)
    }
    groups, findings = scanned(path)
    content = {"file": ("jpg", lambda key: key.encode() * 50), "json": ("json", lambda key: b"{}" * 300)}
    expected = [
        (key, {content[kind][0]: content[kind][1](key) for kind in kinds}) for key, kinds, _ in runs if key in whole
    ]
    assert groups == expected
    bad = {key for kind, key in made if kind in ODD} | {key for key, *_ in runs if key not in whole}
    assert {finding.key for finding in findings if finding.key} == bad
