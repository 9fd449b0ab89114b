/** What stands at the top of every page: where one is, and the choice of theme. */

import { element } from "./element.js";

const THEMES = ["system", "light", "dark"];

/** Fill the page's header. `trail`: [text, href] of the places above this page, the last one being this page. */
export function masthead(...trail) {
  const header = document.querySelector("header.masthead");
  const places = [["Dashboard", "/"], ...trail];
  const crumbs = places.map(([text, href], at) =>
    element("li", {}, element("a", { href, "aria-current": at === places.length - 1 && "page" }, text)),
  );
  header.replaceChildren(
    element("a", { class: "skip", href: "#content" }, "Skip to content"),
    element("a", { class: "brand", href: "/" }, element("span", { class: "owl", "aria-hidden": "true" }), "owl-stream"),
    element("nav", { "aria-label": "Where you are" }, element("ol", {}, crumbs)),
    themeButton(),
  );
  document.title = [...trail.map(([text]) => text).reverse(), "owl-stream"].join(" · ");
}

function themeButton() {
  const root = document.documentElement;
  const button = element("button", { type: "button", class: "theme" });
  const name = () => button.replaceChildren("Theme: ", root.dataset.theme ?? "system");
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "system") + 1) % THEMES.length];
    if (next === "system") {
      delete root.dataset.theme;
      localStorage.removeItem("theme");
    } else {
      root.dataset.theme = next;
      localStorage.setItem("theme", next);
    }
    name();
  });
  name();
  return button;
}
