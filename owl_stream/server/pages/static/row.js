/** One row of a batch: its tokens and crops, which light each other up, its offsets, and where it came from. */

import { element } from "./element.js";
import { bytes, count, percent, whole } from "./numbers.js";
import { rove } from "./roving.js";

const STATUS = {
  masked:
    "This sample was found bad at assembly. Its place is kept: the same tokens, offsets and shape, but grey crops and no " +
    "supervised token, so the loss does not see it.",
  repeated:
    "A good row of this global step, given a second time so that no micro-batch lacks a supervised token. It does not " +
    "count among the step's supervised tokens.",
  filler: "Completes the last step of its pool: one attended padding token and nothing to learn.",
};

/** The element of a row. `shown` has {text, whole, of} for each token; `origin` resolves to where the sample lies. */
export function rowElement(batch, row, shown, origin) {
  const readout = element("p", { class: "readout", role: "status" });
  const crops = Array.from({ length: row.crops }, (_, n) => cropElement(batch, row, n));
  const tokens = row.ids.map((_, t) => tokenElement(batch, row, t, shown[t]));
  const strip = stripElement(batch, row);
  const box = element(
    "article",
    { class: "row", id: `row-${row.number}`, "aria-labelledby": `name-${row.number}`, "data-status": row.info.status },
    heading(row),
    explanation(row),
    element(
      "div",
      { class: "body" },
      cropsElement(row, crops),
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
  new Lights(row, shown, { box, tokens, crops, strip, readout });
  return box;
}

function heading(row) {
  const { shard, key, status } = row.info;
  const facts = [count(row.tokens, "token"), `${whole(row.supervised)} supervised`, count(row.crops, "crop")];
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

function cropElement(batch, row, n) {
  const crop = row.firstCrop + n;
  const image = batch.image(crop);
  const canvas = element("canvas", { width: image.width, height: image.height, "aria-hidden": "true" });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return element(
    "div",
    { class: "crop", role: "option", "data-crop": crop, "aria-label": `Crop ${crop}, number ${n + 1} of the row` },
    canvas,
    element("span", { class: "number" }, String(crop)),
  );
}

function cropsElement(row, crops) {
  if (!crops.length) return element("p", { class: "crops none" }, "No images in this row.");
  const box = element("div", { class: "crops", role: "listbox", "aria-label": `Crops of row ${row.number}` }, crops);
  rove(box, crops);
  return box;
}

function tokenElement(batch, row, t, { text, whole: complete, of }) {
  const visible = row.visible(t);
  const classes = ["token", row.isSupervised(t) && "supervised", !visible && "blind", !complete && "partial"];
  const made = element("span", {
    class: classes.filter(Boolean).join(" "),
    role: "option",
    "data-token": t,
    "data-visible": visible,
    "aria-label": `${of || "nothing"}, token ${t}`,
    vars: { t: batch.mostVisible ? (visible / batch.mostVisible).toFixed(3) : 0 },
  });
  if (row.starts.includes(t)) made.append(element("span", { class: "mark", "aria-hidden": "true" }, markOf(row, t)));
  made.append(...visibleText(text || "·"));
  return made;
}

const markOf = (row, t) => String(row.firstCrop + row.starts.indexOf(t));

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

/** `media_offset` along the row: one part for each stretch of equal entries, as long as it has tokens. */
function stripElement(batch, row) {
  const part = (tokens, classes, label, vars, title) =>
    element("span", { class: classes, title, vars: { n: tokens, ...vars } }, element("span", {}, label));
  const parts = row.stretches.map(({ from, tokens, end, says }) => {
    const visible = end - row.firstCrop;
    const scaled = batch.mostVisible ? (visible / batch.mostVisible).toFixed(3) : 0;
    const where = tokens === 1 ? `token ${from}` : `tokens ${from} to ${from + tokens - 1}`;
    return part(tokens, visible ? "stretch" : "stretch blind", says, { t: scaled }, `${where}: media_offset ${says}`);
  });
  if (row.padding) parts.push(part(row.padding, "stretch hatched", "", {}, count(row.padding, "padding token")));
  const needle = element("span", { class: "needle", hidden: true });
  return element(
    "div",
    { class: "offsets" },
    element("span", { class: "label" }, "media_offset"),
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

/** What lights up when: a token outlines exactly the crops it sees, a crop the tokens that see it. */
class Lights {
  constructor(row, shown, { box, tokens, crops, strip, readout }) {
    Object.assign(this, { row, shown, box, tokens, crops, readout });
    this.needle = strip.querySelector(".needle");
    this.stretch = strip.querySelector(".strip");
    this.listen("token", (token) => this.token(Number(token.dataset.token)));
    this.listen("crop", (crop) => this.crop(Number(crop.dataset.crop)));
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
    else if (focused?.dataset.crop) this.crop(Number(focused.dataset.crop));
  }

  off() {
    delete this.box.dataset.lit;
    for (const item of [...this.tokens, ...this.crops]) item.classList.remove("lit");
    this.needle.hidden = true;
    this.readout.textContent = this.row.crops
      ? "Point at a token to see its crops, or at a crop to see its tokens."
      : "Point at a token to see what it is.";
  }

  token(t) {
    this.off();
    const [first, end] = this.row.sees(t);
    this.box.dataset.lit = "crops";
    for (const crop of this.crops) {
      const number = Number(crop.dataset.crop);
      crop.classList.toggle("lit", number >= first && number < end);
    }
    this.tokens[t].classList.add("lit");
    this.needle.hidden = false;
    this.needle.style.setProperty("--at", (t + 0.5) / (this.row.tokens + this.row.padding));
    this.readout.replaceChildren(...this.say(t, first, end));
  }

  say(t, first, end) {
    const { whole: complete, of } = this.shown[t];
    const sees = end === first ? "sees no crop" : end === first + 1 ? `sees crop ${first}` : `sees crops ${first} to ${end - 1}`;
    const facts = [
      ` token ${t}, id ${this.row.ids[t]}`,
      sees,
      `media_offset ${this.row.offsets.says(t)}`,
      this.row.isSupervised(t) ? "supervised" : "not supervised",
    ];
    if (!complete) facts.splice(1, 0, "part of these characters");
    return [element("code", {}, JSON.stringify(of)), facts.join(" · ")];
  }

  crop(number) {
    this.off();
    this.box.dataset.lit = "tokens";
    let seeing = 0;
    for (const [t, token] of this.tokens.entries()) {
      const [first, end] = this.row.sees(t);
      const sees = number >= first && number < end;
      token.classList.toggle("lit", sees);
      seeing += sees ? 1 : 0;
    }
    this.crops[number - this.row.firstCrop].classList.add("lit");
    const share = this.row.tokens ? percent(seeing / this.row.tokens) : "0 %";
    this.readout.textContent = `Crop ${number} · seen by ${count(seeing, "token")} of ${whole(this.row.tokens)}, ${share}`;
  }

  point(event) {
    const box = this.stretch.getBoundingClientRect();
    const t = Math.floor(((event.clientX - box.left) / box.width) * (this.row.tokens + this.row.padding));
    if (t >= 0 && t < this.row.tokens) this.token(t);
    else this.off();
  }
}
