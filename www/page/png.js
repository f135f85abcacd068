/** PNG files: their chunks, the texts that they carry, and pixels as a file without loss. */

/** @import { Pixels } from "../types.js" */

import { InvalidError } from "../engine.js";

/** @typedef {Uint8Array<ArrayBuffer>} Bytes */
/** @typedef {{ type: string, data: Bytes }} Chunk */

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
/** Chunks of one file that are looked at, and bytes that one text may unpack to: far above what is written here. */
const MOST_CHUNKS = 20_000;
const MOST_TEXT = 2 ** 24;
/** Longest side of a picture that is unpacked here. */
export const MOST_SIDE = 512;

/** @param {string} why */
const damaged = (why) => new InvalidError("invalid", `PNG: ${why}`, { parameter: "image" });

/** @type {Uint32Array} */
const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});

/** @param {Bytes} bytes */
function crc(bytes) {
  let sum = ~0;
  for (const byte of bytes) sum = CRC[(sum ^ byte) & 0xff] ^ (sum >>> 8);
  return ~sum >>> 0;
}

/** @param {Bytes} bytes */
export const isPng = (bytes) => SIGNATURE.every((byte, at) => bytes[at] === byte);

/**
 * The chunks of a file, up to its end mark; what follows that is no part of it.
 *
 * @param {Bytes} bytes
 * @returns {Chunk[]}
 */
export function chunks(bytes) {
  if (!isPng(bytes)) throw damaged("is no PNG file");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  /** @type {Chunk[]} */
  const found = [];
  for (let at = SIGNATURE.length; found.length < MOST_CHUNKS; ) {
    if (at + 12 > bytes.length) throw damaged("ends early");
    const length = view.getUint32(at);
    if (length > bytes.length - at - 12) throw damaged("a chunk is longer than the file");
    const named = bytes.subarray(at + 4, at + 8 + length);
    const type = String.fromCharCode(...named.subarray(0, 4));
    if (!/^[A-Za-z]{4}$/.test(type)) throw damaged("a chunk has no name");
    if (crc(named) !== view.getUint32(at + 8 + length)) throw damaged(`the checksum of ${type} is wrong`);
    const data = named.subarray(4);
    if ((found.length === 0) !== (type === "IHDR") || (type === "IHDR" && length !== 13)) throw damaged("its header is not in its place");
    found.push({ type, data });
    if (type === "IEND") return found;
    at += 12 + length;
  }
  throw damaged("has too many chunks");
}

/** A file of chunks. @param {Chunk[]} chunks */
function file(chunks) {
  const parts = chunks.flatMap(({ type, data }) => {
    const named = new Uint8Array(data.length + 4);
    named.set([...type].map((letter) => letter.charCodeAt(0)));
    named.set(data, 4);
    const [length, sum] = [data.length, crc(named)].map((value) => {
      const bytes = new Uint8Array(4);
      new DataView(bytes.buffer).setUint32(0, value);
      return bytes;
    });
    return [length, named, sum];
  });
  return new Blob([new Uint8Array(SIGNATURE), ...parts], { type: "image/png" });
}

