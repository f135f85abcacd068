/**
 * `<pangu-draw>`: a prompt becomes a picture, on any page, drawn by the visitor's own device.
 *
 *     <script type="module" src="https://any.host/pangu-draw/element.js"></script>
 *     <pangu-draw prompt="red apple" name="picture"></pangu-draw>
 *
 * No weights and no engine are fetched before somebody wants a picture, or the attribute `preload` says so. All elements of
 * a page that want the same model on the same device share one engine. docs/embedding.md tells what a page and a host must
 * allow.
 *
 * @module
 */

/**
 * @import { Generator } from "./pangu-draw.js"
 * @import { ControlKind, DeviceChoice, DrawOptions, Info, LoadProgress, PanguDrawElement as Face, PanguDrawElementEventMap, Picture, QueuePolicy, Restart, StepProgress } from "./types.js"
 * @import { Key, Language, Values } from "./element-i18n.js"
 */

import { CancelledError, CrashError, DeviceError, InvalidError, PanguDrawError } from "./engine.js";
import { Shared } from "./queue.js";
import { Slot } from "./element-pictures.js";
import { explanation, languageOf, megabytes, number, text } from "./element-i18n.js";
import { mark, node, paint, perFrame } from "./element-dom.js";
import { sheet } from "./element-style.js";

const here = import.meta.url;
/** The address of what lies beside this module; bundlers would take `new URL` for a file to bring along. @param {string} name */
const beside = (name) => here.replace(/[^/]*$/, name);
/** Beside this module. */
const DEFAULT_MODEL = "models/default/";
/** Steps between two previews: decoding one takes about as long as a step. */
const PREVIEW_EVERY = 4;
/** After so many milliseconds without a step the drawing waits for what is being loaded. */
const STALL = 1000;
/** @type {ControlKind[]} */
const KINDS = ["outline", "variation"];

/** Elements in the page. @type {Set<PanguDrawElement>} */
const present = new Set();

/** @typedef {{ file: File, picture: Picture, prompt: string, url: string }} Shown */

/** Elements can be told of only where there are any. @type {typeof HTMLElement} */
const Base = globalThis.HTMLElement ?? class {};

/** @implements {Face} */
export class PanguDrawElement extends Base {
  static formAssociated = true;
  static observedAttributes = ["model", "device", "prompt", "controls", "lang", "preload", "required", "width", "height"];

  #internals = this.attachInternals();
  /** @type {Language} */
  #language = "en";
  /** @type {Shared | undefined} */
  #shared;
  /** @type {Info | undefined} */
  #info;
  /** Drawings and loads that have not ended, and how many of them are drawings. */
  #active = 0;
  #drawings = 0;
  /** The load that runs. @type {{ done: Promise<void>, controller: AbortController } | undefined} */
  #loading;
  /** What is shown, and goes into the form. @type {Shown | undefined} */
  #shown;
  /** Whether the prompt is the visitor's, or was set as a property: then the attribute says no more than what a reset goes to. */
  #dirty = false;
  /** When the last step was heard of: what is loaded meanwhile is shown only where steps wait for it. */
  #stepped = -Infinity;
  /** When the running drawing got its turn. */
  #began = 0;
  /** Part of the drawing that is done. */
  #reached = 0;
  /** Bytes that a drawing would fetch; `sure` if what the browser has stored is taken off. */
  #size = { bytes: 0, sure: false };
  /** How often that was asked: the last answer counts. */
  #asked = 0;
  /** @type {Slot[]} */
  #slots = [];
  /** Says again, in the language now spoken, what was said last. */
  #sayStatus = () => {};
  #sayError = () => {};
  /** What `Try again` does. @type {() => Promise<unknown>} */
  #again = async () => {};
  /** @type {IntersectionObserver | undefined} */
  #sight;
  /** @type {MutationObserver | undefined} */
  #tongue;

