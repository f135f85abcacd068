/** The page: reads the form, shows what the generator says. */

/** @import { DrawOptions, Info, LoadOptions, LoadProgress, Picture, StepProgress } from "../types.js" */
/** @import { Key } from "./i18n.js" */
/** @import { Found, Recipe } from "./recipe.js" */
/** @import { Drawn } from "./strip.js" */

import {
  CancelledError,
  CrashError,
  DeviceError,
  Generator,
  InvalidError,
  PanguDrawError,
  ReadError,
  deleteStoredModel,
  storedModels,
} from "../pangu-draw.js";
import { EXAMPLES, choose, current, megabytes, number, text, translate } from "./i18n.js";
import { intercept, offer, offered, resize, speak as speakControls, steering } from "./controls.js";
import { paintNoise, paintPixels, paintSmoothly } from "./canvas.js";
import { fromFile, fromLink, seal } from "./recipe.js";
import { element } from "./dom.js";
import * as actions from "./actions.js";
import * as cast from "./cast.js";
import * as extras from "./extras.js";
import * as gallery from "./gallery.js";
import * as notices from "./notices.js";
import * as offline from "./offline.js";
import * as restore from "./restore.js";
import * as strip from "./strip.js";
import { learn, surpriseButton } from "./suggestions.js";
import * as technique from "./technique.js";

const query = new URLSearchParams(location.search);
const modelUrl = query.get("model") ?? cast.DEFAULT_MODEL;
/** Steps between two previews of the decoder, where the model has no cheaper one: one takes about as long as a step. */
const PREVIEW_EVERY = 4;
/** Strengths of a control that are compared. */
const STRENGTHS = [0, 0.25, 0.5, 0.75, 1];
/** Pictures of one request that are drawn at once. */
const VARIATIONS = 4;
/** Sizes to choose from, as multiples of the size that the model was trained on: across, down. */
const SIZES = [
  [1, 1],
  [2, 2],
  [2, 1],
  [1, 2],
];

const ui = {
  form: element("form", HTMLFormElement),
  prompt: element("prompt", HTMLTextAreaElement),
  examples: element("examples", HTMLElement),
  styleField: element("style-field", HTMLElement),
  style: element("style", HTMLSelectElement),
  backgroundField: element("background-field", HTMLElement),
  background: element("background", HTMLSelectElement),
  colour: element("colour", HTMLInputElement),
  sizeField: element("size-field", HTMLElement),
  size: element("size", HTMLSelectElement),
  seed: element("seed", HTMLInputElement),
  negative: element("negative", HTMLInputElement),
  steps: element("steps", HTMLInputElement),
  guidance: element("guidance", HTMLInputElement),
  sampler: element("sampler", HTMLSelectElement),
  coopFields: element("coop-fields", HTMLElement),
  exchange: element("exchange", HTMLSelectElement),
  until: element("until", HTMLInputElement),
  bridgeFields: element("bridge-fields", HTMLElement),
  tLow: element("t-low", HTMLInputElement),
  upsampler: element("upsampler", HTMLSelectElement),
  compare: element("compare", HTMLButtonElement),
  draw: element("draw", HTMLButtonElement),
  four: element("four", HTMLButtonElement),
  cancel: element("cancel", HTMLButtonElement),
  status: element("status", HTMLElement),
  fetch: element("fetch", HTMLProgressElement),
  device: element("device", HTMLElement),
  language: element("language", HTMLButtonElement),
  error: element("error", HTMLElement),
  errorText: element("error-text", HTMLElement),
  errorDetails: element("error-details", HTMLElement),
  useCpu: element("use-cpu", HTMLButtonElement),
  plate: element("plate", HTMLElement),
  leaf: element("leaf", HTMLElement),
  canvas: element("canvas", HTMLCanvasElement),
  picture: element("picture", HTMLImageElement),
  axis: element("axis", HTMLElement),
  tick: element("axis-tick", HTMLElement),
  structure: element("axis-structure", HTMLElement),
  texture: element("axis-texture", HTMLElement),
  caption: element("caption", HTMLElement),
  kept: element("kept", HTMLDetailsElement),
  keptNone: element("kept-none", HTMLElement),
  keptList: element("kept-list", HTMLElement),
  openFile: element("open-file", HTMLButtonElement),
  file: element("file", HTMLInputElement),
};

