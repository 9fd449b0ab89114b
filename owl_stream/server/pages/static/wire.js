/** Reads a frame as docs/wire.md describes it: `0x94 | 0xce u32 | header map | 0xc6 u32 | payload | 0xcf u64`. */

const TEXT = new TextDecoder("utf-8");

/** As much of msgpack as headers use. */
class Unpacker {
  constructor(view, offset) {
    this.view = view;
    this.at = offset;
  }

  take(nbytes) {
    const start = this.at;
    this.at += nbytes;
    if (this.at > this.view.byteLength) throw new Error(`frame: it ends inside a value at byte ${start}`);
    return start;
  }

  text(nbytes) {
    const start = this.take(nbytes);
    return TEXT.decode(new Uint8Array(this.view.buffer, this.view.byteOffset + start, nbytes));
  }

  array(length) {
    return Array.from({ length }, () => this.value());
  }

  map(length) {
    // A map of its own prototype: no key of the data can reach Object's.
    const made = Object.create(null);
    for (let n = 0; n < length; n += 1) made[this.value()] = this.value();
    return made;
  }

  value() {
    const { view } = this;
    const code = view.getUint8(this.take(1));
    if (code <= 0x7f) return code;
    if (code <= 0x8f) return this.map(code & 0x0f);
    if (code <= 0x9f) return this.array(code & 0x0f);
    if (code <= 0xbf) return this.text(code & 0x1f);
    if (code >= 0xe0) return code - 0x100;
    switch (code) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xca: return view.getFloat32(this.take(4));
      case 0xcb: return view.getFloat64(this.take(8));
      case 0xcc: return view.getUint8(this.take(1));
      case 0xcd: return view.getUint16(this.take(2));
      case 0xce: return view.getUint32(this.take(4));
      case 0xcf: return Number(view.getBigUint64(this.take(8)));
      case 0xd0: return view.getInt8(this.take(1));
      case 0xd1: return view.getInt16(this.take(2));
      case 0xd2: return view.getInt32(this.take(4));
      case 0xd3: return Number(view.getBigInt64(this.take(8)));
      case 0xd9: return this.text(view.getUint8(this.take(1)));
      case 0xda: return this.text(view.getUint16(this.take(2)));
      case 0xdb: return this.text(view.getUint32(this.take(4)));
      case 0xdc: return this.array(view.getUint16(this.take(2)));
      case 0xdd: return this.array(view.getUint32(this.take(4)));
      case 0xde: return this.map(view.getUint16(this.take(2)));
      case 0xdf: return this.map(view.getUint32(this.take(4)));
      default: throw new Error(`frame: msgpack code 0x${code.toString(16)} is not used by this protocol`);
    }
  }
}

function expect(view, offset, code) {
  const got = view.getUint8(offset);
  if (got !== code) throw new Error(`frame: expected 0x${code.toString(16)} at byte ${offset}, got 0x${got.toString(16)}`);
}

const READ = {
  int64: (bytes) => Array.from(new BigInt64Array(bytes), Number),
  uint8: (bytes) => new Uint8Array(bytes),
};

/** The header of a whole frame, and its tensors by name: {shape, values}, values in C order. */
export function readFrame(buffer) {
  const view = new DataView(buffer);
  expect(view, 0, 0x94);
  expect(view, 1, 0xce);
  const headerEnd = 6 + view.getUint32(2);
  const header = new Unpacker(view, 6).value();
  expect(view, headerEnd, 0xc6);
  const start = headerEnd + 5;
  expect(view, start + view.getUint32(headerEnd + 1), 0xcf);
  const tensors = Object.create(null);
  for (const { name, dtype, shape, offset, nbytes } of header.tensors) {
    if (!(dtype in READ)) throw new Error(`frame: tensor ${name} of dtype ${dtype} is not one that pages read`);
    tensors[name] = { shape, values: READ[dtype](buffer.slice(start + offset, start + offset + nbytes)) };
  }
  return { header, tensors, nbytes: buffer.byteLength };
}
