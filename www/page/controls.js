/** The panel of pictures that steer the drawing: at most one of a kind. */

/** @import { ControlKind, ControlOptions, Info, PictureSource, Pixels } from "../types.js" */
/** @import { Key } from "./i18n.js" */
/** @import { Recipe } from "./recipe.js" */
/** @import { Stroke } from "./pad.js" */

import { available, shot } from "./camera.js";
import { element, within } from "./dom.js";
import { drawing, mask, painted, sketch, tint } from "./pad.js";
import { number, text, translate } from "./i18n.js";
import { MOST_SIDE } from "./png.js";
import { fitted, paintPixels } from "./canvas.js";
import { read } from "../pictures.js";

/** What a picture is for: a control, or what the drawing begins with. @typedef {ControlKind | "init"} Kind */

/**
 * A picture in use.
 *
 * @typedef {{
 *   kind: Kind,
 *   pixels: Pixels,
 *   strokes?: Stroke[],
 *   masked: Stroke[],
 *   strength?: number,
 *   card: HTMLElement,
 * }} Steering
 */

/** @type {Kind[]} */
const KINDS = ["outline", "variation", "init"];
/** How much is drawn over a picture unless told otherwise; all of what a mask shows. */
const OVER = 0.7;

const ui = {
  panel: element("steer", HTMLDetailsElement),
  count: element("steer-count", HTMLElement),
  choices: element("steer-choices", HTMLFieldSetElement),
  hint: element("steer-hint", HTMLElement),
  sketch: element("steer-sketch", HTMLButtonElement),
  choose: element("steer-choose", HTMLButtonElement),
  file: element("steer-file", HTMLInputElement),
  camera: element("steer-camera", HTMLButtonElement),
  alarm: element("steer-alarm", HTMLElement),
  cards: element("steer-cards", HTMLElement),
  card: element("steer-card", HTMLTemplateElement),
  compare: element("compare", HTMLButtonElement),
};

/** Pictures in use, in the order of their kinds. @type {Steering[]} */
let used = [];
/** The size to be drawn. */
let size = { width: 1, height: 1 };
/** @type {Info | undefined} */
let info;
/** @type {(kind: ControlKind, image: Pixels) => Promise<Pixels>} */
let view;
/** Says again, in the language now chosen, what went wrong last. */
let sayAlarm = () => {};

/** @returns {Kind} */
const chosen = () => /** @type {Kind} */ (within(ui.choices, "input:checked", HTMLInputElement).value);

/** @param {Kind} kind */
function choose(kind) {
  for (const radio of ui.choices.querySelectorAll("input")) radio.checked = radio.value === kind;
  ui.hint.dataset.text = `${kind}Hint`;
  ui.hint.textContent = text(/** @type {Key} */ (`${kind}Hint`));
  ui.sketch.hidden = kind !== "outline";
}

/** @param {Key} [key] */
function alarm(key) {
  sayAlarm = () => (ui.alarm.textContent = key ? text(key) : "");
  sayAlarm();
  ui.alarm.hidden = !key;
}

/** Runs what may fail for reasons that the panel explains. @param {() => Promise<unknown>} work @param {Key} failure */
async function attempt(work, failure) {
  alarm();
  try {
    await work();
  } catch {
    alarm(failure);
  }
}

/** What a picture is weighed with unless told otherwise. @param {Steering} steering */
const standard = ({ kind, masked }) =>
  kind === "init" ? (masked.length > 0 ? 1 : OVER) : (info?.controls.find((own) => own.kind === kind)?.strength ?? 1);

/** Takes a picture in; one of that kind goes. @param {Kind} kind @param {PictureSource} image @param {Stroke[]} [strokes] */
const add = (kind, image, strokes) =>
  attempt(async () => {
    // No larger than the drawing's own file keeps it, so that what is drawn can be drawn again.
    const pixels = await fitted(await read(image), MOST_SIDE);
    const before = used.find((steering) => steering.kind === kind);
    const card = before?.card ?? build(kind);
    const steering = { kind, pixels, strokes, masked: [], strength: before?.strength, card };
    used = KINDS.flatMap((each) => (each === kind ? [steering] : used.filter((other) => other.kind === each)));
    ui.panel.open = true;
    if (!before) ui.cards.replaceChildren(...used.map(({ card }) => card));
    refresh();
    await show(steering);
  }, "errorImage");

