"""One running server and one real Chromium for all tests of the pages.

Package scope, not session: while Playwright runs, its event loop counts as running in this thread, and tests elsewhere
call `asyncio.run`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.datasets import small_dataset
from tests.support.images import damaged_jpeg, photo
from tests.support.patience import PATIENCE_S
from tests.support.server import ServerProcess
from tests.support.tars import chat, picture, write_shard

SCRIPT = "<script>window.planted=1</script><img src=x onerror=window.planted=1>"
EVIL_KEY = "evil<script>planted=1<img onerror=planted=1>"
EVIL_SHARD = "train-<script>planted=1<b>.tar"
BAD_KEY = "bad<i>jpeg"

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def planted_dataset(directory: Path) -> Path:
    """The small dataset, a shard of attacks and faults beside it, and the same data under the other layout."""
    config = small_dataset(directory)
    samples = [
        (EVIL_KEY, {"json": chat((f"<|image|>{SCRIPT}", f"{SCRIPT} 猫がいます。")), "jpg": picture(60, 40)}),
        (BAD_KEY, {"json": chat(("<|image|>What is it?", "A rocket.")), "jpg": damaged_jpeg(photo("rocket.jpg"))}),
        (f"cut{EVIL_KEY}", {"json": chat(("<|image|>What?", "Nothing.")), "jpg": photo("rocket.jpg")[:2000]}),
    ]
    write_shard(directory / EVIL_SHARD, samples)
    document = yaml.safe_load(config.read_text())
    document["datasets"]["new"] = {**document["datasets"]["train"], "layout": "owl3-241101"}
    config.write_text(yaml.safe_dump(document))
    return config


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The planted dataset, served."""
    with ServerProcess(planted_dataset(tmp_path_factory.mktemp("browser"))) as server:
        yield server
        assert server.stop() == 0


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """A headless browser; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'owl-stream[dev]'")
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in CHROMIUM")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


class Pages:
    """Opens pages of the server, and holds at the end that none of them complained."""

    def __init__(self, browser: Any, url: str) -> None:
        self._browser, self._url = browser, url
        self._open = ExitStack()
        self.complaints: list[str] = []

    def open(self, path: str, *, width: int = 1280, theme: str = "light") -> Any:
        """A page that has shown its content."""
        context = self._browser.new_context(viewport={"width": width, "height": 844}, color_scheme=theme)
        self._open.callback(context.close)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(self._url + path)
        page.wait_for_selector("main[aria-busy=false], .tile, .card table")
        return page

    def close(self) -> None:
        """Close every page."""
        self._open.close()


@pytest.fixture
def pages(chromium: Any, server: ServerProcess) -> Iterator[Pages]:
    """Opens pages; fails if a console had an error or a warning."""
    pages = Pages(chromium, server.url)
    yield pages
    pages.close()
    assert pages.complaints == []
