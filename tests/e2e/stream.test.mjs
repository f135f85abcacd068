/** Weights on their way into a browser: kept once fetched, resumed when cut, mended when damaged, whatever the server does. */

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { FIREFOX, PATIENCE, model, start, withPage } from "./browser.mjs";

/** As usual; and more than Chromium holds of a response until it is read, and forgets when the connection is cut. */
const CHUNK = 4 << 20;
/** A load is cut so many times in each of so many browsers. */
const [CUTS, TABS] = FIREFOX ? [4, 2] : [25, 8];
const request = { prompt: "red apple", seed: 7, steps: 2 };
let server;
/** Bytes of the weights that drawing from words needs. */
let total;

/** So many chunks more of a file follow its last tensor. */
const MORE = { unet: 1, decoder: 1 };

/** Makes the model's files a few chunks long. */
function lengthen(folder) {
  const path = join(folder, "model.json");
  const manifest = JSON.parse(readFileSync(path, "utf8"));
  manifest.chunk_bytes = CHUNK;
  for (const component of manifest.components) {
    const file = join(folder, component.file);
    const bytes = Buffer.concat([readFileSync(file), randomBytes((MORE[component.role] ?? 0) * CHUNK)]);
    writeFileSync(file, bytes);
    component.bytes = bytes.length;
    component.sha256 = [];
    for (let at = 0; at < bytes.length; at += CHUNK) {
      component.sha256.push(createHash("sha256").update(bytes.subarray(at, at + CHUNK)).digest("hex"));
    }
  }
  writeFileSync(path, JSON.stringify(manifest));
  return manifest.components.filter(({ role }) => role !== "encoder").reduce((sum, { bytes }) => sum + bytes, 0);
}

before(async () => {
  server = await start();
  total = lengthen(model);
});
after(() => server.close());

const weights = () => server.requests.filter(({ path }) => path.endsWith(".gguf"));
/** Bytes of weights that were sent since this was asked last. */
function sent() {
  const bytes = weights().reduce((sum, { sent }) => sum + sent, 0);
  server.requests.length = 0;
  return bytes;
}

/** Runs `body` with a page that runs nothing of its own, in an origin whose storage is empty. */
const withBlank = (body, wish = {}) =>
  withPage({ expected: /Failed to load resource/, ...wish }, async (page) => {
    server.fault = undefined;
    server.requests.length = 0;
    await page.goto(`${server.url}/page/style.css`);
    await body(page);
  });

/**
 * Opens the model anew and loads everything; answers the last progress, or the error. The page keeps its worker from one load to
 * the next, as compiling the engine takes longer than they do.
 */
const load = (page, { draw = false, url = `${server.url}/sound/model/`, store = true } = {}) =>
  page.evaluate(
    async ([url, draw, store, request]) => {
      const { Engine, PanguDrawError } = await import("/engine.js");
      const engine = (globalThis.engine ??= new Engine());
      let last = {};
      try {
        await engine.call({ op: "open", url, device: "cpu", store });
        await engine.call({ op: "load", all: true }, undefined, (now) => (last = now));
        const asked = { request: { ...request, controls: [] }, pictures: { controls: [] } };
        const picture = draw ? [...(await engine.call({ op: "generate", ...asked })).rgba] : undefined;
        return { ...last, picture, plan: await engine.call({ op: "plan", ...asked }) };
      } catch (error) {
        if (!(error instanceof PanguDrawError)) throw error;
        return { name: error.name, code: error.code, message: error.message, details: error.details };
      }
    },
    [url, draw, store, request],
  );

/** Empties what the origin keeps. */
const forget = (page) =>
  page.evaluate(async () => {
    const unless = (name) => (error) => {
      if (error.name !== name) throw error;
    };
    // Where there is no room at all, Firefox makes no directory.
    const root = await navigator.storage.getDirectory().catch(unless("UnknownError"));
    await root?.removeEntry("pangu-draw", { recursive: true }).catch(unless("NotFoundError"));
    await new Promise((resolve, reject) => {
      const request = indexedDB.deleteDatabase("pangu-draw-chunks");
      Object.assign(request, { onsuccess: resolve, onerror: () => reject(request.error) });
    });
  });