/** @type {"auto" | "webgpu" | "cpu"} */
let device = ((asked) => (asked === "cpu" || asked === "webgpu" ? asked : "auto"))(query.get("device"));
/** The model, loaded or on its way. @type {Promise<Generator> | undefined} */
let loading;
/** The model, if it was opened without being loaded; or on its way there. @type {{ generator: Promise<Generator>, controller: AbortController } | undefined} */
let opened;
/** What was loaded. @type {Info | undefined} */
let info;
/** Stops the load. @type {AbortController | undefined} */
let stopLoad;
/** Stops the drawing. @type {AbortController | undefined} */
let stopDraw;
/** The picture on show. @type {Drawn | undefined} */
let shown;

/** What the form is filled with as soon as the model is known. @type {Found | undefined} */
let awaited;

/** Part of the drawing that is done. */
let reached = 0;

/** Says again, in the language now chosen, what the page last said. @type {() => void} */
let sayStatus = () => {};
let sayError = () => {};

/** @param {Key} key @param {() => Record<string, string | number>} [values] */
function status(key, values = () => ({})) {
  sayStatus = () => {
    const words = text(key, values());
    ui.status.textContent = stopDraw && stopLoad ? `${words} ${text("queued")}` : words;
  };
  sayStatus();
}

/** Runs `report` at most once a frame, with the newest argument. @template T @param {(value: T) => void} report */
function perFrame(report) {
  /** @type {T | undefined} */
  let newest;
  return (/** @type {T} */ value) => {
    if (newest === undefined) requestAnimationFrame(() => {
      if (newest !== undefined) report(newest);
      newest = undefined;
    });
    newest = value;
  };
}

/** Listens to what arrives. */
function heard() {
  const shown = perFrame(onLoad);
  return (/** @type {LoadProgress} */ progress) => {
    technique.hearLoad(progress);
    shown(progress);
  };
}

/** The loaded model; starts the load unless it runs already. */
function load() {
  if (loading) return loading;
  const controller = (stopLoad = new AbortController());
  status("starting");
  refresh();
  const options = { device, onProgress: heard(), signal: controller.signal };
  loading = start(options).catch((error) => {
    // The model was replaced meanwhile. Once: its list of files is read anew.
    if (!(error instanceof PanguDrawError && error.code === "changed")) throw error;
    return start(options);
  });
  loading.then(onLoaded, (error) => {
    loading = opened = undefined;
    fail(error);
  }).finally(() => {
    stopLoad = undefined;
    endFetch();
    refresh();
  });
  return loading;
}

/** Opens the model and loads what its first step needs. @param {LoadOptions} options */
async function start(options) {
  const { controller } = opened ?? {};
  options.signal?.addEventListener("abort", () => controller?.abort());
  const generator = await (opened?.generator ?? Generator.open(modelUrl, options));
  opened = undefined;
  try {
    await possible(generator);
    await generator.loadWeights(options);
    return generator;
  } catch (error) {
    generator.dispose();
    throw error;
  }
}

/**
 * Fails where a drawing cannot come about, before anything is fetched for it.
 *
 * @param {Generator} generator
 * @param {DrawOptions} [options]
 */
async function possible(generator, options) {
  const { obstacle, fetchBytes } = await generator.plan(options);
  if (obstacle) throw new DeviceError("device", obstacle);
  // The engine would go on asking for a while.
  if (fetchBytes > 0 && !navigator.onLine) throw new ReadError("read", `no network; ${fetchBytes} bytes are missing`);
}

function endFetch() {
  ui.fetch.hidden = true;
  notices.notice("offline", false);
}

/** @param {LoadProgress} progress */
function onLoad({ stage, component, loaded, total, stored, bytesPerSecond, secondsLeft }) {
  ui.fetch.hidden = loaded === total;
  ui.fetch.max = Math.max(total, 1);
  ui.fetch.value = loaded;
  ui.fetch.title = `${component}: ${number(loaded, 0)} / ${number(total, 0)} B`;
  // What comes when the page can draw already, or draws, does so in silence.
  if (!stopLoad) return;
  if (stage === "build") return status("building");
  const values = () => ({
    loaded: megabytes(loaded),
    total: megabytes(total),
    rate: megabytes(bytesPerSecond ?? 0),
    seconds: number(secondsLeft ?? 0, 0),
  });
  if (stored === loaded) status("restoring", values);
  else status(bytesPerSecond ? "fetchingAtRate" : "fetching", values);
}

