/** The panel of pictures that steer the drawing. */

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
import { drawn } from "./svg.js";
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
 *   until?: number,
 *   falloff?: "constant" | "noise",
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
  besideField: element("steer-beside-field", HTMLElement),
  beside: element("steer-beside", HTMLInputElement),
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
/** The kind whose model draws the draft. @type {ControlKind | undefined} */
let draft;
/** Cards so far: what tells their elements apart. */
let cards = 0;
/** The size to be drawn. */
let size = { width: 1, height: 1 };
/** @type {Info | undefined} */
let info;
/** @typedef {(kind: ControlKind, image: Pixels) => Promise<Pixels>} View */
/** What models see, once there is a model. @type {PromiseWithResolvers<View>} */
const sight = Promise.withResolvers();
/** @type {View} */
let view = async (kind, image) => (await sight.promise)(kind, image);
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
  ui.beside.checked = false;
  refresh();
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

/**
 * Takes a picture in. It takes the place of `before`, which is the one of its kind unless the next shall stand beside it.
 *
 * @param {Kind} kind
 * @param {PictureSource} image
 * @param {Stroke[]} [strokes]
 * @param {Steering} [before]
 */
const add = (kind, image, strokes, before = ui.beside.checked ? undefined : used.findLast((other) => other.kind === kind)) =>
  attempt(async () => {
    // No larger than the drawing's own file keeps it, so that what is drawn can be drawn again.
    const pixels = await fitted(await read(await drawn(image)), MOST_SIDE);
    // It may have been removed meanwhile.
    const place = before ? used.indexOf(before) : -1;
    /** @type {Steering} */
    const steering = { ...(place < 0 ? { card: build(kind) } : used[place]), kind, pixels, strokes, masked: [] };
    if (place < 0) used.push(steering);
    else used[place] = steering;
    used.sort((a, b) => KINDS.indexOf(a.kind) - KINDS.indexOf(b.kind));
    ui.panel.open = true;
    ui.beside.checked = false;
    if (place < 0) ui.cards.replaceChildren(...used.map(({ card }) => card));
    refresh();
    await show(steering);
  }, "errorImage");

/** An empty card. @param {Kind} kind */
function build(kind) {
  const card = within(/** @type {DocumentFragment} */ (ui.card.content.cloneNode(true)), ".card", HTMLElement);
  const part = (/** @type {string} */ name) => within(card, `.${name}`, HTMLElement);
  const suffix = ++cards;
  /** Names one part of the card, and after it and the card's kind what it is for. @param {string} name @param {HTMLElement} [of] */
  const entitle = (name, of = part(name)) => {
    part(name).id = `${name}-${suffix}`;
    of.setAttribute("aria-labelledby", `${name}-${suffix} kind-${suffix}`);
  };
  const own = () => /** @type {Steering} */ (used.find((steering) => steering.card === card));
  card.dataset.kind = kind;
  part("kind").id = `kind-${suffix}`;
  part("strength-name").dataset.text = kind === "init" ? "overStrength" : "strength";
  for (const [name, action] of Object.entries({ edit, paint, remove })) {
    entitle(name);
    part(name).onclick = () => action(own());
  }
  const slider = within(card, ".strength input", HTMLInputElement);
  entitle("strength-name", slider);
  if (kind === "init") slider.min = "0.05";
  slider.oninput = () => {
    own().strength = Number(slider.value);
    weigh(own());
  };
  part("finer").hidden = kind === "init";
  const until = within(card, ".until", HTMLInputElement);
  entitle("until-name", until);
  until.oninput = () => (own().until = until.value === "" || !until.checkValidity() ? undefined : Number(until.value));
  const falloff = within(card, ".falloff", HTMLSelectElement);
  entitle("falloff-name", falloff);
  falloff.onchange = () => (own().falloff = /** @type {Steering["falloff"]} */ (falloff.value || undefined));
  const drafts = within(card, ".draft", HTMLInputElement);
  drafts.onchange = () => {
    if (kind === "init") return;
    draft = drafts.checked ? kind : undefined;
    refresh();
  };
  translate(card);
  return card;
}

