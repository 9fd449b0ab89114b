/** One tab stop for many things: arrows, Home and End move among them, and up and down follow lines on the screen. */

const STEPS = { ArrowLeft: -1, ArrowRight: 1 };

/** `items` lie in `box` in order; the one with tabindex 0 is the tab stop. */
export function rove(box, items) {
  items.forEach((item, at) => item.setAttribute("tabindex", at === 0 ? "0" : "-1"));
  let current = items[0];
  box.addEventListener("focusin", ({ target }) => {
    const item = target.closest("[tabindex]");
    if (!items.includes(item)) return;
    current.setAttribute("tabindex", "-1");
    item.setAttribute("tabindex", "0");
    current = item;
  });
  box.addEventListener("keydown", (event) => {
    const next = target(items, current, event.key);
    if (!next || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    next.focus();
  });
}

function target(items, current, key) {
  const at = items.indexOf(current);
  if (key in STEPS) return items[Math.min(Math.max(at + STEPS[key], 0), items.length - 1)];
  if (key === "Home") return items[0];
  if (key === "End") return items.at(-1);
  if (key === "ArrowUp") return onNextLine(items.slice(0, at).reverse(), current);
  if (key === "ArrowDown") return onNextLine(items.slice(at + 1), current);
  return null;
}

/** The nearest item of the first other line that comes along `items`. */
function onNextLine(items, current) {
  const from = current.getBoundingClientRect();
  const middle = (box) => box.left + box.width / 2;
  let best = null;
  let line = null;
  for (const item of items) {
    const box = item.getBoundingClientRect();
    if (Math.abs(box.top - from.top) < from.height / 2) continue;
    if (line !== null && Math.abs(box.top - line) > from.height / 2) break;
    line ??= box.top;
    const distance = Math.abs(middle(box) - middle(from));
    if (best === null || distance < best.distance) best = { item, distance };
  }
  return best?.item ?? current;
}
