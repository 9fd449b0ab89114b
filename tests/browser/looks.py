"""What a page looks like, as numbers: contrast, outlines, overflow. Colours are those that the browser computed."""

from __future__ import annotations

from typing import Any

CONTRAST = """() => {
  const brush = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    brush.clearRect(0, 0, 1, 1);
    brush.fillStyle = colour;
    brush.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = brush.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], ground) => [r, g, b].map((c, n) => c * a + ground[n] * (1 - a));
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const poor = [];
  let seen = 0;
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const box = element.getBoundingClientRect();
    if (!text || box.right < 0 || box.width < 1 || element.closest(":disabled, option")) continue;
    const style = getComputedStyle(element);
    const behind = ground(element);
    const paint = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(over(rgba(paint), behind)), light(behind)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    seen += 1;
    if (ratio < (large ? 3 : 4.5)) poor.push(`${element.className || element.tagName} ${ratio.toFixed(2)}`);
  }
  return { seen, poor };
}"""

FOCUS = """() => {
  const at = document.activeElement;
  const shown = at.matches(".measures input") ? at.nextElementSibling : at;
  const { outlineStyle, outlineWidth } = getComputedStyle(shown);
  return [at.outerHTML.slice(0, 80), outlineStyle !== "none" && parseFloat(outlineWidth) >= 2, at === document.body];
}"""


def poor_contrast(page: Any) -> list[str]:
    """Texts whose contrast with their ground is below WCAG 2's AA."""
    result = page.evaluate(CONTRAST)
    assert result["seen"] > 5
    poor: list[str] = result["poor"]
    return poor


def unseen_focus(page: Any, stops: int) -> list[str]:
    """Elements among the first `stops` tab stops that do not show that they have the focus."""
    unseen = []
    for _ in range(stops):
        page.keyboard.press("Tab")
        name, visible, left = page.evaluate(FOCUS)
        if left:
            break
        if not visible:
            unseen.append(name)
    return unseen


def overflow(page: Any) -> int:
    """Pixels by which a page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
