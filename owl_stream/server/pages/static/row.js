/** One row of a batch: its tokens and units, which light each other up, what its tensors say, and where it came from. */

import { element } from "./element.js";
import { bytes, count, percent, whole } from "./numbers.js";
import { rove } from "./roving.js";

const STATUS = {
  masked:
    "This sample was found bad at assembly. Its place is kept: the same tokens and shape, but grey pictures and no " +
    "supervised token, so the loss does not see it.",
  repeated:
    "A good row of this global step, given a second time so that no micro-batch lacks a supervised token. It does not " +
    "count among the step's supervised tokens.",
  filler: "Completes the last step of its pool: one attended padding token and nothing to learn.",
};

/** The element of a row. `shown` has {text, whole, of} for each token; `origin` resolves to where the sample lies. */
export function rowElement(batch, row, shown, origin) {
  const readout = element("p", { class: "readout", role: "status" });
  const units = row.pictures.map((_, n) => unitElement(batch, row, n));
  const tokens = row.ids.map((_, t) => tokenElement(batch, row, t, shown[t]));
  const strip = stripElement(batch, row);
  const box = element(
    "article",
    { class: "row", id: `row-${row.number}`, "aria-labelledby": `name-${row.number}`, "data-status": row.info.status },
    heading(batch, row),
    explanation(row),
    element(
      "div",
      { class: "body" },
      unitsElement(batch, row, units),
      element(
        "div",
        { class: "reading" },
        tokensElement(row, tokens),
        row.padding > 0 && element("p", { class: "padding" }, element("span", {}, count(row.padding, "padding token"))),
        readout,
        strip,
      ),
    ),
    originElement(row, origin),
  );
  new Lights(batch, row, shown, { box, tokens, units, strip, readout });
  return box;
}

function heading(batch, row) {
  const { shard, key, status } = row.info;
  const facts = [count(row.tokens, "token"), `${whole(row.supervised)} supervised`, count(row.units.length, batch.unit)];
  return element(
    "header",
    {},
    element("h2", { id: `name-${row.number}` }, `Row ${row.number}`),
    element("span", { class: `chip ${status}` }, status),
    key && element("code", { class: "key" }, key),
    shard && element("code", { class: "shard" }, shard),
    element("span", { class: "facts" }, facts.join(" · ")),
  );
}

function explanation(row) {
  const { status, reason, replaces } = row.info;
  if (!(status in STATUS)) return null;
  return element(
    "div",
    { class: `explain ${status}` },
    element("p", {}, STATUS[status]),
    reason && element("p", {}, "Reason: ", element("code", { class: "reason" }, reason)),
    replaces && element("p", {}, "In place of ", element("code", {}, `${replaces[0]} ${replaces[1]}`)),
  );
}

const capital = (word) => word[0].toUpperCase() + word.slice(1);

function unitElement(batch, row, n) {
  const unit = row.firstUnit + n;
  const image = row.image(n);
  const canvas = element("canvas", { width: image.width, height: image.height, "aria-hidden": "true" });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return element(
    "div",
    { class: "unit", role: "option", "data-unit": unit, "aria-label": `${capital(batch.unit)} ${unit}, number ${n + 1} of the row` },
    canvas,
    element("span", { class: "number" }, String(unit)),
  );
}

function unitsElement(batch, row, units) {
  if (!units.length) return element("p", { class: "units none" }, "No images in this row.");
  const box = element("div", { class: "units", role: "listbox", "aria-label": `${capital(batch.unit)}s of row ${row.number}` }, units);
  rove(box, units);
  return box;
}

function tokenElement(batch, row, t, { text, whole: complete, of }) {
  const visible = row.visible(t);
  const repeats = row.repeats(t);
  const classes = ["token", row.isSupervised(t) && "supervised", !visible && "blind", !complete && "partial", repeats && "repeats"];
  const made = element("span", {
    class: classes.filter(Boolean).join(" "),
    role: "option",
    "data-token": t,
    "data-visible": visible,
    "aria-label": `${of || "nothing"}, token ${t}`,
    vars: { t: batch.mostVisible ? (visible / batch.mostVisible).toFixed(3) : 0 },
  });
  const begins = row.begins(t);
  if (begins !== null) made.append(element("span", { class: "mark", "aria-hidden": "true" }, String(begins)));
  made.append(...visibleText((!repeats && text) || "·"));
  return made;
}

/** Line ends as a sign and a line end. */
function visibleText(text) {
  return text.split(/(\n)/).map((part) => {
    if (part !== "\n") return document.createTextNode(part);
    return element("span", { class: "break" }, "↵\n");
  });
}

function tokensElement(row, tokens) {
  const box = element("div", { class: "tokens", role: "listbox", "aria-label": `Tokens of row ${row.number}` }, tokens);
  rove(box, tokens);
  return box;
}

/** What the tensors say along the row: one part for each run of tokens of which they say the same. */
function stripElement(batch, row) {
  const part = (tokens, classes, label, vars, title) =>
    element("span", { class: classes, title, vars: { n: tokens, ...vars } }, element("span", {}, label));
  const parts = row.stretches.map(({ begin, end, sees, says }) => {
    const scaled = batch.mostVisible ? (sees / batch.mostVisible).toFixed(3) : 0;
    const where = end - begin === 1 ? `token ${begin}` : `tokens ${begin} to ${end - 1}`;
    return part(end - begin, sees ? "stretch" : "stretch blind", says, { t: scaled }, `${where}: ${says}`);
  });
  if (row.padding) parts.push(part(row.padding, "stretch hatched", "", {}, count(row.padding, "padding token")));
  const needle = element("span", { class: "needle", hidden: true });
  return element(
    "div",
    { class: "offsets" },
    element("span", { class: "label" }, "the tensors say"),
    element("div", { class: "strip" }, parts, needle),
    element("span", { class: "label end" }, `${whole(batch.length)} tokens with padding`),
  );
}

