/**
 * How long a cancel takes: the time from `abort()` to the settled promise, at random moments of a drawing with the default model,
 * on the CPU backend and on WebGPU (in this browser SwiftShader, which is slow). Beside it, the longest time between two blocks
 * of the networks. `npm run bench:cancel` prints tables. Shorter: `MOMENTS=10`, `DEVICES=cpu`.
 */

import { join } from "node:path";
import { ROOT, withPage } from "./browser.mjs";
import { serve } from "./server.mjs";

const MOMENTS = Number(process.env.MOMENTS ?? 50);
const DEVICES = (process.env.DEVICES ?? "cpu webgpu").split(" ");
const request = { prompt: "red apple, 3D", seed: 7 };
const server = await serve(join(ROOT, "www"), join(ROOT, "www/models"));

/**
 * Cancels a drawing at `moments` random moments between its beginning and its end; answers milliseconds.
 *
 * @param {import("playwright-core").Page} page
 * @param {string} device
 */
const measure = (page, device) =>
  page.evaluate(
    async ([url, device, moments, request]) => {
      const { CancelledError, Generator } = await import("/pangu-draw.js");
      const generator = await Generator.load(url, { device, all: true });
      const steps = device === "cpu" ? undefined : 2;
      // The first drawing compiles.
      await generator.generate({ ...request, steps });
      // Longest times without a pause, in all drawings, the cancelled ones as well.
      const longest = { text: 0, denoise: 0, decode: 0 };
      let [last, stage] = [0, "text"];
      const pause = (/** @type {string} */ next) => {
        const now = performance.now();
        longest[next] = Math.max(longest[next], now - last);
        [last, stage] = [now, next];
      };
      const draw = (/** @type {AbortSignal} */ signal) => {
        [last, stage] = [performance.now(), "text"];
        return generator.generate({ ...request, steps, signal, onStep: (step) => pause(step.stage) });
      };
      const began = performance.now();
      const undisturbed = await draw();
      pause("decode");
      const whole = performance.now() - began;

      const cancels = [];
      for (let moment = 0; moment < moments; moment++) {
        const controller = new AbortController();
        const drawing = draw(controller.signal);
        drawing.catch(() => {});
        await new Promise((resolve) => setTimeout(resolve, Math.random() * whole));
        const aborted = performance.now();
        controller.abort();
        const outcome = await drawing.catch((error) => error);
        // One that was done already was not cancelled.
        if (outcome instanceof CancelledError) cancels.push({ stage, took: performance.now() - aborted });
        else if (!(outcome instanceof Object && "rgba" in outcome)) throw outcome;
      }
      const again = await generator.generate({ ...request, steps });
      const same = again.rgba.every((value, i) => value === undisturbed.rgba[i]);
      generator.dispose();
      return { whole, longest, cancels, same };
    },
    [`${server.url}/sound/default/`, device, MOMENTS, request],
  );

/** The same while the model arrives. @param {import("playwright-core").Page} page @param {string} device */
const measureLoad = (page, device) =>
  page.evaluate(
    async ([url, device, moments]) => {
      const { CancelledError, Generator } = await import("/pangu-draw.js");
      const generator = await Generator.open(url, { device, store: false });
      const cancels = [];
      for (let moment = 0; moment < moments; moment++) {
        const controller = new AbortController();
        const load = generator.loadWeights({ all: true, signal: controller.signal });
        load.catch(() => {});
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 400));
        const aborted = performance.now();
        controller.abort();
        const outcome = await load.catch((error) => error);
        if (outcome instanceof CancelledError) cancels.push({ stage: "load", took: performance.now() - aborted });
        else if (outcome) throw outcome;
      }
      generator.dispose();
      return cancels;
    },
    [`${server.url}/sound/default/`, device, MOMENTS],
  );

const ms = (/** @type {number} */ value) => (value < 10 ? value.toFixed(1) : value.toFixed(0));

/** @param {string} name @param {number[]} times @param {number} [block] */
function row(name, times, block) {
  const sorted = [...times].sort((a, b) => a - b);
  const at = (/** @type {number} */ share) => ms(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]);
  if (sorted.length === 0) return;
  console.log(`| ${name} | ${sorted.length} | ${at(0.5)} | ${at(0.9)} | ${at(1)} | ${block === undefined ? "" : ms(block)} |`);
}

for (const device of DEVICES) {
  await withPage({ webgpu: device === "webgpu", expected: /404/ }, async (page) => {
    page.setDefaultTimeout(0);
    await page.goto(`${server.url}/page/style.css`); // Of the origin, and runs nothing of its own.
    const { whole, longest, cancels, same } = await measure(page, device);
    const loads = await measureLoad(page, device);
    console.log(`\n${device}: a drawing takes ${ms(whole)} ms; the next one after ${cancels.length} cancels is ${same ? "the same" : "ANOTHER"}\n`);
    console.log("| ms from abort() to the settled promise | cancels | median | 90 % | most | longest block |\n|---|---|---|---|---|---|");
    for (const stage of /** @type {const} */ (["text", "denoise", "decode"])) {
      row(stage, cancels.filter((cancel) => cancel.stage === stage).map(({ took }) => took), longest[stage]);
    }
    row("all of the drawing", cancels.map(({ took }) => took), Math.max(...Object.values(longest)));
    row("while the model is loaded", loads.map(({ took }) => took));
  });
}
server.close();
