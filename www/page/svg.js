/** SVG files as pictures. The browser draws them as an image: no script in them runs, and nothing is fetched for them. */

/** @import { PictureSource } from "../types.js" */

import { InvalidError } from "../pangu-draw.js";

/** Longest side of what is drawn. */
const SIDE = 1024;
/** Longest file, and longest beginning up to its root element. */
const [BYTES, BEGINNING] = [4 << 20, 1 << 16];

/** What may come before the root element, but for its declaration: what is drawn is UTF-8. */
const PROLOG = /^\uFEFF?\s*(?:<\?xml[^>]*\?>)?((?:\s|<\?[^>]*\?>|<!--[^]*?-->|<!DOCTYPE[^[>]*(?:\[[^\]]*\])?\s*>)*)/i;
/** The start of the root element, with its attributes. */
const ROOT = /^(<(?:[\w-]+:)?svg(?=[\s/>]))((?:[^>"']|"[^"]*"|'[^']*')*>)/;

/** @param {string} why */
const invalid = (why) => new InvalidError("invalid", `image: ${why}`, { parameter: "image" });

/** A length in pixels; none if it is missing, relative, or of no use. @param {string} [length] */
function pixels(length) {
  const [, number = "0"] = /^\s*([\d.]+(?:e[+-]?\d+)?)\s*(?:px)?\s*$/i.exec(length ?? "") ?? [];
  return Number(number) > 0 && Number(number) < Infinity ? Number(number) : undefined;
}

/**
 * An SVG that says its size, the longer side {@link SIDE}. Its proportions are those of its sides, else of its view box, else a
 * square's. It is not parsed as a document for that: such a document would be held to the page's rules for styles.
 *
 * @param {string} text
 */
function sized(text) {
  const beginning = text.slice(0, BEGINNING);
  const [all, prolog] = PROLOG.exec(beginning) ?? ["", ""];
  const [tag, name, rest] = ROOT.exec(beginning.slice(all.length)) ?? [];
  if (!tag) throw invalid("is no SVG");
  const attribute = (/** @type {string} */ name) => new RegExp(`\\s${name}\\s*=\\s*["']([^"']*)["']`).exec(rest)?.[1];
  const own = [attribute("width"), attribute("height")].map(pixels);
  const box = attribute("viewBox");
  const [, , ...across] = (box ?? "").trim().split(/[\s,]+/).map(pixels);
  const [width = 1, height = 1] = [own, across].find((sides) => sides[0] && sides[1]) ?? [];
  const scale = SIDE / Math.max(width, height);
  const [columns, rows] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  // Without a view box its sides would cut it, not scale it.
  const view = box === undefined && own[0] && own[1] ? ` viewBox="0 0 ${width} ${height}"` : "";
  const others = rest.replace(/\s(?:width|height)\s*=\s*(?:"[^"]*"|'[^']*')/g, "");
  const svg = `${prolog}${name} width="${columns}" height="${rows}"${view}${others}${text.slice(all.length + tag.length)}`;
  return { svg, columns, rows };
}

/**
 * Anything but an SVG file as it is; an SVG file drawn.
 *
 * @param {PictureSource} image
 * @returns {Promise<PictureSource>}
 */
export async function drawn(image) {
  if (!(image instanceof Blob) || image.type !== "image/svg+xml") return image;
  if (image.size > BYTES) throw invalid(`has ${image.size} bytes, may have ${BYTES}`);
  const { svg, columns, rows } = sized(await image.text());
  const url = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
  try {
    const picture = new Image(columns, rows);
    picture.src = url;
    await picture.decode();
    const context = new OffscreenCanvas(columns, rows).getContext("2d");
    if (!context) throw invalid("cannot be drawn: this browser has no canvas left");
    context.drawImage(picture, 0, 0, columns, rows);
    return context.canvas;
  } finally {
    URL.revokeObjectURL(url);
  }
}
