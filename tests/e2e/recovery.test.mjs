/** Engines that die over a drawing, by every way there is: another one finishes it. And drawings that are cancelled. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { FIREFOX, PATIENCE, REACHABLE, inWorkers, meanDifference, start, withPage } from "./browser.mjs";

const request = { prompt: "a red apple", seed: 7, steps: 5, guidanceScale: 3, sampler: "dpmpp_2m" };
/** What kills an engine, to be run in its worker. */
const FAULTS = {
  "a panic": "JSON.parse = () => { throw new Error('no JSON'); };",
  "an error that nobody catches": "setTimeout(() => { throw new Error('boom'); });",
  "a rejection that nobody handles": "Promise.reject(new Error('boom'));",
  "a killed worker": "close();",
  // First all that there is to be had, then all that the engine has in reserve.
  "no more memory": `
    const [name] = Object.keys(wasm).filter((name) => name.startsWith("__wbindgen_malloc"));
    for (let pages = 1 << 15; pages >= 1; ) try { wasm.memory.grow(pages); } catch { pages >>= 1; }
    for (const size of [1 << 20, 1 << 15, 1 << 10, 1 << 5]) try { for (;;) wasm[name](size, 8); } catch {}`,
  "a lost device": "devices.forEach((device) => device.destroy());",
  "an error of the device": "devices.forEach((device) => device.createBuffer({ size: 4, usage: 0 }));",
};
/** What such a death leaves in the log, and a page without an icon. */
const LAST_WORDS = /404|boom|no JSON|panicked|unreachable|memory allocation|lost|destroyed|wgpu|GPU/i;

/** Runs before the worker's own code: lets a test reach it, the engine's memory and its GPU. */
const REACH = `${REACHABLE}
  globalThis.devices = [];
  const adapter = globalThis.GPUAdapter?.prototype;
  const { requestDevice } = adapter ?? {};
  if (adapter) adapter.requestDevice = async function (...options) {
    const device = await requestDevice.apply(this, options);
    devices.push(device);
    return device;
  };
  const { instantiateStreaming } = WebAssembly;
  WebAssembly.instantiateStreaming = async (...sources) => {
    const made = await instantiateStreaming(...sources);
    globalThis.wasm = made.instance.exports;
    return made;
  };`;

/** Runs `fault` in a worker as soon as it sends an event for which \`when\` holds. @param {string} when @param {string} fault */
const strike = (when, fault) => `
  {
    const { postMessage } = globalThis;
    let struck = false;
    globalThis.postMessage = (message, options) => {
      postMessage.call(globalThis, message, options);
      const event = message.event ?? {};
      if (struck || !(${when})) return;
      struck = true;
      ${fault}
    };
  }`;

let server;
before(async () => (server = await start()));
after(() => server?.close());

/**
 * Opens the model in a page that runs nothing of its own. Workers are hit by `fault` when `when` holds, those of a number that
 * `which` refuses are not. Defines `draw(request, more)` in the page.
 */
async function session(page, { device = "cpu", when = "false", fault = "", which = (number) => number === 1 } = {}) {
  let number = 0;
  server.fault = ({ path }) => {
    if (!path.endsWith("/worker.js")) return undefined;
    number += 1;
    return { before: REACH + (which(number) ? strike(when, fault) : "") };
  };
  await page.goto(`${server.url}/page/style.css`);
  await page.evaluate(async (device) => {
    const { Generator } = await import("/pangu-draw.js");
    const generator = await Generator.load("/sound/model/", { device });
    const draw = async (request, more = {}) => {
      const restarts = [];
      const onRestart = ({ error, step }) => {
        restarts.push([error.name, step]);
        more.onRestart?.();
      };
      try {
        const { rgba } = await generator.generate({ ...request, ...more, onRestart });
        return { rgba: [...rgba], restarts };
      } catch ({ name, code, message }) {
        return { name, code, message, restarts };
      }
    };
    Object.assign(globalThis, { generator, draw });
  }, device);
}

const draw = (page, asked = request) => page.evaluate((request) => globalThis.draw(request), asked);

/** What an undisturbed engine draws. */
async function undisturbed(page, asked = request, device = "cpu") {
  await session(page, { device });
  const { rgba, message } = await draw(page, asked);
  assert.ok(rgba, message);
  return rgba;
}

/** Waits until no worker is alive: each holds a lock for life. */
const noWorker = (page) => page.waitForFunction(async () => (await navigator.locks.query()).held.length === 0);

const afterStep = (step) => `event.checkpoint && event.step === ${step}`;

describe("an engine on the CPU that dies of", () => {
  for (const name of ["a panic", "an error that nobody catches", "a rejection that nobody handles", "no more memory", "a killed worker"]) {
    test(`${name}: the picture is finished, bit-equal, and so is the next`, { timeout: PATIENCE }, () =>
      withPage({ expected: LAST_WORDS }, async (page) => {
        const rgba = await undisturbed(page);
        await session(page, { when: afterStep(3), fault: FAULTS[name] });
        const found = await draw(page);
        assert.equal(found.name, undefined, found.message);
        assert.equal(found.restarts.length, 1);
        const [[error, step]] = found.restarts;
        assert.equal(error, "CrashError");
        assert.ok(step >= 3, `it goes on after step ${step}; one that does not die at once may have come further`);
        assert.deepEqual(found.rgba, rgba);
        assert.deepEqual(await draw(page), { rgba, restarts: [] });
      }));
  }
});

