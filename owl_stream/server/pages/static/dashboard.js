/** The dashboard: the running server, asked once a second while somebody looks. */

import { Chart } from "./chart.js";
import { element } from "./element.js";
import { masthead } from "./masthead.js";
import { bytes, count, duration, percent, short, whole } from "./numbers.js";
import { Place } from "./place.js";
import { json } from "./server.js";
import { Rates } from "./rates.js";

const EVERY_MS = 1000;
const NOW_S = 5;
const SMOOTHED_S = 3;
const MEASURES = {
  nbytes: ["Throughput", (value) => `${bytes(value)}/s`, 1024],
  rows: ["Samples", (value) => `${short(value)} /s`, 1000],
  batches: ["Batches", (value) => `${short(value)} /s`, 1000],
};

const main = document.querySelector("main");
const rates = new Rates(NOW_S);
const chart = new Chart("Throughput");
const boxes = {};
let measure = "nbytes";
let since = 0;
let began = null;
let samples = [];

function build() {
  const box = (name, tag = "div") => (boxes[name] = element(tag, { class: name }));
  const card = (title, id, ...content) =>
    element("section", { class: "card", "aria-labelledby": id }, element("h2", { id }, title), content);
  main.replaceChildren(
    element("div", { class: "title" }, element("h1", {}, "Dashboard"), box("state", "p")),
    box("tiles", "dl"),
    box("advice", "p"),
    card("Last ten minutes", "history", measures(), chart.box),
    card("Live streams", "live", box("streams")),
    card("Datasets", "data", box("datasets")),
    card("Bad samples", "bad", box("reasons"), box("assembly")),
  );
}

function measures() {
  const options = Object.entries(MEASURES).map(([name, [word]]) =>
    element(
      "label",
      {},
      element("input", { type: "radio", name: "measure", value: name, on: { change: () => choose(name) } }),
      element("span", {}, word),
    ),
  );
  options[0].firstChild.checked = true;
  return element("div", { class: "measures", role: "radiogroup", "aria-label": "What the chart shows" }, options);
}

function choose(name) {
  measure = name;
  chart.name = MEASURES[name][0];
  drawChart();
}

async function ask() {
  if (document.hidden) return;
  try {
    const seen = await json(`/pages/overview?since=${since}`);
    if (began !== null && seen.uptime_s < began) samples = []; // Another run of the server.
    began = seen.uptime_s;
    since = seen.history.next;
    samples = [...samples, ...seen.history.samples.map((values) => named(seen.history.fields, values))].slice(-601);
    rates.note(seen);
    show(seen);
  } catch (error) {
    since = 0;
    samples = [];
    boxes.state.replaceChildren(element("span", { class: "chip masked" }, "no answer"), ` ${error.message}`);
  }
}

const named = (fields, values) => Object.fromEntries(fields.map((field, n) => [field, values[n]]));

function show(seen) {
  const states = new Set(seen.datasets.map((dataset) => dataset.status));
  const failures = Object.entries(seen.failures);
  const failed = states.has("failed") || failures.length > 0;
  const state = seen.draining ? "stopping" : failed ? "failed" : states.has("indexing") ? "indexing" : "ok";
  boxes.state.replaceChildren(
    element("span", { class: `chip ${state}` }, state),
    element("span", { class: "muted" }, ` version ${seen.version} · up ${duration(seen.uptime_s)}`),
    ...failures.map(([what, why]) => element("span", { class: "trouble" }, ` ${what}: ${why}`)),
  );
  replace(boxes.tiles, tiles(seen));
  boxes.advice.textContent = seen.advice;
  replace(boxes.streams, [streamsElement(seen)]);
  replace(boxes.datasets, seen.datasets.map(datasetElement));
  replace(boxes.reasons, reasonsElements(seen.datasets));
  replace(boxes.assembly, maskedElements(seen));
  drawChart();
}