/** @param {Generator} generator */
function onLoaded(generator) {
  info = generator.info();
  // What somebody has typed meanwhile stays.
  ui.steps.defaultValue = String(info.defaults.steps);
  ui.guidance.defaultValue = String(info.defaults.guidanceScale);
  ui.sampler.replaceChildren(...info.samplers.map((name) => new Option(name.replaceAll("_", " "), name)));
  ui.sampler.value = info.defaults.sampler;
  ui.axis.style.setProperty("--boundary", `${(info.boundary ?? 1) * 100}%`);
  ui.tick.hidden = ui.structure.hidden = ui.texture.hidden = info.boundary === null;
  const { width, height, max } = info.image;
  const sizes = SIZES.map(([across, down]) => [across * width, down * height]).filter((size) => Math.max(...size) <= max);
  ui.size.disabled = false;
  ui.size.replaceChildren(...sizes.map((size) => new Option(size.join(" × "), size.join(" "))));
  ui.sizeField.hidden = sizes.length < 2;
  ui.coopFields.hidden = info.controls.length === 0;
  ui.bridgeFields.hidden = !info.encodes;
  ui.tLow.placeholder = String(info.defaults.tLow);
  offer(info, (kind, image) => generator.view(kind, image, chosenSize()));
  takeSize();
  status("ready");
  describe();
  const { url, vocabulary } = info;
  const words = vocabulary ? new URL(vocabulary, url.endsWith("/") ? url : `${url}/`).href : undefined;
  learn(words).then((known) => known && describe());
  notices.sayWhetherKept(generator);
  // What somebody has made of the prompt meanwhile stays.
  if (awaited) take({ ...awaited, recipe: { ...awaited.recipe, prompt: ui.prompt.value } });
}

/** The size to be drawn. */
function chosenSize() {
  const [width, height] = ui.size.value.split(" ").map(Number);
  return { width, height };
}

/** Shows what follows from the chosen size. */
function takeSize() {
  resize(chosenSize());
  if (!stopDraw && !shown) shape(chosenSize());
}

/** Gives the plate the shape of a picture. @param {{ width: number, height: number }} size */
function shape({ width, height }) {
  ui.leaf.style.setProperty("--ratio", String(width / height));
}

/**
 * Offers values by their names, and keeps the one that was chosen.
 *
 * @param {HTMLSelectElement} select
 * @param {string[]} values
 * @param {string} standard
 */
function fill(select, values, standard) {
  const chosen = select.value || standard;
  select.replaceChildren(...values.map((value) => new Option(text(/** @type {Key} */ (value)), value)));
  select.value = chosen;
}

/** What depends on both the model and the language. */
function describe() {
  ui.examples.replaceChildren(
    ...EXAMPLES.map((pair, index) => {
      // Two of them in the other language: one may write in either.
      const language = index % 3 === 2 ? (current() === "en" ? "zh" : "en") : current();
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.className = "quiet";
      button.lang = language === "zh" ? "zh-Hans" : "en";
      button.textContent = pair[language];
      button.onclick = () => {
        ui.prompt.value = pair[language];
        ui.prompt.focus();
      };
      item.append(button);
      return item;
    }),
  );
  const surprising = surpriseButton();
  if (surprising) {
    const item = document.createElement("li");
    item.append(surprising);
    ui.examples.append(item);
  }
  if (!info) return;
  const { styles, defaults, fallback, deviceDetail } = info;
  const chosen = ui.style.disabled ? (defaults.style ?? "") : ui.style.value;
  ui.styleField.hidden = styles.length === 0;
  const options = styles.map(({ id, name }) => new Option(name[current()], id));
  if (defaults.style === null) options.unshift(new Option(text("noStyle"), ""));
  ui.style.replaceChildren(...options);
  ui.style.value = chosen;
  ui.style.disabled = false;
  ui.backgroundField.hidden = !info.transparency;
  fill(ui.exchange, info.exchanges, defaults.exchange);
  fill(ui.upsampler, info.upsamplers, defaults.upsampler);
  ui.device.hidden = false;
  ui.device.title = `${deviceDetail}, ${info.precision}`;
  ui.device.textContent = text(info.device === "cpu" ? "onCpu" : "onWebgpu");
  notices.notice("fallback", fallback);
}

