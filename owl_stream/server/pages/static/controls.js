/** Where in the plan one is: steppers, the deal, and the keys that move. */

import { element } from "./element.js";
import { whole } from "./numbers.js";

/** What moves where. `at` is the Place, `facts` the dataset's, `go` is told a new Place (null stays). */
export class Controls {
  constructor(at, facts, go, { ranks }) {
    Object.assign(this, { at, facts, go, ranks });
    this.size = at.microBatchSize || Math.max(1, Math.floor(facts.global_batch_size / at.worldSize));
    this.micros = Math.max(1, Math.floor(facts.global_batch_size / (at.worldSize * this.size)));
  }

  step(by) {
    return this.at.stepped(by, this.facts.steps_per_epoch);
  }

  rank(by) {
    const rank = this.at.rank + by;
    return rank >= 0 && rank < this.at.worldSize ? this.at.with({ rank }) : null;
  }

  micro(by) {
    const micro = this.at.micro + by;
    return micro >= 0 && micro < this.micros ? this.at.with({ micro }) : null;
  }

  get element() {
    const { at, facts } = this;
    return element(
      "form",
      { class: "controls", "aria-label": "Place in the plan", on: { submit: (event) => event.preventDefault() } },
      this.stepper("epoch", null, (epoch) => at.with({ epoch, micro: 0 }), (by) => this.other("epoch", by)),
      this.stepper("step", facts.steps_per_epoch, (step) => at.with({ step, micro: 0 }), (by) => this.step(by)),
      this.ranks && this.stepper("rank", at.worldSize, (rank) => at.with({ rank }), (by) => this.rank(by)),
      this.ranks && this.stepper("micro", this.micros, (micro) => at.with({ micro }), (by) => this.micro(by)),
      this.choice("world size", facts.world_sizes, at.worldSize, (worldSize) =>
        at.with({ worldSize, microBatchSize: 0, micro: 0, rank: Math.min(at.rank, worldSize - 1) }),
      ),
      this.choice("micro-batch size", facts.sizes, this.size, (microBatchSize) =>
        at.with({ microBatchSize, micro: 0 }),
      ),
    );
  }

  other(name, by) {
    return this.at[name] + by >= 0 ? this.at.with({ [name]: this.at[name] + by, micro: 0 }) : null;
  }

  stepper(name, total, jump, move) {
    const input = element("input", {
      id: `at-${name}`, type: "number", inputmode: "numeric", min: 0, max: total === null ? null : total - 1,
      value: this.at[name],
      on: { change: () => input.value !== "" && this.go(jump(Math.max(0, Math.floor(Number(input.value))))) },
    });
    const button = (by, sign, word) =>
      element(
        "button",
        { type: "button", "aria-label": `${word} ${name}`, disabled: !move(by), on: { click: () => this.go(move(by)) } },
        sign,
      );
    return element(
      "div",
      { class: "stepper" },
      element("label", { for: `at-${name}` }, name),
      element("span", { class: "field" }, button(-1, "‹", "Previous"), input, button(1, "›", "Next")),
      element("span", { class: "of" }, total === null ? "" : `of ${whole(total)}`),
    );
  }

  choice(name, values, chosen, jump) {
    const id = `at-${name.replaceAll(" ", "-")}`;
    const all = values.includes(chosen) ? values : [chosen, ...values];
    const options = all.map((value) => element("option", { value, selected: value === chosen }, String(value)));
    const select = element("select", { id, on: { change: () => this.go(jump(Number(select.value))) } }, options);
    return element("div", { class: "choice" }, element("label", { for: id }, name), select);
  }
}

/** Keys and what they do, as [keys, meaning]; shown on the page. */
export function keyHints(hints) {
  const shown = hints.map(([keys, meaning]) =>
    element("li", {}, keys.map((key) => element("kbd", {}, key)), ` ${meaning}`),
  );
  return element("ul", { class: "keys", "aria-label": "Keyboard" }, shown);
}

/** Call `act` for keys that are pressed outside of fields and of things that use arrows themselves. */
export function onKeys(act) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.closest("input, select, textarea")) return;
    if (act(event.key)) event.preventDefault();
  });
}
