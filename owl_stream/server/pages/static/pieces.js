/** Token ids as text. A piece is bytes; a character may be spread over several tokens. */

import { dataset, json } from "./server.js";

const IDS_PER_REQUEST = 500;
const MOST_TOGETHER = 16;
const STRICT = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export class Pieces {
  constructor(name) {
    this.root = dataset(name);
    this.known = new Map();
  }

  /** Ask for the pieces of those ids that are not known yet. */
  async learn(ids, signal) {
    const unknown = [...new Set(ids)].filter((id) => !this.known.has(id));
    for (let at = 0; at < unknown.length; at += IDS_PER_REQUEST) {
      const part = unknown.slice(at, at + IDS_PER_REQUEST);
      const pieces = await json(`${this.root}/pieces?ids=${part.join(",")}`, signal);
      for (const [id, hex] of Object.entries(pieces)) this.known.set(Number(id), fromHex(hex));
    }
  }

  /**
   * One {text, whole, of} for each id. Tokens that only together make characters show them at the first of them, and
   * nothing at the others (`whole` false, `of` the characters); bytes that are no text at all show as such.
   */
  read(ids) {
    const shown = [];
    while (shown.length < ids.length) {
      const at = shown.length;
      const [text, together] = this.together(ids, at);
      shown.push({ text, whole: together === 1, of: text });
      for (let n = 1; n < together; n += 1) shown.push({ text: "", whole: false, of: text });
    }
    return shown;
  }

  together(ids, at) {
    let joined = new Uint8Array();
    for (let n = 1; n <= Math.min(MOST_TOGETHER, ids.length - at); n += 1) {
      const piece = this.known.get(ids[at + n - 1]) ?? new Uint8Array();
      joined = Uint8Array.of(...joined, ...piece);
      try {
        return [STRICT.decode(joined), n];
      } catch {
        // The character goes on in the next token.
      }
    }
    const bytes = [...(this.known.get(ids[at]) ?? [])];
    return [bytes.map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join(""), 1];
  }
}

const fromHex = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
