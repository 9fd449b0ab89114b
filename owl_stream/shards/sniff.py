"""What a file's first bytes say that it is, whatever its name says. Nothing is parsed beyond `HEAD_BYTES`."""

from __future__ import annotations

import re

HEAD_BYTES = 264
"""What is looked at: up to the magic of a tar, which is the one that lies deepest."""

PICTURES = {
    "jpeg": "a JPEG picture",
    "png": "a PNG picture",
    "webp": "a WebP picture",
    "gif": "a GIF picture",
    "bmp": "a BMP picture",
    "tiff": "a TIFF picture",
    "avif": "an AVIF picture",
    "heic": "an HEIC (HEIF) picture",
    "jxl": "a JPEG XL picture",
    "jpeg2000": "a JPEG 2000 picture",
    "jpeg-xr": "a JPEG XR picture",
    "ico": "an icon (ICO)",
    "icns": "an icon (ICNS)",
    "pnm": "a PNM picture (PBM, PGM or PPM)",
    "pam": "a PAM picture",
    "psd": "a Photoshop document (PSD)",
    "svg": "an SVG drawing",
    "dds": "a DDS texture",
    "exr": "an OpenEXR picture",
    "hdr": "a Radiance HDR picture",
    "qoi": "a QOI picture",
    "mng": "an MNG animation",
    "bpg": "a BPG picture",
    "flif": "a FLIF picture",
    "xcf": "a GIMP document (XCF)",
    "raw": "a camera's raw picture",
    "dicom": "a DICOM picture",
}
VIDEOS = {
    "mp4": "an MP4 or QuickTime video",
    "webm": "a WebM or Matroska video",
    "avi": "an AVI video",
    "flv": "an FLV video",
    "asf": "a Windows Media file",
    "mpeg": "an MPEG video",
}
SOUNDS = {
    "wav": "a WAV sound",
    "mp3": "an MP3 sound",
    "ogg": "an Ogg sound",
    "flac": "a FLAC sound",
    "m4a": "an M4A sound",
    "aac": "an AAC sound",
    "aiff": "an AIFF sound",
    "midi": "a MIDI file",
    "amr": "an AMR sound",
}
OTHERS = {
    "pdf": "a PDF document",
    "postscript": "a PostScript document",
    "djvu": "a DjVu document",
    "html": "an HTML page",
    "xml": "an XML document",
    "git-lfs": "a Git LFS pointer",
    "git-annex": "a git-annex pointer",
    "gzip": "gzip data",
    "zip": "a zip archive",
    "zstd": "Zstandard data",
    "xz": "xz data",
    "bzip2": "bzip2 data",
    "7z": "a 7z archive",
    "rar": "a RAR archive",
    "tar": "a tar archive",
    "npy": "a NumPy array",
    "hdf5": "an HDF5 file",
    "parquet": "a Parquet file",
    "sqlite": "an SQLite database",
    "macos": "a macOS resource file (AppleDouble)",
}

IMAGE_FORMATS = frozenset(PICTURES) - {"svg"}
"""Pictures, whether they can be decoded or not. SVG is text as often as a picture: a member that is code, say."""
VIDEO_FORMATS = frozenset(VIDEOS)
AUDIO_FORMATS = frozenset(SOUNDS)

FORMAT_WORDS = PICTURES | VIDEOS | SOUNDS | OTHERS
"""Each format with its article, for messages."""

_STARTS = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
    b"\xff\x0a": "jxl",
    b"\0\0\0\x0cJXL \r\n\x87\n": "jxl",
    b"\0\0\0\x0cjP  \r\n\x87\n": "jpeg2000",
    b"\xff\x4f\xff\x51": "jpeg2000",
    b"II\xbc\x01": "jpeg-xr",
    b"icns": "icns",
    b"P7\nWIDTH": "pam",
    b"P7\nHEIGHT": "pam",
    b"P7\nDEPTH": "pam",
    b"P7\n#": "pam",
    b"8BPS\0\1": "psd",
    b"8BPS\0\2": "psd",
    b"DDS \x7c\0\0\0": "dds",
    b"\x76\x2f\x31\x01": "exr",
    b"#?RADIANCE\n": "hdr",
    b"#?RGBE\n": "hdr",
    b"qoif": "qoi",
    b"\x8aMNG\r\n\x1a\n": "mng",
    b"BPG\xfb": "bpg",
    b"FLIF": "flif",
    b"gimp xcf ": "xcf",
    b"FUJIFILMCCD-RAW ": "raw",
    b"IIRO": "raw",
    b"IIU\0": "raw",
    b"\x1aE\xdf\xa3": "webm",
    b"FLV\1": "flv",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"\0\0\1\xba": "mpeg",
    b"\0\0\1\xb3": "mpeg",
    b"OggS\0": "ogg",
    b"fLaC": "flac",
    b"ID3\2": "mp3",
    b"ID3\3": "mp3",
    b"ID3\4": "mp3",
    b"MThd\0\0\0\6": "midi",
    b"#!AMR": "amr",
    b"%PDF-": "pdf",
    b"%!PS": "postscript",
    b"\xc5\xd0\xd3\xc6": "postscript",
    b"AT&TFORM": "djvu",
    b"version https://git-lfs.github.com/spec/": "git-lfs",
    b"/annex/objects/": "git-annex",
    b"\x1f\x8b\x08": "gzip",
    b"PK\3\4": "zip",
    b"PK\5\6": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\x93NUMPY": "npy",
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"PAR1": "parquet",
    b"SQLite format 3\0": "sqlite",
    b"\0\5\x16\7": "macos",
}
_BY_FIRST_BYTE: dict[int, list[tuple[bytes, str]]] = {}
for _start, _name in _STARTS.items():
    _BY_FIRST_BYTE.setdefault(_start[0], []).append((_start, _name))