  #prompt = node("textarea", { id: "prompt", rows: 1, maxLength: 2000, enterKeyHint: "go", part: "prompt" });
  #promptLabel = node("label", { htmlFor: "prompt", part: "label" });
  #pictures = node("div", { className: "form", part: "controls", hidden: true });
  #draw = node("button", { type: "button", className: "draw", part: "button" });
  #note = node("p", { id: "note", part: "note" });
  #progress = node("progress", { max: 1, value: 0, hidden: true, part: "progress" });
  #status = node("p", { part: "status" });
  #said = node("p", { className: "said", role: "status" });
  #errorText = node("p");
  #errorCode = node("code", { lang: "en" });
  #retry = node("button", { type: "button", className: "quiet", part: "retry" });
  #useCpu = node("button", { type: "button", className: "quiet", part: "use-cpu" });
  #error = node(
    "div",
    { className: "error", role: "alert", hidden: true, part: "error" },
    this.#errorText,
    this.#errorCode,
    node("div", { className: "ways" }, this.#retry, this.#useCpu),
  );
  #mark = mark();
  #canvas = node("canvas", { hidden: true, role: "img", part: "preview" });
  #image = node("img", { hidden: true, part: "image" });
  #plate = node("div", { className: "plate", part: "plate" }, this.#mark, this.#canvas, this.#image);
  #seed = node("span", { part: "seed" });
  #download = node("a", { className: "quiet", part: "download" });
  #caption = node("figcaption", { hidden: true, part: "caption" }, this.#seed, this.#download);