/** Which buttons there are. */
function refresh() {
  const busy = Boolean(stopDraw);
  for (const button of [ui.draw, ui.four, ui.compare]) button.setAttribute("aria-disabled", String(busy));
  if (!busy && !stopLoad && document.activeElement === ui.cancel) ui.draw.focus();
  ui.cancel.hidden = !busy && !stopLoad;
}

/** Reads a number field; an empty one means the model's own setting. @param {HTMLInputElement} field */
const numeric = (field) => (field.value.trim() === "" ? undefined : Number(field.value));

/** Whether the form can be read; if not, the field at fault is in focus. */
function readable() {
  if (!ui.prompt.value.trim()) {
    ui.prompt.focus();
    return false;
  }
  const faulty = /** @type {HTMLInputElement | null} */ (ui.form.querySelector("input:invalid"));
  if (!faulty) return true;
  tell(new InvalidError("invalid", faulty.validationMessage, { parameter: faulty.name || faulty.id }));
  for (const panel of ui.form.querySelectorAll("details")) panel.open ||= panel.contains(faulty);
  faulty.focus();
  return false;
}

/** What the form asks for, the pictures included. @returns {DrawOptions & { seed: number }} */
const asked = () => ({
  prompt: ui.prompt.value.trim(),
  seed: numeric(ui.seed) ?? Math.floor(Math.random() * 2 ** 32),
  negativePrompt: ui.negative.value.trim(),
  style: ui.style.value || undefined,
  steps: numeric(ui.steps),
  guidanceScale: numeric(ui.guidance),
  sampler: ui.sampler.value || undefined,
  background: ui.background.value === "colour" ? ui.colour.value : "transparent",
  exchange: ui.exchange.value || undefined,
  tLow: numeric(ui.tLow),
  upsampler: ui.upsampler.value || undefined,
  ...chosenSize(),
  ...steering(numeric(ui.until)),
  ...extras.settings(),
});

/**
 * Draws one or more pictures, unless something is being drawn: `work` gets what the form asks for, and a function that draws.
 *
 * @param {(options: DrawOptions & { seed: number }, drawOne: (options: DrawOptions, say?: typeof sayStep) => Promise<Drawn>) => Promise<unknown>} work
 */
async function busy(work) {
  if (stopDraw || !readable()) return;
  ui.error.hidden = true;
  restore.say();
  const { signal } = (stopDraw = new AbortController());
  sayStatus();
  refresh();
  try {
    const generator = await load();
    const options = asked();
    await possible(generator, options);
    await cast.meet(generator, options);
    ui.plate.scrollIntoView({ block: "nearest", behavior: "smooth" });
    await work(options, async (options, say = sayStep) => {
      clearPlate(options);
      technique.begin(generator.info().model);
      const picture = await generator.generate({
        ...options,
        previewEvery: generator.info().projects ? 0 : PREVIEW_EVERY,
        insight: true,
        signal,
        onLoad: heard(),
        onStep(progress) {
          const { preview, previewBy } = progress;
          if (preview) (previewBy === "projection" ? paintSmoothly : paintPixels)(ui.canvas, preview);
          technique.hearStep(progress);
          showStep({ ...progress, say });
        },
        onRestart: () => status("restarting"),
      });
      notices.notice("overflow", picture.arithmetic.overflows.length > 0);
      return finish(options, picture);
    });
    // Where the GPU was lost, the CPU may draw now.
    if (generator.info().device !== info?.device) {
      info = generator.info();
      describe();
    }
    notices.sayWhetherKept(generator);
  } catch (error) {
    fail(error);
  } finally {
    stopDraw = undefined;
    endFetch();
    refresh();
  }
}

/** Makes a picture its own file's whole story, keeps it, and shows it. @param {DrawOptions} options @param {Picture} picture */
async function finish(options, picture) {
  const drawn = strip.drawn(picture, await seal(picture.png, options), options.prompt);
  show(drawn);
  await keep(drawn, options);
  return drawn;
}

/** Keeps the picture on show in the history. @param {Drawn} drawn @param {DrawOptions | Recipe} from @param {boolean} [opened] */
async function keep(drawn, from, opened) {
  const { prompt, negativePrompt, style, controls = [], init } = from;
  const named = info?.styles.find(({ id }) => id === style)?.name;
  const model = "model" in from ? from.model : info?.model;
  const words = [prompt, negativePrompt, named?.en, named?.zh, model, drawn.seed].join(" ");
  await gallery.keep(drawn, { steered: controls.length > 0 || Boolean(init), words, opened });
  if (shown === drawn) show(drawn);
}

