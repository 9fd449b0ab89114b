"""Names of files that operating systems and tools leave between the data: nobody's samples.

webdataset would make samples of them, or take them for members. This list is where we differ from it; docs/tars.md
has the same names.
"""

from __future__ import annotations

import re

JUNK_NAMES = frozenset(
    {
        # macOS
        ".ds_store",
        "__macosx",
        ".appledouble",
        ".appledb",
        ".appledesktop",
        ".lsoverride",
        ".localized",
        ".apdisk",
        ".volumeicon.icns",
        ".spotlight-v100",
        ".trashes",
        ".fseventsd",
        ".temporaryitems",
        ".documentrevisions-v100",
        # Windows
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "$recycle.bin",
        "system volume information",
        # Linux desktops and file systems, network storage
        ".directory",
        "lost+found",
        "@eadir",
        "#recycle",
        "#snapshot",
        # notebooks
        ".ipynb_checkpoints",
        # tar headers that a tool unpacked as files; also `PaxHeader/`, `PaxHeaders/`, `PaxHeaders.1234/`
        "@paxheader",
        "@longlink",
        "pax_global_header",
    }
)
"""In lower case; of a file, or of a directory with all that is in it."""

JUNK_PREFIXES = ("._", ".trash-", ".nfs0000", ".fuse_hidden", ".~lock.")
"""In lower case: `._0.jpg` holds what macOS knows about `0.jpg`."""

_NAMES = "|".join([r"paxheaders?(?:\.(?:\d+|x))?", *map(re.escape, sorted(JUNK_NAMES))])
_PREFIXES = "|".join(map(re.escape, JUNK_PREFIXES))
_JUNK = re.compile(rf"/(?:(?:{_PREFIXES})|(?:{_NAMES})(?:/|\Z))")


def is_junk(name: str) -> bool:
    """Whether a file or a directory on its path has such a name, at any depth, in any case."""
    return _JUNK.search(f"/{name.lower()}") is not None
