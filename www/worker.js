/** The worker: hosts the WebAssembly engine and serves the calls of pangu-draw.js. */

/// <reference lib="webworker" />
/** @import { FromWorker, ToWorker } from "./types.js" */

import init, { Engine, delete_stored_model, image_size, list_models, start } from "./pkg/pangu_draw.js";

/** @param {FromWorker} message @param {Transferable[]} [transfer] */
const post = (message, transfer = []) => globalThis.postMessage(message, { transfer });

/** A panic is told first, and in its own words; where there is no memory left, Rust only traps. @param {unknown} reason */
const describe = (reason) =>
  reason instanceof WebAssembly.RuntimeError && /unreachable/i.test(reason.message) ? `out of memory: ${reason}` : String(reason);

/**
 * Says the worker's last word: after a panic or a trap the engine's memory is in no known state.
 *
 * @param {unknown} reason
 */
const crash = (reason) => post({ end: { code: "crash", message: describe(reason), details: {} } });

// Held for life: that the page gets it is the only sign of a worker that was killed.
const life = "pangu-draw-" + Math.random();
/** @type {LockManager | undefined} */ (navigator.locks)
  ?.request(life, () => {
    post({ life });
    return new Promise(() => {});
  })
  .catch(() => {}); // Where there are no locks to be had, a killed worker is not noticed.

/** Cancels the running call of an id. @type {Map<number, AbortController>} */
const running = new Map();
/** @type {Engine | undefined} */
let engine;
/** Whether the engine computes on a GPU, which may be lost. */
let gpu = false;

const started = init().then(({ memory }) => {
  start(crash);
  return memory;
});
started.catch((error) =>
  crash(
    // What traps has been started.
    error instanceof WebAssembly.RuntimeError
      ? error
      : `the WebAssembly module could not be started: ${error}. Is it served (to another origin: with Access-Control-Allow-Origin),` +
      " and does the page's Content-Security-Policy allow it ('wasm-unsafe-eval', connect-src)?",
  ),
);

/** What the browser calls the GPU; its full name is kept from web pages. */
async function adapterName() {
  const adapter = await /** @type {any} */ (navigator).gpu?.requestAdapter();
  return adapter ? `${adapter.info.vendor} ${adapter.info.architecture}`.trim() : "";
}

/** @param {Exclude<ToWorker, { op: "cancel" }>} call @param {AbortSignal} signal */
async function serve(call, signal) {
  const onEvent = (/** @type {any} */ event) => post({ id: call.id, event });
  if (call.op === "open") {
    engine = await Engine.open(call.url, call.device, call.memory, call.store, signal);
    const info = engine.info();
    gpu = info.device === "webgpu";
    return { ...info, deviceDetail: info.deviceDetail || (await adapterName()) };
  }
  if (call.op === "size") return image_size(call.bytes);
  if (call.op === "models") return list_models();
  if (call.op === "delete") return delete_stored_model(call.address);
  if (!engine) throw { code: "crash", message: "no model is loaded", details: {} };
  if (call.op === "load") return engine.load(call.all, onEvent, signal);
  if (call.op === "plan") return engine.plan(call.request, call.pictures);
  if (call.op === "memory") return { ...engine.memory(), heapBytes: (await started).buffer.byteLength };
  if (call.op === "view") return engine.view(call.kind, call.image, call.width, call.height);
  return engine.generate(call.request, call.pictures, call.checkpoint, onEvent, signal);
}

/** What a call failed with; a trap ends the worker, and so does a GPU that failed. @param {number} id @param {any} error */
function fail(id, error) {
  if (typeof error?.code !== "string") return crash(error);
  post(gpu && error.code === "device" ? { end: error } : { id, error });
}

globalThis.addEventListener("message", async (/** @type {MessageEvent<ToWorker>} */ { data: call }) => {
  if (call.op === "cancel") return running.get(call.id)?.abort();
  const controller = new AbortController();
  running.set(call.id, controller);
  try {
    await started;
    const result = await serve(call, controller.signal);
    const owned = [result?.rgba, result?.png].filter(Boolean);
    post({ id: call.id, result }, owned.map(({ buffer }) => buffer));
  } catch (error) {
    fail(call.id, error);
  } finally {
    running.delete(call.id);
  }
});
globalThis.addEventListener("error", (event) => crash(event.error ?? event.message));
globalThis.addEventListener("unhandledrejection", (event) => crash(event.reason));
