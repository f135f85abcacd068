/**
 * The service worker: keeps the page's own files, so that it opens without a network. What models are made of is kept by the
 * engine, and goes through here untouched.
 *
 * All files of a version are in one cache, each of them checked against the version's list; a page is served from one cache.
 * A new version waits until it may take the place of the old one.
 */

/// <reference lib="webworker" />

/** Without a network the engine's own copy of a model's list of files serves, and need not wait for more attempts. */
const MANIFEST = "model.json";
/** Where pages are developed: files come from the server as long as there is one. */
const LOCAL = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(location.hostname);

const worker = /** @type {ServiceWorkerGlobalScope & { shell: { version: string, files: Record<string, string> } }} */ (
  /** @type {unknown} */ (globalThis)
);
importScripts("pkg/shell.js");
const { version, files } = worker.shell;
const { scope } = worker.registration;
/** What the names of this page's caches begin with: an origin may have other pages. */
const PREFIX = `pangu-draw ${scope} `;
const NAME = PREFIX + version;

/** @param {string} path */
const address = (path) => new URL(path, scope).href;

/**
 * A response that can be kept, if it is what `sum` says.
 *
 * @param {Response | undefined} response
 * @param {string} sum
 */
async function verified(response, sum) {
  if (!response?.ok) return undefined;
  const bytes = await response.arrayBuffer();
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const found = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  // Not the response itself: one that was redirected cannot answer a navigation.
  return found === sum ? new Response(bytes, { headers: response.headers }) : undefined;
}

/** Brings all files together. What a former attempt has brought stays; what other versions have in common is not fetched. */
async function install() {
  const shell = await caches.open(NAME);
  for (const [path, sum] of Object.entries(files)) {
    const url = address(path);
    if (await shell.match(url)) continue;
    const file =
      (await verified(await caches.match(url), sum)) ?? (await verified(await fetch(url, { cache: "no-cache" }), sum));
    if (!file) throw new Error(`${path || "index.html"} is not there, or of another version`);
    await shell.put(url, file);
  }
  if (LOCAL) await worker.skipWaiting();
}

/** Forgets other versions: no page uses them any more. */
async function activate() {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name.startsWith(PREFIX) && name !== NAME).map((name) => caches.delete(name)));
}

/** @param {Request} request @param {string} path */
async function serve(request, path) {
  const fetched = LOCAL ? await fetch(request).catch(() => undefined) : undefined;
  return fetched ?? (await (await caches.open(NAME)).match(address(path))) ?? fetch(request);
}

/** @param {Request} request */
const list = (request) =>
  fetch(request).catch((error) => {
    if (navigator.onLine) throw error;
    return new Response(null, { status: 404, statusText: "no network" });
  });

/** Makes this version the one in use, unless more than the page that asks is open: it would be given files of two versions. */
async function takeOver() {
  const windows = await worker.clients.matchAll({ type: "window", includeUncontrolled: true });
  const pages = windows.filter(({ url }) => url.startsWith(scope));
  if (pages.length === 1) return worker.skipWaiting();
  for (const page of pages) page.postMessage("others");
}

worker.addEventListener("install", (event) => event.waitUntil(install()));
worker.addEventListener("activate", (event) => event.waitUntil(activate()));
worker.addEventListener("message", (event) => {
  if (event.data === "take over") event.waitUntil(takeOver());
});
worker.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.mode === "navigate") url.search = "";
  url.hash = "";
  if (request.method !== "GET" || !url.href.startsWith(scope)) return;
  const path = url.href.slice(scope.length).replace(/^index\.html$/, "");
  if (path.endsWith(MANIFEST)) event.respondWith(list(request));
  else if (Object.hasOwn(files, path) && !request.headers.has("range")) event.respondWith(serve(request, path));
});