const draw = () =>
  busy(async (options, drawOne) => {
    const started = performance.now();
    if (!strip.kept()) strip.clear();
    await strip.against(await drawOne(options));
    axis(1);
    sayDrawn(started);
  });

/** Draws the request from several seeds. */
const drawFour = () =>
  busy(async (options, drawOne) => {
    const started = performance.now();
    strip.begin("variations");
    for (let index = 0; index < VARIATIONS; index++) {
      // Of a seed that was asked for, the next ones; else any.
      const seed = numeric(ui.seed) === undefined && index > 0 ? Math.floor(Math.random() * 2 ** 32) : options.seed + index;
      const values = { picture: index + 1, pictures: VARIATIONS };
      const drawn = await drawOne({ ...options, seed }, (step, steps) => status("drawingFour", () => ({ ...values, step, steps })));
      strip.place(drawn, () => String(seed), () => text("fourItem", { picture: index + 1 }));
    }
    axis(1);
    sayDrawn(started);
  });

/** Draws the same seed at several strengths of the first control. */
const compare = () =>
  busy(async ({ controls: [first, ...others] = [], ...options }, drawOne) => {
    const started = performance.now();
    strip.begin("strengths");
    for (const [index, strength] of STRENGTHS.entries()) {
      const controls = [{ ...first, strength }, ...others];
      const drawn = await drawOne({ ...options, controls }, (step, steps) =>
        status("comparing", () => ({
          strength: number(strength, 2),
          picture: index + 1,
          pictures: STRENGTHS.length,
          step,
          steps,
        })),
      );
      const value = () => number(strength, 2);
      strip.place(drawn, value, () => text("stripItem", { strength: value() }));
    }
    axis(1);
    sayDrawn(started);
  });

/** @param {number} started */
function sayDrawn(started) {
  const seconds = (performance.now() - started) / 1000;
  status("drawn", () => ({ seconds: number(seconds, 1) }));
}

/** @param {number} step @param {number} steps */
function sayStep(step, steps) {
  status("stepping", () => ({ step, steps }));
}

/** Reports within a step come faster than frames do; a preview must not be lost among them. */
const showStep = perFrame(onStep);

/** @param {StepProgress & { say: typeof sayStep }} progress */
function onStep({ stage, step, steps, within, say }) {
  if (!stopDraw) return;
  ui.fetch.hidden = true;
  // A step may take several evaluations, and a preview has blocks of its own: what was shown as done stays done.
  reached = Math.max(reached, stage === "decode" ? 1 : Math.min(1, (step + within) / steps));
  axis(reached, stage === "denoise");
  if (stage === "text") status("reading");
  else if (stage === "decode") status("decoding");
  else say(Math.min(step + 1, steps), steps);
}

/** Shows how much is done, and which of the two experts works on it. @param {number} done @param {boolean} [working] */
function axis(done, working = false) {
  const boundary = info?.boundary ?? 1;
  ui.axis.style.setProperty("--done", String(done));
  ui.axis.setAttribute("aria-valuenow", String(Math.round(done * 100)));
  ui.structure.classList.toggle("at-work", working && done < boundary);
  ui.texture.classList.toggle("at-work", working && done >= boundary);
}

/** Shows the noise that a seed stands for. @param {DrawOptions} options */
function clearPlate({ seed = 0, width = 1, height = 1 }) {
  ui.picture.hidden = true;
  ui.canvas.hidden = false;
  ui.caption.hidden = true;
  shown = undefined;
  strip.mark(shown);
  gallery.mark(shown);
  reached = 0;
  axis(0);
  shape({ width, height });
  paintNoise(ui.canvas, seed);
}

/** @param {Drawn} drawn */
function show(drawn) {
  shown = drawn;
  shape(drawn);
  ui.picture.src = drawn.url;
  ui.picture.alt = drawn.prompt;
  ui.picture.hidden = false;
  // A picture may be transparent: what was painted before must not show through.
  ui.canvas.hidden = true;
  strip.mark(drawn);
  gallery.mark(drawn);
  actions.offer(drawn);
}

