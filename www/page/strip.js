/** Pictures side by side, below the one on show: one request with several seeds or strengths, or two requests compared. */

/** @import { Info, Picture } from "../types.js" */
/** @import { Key } from "./i18n.js" */

import { NAMES, differences, fromFile } from "./recipe.js";
import { current, number, text } from "./i18n.js";
import { element } from "./dom.js";

/**
 * A finished picture on the page. `png` is its file with everything in it; `id` is its key in the history. A file that was opened
 * need not name a seed.
 *
 * @typedef {{ prompt: string, seed?: number, width: number, height: number, url: string, png: Blob, id?: number, starred?: boolean }} Drawn
 */
/** What a row of pictures is: `pair` compares the first one with the second. @typedef {"variations" | "strengths" | "pair"} Kind */

const ui = {
  strip: element("strip", HTMLElement),
  title: element("strip-title", HTMLElement),
  list: element("strip-list", HTMLElement),
  hint: element("strip-hint", HTMLElement),
  differences: element("differences", HTMLTableElement),
  leave: element("strip-leave", HTMLButtonElement),
};

/** @type {Kind} */
let kind = "variations";
/** The pictures in the strip, with what is below each and what a press on each does, in words. @type {{ drawn: Drawn, label: () => string, name: () => string }[]} */
let items = [];
/** The picture on show. @type {Drawn | undefined} */
let shown;
/** What was found between the pair. @type {[string, unknown, unknown][]} */
let found = [];
/** @type {(drawn: Drawn) => void} */
let show = () => {};
/** @type {() => Info | undefined} */
let info = () => undefined;

/** @param {Picture} picture @param {Blob} png @param {string} prompt @returns {Drawn} */
export const drawn = ({ seed, width, height }, png, prompt) => ({ prompt, seed, width, height, png, url: URL.createObjectURL(png) });

/** Whether a picture is in the strip, or on show: its address is in use. @param {Drawn} drawn */
const used = (drawn) => drawn === shown || items.some((item) => item.drawn === drawn);

/** Forgets a picture's address, unless it is in use. @param {Drawn | undefined} drawn */
function release(drawn) {
  if (drawn && !used(drawn)) URL.revokeObjectURL(drawn.url);
}

/** The strip shows pictures with `take`. @param {(drawn: Drawn) => void} take @param {() => Info | undefined} loaded */
export function start(take, loaded) {
  [show, info] = [take, loaded];
  ui.leave.onclick = () => clear();
}

/** Says which picture is on show now. @param {Drawn | undefined} next */
export function mark(next) {
  const before = shown;
  shown = next;
  release(before);
  for (const [index, item] of [...ui.list.children].entries()) {
    const button = item.querySelector("button");
    if (button) button.ariaCurrent = String(items[index].drawn === next);
  }
}

/** Empties the strip. */
export function clear() {
  const before = items;
  items = [];
  for (const { drawn } of before) release(drawn);
  found = [];
  ui.strip.hidden = true;
  ui.list.replaceChildren();
}

/** Begins a new strip. @param {Kind} next */
export function begin(next) {
  clear();
  kind = next;
  ui.strip.dataset.kind = kind;
}

/** The picture that others are compared with. @returns {Drawn | undefined} */
export const kept = () => (kind === "pair" ? items[0]?.drawn : undefined);

/** Puts one more picture into the strip. @param {Drawn} drawn @param {() => string} label @param {() => string} name */
export function place(drawn, label, name) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const image = document.createElement("img");
  const words = document.createElement("span");
  button.type = "button";
  button.onclick = () => show(drawn);
  image.src = drawn.url;
  image.alt = "";
  words.ariaHidden = "true";
  button.append(image);
  item.append(button, words);
  items.push({ drawn, label, name });
  ui.list.append(item);
  ui.strip.hidden = false;
  speak();
  mark(shown);
}

/** Keeps a picture, so that the next ones are compared with it. @param {Drawn} drawn */
export function keep(drawn) {
  begin("pair");
  place(drawn, () => "A", () => text("pairItem", { letter: "A" }));
}

/** Compares a picture with the one that is kept. @param {Drawn} drawn */
export async function against(drawn) {
  const first = kept();
  if (!first) return;
  const [before] = items.splice(1);
  ui.list.children[1]?.remove();
  release(before?.drawn);
  found = [];
  place(drawn, () => "B", () => text("pairItem", { letter: "B" }));
  const [a, b] = await Promise.all([first, drawn].map(async ({ png }) => (await fromFile(png))?.recipe ?? {}));
  if (items[1]?.drawn !== drawn) return;
  found = differences(a, b);
  speak();
}

/** A value as the form shows it. @param {string} name @param {unknown} value */
function shownAs(name, value) {
  const loaded = info();
  if (typeof value === "boolean") return text(value ? "given" : "none");
  if (value === undefined || value === "") return text("none");
  if (name === "style") return loaded?.styles.find(({ id }) => id === value)?.name[current()] ?? String(value);
  if (name === "falloff") return text(value === "noise" ? "falloffNoise" : "falloffConstant");
  if (name === "draft") return text(/** @type {Key} */ (value));
  if (name === "sampler") return String(value).replaceAll("_", " ");
  if (value === "transparent" || loaded?.exchanges.includes(String(value)) || loaded?.upsamplers.includes(String(value))) return text(/** @type {Key} */ (value));
  return typeof value === "number" && name !== "seed" ? number(value, Number.isInteger(value) ? 0 : 2) : String(value);
}

/** Says everything in the language now chosen. */
export function speak() {
  ui.title.textContent = text(kind);
  for (const [index, item] of [...ui.list.children].entries()) {
    const [button, words] = item.children;
    button.setAttribute("aria-label", items[index].name());
    words.textContent = items[index].label();
  }
  const paired = kind === "pair" && items.length === 2;
  ui.leave.hidden = kind !== "pair";
  ui.hint.hidden = kind !== "pair" || found.length > 0;
  ui.hint.textContent = text(paired ? "pairSame" : "pairHint");
  ui.differences.hidden = !paired || found.length === 0;
  ui.differences.tBodies[0].replaceChildren(
    ...found.map(([name, a, b]) => {
      const row = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = text(NAMES[name] ?? /** @type {Key} */ (name));
      row.append(head);
      for (const value of [a, b]) row.insertCell().textContent = shownAs(name, value);
      return row;
    }),
  );
}