/** What comes out of a stream, at most `most` bytes. @param {Bytes} bytes @param {GenericTransformStream} stream @param {number} most */
async function through(bytes, stream, most) {
  const reader = new Blob([bytes]).stream().pipeThrough(/** @type {TransformStream<Bytes, Bytes>} */ (stream)).getReader();
  const parts = [];
  try {
    for (let length = 0; ; ) {
      const { done, value } = await reader.read();
      if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
      parts.push(value);
      if ((length += value.length) > most) throw damaged("unpacks to too much");
    }
  } catch (error) {
    throw error instanceof InvalidError ? error : damaged("cannot be unpacked");
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @param {Bytes} bytes @param {number} most */
const inflate = (bytes, most) => through(bytes, new DecompressionStream("deflate"), most);
/** @param {Bytes} bytes */
const deflate = (bytes) => through(bytes, new CompressionStream("deflate"), Infinity);

/** Parts bytes at the next zero. @param {Bytes} bytes @returns {[string, Bytes]} */
function cut(bytes) {
  const end = bytes.indexOf(0);
  if (end < 0) throw damaged("a text has no end");
  return [new TextDecoder("latin1").decode(bytes.subarray(0, end)), bytes.subarray(end + 1)];
}

/** @param {Bytes} bytes */
function utf8(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw damaged("a text is not UTF-8");
  }
}

/** A text chunk's text. @param {string} type @param {Bytes} rest what follows its keyword */
async function decodeText(type, rest) {
  if (type === "tEXt") return new TextDecoder("latin1").decode(rest);
  if (type === "zTXt") return new TextDecoder("latin1").decode(await inflate(rest.subarray(1), MOST_TEXT));
  const packed = rest[0] === 1;
  const [, translated] = cut(rest.subarray(2));
  const [, text] = cut(translated);
  return utf8(packed ? await inflate(text, MOST_TEXT) : text);
}

/**
 * The texts of some keywords; of several with the same one, the first.
 *
 * @param {Chunk[]} chunks
 * @param {string[]} keywords
 * @returns {Promise<Record<string, string>>}
 */
export async function texts(chunks, keywords) {
  /** @type {Record<string, string>} */
  const found = {};
  for (const { type, data } of chunks) {
    if (!["tEXt", "zTXt", "iTXt"].includes(type)) continue;
    const [keyword, rest] = cut(data);
    if (!keywords.includes(keyword) || keyword in found) continue;
    if (rest.length > MOST_TEXT) throw damaged("a text is too long");
    found[keyword] = await decodeText(type, rest);
  }
  return found;
}

/**
 * The file with one more text, packed, in front of its pixels; one of that keyword is replaced.
 *
 * @param {Bytes} bytes
 * @param {string} keyword
 * @param {string} text
 */
export async function withText(bytes, keyword, text) {
  const key = new TextEncoder().encode(`${keyword}\0`);
  const packed = await deflate(new TextEncoder().encode(text));
  // Packed, by zlib; no language, no translated keyword.
  const data = new Uint8Array(await new Blob([key, new Uint8Array([1, 0, 0, 0]), packed]).arrayBuffer());
  const others = chunks(bytes).filter(({ type, data }) => type !== "iTXt" || cut(data)[0] !== keyword);
  const at = others.findIndex(({ type }) => type === "IDAT");
  return file(others.toSpliced(at, 0, { type: "iTXt", data }));
}

/** The sides that a file's header tells. @param {Chunk[]} chunks */
export function sides([{ data }]) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  return { width: view.getUint32(0), height: view.getUint32(4) };
}

/** Paeth's predictor: of left, above and above left, what is nearest to their plane. @param {number} a @param {number} b @param {number} c */
function paeth(a, b, c) {
  const [toA, toB, toC] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
  return toA <= toB && toA <= toC ? a : toB <= toC ? b : c;
}

/** What each of PNG's filters expects of a byte. @type {((a: number, b: number, c: number) => number)[]} */
const PREDICTORS = [() => 0, (a) => a, (_, b) => b, (a, b) => (a + b) >> 1, paeth];

/** Pixels as a file that holds just them. Unlike a canvas's, it keeps the colour of what is transparent. @param {Pixels} pixels */
export async function encode({ width, height, rgba }) {
  const row = 4 * width;
  const rows = new Uint8Array((row + 1) * height);
  for (let y = 0; y < height; y++) {
    const to = y * (row + 1);
    rows[to] = 4;
    for (let x = 0; x < row; x++) {
      const at = y * row + x;
      const [a, b, c] = [x < 4 ? 0 : rgba[at - 4], y ? rgba[at - row] : 0, x < 4 || !y ? 0 : rgba[at - row - 4]];
      rows[to + 1 + x] = rgba[at] - paeth(a, b, c);
    }
  }
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, 6], 8);
  return file([
    { type: "IHDR", data: header },
    { type: "IDAT", data: await deflate(rows) },
    { type: "IEND", data: new Uint8Array() },
  ]);
}

/** The pixels of a file that {@link encode} made. @param {Bytes} bytes @returns {Promise<Pixels>} */
export async function decode(bytes) {
  const parts = chunks(bytes);
  const { width, height } = sides(parts);
  if (!(width > 0 && height > 0 && Math.max(width, height) <= MOST_SIDE)) throw damaged(`is ${width}x${height}`);
  if (String(parts[0].data.subarray(8)) !== "8,6,0,0,0") throw damaged("is not plain RGBA");
  const row = 4 * width;
  const length = (row + 1) * height;
  const packed = new Blob(parts.filter(({ type }) => type === "IDAT").map(({ data }) => data));
  const rows = await inflate(new Uint8Array(await packed.arrayBuffer()), length);
  if (rows.length !== length) throw damaged("has too few pixels");
  const rgba = new Uint8ClampedArray(row * height);
  for (let y = 0; y < height; y++) {
    const from = y * (row + 1);
    const predict = PREDICTORS[rows[from]];
    if (!predict) throw damaged("has an unknown filter");
    for (let x = 0; x < row; x++) {
      const at = y * row + x;
      const [a, b, c] = [x < 4 ? 0 : rgba[at - 4], y ? rgba[at - row] : 0, x < 4 || !y ? 0 : rgba[at - row - 4]];
      rgba[at] = (rows[from + 1 + x] + predict(a, b, c)) & 0xff;
    }
  }
  return { width, height, rgba };
}