/** An empty card. @param {Kind} kind */
function build(kind) {
  const card = within(/** @type {DocumentFragment} */ (ui.card.content.cloneNode(true)), ".card", HTMLElement);
  const part = (/** @type {string} */ name) => within(card, `.${name}`, HTMLElement);
  card.dataset.kind = kind;
  part("kind").dataset.text = kind;
  part("strength-name").dataset.text = kind === "init" ? "overStrength" : "strength";
  for (const [name, action] of Object.entries({ edit, paint, remove })) {
    part(name).id = `${name}-${kind}`;
    part(name).setAttribute("aria-labelledby", `${name}-${kind} kind-${kind}`);
    part(name).onclick = () => {
      const steering = used.find((steering) => steering.kind === kind);
      if (steering) action(steering);
    };
  }
  part("kind").id = `kind-${kind}`;
  const slider = within(card, "input", HTMLInputElement);
  slider.id = `strength-${kind}`;
  slider.setAttribute("aria-labelledby", `strength-name-${kind} kind-${kind}`);
  part("strength-name").id = `strength-name-${kind}`;
  if (kind === "init") slider.min = "0.05";
  slider.oninput = () => {
    const steering = used.find((steering) => steering.kind === kind);
    if (!steering) return;
    steering.strength = Number(slider.value);
    weigh(steering);
  };
  translate(card);
  return card;
}

/** Shows how much a picture weighs. @param {Steering} steering */
function weigh(steering) {
  const strength = steering.strength ?? standard(steering);
  within(steering.card, "input", HTMLInputElement).value = String(strength);
  within(steering.card, "output", HTMLOutputElement).textContent = number(strength, 2);
}

/** Shows a picture, and what the model will see of it. @param {Steering} steering */
async function show(steering) {
  const { kind, card, pixels, strokes, masked } = steering;
  weigh(steering);
  within(card, ".edit", HTMLElement).hidden = !strokes;
  const paint = within(card, ".paint", HTMLElement);
  paint.hidden = kind !== "init";
  paint.dataset.text = masked.length > 0 ? "changeMask" : "addMask";
  translate(card);
  paintPixels(within(card, ".given", HTMLCanvasElement), pixels);
  // A picture to begin with is fitted as one to vary is.
  const seen = await view(kind === "init" ? "variation" : kind, pixels);
  if (!used.includes(steering)) return;
  const canvas = within(card, ".seen", HTMLCanvasElement);
  paintPixels(canvas, seen);
  tint(canvas, masked, pixels);
}

/** Draws on at what was drawn. @param {Steering} [before] */
async function edit(before) {
  const strokes = await sketch({ size: before?.pixels ?? size, drawn: before?.strokes });
  if (strokes && strokes.length > 0) await add("outline", drawing(strokes, before?.pixels ?? size), strokes);
  else if (strokes && before) remove(before);
}

/** Paints what shall be drawn over. @param {Steering} steering */
async function paint(steering) {
  const { pixels, masked } = steering;
  steering.masked = (await sketch({ size: pixels, drawn: masked, beneath: pixels })) ?? masked;
  await attempt(() => show(steering), "errorImage");
}

/** @param {Steering} steering */
function remove(steering) {
  used = used.filter((other) => other !== steering);
  steering.card.remove();
  refresh();
  ui.choose.focus();
}

function refresh() {
  ui.count.textContent = used.length > 0 ? String(used.length) : "";
  ui.cards.hidden = used.length === 0;
  ui.compare.hidden = !used.some(({ kind }) => kind !== "init");
}

/** Whether a file was something else than a picture to steer with. @type {(file: File) => Promise<boolean>} */
let otherwise = async () => false;

/** Takes a file that was dropped or pasted. @param {File} file */
async function receive(file) {
  if (document.querySelector("dialog[open]") || (await otherwise(file)) || ui.panel.hidden) return;
  await add(chosen(), file);
}

/** The first picture among files. @param {FileList | undefined} files */
const pictureOf = (files) => [...(files ?? [])].find((file) => file.type.startsWith("image/")) ?? files?.[0];