describe("on the CPU", () => {
  test("engines that die after every step finish the picture", { timeout: PATIENCE }, () =>
    withPage({ expected: LAST_WORDS }, async (page) => {
      const rgba = await undisturbed(page);
      await session(page, { when: "event.checkpoint", fault: FAULTS["a killed worker"], which: () => true });
      const found = await draw(page);
      assert.deepEqual(found.restarts.map(([, step]) => step), [1, 2, 3, 4, 5], found.message);
      assert.deepEqual(found.rgba, rgba);
    }));

  test("engines that die without a step between them are given up, and the next drawing works", { timeout: PATIENCE }, () =>
    withPage({ expected: LAST_WORDS }, async (page) => {
      const rgba = await undisturbed(page);
      for (const name of ["a panic", "a killed worker"]) {
        await session(page, { when: "event.stage === 'text'", fault: FAULTS[name], which: () => true });
        const { code, restarts } = await draw(page);
        assert.deepEqual([code, restarts], ["crash", [["CrashError", 0], ["CrashError", 0]]], name);
        server.fault = undefined;
        assert.deepEqual(await draw(page), { rgba, restarts: [] });
      }
    }));

  test("an engine that dies while nothing is drawn is replaced", { timeout: PATIENCE }, () =>
    withPage({ expected: LAST_WORDS }, async (page) => {
      const rgba = await undisturbed(page);
      await inWorkers(page, "close()");
      await noWorker(page);
      assert.deepEqual((await draw(page)).rgba, rgba);
    }));

  test("what is the request's own fault is not tried again", { timeout: PATIENCE }, () =>
    withPage({ expected: /404/ }, async (page) => {
      await session(page);
      for (const [wrong, expected] of [[{ steps: 0 }, "invalid"], [{ draft: "variation" }, "unsupported"]]) {
        const { code, restarts } = await draw(page, { ...request, ...wrong });
        assert.deepEqual([code, restarts], [expected, []]);
      }
    }));

  test("the rest of a queue is drawn, too, and pictures that steer are not lost", { timeout: PATIENCE }, () =>
    withPage({ expected: LAST_WORDS }, async (page) => {
      const queue = () =>
        page.evaluate((request) => {
          const picture = (factor) => {
            const rgba = Uint8ClampedArray.from({ length: 1024 }, (_, i) => (i % 4 === 3 ? 255 : (i * factor) % 256));
            return { width: 16, height: 16, rgba };
          };
          return Promise.all([
            globalThis.draw({ ...request, controls: [{ kind: "outline", image: picture(3), strength: 0.5 }], exchange: "renoised" }),
            globalThis.draw({ ...request, init: picture(5), mask: picture(7), sampler: "euler_ancestral" }),
            globalThis.draw(request),
          ]);
        }, request);
      await session(page);
      const expected = await queue();
      await session(page, { when: afterStep(2), fault: FAULTS["a killed worker"], which: (number) => number < 3 });
      const found = await queue();
      assert.deepEqual(found.map(({ restarts }) => restarts.length), [1, 1, 0], found[0].message);
      assert.deepEqual(found.map(({ rgba }) => rgba), expected.map(({ rgba }) => rgba));
    }));

  test("a new engine's start can be cancelled", { timeout: PATIENCE }, () =>
    withPage({ expected: LAST_WORDS }, async (page) => {
      const rgba = await undisturbed(page);
      await session(page, { when: afterStep(2), fault: FAULTS["a killed worker"] });
      const { code } = await page.evaluate((request) => {
        const controller = new AbortController();
        return globalThis.draw(request, { signal: controller.signal, onRestart: () => controller.abort() });
      }, request);
      assert.equal(code, "cancelled");
      assert.deepEqual(await draw(page), { rgba, restarts: [] });
    }));

  test("a generator that is disposed of stays so", { timeout: PATIENCE }, () =>
    withPage({ expected: LAST_WORDS }, async (page) => {
      await session(page, { when: afterStep(2), fault: FAULTS["a killed worker"] });
      const { code } = await page.evaluate(
        (request) => globalThis.draw(request, { onRestart: () => setTimeout(() => globalThis.generator.dispose()) }),
        request,
      );
      assert.equal(code, "disposed");
      assert.equal((await draw(page)).code, "disposed");
      await noWorker(page);
      const started = () => server.requests.filter(({ path }) => path.endsWith("/worker.js")).length;
      const before = started();
      await page.waitForTimeout(2000);
      assert.equal(started(), before);
    }));

  test("a browser without locks draws all the same", { timeout: PATIENCE }, () =>
    withPage({ expected: /404/ }, async (page) => {
      const rgba = await undisturbed(page);
      server.fault = ({ path }) =>
        path.endsWith("/worker.js") ? { before: "Object.defineProperty(navigator, 'locks', { value: undefined });" } : undefined;
      const found = await page.evaluate(async (request) => {
        const { Generator } = await import("/pangu-draw.js");
        return [...(await (await Generator.load("/sound/model/", { device: "cpu" })).generate(request)).rgba];
      }, request);
      assert.deepEqual(found, rgba);
    }));
});

