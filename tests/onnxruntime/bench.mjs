/**
 * Linear layers on quantized weights, ours and onnxruntime-web's `MatMulNBits`, in turns: `make compare`. Both get the same weights
 * and the same input, in pages of their own of one browser, each with one thread; outputs are compared first. A time is that of
 * one evaluation out of as many as take a while, input and output staying on the device, from when they are asked for to when
 * the last output has been read. Bytes on the GPU: what our allocator has handed out, and what they have made buffers for.
 * `node bench.mjs ROUNDS DEVICE...`
 */

import { fileURLToPath } from "node:url";
import { withPage } from "../e2e/browser.mjs";
import { serve } from "../e2e/server.mjs";

const [rounds = "5", ...asked] = process.argv.slice(2);
const devices = asked.length ? asked : ["webgpu", "cpu"];
/** Multiplications of one measurement: a layer is evaluated as often as they allow, so that waiting for the device counts little. */
const ENOUGH = 3e8;
const SHAPES = [
  ["default UNet, time", 2, 256, 384],
  ["default UNet, text", 32, 512, 192],
  ["default UNet, attention", 128, 192, 192],
  ["default UNet, feed-forward", 128, 192, 1536],
  ["", 64, 256, 256],
  ["CLIP, attention", 77, 768, 768],
  ["CLIP, feed-forward", 77, 768, 3072],
  ["SD 1.5 UNet, text", 77, 768, 320],
  ["SD 1.5 UNet, attention", 4096, 320, 320],
  ["SD 1.5 UNet, attention", 64, 1280, 1280],
  ["SD 1.5 UNet, feed-forward", 4096, 320, 1280],
];

/** Counts the bytes of the buffers that a page has on its GPU. */
const count = () => {
  globalThis.gpuBytes = 0;
  if (!globalThis.GPUDevice) return;
  const { createBuffer } = GPUDevice.prototype;
  const { destroy } = GPUBuffer.prototype;
  const live = new Map();
  // What the collector takes counts no more either.
  const gone = new FinalizationRegistry((key) => forget(key));
  const forget = (key) => {
    globalThis.gpuBytes -= live.get(key) ?? 0;
    live.delete(key);
  };
  let last = 0;
  GPUDevice.prototype.createBuffer = function (descriptor) {
    const buffer = createBuffer.call(this, descriptor);
    buffer.counted = ++last;
    live.set(last, descriptor.size);
    globalThis.gpuBytes += descriptor.size;
    gone.register(buffer, last);
    return buffer;
  };
  GPUBuffer.prototype.destroy = function () {
    forget(this.counted);
    return destroy.call(this);
  };
};

/** Prepares a page of ours. */
const ours = async (device) => {
  const [{ ggml, inputs }, engine] = await Promise.all([import("/layer.js"), import("/pkg/pangu_draw.js")]);
  await engine.default();
  const layer = await engine.Layer.open(device);
  globalThis.set = async (sizes) => {
    layer.set(`q${sizes.bits}_0`, ggml(sizes), inputs(sizes), sizes.output);
    const result = await run(1);
    globalThis.gpuBytes = layer.used_bytes();
    return result;
  };
  globalThis.run = async (times) => {
    const began = performance.now();
    const y = await layer.run(times);
    return { ms: performance.now() - began, y };
  };
};

/** Prepares a page of theirs. */
const theirs = async (device) => {
  const { inputs, onnx } = await import("/layer.js");
  const ort = await import(`/node_modules/onnxruntime-web/dist/ort.${device === "cpu" ? "wasm" : "webgpu"}.bundle.min.mjs`);
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "error";
  const onGpu = device === "webgpu";
  let session, x;
  globalThis.set = async (sizes) => {
    await session?.release();
    session = await ort.InferenceSession.create(onnx(sizes), {
      executionProviders: [onGpu ? "webgpu" : "wasm"],
      preferredOutputLocation: onGpu ? "gpu-buffer" : "cpu",
    });
    const values = inputs(sizes);
    const dims = [sizes.rows, sizes.input];
    if (onGpu) {
      const gpu = await ort.env.webgpu.device;
      x?.gpuBuffer.destroy();
      const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
      const buffer = gpu.createBuffer({ size: values.byteLength, usage });
      gpu.queue.writeBuffer(buffer, 0, values);
      x = ort.Tensor.fromGpuBuffer(buffer, { dataType: "float32", dims });
    } else {
      x = new ort.Tensor("float32", values, dims);
    }
    return run(1);
  };
  globalThis.run = async (times) => {
    const began = performance.now();
    let y;
    for (let i = 0; i < times; i++) {
      y?.dispose();
      ({ y } = await session.run({ x }));
    }
    const values = await y.getData();
    const ms = performance.now() - began;
    const kept = values.slice();
    y.dispose();
    return { ms, y: kept };
  };
};

const set = (page, sizes) =>
  page.evaluate(async (sizes) => {
    const { y } = await globalThis.set(sizes);
    return { y: [...y], bytes: globalThis.gpuBytes };
  }, sizes);
/** Milliseconds of one of so many evaluations. */
const time = (page, times) => page.evaluate(async (times) => (await run(times)).ms / times, times);
const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];

async function compare(device, mine, other) {
  console.log(`\n${device}, median of ${rounds}:\n`);
  console.log("| layer | rows x input x output | weights | ours, ms | theirs, ms | ratio | difference | ours, bytes | theirs, bytes |");
  console.log("|---|---|---|---|---|---|---|---|---|");
  for (const bits of [4, 8]) for (const [name, rows, input, output] of SHAPES) {
    const sizes = { rows, input, output, bits };
    const results = [];
    for (const page of [mine, other]) results.push(await set(page, sizes));
    const [{ y }, { y: expected }] = results;
    const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const difference = y.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i])), 0) / largest;
    if (y.length !== expected.length || !(difference < 1e-4)) throw new Error(`they differ by ${difference}`);
    const times = Math.max(1, Math.min(32, Math.round(ENOUGH / (rows * input * output))));
    const took = [[], []];
    for (let round = 0; round < Number(rounds); round++) {
      for (const [i, page] of [mine, other].entries()) took[i].push(await time(page, times));
    }
    const ratio = median(took[0].map((ms, i) => ms / took[1][i]));
    const [a, b] = took.map((ms) => median(ms).toPrecision(3));
    const bytes = results.map(({ bytes }) => (device === "cpu" ? "" : bytes)).join(" | ");
    console.log(`| ${name} | ${rows} x ${input} x ${output} | ${bits} bits | ${a} | ${b} | ${ratio.toFixed(2)} | ${difference.toExponential(0)} | ${bytes} |`);
  }
}

const here = fileURLToPath(new URL(".", import.meta.url));
const server = await serve(here, here);
try {
  for (const device of devices) {
    // The runtime logs what it has to say as errors.
    await withPage({ webgpu: true, expected: /./ }, async (page) => {
      const other = await page.context().newPage();
      for (const [at, prepare] of [[page, ours], [other, theirs]]) {
        await at.addInitScript(count);
        await at.goto(`${server.url}/layer.js`);
        await at.evaluate(prepare, device);
      }
      await compare(device, page, other);
    });
  }
} finally {
  server.close();
}