/** Damages the fourth chunk in the private file system, in one of three ways; answers how long it was. */
const harmFile = (page, harm) =>
  page.evaluate(async (harm) => {
    const root = await (await navigator.storage.getDirectory()).getDirectoryHandle("pangu-draw");
    const names = [];
    for await (const name of root.keys()) if (/^[0-9a-f]{64}$/.test(name)) names.push(name);
    const handle = await root.getFileHandle(names.sort()[3]);
    const bytes = new Uint8Array(await (await handle.getFile()).arrayBuffer());
    const length = bytes.length;
    bytes[length >> 1] ^= 8;
    const writable = await handle.createWritable();
    await writable.write(harm === "flip" ? bytes : bytes.subarray(0, harm === "empty" ? 0 : 100));
    await writable.close();
    return length;
  }, harm);

/** The same in the database. */
const harmRecord = (page, harm) =>
  page.evaluate(async (harm) => {
    const done = (request) =>
      new Promise((resolve, reject) => {
        Object.assign(request, { onsuccess: () => resolve(request.result), onerror: () => reject(request.error) });
      });
    const database = await done(indexedDB.open("pangu-draw-chunks"));
    const table = database.transaction("bytes", "readwrite").objectStore("bytes");
    const key = (await done(table.getAllKeys())).filter((key) => /^[0-9a-f]{64}$/.test(key)).sort()[3];
    const bytes = await done(table.get(key));
    const length = bytes.length;
    bytes[length >> 1] ^= 8;
    await done(table.put(harm === "flip" ? bytes : harm === "empty" ? null : bytes.slice(0, 100), key));
    database.close();
    return length;
  }, harm);

/** Where browsers keep what was fetched: what the worker lacks, so that it takes that store, and how its content is damaged. */
const STORES = {
  files: { prelude: "", harm: harmFile },
  "a database, as there are no files": { prelude: "delete StorageManager.prototype.getDirectory;", harm: harmRecord },
  "a database, as files cannot be written": {
    prelude: "delete FileSystemFileHandle.prototype.createWritable;",
    harm: harmRecord,
  },
};

