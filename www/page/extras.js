/**
 * Settings that the form has no field for: the command line has. What a restored picture or a link says of them is shown, and drawn
 * with, until somebody takes it away.
 */

/** @import { Info } from "../types.js" */
/** @import { Recipe } from "./recipe.js" */

import { NAMES } from "./recipe.js";
import { element } from "./dom.js";
import { number, text } from "./i18n.js";

/** @typedef {Pick<Recipe, "styleScale" | "spacing" | "precision">} Extras */

const ui = {
  note: element("extras", HTMLElement),
  words: element("extras-words", HTMLElement),
  remove: element("extras-remove", HTMLButtonElement),
  next: element("draw", HTMLButtonElement),
};

/** What is not as the model has it. @type {Extras} */
let kept = {};

/** What is added to a request. @returns {Extras} */
export const settings = () => ({ ...kept });

/** Says it in the language now chosen. */
export function speak() {
  const list = Object.entries(kept).map(([name, value]) => {
    const shown = typeof value === "number" ? number(value, Number.isInteger(value) ? 0 : 2) : value;
    return `${text(NAMES[name])} ${shown}`;
  });
  ui.words.textContent = text("extras", { list: list.join(text("comma")) });
  ui.note.hidden = list.length === 0;
}

/**
 * Takes from a recipe what the form has no field for, instead of what was taken before. Answers the names of what cannot be done
 * here.
 *
 * @param {Recipe} recipe
 * @param {Info} info
 */
export function fill({ styleScale, spacing, precision }, { defaults, precision: best }) {
  kept = {};
  if (styleScale !== undefined && styleScale !== defaults.styleScale) kept.styleScale = styleScale;
  if (spacing !== undefined && spacing !== defaults.spacing) kept.spacing = spacing;
  // What computes in f16 by itself can do both.
  const possible = precision !== "f16" || best === "f16";
  if (precision !== undefined && possible) kept.precision = precision;
  speak();
  return possible ? [] : ["precision"];
}

ui.remove.onclick = () => {
  kept = {};
  speak();
  // What had the focus is gone.
  ui.next.focus();
};
