/** A batch as the server tells people of it: each row's tokens, what each of them sees, and pictures of its units. */

export class Batch {
  constructor(look) {
    Object.assign(this, look);
    this.length = Math.max(0, ...look.rows.map((row) => row.ids.length + row.padding));
    let first = 0;
    this.rows = look.rows.map((row, number) => {
      const made = new Row(row, number, first);
      first += made.units.length;
      return made;
    });
    this.mostVisible = Math.max(0, ...this.rows.map((row) => row.mostVisible));
  }
}

/** More runs than that are shown by what their tokens see alone: positions change with every token. */
const MOST_RUNS = 200;

/** `firstUnit` is where the row's units begin among those of the batch. */
class Row {
  constructor({ ids, padding, supervised, units, runs, pictures, ...info }, number, firstUnit) {
    Object.assign(this, { number, info, ids, padding, units, runs, pictures, firstUnit });
    this.tokens = ids.length;
    this.runOf = spread(runs.map(({ begin, end }) => [begin, end]), ids.length);
    this.unitOf = spread(units, ids.length);
    this.learned = spread(supervised, ids.length);
    this.supervised = this.learned.filter((span) => span >= 0).length;
    this.mostVisible = Math.max(0, ...runs.map((run) => run.sees));
  }

  /** Runs for people to look at. */
  get stretches() {
    if (this.runs.length <= MOST_RUNS) return this.runs;
    const merged = [];
    for (const run of this.runs) {
      if (merged.length && merged.at(-1).sees === run.sees) merged.at(-1).end = run.end;
      else merged.push({ ...run, says: `sees ${run.sees}` });
    }
    return merged;
  }

  isSupervised(t) {
    return this.learned[t] >= 0;
  }

  /** [first, end) of the units, as numbered in the batch, that the token at `t` may attend to. */
  sees(t) {
    return [this.firstUnit, this.firstUnit + this.visible(t)];
  }

  visible(t) {
    return this.runs[this.runOf[t]].sees;
  }

  /** What the tensors say of the token at `t`. */
  says(t) {
    return this.runs[this.runOf[t]].says;
  }

  /** The unit, as numbered in the batch, whose first token is at `t`; null elsewhere. */
  begins(t) {
    const unit = this.unitOf[t];
    return unit >= 0 && this.units[unit][0] === t ? this.firstUnit + unit : null;
  }

  /** Whether the token at `t` repeats the placeholder before it, for the same unit. */
  repeats(t) {
    return t > 0 && this.unitOf[t] >= 0 && this.unitOf[t] === this.unitOf[t - 1] && this.ids[t] === this.ids[t - 1];
  }

  /** One unit's pixels for a canvas, from uint8 [height, width, 3] in base64. */
  image(unit) {
    const { width, height, rgb } = this.pictures[unit];
    const image = new ImageData(width, height);
    const raw = atob(rgb);
    for (let at = 0; at < width * height; at += 1) {
      for (let channel = 0; channel < 3; channel += 1) image.data[4 * at + channel] = raw.charCodeAt(3 * at + channel);
      image.data[4 * at + 3] = 255;
    }
    return image;
  }
}

/** For each token the number of the span that it is in, or -1. */
function spread(spans, tokens) {
  const of = new Array(tokens).fill(-1);
  spans.forEach(([begin, end], number) => of.fill(number, begin, end));
  return of;
}
