/** Pictures as stickers: trimmed to what is drawn, centred, scaled, with a white rim, in a file of the size that a messenger takes. */

/** @import { Pixels } from "../types.js" */

import { PanguDrawError } from "../engine.js";

/** No sticker: nothing is drawn (`empty`), this browser writes no such file (`type`), or it stays too large (`too-large`). */
export class StickerError extends PanguDrawError {}

/** @typedef {"image/png" | "image/webp"} Type */
/**
 * What a messenger takes: the longest side, whether the file is a square, what stays free around, in pixels; the kinds of file, and
 * the most bytes.
 *
 * @typedef {{ side: number, square: boolean, margin: number, types: Type[], most: number }} Format
 */

/** @type {Record<"whatsapp" | "telegram" | "discord" | "emoji", Format>} */
export const FORMATS = {
  whatsapp: { side: 512, square: true, margin: 16, types: ["image/webp"], most: 99_999 },
  telegram: { side: 512, square: false, margin: 8, types: ["image/webp", "image/png"], most: 511_999 },
  discord: { side: 320, square: true, margin: 8, types: ["image/png"], most: 511_999 },
  emoji: { side: 128, square: true, margin: 3, types: ["image/png", "image/webp"], most: 127_999 },
};
/** WebP's qualities that are tried, the best first; at 1 nothing is lost. */
const QUALITIES = [1, 0.95, 0.9, 0.8, 0.7, 0.55, 0.4, 0.25, 0.1];
/** Opacity, of 255, above which something is drawn. */
const DRAWN = 8;
/** Width of the rim, as a share of the longest side. */
const RIM = 0.02;

/** @typedef {{ left: number, top: number, width: number, height: number }} Box */

/** Where something is drawn. @param {Pixels} pixels @returns {Box} */
export function trim({ width, height, rgba }) {
  let [left, top, right, bottom] = [width, height, 0, 0];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (rgba[4 * (y * width + x) + 3] <= DRAWN) continue;
      [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x + 1), y + 1];
    }
  }
  if (right === 0) throw new StickerError("empty", "nothing is drawn");
  return { left, top, width: right - left, height: bottom - top };
}

/** Lanczos' kernel of three lobes. @param {number} x */
const lanczos = (x) => (x === 0 ? 1 : Math.abs(x) >= 3 ? 0 : (3 * Math.sin(Math.PI * x) * Math.sin((Math.PI * x) / 3)) / (Math.PI * x) ** 2);

/**
 * Which of `count` samples make each of `to`, that lie over `length` of them from `start` on, and with what weights.
 *
 * @param {number} count
 * @param {number} start
 * @param {number} length
 * @param {number} to
 */
const taps = (count, start, length, to) =>
  Array.from({ length: to }, (_, index) => {
    const scale = Math.max(1, length / to);
    const centre = start + ((index + 0.5) * length) / to - 0.5;
    const first = Math.ceil(centre - 3 * scale);
    const weights = Array.from({ length: Math.floor(centre + 3 * scale) - first + 1 }, (_, tap) => lanczos((first + tap - centre) / scale));
    const sum = weights.reduce((sum, weight) => sum + weight, 0);
    return weights.map((weight, tap) => ({ at: Math.min(count - 1, Math.max(0, first + tap)), weight: weight / sum }));
  });

/**
 * A part of a picture at another size. Browsers scale canvases each in their own way, some of them coarsely; this is Lanczos'
 * everywhere, with colours weighted by their opacity.
 *
 * @param {Pixels} pixels
 * @param {Box} box
 * @param {number} width
 * @param {number} height
 * @returns {Pixels}
 */
export function scale(pixels, box, width, height) {
  const [columns, rows] = [taps(pixels.width, box.left, box.width, width), taps(pixels.height, box.top, box.height, height)];
  const between = new Float32Array(width * pixels.height * 4);
  for (let y = 0; y < pixels.height; y++) {
    for (const [x, from] of columns.entries()) {
      const to = 4 * (y * width + x);
      for (const { at, weight } of from) {
        const pixel = 4 * (y * pixels.width + at);
        const cover = weight * pixels.rgba[pixel + 3];
        for (let c = 0; c < 3; c++) between[to + c] += cover * pixels.rgba[pixel + c];
        between[to + 3] += cover;
      }
    }
  }
  const rgba = new Uint8ClampedArray(width * height * 4);
  for (const [y, from] of rows.entries()) {
    for (let x = 0; x < width; x++) {
      const sums = [0, 0, 0, 0];
      for (const { at, weight } of from) for (let c = 0; c < 4; c++) sums[c] += weight * between[4 * (at * width + x) + c];
      const to = 4 * (y * width + x);
      for (let c = 0; c < 3; c++) rgba[to + c] = sums[3] > 0 ? sums[c] / sums[3] : 0;
      // The kernel swings beyond edges.
      rgba[to + 3] = sums[3] > DRAWN ? sums[3] : 0;
    }
  }
  return { width, height, rgba };
}

/** @param {number} width @param {number} height */
function canvas(width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d");
  if (!context) throw new StickerError("type", "this browser has no canvas left");
  return context;
}

/**
 * The sticker as a canvas.
 *
 * @param {Pixels} pixels
 * @param {Format} format
 * @param {boolean} rim
 */
export function paint(pixels, { side, square, margin }, rim) {
  const box = trim(pixels);
  const width = rim ? Math.max(2, Math.round(RIM * side)) : 0;
  const free = margin + width;
  const ratio = (side - 2 * free) / Math.max(box.width, box.height);
  const [across, down] = [box.width, box.height].map((length) => Math.max(1, Math.round(length * ratio)));
  const [left, top] = square ? [(side - across) >> 1, (side - down) >> 1] : [free, free];
  const context = square ? canvas(side, side) : canvas(across + 2 * free, down + 2 * free);
  const drawn = canvas(across, down);
  const large = scale(pixels, box, across, down);
  drawn.putImageData(new ImageData(large.rgba, across, down), 0, 0);
  if (width > 0) {
    // The picture's shape in white, its edge made crisp, drawn all around: a rim with round corners.
    const white = canvas(across, down);
    const shape = new Uint8ClampedArray(large.rgba.length).fill(255);
    for (let at = 3; at < shape.length; at += 4) shape[at] = 4 * (large.rgba[at] - 64);
    white.putImageData(new ImageData(shape, across, down), 0, 0);
    for (let turn = 0; turn < 64; turn++) {
      const angle = (turn / 64) * 2 * Math.PI;
      context.drawImage(white.canvas, left + width * Math.cos(angle), top + width * Math.sin(angle));
    }
  }
  context.drawImage(drawn.canvas, left, top);
  return context.canvas;
}

/**
 * A canvas as a file of at most so many bytes.
 *
 * @param {OffscreenCanvas} canvas
 * @param {Type} type
 * @param {number} most
 */
export async function encode(canvas, type, most) {
  let smallest = Infinity;
  for (const quality of type === "image/webp" ? QUALITIES : [1]) {
    const file = await canvas.convertToBlob({ type, quality });
    // What cannot be written comes as PNG.
    if (file.type !== type) throw new StickerError("type", `this browser does not write ${type}`);
    if (file.size <= most) return file;
    smallest = Math.min(smallest, file.size);
  }
  throw new StickerError("too-large", `the file has ${smallest} bytes, at most ${most} are taken`);
}

/** Whether this browser writes WebP. */
export const writesWebp = async () => (await canvas(1, 1).canvas.convertToBlob({ type: "image/webp" })).type === "image/webp";
