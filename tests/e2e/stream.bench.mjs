/**
 * Time to the first picture over slow lines, on the CPU backend: drawing while the model still arrives, against loading it
 * first; and the memory of the GPU with networks leaving it, against keeping them. `npm run bench` prints tables. Shorter:
 * `ROUNDS=1`, `RATES="20"` (none: `RATES=`), `GPU=0`.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT, withPage } from "./browser.mjs";
import { serve } from "./server.mjs";

const ROUNDS = Number(process.env.ROUNDS ?? 3);
/** Mbit/s. */
const RATES = (process.env.RATES ?? "5 20 100").split(" ").filter(Boolean).map(Number);
const request = { prompt: "red apple, 3D", seed: 7 };
const server = await serve(join(ROOT, "www"), join(ROOT, "www/models"));
const { components } = JSON.parse(readFileSync(join(ROOT, "www/models/default/model.json"), "utf8"));
const bytes = (...roles) => components.filter(({ role }) => roles.includes(role)).reduce((sum, { bytes }) => sum + bytes, 0);
const [first, all] = [bytes("text", "structure"), bytes("text", "structure", "texture", "decoder")];

/** Seconds from nothing to a picture; `all`: everything is loaded before. @param {string} url @param {boolean} all */
const draw = (url, all) =>
  withResult({}, (page) =>
    page.evaluate(
      async ([url, all, request]) => {
        const { Generator } = await import("/pangu-draw.js");
        // The engine itself is here before the clock starts: it is the same for all.
        const generator = await Generator.open(url, { device: "cpu" });
        const start = performance.now();
        await generator.loadWeights({ all });
        const loaded = performance.now();
        await generator.generate(request);
        const drawn = performance.now();
        const again = performance.now();
        await generator.generate(request);
        const compute = (performance.now() - again) / 1000;
        return { load: (loaded - start) / 1000, total: (drawn - start) / 1000, compute };
      },
      [url, all, request],
    ),
  );

/** @template T @param {object} options @param {(page: import("playwright-core").Page) => Promise<T>} body @returns {Promise<T>} */
async function withResult(options, body) {
  /** @type {any} */
  let result;
  await withPage({ ...options, expected: /404/ }, async (page) => {
    page.on("console", (message) => message.type() === "warning" && console.log(message.text()));
    await page.goto(`${server.url}/page/style.css`); // Of the origin, and runs nothing of its own.
    result = await body(page);
  });
  return result;
}

const median = (/** @type {number[]} */ values) => [...values].sort((a, b) => a - b)[values.length >> 1];

console.log(`first ${first} bytes, all ${all} bytes; median of ${ROUNDS}, one after the other`);
console.log("| Mbit/s | load, then draw | draw while it arrives | ratio | target: 1.1 x max(all, first + compute) | met |");
console.log("|---|---|---|---|---|---|");
for (const rate of RATES) {
  const url = `${server.url}/${rate}mbit/default/`;
  const [before, along] = [[], []];
  for (let round = 0; round < ROUNDS; round++) {
    before.push(await draw(url, true));
    along.push(await draw(url, false));
  }
  const [whole, overlapped] = [before, along].map((runs) => median(runs.map(({ total }) => total)));
  // Of the downloads alone: those of the runs that loaded first, and its share for the first parts.
  const download = median(before.map(({ load }) => load));
  const compute = median([...before, ...along].map(({ compute }) => compute));
  const bound = 1.1 * Math.max(download, median(along.map(({ load }) => load)) + compute);
  const cell = (/** @type {number} */ seconds) => `${seconds.toFixed(1)} s`;
  console.log(
    `| ${rate} | ${cell(whole)} | ${cell(overlapped)} | ${(overlapped / whole).toFixed(2)} | ${cell(bound)} | ${overlapped <= bound ? "yes" : "no"} |`,
  );
}

/** Memory after and during a drawing of few steps on WebGPU. @param {number} memory */
const gpu = (memory) =>
  withResult({ webgpu: true }, (page) =>
    page.evaluate(
      async ([url, memory, request]) => {
        const { Generator } = await import("/pangu-draw.js");
        const generator = await Generator.load(url, { device: "webgpu", memory, all: memory > 0 });
        let used = 0;
        const look = async () => (used = Math.max(used, (await generator.memory()).usedBytes ?? 0));
        await look();
        await generator.generate({ ...request, steps: 2, onStep: look });
        return { ...(await generator.memory()), mostUsed: used };
      },
      [`${server.url}/sound/default/`, memory, request],
    ),
  );
if (process.env.GPU !== "0") {
  const [kept, released] = [await gpu(Number.MAX_SAFE_INTEGER), await gpu(0)];
  console.log("\n| on WebGPU, 2 steps | all kept | released | ratio |\n|---|---|---|---|");
  for (const [name, key] of [["most weights", "peakWeightBytes"], ["most in use", "mostUsed"], ["WebAssembly heap", "heapBytes"]]) {
    console.log(`| ${name} | ${kept[key]} | ${released[key]} | ${(released[key] / kept[key]).toFixed(2)} |`);
  }
}
server.close();
