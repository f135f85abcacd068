/** The page: reads the form, shows what the generator says. */

/** @import { DrawOptions, Info, LoadProgress, Picture, StepProgress } from "../types.js" */
/** @import { Key } from "./i18n.js" */

import {
  CancelledError,
  CrashError,
  DeviceError,
  Generator,
  InvalidError,
  PanguDrawError,
  deleteStoredModel,
  storedModels,
} from "../pangu-draw.js";
import { EXAMPLES, choose, current, megabytes, number, text, translate } from "./i18n.js";
import { offer, resize, speak as speakControls, steering } from "./controls.js";
import { paintNoise, paintPixels } from "./canvas.js";
import { element } from "./dom.js";

const query = new URLSearchParams(location.search);
const modelUrl = query.get("model") ?? "models/default/";
/** Pictures kept below the current one. */
const ALBUM = 24;
/** Steps between two previews: decoding one takes about as long as a step. */
const PREVIEW_EVERY = 4;
/** Strengths of a control that are compared. */
const STRENGTHS = [0, 0.25, 0.5, 0.75, 1];
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
  cancel: element("cancel", HTMLButtonElement),
  status: element("status", HTMLElement),
  fetch: element("fetch", HTMLProgressElement),
  device: element("device", HTMLElement),
  language: element("language", HTMLButtonElement),
  notice: element("notice", HTMLElement),
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
  words: element("caption-words", HTMLElement),
  keepSeed: element("keep-seed", HTMLButtonElement),
  download: element("download", HTMLAnchorElement),
  strip: element("strip", HTMLElement),
  stripList: element("strip-list", HTMLElement),
  kept: element("kept", HTMLDetailsElement),
  keptNone: element("kept-none", HTMLElement),
  keptList: element("kept-list", HTMLElement),
  album: element("album", HTMLElement),
  albumList: element("album-list", HTMLElement),
};

/** @typedef {{ prompt: string, seed: number, url: string, width: number, height: number }} Drawn */

/** @type {"auto" | "webgpu" | "cpu"} */
let device = ((asked) => (asked === "cpu" || asked === "webgpu" ? asked : "auto"))(query.get("device"));
/** The model, loaded or on its way. @type {Promise<Generator> | undefined} */
let loading;
/** The model, if it was opened without being loaded. @type {Promise<Generator> | undefined} */
let opened;
/** What was loaded. @type {Info | undefined} */
let info;
/** Stops the load. @type {AbortController | undefined} */
let stopLoad;
/** Stops the drawing. @type {AbortController | undefined} */
let stopDraw;
/** The picture on show. @type {Drawn | undefined} */
let shown;

/** Part of the drawing that is done. */
let reached = 0;

/** Says again, in the language now chosen, what the page last said. @type {() => void} */
let sayStatus = () => {};
let sayError = () => {};

