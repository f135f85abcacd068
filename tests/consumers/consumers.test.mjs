/** The packed package in small apps, each built by another builder and opened in Chromium. PANGU_DRAW names the native binary. */

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { cpSync, lstatSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { PATIENCE, ROOT, generate, model, open, start, withPage } from "../e2e/browser.mjs";
import { serve } from "../e2e/server.mjs";

const HERE = import.meta.dirname;
const INSTALLED = join(HERE, "node_modules/pangu-draw");
const bin = (name) => join(HERE, "node_modules/.bin", name);
const run = (command, ...args) =>
  execFileSync(command, args, { cwd: HERE, encoding: "utf8", env: { ...process.env, NEXT_TELEMETRY_DISABLED: "1" } });

const request = { prompt: "red apple", seed: 7, steps: 2 };
let page;
/** What every app must draw: the file that the page of this repository draws. */
let expected;

before(async () => {
  const folder = mkdtempSync(join(tmpdir(), "pangu-draw-pack-"));
  run("npm", "pack", "--silent", "--pack-destination", folder, join(ROOT, "pkg"));
  // From a path that is new each time, so that npm cannot take it for what is installed already.
  run("npm", "install", "--silent", "--no-save", "--prefer-offline", join(folder, run("ls", folder).trim()));
  rmSync(folder, { recursive: true });
  assert.ok(!lstatSync(INSTALLED).isSymbolicLink());

  page = await start();
  for (const app of ["html", "vite", "webpack", "react", "next"]) {
    cpSync(model, join(HERE, app, "public/models/tiny"), { recursive: true });
  }
  await withPage({}, async (tab) => {
    await open(tab, page, { device: "cpu", model: "/sound/model/" });
    expected = (await generate(tab, "/sound/model/", "cpu", request)).png;
  });
});
after(() => page?.close());

/** Draws with the element of an app. */
async function drawsByElement(tab) {
  await tab.getByRole("button", { name: "Draw", exact: true }).click();
  const image = tab.getByRole("img", { name: "green pear", exact: true }).and(tab.locator("img"));
  await image.waitFor();
  assert.ok((await image.evaluate(({ naturalWidth }) => naturalWidth)) > 0);
}

/** Opens an app, waits for its picture, and draws another with its element. */
const drawsAt = (url) =>
  withPage({}, async (tab) => {
    await tab.goto(url);
    const image = tab.getByRole("img", { name: request.prompt, exact: true });
    await image.waitFor();
    const png = await image.evaluate(async ({ src }) => [...new Uint8Array(await (await fetch(src)).arrayBuffer())]);
    assert.deepEqual(png, expected);
    await drawsByElement(tab);
  });

/** Serves a folder while an app in it draws. */
async function draws(folder) {
  const server = await serve(folder, "");
  try {
    await drawsAt(`${server.url}/`);
  } finally {
    server.close();
  }
}

/** Runs an app's own server on a port that it names once it listens. */
async function served(command, args, body) {
  const server = spawn(bin(command), args, { cwd: HERE, env: { ...process.env, NEXT_TELEMETRY_DISABLED: "1", NO_COLOR: "1" } });
  try {
    const url = await new Promise((resolve, reject) => {
      let said = "";
      const hear = (text) => {
        said += text;
        const [, port] = /http:\/\/[^\s/:]+:(\d+)/.exec(said) ?? [];
        if (port) resolve(`http://127.0.0.1:${port}/`);
      };
      server.stdout.on("data", hear);
      server.stderr.on("data", hear);
      server.on("exit", () => reject(new Error(said)));
    });
    await body(url);
  } finally {
    server.kill();
  }
}

describe("plain HTML", () => {
  const folder = join(HERE, "html/dist");
  before(() => {
    rmSync(folder, { recursive: true, force: true });
    cpSync(join(HERE, "html/index.html"), join(folder, "index.html"));
    cpSync(join(HERE, "html/public"), folder, { recursive: true });
    cpSync(INSTALLED, join(folder, "pangu-draw"), { recursive: true });
  });

  test("with an import map", { timeout: PATIENCE }, () => draws(folder));

  test("with one script tag from another origin, which has the default model", { timeout: PATIENCE }, async () => {
    const server = await serve(folder, "");
    server.fault = () => ({ headers: { "access-control-allow-origin": "*" } });
    const html = readFileSync(join(HERE, "html/cdn.html"), "utf8");
    writeFileSync(join(folder, "cdn.html"), html.replace("https://cdn.jsdelivr.net/npm", server.elsewhere));
    try {
      await withPage({}, async (tab) => {
        await tab.goto(`${server.url}/cdn.html`);
        await drawsByElement(tab);
      });
    } finally {
      server.close();
    }
  });
});

test("a server may import everything but the worker, and nothing happens", () => {
  const program = `
    const before = Object.getOwnPropertyNames(globalThis).length;
    const api = await import("pangu-draw");
    await import("pangu-draw/element");
    const { initSync, image_size } = await import("pangu-draw/wasm");
    if (Object.getOwnPropertyNames(globalThis).length !== before) throw new Error("globals");
    if (typeof api.Generator.load !== "function") throw new Error("Generator");
    // The engine itself runs there, too.
    const { readFileSync } = await import("node:fs");
    initSync({ module: readFileSync(new URL(import.meta.resolve("pangu-draw/pangu_draw_bg.wasm"))) });
    console.log(JSON.stringify(image_size(readFileSync("../../docs/sketch.png"))));`;
  const { width, height } = JSON.parse(run(process.execPath, "--input-type=module", "--eval", program));
  const header = readFileSync(join(ROOT, "docs/sketch.png"));
  assert.deepEqual([width, height], [header.readUInt32BE(16), header.readUInt32BE(20)]);
});

describe("Vite", () => {
  test("build", { timeout: PATIENCE }, () => {
    run(bin("vite"), "build", "vite", "--logLevel", "warn");
    return draws(join(HERE, "vite/dist"));
  });
  test("development server", { timeout: PATIENCE }, () => served("vite", ["vite", "--host", "127.0.0.1", "--port", "0"], drawsAt));
});

test("webpack 5", { timeout: PATIENCE }, () => {
  run(process.execPath, "webpack/build.mjs");
  return draws(join(HERE, "webpack/dist"));
});

test("React in strict TypeScript", { timeout: PATIENCE }, () => {
  run(bin("tsc"), "--project", "react");
  run(bin("tsc"), "--project", "react", "--module", "nodenext", "--moduleResolution", "nodenext");
  run(bin("vite"), "build", "react", "--logLevel", "warn");
  return draws(join(HERE, "react/dist"));
});

test("Next, rendered on the server", { timeout: 2 * PATIENCE }, async () => {
  run(bin("next"), "build", "next");
  await served("next", ["start", "next", "--port", "0"], async (url) => {
    const html = await (await fetch(url)).text();
    assert.match(html, /<p>Drawing (<!-- -->)?red apple/);
    assert.match(html, /<pangu-draw [^>]*prompt="green pear"/);
    await drawsAt(url);
  });
});