ui.choices.addEventListener("change", () => choose(chosen()));
ui.sketch.addEventListener("click", () => edit());
ui.choose.addEventListener("click", () => ui.file.click());
ui.file.addEventListener("change", async () => {
  const file = pictureOf(ui.file.files ?? undefined);
  if (file) await add(chosen(), file);
  ui.file.value = ""; // The same file may be chosen again.
});
ui.camera.hidden = !available;
ui.camera.addEventListener("click", () =>
  attempt(async () => {
    const picture = await shot();
    if (picture) await add(chosen(), picture);
  }, "errorCamera"),
);
document.addEventListener("paste", (event) => {
  const { clipboardData: data, target } = event;
  const file = pictureOf(data?.files);
  // Office programs put a picture of a text beside it.
  const writing = target instanceof HTMLElement && target.matches("input, textarea") && data?.types.includes("text/plain");
  if (!file || writing || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  receive(file);
});
for (const type of /** @type {const} */ (["dragover", "dragleave", "drop"])) {
  // Anywhere on the page: a file that misses the panel would take the page's place.
  document.addEventListener(type, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    ui.panel.classList.toggle("target", type === "dragover");
    if (type === "dragover") ui.panel.open = true;
    const file = type === "drop" ? pictureOf(event.dataTransfer.files) : undefined;
    if (file) receive(file);
  });
}

/** Files that are dropped or pasted go to `first`, which answers whether it took one. @param {typeof otherwise} first */
export const intercept = (first) => (otherwise = first);

/** What the panel offers to do with a picture. */
const kinds = () => KINDS.filter((kind) => (kind === "init" ? info?.encodes : info?.controls.some((own) => own.kind === kind)));

/** Whether the model can be steered with pictures. */
export const offered = () => kinds().length > 0;

/** What a picture would be used as now, in words. */
export const named = () => text(chosen());

/**
 * Takes the pictures of a recipe in, instead of those that are in use. Answers the names of what the model cannot do.
 *
 * @param {Recipe} recipe
 */
export async function restore({ controls = [], init, mask, strength }) {
  const wanted = controls.map(({ kind, image, strength }) => ({ kind: /** @type {Kind} */ (kind), pixels: image, masked: /** @type {Stroke[]} */ ([]), strength }));
  if (init) wanted.push({ kind: "init", pixels: init, masked: mask ? painted(mask) : [], strength });
  used = kinds().flatMap((kind) => wanted.filter((each) => each.kind === kind).map((each) => ({ ...each, card: build(kind) })));
  ui.cards.replaceChildren(...used.map(({ card }) => card));
  if (used.length > 0) ui.panel.open = true;
  refresh();
  await attempt(() => Promise.all(used.map(show)), "errorImage");
  return wanted.filter((each) => !used.some(({ kind }) => kind === each.kind)).map(({ kind }) => (kind === "init" ? kind : "controls"));
}

/**
 * Makes the panel fit a loaded model. `look` answers what the model sees of a picture.
 *
 * @param {Info} loaded
 * @param {(kind: ControlKind, image: Pixels) => Promise<Pixels>} look
 */
export function offer(loaded, look) {
  [info, view] = [loaded, look];
  const offered = kinds();
  for (const radio of ui.choices.querySelectorAll("input")) {
    within(ui.choices, `label:has([value="${radio.value}"])`, HTMLElement).hidden = !offered.some((kind) => kind === radio.value);
  }
  ui.panel.hidden = offered.length === 0;
  if (offered.length > 0 && !offered.includes(chosen())) choose(offered[0]);
  refresh();
}

/** Shows what models see at the size that is to be drawn. @param {{ width: number, height: number }} next */
export function resize(next) {
  size = next;
  for (const steering of used) show(steering).catch(() => alarm("errorImage"));
}

/** Says what was said in the language now chosen. */
export function speak() {
  used.forEach(weigh);
  sayAlarm();
}

/** What the pictures add to a request. @param {number} [until] share of the schedule through which they act */
export function steering(until) {
  /** @type {ControlOptions[]} */
  const controls = used.flatMap(({ kind, pixels: image, strength }) => (kind === "init" ? [] : [{ kind, image, strength, until }]));
  const init = used.find(({ kind }) => kind === "init");
  return {
    controls,
    init: init?.pixels,
    strength: init?.strength,
    mask: init && init.masked.length > 0 ? mask(init.masked, init.pixels) : undefined,
  };
}

choose("outline");
refresh();
