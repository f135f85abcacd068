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
 * @module
 */

/**
 * @import { ControlKind, DrawOptions, DrawRequest, Info, LoadOptions, LoadProgress, Picture, PictureMessage, PictureSource, Pictures, Pixels, StepProgress } from "./types.js"
 */

import { CrashError, DisposedError, Engine, PanguDrawError } from "./engine.js";
import { read } from "./pictures.js";

export {
  CancelledError,
  CrashError,
  DeviceError,
  DisposedError,
  InvalidError,
  ModelError,
  PanguDrawError,
  ReadError,
  UnsupportedError,
} from "./engine.js";

/** A loaded model. Pictures are drawn one after another. */
export class Generator {
  #url;
  #options;
  #engine;
  #info;
  /** The start of a new engine. @type {ReturnType<typeof boot> | undefined} */
  #reviving;
  /** Ends when the drawings before have ended. @type {Promise<unknown>} */
  #queue = Promise.resolve();

  /**
   * @param {string} url
   * @param {LoadOptions} options
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
   * Loads the model folder at `url` (the one that holds `model.json`).
   *
   * @param {string | URL} url
   * @param {LoadOptions} [options]
   * @returns {Promise<Generator>}
   */
  static async load(url, options = {}) {
    const address = String(url);
    const { engine, info } = await boot(address, options);
    return new Generator(address, options, engine, info);
  }

  /**
   * Draws one picture. Pictures that steer it are read at once: what becomes of a canvas later does not matter.
   *
   * @param {DrawOptions} options
   * @returns {Promise<Picture>}
   */
  generate({ signal, onLoad, onStep, controls = [], init, mask, ...options }) {
    const seed = options.seed ?? Math.floor(Math.random() * 2 ** 32);
    const request = { ...options, seed, controls: controls.map(({ image, ...control }) => control) };
    const pictures = Promise.all([
      Promise.all(controls.map(({ image }) => read(image))),
      init && read(init),
      mask && read(mask),
    ]).then(([controls, init, mask]) => ({ controls, init, mask }));
    pictures.catch(() => {}); // It fails where it is waited for.
    const onEvent = (/** @type {LoadProgress | StepProgress} */ event) =>
      "total" in event ? onLoad?.(event) : onStep?.(event);
    const picture = this.#queue.then(async () => this.#draw(request, await pictures, signal, onEvent));
    this.#queue = picture.catch(() => {});
    return picture;
  }

  /**
   * @param {DrawRequest} request
   * @param {Pictures} pictures
   * @param {AbortSignal | undefined} signal
   * @param {(event: LoadProgress | StepProgress) => void} onEvent
   * @returns {Promise<Picture>}
   */
  async #draw(request, pictures, signal, onEvent) {
    const engine = await this.#alive(signal);
    /** @type {PictureMessage} */
    const { png, ...picture } = await engine.call({ op: "generate", request, pictures }, signal, onEvent);
    return { ...picture, seed: request.seed, png: new Blob([png], { type: "image/png" }) };
  }

  /** The engine; a new one, if the last one crashed. @param {AbortSignal} [signal] */
  async #alive(signal) {
    if (!(this.#engine.ended instanceof CrashError)) return this.#engine;
    this.#reviving ??= boot(this.#url, { ...this.#options, signal }).finally(() => (this.#reviving = undefined));
    const { engine, info } = await this.#reviving;
    [this.#engine, this.#info] = [engine, info];
    return engine;
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
    this.#engine.end(new DisposedError("disposed", "the generator was disposed"));
  }
}

/**
 * Starts a worker and loads the model in it.
 *
 * @param {string} url
 * @param {LoadOptions} options
 */
async function boot(url, { device = "auto", onProgress, signal }) {
  const engine = new Engine();
  try {
    /** @type {Info} */
    const info = await engine.call({ op: "load", url: new URL(url, document.baseURI).href, device }, signal, onProgress);
    return { engine, info };
  } catch (error) {
    engine.end(error instanceof PanguDrawError ? error : new CrashError("crash", String(error)));
    throw error;
  }
}
