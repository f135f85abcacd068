/** What is painted where the picture will be: the chaos of a seed, then what the picture looks like so far. */

/** @import { Pixels } from "../types.js" */

/** Pigments from deep to light: azurite, malachite, shell white, gold. */
const PIGMENTS = [
  [24, 66, 112],
  [44, 110, 140],
  [88, 156, 140],
  [236, 238, 228],
  [222, 190, 118],
  [176, 128, 48],
];
/** Side of the painted noise in pixels; the page scales it up. */
const SIDE = 160;

/** A uniform number in [0, 1) for every lattice point and seed. @param {number} x @param {number} y @param {number} seed */
function lattice(x, y, seed) {
  let h = Math.imul(x, 0x27d4eb2f) ^ Math.imul(y, 0x165667b1) ^ Math.imul(seed, 0x9e3779b1);
  h = Math.imul(h ^ (h >>> 15), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return ((h ^ (h >>> 16)) >>> 0) / 2 ** 32;
}

/** Smooth noise: lattice values, blended with smoothstep weights. @param {number} x @param {number} y @param {number} seed */
function smooth(x, y, seed) {
  const [left, top] = [Math.floor(x), Math.floor(y)];
  const [u, v] = [x - left, y - top].map((w) => w * w * (3 - 2 * w));
  const upper = lattice(left, top, seed) * (1 - u) + lattice(left + 1, top, seed) * u;
  const lower = lattice(left, top + 1, seed) * (1 - u) + lattice(left + 1, top + 1, seed) * u;
  return upper * (1 - v) + lower * v;
}

/** Three octaves of it. @param {number} x @param {number} y @param {number} seed */
const clouds = (x, y, seed) =>
  (4 * smooth(x, y, seed) + 2 * smooth(2 * x, 2 * y, seed + 1) + smooth(4 * x, 4 * y, seed + 2)) / 7;

/** @param {HTMLCanvasElement} canvas @param {Pixels} pixels */
export function paintPixels(canvas, { width, height, rgba }) {
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d")?.putImageData(new ImageData(rgba, width, height), 0, 0);
}

/** The pixels of a picture's file, as they are. @param {Blob} file @returns {Promise<Pixels>} */
export async function pixelsOf(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const pixels = drawn(bitmap, bitmap.width, bitmap.height);
  bitmap.close();
  return pixels;
}

/** Pixels at most `side` on a side. @param {Pixels} pixels @param {number} side */
export async function fitted(pixels, side) {
  const { width, height, rgba } = pixels;
  const ratio = side / Math.max(width, height);
  if (ratio >= 1) return pixels;
  const bitmap = await createImageBitmap(new ImageData(rgba, width, height));
  const [across, down] = [width, height].map((length) => Math.max(1, Math.round(length * ratio)));
  return drawn(bitmap, across, down);
}

/** @param {CanvasImageSource} image @param {number} width @param {number} height @returns {Pixels} */
function drawn(image, width, height) {
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (new OffscreenCanvas(width, height).getContext("2d"));
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
  return { width, height, rgba: context.getImageData(0, 0, width, height).data };
}

/** Shows a picture of a few pixels smoothly: doubled again and again, so that no pixel is seen. @param {HTMLCanvasElement} canvas @param {Pixels} pixels */
export function paintSmoothly(canvas, pixels) {
  let small = document.createElement("canvas");
  paintPixels(small, pixels);
  while (Math.max(small.width, small.height) < SIDE) {
    const large = document.createElement("canvas");
    [large.width, large.height] = [2 * small.width, 2 * small.height];
    large.getContext("2d")?.drawImage(small, 0, 0, large.width, large.height);
    small = large;
  }
  [canvas.width, canvas.height] = [small.width, small.height];
  canvas.getContext("2d")?.drawImage(small, 0, 0);
}

/** Pigments stirred in water, with grain; always the same for a seed. @param {HTMLCanvasElement} canvas @param {number} seed */
export function paintNoise(canvas, seed) {
  const rgba = new Uint8ClampedArray(SIDE * SIDE * 4);
  for (let row = 0, i = 0; row < SIDE; row++) {
    for (let column = 0; column < SIDE; column++, i += 4) {
      const [x, y] = [(column / SIDE) * 3, (row / SIDE) * 3];
      const stirred = clouds(x + 3 * clouds(x, y, seed), y + 3 * clouds(x, y, seed + 9), seed + 5);
      const tone = Math.min(0.999, Math.max(0, (stirred - 0.24) / 0.52)) * (PIGMENTS.length - 1);
      const [low, high] = [PIGMENTS[Math.floor(tone)], PIGMENTS[Math.floor(tone) + 1]];
      const grain = (lattice(column, row, seed + 7) - 0.5) * 34;
      for (let c = 0; c < 3; c++) rgba[i + c] = low[c] + (high[c] - low[c]) * (tone % 1) + grain;
      rgba[i + 3] = 255;
    }
  }
  paintPixels(canvas, { width: SIDE, height: SIDE, rgba });
}
