/** Pictures that a page has, made into what the engine takes. */

/** @import { PictureSource, Pixels } from "./types.js" */

import { Engine, InvalidError } from "./engine.js";

/** Longest side of what the engine gets: models see much less. */
const SIDE = 1024;
/** How many of a file's first bytes are searched for the picture's sides. Few formats put much before them. */
const HEADERS = [2 ** 18, 2 ** 25];

/** Reads headers. It is no generator's worker: it neither waits for a drawing nor is lost with one. @type {Engine | undefined} */
let clerk;

/** @param {unknown} why */
const invalid = (why) =>
  new InvalidError("invalid", `image: ${why instanceof Error ? why.message : why}`, { parameter: "image" });

/**
 * A picture as straight RGBA, upright, at most {@link SIDE} on a side. A file is decoded only after its header was looked at.
 *
 * @param {PictureSource} image
 * @returns {Promise<Pixels>}
 */
export async function read(image) {
  try {
    if (image instanceof Blob) return await decode(image);
    if (image instanceof HTMLImageElement) {
      await image.decode();
      return shrink(image, image.naturalWidth, image.naturalHeight);
    }
    if (image instanceof ImageData) return await fit({ width: image.width, height: image.height, rgba: image.data });
    if ([ImageBitmap, HTMLCanvasElement, OffscreenCanvas].some((type) => image instanceof type)) {
      const drawable = /** @type {ImageBitmap | HTMLCanvasElement | OffscreenCanvas} */ (image);
      return shrink(drawable, drawable.width, drawable.height);
    }
    if (typeof image === "object" && image !== null && "rgba" in image) return await fit(image);
  } catch (error) {
    throw error instanceof DOMException || error instanceof RangeError ? invalid(error) : error;
  }
  throw invalid("is no picture: give a file, an image, a canvas, or pixels");
}

/** @param {Blob} file */
async function decode(file) {
  await check(file);
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  try {
    return shrink(bitmap, bitmap.width, bitmap.height);
  } finally {
    bitmap.close();
  }
}

/** Fails unless a file's header says that it is a picture of a size that can be taken. @param {Blob} file */
async function check(file) {
  if (!clerk || clerk.ended) clerk = new Engine();
  for (const length of HEADERS) {
    const bytes = new Uint8Array(await file.slice(0, length).arrayBuffer());
    try {
      return await clerk.call({ op: "size", bytes });
    } catch (error) {
      if (!(error instanceof InvalidError) || file.size <= length || length === HEADERS.at(-1)) throw error;
    }
  }
}

/** Pixels at most {@link SIDE} on a side; as they are, if they are so already. @param {Pixels} pixels */
async function fit({ width, height, rgba }) {
  if (!(Math.max(width, height) > SIDE)) return { width, height, rgba };
  const bitmap = await createImageBitmap(new ImageData(new Uint8ClampedArray(rgba), width, height));
  return shrink(bitmap, width, height);
}

/** @param {CanvasImageSource} drawable @param {number} width @param {number} height @returns {Pixels} */
function shrink(drawable, width, height) {
  if (!(width > 0 && height > 0)) throw invalid("has no pixels");
  const scale = Math.min(1, SIDE / Math.max(width, height));
  const [columns, rows] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  const context = new OffscreenCanvas(columns, rows).getContext("2d");
  if (!context) throw invalid("cannot be read: this browser has no canvas left");
  context.imageSmoothingQuality = "high";
  context.drawImage(drawable, 0, 0, columns, rows);
  return { width: columns, height: rows, rgba: context.getImageData(0, 0, columns, rows).data };
}
