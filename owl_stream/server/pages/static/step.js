/** A global step over all ranks: what each costs, so how long each waits for the dearest. */

import { Controls, keyHints, onKeys } from "./controls.js";
import { element } from "./element.js";
import { masthead } from "./masthead.js";
import { count, percent, whole } from "./numbers.js";
import { Place } from "./place.js";
import { dataset, json } from "./server.js";

const MOST_LISTED = 512;

const main = document.querySelector("main");
let at = Place.of(new URL(location.href));
let controls = null;
let loading = new AbortController();

function go(place) {
  if (place === null) return;
  history.pushState(null, "", place.stepHref);
  at = place;
  show();
}

async function show() {
  loading.abort();
  loading = new AbortController();
  const { signal } = loading;
  const focused = document.activeElement?.id;
  main.setAttribute("aria-busy", "true");
  masthead([at.dataset, at.with({ epoch: 0, step: 0 }).stepHref], [`Step ${at.epoch}/${at.step}`, at.stepHref]);
  try {
    const facts = await json(`${dataset(at.dataset)}?world_size=${at.worldSize}`, signal);
    controls = new Controls(at, facts, go, { ranks: false });
    const step = await json(`${dataset(at.dataset)}/steps/${at.epoch}/${at.step}?${at.deal}`, signal);
    main.replaceChildren(heading(facts, step), controls.element, ...stepElements(step));
  } catch (error) {
    if (signal.aborted) return;
    const trouble = element("p", { class: "trouble", role: "alert" }, error.message);
    main.replaceChildren(element("h1", {}, "Global step"), controls?.element ?? "", trouble);
  }
  main.setAttribute("aria-busy", "false");
  if (focused) document.getElementById(focused)?.focus();
}

function heading(facts, { pool }) {
  const kind = {
    image: "rows with images only",
    video: "rows with videos only",
    image_video: "rows with images and videos only",
    text: "rows of text only",
    all: "rows of all kinds",
  }[pool];
  return element(
    "div",
    { class: "title" },
    element("h1", {}, `Global step ${whole(at.step)}`),
    element("p", { class: "muted" }, `${facts.name} · ${facts.layout} · epoch ${at.epoch} · ${kind}`),
  );
}

function stepElements({ rows, fillers, supervised_tokens: supervised, deal }) {
  const tokens = rows.reduce((sum, row) => sum + row.text_tokens, fillers);
  const dearest = Math.max(...deal.rank_costs);
  const mean = deal.rank_costs.reduce((sum, cost) => sum + cost, 0) / deal.rank_costs.length;
  const facts = [
    ["rows", fillers ? `${whole(rows.length)} and ${count(fillers, "filler")}` : whole(rows.length)],
    ["supervised tokens", whole(supervised)],
    ["vision tokens", whole(rows.reduce((sum, row) => sum + row.vision_tokens, 0))],
    ["not padding", percent(tokens / deal.padded_tokens)],
    ["ranks busy", percent(mean / dearest)],
  ];
  return [
    element(
      "dl",
      { class: "summary" },
      facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
    ),
    keyHints([[["←", "→"], "step"], [["Enter"], "on a bar: inspect the micro-batch"]]),
    bars(rows, deal, dearest, mean),
    listing(rows, deal),
  ];
}

/** A bar per rank, made of its micro-batches, each of its text's and its pictures' cost. */
function bars(rows, deal, dearest, mean) {
  const ranks = deal.rank_costs.map((cost, rank) =>
    element(
      "li",
      { class: cost === dearest ? "dearest" : "" },
      element("span", { class: "name" }, `rank ${rank}`),
      element("span", { class: "bar", vars: { share: cost / dearest } }, micros(rows, deal, rank)),
      element("span", { class: "cost" }, whole(cost), cost === dearest && element("span", { class: "tag" }, "dearest")),
    ),
  );
  const { text_token: text, vision_token: vision } = deal.weights;
  return element(
    "section",
    { class: "card ranks", "aria-labelledby": "costs" },
    element("h2", { id: "costs" }, "Cost per rank"),
    element(
      "p",
      { class: "muted" },
      `A token of text, padding included, costs ${whole(text)}, a vision token ${whole(vision)}. All ranks wait for the dearest; the line is the mean.`,
    ),
    element("ul", { class: "bars", vars: { mean: mean / dearest } }, ranks),
    element(
      "div",
      { class: "legend" },
      element("span", {}, element("span", { class: "dot text" }), " text"),
      element("span", {}, element("span", { class: "dot vision" }), " pictures"),
    ),
  );
}

function micros(rows, deal, rank) {
  return deal.rows[rank].map((places, micro) => {
    const cost = deal.micro_costs[rank][micro];
    const tokens = places.reduce((sum, place) => sum + (place < 0 ? 0 : rows[place].vision_tokens), 0);
    const vision = Math.min(1, (tokens * deal.weights.vision_token) / Math.max(cost, 1));
    const says = `Rank ${rank}, micro-batch ${micro}: cost ${whole(cost)}, ${count(tokens, "vision token")}`;
    return element("a", {
      class: "micro", href: at.with({ rank, micro }).href, title: says, "aria-label": says, vars: { n: cost, vision },
    });
  });
}

function listing(rows, deal) {
  const dealt = new Map();
  deal.rows.forEach((micros, rank) =>
    micros.forEach((places, micro) => places.forEach((place) => dealt.set(place, [rank, micro]))),
  );
  const lines = rows.slice(0, MOST_LISTED).map((row, place) => {
    const [rank, micro] = dealt.get(place) ?? [0, 0];
    const link = element("a", { href: at.with({ rank, micro }).href }, `${rank} / ${micro}`);
    const cell = (label, ...content) => element("td", { "data-label": label }, content);
    return element(
      "tr",
      {},
      cell("rank / micro", link),
      cell("key", element("code", {}, row.key)),
      cell("shard", element("code", {}, row.shard), ` @ ${whole(row.offset)}`),
      cell("tokens", whole(row.text_tokens)),
      cell("supervised", whole(row.supervised_tokens)),
      cell("units", whole(row.units)),
    );
  });
  const heads = ["rank / micro", "key", "shard @ byte", "tokens", "supervised", "units"];
  return element(
    "section",
    { class: "card", "aria-labelledby": "samples" },
    element("h2", { id: "samples" }, "Samples, longest text first"),
    rows.length > MOST_LISTED && element("p", { class: "muted" }, `The first ${MOST_LISTED} of ${whole(rows.length)}.`),
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, heads.map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, lines),
    ),
  );
}

onKeys((key) => {
  const by = { ArrowLeft: -1, p: -1, ArrowRight: 1, n: 1 }[key];
  if (controls === null || by === undefined) return false;
  go(controls.step(by));
  return true;
});

window.addEventListener("popstate", () => {
  at = Place.of(new URL(location.href));
  show();
});

show();