_RIFF = {b"WEBP": "webp", b"WAVE": "wav", b"AVI ": "avi"}
_FORM = {b"AIFF": "aiff", b"AIFC": "aiff"}
_RAW_TIFF = (b"CR\2\0",)
"""What Canon writes behind a TIFF's header."""

_BMP_HEADERS = frozenset((12, 16, 40, 52, 56, 64, 108, 124))
_PNM = re.compile(rb"P[1-6](?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+\s|P[fF]\n\d+ \d+\s")
_SPACE = b" \t\r\n\x0b\x0c"
_HTML = re.compile(
    rb"<(?:!doctype\s+html|html|head|body|title|script|meta|style|div|p|h1|center|a)[\s>/]", re.IGNORECASE
)
_XML = re.compile(rb"<(?:\?xml\s|!doctype\s|!--|[a-z:]*(?:svg|error)[\s>/])", re.IGNORECASE)
_SVG = re.compile(rb"<(?:[a-z]+:)?svg[\s>/]|<!doctype\s+svg", re.IGNORECASE)
_HTML_INSIDE = re.compile(rb"<html[\s>]|<!doctype\s+html", re.IGNORECASE)

_AVIF = (b"avif", b"avis")
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1")
_M4A = (b"M4A ", b"M4B ", b"M4P ")


def sniff(data: bytes | memoryview) -> str:
    """The name of a file's format (a key of `FORMAT_WORDS`) by its first bytes; empty where they say nothing."""
    head = bytes(data[:3])
    if head == b"\xff\xd8\xff":
        return "jpeg"
    if not head:
        return ""
    head = bytes(data[:HEAD_BYTES])
    for start, name in _BY_FIRST_BYTE.get(head[0], ()):
        if head.startswith(start):
            return "raw" if name == "tiff" and head[8:12] in _RAW_TIFF else name
    return _container(head) or _with_fields(head, len(data)) or _markup(head)


def _container(head: bytes) -> str:
    """Formats that share a container, whose type stands behind a length."""
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12], "")
    if head.startswith(b"FORM"):
        return _FORM.get(head[8:12], "")
    if head[4:8] == b"ftyp":
        return _iso_media(head)
    if head[4:8] in (b"moov", b"mdat", b"wide") and head[:2] == b"\0\0":
        return "mp4"
    if head[257:262] == b"ustar":
        return "tar"
    return "dicom" if head[128:132] == b"DICM" else ""


def _iso_media(head: bytes) -> str:
    """A file of boxes (ISO/IEC 14496-12): by its main brand, and where that is a general one by those it lists."""
    end = min(int.from_bytes(head[:4]), len(head))
    major, brands = head[8:12], {head[at : at + 4] for at in range(16, end - 3, 4)}
    if major in _AVIF:
        return "avif"
    if major in _HEIF:
        general = major in (b"mif1", b"mif2", b"msf1")
        return "avif" if general and not brands.isdisjoint(_AVIF) else "heic"
    if major == b"crx ":
        return "raw"
    if major == b"jxl ":
        return "jxl"
    return "m4a" if major in _M4A else "mp4"


def _with_fields(head: bytes, nbytes: int) -> str:
    """Formats whose magic is so short that text could begin with it: their next fields must fit too."""
    if head.startswith(b"BM"):
        return "bmp" if int.from_bytes(head[14:18], "little") in _BMP_HEADERS and len(head) >= 26 else ""
    if head.startswith((b"\0\0\1\0", b"\0\0\2\0")):
        count = int.from_bytes(head[4:6], "little")
        offset = int.from_bytes(head[18:22], "little")
        return "ico" if count > 0 and len(head) >= 22 and 6 + 16 * count <= offset < nbytes else ""
    if head.startswith(b"P"):
        return "pnm" if _PNM.match(head) else ""
    if head.startswith(b"BZh"):
        return "bzip2" if head[3:4].isdigit() and head[4:10] == b"1AY&SY" else ""
    if head.startswith(b"G"):
        return "mpeg" if head[188:189] == b"G" and not head[:189].isascii() else ""
    return _mpeg_audio(head) if head[0] == 0xFF and len(head) >= 4 else ""


def _mpeg_audio(head: bytes) -> str:
    """A frame of MPEG audio: 11 bits of sync, then fields of which some values are reserved."""
    if head[1] & 0xF6 == 0xF0:
        return "aac"
    version, layer, rate = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 2 & 3
    sync = head[1] & 0xE0 == 0xE0
    return "mp3" if sync and version != 1 and layer and rate != 3 and head[2] >> 4 not in (0, 15) else ""


def _markup(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip(_SPACE)
    if not text.startswith(b"<"):
        return ""
    if _XML.match(text):
        if _SVG.search(text):
            return "svg"
        return "html" if _HTML_INSIDE.search(text) else "xml"
    return "html" if _HTML.match(text) else ""
