/**
 * What a picture was drawn from, as it travels: in a PNG, in another tool's PNG, in a link. Whatever comes in is checked here for
 * its kind and range; whether the loaded model can do it is for the form to say.
 */

/** @import { ControlKind, DrawOptions, Pixels } from "../types.js" */
/** @import { Key } from "./i18n.js" */

import { InvalidError } from "../engine.js";
import { chunks, decode, encode, texts, withText } from "./png.js";

/** @typedef {{ kind: ControlKind, strength?: number, until?: number, falloff?: "constant" | "noise", image: Pixels }} Control */
/**
 * A request of the page with everything in it; what is absent is the model's own. `strength` is that of `init`, `until` that of
 * every control that has none of its own.
 *
 * @typedef {{
 *   model?: string, prompt?: string, negativePrompt?: string, style?: string, seed?: number, steps?: number, guidanceScale?: number,
 *   sampler?: string, width?: number, height?: number, background?: string, exchange?: string, until?: number, tLow?: number,
 *   upsampler?: string, strength?: number, controls?: Control[], init?: Pixels, mask?: Pixels, draft?: ControlKind,
 *   styleScale?: number, spacing?: string, precision?: "f16" | "f32",
 * }} Recipe
 */
/** A recipe, the names of what was there but is not in it, and where it comes from, if not out of a picture drawn here. @typedef {{ recipe: Recipe, left: string[], from?: "link" | "tool" }} Found */

/** What the page calls the parts of a recipe. @type {Record<string, Key>} */
export const NAMES = {
  model: "model",
  prompt: "prompt",
  negativePrompt: "negativePrompt",
  style: "style",
  background: "background",
  seed: "seed",
  steps: "steps",
  guidanceScale: "guidance",
  sampler: "sampler",
  width: "size",
  height: "size",
  strength: "overStrength",
  controls: "steer",
  init: "init",
  mask: "part",
  exchange: "exchange",
  until: "until",
  tLow: "tLow",
  upsampler: "upsampler",
  draft: "drawsDraft",
  falloff: "falloff",
  styleScale: "styleScale",
  spacing: "spacing",
  precision: "precision",
};

/** Where a file keeps its settings as JSON, where its pictures, and where other tools (and older files of this one) keep theirs. */
const [SETTINGS, PICTURES, PARAMETERS] = ["pangu-draw", "pangu-draw-pictures", "parameters"];
/** Largest file that is searched for settings, and longest text of another tool. */
const MOST_FILE = 2 ** 26;
const MOST_WORDS = 20_000;
/** Most pictures that steer one drawing. */
const MOST_CONTROLS = 16;
/** Longest link that is read: 2000 characters of Chinese take 18 kB. */
const MOST_LINK = 2 ** 15;

/** @param {number} most */
const words = (most) => (/** @type {unknown} */ value) => typeof value === "string" && value.length <= most;
/** @param {number} least @param {number} most */
const whole = (least, most) => (/** @type {unknown} */ value) => Number.isSafeInteger(value) && Number(value) >= least && Number(value) <= most;
/** @param {number} least @param {number} most */
const between = (least, most) => (/** @type {unknown} */ value) => typeof value === "number" && value >= least && value <= most;

/** @param {string[]} names */
const oneOf = (...names) => (/** @type {unknown} */ value) => typeof value === "string" && names.includes(value);

