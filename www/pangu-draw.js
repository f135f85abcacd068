/**
 * PanGu-Draw for a page: loads a model into a worker and draws with it. The networks never run on the page's thread.
 *
 *     const generator = await Generator.load("models/default/", { onProgress });
 *     const picture = await generator.generate({ prompt: "red apple", seed: 7, onStep });
 *     image.src = URL.createObjectURL(picture.png);
 *
 *     const controls = [{ kind: "outline", image: sketch, strength: 0.8 }]; // a canvas, a file, an <img> ...
 *     await generator.generate({ prompt: "red apple", controls });
 *
 *     const generator = await Generator.open("models/default/"); // nothing is downloaded but the list of files
 *     const { fetchBytes, peakWeightBytes } = await generator.plan();
 *
 * @module
 */

/**
 * @import { Call, CheckpointMessage, ControlKind, DrawOptions, DrawRequest, Info, LoadOptions, LoadProgress, Memory, OpenOptions, Picture, PictureMessage, PictureSource, Pictures, Pixels, Plan, Restart, StepProgress, StoredModel } from "./types.js"
 */

import { CancelledError, CrashError, DisposedError, Engine, ModelError, PanguDrawError } from "./engine.js";
import { read } from "./pictures.js";

export {
  BusyError,
  CancelledError,
  CrashError,
  DeviceError,
  DisposedError,
  InvalidError,
  ModelError,
  PanguDrawError,
  ReadError,
  UnsupportedError,
  WriteError,
} from "./engine.js";

/** How often the engine may die without getting any further, before a drawing fails. */
const RESTARTS = 2;

/** A model that draws. Pictures are drawn one after another. If the engine dies, a new one goes on where it stood. */
export class Generator {
  #url;
  #options;
  #engine;
  #info;
  /** The start of a new engine. @type {Promise<void> | undefined} */
  #reviving;
  /** @type {DisposedError | undefined} */
  #disposed;
  /** Ends when the drawings before have ended. @type {Promise<unknown>} */
  #queue = Promise.resolve();

  /**
   * @param {string} url
   * @param {OpenOptions} options
   * @param {Engine} engine
   * @param {Info} info
   */
  constructor(url, options, engine, info) {
    this.#url = url;
    this.#options = options;
    this.#engine = engine;
    this.#info = info;
  }

  /**
   * Opens the model folder at `url` (the one that holds `model.json`). Nothing else is downloaded: weights come when they are
   * needed, or with {@link Generator.loadWeights}.
   *
   * @param {string | URL} url
   * @param {OpenOptions} [options]
   * @returns {Promise<Generator>}
   */
  static async open(url, options = {}) {
    const address = String(url);
    const { engine, info } = await boot(address, options);
    return new Generator(address, options, engine, info);
  }

  /**
   * Opens a model folder and loads what the first step of a drawing needs. The rest keeps coming, in the order of its need.
   *
   * @param {string | URL} url
   * @param {LoadOptions} [options]
   * @returns {Promise<Generator>}
   */
  static async load(url, options = {}) {
    const generator = await Generator.open(url, options);
    try {
      await generator.loadWeights(options);
      return generator;
    } catch (error) {
      generator.dispose();
      // Once: the new list of files is read with the next opening.
      if (error instanceof ModelError && error.code === "changed" && !("again" in options)) {
        return Generator.load(url, /** @type {LoadOptions} */ ({ ...options, again: true }));
      }
      throw error;
    }
  }

  /**
   * Loads what the first step of a drawing needs, and goes on with the rest when that is here.
   *
   * @param {Pick<LoadOptions, "all" | "onProgress" | "persist" | "signal">} [options]
   */
  async loadWeights({ all = false, persist = true, onProgress, signal } = {}) {
    // Asked for early: it may need the user's consent, and nothing waits for it.
    if (persist) navigator.storage?.persist?.().catch(() => {});
    const engine = await this.#alive(signal);
    await engine.call({ op: "load", all }, signal, onProgress);
    if (all) return;
    // What fails here fails again, and is told, when a drawing needs it.
    engine.call({ op: "load", all: true }, signal, onProgress).catch(() => {});
  }