/** Shows how much a picture weighs. @param {Steering} steering */
function weigh(steering) {
  const strength = steering.strength ?? standard(steering);
  within(steering.card, ".strength input", HTMLInputElement).value = String(strength);
  within(steering.card, "output", HTMLOutputElement).textContent = number(strength, 2);
  const { until, falloff } = steering;
  if (until !== undefined) within(steering.card, ".until", HTMLInputElement).value = String(until);
  if (falloff) within(steering.card, ".falloff", HTMLSelectElement).value = falloff;
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
  if (strokes && strokes.length > 0) await add("outline", drawing(strokes, before?.pixels ?? size), strokes, before);
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
  // What had the focus goes with the card.
  if (steering.card.contains(document.activeElement)) ui.choose.focus();
  steering.card.remove();
  refresh();
}

function refresh() {
  if (!used.some(({ kind }) => kind === draft)) draft = undefined;
  for (const [index, { kind, card }] of used.entries()) {
    const before = used.slice(0, index).filter((other) => other.kind === kind).length;
    within(card, ".kind", HTMLElement).textContent = before > 0 ? `${text(kind)} ${before + 1}` : text(kind);
    within(card, ".draft", HTMLInputElement).checked = kind === draft;
    within(card, ".until", HTMLInputElement).placeholder = String(info?.controls.find((own) => own.kind === kind)?.until ?? 1);
  }
  ui.besideField.hidden = chosen() === "init" || !used.some(({ kind }) => kind === chosen());
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
export async function restore({ controls = [], init, mask, strength, draft: drafting }) {
  /** @type {Omit<Steering, "card">[]} */
  const wanted = controls.map(({ image, ...control }) => ({ ...control, pixels: image, masked: [] }));
  if (init) wanted.push({ kind: "init", pixels: init, masked: mask ? painted(mask) : [], strength });
  used = kinds().flatMap((kind) => wanted.filter((each) => each.kind === kind).map((each) => ({ ...each, card: build(kind) })));
  draft = drafting;
  ui.cards.replaceChildren(...used.map(({ card }) => card));
  if (used.length > 0) ui.panel.open = true;
  refresh();
  await attempt(() => Promise.all(used.map(show)), "errorImage");
  return [
    ...wanted.filter((each) => !used.some(({ kind }) => kind === each.kind)).map(({ kind }) => (kind === "init" ? kind : "controls")),
    ...(drafting === draft ? [] : ["draft"]),
  ];
}

/**
 * Makes the panel fit a loaded model. `look` answers what the model sees of a picture.
 *
 * @param {Info} loaded
 * @param {(kind: ControlKind, image: Pixels) => Promise<Pixels>} look
 */
export function offer(loaded, look) {
  [info, view] = [loaded, look];
  sight.resolve(look);
  const offered = kinds();
  for (const radio of ui.choices.querySelectorAll("input")) {
    within(ui.choices, `label:has([value="${radio.value}"])`, HTMLElement).hidden = !offered.some((kind) => kind === radio.value);
  }
  for (const steering of used.filter(({ kind }) => !offered.includes(kind))) remove(steering);
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
  refresh();
  sayAlarm();
}

/** What the pictures add to a request. @param {number} [usual] the share of the schedule through which they act, but for those with one of their own */
export function steering(usual) {
  /** @type {ControlOptions[]} */
  const controls = used.flatMap(({ kind, pixels: image, strength, until = usual, falloff }) =>
    kind === "init" ? [] : [{ kind, image, strength, until, falloff }],
  );
  const init = used.find(({ kind }) => kind === "init");
  return {
    controls,
    draft,
    init: init?.pixels,
    strength: init?.strength,
    mask: init && init.masked.length > 0 ? mask(init.masked, init.pixels) : undefined,
  };
}

choose("outline");
