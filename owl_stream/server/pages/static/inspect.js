/** The inspector: the very batch that a trainer gets for this place, row by row. */

import { Batch } from "./batch.js";
import { Controls, keyHints, onKeys } from "./controls.js";
import { element } from "./element.js";
import { masthead } from "./masthead.js";
import { bytes, count, percent, whole } from "./numbers.js";
import { Pieces } from "./pieces.js";
import { Place } from "./place.js";
import { rowElement } from "./row.js";
import { dataset, json } from "./server.js";

const main = document.querySelector("main");
let at = Place.of(new URL(location.href));
let controls = null;
let loading = new AbortController();
const pieces = new Pieces(at.dataset);

function go(place) {
  if (place === null) return;
  history.pushState(null, "", place.href);
  at = place;
  show();
}

async function show() {
  loading.abort();
  loading = new AbortController();
  const { signal } = loading;
  const focused = document.activeElement?.id;
  main.setAttribute("aria-busy", "true");
  masthead([at.dataset, at.with({ epoch: 0, step: 0 }).stepHref], [`Step ${at.epoch}/${at.step}`, at.stepHref], [
    `Rank ${at.rank}`,
    at.href,
  ]);
  try {
    const facts = await json(`${dataset(at.dataset)}?world_size=${at.worldSize}`, signal);
    controls = new Controls(at, facts, go, { ranks: true });
    const content = await batchElements(facts, signal);
    main.replaceChildren(heading(facts), controls.element, ...content);
  } catch (error) {
    if (signal.aborted) return;
    main.replaceChildren(
      element("h1", {}, "Inspector"),
      controls?.element ?? "",
      element("p", { class: "trouble", role: "alert" }, error.message),
    );
  }
  main.setAttribute("aria-busy", "false");
  if (focused) document.getElementById(focused)?.focus();
}

function heading(facts) {
  const links = element("a", { href: at.stepHref }, "This global step over all ranks");
  return element(
    "div",
    { class: "title" },
    element("h1", {}, `Step ${whole(at.step)}, rank ${at.rank} of ${at.worldSize}`),
    element("p", { class: "muted" }, `${facts.name} · ${facts.layout} · epoch ${at.epoch} · micro-batch ${at.micro} · `, links),
  );
}

async function batchElements(facts, signal) {
  const root = dataset(at.dataset);
  const asked = `?rank=${at.rank}&${at.deal}`;
  const place = at;
  const batch = new Batch(await json(`${root}/looks/${at.epoch}/${at.step}/${at.micro}${asked}`, signal));
  await pieces.learn(batch.rows.flatMap((row) => row.ids), signal);
  const step = json(`${root}/steps/${place.epoch}/${place.step}?${place.deal}`, signal);
  step.catch(() => {}); // Whoever shows an origin says what went wrong.
  const rows = batch.rows.map((row) =>
    rowElement(batch, row, pieces.read(row.ids), () => origin(root, place, step, row.info)),
  );
  return [summary(batch), legend(batch), keyHints(hints()), ...rows];
}

/** Where a row's sample lies; a repeated row's is another one of the same step. */
async function origin(root, place, step, { shard, key }) {
  const { rows } = await step;
  const found = rows.findIndex((row) => row.shard === shard && row.key === key);
  if (found < 0) throw new Error(`sample ${key} of ${shard} is not in this step's plan`);
  const members = await json(`${root}/members/${place.epoch}/${place.step}/${found}`);
  return { ...rows[found], members };
}

function summary({ rows, length, nbytes, units, unit, tensors, ...header }) {
  const cells = rows.length * length;
  const facts = [
    ["rows", whole(rows.length)],
    ["tokens", `${whole(header.attended_tokens)} of ${whole(cells)}`],
    ["not padding", percent(header.attended_tokens / cells)],
    ["supervised", `${whole(header.supervised_tokens)} of the step's ${whole(header.step_supervised_tokens)}`],
    [`${unit}s`, whole(units)],
    ["vision tokens", whole(header.vision_tokens)],
    ["frame", bytes(nbytes)],
  ];
  return element(
    "dl",
    { class: "summary" },
    facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
}

function legend({ mostVisible, unit }) {
  const steps = Math.min(mostVisible, 6);
  const levels = Array.from({ length: steps + 1 }, (_, n) => (steps ? Math.round((n * mostVisible) / steps) : 0));
  const swatches = levels.map((visible) =>
    element(
      "span",
      { class: visible ? "swatch" : "swatch blind", vars: { t: mostVisible ? (visible / mostVisible).toFixed(3) : 0 } },
      String(visible),
    ),
  );
  return element(
    "div",
    { class: "legend" },
    element("span", {}, "A token sees ", element("span", { class: "scale" }, swatches), mostVisible === 1 ? ` ${unit}` : ` ${unit}s`),
    element("span", {}, element("span", { class: "sample supervised" }, "supervised")),
    element("span", {}, element("span", { class: "sample hatched" }, "padding")),
    element("span", {}, element("span", { class: "mark" }, "3"), ` ${unit} 3 begins`),
  );
}

function hints() {
  return [
    [["←", "→"], "step"],
    [["r", "R"], "next, previous rank"],
    [["m", "M"], "next, previous micro-batch"],
    [["g"], "global step"],
    [["Tab", "← → ↑ ↓"], "into a row, along its tokens"],
  ];
}

onKeys((key) => {
  if (controls === null) return false;
  const moves = {
    ArrowLeft: () => controls.step(-1),
    ArrowRight: () => controls.step(1),
    p: () => controls.step(-1),
    n: () => controls.step(1),
    r: () => controls.rank(1),
    R: () => controls.rank(-1),
    m: () => controls.micro(1),
    M: () => controls.micro(-1),
  };
  if (key === "g") location.assign(at.stepHref);
  else if (key in moves) go(moves[key]());
  else return false;
  return true;
});

window.addEventListener("popstate", () => {
  at = Place.of(new URL(location.href));
  show();
});

show();
