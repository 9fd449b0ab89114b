"""The inspector: it shows what the frame says, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.browser.conftest import BAD_KEY, EVIL_KEY, EVIL_SHARD, SCRIPT, Pages
from tests.browser.frames import read_batch, step_with, steps_of
from tests.support.http import get
from tests.support.server import ServerProcess


def lit_crops(page: Any) -> list[int]:
    """The crops of the whole batch that are outlined, by what the style says."""
    crops: list[int] = page.eval_on_selector_all(
        ".unit",
        "crops => crops.filter(c => getComputedStyle(c).outlineStyle === 'solid').map(c => Number(c.dataset.unit))",
    )
    return crops


@pytest.mark.parametrize("dataset", ["train", "new"])
def test_the_third_token_after_an_image_outlines_the_crops_it_sees(
    pages: Pages, server: ServerProcess, dataset: str
) -> None:
    """For both layouts, in a row behind others: exactly the crops that the frame's `media_offset` gives the token."""
    step = step_with(server.url, dataset, "000001")
    batch = read_batch(server.url, dataset, step)
    row = max(n for n in range(4) if len(batch.crop_starts(n)) > 1 and batch.sees(n, 0)[:1] != [0])
    page = pages.open(f"/inspect/{dataset}/0/{step}/0?world_size=1")
    for start in batch.crop_starts(row):
        expected = batch.sees(row, start + 3)
        page.locator(f"#row-{row} [data-token='{start + 3}']").hover()
        assert lit_crops(page) == expected
        said = f"crop {expected[0]} " if len(expected) == 1 else f"crops {expected[0]} to {expected[-1]} "
        assert f"sees {said}" in page.locator(f"#row-{row} .readout").inner_text()
    assert len(expected) > 1


@pytest.mark.parametrize("dataset", ["train", "new"])
def test_every_token_shows_how_many_crops_it_sees(pages: Pages, server: ServerProcess, dataset: str) -> None:
    """Over a whole batch the counts behind the colours, the supervised tokens and the padding are the frame's."""
    step = step_with(server.url, dataset, "000001")
    batch = read_batch(server.url, dataset, step)
    page = pages.open(f"/inspect/{dataset}/0/{step}/0?world_size=1")
    for row in range(4):
        tokens = range(batch.length(row))
        seen = page.eval_on_selector_all(f"#row-{row} .token", "all => all.map(t => Number(t.dataset.visible))")
        assert seen == [len(batch.sees(row, token)) for token in tokens]
        marked = page.eval_on_selector_all(f"#row-{row} .token", "all => all.map(t => t.matches('.supervised'))")
        assert marked == [bool(batch.tensors["labels"][row, token] != -100) for token in tokens]
        padding = batch.tensors["input_ids"].shape[1] - batch.length(row)
        shown = page.locator(f"#row-{row} .padding").all_inner_texts()
        assert [re.sub(r"\D", "", text) for text in shown] == [str(padding)] * (padding > 0)


def test_a_crop_lights_up_the_tokens_that_see_it(pages: Pages, server: ServerProcess) -> None:
    """Pointing at the second crop of a row marks the tokens from which it is visible."""
    step = step_with(server.url, "train", "000001")
    batch = read_batch(server.url, "train", step)
    row = next(n for n in range(4) if len(batch.crop_starts(n)) > 1)
    page = pages.open(f"/inspect/train/0/{step}/0?world_size=1")
    crop = page.locator(f"#row-{row} .unit").nth(1)
    number = int(crop.get_attribute("data-unit"))
    crop.hover()
    lit = page.eval_on_selector_all(f"#row-{row} .token.lit", "all => all.map(t => Number(t.dataset.token))")
    assert lit == [t for t in range(batch.length(row)) if number in batch.sees(row, t)]


def test_crops_are_the_pixels_of_the_frame(pages: Pages, server: ServerProcess) -> None:
    """What a canvas holds is, pixel for pixel, the uint8 crop that a trainer gets."""
    batch = read_batch(server.url, "train", 0)
    page = pages.open("/inspect/train/0/0/0?world_size=1")
    drawn = page.eval_on_selector_all(
        ".unit canvas",
        "all => all.map(c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])",
    )
    pixels = batch.tensors["pixel_values"].transpose(0, 2, 3, 1)
    assert [values[channel::4] for values in drawn for channel in range(3)] == [
        crop[:, :, channel].ravel().tolist() for crop in pixels for channel in range(3)
    ]


def test_keys_move_through_steps_ranks_and_micro_batches(pages: Pages) -> None:
    """Arrows, r, m and g go where the hint says; the address follows, and the browser's back button goes back."""
    page = pages.open("/inspect/train/0/0/0?world_size=2&micro_batch_size=1")
    assert page.locator(".keys").is_visible()
    for key, address in [
        ("ArrowRight", "/inspect/train/0/1/0?world_size=2&micro_batch_size=1"),
        ("r", "/inspect/train/0/1/1?world_size=2&micro_batch_size=1"),
        ("m", "/inspect/train/0/1/1?world_size=2&micro_batch_size=1&micro=1"),
        ("M", "/inspect/train/0/1/1?world_size=2&micro_batch_size=1"),
        ("R", "/inspect/train/0/1/0?world_size=2&micro_batch_size=1"),
        ("p", "/inspect/train/0/0/0?world_size=2&micro_batch_size=1"),
    ]:
        page.keyboard.press(key)
        page.wait_for_function("to => location.pathname + location.search === to", arg=address)
        page.wait_for_selector("main[aria-busy=false] .row")
    page.go_back()
    page.wait_for_selector("h1:has-text('Step 1, rank 0 of 2')")
    page.keyboard.press("g")
    page.wait_for_selector(".bars .micro")
    page.locator(".bars .micro").nth(3).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('Step 1, rank 1 of 2')")
    assert page.input_value("#at-micro") == "1"