/** @param {Key} key @param {() => Record<string, string | number>} [values] */
function status(key, values = () => ({})) {
  sayStatus = () => (ui.status.textContent = text(key, values()));
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

/** The loaded model; starts the load unless it runs already. */
function load() {
  if (loading) return loading;
  const controller = (stopLoad = new AbortController());
  status("starting");
  refresh();
  const options = { device, onProgress: perFrame(onLoad), signal: controller.signal };
  loading = opened
    ? opened.then(async (generator) => {
        await generator.loadWeights(options);
        return generator;
      })
    : Generator.load(modelUrl, options);
  loading.then(onLoaded, (error) => {
    loading = opened = undefined;
    fail(error);
  }).finally(() => {
    stopLoad = undefined;
    ui.fetch.hidden = true;
    refresh();
  });
  return loading;
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
  ui.steps.value = String(info.defaults.steps);
  ui.guidance.value = String(info.defaults.guidanceScale);
  ui.sampler.replaceChildren(...info.samplers.map((name) => new Option(name.replaceAll("_", " "), name)));
  ui.sampler.value = info.defaults.sampler;
  ui.axis.style.setProperty("--boundary", `${(info.boundary ?? 1) * 100}%`);
  ui.tick.hidden = ui.structure.hidden = ui.texture.hidden = info.boundary === null;
  const { width, height, max } = info.image;
  const sizes = SIZES.map(([across, down]) => [across * width, down * height]).filter((size) => Math.max(...size) <= max);
  ui.size.replaceChildren(...sizes.map((size) => new Option(size.join(" × "), size.join(" "))));
  ui.sizeField.hidden = sizes.length < 2;
  ui.coopFields.hidden = info.controls.length === 0;
  ui.bridgeFields.hidden = !info.encodes;
  ui.tLow.placeholder = String(info.defaults.tLow);
  offer(info, (kind, image) => generator.view(kind, image, chosenSize()));
  takeSize();
  status("ready");
  describe();
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
  if (shown) caption(shown);
  if (!info) return;
  const { styles, defaults, fallback, deviceDetail } = info;
  const chosen = ui.style.options.length > 0 ? ui.style.value : (defaults.style ?? "");
  ui.styleField.hidden = styles.length === 0;
  const options = styles.map(({ id, name }) => new Option(name[current()], id));
  if (defaults.style === null) options.unshift(new Option(text("noStyle"), ""));
  ui.style.replaceChildren(...options);
  ui.style.value = chosen;
  ui.backgroundField.hidden = !info.transparency;
  fill(ui.exchange, info.exchanges, defaults.exchange);
  fill(ui.upsampler, info.upsamplers, defaults.upsampler);
  ui.device.hidden = false;
  ui.device.title = `${deviceDetail}, ${info.precision}`;
  ui.device.textContent = text(info.device === "cpu" ? "onCpu" : "onWebgpu");
  ui.notice.hidden = !fallback;
  ui.notice.textContent = text("fallback");
}

/** Which buttons there are. */
function refresh() {
  const busy = Boolean(stopDraw);
  for (const button of [ui.draw, ui.compare]) button.setAttribute("aria-disabled", String(busy));
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
  const faulty = [ui.seed, ui.steps, ui.guidance, ui.until, ui.tLow].find((field) => !field.checkValidity());
  if (!faulty) return true;
  fail(new InvalidError("invalid", faulty.validationMessage, { parameter: faulty.id }));
  faulty.focus();
  return false;
}

/** What the form asks for, the pictures included. @returns {DrawOptions} */
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
});

/**
 * Draws one or more pictures, unless something is being drawn: `work` gets what the form asks for, and a function that draws.
 *
 * @param {(options: DrawOptions, drawOne: (options: DrawOptions, say?: typeof sayStep) => Promise<Picture>) => Promise<unknown>} work
 */
async function busy(work) {
  if (stopDraw || !readable()) return;
  ui.error.hidden = true;
  const { signal } = (stopDraw = new AbortController());
  refresh();
  try {
    const generator = await load();
    ui.plate.scrollIntoView({ block: "nearest", behavior: "smooth" });
    await work(asked(), (options, say = sayStep) => {
      clearPlate(options);
      return generator.generate({
        ...options,
        previewEvery: PREVIEW_EVERY,
        signal,
        onLoad: perFrame(onLoad),
        onStep(progress) {
          if (progress.preview) paintPixels(ui.canvas, progress.preview);
          showStep({ ...progress, say });
        },
      });
    });
  } catch (error) {
    fail(error);
  } finally {
    stopDraw = undefined;
    ui.fetch.hidden = true;
    refresh();
  }
}

const draw = () =>
  busy(async (options, drawOne) => {
    const started = performance.now();
    ui.strip.hidden = true;
    const picture = await drawOne(options);
    keep(options.prompt, picture);
    axis(1);
    sayDrawn(started, picture.arithmetic.overflows.length > 0);
  });

