/**
 * One engine for all who want the same model on the same device, and the queue of what is drawn with it.
 *
 * Drawings take turns in the order in which they were asked for. Who asks says what happens when it is not their turn yet:
 * - `queue`: the drawing waits.
 * - `reject`: it fails with `BusyError`, whoever is drawing.
 * - `replace`: it takes the place of what the same owner has running or waiting; that ends with `CancelledError`. What others
 *   asked for is never touched.
 *
 * @module
 */

/** @import { DeviceChoice, DrawOptions, LoadOptions, Picture, PictureSource, QueuePolicy } from "./types.js" */

import { BusyError, CancelledError, Generator, PanguDrawError } from "./pangu-draw.js";
import { read } from "./pictures.js";

/** How long an engine outlives its last user, in milliseconds: a page that swaps its contents wants it again at once. */
const GRACE = 10_000;

/** Those in use, by model and device. @type {Map<string, Shared>} */
const all = new Map();

/** An engine that several owners share. */
export class Shared {
  #key;
  #model;
  #device;
  /** @type {Set<object>} */
  #owners = new Set();
  /** `waiting`: how many wait for it, until it is there. @type {{ generator: Promise<Generator>, controller: AbortController, waiting: number } | undefined} */
  #opening;
  /** @type {{ owner: object, controller: AbortController, signal: AbortSignal }[]} */
  #jobs = [];
  /** Ends when the drawings before have ended. @type {Promise<unknown>} */
  #tail = Promise.resolve();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {string} key @param {string} model @param {DeviceChoice} device */
  constructor(key, model, device) {
    this.#key = key;
    this.#model = model;
    this.#device = device;
  }

  /**
   * The engine of a model, by its absolute address, on a device. `owner` has it until it says {@link Shared.leave}.
   *
   * @param {object} owner
   * @param {string} model
   * @param {DeviceChoice} device
   */
  static join(owner, model, device) {
    const key = `${device} ${model}`;
    const shared = all.get(key) ?? new Shared(key, model, device);
    all.set(key, shared);
    shared.#owners.add(owner);
    clearTimeout(shared.#timer);
    return shared;
  }

  /** The engine of a model on a device, if somebody has started it. @param {string} model @param {DeviceChoice} device */
  static async opened(model, device) {
    const shared = all.get(`${device} ${model}`);
    return shared && shared.#opening?.generator;
  }

  /** Cancels what `owner` still waits for. The last one to leave lets the engine go, after a while. @param {object} owner */
  leave(owner) {
    this.cancel(owner);
    this.#owners.delete(owner);
    if (this.#owners.size > 0) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      all.delete(this.#key);
      this.#drop();
    }, GRACE);
  }

  /**
   * Starts the engine, unless it runs, and reads the model's list of files. If all who wait for that think better of it, so does
   * the engine.
   *
   * @param {AbortSignal} [signal]
   */
  async open(signal) {
    if (signal?.aborted) throw new CancelledError("cancelled", "cancelled");
    const opening = (this.#opening ??= this.#start());
    opening.waiting += 1;
    try {
      return await unless(signal, opening.generator);
    } finally {
      opening.waiting -= 1;
      // A drawing that took the place of another one will ask next.
      const wanted = opening.waiting > 0 || this.#jobs.some(({ signal }) => !signal.aborted);
      if (signal?.aborted && !wanted && this.#opening === opening) this.#drop();
    }
  }

  #start() {
    const controller = new AbortController();
    const generator = Generator.open(this.#model, { device: this.#device, signal: controller.signal });
    const opening = { generator, controller, waiting: 0 };
    generator.then(
      // From now on it stays for the next one.
      () => (opening.waiting = Infinity),
      () => {
        if (this.#opening === opening) this.#opening = undefined;
      },
    );
    return opening;
  }

  /** Loads what the first step of a drawing needs; the rest follows. @param {Pick<LoadOptions, "onProgress" | "signal">} options */
  async load(options) {
    try {
      // Nobody asked the visitor for anything: it is not this page that they came for.
      await (await this.open(options.signal)).loadWeights({ ...options, persist: false });
    } catch (error) {
      this.#forget(error);
      throw error;
    }
  }

  /**
   * Draws when it is `owner`'s turn; `onTurn` hears of it, and gets what will draw.
   *
   * @param {object} owner
   * @param {QueuePolicy} policy
   * @param {DrawOptions} options
   * @param {(generator: Promise<Generator>) => void} onTurn
   * @returns {Promise<Picture>}
   */
  async draw(owner, policy, options, onTurn) {
    if (policy === "reject" && this.#jobs.length > 0) {
      throw new BusyError("busy", "something is being drawn: wait for it, or choose another queue policy");
    }
    if (policy === "replace") this.cancel(owner);
    const controller = new AbortController();
    const signal = options.signal ? AbortSignal.any([controller.signal, options.signal]) : controller.signal;
    const job = { owner, controller, signal };
    this.#jobs.push(job);
    const picture = this.#turn({ ...options, signal }, onTurn);
    // It ends in nothing: a chain of results would keep every picture.
    this.#tail = Promise.allSettled([this.#tail, picture]).then(() => {});
    try {
      return await picture;
    } catch (error) {
      this.#forget(error);
      throw error;
    } finally {
      this.#jobs.splice(this.#jobs.indexOf(job), 1);
    }
  }

  /** @param {DrawOptions & { signal: AbortSignal }} options @param {(generator: Promise<Generator>) => void} onTurn */
  async #turn(options, onTurn) {
    // Pictures are read at once: what becomes of a canvas later does not matter.
    const [settled] = await unless(options.signal, Promise.all([readAll(options), this.#tail]));
    const generator = this.open(options.signal);
    onTurn(generator);
    return (await generator).generate(settled);
  }

  /** Cancels all that `owner` draws or wants drawn. @param {object} owner */
  cancel(owner) {
    for (const job of this.#jobs) if (job.owner === owner) job.controller.abort();
  }

  /** Lets go of an engine whose list of files is not that of the files any more. @param {unknown} error */
  #forget(error) {
    if (error instanceof PanguDrawError && error.code === "changed") this.#drop();
  }

  #drop() {
    this.#opening?.controller.abort();
    this.#opening?.generator.then((generator) => generator.dispose(), () => {});
    this.#opening = undefined;
  }
}

/** What is asked for, with its pictures as pixels. @template {DrawOptions} Options @param {Options} options @returns {Promise<Options>} */
async function readAll({ controls = [], init, mask, ...options }) {
  const readIf = async (/** @type {PictureSource | undefined} */ image) => image && (await read(image));
  const [start, cover, ...images] = await Promise.all([init, mask, ...controls.map(({ image }) => image)].map(readIf));
  const steering = controls.map((control, index) => ({ ...control, image: images[index] }));
  return /** @type {any} */ ({ ...options, init: start, mask: cover, controls: steering });
}

/** What `promise` comes to, unless `signal` is aborted before. @template T @param {AbortSignal | undefined} signal @param {Promise<T>} promise */
async function unless(signal, promise) {
  const cancelled = () => new CancelledError("cancelled", "cancelled");
  if (!signal) return promise;
  if (signal.aborted) throw cancelled();
  let stop = () => {};
  const stopped = new Promise((_, reject) => {
    stop = () => reject(cancelled());
    signal.addEventListener("abort", stop);
  });
  try {
    return /** @type {T} */ (await Promise.race([promise, stopped]));
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