def test_arrows_move_along_tokens_that_are_one_tab_stop(pages: Pages) -> None:
    """Inside a row arrows go from token to token, light up what each sees, and leave the step alone."""
    page = pages.open("/inspect/train/0/1/0?world_size=1")
    before = page.url
    assert page.locator("#row-0 .token[tabindex='0']").count() == 1
    page.locator("#row-0 .token").first.focus()
    for key, at in [("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", -1), ("Home", 0)]:
        page.keyboard.press(key)
        token = page.evaluate("Number(document.activeElement.dataset.token)")
        assert token == (page.locator("#row-0 .token").count() - 1 if at == -1 else at)
        assert f"token {token}," in page.locator("#row-0 .readout").inner_text()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.token") != "0"
    assert page.url == before


def test_a_bad_row_says_why(pages: Pages, server: ServerProcess) -> None:
    """A masked row shows the reason that the frame gives, verbatim, and where its members lie in the tar."""
    step = step_with(server.url, "train", BAD_KEY)
    batch = read_batch(server.url, "train", step)
    row = next(n for n, info in enumerate(batch.header.rows) if info.status == "masked")
    page = pages.open(f"/inspect/train/0/{step}/0?world_size=1")
    shown = page.locator(f"#row-{row}")
    assert shown.locator(".reason").inner_text() == batch.header.rows[row].reason
    assert shown.locator(".token.supervised").count() == 0
    shown.locator(".origin li").first.wait_for()
    place = next(n for n, each in enumerate(steps_of(server.url, "train")[step]["rows"]) if each["key"] == BAD_KEY)
    for member in get(f"{server.url}/pages/datasets/train/members/0/{step}/{place}").json:
        assert f"{member['name']} @ {member['offset']:,}" in shown.locator(".origin").inner_text()


def test_fillers_and_repeated_rows_are_explained(pages: Pages, server: ServerProcess) -> None:
    """The last step of a pool says which rows complete it; dealt to four ranks, a row is given again instead."""
    step = next(step["step"] for step in steps_of(server.url, "train") if step["fillers"])
    page = pages.open(f"/inspect/train/0/{step}/0?world_size=1")
    assert "Completes the last step" in page.locator(".row[data-status=filler]").first.inner_text()
    dealt = [read_batch(server.url, "train", step, rank=rank, world_size=4).header.rows[0] for rank in range(4)]
    rank = [info.status for info in dealt].index("repeated")
    page = pages.open(f"/inspect/train/0/{step}/{rank}?world_size=4")
    assert dealt[rank].reason in page.locator(".row[data-status=repeated] .explain").inner_text()


def test_the_global_step_shows_each_ranks_cost(pages: Pages, server: ServerProcess) -> None:
    """Bars are as long as the plan's costs, and the dearest is named."""
    deal = get(f"{server.url}/pages/datasets/train/steps/0/1?world_size=4").json["deal"]
    page = pages.open("/inspect/train/0/1?world_size=4")
    costs = [int(re.sub(r"\D", "", text)) for text in page.locator(".bars .cost").all_inner_texts()]
    assert costs == deal["rank_costs"]
    widths = page.eval_on_selector_all(".bars .micro", "all => all.map(m => m.getBoundingClientRect().width)")
    for width, cost in zip(widths, costs, strict=True):
        assert abs(width / max(widths) - cost / max(costs)) < 0.02
    assert "dearest" in page.locator(".bars li").nth(costs.index(max(costs))).inner_text()


def test_planted_markup_stays_text(pages: Pages, server: ServerProcess) -> None:
    """Scripts in a key, a text and a shard's name are shown as they are spelled, and none of them runs."""
    step = step_with(server.url, "train", EVIL_KEY)
    place = read_batch(server.url, "train", step)
    row = next(n for n, info in enumerate(place.header.rows) if info.key == EVIL_KEY)
    page = pages.open(f"/inspect/train/0/{step}/0?world_size=1")
    shown = page.locator(f"#row-{row}")
    assert shown.locator(".key").inner_text() == EVIL_KEY
    assert EVIL_SHARD in shown.locator("header").inner_text()
    assert SCRIPT in shown.locator(".tokens").inner_text().replace("·", "")
    assert "猫がいます" in shown.locator(".tokens").inner_text().replace("·", "")
    for path in ("/", "/quarantine/train", f"/inspect/train/0/{step}?world_size=1"):
        page = pages.open(path)
        page.wait_for_selector(f"text={EVIL_SHARD}" if path != "/" else ".findings, .counts")
        assert page.evaluate("window.planted") is None
        assert page.locator("main script, main img, main b, main i").count() == 0


def test_a_place_that_is_not_there_says_so(pages: Pages) -> None:
    """A step past the end shows the server's own words, and the controls lead back."""
    page = pages.open("/inspect/train/0/999/0?world_size=1")
    assert "expected 0 to" in page.locator("[role=alert]").inner_text()
    page.locator("#at-step").fill("0")
    page.keyboard.press("Enter")
    page.wait_for_selector("main[aria-busy=false] .row")
    pages.complaints[:] = [said for said in pages.complaints if "422" not in said]
