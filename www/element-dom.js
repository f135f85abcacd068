/** Nodes of the element's shadow tree, made without markup: a page may forbid it. */

/** @import { Pixels } from "./types.js" */

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Partial<Omit<HTMLElementTagNameMap[Tag], "part">> & { part?: string }} [properties]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function node(tag, { part, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  if (part) made.part.add(...part.split(" "));
  made.append(...children);
  return made;
}

/** @param {HTMLCanvasElement} canvas @param {Pixels} pixels */
export function paint(canvas, { width, height, rgba }) {
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d")?.putImageData(new ImageData(rgba, width, height), 0, 0);
}

/** The project's sign: Pangu parts the egg of chaos. */
export function mark() {
  const make = (/** @type {string} */ tag, /** @type {Record<string, string>} */ attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const svg = make("svg", { viewBox: "0 0 32 32", class: "mark", "aria-hidden": "true" });
  const group = make("g", { transform: "rotate(-18 16 16)" });
  group.append(
    make("path", { d: "M3 14a13 13 0 0 1 26 0z", fill: "#c79a3b" }),
    make("path", { d: "M3 18a13 13 0 0 0 26 0z", fill: "#2b6ea3" }),
  );
  svg.append(group);
  return svg;
}

/** Runs `report` at most once a frame, with the newest value. @template T @param {(value: T) => void} report */
export function perFrame(report) {
  /** @type {{ value: T } | undefined} */
  let newest;
  return (/** @type {T} */ value) => {
    if (!newest) {
      requestAnimationFrame(() => {
        const latest = newest;
        newest = undefined;
        if (latest) report(latest.value);
      });
    }
    newest = { value };
  };
}
