/** The packed package in small apps, each built by another builder and opened in Chromium. PANGU_DRAW names the native binary. */

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { cpSync, lstatSync, mkdtempSync, rmSync } from "node:fs";
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

/** Opens an app and waits for its picture. */
const drawsAt = (url) =>
  withPage({}, async (tab) => {
    await tab.goto(url);
    const image = tab.getByRole("img", { name: request.prompt, exact: true });
    await image.waitFor();
    const png = await image.evaluate(async ({ src }) => [...new Uint8Array(await (await fetch(src)).arrayBuffer())]);
    assert.deepEqual(png, expected);
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

test("plain HTML with an import map", { timeout: PATIENCE }, () => {
  const folder = join(HERE, "html/dist");
  rmSync(folder, { recursive: true, force: true });
  for (const [from, to] of [["html/index.html", "index.html"], ["html/public/models", "models"]]) {
    cpSync(join(HERE, from), join(folder, to), { recursive: true });
  }
  cpSync(INSTALLED, join(folder, "pangu-draw"), { recursive: true });
  return draws(folder);
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
  run(bin("vite"), "build", "react", "--logLevel", "warn");
  return draws(join(HERE, "react/dist"));
});

describe("Next, rendered on the server", () => {
  for (const builder of ["--turbopack", "--webpack"]) {
    test(builder.slice(2), { timeout: 2 * PATIENCE }, async () => {
      run(bin("next"), "build", "next", builder);
      await served("next", ["start", "next", "--port", "0"], async (url) => {
        assert.match(await (await fetch(url)).text(), /<p>Drawing (<!-- -->)?red apple/);
        await drawsAt(url);
      });
    });
  }
});
