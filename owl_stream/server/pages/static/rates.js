/** What each stream did in the last few seconds, from what the server says of it each time. */

export class Rates {
  constructor(overS) {
    this.overS = overS;
    this.seen = new Map();
  }

  /** Remember an overview's streams; forget those that ended. */
  note({ streams }) {
    const open = new Set(streams.map(({ number }) => number));
    for (const number of this.seen.keys()) if (!open.has(number)) this.seen.delete(number);
    for (const stream of streams) {
      const earlier = this.seen.get(stream.number) ?? [];
      const recent = earlier.filter(({ age_s: age }) => age >= stream.age_s - this.overS - 0.5 && age < stream.age_s);
      this.seen.set(stream.number, [...recent, stream]);
    }
  }

  /** Batches and bytes per second, and the shares of the time that each side kept the other waiting. */
  of({ number }) {
    const seen = this.seen.get(number) ?? [];
    const [first, last] = [seen[0], seen.at(-1)];
    // A stream that was just seen for the first time is judged by its whole life.
    const from = seen.length > 1 ? first : { age_s: 0, batches: 0, nbytes: 0, assembly_wait_s: 0, reader_wait_s: 0 };
    const seconds = Math.max(last.age_s - from.age_s, 0.001);
    const share = (name) => Math.min(1, (last[name] - from[name]) / seconds);
    return {
      batches: (last.batches - from.batches) / seconds,
      nbytes: (last.nbytes - from.nbytes) / seconds,
      server: share("assembly_wait_s"),
      trainer: share("reader_wait_s"),
    };
  }
}