/** What each plain value may be. @type {Record<string, (value: unknown) => boolean>} */
const FIELDS = {
  model: words(200),
  prompt: words(4000),
  negativePrompt: words(4000),
  style: words(100),
  seed: whole(0, Number.MAX_SAFE_INTEGER),
  steps: whole(1, 1000),
  guidanceScale: between(0, 50),
  sampler: words(100),
  width: whole(1, 2 ** 14),
  height: whole(1, 2 ** 14),
  background: (value) => value === "transparent" || (typeof value === "string" && /^#[0-9a-f]{6}$/i.test(value)),
  exchange: words(100),
  until: between(0, 1),
  tLow: between(0, 1e6),
  upsampler: words(100),
  styleScale: between(0, 50),
  spacing: oneOf("leading", "linspace", "trailing", "karras", "exponential"),
  precision: oneOf("f16", "f32"),
};
/** What this project's settings hold; what a newer version adds is told, not passed over. */
const KNOWN = new Set([...Object.keys(FIELDS), "controls", "init", "draft"]);
/** Those that a link holds: all of them. They are numbers here, and texts there. */
const NUMBERS = new Set(["seed", "steps", "guidanceScale", "width", "height", "until", "tLow", "styleScale"]);

/** @param {string} why */
const damaged = (why) => new InvalidError("invalid", `settings: ${why}`, { parameter: "image" });

/** @param {unknown} value @returns {value is ControlKind} */
const isKind = (value) => value === "outline" || value === "variation";

/** @param {unknown} value @returns {Record<string, unknown>} */
const object = (value) => (typeof value === "object" && value !== null ? /** @type {Record<string, unknown>} */ (value) : {});

/** The plain values among some fields. @param {Record<string, unknown>} given @returns {Found} */
function plain(given) {
  /** @type {Record<string, unknown>} */
  const recipe = {};
  const left = [];
  for (const [name, allowed] of Object.entries(FIELDS)) {
    const value = given[name];
    if (value === undefined || value === null) continue;
    if (allowed(value)) recipe[name] = value;
    else left.push(name);
  }
  return { recipe, left };
}

/** @param {string} text */
function json(text) {
  try {
    return object(JSON.parse(text));
  } catch {
    throw damaged("are not JSON");
  }
}

/** A picture out of a data URL. @param {unknown} url */
async function picture(url) {
  const [, data] = /^data:image\/png;base64,([A-Za-z0-9+/=]+)$/.exec(typeof url === "string" ? url : "") ?? [];
  if (!data) throw damaged("a picture is missing");
  try {
    return await decode(Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)));
  } catch (error) {
    throw error instanceof InvalidError ? error : damaged("a picture is not base64");
  }
}

/** @param {Pixels} pixels */
async function dataUrl(pixels) {
  const bytes = new Uint8Array(await (await encode(pixels)).arrayBuffer());
  let letters = "";
  for (let at = 0; at < bytes.length; at += 2 ** 15) letters += String.fromCharCode(...bytes.subarray(at, at + 2 ** 15));
  return `data:image/png;base64,${btoa(letters)}`;
}

/**
 * What the settings that the engine writes, and the pictures beside them, come to.
 *
 * @param {Record<string, unknown>} settings
 * @param {Record<string, unknown>} pictures
 * @returns {Promise<Found>}
 */
async function fromSettings(settings, pictures) {
  const draft = object(settings.draft);
  // No style is a choice, too, where a model has one of its own.
  const { recipe, left } = plain({ ...settings, style: settings.style ?? "", tLow: draft.tLow ?? settings.tLow });
  left.push(...Object.keys(settings).filter((name) => !KNOWN.has(name)));
  if (isKind(draft.model)) recipe.draft = draft.model;
  else if (draft.model) left.push("draft");
  const given = Array.isArray(pictures.controls) ? pictures.controls : [];
  const controls = Array.isArray(settings.controls) ? settings.controls : [];
  recipe.controls = [];
  for (const [index, control] of controls.entries()) {
    const { kind, strength, until, falloff: fall } = object(control);
    if (!isKind(kind) || !given[index] || recipe.controls.length === MOST_CONTROLS) left.push("controls");
    else {
      const number = (/** @type {unknown} */ value) => (between(0, 1)(value) ? Number(value) : undefined);
      const falloff = fall === "constant" || fall === "noise" ? fall : undefined;
      recipe.controls.push({ kind, strength: number(strength), until: number(until), falloff, image: await picture(given[index]) });
    }
  }
  if (settings.init) {
    const { strength, mask } = object(settings.init);
    if (pictures.init) recipe.init = await picture(pictures.init);
    else left.push("init");
    if (between(0, 1)(strength)) recipe.strength = Number(strength);
    if (mask && pictures.mask) recipe.mask = await picture(pictures.mask);
    else if (mask) left.push("mask");
  }
  return { recipe, left: [...new Set(left)] };
}