  constructor() {
    super();
    const form = node(
      "div",
      { className: "form" },
      node("div", { className: "ask" }, this.#promptLabel, this.#prompt),
      this.#pictures,
      this.#draw,
      node("div", { className: "state" }, this.#note, this.#progress, this.#status),
      this.#said,
      this.#error,
    );
    // Focusable by a click: else a click on the picture would focus the prompt, since the host delegates its focus.
    const figure = node("figure", { tabIndex: -1 }, this.#plate, this.#caption);
    const root = this.attachShadow({ mode: "open", delegatesFocus: true });
    root.adoptedStyleSheets = [sheet()];
    root.append(node("div", { className: "card", part: "card" }, form, figure));
    this.#draw.setAttribute("aria-describedby", "note");
    this.#internals.role = "group";

    this.#prompt.oninput = () => (this.#dirty = true);
    this.#prompt.onkeydown = (event) => {
      // While an input method composes, Enter takes its candidate.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (this.#drawings === 0 || this.queuePolicy === "replace") this.#press(() => this.draw());
    };
    this.#draw.onclick = () => (this.#drawings > 0 ? this.cancel() : this.#press(() => this.draw()));
    this.#retry.onclick = () => this.#press(this.#again);
    this.#useCpu.onclick = () => {
      this.device = "cpu";
      this.#press(this.#again);
    };
    this.addEventListener("paste", (event) => {
      const file = event.clipboardData?.files[0];
      const slot = this.#slots.find((slot) => slot.node.matches(":focus-within")) ?? this.#slots[0];
      // Office programs put a picture of a text beside it.
      if (!file || !slot || this.#disabled || event.clipboardData?.types.includes("text/plain")) return;
      event.preventDefault();
      slot.take(file);
    });
  }

  connectedCallback() {
    // What was set before the element was defined hides the properties of the class.
    for (const name of /** @type {(keyof this)[]} */ (PROPERTIES)) {
      if (!Object.hasOwn(this, name)) continue;
      const value = this[name];
      delete this[name];
      this[name] = value;
    }
    present.add(this);
    this.#tongue ??= new MutationObserver(() => this.#speak());
    this.#tongue.observe(document, { attributes: true, attributeFilter: ["lang"], subtree: true });
    this.#sight ??= new IntersectionObserver((seen) => {
      if (!seen.some(({ isIntersecting }) => isIntersecting)) return;
      this.#sight?.disconnect();
      this.#tellSize();
    });
    this.#sight.observe(this);
    this.#validate();
    this.#refresh();
    this.#speak();
    if (this.preload && !this.#shared) this.load().catch(() => {});
  }

  disconnectedCallback() {
    present.delete(this);
    this.#tongue?.disconnect();
    this.#sight?.disconnect();
    // Whoever moves an element takes it out and puts it in again at once.
    queueMicrotask(() => this.isConnected || this.#leave());
  }

  /** An element that is moved keeps all it has. */
  connectedMoveCallback() {
    this.#speak();
  }

  /** @param {string} name @param {string | null} before @param {string | null} after */
  attributeChangedCallback(name, before, after) {
    if (before === after) return;
    if (name === "prompt" && !this.#dirty) this.#prompt.value = after ?? "";
    if (name === "model" || name === "device") {
      this.#leave();
      this.#info = undefined;
    }
    if (name === "controls") this.#offer();
    if (name === "width" || name === "height") this.#shape();
    // What an element is parsed with is looked at when it is in the page.
    if (!present.has(this)) return;
    if (name === "lang") this.#speak();
    if (name === "required") this.#validate();
    if (name === "model" || name === "device") this.#tellSize();
    if (this.preload && ["model", "device", "preload"].includes(name)) this.load().catch(() => {});
  }

  formResetCallback() {
    this.#dirty = false;
    this.#prompt.value = this.getAttribute("prompt") ?? "";
    for (const slot of this.#slots) slot.clear();
    this.cancel();
    this.#settle(undefined);
    this.#say();
    this.#excuse();
  }

  /** @param {boolean} disabled */
  formDisabledCallback(disabled) {
    this.#prompt.disabled = this.#draw.disabled = this.#retry.disabled = this.#useCpu.disabled = disabled;
    for (const slot of this.#slots) slot.node.disabled = disabled;
  }

  get #disabled() {
    return this.matches(":disabled");
  }

  // Properties

  /** The folder that holds `model.json`, relative to the page. */
  get model() {
    return this.getAttribute("model") ?? beside(DEFAULT_MODEL);
  }
  set model(value) {
    this.#reflect("model", value);
  }

  get prompt() {
    return this.#prompt.value;
  }
  set prompt(value) {
    this.#dirty = true;
    this.#prompt.value = value;
  }

  get negativePrompt() {
    return this.getAttribute("negative-prompt") ?? "";
  }
  set negativePrompt(value) {
    this.#reflect("negative-prompt", value);
  }

  get pictureStyle() {
    return this.getAttribute("picture-style") ?? "";
  }
  set pictureStyle(value) {
    this.#reflect("picture-style", value);
  }

  get seed() {
    return this.#number("seed");
  }
  set seed(value) {
    this.#reflect("seed", value);
  }

  get steps() {
    return this.#number("steps");
  }
  set steps(value) {
    this.#reflect("steps", value);
  }

  get guidance() {
    return this.#number("guidance");
  }
  set guidance(value) {
    this.#reflect("guidance", value);
  }

  get width() {
    return this.#number("width");
  }
  set width(value) {
    this.#reflect("width", value);
  }

  get height() {
    return this.#number("height");
  }
  set height(value) {
    this.#reflect("height", value);
  }

  get controls() {
    return this.getAttribute("controls") ?? "";
  }
  set controls(value) {
    this.#reflect("controls", value);
  }

  /** @returns {DeviceChoice} */
  get device() {
    const device = this.getAttribute("device");
    return device === "cpu" || device === "webgpu" ? device : "auto";
  }
  set device(value) {
    this.#reflect("device", value);
  }

  /** @returns {"auto" | "light" | "dark"} */
  get theme() {
    const theme = this.getAttribute("theme");
    return theme === "light" || theme === "dark" ? theme : "auto";
  }
  set theme(value) {
    this.#reflect("theme", value);
  }

  /** @returns {QueuePolicy} */
  get queuePolicy() {
    const policy = this.getAttribute("queue-policy");
    return policy === "reject" || policy === "replace" ? policy : "queue";
  }
  set queuePolicy(value) {
    this.#reflect("queue-policy", value);
  }

  get preload() {
    return this.hasAttribute("preload");
  }
  set preload(value) {
    this.toggleAttribute("preload", Boolean(value));
  }

  get name() {
    return this.getAttribute("name") ?? "";
  }
  set name(value) {
    this.#reflect("name", value);
  }

  get required() {
    return this.hasAttribute("required");
  }
  set required(value) {
    this.toggleAttribute("required", Boolean(value));
  }

  get disabled() {
    return this.hasAttribute("disabled");
  }
  set disabled(value) {
    this.toggleAttribute("disabled", Boolean(value));
  }

  /** The picture that the form gets. */
  get value() {
    return this.#shown?.file ?? null;
  }

  get type() {
    return "pangu-draw";
  }
  get form() {
    return this.#internals.form;
  }
  get labels() {
    return this.#internals.labels;
  }
  get validity() {
    return this.#internals.validity;
  }
  get validationMessage() {
    return this.#internals.validationMessage;
  }
  get willValidate() {
    return this.#internals.willValidate;
  }
  checkValidity() {
    return this.#internals.checkValidity();
  }
  reportValidity() {
    return this.#internals.reportValidity();
  }

  /** @param {string} name @param {unknown} value */
  #reflect(name, value) {
    if (value === null || value === undefined) this.removeAttribute(name);
    else this.setAttribute(name, String(value));
  }

  /** @param {string} name */
  #number(name) {
    const value = this.getAttribute(name);
    return value === null ? null : Number(value);
  }

  // Methods

  /**
   * Draws what the attributes and the visitor say; `options` say more, or otherwise.
   *
   * @param {Partial<DrawOptions>} [options]
   * @returns {Promise<Picture>}
   */
  async draw(options = {}) {
    const prompt = String(options.prompt ?? this.prompt).trim();
    this.#drawings += 1;
    this.#begin();
    try {
      const shared = this.#engine();
      const wanted = { ...this.#wanted(), ...options, prompt };
      check(wanted);
      if (this.#active === 1) this.#say("waiting");
      const picture = await shared.draw(this, this.queuePolicy, { ...wanted, ...this.#hearing(options) }, (generator) => this.#turn(generator));
      const file = new File([picture.png], fileName(prompt, picture.seed), { type: "image/png" });
      this.#settle({ file, picture, prompt, url: URL.createObjectURL(picture.png) });
      const seconds = (performance.now() - this.#began) / 1000;
      this.#say("drawn", () => ({ seconds: number(this.#language, seconds, 1) }));
      this.#announce("drawn", { seconds: number(this.#language, seconds, 1) });
      this.#spread();
      this.#tell("image", { file, picture, prompt, seed: picture.seed });
      return picture;
    } catch (error) {
      throw this.#fail(error, { task: "draw", prompt }, () => this.draw(options));
    } finally {
      this.#drawings -= 1;
      this.#end();
    }
  }

  /** Fetches what the first step of a drawing needs; the rest follows. */
  load() {
    if (this.#loading) return this.#loading.done;
    const controller = new AbortController();
    const done = this.#load(controller.signal).finally(() => {
      if (this.#loading === loading) this.#loading = undefined;
    });
    const loading = (this.#loading = { done, controller });
    return done;
  }

  /** @param {AbortSignal} signal */
  async #load(signal) {
    this.#begin();
    try {
      if (this.#active === 1) this.#say("starting");
      const show = perFrame((/** @type {LoadProgress} */ progress) => this.#showLoad(progress));
      const spread = perFrame(() => this.#spread());
      const shared = this.#engine();
      await shared.load({
        signal,
        onProgress: (progress) => {
          if (shared !== this.#shared) return;
          this.#tell("load-progress", progress);
          show(progress);
          if (progress.loaded === progress.total) spread(undefined);
        },
      });
      this.#know((await shared.open()).info());
      if (this.#active === 1) this.#say("ready");
      this.#announce("ready");
    } catch (error) {
      throw this.#fail(error, { task: "load" }, () => this.load());
    } finally {
      this.#end();
    }
  }

  /** Ends what this element draws, waits for, or loads. */
  cancel() {
    this.#loading?.controller.abort();
    this.#loading = undefined;
    this.#shared?.cancel(this);
  }

  // The engine

  #engine() {
    this.#shared ??= Shared.join(this, address(this.model), this.device);
    return this.#shared;
  }

  /** Ends what runs, and lets go of the engine. */
  #leave() {
    this.cancel();
    this.#shared?.leave(this);
    this.#shared = undefined;
  }

  /** What the attributes and the visitor's pictures say. */
  #wanted() {
    return {
      negativePrompt: this.negativePrompt || undefined,
      style: this.pictureStyle || undefined,
      seed: this.seed ?? undefined,
      steps: this.steps ?? undefined,
      guidanceScale: this.guidance ?? undefined,
      width: this.width ?? undefined,
      height: this.height ?? undefined,
      controls: this.#slots.flatMap((slot) => slot.controls),
      previewEvery: PREVIEW_EVERY,
    };
  }

  /** What is done with what is heard of a drawing. @param {Partial<DrawOptions>} options */
  #hearing({ onLoad, onStep, onRestart }) {
    const showLoad = perFrame((/** @type {LoadProgress} */ progress) => this.#showLoad(progress));
    const showStep = perFrame((/** @type {StepProgress} */ progress) => this.#showStep(progress));
    return {
      onLoad: (/** @type {LoadProgress} */ progress) => {
        onLoad?.(progress);
        this.#tell("load-progress", progress);
        showLoad(progress);
      },
      onStep: (/** @type {StepProgress} */ progress) => {
        onStep?.(progress);
        this.#tell("step", progress);
        // Reports come faster than frames do; a preview must not be lost among them.
        if (progress.preview) this.#preview(progress.preview);
        showStep(progress);
      },
      onRestart: (/** @type {Restart} */ restart) => {
        onRestart?.(restart);
        this.#say("restarting");
      },
    };
  }

  /** It is this element's turn. @param {Promise<Generator>} opening */
  #turn(opening) {
    this.#began = performance.now();
    this.#stepped = -Infinity;
    this.#reached = 0;
    this.#excuse();
    this.#rest();
    this.#say("starting");
    const shared = this.#shared;
    opening.then((generator) => shared === this.#shared && this.#know(generator.info()), () => {});
  }

  /** @param {Info} info */
  #know(info) {
    this.#info = info;
    for (const slot of this.#slots) slot.know(info);
    this.#shape();
    this.#speakNote();
  }

  /** Something was fetched: what the others would fetch is less. */
  #spread() {
    for (const element of present) element.#tellSize();
  }

  /** Tells the visitor how much a drawing would fetch. */
  async #tellSize() {
    const question = ++this.#asked;
    let size = { bytes: 0, sure: false };
    try {
      const model = address(this.model);
      // Whoever has it opened may think better of it.
      const generator = await Shared.opened(model, this.device).catch(() => undefined);
      if (generator && question === this.#asked) this.#know(generator.info());
      const bytes = generator ? (await generator.plan(this.#wanted())).fetchBytes : await sizeOf(model);
      size = { bytes, sure: Boolean(generator) };
    } catch {
      // What fails here fails again, and is told, when somebody wants a picture.
    }
    if (question !== this.#asked) return;
    this.#size = size;
    this.#speakNote();
  }

  // What is seen and heard

  #begin() {
    this.#active += 1;
    this.#refresh();
  }

  #end() {
    this.#active -= 1;
    if (this.#active === 0) this.#progress.hidden = true;
    if (this.#drawings === 0) this.#rest();
    this.#refresh();
    // Nobody will take it out of a page that it is not in.
    if (this.#active === 0 && !this.isConnected) this.#leave();
  }

  /** Hands a picture, or none, to the eye and to the form. @param {Shown | undefined} shown */
  #settle(shown) {
    if (this.#shown) URL.revokeObjectURL(this.#shown.url);
    this.#shown = shown;
    this.#internals.setFormValue(shown?.file ?? null);
    this.#validate();
    if (shown) {
      this.#image.src = this.#download.href = shown.url;
      this.#image.alt = shown.prompt;
      this.#download.download = shown.file.name;
      this.#speakCaption();
    }
    this.#rest();
  }

  /** Shows what there is when nothing is being drawn. */
  #rest() {
    const shown = Boolean(this.#shown);
    this.#image.hidden = this.#caption.hidden = !shown;
    this.#mark.toggleAttribute("hidden", shown);
    // A picture may be transparent: what was painted before must not show through.
    this.#canvas.hidden = true;
    this.#shape();
  }

  /** Gives the plate the shape of the picture on it, or to come. @param {{ width?: number, height?: number }} [size] */
  #shape(size = this.#shown?.picture) {
    const width = size?.width || this.width || this.#info?.image.width || 1;
    const height = size?.height || this.height || this.#info?.image.height || width;
    this.#plate.style.setProperty("--ratio", String(width / height));
  }

  /** @param {import("./types.js").Pixels} pixels */
  #preview(pixels) {
    paint(this.#canvas, pixels);
    this.#shape(pixels);
    this.#canvas.hidden = false;
    this.#image.hidden = true;
    this.#mark.toggleAttribute("hidden", true);
  }

  /** @param {LoadProgress} progress */
  #showLoad({ stage, loaded, total, bytesPerSecond, secondsLeft }) {
    if (this.#active === 0 || performance.now() - this.#stepped < STALL) return;
    this.#progress.value = total > 0 ? loaded / total : 0;
    if (stage === "build") return this.#say("building");
    const size = (/** @type {number} */ bytes) => megabytes(this.#language, bytes);
    if (this.#progress.hidden) this.#announce("sayFetching", { total: size(total) });
    this.#progress.hidden = false;
    this.#say(bytesPerSecond ? "fetchingAtRate" : "fetching", () => ({
      loaded: size(loaded),
      total: size(total),
      rate: size(bytesPerSecond ?? 0),
      seconds: number(this.#language, secondsLeft ?? 0),
    }));
  }

  /** @param {StepProgress} progress */
  #showStep({ stage, step, steps, within }) {
    if (this.#active === 0) return;
    if (stage !== "text") {
      if (this.#stepped === -Infinity) this.#announce("sayDrawing");
      this.#stepped = performance.now();
    }
    // A step may take several evaluations: what was shown as done stays done.
    this.#reached = Math.max(this.#reached, stage === "decode" ? 1 : Math.min(1, (step + within) / steps));
    this.#progress.value = this.#reached;
    this.#progress.hidden = false;
    if (stage === "text") this.#say("reading");
    else if (stage === "decode") this.#say("decoding");
    else this.#say("stepping", () => ({ step: Math.min(step + 1, steps), steps }));
  }

  /**
   * Tells of a failure, or of an end that was wanted.
   *
   * @param {unknown} error
   * @param {{ task: "draw" | "load", prompt?: string }} what
   * @param {() => Promise<unknown>} again
   */
  #fail(error, what, again) {
    if (error instanceof CancelledError) {
      if (this.#active === 1) {
        this.#say("stopped");
        this.#announce("stopped");
      }
      this.#tell("cancel", what);
      return error;
    }
    const known = error instanceof PanguDrawError ? error : new PanguDrawError("other", String(error));
    if (this.#active === 1) this.#say();
    this.#again = again;
    this.#sayError = () => {
      const parameter = String(known.details.parameter ?? "");
      this.#errorText.textContent = text(this.#language, explanation(known), { parameter });
    };
    this.#sayError();
    this.#errorCode.textContent = `${known.code}: ${known.message}`;
    this.#useCpu.hidden = this.device === "cpu" || !(known instanceof DeviceError || known instanceof CrashError);
    const empty = known.details.parameter === "prompt";
    this.#errorCode.hidden = this.#retry.hidden = empty;
    this.#error.hidden = false;
    this.#tell("error", { ...what, error: known, code: known.code, message: known.message });
    return known;
  }

  /** Takes back what was said of a failure. */
  #excuse() {
    if (this.#error.contains(this.shadowRoot?.activeElement ?? null)) this.#draw.focus();
    this.#error.hidden = true;
    this.#sayError = () => {};
  }

  /** Does what the visitor asked for; what fails is shown. @param {() => Promise<unknown>} work */
  #press(work) {
    this.#excuse();
    work().catch((error) => error instanceof InvalidError && error.details.parameter === "prompt" && this.#prompt.focus());
  }

  /**
   * @template {keyof PanguDrawElementEventMap} Type
   * @param {Type} type
   * @param {PanguDrawElementEventMap[Type] extends CustomEvent<infer Detail> ? Detail : never} detail
   */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** Says how things stand, to the eye. @param {Key} [key] @param {() => Values} [values] */
  #say(key, values = () => ({})) {
    this.#sayStatus = () => (this.#status.textContent = key ? text(this.#language, key, values()) : "");
    this.#sayStatus();
  }

  /** Says it to the ear: what changes at every step would drown everything else. @param {Key} key @param {Values} [values] */
  #announce(key, values) {
    this.#said.textContent = text(this.#language, key, values);
  }

  #refresh() {
    const busy = this.#drawings > 0;
    this.#draw.textContent = text(this.#language, busy ? "cancel" : "draw");
    this.#draw.classList.toggle("cancels", busy);
    this.#speakNote();
  }

  /** Says everything in the language of the place. */
  #speak() {
    this.#language = languageOf(this);
    const say = (/** @type {Key} */ key) => text(this.#language, key);
    const root = /** @type {HTMLElement} */ (this.shadowRoot?.firstElementChild);
    root.lang = this.#language === "zh" ? "zh-Hans" : "en";
    this.#internals.ariaLabel = say("name");
    this.#promptLabel.textContent = say("prompt");
    this.#prompt.placeholder = say("promptHint");
    this.#progress.ariaLabel = say("progress");
    this.#canvas.ariaLabel = say("drawing");
    this.#download.textContent = say("download");
    this.#retry.textContent = say("retry");
    this.#useCpu.textContent = say("useCpu");
    for (const slot of this.#slots) slot.speak(this.#language);
    this.#refresh();
    this.#speakCaption();
    this.#sayStatus();
    this.#sayError();
    this.#validate();
  }

  #speakCaption() {
    if (this.#shown) this.#seed.textContent = text(this.#language, "seed", { seed: this.#shown.picture.seed });
  }

  /** Says what a drawing costs. */
  #speakNote() {
    const { bytes, sure } = this.#size;
    const size = megabytes(this.#language, bytes);
    const notes = [];
    if (bytes > 0 && this.#active === 0) notes.push(text(this.#language, sure ? "size" : "firstSize", { size }));
    if (this.#info?.fallback) notes.push(text(this.#language, "fallback"));
    this.#note.textContent = notes.join(this.#language === "zh" ? "" : " ");
    this.#note.hidden = notes.length === 0;
  }

  #validate() {
    if (this.required && !this.#shown) {
      this.#internals.setValidity({ valueMissing: true }, text(this.#language, "missing"), this.#prompt);
    } else {
      this.#internals.setValidity({});
    }
  }

  /** Offers the kinds of pictures that `controls` names. */
  #offer() {
    const named = this.controls.split(/\s+/);
    const kinds = KINDS.filter((kind) => named.includes(kind));
    this.#slots = kinds.map((kind) => new Slot(kind, () => this.#takeIn()));
    this.#pictures.replaceChildren(...this.#slots.map((slot) => slot.node));
    this.#pictures.hidden = kinds.length === 0;
    for (const slot of this.#slots) {
      slot.speak(this.#language);
      slot.node.disabled = this.#disabled;
    }
  }

  /** A picture was chosen or taken away: what would be fetched is not what it was, and only the engine knows. */
  #takeIn() {
    if (this.#slots.some((slot) => slot.controls.length > 0)) this.#engine().open().catch(() => {});
    this.#tellSize();
  }
}

/** Properties that may be set before the element is defined. */
const PROPERTIES = Object.entries(Object.getOwnPropertyDescriptors(PanguDrawElement.prototype))
  .filter(([, { set }]) => set)
  .map(([name]) => name);

/** The absolute address of a model. @param {string} model */
function address(model) {
  try {
    return new URL(model.replace(/\/?$/, "/"), document.baseURI).href;
  } catch {
    throw new InvalidError("invalid", `model: ${model} is no address`, { parameter: "model" });
  }
}

/** Fails for what needs no engine to be refused. @param {DrawOptions} options */
function check(options) {
  if (!options.prompt) throw new InvalidError("invalid", "prompt: is empty", { parameter: "prompt" });
  for (const name of /** @type {const} */ (["seed", "steps", "guidanceScale", "width", "height"])) {
    if (!Number.isNaN(options[name])) continue;
    throw new InvalidError("invalid", `${name}: is no number`, { parameter: name });
  }
}

/** What was asked for before, by model. @type {Map<string, Promise<number>>} */
const sizes = new Map();

/**
 * Bytes that a first drawing fetches: those of the engine and of all files but the one that takes pictures in. Two small
 * requests; the engine's own plan knows better, but needs the engine.
 *
 * @param {string} model
 */
async function sizeOf(model) {
  const asked = sizes.get(model) ?? Promise.all([
    fetch(new URL("model.json", model)),
    // In these very words, which tell a bundler to bring the file along.
    fetch(new URL("./pkg/pangu_draw_bg.wasm", import.meta.url), { method: "HEAD" }),
  ]).then(async ([list, engine]) => {
    const { components } = await list.json();
    const needed = components.filter((/** @type {{ role: string }} */ { role }) => role !== "encoder");
    const bytes = needed.reduce((/** @type {number} */ sum, /** @type {{ bytes: number }} */ part) => sum + part.bytes, 0);
    const all = bytes + Number(engine.headers.get("content-length"));
    return Number.isSafeInteger(all) ? all : 0;
  });
  sizes.set(model, asked);
  asked.catch(() => sizes.delete(model));
  return asked;
}

/** @param {string} prompt @param {number} seed */
const fileName = (prompt, seed) => `${prompt.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60)}-${seed}.png`;

if (globalThis.customElements && !customElements.get("pangu-draw")) customElements.define("pangu-draw", PanguDrawElement);