/** Shows a picture that was chosen among small ones. @param {Drawn} drawn */
function choosePicture(drawn) {
  show(drawn);
  ui.plate.scrollIntoView({ block: "nearest", behavior: "smooth" });
}

/** Fills the form; at once, or as soon as it is known what the model can do. @param {Found} found */
async function take(found) {
  awaited = found;
  ui.prompt.value = found.recipe.prompt ?? "";
  if (!info) return restore.say("takenSoon");
  awaited = undefined;
  const { recipe, left } = found;
  const undone = await restore.fill(recipe, info);
  const other = recipe.model !== undefined && recipe.model !== info.model;
  const all = [...left, ...undone];
  const key = found.from === "link" ? "takenLink" : found.from === "tool" ? "takenForeign" : other || all.length > 0 ? "takenPart" : "taken";
  restore.say(key, { left: all, model: other ? recipe.model : undefined });
}

/** Fills the form for somebody who looks elsewhere. @param {Found} found */
async function takeAndShow(found) {
  await take(found);
  ui.draw.focus();
}

/** Shows the picture in a file, and keeps it with those that were drawn. @param {Blob} file @param {Found} found */
async function showFile(file, { recipe }) {
  const drawn = await gallery.read(file, recipe);
  if (!drawn) return;
  show(drawn);
  await keep(drawn, recipe, true);
}

/** Takes what a file says of how it was drawn. @param {Blob} file @param {boolean} [ask] whether it may be wanted for something else */
async function takeFile(file, ask = false) {
  const found = await fromFile(file).catch(() => null);
  if (!found) {
    if (found === null) restore.say("takenDamaged");
    else if (!ask || !offered()) restore.say("takenNothing");
    return found === null || !ask;
  }
  const wish = ask ? await restore.ask(file, found) : "settings";
  if (wish === "settings") await Promise.all([takeAndShow(found), showFile(file, found)]);
  return wish !== "steer";
}

/** Takes the settings in the address, if there are any. */
function takeLink() {
  try {
    const found = fromLink(location.hash);
    if (found) take(found);
  } catch {
    restore.say("takenWrongLink");
  }
}

/** What the page calls the engine's parameters. @type {Record<string, Key>} */
const PARAMETERS = {
  prompt: "prompt",
  "negative prompt": "negativePrompt",
  style: "style",
  background: "background",
  seed: "seed",
  steps: "steps",
  "guidance scale": "guidance",
  guidance: "guidance",
  sampler: "sampler",
  width: "size",
  height: "size",
  strength: "overStrength",
  control: "steer",
  mask: "changeMask",
  exchange: "exchange",
  until: "until",
  "t low": "tLow",
  "t-low": "tLow",
  upsampler: "upsampler",
  "style scale": "styleScale",
  spacing: "spacing",
  precision: "precision",
};

/** What engines and browsers say when there is not enough memory. */
const OUT_OF_MEMORY = /out of memory|memory allocation|could not allocate|do not fit into/i;

/** Which sentence explains an error. @param {unknown} error @returns {Key} */
function explanation(error) {
  if (!(error instanceof PanguDrawError)) return "errorOther";
  if (error.details.parameter === "image") return "errorImage";
  if (OUT_OF_MEMORY.test(error.message)) return "errorMemory";
  if (error instanceof ReadError && !navigator.onLine) return "errorOffline";
  /** @type {Record<string, Key>} */
  const keys = {
    ModelError: "errorModel",
    ReadError: "errorRead",
    WriteError: "errorStore",
    InvalidError: "errorInvalid",
    UnsupportedError: "errorUnsupported",
    DeviceError: "errorDevice",
    CrashError: "errorCrash",
  };
  return keys[error.name] ?? "errorOther";
}

/** @param {unknown} error */
function fail(error) {
  axis(0);
  if (error instanceof CancelledError) return status("stopped");
  status("stopped");
  if (error instanceof DeviceError) {
    // A device that has failed is not to be trusted again: the next drawing starts anew.
    loading?.then((generator) => generator.dispose(), () => {});
    loading = undefined;
  }
  tell(error);
}