/** Put new content in place, unless nothing changed or something inside has the focus of a keyboard. */
function replace(box, content) {
  const next = element("div", {}, content);
  const old = element("div", {}, ...[...box.childNodes].map((node) => node.cloneNode(true)));
  if (next.isEqualNode(old)) return;
  const held = box.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  box.replaceChildren(...next.childNodes);
  if (held) [...box.querySelectorAll("a")].find((link) => link.getAttribute("href") === held)?.focus();
}

/** What grew between two samples, per second. */
function perSecond(name, from, to) {
  return to && from && to.at_s > from.at_s ? (to[name] - from[name]) / (to.at_s - from.at_s) : 0;
}

function tiles({ streams, engine }) {
  const now = samples.at(-1);
  const before = samples[Math.max(0, samples.length - 1 - NOW_S)];
  const oldest = samples[0];
  const grew = (name) => (now && oldest ? now[name] - oldest[name] : 0);
  const cells = grew("tokens") + grew("padding");
  const facts = [
    ["throughput", `${bytes(perSecond("nbytes", before, now))}/s`, `${bytes(now?.nbytes ?? 0)} sent in all`],
    ["samples", `${short(perSecond("rows", before, now))}/s`, `${count(now?.batches ?? 0, "batch", "batches")} in all`],
    ["streams", whole(streams.length), `${engine.busy} of ${count(engine.workers, "worker")} busy, ${engine.queued} queued`],
    ["padding efficiency", cells ? percent(grew("tokens") / cells) : "–", "real tokens, last ten minutes"],
  ];
  return facts.map(([name, value, more]) =>
    element("div", { class: "tile" }, element("dt", {}, name), element("dd", {}, value), element("dd", { class: "muted" }, more)),
  );
}

function drawChart() {
  const now = samples.at(-1)?.at_s ?? 0;
  const points = samples.slice(1).map((sample, n) => {
    const before = samples[Math.max(0, n + 1 - SMOOTHED_S)];
    return [now - sample.at_s, perSecond(measure, before, sample)];
  });
  chart.show(points, ...MEASURES[measure].slice(1));
}

