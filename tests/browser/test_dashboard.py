"""The dashboard on a running server."""

from __future__ import annotations

from typing import Any

from tests.browser.conftest import BAD_KEY, Pages
from tests.browser.looks import overflow
from tests.support.http import get
from tests.support.reading import reading
from tests.support.server import ServerProcess


def cursor_of(page: Any) -> tuple[int, ...]:
    """The first live stream's cursor, as the page shows it."""
    return tuple(int(part) for part in page.locator(".cursor a").first.inner_text().split(" / "))


def test_a_live_streams_cursor_moves_without_a_reload(pages: Pages, server: ServerProcess) -> None:
    """Rank, cursor and rate of a stream are shown while it runs, the cursor runs on, and the stream goes with it."""
    page = pages.open("/")
    with reading(server, rank=1, world_size=2):
        page.wait_for_selector(".cursor a")
        assert "1 of 2" in page.locator("tr[data-stream]").inner_text()
        seen = cursor_of(page)
        page.wait_for_function("was => document.querySelector('.cursor a')?.innerText !== was", arg=text_of(seen))
        assert cursor_of(page) > seen
        page.wait_for_function("/[1-9]/.test(document.querySelector('[data-label=rate]')?.innerText)")
        page.wait_for_selector(".chart .line")
        assert page.locator("[data-label='slower side']").inner_text() in ("server", "trainer", "even")
    page.wait_for_selector("text=No trainer is reading now.")


def text_of(cursor: tuple[int, ...]) -> str:
    """A cursor as the page writes it."""
    return " / ".join(map(str, cursor))


def test_what_was_masked_links_to_the_batch_that_shows_why(pages: Pages, server: ServerProcess) -> None:
    """A sample found bad at assembly is listed with its reason; its link leads to its masked row."""
    get(f"{server.url}/v1/datasets/train/stream")
    page = pages.open("/")
    finding = page.locator(".findings li", has_text=BAD_KEY).first
    assert "jpeg_corrupt" in finding.inner_text()
    finding.locator("a").click()
    page.wait_for_selector("main[aria-busy=false] .explain.masked")
    assert BAD_KEY in page.locator(".row[data-status=masked] .key").inner_text()


def test_quarantined_samples_are_counted_by_reason_and_listed(pages: Pages, server: ServerProcess) -> None:
    """The dashboard's reasons lead to a table with shard, key, member, byte and what was found."""
    page = pages.open("/")
    page.locator(".counts a", has_text="jpeg_truncated").first.click()
    page.wait_for_selector("tbody tr")
    (expected,) = get(f"{server.url}/v1/datasets/train/quarantine").json["samples"]
    row = page.locator("tbody tr").inner_text()
    for part in (expected["shard"], expected["key"], expected["member"], f"{expected['offset']:,}", expected["detail"]):
        assert part in row


def test_indexing_progress_is_shown(pages: Pages, server: ServerProcess) -> None:
    """While a dataset is being indexed the dashboard says how far it is."""
    seen = get(f"{server.url}/pages/overview").json
    seen["datasets"] = [{"name": "train", "status": "indexing", "progress": 0.42}]
    page = pages.open("/")
    page.route("**/pages/overview*", lambda route: route.fulfill(json=seen))
    page.wait_for_selector("text=42 % of its bytes indexed")
    assert page.locator(".dataset .chip").inner_text() == "indexing"


def test_what_has_failed_and_what_is_worth_telling_is_shown(pages: Pages, server: ServerProcess) -> None:
    """The reason of a dataset that failed, of background work that ended, and notes about good samples."""
    seen = get(f"{server.url}/pages/overview").json
    seen["datasets"][0]["notes"] = ["2 x a field `foo`: not used"]
    seen["datasets"].append({"name": "bad", "status": "failed", "progress": 0, "error": "no such tokenizer"})
    seen["failures"] = {"sampling": "no such thing"}
    page = pages.open("/")
    page.route("**/pages/overview*", lambda route: route.fulfill(json=seen))
    page.wait_for_selector("text=sampling: no such thing")
    assert page.locator(".state .chip").inner_text() == "failed"
    assert page.locator(".notes li").inner_text() == "2 x a field `foo`: not used"
    assert page.locator(".dataset .trouble").inner_text() == "no such tokenizer"


def test_the_chart_fits_a_phone_and_can_be_read_by_keyboard(pages: Pages, server: ServerProcess) -> None:
    """At 390 px nothing is wider than the window; arrows move along the chart and say its values."""
    page = pages.open("/", width=390)
    with reading(server):
        page.wait_for_selector(".cursor a")
        page.wait_for_selector(".chart .line")
        assert overflow(page) <= 0
    page.locator(".chart").focus()
    page.keyboard.press("ArrowRight")
    assert "now" in page.locator(".tip").inner_text()


def test_advice_is_shown_while_trainers_wait_for_the_server(pages: Pages, server: ServerProcess) -> None:
    """A reader that never makes the server wait: the page names the dearest stage; once it is gone the advice goes."""
    page = pages.open("/")
    with reading(server):
        page.wait_for_function("() => /-bound: .*add cores/.test(document.querySelector('.advice')?.innerText)")
    page.wait_for_selector("text=No trainer is reading now.")
    page.wait_for_function("() => document.querySelector('.advice').innerText === ''")