for (const [where, { prelude, harm }] of Object.entries(STORES)) describe(`weights that were fetched into ${where}`, () => {
  before(() => void (server.prelude = prelude));
  after(() => void (server.prelude = ""));

  test("are kept, listed and deleted", { timeout: PATIENCE }, () =>
    withBlank(async (page) => {
      const first = await load(page);
      assert.deepEqual([first.loaded, first.total, first.stored], [total, total, 0]);
      assert.equal(weights().length, 3, "one response serves all chunks of a file");
      assert.equal(sent(), total);
      const again = await load(page, { draw: true });
      assert.deepEqual([again.loaded, again.stored, sent()], [total, total, 0]);
      assert.deepEqual([again.plan.fetchBytes, again.plan.storedBytes], [0, total]);

      // Without the server there is still a model.
      server.fault = ({ path }) => (/model\//.test(path) ? { status: 503 } : undefined);
      const offline = await load(page, { draw: true });
      assert.deepEqual(offline.picture, again.picture);
      server.fault = undefined;

      const kept = await page.evaluate(async () => {
        const { deleteStoredModel, storedModels } = await import("/pangu-draw.js");
        const before = await storedModels();
        const freed = await deleteStoredModel(before[0].address);
        const error = await deleteStoredModel(before[0].address).catch(({ code }) => code);
        return { before, freed, after: await storedModels(), error };
      });
      assert.equal(kept.before.length, 1);
      assert.match(kept.before[0].address, /\/sound\/model$/);
      assert.deepEqual([kept.before[0].storedBytes, kept.freed, kept.after, kept.error], [total, total, [], "invalid"]);
      sent();
      await load(page);
      assert.equal(sent(), total);
    }));

  test("are mended where the store has damaged them, chunk by chunk", { timeout: PATIENCE }, () =>
    withBlank(async (page) => {
      await load(page);
      sent();
      for (const how of ["flip", "shorten", "empty"]) {
        const length = await harm(page, how);
        const { loaded, stored } = await load(page);
        assert.deepEqual([loaded, stored, sent()], [total, total - length, length], how);
      }
    }));

  test("come once for two tabs", { timeout: PATIENCE }, () =>
    withBlank(async (page) => {
      const other = await page.context().newPage();
      await other.goto(page.url());
      const [here, there] = await Promise.all([load(page), load(other)]);
      assert.deepEqual([here.loaded, there.loaded], [total, total]);
      assert.equal(sent(), total);
      // Where a tab is closed in the middle, the next one goes on.
      await forget(page);
      server.fault = ({ path }) => (path.endsWith("unet.gguf") ? { stall: CHUNK + 100 } : undefined);
      const dying = load(other).catch(() => {});
      const stored = () => page.evaluate(async () => {
        const { storedModels } = await import("/pangu-draw.js");
        return (await storedModels()).reduce((sum, { storedBytes }) => sum + storedBytes, 0);
      });
      while ((await stored()) < CHUNK) await page.waitForTimeout(50);
      await other.close();
      await dying;
      server.fault = undefined;
      const first = sent();
      await load(page);
      assert.ok(first + sent() <= total + CHUNK);
    }));

  test("need no store: without room, or without being asked to", { timeout: PATIENCE }, () =>
    withBlank(async (page) => {
      const full = await load(page, { draw: true });
      assert.equal(full.loaded, total);
      assert.ok(full.plan.storedBytes < total);
      assert.deepEqual((await load(page, { draw: true })).picture, full.picture, "and again, when there is no room from the beginning");
      await forget(page);
      const without = await load(page, { draw: true, store: false });
      assert.deepEqual([without.picture, without.plan.storedBytes], [full.picture, 0]);
    }, { room: { origin: server.url, bytes: 2 * CHUNK } }));
});

describe("a load", () => {
  test(`that dies at any of ${TABS * CUTS} bytes goes on where it ended`, { timeout: 3 * PATIENCE }, () =>
    withBlank(async (page) => {
      let state = 1;
      const random = (below) => (state = (state * 48271) % 2147483647) % below;
      // Browsers of their own, side by side: most of the time is waiting between attempts.
      const faults = new Map();
      server.fault = (asked) => faults.get(asked.path.split("/")[1])?.(asked);
      const tab = async (name) => {
        const context = await page.context().browser().newContext();
        const tabPage = await context.newPage();
        await tabPage.goto(page.url());
        const url = `${server.url}/${name}/model/`;
        const bytes = () => {
          const mine = weights().filter(({ path }) => path.startsWith(`/${name}/`));
          server.requests = server.requests.filter((request) => !mine.includes(request));
          return mine.reduce((sum, { sent }) => sum + sent, 0);
        };
        for (let round = 0; round < CUTS; round++) {
          const last = random(total);
          let left = last;
          faults.set(name, ({ path, range }) => {
            if (!path.endsWith(".gguf") || !range) return undefined;
            const length = range[1] - range[0];
            const cut = left < length ? Math.max(left, 0) : undefined;
            left -= length;
            // After the cut nothing comes any more.
            return left < 0 && cut === 0 ? { status: 403 } : cut === undefined ? undefined : { cut };
          });
          const { name: error, message } = await load(tabPage, { url });
          assert.equal(error, "ReadError", `cut after ${last} bytes`);
          assert.match(message, /chunk \d+/);
          faults.delete(name);
          const first = bytes();
          const { loaded, stored } = await load(tabPage, { url });
          const second = bytes();
          assert.deepEqual([loaded, second], [total, total - stored]);
          assert.ok(first + second <= total + CHUNK, `cut after ${last} bytes: ${first} and ${second} of ${total}`);
          await forget(tabPage);
        }
        await context.close();
      };
      // Lines so fast that they are none; their names tell the tabs apart.
      await Promise.all(Array.from({ length: TABS }, (_, i) => tab(`${100001 + i}mbit`)));
    }));

  const nth = (n, fault) => {
    let count = 0;
    return (asked) => {
      if (!asked.path.endsWith(".gguf") || ++count !== n) return undefined;
      return typeof fault === "function" ? fault(asked) : fault;
    };
  };

  test("outlives what passes", { timeout: PATIENCE }, () =>
    withBlank(async (page) => {
      for (const fault of [
        { cut: 1000 },
        { part: 5000 },
        ({ range }) => ({ flip: range[0] + 7 }),
        { status: 503 },
        // The rest waits longer, and says less of a browser. Of a part that is compressed Chromium gives out nothing.
        ...(FIREFOX ? [] : [{ cut: 0 }, { stall: 10 }, { gzip: true }, { status: 429, headers: { "retry-after": "1" } }, { status: 500 }]),
      ]) {
        server.fault = nth(2, fault);
        assert.equal((await load(page)).loaded, total, JSON.stringify(fault) ?? "flip");
        assert.ok(weights().length > 3);
        await forget(page);
      }
      // A server that knows no ranges sends every file once.
      server.requests.length = 0;
      server.fault = ({ path }) => (path.endsWith(".gguf") ? { ignoreRange: true } : undefined);
      assert.equal((await load(page)).loaded, total);
      assert.equal(weights().length, 3);
      // A redirect is followed.
      await forget(page);
      server.fault = ({ path }) =>
        path.startsWith("/sound/model/") && path.endsWith(".gguf")
          ? { status: 302, headers: { location: path.replace("sound", "1000mbit") } }
          : undefined;
      assert.equal((await load(page)).loaded, total);
    }));

  test("fails with a typed error where it must", { timeout: PATIENCE }, () =>
    withBlank(async (page) => {
      for (const [fault, name, code] of [
        [{ status: 403 }, "ReadError", "refused"],
        [{ status: 404 }, "ReadError", "refused"],
        [{ status: 416 }, "ReadError", "read"],
        [{ headers: { "content-range": "bytes 7-9/10" } }, "ReadError", "read"],
        // Firefox gives it out, and says what it is.
        ...(FIREFOX ? [[{ gzip: true }, "ReadError", "read"]] : []),
      ]) {
        server.fault = nth(2, fault);
        const error = await load(page);
        assert.deepEqual([error.name, error.code], [name, code], JSON.stringify(fault));
        assert.match(error.message, /chunk \d+/);
        await forget(page);
      }
      // What is wrong at its origin is wrong for good.
      const { code, details } = await load(page, { url: `${server.url}/broken/model/` });
      assert.deepEqual([code, typeof details.chunk], ["checksum", "number"]);
      // Truncated and lying manifests.
      const manifest = readFileSync(join(model, "model.json"), "utf8");
      for (const lie of [
        manifest.slice(0, -20),
        manifest.replace(/"bytes": ?(\d+)/, `"bytes":${CHUNK}$1`),
        manifest.replace(/"file": ?"/, '"file":"../'),
        manifest.replace(/"chunk_bytes": ?\d+/, '"chunk_bytes":0'),
        "",
      ]) {
        writeFileSync(join(model, "model.json"), lie);
        const { name } = await load(page);
        assert.equal(name, "ModelError", lie.slice(0, 60));
      }
      writeFileSync(join(model, "model.json"), manifest);
      assert.equal((await load(page)).loaded, total);
    }));

  test("stops at once when it is cancelled", { timeout: PATIENCE }, () =>
    withBlank(async (page) => {
      server.fault = ({ path }) => (path.endsWith("unet.gguf") ? { stall: CHUNK + 10 } : undefined);
      const code = await page.evaluate(async (chunk) => {
        const { Generator } = await import("/pangu-draw.js");
        const controller = new AbortController();
        const onProgress = ({ loaded }) => loaded > chunk && controller.abort();
        return Generator.load("/sound/model/", { device: "cpu", signal: controller.signal, onProgress }).catch(({ code }) => code);
      }, CHUNK);
      assert.equal(code, "cancelled");
      while (weights().some(({ closed }) => !closed)) await page.waitForTimeout(20);
    }));
});