function streamsElement({ streams, datasets }) {
  if (!streams.length) return element("p", { class: "empty" }, "No trainer is reading now.");
  const steps = Object.fromEntries(datasets.map(({ name, steps_per_epoch: number }) => [name, number]));
  const heads = ["stream", "dataset", "rank", "cursor", "rate", "slower side"];
  return element(
    "table",
    {},
    element("thead", {}, element("tr", {}, heads.map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, streams.map((stream) => streamElement(stream, steps[stream.dataset]))),
  );
}

function streamElement(stream, steps) {
  const rate = rates.of(stream);
  const place = new Place({
    ...stream, worldSize: stream.world_size, microBatchSize: stream.micro_batch_size,
  });
  const cell = (label, classes, ...content) => element("td", { "data-label": label, class: classes }, content);
  return element(
    "tr",
    { "data-stream": stream.number },
    cell("stream", "number", `#${stream.number} `, stream.reader && element("span", { class: "muted" }, stream.reader)),
    cell("dataset", "", stream.dataset),
    cell("rank", "", `${stream.rank} of ${stream.world_size}`),
    cell(
      "cursor",
      "cursor",
      element("a", { href: place.href }, `${stream.epoch} / ${stream.step} / ${stream.micro}`),
      element("span", { class: "meter", "aria-hidden": "true", vars: { share: (stream.step + 1) / steps } }),
    ),
    cell("rate", "", `${short(rate.batches)} batches/s`, element("span", { class: "muted" }, ` ${bytes(rate.nbytes)}/s`)),
    cell("slower side", "side", slowerSide(stream.slower, rate)),
  );
}

/** Who waits for whom: the share of the last seconds that each side kept the other waiting. */
function slowerSide(side, { server, trainer }) {
  const says = `the server kept the trainer waiting ${percent(server)} of the time, the trainer the server ${percent(trainer)}`;
  return element(
    "span",
    { title: says },
    element("span", { class: "balance", "aria-hidden": "true", vars: { server, trainer } }),
    element("span", {}, side),
  );
}

function datasetElement({ name, status, progress, error, ...facts }) {
  const path = encodeURIComponent(name);
  const shown = status === "ready" && [
    ["samples", whole(facts.samples)],
    ["quarantined", element("a", { href: `/quarantine/${path}` }, whole(facts.quarantined))],
    ["steps per epoch", whole(facts.steps_per_epoch)],
    ["global batch", whole(facts.global_batch_size)],
    ["layout", facts.layout],
  ];
  return element(
    "article",
    { class: "dataset" },
    element("h3", {}, name, " ", element("span", { class: `chip ${status}` }, status)),
    status === "indexing" && progressElement(progress),
    error && element("p", { class: "trouble" }, error),
    shown && element("dl", {}, shown.map(([key, value]) => element("div", {}, element("dt", {}, key), element("dd", {}, value)))),
    facts.notes?.length > 0 && notesElement(facts.notes),
    shown && element("p", { class: "fingerprint" }, element("span", { class: "muted" }, "fingerprint "), element("code", {}, facts.fingerprint)),
    shown &&
      element(
        "p",
        { class: "actions" },
        element("a", { href: `/inspect/${path}/0/0/0?world_size=1` }, "Inspect batches"),
        element("a", { href: `/inspect/${path}/0/0?world_size=1` }, "Global steps"),
      ),
  );
}

/** What is worth telling about good samples: a field that was not used, an image put in front. */
function notesElement(notes) {
  return element("ul", { class: "notes" }, notes.map((text) => element("li", {}, text)));
}

function progressElement(progress) {
  return element(
    "p",
    { class: "indexing" },
    element("span", { class: "meter", role: "progressbar", "aria-label": "bytes indexed", "aria-valuenow": Math.round(100 * progress), vars: { share: progress } }),
    ` ${percent(progress)} of its bytes indexed`,
  );
}

function reasonsElements(datasets) {
  const found = datasets.flatMap(({ name, reasons = {} }) => Object.entries(reasons).map(([reason, number]) => ({ name, reason, number })));
  const most = Math.max(1, ...found.map(({ number }) => number));
  if (!found.length) return [element("h3", {}, "Found at indexing"), element("p", { class: "empty" }, "None.")];
  const items = found.map(({ name, reason, number }) =>
    element(
      "li",
      {},
      element("a", { href: `/quarantine/${encodeURIComponent(name)}?reason=${encodeURIComponent(reason)}` }, reason),
      element("span", { class: "meter", "aria-hidden": "true", vars: { share: number / most } }),
      element("span", {}, whole(number)),
      element("span", { class: "muted" }, name),
    ),
  );
  return [element("h3", {}, "Found at indexing, never planned"), element("ul", { class: "counts" }, items)];
}

function maskedElements({ datasets, masked }) {
  const title = element("h3", {}, "Masked at assembly");
  if (!masked.length) return [title, element("p", { class: "empty" }, "None since the server began.")];
  const rows = datasets.flatMap(({ name, masked: reasons = {} }) =>
    Object.entries(reasons).map(([reason, number]) => `${count(number, "row")} of ${name} for ${reason}`),
  );
  const items = masked.map((bad) => {
    const place = new Place({ ...bad, worldSize: bad.world_size, microBatchSize: bad.micro_batch_size });
    return element(
      "li",
      {},
      element("a", { href: place.href }, `step ${bad.epoch}/${bad.step}, rank ${bad.rank}`),
      element("span", { class: "chip masked" }, bad.reason),
      element("code", {}, `${bad.shard} ${bad.member || bad.key}${bad.offset >= 0 ? ` @ ${whole(bad.offset)}` : ""}`),
      element("span", { class: "detail muted" }, bad.detail),
    );
  });
  return [title, element("p", { class: "muted" }, rows.join(", ")), element("ul", { class: "findings" }, items)];
}

async function run() {
  masthead();
  build();
  for (;;) {
    await ask();
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

run();
