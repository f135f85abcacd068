/** What the tests of the page share: a browser, a server, a small model, and how the page is driven from outside. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { serve } from "./server.mjs";

export const ROOT = new URL("../../", import.meta.url).pathname;
export const NATIVE = process.env.PANGU_DRAW ?? join(ROOT, "target/release/pangu-draw");
export const AXE = readFileSync(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
const WEBGPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"];
/** Long enough for a software GPU on a busy machine. */
export const PATIENCE = 240_000;

/** Where models and drawings lie. */
export const work = mkdtempSync(join(tmpdir(), "pangu-draw-"));
/** A tiny model of random weights, beside its companion `sketch` that follows outlines. */
export const model = join(work, "model");

/** Makes the models and serves them with the page; call the answer's `close` at last. */
export async function start() {
  const golden = (name) => join(ROOT, "tests/goldens", name);
  for (const [name, ...more] of [
    ["model", "--companion", "outline=sketch"],
    ["sketch", "--controlnet", golden("pipeline_sd_controlnet")],
  ]) {
    execFileSync(NATIVE, ["convert", golden("pipeline_sd"), "-o", join(work, name), "--quantize", "f32", ...more]);
  }
  const server = await serve(join(ROOT, "www"), work);
  const { close } = server;
  // The same object: tests set its `fault`.
  return Object.assign(server, {
    close() {
      close();
      rmSync(work, { recursive: true });
    },
  });
}

/** Runs `body` with a fresh page; anything the page logs as an error fails the test unless `expected` matches it. */
export async function withPage({ webgpu = false, args = [], context = {}, expected = /^$/ }, body) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", ...(webgpu ? WEBGPU : []), ...args],
  });
  try {
    const page = await (await browser.newContext({ locale: "en-US", ...context })).newPage();
    page.setDefaultTimeout(PATIENCE);
    const errors = [];
    page.on("pageerror", (error) => errors.push(error.message));
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    await body(page);
    assert.deepEqual(errors.filter((error) => !expected.test(error)), []);
  } finally {
    await browser.close();
  }
}

export const open = (page, server, query) => page.goto(`${server.url}/?${new URLSearchParams(query)}`);
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
