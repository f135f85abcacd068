/** Fills the form from a recipe: one that a picture carries, or a link. */

/** @import { Info } from "../types.js" */
/** @import { Found, Recipe } from "./recipe.js" */
/** @import { Key } from "./i18n.js" */

import { NAMES } from "./recipe.js";
import { element } from "./dom.js";
import { text } from "./i18n.js";
import * as controls from "./controls.js";
import * as extras from "./extras.js";

const ui = {
  prompt: element("prompt", HTMLTextAreaElement),
  negative: element("negative", HTMLInputElement),
  style: element("style", HTMLSelectElement),
  background: element("background", HTMLSelectElement),
  colour: element("colour", HTMLInputElement),
  size: element("size", HTMLSelectElement),
  seed: element("seed", HTMLInputElement),
  steps: element("steps", HTMLInputElement),
  guidance: element("guidance", HTMLInputElement),
  sampler: element("sampler", HTMLSelectElement),
  exchange: element("exchange", HTMLSelectElement),
  until: element("until", HTMLInputElement),
  tLow: element("t-low", HTMLInputElement),
  upsampler: element("upsampler", HTMLSelectElement),
  taken: element("taken", HTMLElement),
  dialog: element("opened", HTMLDialogElement),
  picture: element("opened-picture", HTMLImageElement),
  words: element("opened-words", HTMLElement),
  settings: element("opened-settings", HTMLButtonElement),
  steer: element("opened-steer", HTMLButtonElement),
  back: element("opened-back", HTMLButtonElement),
};

/** Says again, in the language now chosen, what was filled in. @type {() => void} */
let sayTaken = () => {};

/**
 * Says what was filled in, and what was not.
 *
 * @param {Key} [key]
 * @param {{ left?: string[], model?: string }} [more] `model`: another one, that drew it
 */
export function say(key, { left = [], model } = {}) {
  sayTaken = () => {
    const names = left.map((name) => (Object.hasOwn(NAMES, name) ? text(NAMES[name]) : name));
    const list = [...new Set(names)].join(text("comma"));
    ui.taken.textContent = [
      key && text(key),
      model && text("takenModel", { model }),
      names.length > 0 && text("takenLeft", { list: list.length > 300 ? `${list.slice(0, 300)}…` : list }),
    ].filter(Boolean).join(text("space"));
  };
  sayTaken();
  ui.taken.hidden = !key;
}

/** Says it in the language now chosen. */
export const speak = () => sayTaken();

/** Sets a field; answers whether it takes the value. @param {HTMLInputElement} field @param {number | undefined} value */
function set(field, value) {
  const before = field.value;
  field.value = value === undefined ? "" : String(value);
  // Between the steps of its arrows, a field takes any number; half a picture it does not.
  if (field.validity.stepMismatch && field !== ui.steps) field.step = "any";
  if (field.checkValidity()) return true;
  field.value = before;
  return false;
}

/** Chooses; answers whether it is on offer. @param {HTMLSelectElement} field @param {string} value */
function pick(field, value) {
  if (![...field.options].some((option) => option.value === value)) return false;
  field.value = value;
  return true;
}

/** Chooses a size, also one that is not among those on offer, if the model can draw it. @param {Info} info @param {number} width @param {number} height */
function size({ image: { multiple, max } }, width, height) {
  const value = `${width} ${height}`;
  if (pick(ui.size, value)) return true;
  if (![width, height].every((side) => side <= max && side % multiple === 0)) return false;
  ui.size.add(new Option(`${width} × ${height}`, value));
  return pick(ui.size, value);
}

/**
 * Fills the form; what a recipe does not say is as the model has it. Answers the names of what this model cannot do.
 *
 * @param {Recipe} recipe
 * @param {Info} info
 */
export async function fill(recipe, info) {
  const { defaults } = info;
  const { controls: steered = [] } = recipe;
  /** What each control's reach is unless told otherwise. @param {string} kind */
  const standard = (kind) => info.controls.find((own) => own.kind === kind)?.until;
  const untils = [...new Set(steered.map(({ until }) => until))];
  const usual = steered.every(({ kind, until }) => until === undefined || until === standard(kind));
  const until = recipe.until ?? (usual || untils.length > 1 ? undefined : untils[0]);
  ui.prompt.value = recipe.prompt ?? "";
  ui.negative.value = recipe.negativePrompt ?? "";
  const background = recipe.background ?? "transparent";
  ui.background.value = background === "transparent" ? background : "colour";
  if (background !== "transparent") ui.colour.value = background;
  ui.background.dispatchEvent(new Event("change"));
  /** @type {[string, unknown, boolean][]} */
  const done = [
    ["style", recipe.style, pick(ui.style, recipe.style ?? defaults.style ?? "")],
    ["width", recipe.width, size(info, recipe.width ?? info.image.width, recipe.height ?? info.image.height)],
    ["seed", recipe.seed, set(ui.seed, recipe.seed)],
    ["steps", recipe.steps, set(ui.steps, recipe.steps ?? defaults.steps)],
    ["guidanceScale", recipe.guidanceScale, set(ui.guidance, recipe.guidanceScale ?? defaults.guidanceScale)],
    ["sampler", recipe.sampler, pick(ui.sampler, recipe.sampler ?? defaults.sampler)],
    ["exchange", recipe.exchange, pick(ui.exchange, recipe.exchange ?? defaults.exchange)],
    ["until", until, set(ui.until, until)],
    ["tLow", recipe.tLow, set(ui.tLow, recipe.tLow)],
    ["upsampler", recipe.upsampler, pick(ui.upsampler, recipe.upsampler ?? defaults.upsampler)],
    ["background", background === "transparent" ? undefined : background, info.transparency],
  ];
  ui.size.dispatchEvent(new Event("change"));
  const left = done.filter(([, value, taken]) => value !== undefined && value !== "" && !taken).map(([name]) => name);
  // What they have in common is said once.
  const own = untils.length > 1 ? steered : steered.map(({ until: _, ...control }) => control);
  return [...left, ...extras.fill(recipe, info), ...(await controls.restore({ ...recipe, controls: own }))];
}

/**
 * Asks what a picture that knows how it was drawn is here for.
 *
 * @param {Blob} file
 * @param {Found} found
 * @returns {Promise<string>} `settings`, `steer`, or nothing
 */
export async function ask(file, { recipe }) {
  const { promise, resolve } = Promise.withResolvers();
  ui.picture.src = URL.createObjectURL(file);
  ui.words.textContent = recipe.prompt ?? "";
  ui.dialog.returnValue = "";
  ui.dialog.addEventListener("close", resolve, { once: true });
  ui.settings.onclick = () => ui.dialog.close("settings");
  ui.steer.onclick = () => ui.dialog.close("steer");
  ui.back.onclick = () => ui.dialog.close();
  ui.steer.hidden = !controls.offered();
  ui.steer.textContent = text("openedSteer", { kind: controls.named() });
  ui.dialog.showModal();
  ui.settings.focus();
  await promise;
  URL.revokeObjectURL(ui.picture.src);
  return ui.dialog.returnValue;
}