describe("on WebGPU", { skip: FIREFOX }, () => {
  const short = { ...request, steps: 3, sampler: "euler" };
  for (const [name, expected] of [["a lost device", "DeviceError"], ["an error of the device", "CrashError"], ["a killed worker", "CrashError"]]) {
    test(`${name}: the picture is finished`, { timeout: 2 * PATIENCE }, () =>
      withPage({ webgpu: true, expected: LAST_WORDS }, async (page) => {
        const rgba = await undisturbed(page, short);
        await session(page, { device: "webgpu", when: afterStep(1), fault: FAULTS[name] });
        const found = await draw(page, short);
        assert.equal(found.name, undefined, found.message);
        assert.equal(found.restarts.length, 1);
        assert.equal(found.restarts[0][0], expected);
        assert.ok(found.restarts[0][1] >= 1);
        const difference = meanDifference(found.rgba, rgba);
        console.log(`WebGPU after ${name}, and an undisturbed CPU: mean difference ${difference.toFixed(4)} of 255`);
        assert.ok(difference <= 1, `${difference}`);
      }));
  }

  test("a device that is lost again and again is a DeviceError, and the next drawing works", { timeout: 2 * PATIENCE }, () =>
    withPage({ webgpu: true, expected: LAST_WORDS }, async (page) => {
      await session(page, { device: "webgpu", when: "event.stage === 'text'", fault: FAULTS["a lost device"], which: () => true });
      const { code, restarts } = await draw(page, short);
      assert.deepEqual([code, restarts], ["device", [["DeviceError", 0], ["DeviceError", 0]]]);
      server.fault = undefined;
      const next = await draw(page, short);
      assert.deepEqual([next.name, next.restarts], [undefined, []]);
    }));

  test("a device that is lost while nothing is drawn is replaced", { timeout: 2 * PATIENCE }, () =>
    withPage({ webgpu: true, expected: LAST_WORDS }, async (page) => {
      await session(page, { device: "webgpu" });
      const { rgba } = await draw(page, short);
      await page.workers()[0].evaluate(() => globalThis.devices.forEach((device) => device.destroy()));
      const next = await draw(page, short);
      assert.equal(next.name, undefined, next.message);
      assert.ok(meanDifference(next.rgba, rgba) <= 1);
    }));
});

describe("after a cancel", () => {
  for (const [device, moments] of [["cpu", FIREFOX ? 4 : 12], ["webgpu", 4]]) {
    test(`at any moment on ${device} the next picture is right`, { timeout: 2 * PATIENCE, skip: FIREFOX && device === "webgpu" }, () =>
      withPage({ webgpu: device === "webgpu", expected: /404/ }, async (page) => {
        const asked = { ...request, steps: 3 };
        const expected = await undisturbed(page, asked, device);
        // Cancelled at some of the events that a drawing sends: in the text, the steps, the picture.
        const outcomes = await page.evaluate(
          async ([request, moments]) => {
            let events = 0;
            await globalThis.draw(request, { onStep: () => events++ });
            const outcomes = [];
            for (let moment = 0; moment < moments; moment++) {
              const controller = new AbortController();
              const at = 1 + Math.floor((moment * (events - 1)) / (moments - 1));
              let heard = 0;
              const onStep = () => ++heard === at && controller.abort();
              const { code } = await globalThis.draw(request, { signal: controller.signal, onStep });
              outcomes.push({ at, code, next: (await globalThis.draw(request)).rgba });
            }
            return outcomes;
          },
          [asked, moments],
        );
        for (const { at, code, next } of outcomes) {
          // After the last event there may be nothing left to cancel.
          assert.ok(code === "cancelled" || at === outcomes.at(-1).at, `at event ${at}: ${code}`);
          assert.deepEqual(next, expected, `after a cancel at event ${at}`);
        }
      }));
  }

  test("of a load the next picture is right", { timeout: PATIENCE }, () =>
    withPage({ expected: /404/ }, async (page) => {
      const expected = await undisturbed(page);
      const outcomes = await page.evaluate(async (request) => {
        const { Generator } = await import("/pangu-draw.js");
        const outcomes = [];
        for (const at of [1, 2]) {
          const generator = await Generator.open("/sound/model/", { device: "cpu", store: false });
          const controller = new AbortController();
          let heard = 0;
          const onProgress = () => ++heard === at && controller.abort();
          const code = await generator.loadWeights({ all: true, signal: controller.signal, onProgress }).catch(({ code }) => code);
          outcomes.push({ code, next: [...(await generator.generate(request)).rgba] });
          generator.dispose();
        }
        return outcomes;
      }, request);
      for (const { code, next } of outcomes) {
        assert.equal(code, "cancelled");
        assert.deepEqual(next, expected);
      }
    }));
});
