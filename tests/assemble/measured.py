"""Decodes and resizes pictures in processes that may take no more memory than was worked out: run by test_work.py.

`python -m tests.assemble.measured DIRECTORY PER_MILLE` prints a JSON object: the picture's name -> how it ended.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from owl_stream.assemble.header import probe
from owl_stream.assemble.images import decode
from owl_stream.assemble.limits import at_most_more
from owl_stream.assemble.work import resizing_bytes, target_bytes
from owl_stream.layouts.owl3.grid import choose_grid
from tests.assemble.cutting import Cutter, visual_of

SIZE = 64
SPARE_BYTES = 8 << 20
"""What is not the picture's: tables of libraries, pieces that are converted, the interpreter."""


def main() -> None:
    """Let each picture have that part of its bound, and what is not the picture's."""
    directory, per_mille = Path(sys.argv[1]), int(sys.argv[2])
    print(json.dumps({path.name: _ending(path, per_mille) for path in sorted(directory.iterdir())}))


def _ending(path: Path, per_mille: int) -> str:
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        code = os.waitstatus_to_exitcode(status)
        return {0: "well", 1: "MemoryError"}.get(code, f"code {code}")
    try:
        _take(path.read_bytes(), per_mille)
    except MemoryError:
        os._exit(1)
    except BaseException as exc:
        print(path, repr(exc), file=sys.stderr)
        os._exit(2)
    os._exit(0)


def _take(data: bytes, per_mille: int) -> None:
    header = probe(data, 10**9, 1 << 40)
    cutters = Cutter(SIZE, "simd"), Cutter(SIZE, "pillow")
    layout = cutters[0].layout
    grid = choose_grid(header.width, header.height, SIZE)
    bound = max(header.nbytes, resizing_bytes(header.width, header.height, layout.targets(visual_of(grid))))
    with at_most_more(bound * per_mille // 1000 + target_bytes(layout.most_target_pixels) + SPARE_BYTES):
        pixels = decode(data, header).pixels
        for cutter in cutters:
            cutter.cut(pixels, grid)


if __name__ == "__main__":
    main()