  /**
   * What a drawing takes: bytes to download, bytes stored, memory, and whether this device can do it. Nothing is downloaded for
   * it but lists of files.
   *
   * @param {Omit<DrawOptions, "prompt"> & { prompt?: string }} [options]
   * @returns {Promise<Plan>}
   */
  async plan({ prompt = "x", ...options } = {}) {
    const { request, pictures } = split({ prompt, ...options });
    return (await this.#alive()).call({ op: "plan", request, pictures: await pictures });
  }

  /** Memory that is in use. @returns {Promise<Memory>} */
  async memory() {
    return (await this.#alive()).call({ op: "memory" });
  }

  /**
   * Draws one picture. Pictures that steer it are read at once: what becomes of a canvas later does not matter.
   *
   * @param {DrawOptions} options
   * @returns {Promise<Picture>}
   */
  generate(options) {
    const { signal, onLoad, onStep, onRestart } = options;
    const { request, pictures } = split(options);
    pictures.catch(() => {}); // It fails where it is waited for.
    const onEvent = (/** @type {LoadProgress | StepProgress} */ event) =>
      "loaded" in event ? onLoad?.(event) : onStep?.(event);
    const picture = this.#queue.then(async () => this.#draw(request, await pictures, { signal, onEvent, onRestart }));
    this.#queue = picture.catch(() => {});
    return picture;
  }

  /**
   * Draws. If the engine dies over that, a new one goes on from the last checkpoint.
   *
   * @param {DrawRequest} request
   * @param {Pictures} pictures
   * @param {{ signal?: AbortSignal, onEvent: (event: any) => void, onRestart?: (restart: Restart) => void }} options
   * @returns {Promise<Picture>}
   */
  async #draw(request, pictures, { signal, onEvent, onRestart }) {
    let [left, step] = [RESTARTS, 0];
    /** @type {CheckpointMessage["checkpoint"] | undefined} */
    let checkpoint;
    const hear = (/** @type {LoadProgress | StepProgress | CheckpointMessage} */ event) => {
      if (!("checkpoint" in event)) return onEvent(event);
      left = RESTARTS;
      ({ step, checkpoint } = event);
    };
    for (;;) {
      const engine = await this.#alive(signal);
      try {
        /** @type {PictureMessage} */
        const { png, ...picture } = await engine.call({ op: "generate", request, pictures, checkpoint }, signal, hear);
        return { ...picture, seed: request.seed, png: new Blob([png], { type: "image/png" }) };
      } catch (error) {
        if (!engine.ended || error !== engine.ended || this.#disposed || left-- === 0) throw error;
        onRestart?.({ error: engine.ended, step });
      }
    }
  }

  /** The engine; a new one, if the last one died. @param {AbortSignal} [signal] */
  async #alive(signal) {
    if (this.#engine.ended && !this.#disposed) {
      // Several calls may wait for it, each with a signal of its own.
      this.#reviving ??= this.#revive().finally(() => (this.#reviving = undefined));
      await unlessAborted(signal, this.#reviving);
    }
    if (this.#disposed) throw this.#disposed;
    return this.#engine;
  }

  async #revive() {
    const { engine, info } = await boot(this.#url, { ...this.#options, signal: undefined });
    [this.#engine, this.#info] = [engine, info];
    if (this.#disposed) engine.end(this.#disposed);
  }

  /**
   * What the model that serves a control sees of a picture, where a picture of `size` is drawn. No weights are loaded for it,
   * and it does not wait for a drawing.
   *
   * @param {ControlKind} kind
   * @param {PictureSource} image
   * @param {{ width: number, height: number }} [size]
   * @returns {Promise<Pixels>}
   */
  async view(kind, image, { width, height } = this.#info.image) {
    const [engine, pixels] = await Promise.all([this.#alive(), read(image)]);
    return engine.call({ op: "view", kind, image: pixels, width, height });
  }

  /** What was loaded, and where it runs. */
  info() {
    return this.#info;
  }

  /** Stops the worker and frees its memory; running calls fail with `DisposedError`. */
  dispose() {
    this.#disposed ??= new DisposedError("disposed", "the generator was disposed");
    this.#engine.end(this.#disposed);
  }
}

/**
 * What `work` comes to, unless `signal` is aborted first; it goes on even so.
 *
 * @template Result
 * @param {AbortSignal | undefined} signal
 * @param {Promise<Result>} work
 * @returns {Promise<Result>}
 */
async function unlessAborted(signal, work) {
  if (!signal) return work;
  /** @type {(reason: CancelledError) => void} */
  let reject;
  const aborted = new Promise((_, no) => (reject = no));
  const abort = () => reject(new CancelledError("cancelled", "cancelled"));
  signal.addEventListener("abort", abort);
  if (signal.aborted) abort();
  try {
    return /** @type {Result} */ (await Promise.race([work, aborted]));
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/**
 * Parts what is asked for into plain values and pictures.
 *
 * @param {DrawOptions} options
 */
function split({ signal, onLoad, onStep, onRestart, controls = [], init, mask, ...options }) {
  const seed = options.seed ?? Math.floor(Math.random() * 2 ** 32);
  /** @type {DrawRequest} */
  const request = { ...options, seed, controls: controls.map(({ image, ...control }) => control) };
  const pictures = Promise.all([
    Promise.all(controls.map(({ image }) => read(image))),
    init && read(init),
    mask && read(mask),
  ]).then(([controls, init, mask]) => ({ controls, init, mask }));
  return { request, pictures };
}

/**
 * Starts a worker and opens the model in it. Nobody else has that worker yet: a cancel ends it, with all that it downloads.
 *
 * @param {string} url
 * @param {OpenOptions} options
 */
async function boot(url, { device = "auto", memory, store = true, signal }) {
  const cancelled = () => new CancelledError("cancelled", "cancelled");
  if (signal?.aborted) throw cancelled();
  const engine = new Engine();
  const cancel = () => engine.end(cancelled());
  signal?.addEventListener("abort", cancel);
  try {
    const address = new URL(url, document.baseURI).href;
    // JSON has no infinity, and no memory is so large.
    memory = memory === undefined ? memory : Math.min(memory, Number.MAX_SAFE_INTEGER);
    /** @type {Info} */
    const info = await engine.call({ op: "open", url: address, device, memory, store });
    return { engine, info };
  } catch (error) {
    engine.end(error instanceof PanguDrawError ? error : new CrashError("crash", String(error)));
    throw error;
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}

/** The models of which the browser has something stored. @returns {Promise<StoredModel[]>} */
export const storedModels = () => once({ op: "models" });

/**
 * Deletes what the browser has stored of a model, by {@link StoredModel.address}. Files that another stored model shares stay.
 *
 * @param {string} address
 * @returns {Promise<number>} bytes that were freed
 */
export const deleteStoredModel = (address) => once({ op: "delete", address });

/** Makes one call in a worker of its own. @param {Call} call @returns {Promise<any>} */
async function once(call) {
  const engine = new Engine();
  try {
    return await engine.call(call);
  } finally {
    engine.end(new DisposedError("disposed", "done"));
  }
}