/** Explains an error. @param {unknown} error */
function tell(error) {
  const details = error instanceof PanguDrawError ? error.details : {};
  const parameter = String(details.parameter ?? "");
  sayError = () => {
    const name = PARAMETERS[parameter];
    ui.errorText.textContent = text(explanation(error), { parameter: name ? text(name) : parameter });
  };
  sayError();
  ui.errorDetails.textContent = error instanceof PanguDrawError ? `${error.code}: ${error.message}` : String(error);
  ui.useCpu.hidden = device === "cpu" || !(error instanceof DeviceError || error instanceof CrashError);
  ui.error.hidden = false;
}

/** Starts over on the CPU. */
async function drawOnCpu() {
  const before = loading;
  device = "cpu";
  loading = undefined;
  await before?.then((generator) => generator.dispose(), () => {});
  await draw();
}

ui.form.addEventListener("submit", (event) => {
  event.preventDefault();
  draw();
});
ui.prompt.addEventListener("keydown", (event) => {
  // While an input method composes, Enter takes its candidate.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ui.form.requestSubmit();
});
ui.cancel.addEventListener("click", () => {
  stopLoad?.abort();
  stopDraw?.abort();
});
ui.useCpu.addEventListener("click", drawOnCpu);
ui.compare.addEventListener("click", compare);
ui.four.addEventListener("click", drawFour);
ui.openFile.addEventListener("click", () => ui.file.click());
ui.file.addEventListener("change", async () => {
  if (ui.file.files?.[0]) await takeFile(ui.file.files[0]);
  ui.file.value = ""; // The same file may be chosen again.
});
intercept((file) => takeFile(file, true));
addEventListener("hashchange", takeLink);
ui.size.addEventListener("change", takeSize);
ui.background.addEventListener("change", () => {
  ui.colour.hidden = ui.background.value !== "colour";
});
ui.language.addEventListener("click", () => {
  choose(current() === "en" ? "zh" : "en");
  speak();
});

/** Says everything in the chosen language. */
function speak() {
  translate(document);
  ui.language.lang = current() === "en" ? "zh-Hans" : "en";
  describe();
  speakControls();
  technique.show();
  for (const part of [actions, extras, gallery, notices, offline, restore, strip]) part.speak();
  if (ui.kept.open) listKept().catch(fail);
  sayStatus();
  sayError();
}

strip.start(choosePicture, () => info);
gallery.start(choosePicture);
actions.start(takeAndShow, ({ url }) => {
  if (shown?.url === url) clearPlate(shown);
});
speak();
takeLink();
paintNoise(ui.canvas, Math.floor(Math.random() * 2 ** 32));
axis(0);
/** Says what a drawing would have to fetch, and waits for somebody to want one. */
async function wait() {
  const controller = new AbortController();
  opened = { generator: Generator.open(modelUrl, { device, signal: controller.signal }), controller };
  const { fetchBytes } = await (await opened.generator).plan();
  if (!loading) status("waiting", () => ({ total: megabytes(fetchBytes) }));
}

/** Lists the models that the browser keeps, each with a button that deletes it. */
async function listKept() {
  const models = await storedModels();
  ui.keptNone.hidden = models.length > 0;
  ui.keptList.replaceChildren(
    ...models.map(({ address, titleEn, titleZh, storedBytes, bytes }) => {
      const item = document.createElement("li");
      const name = document.createElement("span");
      const remove = document.createElement("button");
      const title = current() === "zh" ? titleZh : titleEn;
      name.textContent = text("keptModel", { title, stored: megabytes(storedBytes), bytes: megabytes(bytes) });
      name.title = address;
      remove.type = "button";
      remove.className = "quiet";
      remove.textContent = text("keptDelete");
      remove.setAttribute("aria-label", text("keptDeleteModel", { title }));
      remove.onclick = () =>
        deleteStoredModel(address).then(
          (freed) => {
            status("keptDeleted", () => ({ title, freed: megabytes(freed) }));
            return listKept();
          },
          fail,
        );
      item.append(name, remove);
      return item;
    }),
  );
}

for (const type of ["online", "offline"]) {
  window.addEventListener(type, () => notices.notice("offline", !navigator.onLine && !ui.fetch.hidden));
}
ui.kept.addEventListener("toggle", () => ui.kept.open && listKept().catch(fail));
// On a metered connection the download waits for a wish to draw.
const opening = /** @type {any} */ (navigator).connection?.saveData ? wait().catch(() => (opened = undefined)) : load().catch(() => {});
// Not earlier: what the page itself waits for comes first.
opening.then(offline.keep);
