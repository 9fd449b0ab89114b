/** A line over the last minutes, ten at most, drawn as SVG; a pointer or the arrow keys read its values. */

import { element } from "./element.js";
import { duration } from "./numbers.js";

const SPANS_S = [60, 120, 300, 600];
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
    this.spanS = SPANS_S[0];
    this.box.addEventListener("pointermove", ({ clientX }) => this.choose(this.secondsAt(clientX)));
    this.box.addEventListener("pointerleave", () => this.choose(null));
    this.box.addEventListener("blur", () => this.choose(null));
    this.box.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: 5, ArrowRight: -5 }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      this.choose(Math.min(this.spanS, Math.max(0, (this.chosen ?? 0) + by)));
    });
    new ResizeObserver(() => this.draw()).observe(this.box);
  }

  show(points, say, base) {
    Object.assign(this, { points, say, base });
    // A server that has just begun fills the whole width with the little that there is.
    const oldest = points[0]?.[0] ?? 0;
    this.spanS = SPANS_S.find((span) => span >= oldest) ?? SPANS_S.at(-1);
    this.draw();
  }

  choose(seconds) {
    this.chosen = seconds;
    this.draw();
  }

  secondsAt(clientX) {
    const box = this.box.getBoundingClientRect();
    const width = box.width - MARGIN.left - MARGIN.right;
    return this.spanS * (1 - (clientX - box.left - MARGIN.left) / width);
  }

  draw() {
    const width = this.box.clientWidth;
    if (!width || !this.say) return;
    const top = niceTop(Math.max(0, ...this.points.map(([, value]) => value)), this.base);
    const x = (ago) => MARGIN.left + (1 - ago / this.spanS) * (width - MARGIN.left - MARGIN.right);
    const y = (value) => HEIGHT - MARGIN.bottom - (value / top) * (HEIGHT - MARGIN.top - MARGIN.bottom);
    const latest = this.points.at(-1)?.[1] ?? 0;
    this.box.setAttribute("aria-label", `${this.name} over the last ${duration(this.spanS)}; now ${this.say(latest)}`);
    const drawing = element(
      "svg",
      { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" },
      levels(top, width, y, this.say),
      times(width, x, this.spanS),
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
    this.tip.classList.toggle("left", ago < this.spanS / 2);
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

function times(width, x, spanS) {
  const parts = width < 500 ? 2 : 5;
  return Array.from({ length: parts + 1 }, (_, n) => {
    const ago = spanS * (1 - n / parts);
    const side = n === parts ? "last" : n === 0 ? "first" : "";
    return element("text", { class: `tick x ${side}`, x: x(ago), y: HEIGHT - 6 }, ago ? `${clock(ago)} ago` : "now");
  });
}

/** 90 is "1:30". */
const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.round(seconds % 60)).padStart(2, "0")}`;

function area(points, x, y) {
  if (points.length < 2) return [];
  const line = points.map(([ago, value]) => `${x(ago).toFixed(1)} ${y(value).toFixed(1)}`).join("L");
  const floor = y(0).toFixed(1);
  const closed = `M${x(points[0][0]).toFixed(1)} ${floor}L${line}L${x(points.at(-1)[0]).toFixed(1)} ${floor}Z`;
  return [element("path", { class: "area", d: closed }), element("path", { class: "line", d: `M${line}` })];
}