/** Samplers by the names that other tools give them. @type {Record<string, string>} */
const SAMPLERS = {
  Euler: "euler",
  "Euler a": "euler_ancestral",
  Heun: "heun",
  "DPM++ 2M": "dpmpp_2m",
  DDIM: "ddim",
  LCM: "lcm",
};
/** What else such a text names, and what it is called here; the last two are this project's own. @type {Record<string, string>} */
const NUMBERED = { Steps: "steps", "CFG scale": "guidanceScale", Seed: "seed", "Style guidance": "styleScale", "Draft until": "tLow" };
/** @type {Record<string, string>} */
const NAMED = { Model: "model", Style: "style", Background: "background", Spacing: "spacing" };

/** A value without the quotes that its commas needed. @param {string} value */
function unquoted(value) {
  try {
    return value.startsWith('"') ? String(JSON.parse(value)) : value;
  } catch {
    return value;
  }
}

/**
 * Reads parameters as AUTOMATIC1111's web UI writes them: the prompt, `Negative prompt: ...`, and a last line of names and values.
 *
 * @param {string} text
 * @returns {Found | undefined} nothing, if it is no such text
 */
export function fromParameters(text) {
  if (text.length > MOST_WORDS) throw damaged("are too long");
  const lines = text.split(/\r?\n/);
  const last = lines.findLastIndex((line) => /^Steps: *\d/.test(line));
  if (last < 0) return undefined;
  const negative = lines.slice(0, last).findIndex((line) => line.startsWith("Negative prompt:"));
  const [end, without] = negative < 0 ? [last, ""] : [negative, lines.slice(negative, last).join("\n").slice("Negative prompt:".length)];
  /** @type {Record<string, unknown>} */
  const given = { prompt: lines.slice(0, end).join("\n").trim(), negativePrompt: without.trim() };
  const left = [];
  for (const [, name, written] of lines[last].matchAll(/([A-Za-z][\w \-/]{0,60}): *("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)/g)) {
    const value = unquoted(written);
    const [, width, height] = /^(\d+)x(\d+)$/.exec(value) ?? [];
    if (Object.hasOwn(NUMBERED, name)) given[NUMBERED[name]] = Number(value);
    else if (Object.hasOwn(NAMED, name)) given[NAMED[name]] = value;
    else if (name === "Schedule type" && /^(Karras|Exponential)$/.test(value)) given.spacing = value.toLowerCase();
    else if (name === "Size") Object.assign(given, { width: Number(width), height: Number(height) });
    // It may be a name that this project gave it.
    else if (name === "Sampler") given.sampler = SAMPLERS[value] ?? value;
    // No style is a choice, too, where a model has one of its own.
    else if (name === "Version" && value.startsWith("PanGu-Draw ")) given.style ??= "";
    else if (name !== "Model hash" && name !== "Version") left.push(name);
  }
  const found = plain(given);
  return { recipe: found.recipe, left: [...new Set([...found.left, ...left])], from: "tool" };
}

/**
 * What a file says about how it was drawn; nothing, if it is no PNG or says nothing.
 *
 * @param {Blob} file
 * @returns {Promise<Found | undefined>}
 */
export async function fromFile(file) {
  const start = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  if (String(start) !== "137,80,78,71" || file.size > MOST_FILE) return undefined;
  const found = await texts(chunks(new Uint8Array(await file.arrayBuffer())), [SETTINGS, PICTURES, PARAMETERS]);
  const parameters = found[PARAMETERS] ?? "";
  const settings = found[SETTINGS] ?? (parameters.trimStart().startsWith("{") ? parameters : undefined);
  if (settings !== undefined) return fromSettings(json(settings), json(found[PICTURES] ?? "{}"));
  return parameters ? fromParameters(parameters) : undefined;
}

/** A picture's file with the pictures that steered it. @param {Blob} png @param {DrawOptions} options whose pictures are pixels */
export async function seal(png, { controls = [], init, mask }) {
  if (controls.length === 0 && !init) return png;
  const url = (/** @type {unknown} */ image) => dataUrl(/** @type {Pixels} */ (image));
  const pictures = {
    controls: await Promise.all(controls.map(({ image }) => url(image))),
    init: init && (await url(init)),
    mask: mask && (await url(mask)),
  };
  return withText(new Uint8Array(await png.arrayBuffer()), PICTURES, JSON.stringify(pictures));
}

/** Everything but pictures as the fragment of a link. @param {Recipe} recipe */
export function toLink(recipe) {
  const given = Object.entries(recipe).filter(([name, value]) => Object.hasOwn(FIELDS, name) && value !== undefined);
  return new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
}

/**
 * The recipe in a link's fragment; nothing, if there is none.
 *
 * @param {string} fragment
 * @returns {Found | undefined}
 */
export function fromLink(fragment) {
  const given = fragment.replace(/^#/, "");
  if (!given.includes("=")) return undefined;
  if (given.length > MOST_LINK) throw new InvalidError("invalid", "the link is too long", { parameter: "link" });
  const found = Object.fromEntries(new URLSearchParams(given));
  if (!Object.keys(found).some((name) => Object.hasOwn(FIELDS, name))) return undefined;
  /** @type {Record<string, unknown>} */
  const values = { ...found };
  for (const name of NUMBERS) if (Object.hasOwn(found, name)) values[name] = found[name].trim() === "" ? NaN : Number(found[name]);
  return { ...plain(values), from: "link" };
}

/** What is compared of two recipes, in the order of the form. */
const COMPARED = /** @type {const} */ ([
  "model", "prompt", "negativePrompt", "style", "background", "seed", "steps", "guidanceScale", "sampler", "exchange", "tLow", "upsampler", "strength", "draft",
  "styleScale", "spacing", "precision",
]);

/**
 * What tells two recipes apart: the part's name, and its two values.
 *
 * @param {Recipe} a
 * @param {Recipe} b
 * @returns {[string, unknown, unknown][]}
 */
export function differences(a, b) {
  /** @type {[string, unknown, unknown][]} */
  const found = COMPARED.filter((name) => a[name] !== b[name]).map((name) => [name, a[name], b[name]]);
  const [sizeA, sizeB] = [a, b].map(({ width, height }) => `${width} × ${height}`);
  if (sizeA !== sizeB) found.push(["width", sizeA, sizeB]);
  const same = (/** @type {Pixels | undefined} */ one, /** @type {Pixels | undefined} */ other) =>
    one === other || (one?.width === other?.width && one?.height === other?.height && String(one?.rgba) === String(other?.rgba));
  for (const kind of /** @type {const} */ (["outline", "variation"])) {
    const [ones, others] = [a, b].map(({ controls = [] }) => controls.filter((control) => control.kind === kind));
    for (let index = 0; index < Math.max(ones.length, others.length); index++) {
      const [one, other] = [ones[index], others[index]];
      if (!same(one?.image, other?.image)) found.push([kind, Boolean(one), Boolean(other)]);
      else for (const name of /** @type {const} */ (["strength", "until", "falloff"])) {
        if (one?.[name] !== other?.[name]) found.push([name === "strength" ? kind : name, one?.[name], other?.[name]]);
      }
    }
  }
  for (const name of /** @type {const} */ (["init", "mask"])) if (!same(a[name], b[name])) found.push([name, Boolean(a[name]), Boolean(b[name])]);
  return found;
}
