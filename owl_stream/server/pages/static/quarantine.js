/** Every sample that was found bad at indexing, with its place and reason. */

import { element } from "./element.js";
import { masthead } from "./masthead.js";
import { count, whole } from "./numbers.js";
import { dataset, json } from "./server.js";

const PER_PAGE = 100;

const main = document.querySelector("main");
const url = new URL(location.href);
const name = decodeURIComponent(url.pathname.split("/")[2]);
const reason = url.searchParams.get("reason") ?? "";
const offset = Math.max(0, Number.parseInt(url.searchParams.get("offset") ?? "0", 10) || 0);

const here = (changes) => {
  const asked = new URLSearchParams({ ...(reason && { reason }), ...changes });
  return `/quarantine/${encodeURIComponent(name)}?${asked}`;
};

async function show() {
  masthead([name, `/inspect/${encodeURIComponent(name)}/0/0?world_size=1`], ["Quarantine", here({})]);
  const asked = new URLSearchParams({ reason, offset, limit: PER_PAGE });
  const found = await json(`${dataset(name)}/quarantine?${asked}`);
  const total = reason ? (found.reasons[reason] ?? 0) : found.quarantined;
  main.replaceChildren(
    element(
      "div",
      { class: "title" },
      element("h1", {}, "Quarantine"),
      element("p", { class: "muted" }, `${name} · ${count(found.quarantined, "finding")} at indexing, none of which is ever planned`),
    ),
    filters(found.reasons),
    found.samples.length ? table(found.samples) : element("p", { class: "empty" }, "Nothing here."),
    pages(total),
  );
}

function filters(reasons) {
  const link = (text, chosen, to) =>
    element("li", {}, element("a", { class: "filter", href: to, "aria-current": chosen && "true" }, text));
  return element(
    "ul",
    { class: "filters", "aria-label": "Reasons" },
    link("all", !reason, `/quarantine/${encodeURIComponent(name)}`),
    Object.entries(reasons).map(([word, number]) =>
      link(`${word} ${whole(number)}`, word === reason, here({ reason: word })),
    ),
  );
}

function table(samples) {
  const heads = ["reason", "shard", "key", "member", "byte", "what was found"];
  const cell = (label, ...content) => element("td", { "data-label": label }, content);
  const lines = samples.map((bad) =>
    element(
      "tr",
      {},
      cell("reason", element("span", { class: "chip masked" }, bad.reason)),
      cell("shard", element("code", {}, bad.shard)),
      cell("key", bad.key ? element("code", {}, bad.key) : "the shard itself"),
      cell("member", element("code", {}, bad.member)),
      cell("byte", bad.offset >= 0 ? whole(bad.offset) : ""),
      cell("what was found", bad.detail),
    ),
  );
  return element(
    "section",
    { class: "card" },
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, heads.map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, lines),
    ),
  );
}

function pages(total) {
  if (total <= PER_PAGE && !offset) return "";
  const link = (text, to) => element("a", { href: here({ offset: to }) }, text);
  return element(
    "nav",
    { class: "pages", "aria-label": "Pages" },
    offset > 0 && link("Previous", Math.max(0, offset - PER_PAGE)),
    `${whole(offset + 1)} to ${whole(Math.min(total, offset + PER_PAGE))} of ${whole(total)}`,
    offset + PER_PAGE < total && link("Next", offset + PER_PAGE),
  );
}

show().catch((error) => {
  main.replaceChildren(element("h1", {}, "Quarantine"), element("p", { class: "trouble", role: "alert" }, error.message));
});
