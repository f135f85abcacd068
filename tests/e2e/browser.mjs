/** What the tests of the page share: a browser, a server, a small model, and how the page is driven from outside. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium, firefox } from "playwright-core";
import { serve } from "./server.mjs";

export const ROOT = new URL("../../", import.meta.url).pathname;
export const NATIVE = process.env.PANGU_DRAW ?? join(ROOT, "target/release/pangu-draw");
const AXE = readFileSync(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
/** Which browser runs the tests: BROWSER=firefox for the other one, where only what needs WebGPU is left out. */
export const FIREFOX = process.env.BROWSER === "firefox";
const WEBGPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"];
/** Another name of this machine, for which browsers do not know that it is one: its pages are insecure. */
const INSECURE = "insecure.test";
/** Of cases that say little about a browser Firefox runs the first and the last. @template T @param {T[]} cases */
export const few = (cases) => (FIREFOX ? [cases[0], ...cases.slice(-1)] : cases);
/** Long enough for a software GPU on a busy machine. */
export const PATIENCE = 240_000;

/** Where models and drawings lie. */
export const work = mkdtempSync(join(tmpdir(), "pangu-draw-"));
/** Where Firefox saves files. */
const DOWNLOADS = join(work, "downloads");
/** A tiny model of random weights, beside its companion `sketch` that follows outlines. */
export const model = join(work, "model");

/** Makes the models and serves them with the page in `www`; call the answer's `close` at last. */
export async function start(www = join(ROOT, "www")) {
  const golden = (name) => join(ROOT, "tests/goldens", name);
  for (const [name, ...more] of [
    ["model", "--companion", "outline=sketch"],
    ["sketch", "--controlnet", golden("pipeline_sd_controlnet")],
  ]) {
    execFileSync(NATIVE, ["convert", golden("pipeline_sd"), "-o", join(work, name), "--quantize", "f32", ...more]);
  }
  const server = await serve(www, work);
  const { close } = server;
  // The same object: tests set its `fault`.
  return Object.assign(server, {
    async close() {
      close();
      await kept?.browser.close();
      rmSync(work, { recursive: true });
    },
  });
}

/** Chromium's flags for what {@link withPage} is asked for. */
const flags = ({ webgpu, camera }) => [
  "--no-sandbox",
  `--host-resolver-rules=MAP ${INSECURE} 127.0.0.1`,
  ...(webgpu ? WEBGPU : []),
  ...(camera ? ["--use-fake-device-for-media-stream", camera === "allowed" ? "--use-fake-ui-for-media-stream" : "--deny-permission-prompts"] : []),
];

/** Firefox's preferences for the same, and for what Playwright emulates in Chromium only. */
const preferences = ({ camera, room, privately, context: { colorScheme, hasTouch, permissions } }) => ({
  "network.dns.localDomains": INSECURE,
  // Painting sixty frames a second without a GPU would be a third of all work.
  "layout.frame_rate": 15,
  "layout.css.prefers-color-scheme.content-override": colorScheme === "dark" ? 0 : 1,
  ...(hasTouch && { "ui.primaryPointerCapabilities": 1, "ui.allPointerCapabilities": 1, "ui.useOverlayScrollbars": 1 }),
  ...(permissions && { "dom.events.testing.asyncClipboard": true }),
  ...(camera && { "media.navigator.streams.fake": true, "permissions.default.camera": camera === "allowed" ? 1 : 2 }),
  ...(privately && { "browser.privatebrowsing.autostart": true }),
  ...(room && { "dom.quotaManager.temporaryStorage.fixedLimit": room.bytes >> 10 }),
});

/** The Firefox that ran last: it takes seconds to start, and its contexts share nothing. */
let kept;

/** Debian's browsers; Firefox by WebDriver BiDi, which this version of Playwright speaks as Firefox ESR does. */
async function launch(isFirefox, wish) {
  if (!isFirefox) return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: flags(wish) });
  const firefoxUserPrefs = preferences(wish);
  const key = JSON.stringify(firefoxUserPrefs);
  if (kept?.key !== key || !kept.browser.isConnected()) {
    await kept?.browser.close();
    const executablePath = process.env.FIREFOX ?? "/usr/bin/firefox-esr";
    kept = { key, browser: await firefox.launch({ channel: "moz-firefox", executablePath, downloadsPath: DOWNLOADS, firefoxUserPrefs }) };
  }
  return kept.browser;
}

let mended = false;
/** What Playwright fills into a field for numbers Firefox puts behind what is there: empties it first. */
function fillAnew(page) {
  if (mended) return;
  mended = true;
  const { prototype } = page.locator("*").constructor;
  const { fill } = prototype;
  prototype.fill = async function (value, options) {
    if ((await this.getAttribute("type", options)) === "number") await fill.call(this, "", options);
    await fill.call(this, value, options);
  };
}

/**
 * Runs `body` with a fresh page; anything the page logs as an error fails the test unless `expected` matches it.
 *
 * @param {object} wish
 * @param {boolean} [wish.firefox] which browser
 * @param {boolean} [wish.webgpu] with a GPU; only Chromium has one
 * @param {"allowed" | "refused"} [wish.camera] with a camera that shows nothing real
 * @param {{ origin: string, bytes: number }} [wish.room] how much an origin may store
 * @param {boolean} [wish.privately] in a private window; only Firefox
 * @param {object} [wish.context] what Playwright takes for a context
 * @param {RegExp} [wish.expected]
 * @param {(page: import("playwright-core").Page) => Promise<unknown>} body
 */
