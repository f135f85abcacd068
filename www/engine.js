/** The worker behind the generators, and the errors that it answers with. */

/** @import { Call, ErrorMessage, FromWorker, ToWorker } from "./types.js" */

/** What every failure here is. `code` is stable; `message` is English and says what to do next. */
export class PanguDrawError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {Record<string, unknown>} [details]
   */
  constructor(code, message, details = {}) {
    super(message);
    this.name = new.target.name;
    /** Machine-readable kind of the error. */
    this.code = code;
    /** Further fields: the tensor's name, the chunk, the parameter. */
    this.details = details;
  }
}

/**
 * The model's files are damaged or do not belong together: `tensor-missing`, `tensor-unexpected`, `tensor-shape`, `corrupt`,
 * `checksum`; or they were replaced while they were loaded: `changed`.
 */
export class ModelError extends PanguDrawError {}
/** A file could not be fetched: `read`; the server does not give it out: `refused`, with `details.status`. */
export class ReadError extends PanguDrawError {}
/** The browser would not store or delete something: `write`. */
export class WriteError extends PanguDrawError {}
/** A parameter is out of its range: `invalid`; `details.parameter` names it. */
export class InvalidError extends PanguDrawError {}
/** The model cannot do what was asked: `unsupported`. */
export class UnsupportedError extends PanguDrawError {}
/** The caller's signal was aborted: `cancelled`. */
export class CancelledError extends PanguDrawError {}
/** There is no such device, or it failed: `device`. The next call starts over with a new one. */
export class DeviceError extends PanguDrawError {}
/** The worker died, again and again: `crash`. The next call starts a new one. */
export class CrashError extends PanguDrawError {}
/** The generator was disposed: `disposed`. */
export class DisposedError extends PanguDrawError {}
/** Something else is being drawn, and the caller would not wait: `busy`. */
export class BusyError extends PanguDrawError {}

/** The class of every code. @type {Record<string, typeof PanguDrawError>} */
export const CLASSES = {
  "tensor-missing": ModelError,
  "tensor-unexpected": ModelError,
  "tensor-shape": ModelError,
  corrupt: ModelError,
  checksum: ModelError,
  changed: ModelError,
  read: ReadError,
  refused: ReadError,
  write: WriteError,
  invalid: InvalidError,
  unsupported: UnsupportedError,
  cancelled: CancelledError,
  device: DeviceError,
  crash: CrashError,
  disposed: DisposedError,
  busy: BusyError,
};

/** @param {ErrorMessage} error */
const revive = ({ code, message, details }) => new (CLASSES[code] ?? PanguDrawError)(code, message, details);
const cancelled = () => revive({ code: "cancelled", message: "cancelled", details: {} });

/** Why a worker may not start that gives no reason. */
const UNSTARTED =
  "the worker could not be started. Are worker.js and what it imports served (from another origin: with" +
  " Access-Control-Allow-Origin), and does the page's Content-Security-Policy allow them (docs/embedding.md)?";

/** This module's address; where a bundler wrote it, perhaps none that anything can be fetched from. */
const here = import.meta.url;
/** Whether the page is of another origin. */
const foreign = () => /^https?:/.test(here) && new URL(here).origin !== globalThis.origin;

/** Starts the worker; bundlers know the last line by its very words. */
function start() {
  try {
    if (foreign()) return startForeign();
    return new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  } catch (error) {
    throw new CrashError("crash", `${UNSTARTED} (${error})`);
  }
}

/** The address of what {@link startForeign} starts. @type {string | URL | undefined} */
let importer;

/** Browsers start no worker of another origin, but a worker of the page's origin may import its module. */
function startForeign() {
  if (!importer) {
    // Not by `new URL`: bundlers would take it for a file of theirs.
    const source = `import ${JSON.stringify(here.replace(/[^/]*$/, "worker.js"))};`;
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    // Where a page asks for Trusted Types, it is to allow this name.
    const policy = /** @type {any} */ (globalThis).trustedTypes?.createPolicy("pangu-draw", {
      createScriptURL: (/** @type {string} */ url) => url,
    });
    importer = /** @type {string | URL} */ (policy?.createScriptURL(address) ?? address);
  }
  return new Worker(importer, { type: "module" });
}

/** A worker and the calls that wait for its answers. */
export class Engine {
  #worker = start();
  /** @type {Map<number, { resolve: (result: any) => void, reject: (error: Error) => void, onEvent?: (event: any) => void }>} */
  #calls = new Map();
  #lastId = 0;
  /** Why no call can be made any more. @type {PanguDrawError | undefined} */
  ended;

  constructor() {
    this.#worker.onmessage = ({ data }) => this.#receive(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.end(new CrashError("crash", event.message || UNSTARTED));
    };
  }

  /** @param {FromWorker} message */
  #receive(message) {
    if ("end" in message) return this.end(revive(message.end));
    if ("life" in message) return this.#watch(message.life);
    const call = this.#calls.get(message.id);
    if (!call) return;
    if ("event" in message) return call.onEvent?.(message.event);
    this.#calls.delete(message.id);
    if ("error" in message) call.reject(revive(message.error));
    else call.resolve(message.result);
  }

  /** Waits for the lock that the worker holds for life. @param {string} life */
  #watch(life) {
    const died = () => this.end(new CrashError("crash", "the worker was killed"));
    navigator.locks.request(life, died).catch(() => {});
  }

  /**
   * Sends one call; aborting `signal` cancels it in the worker, which then answers with a `CancelledError`.
   *
   * @template Result
   * @param {Call} message
   * @param {AbortSignal} [signal]
   * @param {(event: any) => void} [onEvent]
   * @returns {Promise<Result>}
   */
  call(message, signal, onEvent) {
    if (this.ended) return Promise.reject(this.ended);
    if (signal?.aborted) return Promise.reject(cancelled());
    const id = ++this.#lastId;
    const cancel = () => this.#post({ id, op: "cancel" });
    signal?.addEventListener("abort", cancel, { once: true });
    return new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve, reject, onEvent });
      this.#post({ id, ...message });
    }).finally(() => signal?.removeEventListener("abort", cancel));
  }

  /** @param {ToWorker} message */
  #post(message) {
    this.#worker.postMessage(message);
  }

  /** Stops the worker; everything that waits fails with `error`. @param {PanguDrawError} error */
  end(error) {
    this.ended ??= error;
    this.#worker.terminate();
    for (const call of this.#calls.values()) call.reject(error);
    this.#calls.clear();
  }
}
