"""Every page can be read and used by everyone: contrast, focus, a phone's width, both themes."""

from __future__ import annotations

from tests.browser.conftest import BAD_KEY, Pages
from tests.browser.frames import step_with
from tests.browser.looks import overflow, poor_contrast, unseen_focus
from tests.support.server import ServerProcess


def paths(url: str) -> list[str]:
    """One of each page; the batch is one with a masked row."""
    step = step_with(url, "train", BAD_KEY)
    batch = f"/inspect/train/0/{step}/0?world_size=1"
    return ["/", batch, f"/inspect/train/0/{step}?world_size=2", "/quarantine/train"]


def test_text_has_contrast_and_nothing_is_wider_than_the_window(pages: Pages, server: ServerProcess) -> None:
    """WCAG AA on every page, in both themes, on a desk and on a phone."""
    for path in paths(server.url):
        page = pages.open(path)
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            for width in (1280, 390):
                page.set_viewport_size({"width": width, "height": 844})
                assert poor_contrast(page) == [], (path, theme, width)
                assert overflow(page) <= 0, (path, theme, width)


def test_whoever_tabs_sees_where_they_are(pages: Pages, server: ServerProcess) -> None:
    """Each tab stop shows an outline, and none of the thousands of tokens is a stop of its own."""
    for path in paths(server.url):
        page = pages.open(path)
        assert unseen_focus(page, 30) == [], path


def test_a_chosen_theme_stays(pages: Pages) -> None:
    """The button goes from the system's theme to light and dark, and the next page keeps the choice."""
    page = pages.open("/", theme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    for name in ("light", "dark"):
        page.locator(".theme").click()
        assert name in page.locator(".theme").inner_text()
    dark = page.evaluate(ground)
    page.reload()
    page.wait_for_selector(".tile")
    assert page.evaluate(ground) == dark != light
