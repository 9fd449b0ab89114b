/** A place in the plan, as the address of a page holds it: whoever gets the link sees the same batch. */

const NUMBER = (text, otherwise) => (/^\d{1,15}$/.test(text ?? "") ? Number(text) : otherwise);

export class Place {
  constructor({ dataset, epoch, step, rank, micro, worldSize, microBatchSize }) {
    Object.assign(this, { dataset, epoch, step, rank, micro, worldSize, microBatchSize });
  }

  /** Read `/inspect/{dataset}/{epoch}/{step}[/{rank}]?world_size=&micro_batch_size=&micro=`. */
  static of(url) {
    const [, , dataset, epoch, step, rank] = url.pathname.split("/");
    return new Place({
      dataset: decodeURIComponent(dataset),
      epoch: NUMBER(epoch, 0),
      step: NUMBER(step, 0),
      rank: NUMBER(rank, 0),
      micro: NUMBER(url.searchParams.get("micro"), 0),
      worldSize: Math.max(1, NUMBER(url.searchParams.get("world_size"), 1)),
      microBatchSize: NUMBER(url.searchParams.get("micro_batch_size"), 0),
    });
  }

  with(changes) {
    return new Place({ ...this, ...changes });
  }

  /** The page of this micro-batch. */
  get href() {
    const micro = this.micro ? `&micro=${this.micro}` : "";
    return `${this.path}/${this.rank}?${this.deal}${micro}`;
  }

  /** The page of this global step. */
  get stepHref() {
    return `${this.path}?${this.deal}`;
  }

  get path() {
    return `/inspect/${encodeURIComponent(this.dataset)}/${this.epoch}/${this.step}`;
  }

  get deal() {
    const size = this.microBatchSize ? `&micro_batch_size=${this.microBatchSize}` : "";
    return `world_size=${this.worldSize}${size}`;
  }

  /** The next global step (or the one before, by -1), over the end of an epoch; null before the first. */
  stepped(by, stepsPerEpoch) {
    const step = this.step + by;
    if (step >= stepsPerEpoch) return this.with({ epoch: this.epoch + 1, step: 0, micro: 0 });
    if (step >= 0) return this.with({ step, micro: 0 });
    return this.epoch ? this.with({ epoch: this.epoch - 1, step: stepsPerEpoch - 1, micro: 0 }) : null;
  }
}