function originElement(row, origin) {
  const box = element("footer", { class: "origin" });
  if (row.info.status === "filler") return box;
  box.append(element("span", { class: "muted" }, "Looking up where this row lies…"));
  const observer = new IntersectionObserver(async ([seen]) => {
    if (!seen.isIntersecting) return;
    observer.disconnect();
    try {
      box.replaceChildren(...originText(row, await origin()));
    } catch (error) {
      box.replaceChildren(element("span", { class: "trouble" }, error.message));
    }
  }, { rootMargin: "400px" });
  observer.observe(box);
  return box;
}

function originText(row, { offset, nbytes, members }) {
  const items = members.map((member) =>
    element(
      "li",
      {},
      element("code", {}, member.name),
      element("span", {}, ` @ ${whole(member.offset)}`),
      element("span", { class: "muted" }, ` ${bytes(member.nbytes)}`),
    ),
  );
  const span = `, bytes ${whole(offset)} to ${whole(offset + nbytes)}`;
  return [
    element("p", {}, element("code", {}, row.info.shard), span),
    element("ul", { "aria-label": "Members of the sample" }, items),
  ];
}

/** What lights up when: a token outlines exactly the units it sees, a unit the tokens that see it. */
class Lights {
  constructor({ unit }, row, shown, { box, tokens, units, strip, readout }) {
    Object.assign(this, { word: unit, row, shown, box, tokens, units, readout });
    this.needle = strip.querySelector(".needle");
    this.stretch = strip.querySelector(".strip");
    this.listen("token", (token) => this.token(Number(token.dataset.token)));
    this.listen("unit", (unit) => this.unit(Number(unit.dataset.unit)));
    this.stretch.addEventListener("pointermove", (event) => this.point(event));
    this.stretch.addEventListener("pointerleave", () => this.off());
    this.off();
  }

  listen(name, light) {
    const on = ({ target }) => {
      const found = target.closest(`.${name}`);
      if (found) light(found);
    };
    this.box.addEventListener("pointerover", on);
    this.box.addEventListener("focusin", on);
    this.box.addEventListener("pointerout", ({ target }) => target.closest(`.${name}`) && this.rest());
    this.box.addEventListener("focusout", () => this.off());
  }

  /** Back to what has the focus, or to nothing. */
  rest() {
    this.off();
    const focused = this.box.contains(document.activeElement) ? document.activeElement : null;
    if (focused?.dataset.token) this.token(Number(focused.dataset.token));
    else if (focused?.dataset.unit) this.unit(Number(focused.dataset.unit));
  }

  off() {
    delete this.box.dataset.lit;
    for (const item of [...this.tokens, ...this.units]) item.classList.remove("lit");
    this.needle.hidden = true;
    this.readout.textContent = this.row.units.length
      ? `Point at a token to see its ${this.word}s, or at one of these to see its tokens.`
      : "Point at a token to see what it is.";
  }

  token(t) {
    this.off();
    const [first, end] = this.row.sees(t);
    this.box.dataset.lit = "units";
    for (const unit of this.units) {
      const number = Number(unit.dataset.unit);
      unit.classList.toggle("lit", number >= first && number < end);
    }
    this.tokens[t].classList.add("lit");
    this.needle.hidden = false;
    this.needle.style.setProperty("--at", (t + 0.5) / (this.row.tokens + this.row.padding));
    this.readout.replaceChildren(...this.say(t, first, end));
  }

  say(t, first, end) {
    const { whole: complete, of } = this.shown[t];
    const several = end === first + 1 ? `sees ${this.word} ${first}` : `sees ${this.word}s ${first} to ${end - 1}`;
    const sees = end === first ? `sees no ${this.word}` : several;
    const facts = [
      ` token ${t}, id ${this.row.ids[t]}`,
      sees,
      this.row.says(t),
      this.row.isSupervised(t) ? "supervised" : "not supervised",
    ];
    if (!complete) facts.splice(1, 0, "part of these characters");
    return [element("code", {}, JSON.stringify(of)), facts.join(" · ")];
  }

  unit(number) {
    this.off();
    this.box.dataset.lit = "tokens";
    let seeing = 0;
    for (const [t, token] of this.tokens.entries()) {
      const [first, end] = this.row.sees(t);
      const sees = number >= first && number < end;
      token.classList.toggle("lit", sees);
      seeing += sees ? 1 : 0;
    }
    this.units[number - this.row.firstUnit].classList.add("lit");
    const share = this.row.tokens ? percent(seeing / this.row.tokens) : "0 %";
    this.readout.textContent = `${capital(this.word)} ${number} · seen by ${count(seeing, "token")} of ${whole(this.row.tokens)}, ${share}`;
  }

  point(event) {
    const box = this.stretch.getBoundingClientRect();
    const t = Math.floor(((event.clientX - box.left) / box.width) * (this.row.tokens + this.row.padding));
    if (t >= 0 && t < this.row.tokens) this.token(t);
    else this.off();
  }
}
