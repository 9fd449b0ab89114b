"""Makes the README's pictures: the real pages of a real server that streams the demo's data set.

    .venv/bin/python docs/pictures.py

Needs `owl-stream[dev]` and Chromium (`apt-get install chromium`, or its path in CHROMIUM). Takes two minutes.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from owl_stream.demo.dataset import DATASET, build_demo_dataset
from owl_stream.demo.server import DemoServer

IMAGES = Path(__file__).parent / "img"
MAX_BYTES = 300_000
EXACT = 96
"""Colours of a picture that are kept as they are."""
UPTIME_S = 118.0
"""The dashboard is photographed when its chart, which then spans two minutes, is full."""

SHOWN_SAMPLE = "detail-coffee"
WORLD_SIZE, MICRO_BATCH_SIZE = 4, 2


@dataclass(frozen=True)
class Shot:
    """One picture: of which page, how large (CSS pixels; doubled on disk), in which theme."""

    name: str
    width: int
    height: int
    theme: str


def main() -> None:
    """Write all pictures to docs/img."""
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as directory,
        DemoServer(build_demo_dataset(Path(directory))) as server,
        _chromium() as browser,
    ):
        with _trainers(server.url):
            page = _open(browser, Shot("dashboard", 1280, 900, "light"), server.url)
            page.wait_for_timeout(1000 * max(5.0, UPTIME_S - _ask(f"{server.url}/health")["uptime_s"]))
            _save(page, "dashboard")
        place = _place_of(server.url, SHOWN_SAMPLE)
        for shot in (Shot("inspector", 1280, 1080, "light"), Shot("inspector-phone", 390, 844, "dark")):
            page = _open(browser, shot, server.url + place)
            _point_at_a_token(page, scroll=shot.width < 640)
            _save(page, shot.name)


@contextmanager
def _chromium() -> Iterator[Browser]:
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        sys.exit("no Chromium: apt-get install chromium, or name one in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def _open(browser: Browser, shot: Shot, url: str) -> Page:
    size = {"width": shot.width, "height": shot.height}
    page = browser.new_page(viewport=size, color_scheme=shot.theme, device_scale_factor=2)  # type: ignore[arg-type]
    page.goto(url)
    page.wait_for_selector(".row, .tile")
    page.wait_for_load_state("networkidle")
    return page


def _point_at_a_token(page: Page, *, scroll: bool) -> None:
    """The third token after the fourth crop begins, and what it sees; on a phone the row fills the window."""
    if scroll:
        page.evaluate("document.querySelector('#row-0').scrollIntoView()")
    start = page.locator("#row-0 .token:has(.mark)").nth(3).get_attribute("data-token")
    page.locator(f"#row-0 [data-token='{int(start or 0) + 3}']").hover()


@contextmanager
def _trainers(url: str) -> Iterator[None]:
    """Two ranks that read for as long as the block runs, one with more to compute than the other."""
    done = threading.Event()

    def read(rank: int, pause_s: float) -> None:
        asked = f"rank={rank}&world_size=2&epochs=100000"
        with urllib.request.urlopen(f"{url}/v1/datasets/{DATASET}/stream?{asked}", timeout=60) as stream:
            while not done.wait(pause_s):
                stream.read(1 << 18)

    readers = [threading.Thread(target=read, args=(rank, 0.02 + 0.05 * rank)) for rank in range(2)]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        done.set()
        for reader in readers:
            reader.join()


def _place_of(url: str, key: str) -> str:
    """The inspector's address of the micro-batch of epoch 0 that holds a sample."""
    deal = f"world_size={WORLD_SIZE}&micro_batch_size={MICRO_BATCH_SIZE}"
    for step in range(_ask(f"{url}/v1/datasets/{DATASET}")["steps_per_epoch"]):
        found = _ask(f"{url}/pages/datasets/{DATASET}/steps/0/{step}?{deal}")
        for rank, micros in enumerate(found["deal"]["rows"]):
            for micro, rows in enumerate(micros):
                if key in [found["rows"][row]["key"] for row in rows if row >= 0]:
                    return f"/inspect/{DATASET}/0/{step}/{rank}?{deal}&micro={micro}"
    sys.exit(f"no sample {key} in the demo's data set")


def _ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def _save(page: Page, name: str) -> None:
    path = IMAGES / f"{name}.png"
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        _in_few_colours(np.asarray(picture.convert("RGB"))).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path.name}: {size:,} bytes")
    if size > MAX_BYTES:
        sys.exit(f"{path}: expected at most {MAX_BYTES:,} bytes; make the window smaller")


def _in_few_colours(pixels: NDArray[np.uint8]) -> Image.Image:
    """The picture in 256 colours, a third of the size: those of the page exactly, those of photographs nearly."""
    colours, which, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
    frequent = np.argsort(-counts)
    exact, others = colours[frequent[:EXACT]], colours[frequent[EXACT:]]
    nearly = Image.fromarray(others[:, None]).quantize(256 - EXACT, Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = np.concatenate([exact, np.array(nearly, np.uint8).reshape(-1, 3)]).astype(np.int32)
    nearest = np.array([np.square(palette - colour).sum(axis=1).argmin() for colour in colours.astype(np.int32)])
    made = Image.fromarray(nearest[which].reshape(pixels.shape[:2]).astype(np.uint8), "P")
    made.putpalette(palette.astype(np.uint8).tobytes())
    return made


if __name__ == "__main__":
    main()