export async function withPage({ firefox: isFirefox = FIREFOX, context: options = {}, expected = /^$/, ...wish }, body) {
  const browser = await launch(isFirefox, { context: options, ...wish });
  const { permissions, ...others } = options;
  const context = await browser.newContext({ locale: "en-US", serviceWorkers: "block", ...(isFirefox ? others : options) });
  try {
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE);
    if (isFirefox) fillAnew(page);
    else if (wish.room) {
      const session = await context.newCDPSession(page);
      await session.send("Storage.overrideQuotaForOrigin", { origin: wish.room.origin, quotaSize: wish.room.bytes });
    }
    const errors = [];
    page.on("pageerror", (error) => errors.push(error.message));
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    await body(page);
    // Firefox asks for every site's icon, also where a policy forbids it.
    assert.deepEqual(errors.filter((error) => !expected.test(error) && !/favicon\.ico/.test(error)), []);
  } finally {
    await (isFirefox ? context : browser).close();
  }
}

/** The address under which a server is an insecure one. */
export const insecure = (server) => server.url.replace("127.0.0.1", INSECURE);
export const open = (page, server, query) => page.goto(`${server.url}/?${new URLSearchParams(query)}`);

/** Takes the network away from the page, or gives it back. Firefox leaves it to service workers; they find no server. */
export async function setOffline(page, server, offline) {
  if (FIREFOX) server.down = offline;
  await page.context().setOffline(offline);
}

export const ui = (page) => ({
  prompt: page.getByRole("textbox", { name: "Prompt", exact: true }),
  draw: page.getByRole("button", { name: "Draw", exact: true }),
  cancel: page.getByRole("button", { name: "Cancel", exact: true }),
  status: page.getByRole("status"),
  error: page.getByRole("alert"),
  picture: (prompt) => page.getByRole("img", { name: prompt, exact: true }),
});

/** Draws through the JavaScript interface; answers the pixels, or the error as plain data. */
export const generate = (page, url, device, request) =>
  page.evaluate(
    async ([url, device, request]) => {
      const { Generator, PanguDrawError } = await import("/pangu-draw.js");
      try {
        const generator = await Generator.load(url, { device });
        const { width, height, rgba, png, arithmetic } = await generator.generate(request);
        generator.dispose();
        return { width, height, rgba: [...rgba], png: [...new Uint8Array(await png.arrayBuffer())], arithmetic };
      } catch (error) {
        if (!(error instanceof PanguDrawError)) throw error;
        return { name: error.name, code: error.code, details: error.details, message: error.message };
      }
    },
    [url, device, request],
  );

/** What a worker runs first to be reached by {@link inWorkers}: Playwright runs nothing in Firefox's. */
export const REACHABLE = "new BroadcastChannel('tests').onmessage = ({ data }) => setTimeout(data);";
/** Runs `code` in the page's workers. */
export const inWorkers = (page, code) => page.evaluate((code) => new BroadcastChannel("tests").postMessage(code), code);

/** Drops or pastes a PNG file on a part of the page. @param {"dragover" | "drop" | "paste"} type */
export const give = (target, type, png) =>
  target.evaluate(
    (part, [type, bytes]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], "given.png", { type: "image/png" }));
      const options = { bubbles: true, composed: true, cancelable: true };
      const event = type === "paste" ? new ClipboardEvent(type, options) : new DragEvent(type, { ...options, dataTransfer: data });
      // Firefox takes no files into a paste of a script's own.
      if (type === "paste") Object.defineProperty(event, "clipboardData", { value: data });
      part.dispatchEvent(event);
    },
    [type, [...png]],
  );

/** Clicks a link that saves a file; answers the file's name and bytes. */
export async function save(page, link) {
  if (!FIREFOX) {
    const [download] = await Promise.all([page.waitForEvent("download"), link.click()]);
    return { name: download.suggestedFilename(), bytes: readFileSync(await download.path()) };
  }
  // Playwright tells of no download by Firefox that is no navigation, and a blob's is none.
  rmSync(DOWNLOADS, { recursive: true, force: true });
  mkdirSync(DOWNLOADS);
  const name = await link.getAttribute("download");
  await link.click();
  for (let before = 0; ; ) {
    await page.waitForTimeout(100);
    const bytes = existsSync(join(DOWNLOADS, name)) ? readFileSync(join(DOWNLOADS, name)) : [];
    if (bytes.length > 0 && bytes.length === before) return { name, bytes };
    before = bytes.length;
  }
}

/** The pixels of a PNG, decoded by the browser. */
export const decode = (page, png) =>
  page.evaluate(async (bytes) => {
    const bitmap = await createImageBitmap(new Blob([new Uint8Array(bytes)]), { colorSpaceConversion: "none" });
    const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
    context.drawImage(bitmap, 0, 0);
    return [...context.getImageData(0, 0, bitmap.width, bitmap.height).data];
  }, [...png]);

export function meanDifference(a, b) {
  assert.equal(a.length, b.length);
  return a.reduce((sum, x, i) => sum + Math.abs(x - b[i]), 0) / a.length;
}

/** Fails if axe finds anything on the page, or it needs sideways scrolling. @param {string} [what] names the state that it is in */
export async function assertAccessible(page, what) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => window.axe.run());
  assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes.map((node) => node.html)]), [], what);
  const [width, room] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(width <= room, `${width} px wide in ${room}: ${what}`);
}
