/** A line over the last ten minutes, drawn as SVG; a pointer or the arrow keys read its values. */

import { element } from "./element.js";
import { duration } from "./numbers.js";

const SPAN_S = 600;
const HEIGHT = 220;
const MARGIN = { left: 92, right: 12, top: 12, bottom: 26 };

/** `points`: [seconds ago, value], oldest first. `say` words a value, in units that are powers of `base`. */
export class Chart {
  constructor(name) {
    this.box = element("div", { class: "chart", tabindex: "0", role: "img" });
    this.tip = element("p", { class: "tip", hidden: true });
    this.name = name;
    this.points = [];
    this.chosen = null;
    this.box.addEventListener("pointermove", ({ clientX }) => this.choose(this.secondsAt(clientX)));
    this.box.addEventListener("pointerleave", () => this.choose(null));
    this.box.addEventListener("blur", () => this.choose(null));
    this.box.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: 5, ArrowRight: -5 }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      this.choose(Math.min(SPAN_S, Math.max(0, (this.chosen ?? 0) + by)));
    });
    new ResizeObserver(() => this.draw()).observe(this.box);
  }

  show(points, say, base) {
    Object.assign(this, { points, say, base });
    this.draw();
  }

  choose(seconds) {
    this.chosen = seconds;
    this.draw();
  }

  secondsAt(clientX) {
    const box = this.box.getBoundingClientRect();
    const width = box.width - MARGIN.left - MARGIN.right;
    return SPAN_S * (1 - (clientX - box.left - MARGIN.left) / width);
  }

  draw() {
    const width = this.box.clientWidth;
    if (!width || !this.say) return;
    const top = niceTop(Math.max(0, ...this.points.map(([, value]) => value)), this.base);
    const x = (ago) => MARGIN.left + (1 - ago / SPAN_S) * (width - MARGIN.left - MARGIN.right);
    const y = (value) => HEIGHT - MARGIN.bottom - (value / top) * (HEIGHT - MARGIN.top - MARGIN.bottom);
    const latest = this.points.at(-1)?.[1] ?? 0;
    this.box.setAttribute("aria-label", `${this.name} over the last ten minutes; now ${this.say(latest)}`);
    const drawing = element(
      "svg",
      { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" },
      levels(top, width, y, this.say),
      times(width, x),
      area(this.points, x, y),
      this.mark(x, y),
    );
    this.box.replaceChildren(drawing, this.tip);
  }

  mark(x, y) {
    const nearest = this.chosen === null ? null : nearestTo(this.points, this.chosen);
    this.tip.hidden = nearest === null;
    if (nearest === null) return null;
    const [ago, value] = nearest;
    this.tip.textContent = `${this.say(value)}, ${ago < 1 ? "now" : `${duration(ago)} ago`}`;
    this.tip.classList.toggle("left", ago < SPAN_S / 2);
    this.tip.style.setProperty("--x", `${x(ago)}px`);
    return element("g", { class: "mark" }, [
      element("line", { x1: x(ago), x2: x(ago), y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }),
      element("path", { d: `M${x(ago) - 4} ${y(value)}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0` }),
    ]);
  }
}

function nearestTo(points, seconds) {
  let best = null;
  for (const point of points) {
    if (best === null || Math.abs(point[0] - seconds) < Math.abs(best[0] - seconds)) best = point;
  }
  return best;
}

/** A round number at or above the largest value: 1, 2 or 5 times a power of ten, counted in the unit it is worded in. */
function niceTop(largest, base) {
  if (largest <= 0) return 1;
  const unit = base ** Math.max(0, Math.floor(Math.log(largest) / Math.log(base)));
  const power = 10 ** Math.floor(Math.log10(largest / unit)) * unit;
  return power * [1, 2, 5, 10].find((factor) => factor * power >= largest);
}

function levels(top, width, y, say) {
  return [0, 0.5, 1].flatMap((share) => [
    element("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(share * top), y2: y(share * top) }),
    element("text", { class: "tick y", x: MARGIN.left - 8, y: y(share * top) + 4 }, say(share * top)),
  ]);
}

function times(width, x) {
  const marks = width < 500 ? [600, 300, 0] : [600, 480, 360, 240, 120, 0];
  return marks.map((ago) =>
    element(
      "text",
      { class: `tick x ${ago === 0 ? "last" : ago === SPAN_S ? "first" : ""}`, x: x(ago), y: HEIGHT - 6 },
      ago ? `${ago / 60} min ago` : "now",
    ),
  );
}

function area(points, x, y) {
  if (points.length < 2) return [];
  const line = points.map(([ago, value]) => `${x(ago).toFixed(1)} ${y(value).toFixed(1)}`).join("L");
  const floor = y(0).toFixed(1);
  const closed = `M${x(points[0][0]).toFixed(1)} ${floor}L${line}L${x(points.at(-1)[0]).toFixed(1)} ${floor}Z`;
  return [element("path", { class: "area", d: closed }), element("path", { class: "line", d: `M${line}` })];
}
