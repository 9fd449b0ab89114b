/** A frame as rows: their tokens, and which crops each token may attend to, read off `media_offset` alone. */

const IGNORE = -100;

export class Batch {
  constructor({ header, tensors, nbytes }) {
    this.header = header;
    this.nbytes = nbytes;
    this.pixels = tensors.pixel_values ?? { shape: [0, 3, 0, 0], values: new Uint8Array() };
    this.length = tensors.input_ids.shape[1];
    const visible = "media_offset_lengths" in tensors ? startsOf(tensors) : countsOf(tensors);
    this.rows = header.rows.map((info, b) => new Row(this, b, info, tensors, visible(b)));
    this.mostVisible = Math.max(0, ...this.rows.map((row) => row.crops));
  }

  /** One crop's pixels for a canvas, from uint8 [3, S, S]. */
  image(crop) {
    const [, , height, width] = this.pixels.shape;
    const plane = height * width;
    const from = crop * 3 * plane;
    const image = new ImageData(width, height);
    for (let at = 0; at < plane; at += 1) {
      image.data[4 * at] = this.pixels.values[from + at];
      image.data[4 * at + 1] = this.pixels.values[from + plane + at];
      image.data[4 * at + 2] = this.pixels.values[from + 2 * plane + at];
      image.data[4 * at + 3] = 255;
    }
    return image;
  }
}

/** `tokens` are attended ones, `firstCrop` is where the row's crops begin among those of the batch. */
class Row {
  constructor(batch, b, info, tensors, { first, ends, offsets }) {
    const cells = (name) => tensors[name].values.slice(b * batch.length, (b + 1) * batch.length);
    this.number = b;
    this.info = info;
    this.tokens = cells("attention_mask").filter((attended) => attended !== 0).length;
    this.padding = batch.length - this.tokens;
    this.ids = cells("input_ids").slice(0, this.tokens);
    this.labels = cells("labels").slice(0, this.tokens);
    this.supervised = this.labels.filter((label) => label !== IGNORE).length;
    this.firstCrop = first;
    this.ends = ends;
    this.offsets = offsets;
    this.crops = batch.length ? ends(batch.length - 1) - first : 0;
  }

  isSupervised(t) {
    return this.labels[t] !== IGNORE;
  }

  /** [first, end) of the crops, as numbered in the batch, that the token at `t` may attend to. */
  sees(t) {
    return [this.firstCrop, this.ends(t)];
  }

  visible(t) {
    return this.ends(t) - this.firstCrop;
  }

  /** Positions of the first piece of each crop's marker. */
  get starts() {
    return this.offsets.starts;
  }

  /** Stretches of tokens that see the same crops, and what `media_offset` says of them. */
  get stretches() {
    const found = [];
    for (let t = 0; t < this.tokens; t += 1) {
      const end = this.ends(t);
      if (found.length && found.at(-1).end === end) found.at(-1).tokens += 1;
      else found.push({ from: t, tokens: 1, end, says: this.offsets.says(t) });
    }
    return found;
  }
}

/** owl3-240728: int64 [B, L, 2], (crops of earlier rows, that + crops that start strictly before the token). */
function countsOf({ media_offset: { shape, values } }) {
  const length = shape[1];
  return (b) => {
    const cell = (t, part) => values[2 * (b * length + t) + part];
    const first = length ? cell(0, 0) : 0;
    const ends = (t) => Math.max(cell(t, 1), first);
    const starts = [];
    for (let t = 1; t < length; t += 1) if (ends(t) > ends(t - 1)) starts.push(t - 1);
    return { first, ends, offsets: { starts, says: (t) => `[${cell(t, 0)}, ${cell(t, 1)}]` } };
  };
}

/** owl3-241101: each crop's start within its row, int64 [crops], and int64 [B] crops per row; seen from there on. */
function startsOf({ media_offset: { values }, media_offset_lengths: { values: lengths } }) {
  return (b) => {
    const first = lengths.slice(0, b).reduce((sum, crops) => sum + crops, 0);
    const starts = values.slice(first, first + lengths[b]);
    const ends = (t) => first + starts.filter((start) => start <= t).length;
    return { first, ends, offsets: { starts, says: (t) => `[${starts.filter((start) => start <= t).join(", ")}]` } };
  };
}