/** Draws the same seed at several strengths of the first control. */
const compare = () =>
  busy(async ({ controls: [first, ...others] = [], ...options }, drawOne) => {
    const started = performance.now();
    let again = false;
    for (const image of ui.stripList.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    ui.stripList.replaceChildren();
    for (const [index, strength] of STRENGTHS.entries()) {
      const controls = [{ ...first, strength }, ...others];
      const picture = await drawOne({ ...options, controls }, (step, steps) =>
        status("comparing", () => ({
          strength: number(strength, 2),
          picture: index + 1,
          pictures: STRENGTHS.length,
          step,
          steps,
        })),
      );
      again ||= picture.arithmetic.overflows.length > 0;
      const item = document.createElement("li");
      const label = document.createElement("span");
      const button = thumbnail(drawn(options.prompt, picture));
      label.textContent = number(strength, 2);
      label.ariaHidden = "true";
      button.dataset.strength = String(strength);
      item.append(button, label);
      ui.stripList.append(item);
      ui.strip.hidden = false;
      entitle(button);
      button.click();
    }
    axis(1);
    sayDrawn(started, again);
  });

/** @param {number} started @param {boolean} again Whether f16 was too small somewhere. */
function sayDrawn(started, again) {
  const seconds = (performance.now() - started) / 1000;
  status(again ? "drawnAgain" : "drawn", () => ({ seconds: number(seconds, 1) }));
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
  reached = 0;
  axis(0);
  shape({ width, height });
  paintNoise(ui.canvas, seed);
}

/** @param {string} prompt @param {Picture} picture @returns {Drawn} */
const drawn = (prompt, { png, seed, width, height }) => ({ prompt, seed, width, height, url: URL.createObjectURL(png) });

/** A small picture that shows itself large when it is pressed. @param {Drawn} drawn */
function thumbnail(drawn) {
  const button = document.createElement("button");
  const image = document.createElement("img");
  button.type = "button";
  button.dataset.prompt = drawn.prompt;
  button.onclick = () => {
    show(drawn);
    ui.plate.scrollIntoView({ block: "nearest", behavior: "smooth" });
  };
  image.src = drawn.url;
  image.alt = "";
  button.append(image);
  return button;
}

/** Says what a small picture is. @param {HTMLButtonElement} button */
function entitle(button) {
  const { prompt = "", strength } = button.dataset;
  const words = strength === undefined ? text("recall", { prompt }) : text("stripItem", { strength: number(Number(strength), 2) });
  button.setAttribute("aria-label", words);
}

/** @param {string} prompt @param {Picture} picture */
function keep(prompt, picture) {
  const item = document.createElement("li");
  const newest = drawn(prompt, picture);
  const button = thumbnail(newest);
  entitle(button);
  item.append(button);
  ui.albumList.prepend(item);
  const surplus = ui.albumList.children[ALBUM];
  if (surplus) {
    URL.revokeObjectURL(surplus.querySelector("img")?.src ?? "");
    surplus.remove();
  }
  ui.album.hidden = ui.albumList.children.length < 2;
  show(newest);
}

/** @param {Drawn} drawn */
function show(drawn) {
  if (stopDraw && shown) return;
  shown = drawn;
  shape(drawn);
  ui.picture.src = drawn.url;
  ui.picture.alt = drawn.prompt;
  ui.picture.hidden = false;
  // A picture may be transparent: what was painted before must not show through.
  ui.canvas.hidden = true;
  for (const button of ui.stripList.querySelectorAll("button")) {
    button.ariaCurrent = String(button.querySelector("img")?.src === drawn.url);
  }
  caption(drawn);
}

/** @param {Drawn} drawn */
function caption({ prompt, seed, url }) {
  ui.words.textContent = prompt;
  ui.keepSeed.textContent = text("keepSeed", { seed });
  ui.keepSeed.onclick = () => (ui.seed.value = String(seed));
  ui.download.href = url;
  ui.download.download = `${prompt.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60)}-${seed}.png`;
  ui.caption.hidden = false;
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
};

/** Which sentence explains an error. @param {unknown} error @returns {Key} */
function explanation(error) {
  if (!(error instanceof PanguDrawError)) return "errorOther";
  if (error.details.parameter === "image") return "errorImage";
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
  for (const list of [ui.albumList, ui.stripList]) list.querySelectorAll("button").forEach(entitle);
  describe();
  speakControls();
  if (ui.kept.open) listKept().catch(fail);
  sayStatus();
  sayError();
}

speak();
paintNoise(ui.canvas, Math.floor(Math.random() * 2 ** 32));
axis(0);
/** Says what a drawing would have to fetch, and waits for somebody to want one. */
async function wait() {
  opened = Generator.open(modelUrl, { device });
  const { fetchBytes } = await (await opened).plan();
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

ui.kept.addEventListener("toggle", () => ui.kept.open && listKept().catch(fail));
// On a metered connection the download waits for a wish to draw.
if (/** @type {any} */ (navigator).connection?.saveData) wait().catch(() => (opened = undefined));
else load().catch(() => {});
