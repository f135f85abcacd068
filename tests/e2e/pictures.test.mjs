/** Pictures that steer a drawing: how they come in, what the model sees of them, and what they do. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { FIREFOX, NATIVE, PATIENCE, REACHABLE, ROOT, assertAccessible, decode, few, give, inWorkers, meanDifference, open, start, ui, withPage, work } from "./browser.mjs";

let server;
before(async () => (server = await start()));
after(() => server?.close());

const tiny = { device: "cpu", model: "/sound/model/" };
const request = { prompt: "a red apple", seed: 7, steps: 4, guidanceScale: 3, sampler: "dpmpp_2m" };
const timeout = PATIENCE;

/**
 * Draws through the JavaScript interface; `pictures` are drawn on canvases: a black ring on white for `ring`, pixels for
 * `{ width, height, rgba }`. Answers the pixels and what was heard of, or the error as plain data.
 */
const steer = (page, url, device, request, { outline, init, mask } = {}) =>
  page.evaluate(
    async ([url, device, request, given]) => {
      const { Generator, PanguDrawError } = await import("/pangu-draw.js");
      const picture = (kind) => {
        if (kind !== "ring") return kind && { ...kind, rgba: new Uint8ClampedArray(kind.rgba) };
        const context = Object.assign(document.createElement("canvas"), { width: 64, height: 64 }).getContext("2d");
        context.fillStyle = "#fff";
        context.fillRect(0, 0, 64, 64);
        context.lineWidth = 3;
        context.arc(32, 32, 20, 0, 7);
        context.stroke();
        return context.canvas;
      };
      const loads = [];
      const steps = [];
      try {
        const generator = await Generator.load(url, { device });
        const control = { kind: "outline", image: picture(given.outline), ...request.control };
        delete request.control;
        const { width, height, rgba, png } = await generator.generate({
          ...request,
          controls: given.outline ? [control] : [],
          init: picture(given.init),
          mask: picture(given.mask),
          onLoad: ({ loaded, total }) => loads.push([loaded, total]),
          onStep: ({ step, steps: of }) => steps.push([step, of]),
        });
        generator.dispose();
        return { width, height, rgba: [...rgba], loads, steps, png: await png.text() };
      } catch (error) {
        if (!(error instanceof PanguDrawError)) throw error;
        return { name: error.name, code: error.code, details: error.details, message: error.message };
      }
    },
    [url, device, request, { outline, init, mask }],
  );

/** Reads a file as the page does; answers its first pixels or the error as plain data. */
const read = (page, bytes, type = "") =>
  page.evaluate(
    async ([bytes, type]) => {
      const { read } = await import("/pictures.js");
      const decoded = globalThis.createImageBitmap;
      let decodings = 0;
      globalThis.createImageBitmap = (...given) => (decodings++, decoded(...given));
      try {
        const { width, height, rgba } = await read(new Blob([new Uint8Array(bytes)], { type }));
        return { width, height, rgba: [...rgba.subarray(0, 40_000)] };
      } catch ({ name, code, details, message }) {
        return { name, code, details, message, decodings };
      } finally {
        globalThis.createImageBitmap = decoded;
      }
    },
    [[...bytes], type],
  );

/** A file of a picture that the page paints: `paint(context)` in words. */
const file = async (page, type, width, height, paint) =>
  Buffer.from(
    await page.evaluate(
      async ([type, width, height, paint]) => {
        const context = new OffscreenCanvas(width, height).getContext("2d");
        new Function("context", paint)(context);
        return [...new Uint8Array(await (await context.canvas.convertToBlob({ type, quality: 1 })).arrayBuffer())];
      },
      [type, width, height, paint],
    ),
  );

/** A black disc without background. */
const disc = (page) => file(page, "image/png", 60, 60, "context.arc(30, 30, 20, 0, 7); context.fill()");

/** A PNG whose header claims its sides, with nothing behind it. */
function claim(width, height) {
  const png = Buffer.from("89504e470d0a1a0a0000000d4948445200000000000000000806000000000000000000000049444154", "hex");
  png.writeUInt32BE(width, 16);
  png.writeUInt32BE(height, 20);
  return png;
}

/** Opens the panel of the page with the tiny model. */
async function panel(page, query = tiny) {
  await open(page, server, query);
  await page.locator("#steer summary").click();
  return {
    cards: page.locator(".card"),
    card: (kind) => page.locator(`.card[data-kind="${kind}"]`),
    alarm: page.locator("#steer-alarm"),
    kind: (name) => page.getByRole("radio", { name, exact: true }),
    upload: (name, buffer, mimeType) => page.locator("#steer-file").setInputFiles({ name, mimeType, buffer }),
  };
}

/** Draws a line on the pad with the mouse, through points given as shares of its sides; `midway` happens after the second. */
async function stroke(page, [first, second, ...others], midway = () => {}) {
  const box = await page.getByRole("img", { name: "Drawing pad" }).boundingBox();
  const move = ([x, y]) => page.mouse.move(box.x + x * box.width, box.y + y * box.height, { steps: 4 });
  await move(first);
  await page.mouse.down();
  await move(second);
  await midway();
  for (const point of others) await move(point);
  await page.mouse.up();
}

const SQUARE = [[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75], [0.25, 0.25]];

/** How many pixels of a canvas are dark. */
const dark = (canvas) =>
  canvas.evaluate((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return Array.from({ length: data.length / 4 }, (_, i) => data[4 * i] < 128 && data[4 * i + 3] > 128).filter(Boolean).length;
  });

/** Presses Draw with a prompt; answers the picture's pixels. */
async function drawn(page, prompt) {
  const { draw, picture } = ui(page);
  await page.getByRole("textbox", { name: "Prompt", exact: true }).fill(prompt);
  const before = await page.locator("#picture").getAttribute("src");
  await draw.click();
  await page.waitForFunction((src) => (document.querySelector("#picture:not([hidden])")?.getAttribute("src") ?? src) !== src, before);
  const bytes = await picture(prompt).evaluate(async ({ src }) => [...new Uint8Array(await (await fetch(src)).arrayBuffer())]);
  return { rgba: await decode(page, bytes), png: Buffer.from(bytes).toString("utf8") };
}

async function seedAndSteps(page) {
  await page.getByLabel("Seed").fill("7");
  await page.locator("details.advanced summary").click();
  await page.getByLabel("Steps", { exact: true }).fill("3");
}

describe("an outline", () => {
  test("is drawn on the pad, shown as the model sees it, and steers", { timeout }, () =>
    withPage({}, async (page) => {
      const { card, cards } = await panel(page);
      await seedAndSteps(page);
      const alone = await drawn(page, "cat");
      server.requests.length = 0;
      await page.getByRole("button", { name: "Sketch it" }).click();
      await stroke(page, SQUARE);
      await stroke(page, [[0.1, 0.1], [0.9, 0.9]]);
      await page.getByRole("button", { name: "Undo" }).click();
      await page.getByRole("button", { name: "Done" }).click();
      const seen = card("outline").getByRole("img", { name: "What the model sees" });
      await page.waitForFunction(() => document.querySelector(".seen")?.width === 16);
      assert.ok((await dark(seen)) > 0, "lines are seen");
      assert.ok(!server.requests.some(({ path }) => path.endsWith(".gguf")), "no weights were needed to show them");
      const steered = await drawn(page, "cat");
      assert.ok(server.requests.some(({ path }) => path === "/sound/sketch/controlnet.gguf"));
      assert.ok(meanDifference(steered.rgba, alone.rgba) > 0.5, "the outline changes the picture");
      assert.match(steered.png, /"controls":\[\{"kind":"outline","strength":0.5,"until":0.5/);
      await card("outline").getByRole("slider", { name: "Strength Outline" }).fill("0");
      assert.equal(await card("outline").locator("output").textContent(), "0.00");
      assert.deepEqual((await drawn(page, "cat")).rgba, alone.rgba, "at strength 0 the model draws as it does alone");
      await page.getByRole("button", { name: "Remove Outline" }).click();
      assert.equal(await cards.count(), 0);
      assert.doesNotMatch((await drawn(page, "cat")).png, /"controls"/);
    }));

  test("is mended on the pad: eraser, Clear, Undo also inside a stroke; nothing left is no outline", { timeout }, () =>
    withPage({}, async (page) => {
      const { card, cards } = await panel(page);
      const press = (name) => page.getByRole("button", { name, exact: true }).click();
      const ink = () => dark(page.getByRole("img", { name: "Drawing pad" }));
      await press("Sketch it");
      await stroke(page, SQUARE);
      const square = await ink();
      await press("Eraser");
      await stroke(page, SQUARE.slice(0, 2));
      assert.ok((await ink()) < square, "one side is gone");
      await press("Undo");
      assert.equal(await ink(), square);
      await press("Clear");
      assert.equal(await ink(), 0);
      await press("Undo");
      assert.equal(await ink(), square);
      await press("Pen");
      await stroke(page, [[0.1, 0.9], [0.9, 0.9]]);
      const thin = (await ink()) - square;
      await press("Undo");
      await page.getByLabel("Width").fill("24");
      await stroke(page, [[0.1, 0.9], [0.9, 0.9]]);
      assert.ok((await ink()) - square > 1.5 * thin, "a wider pen");
      await press("Undo");
      await press("Done");
      await card("outline").waitFor();
      await press("Draw on Outline");
      await stroke(page, [[0.1, 0.9], [0.5, 0.9], [0.9, 0.9]], () => page.keyboard.press("Control+z"));
      assert.equal(await ink(), square, "what follows belongs to no older stroke");
      await press("Clear");
      await press("Done");
      await card("outline").waitFor({ state: "detached" });
      assert.equal(await cards.count(), 0);
    }));

  test("is drawn by keyboard alone, which says where the pen is", { timeout }, () =>
    withPage({}, async (page) => {
      const { card } = await panel(page);
      await page.getByRole("button", { name: "Sketch it" }).press("Enter");
      const pad = page.getByRole("application", { name: "Drawing by keyboard" });
      const say = page.locator("#pad-say");
      const ink = () => dark(page.getByRole("img", { name: "Drawing pad" }));
      const press = async (...keys) => {
        for (const key of keys) await page.keyboard.press(key);
      };
      assert.match(await say.textContent(), /Space puts the pen down/);
      assert.ok(await pad.evaluate((pad) => pad === document.activeElement));
      await press("ArrowLeft", "ArrowUp");
      assert.equal(await say.textContent(), "47 % from the left, 47 % from the top");
      assert.equal(await ink(), 0, "the pen is up");
      await press("Space");
      assert.equal(await say.textContent(), "Pen down, 47 % from the left, 47 % from the top");
      const dot = await ink();
      await press("ArrowRight", "Shift+ArrowDown", "ArrowRight");
      assert.equal(await say.textContent(), "53 % from the left, 48 % from the top");
      const line = await ink();
      assert.ok(dot > 0 && line > dot);
      await press("Space", "ArrowDown");
      assert.equal(await ink(), line, "lifted");
      await press("Space", "ArrowDown", "Control+z", "ArrowDown");
      assert.equal(await ink(), line, "what follows belongs to no older stroke");
      for (let i = 0; i < 40; i++) await press("ArrowLeft");
      assert.match(await say.textContent(), /^0 % from the left/);
      await page.getByRole("button", { name: "Done" }).press("Enter");
      await card("outline").waitFor();
    }));

  test("draws in the browser what it draws natively", { timeout }, () =>
    withPage({}, async (page) => {
      await open(page, server, tiny);
      const ring = await page.evaluate(async () => {
        const context = new OffscreenCanvas(64, 64).getContext("2d");
        context.fillStyle = "#fff";
        context.fillRect(0, 0, 64, 64);
        context.lineWidth = 3;
        context.arc(32, 32, 20, 0, 7);
        context.stroke();
        return [...new Uint8Array(await (await context.canvas.convertToBlob()).arrayBuffer())];
      });
      const [input, output] = ["ring.png", "native.png"].map((name) => join(work, name));
      writeFileSync(input, Buffer.from(ring));
      const { prompt, seed, steps, guidanceScale, sampler } = request;
      const settings = { seed, steps, guidance: guidanceScale, sampler, device: "cpu", model: join(work, "model") };
      const flags = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, String(value)]);
      execFileSync(NATIVE, ["draw", prompt, ...flags, "--control", `outline=${input}:0.8`, "-o", output]);
      const here = await steer(page, "/sound/model/", "cpu", { ...request, control: { strength: 0.8 } }, { outline: "ring" });
      const difference = meanDifference(here.rgba, await decode(page, readFileSync(output)));
      console.log(`native and browser, fused on the CPU: mean difference ${difference.toFixed(4)} of 255`);
      assert.ok(difference <= 1, `${difference}`);
      const [loaded, total] = here.loads.at(-1);
      assert.ok(loaded === total && total > 500_000, `the companion's arrival is reported: ${JSON.stringify(here.loads)}`);
    }));

  test("steers on WebGPU as on the CPU", { timeout: 2 * timeout, skip: FIREFOX }, () =>
    withPage({ webgpu: true }, async (page) => {
      await open(page, server, tiny);
      const short = { ...request, steps: 2, sampler: "euler", control: { strength: 0.8, until: 1 } };
      const [gpu, cpu] = [
        await steer(page, "/sound/model/", "webgpu", short, { outline: "ring" }),
        await steer(page, "/sound/model/", "cpu", short, { outline: "ring" }),
      ];
      const difference = meanDifference(gpu.rgba, cpu.rgba);
      console.log(`WebGPU and CPU, fused: mean difference ${difference.toFixed(4)} of 255`);
      assert.ok(difference <= 1, `${difference}`);
    }));

  test("out of range names the parameter", { timeout }, () =>
    withPage({}, async (page) => {
      await open(page, server, tiny);
      for (const [control, parameter] of [
        [{ strength: 2 }, "control"],
        [{ until: -1 }, "control"],
        [{ strength: NaN }, "request"],
        [{ kind: "pose" }, "request"],
        [{ image: undefined }, "image"],
        [{ image: { width: 4, height: 4, rgba: [1, 2, 3] } }, "image"],
      ]) {
        const { name, details } = await steer(page, "/sound/model/", "cpu", { ...request, control }, { outline: "ring" });
        assert.deepEqual([name, details?.parameter], ["InvalidError", parameter], JSON.stringify(control));
      }
      const { name } = await steer(page, "/sound/model/", "cpu", { ...request, control: { kind: "variation" } }, { outline: "ring" });
      assert.equal(name, "UnsupportedError");
    }));

  test("stops while its companion loads, and works afterwards, also after a crash", { timeout }, () =>
    withPage({ expected: /boom/ }, async (page) => {
      server.prelude = REACHABLE;
      await open(page, server, tiny);
      const load = page.evaluate(async (request) => {
        const { Generator } = await import("/pangu-draw.js");
        const generator = (globalThis.generator = await Generator.load("/slow/model/", { device: "cpu" }));
        const image = { width: 2, height: 2, rgba: new Uint8ClampedArray(16).fill(255) };
        const options = (globalThis.options = { ...request, controls: [{ kind: "outline", image }] });
        const controller = new AbortController();
        const onLoad = () => controller.abort();
        const error = await generator.generate({ ...options, onLoad, signal: controller.signal }).catch((error) => error);
        const { width } = await generator.generate(options);
        return { code: error.code, width };
      }, request);
      const { code, width } = await load;
      assert.equal(code, "cancelled");
      assert.equal(width, 16);
      await inWorkers(page, "throw new Error('boom')");
      await page.waitForTimeout(300);
      const again = await page.evaluate(async () => {
        const { generator, options } = globalThis;
        const [{ width }, view] = await Promise.all([generator.generate(options), generator.view("outline", options.controls[0].image)]);
        return [width, view.width];
      });
      assert.deepEqual(again, [16, 16]);
    }).finally(() => (server.prelude = "")));
});

describe("a picture", () => {
  test("comes by upload, by drop and by paste", { timeout }, () =>
    withPage({}, async (page) => {
      const { card, cards, kind, upload } = await panel(page);
      const png = await disc(page);
      await upload("disc.png", png, "image/png");
      await page.waitForFunction(() => document.querySelector(".seen")?.width === 16);
      assert.ok((await dark(card("outline").locator(".seen"))) > 0);
      await kind("Starting point").check();
      const area = page.locator("#steer");
      await give(area, "dragover", png);
      assert.ok(await page.locator("#steer.target").isVisible());
      await give(area, "drop", png);
      await card("init").waitFor();
      assert.equal(await cards.count(), 2);
      await page.getByRole("button", { name: "Remove Outline" }).click();
      await kind("Outline").check();
      await give(area, "paste", png);
      await card("outline").waitFor();
      assert.equal(await cards.count(), 2);
    }));

  test("arrives upright, as its orientation flag says", { timeout }, () =>
    withPage({}, async (page) => {
      await open(page, server, tiny);
      // Left half red, right half blue; turned a quarter clockwise, red is above.
      const jpeg = await file(page, "image/jpeg", 64, 32, `
        context.fillStyle = "#f00"; context.fillRect(0, 0, 32, 32); context.fillStyle = "#00f"; context.fillRect(32, 0, 32, 32);`);
      const exif = Buffer.from("ffe1002245786966000049492a00080000000100120103000100000006000000" + "00000000", "hex");
      const { width, height, rgba } = await read(page, Buffer.concat([jpeg.subarray(0, 2), exif, jpeg.subarray(2)]));
      assert.deepEqual([width, height], [32, 64]);
      const at = (x, y) => rgba.slice(4 * (y * width + x), 4 * (y * width + x) + 3);
      const [above, below] = [at(16, 8), at(16, 56)];
      assert.ok(above[0] > 200 && above[2] < 60, `red above: ${above}`);
      assert.ok(below[2] > 200 && below[0] < 60, `blue below: ${below}`);
    }));

  test("keeps its transparency, and is made smaller", { timeout }, () =>
    withPage({}, async (page) => {
      await open(page, server, tiny);
      const { rgba } = await read(page, await disc(page));
      assert.deepEqual([rgba[3], rgba[4 * (30 * 60 + 30) + 3]], [0, 255]);
      const large = await read(page, await file(page, "image/png", 3000, 1500, "context.fillRect(0, 0, 3000, 1500)"));
      assert.deepEqual([large.width, large.height], [1024, 512]);
    }));

  test("that is broken or too large is an error before it is decoded, and nothing else is lost", { timeout }, () =>
    withPage({}, async (page) => {
      const { alarm, card, cards, upload } = await panel(page);
      const png = await disc(page);
      for (const bytes of [claim(60_000, 60_000), Buffer.from("no picture at all"), Buffer.alloc(0)]) {
        const { name, code, details, decodings } = await read(page, bytes);
        assert.deepEqual([name, code, details.parameter, decodings], ["InvalidError", "invalid", "image", 0]);
      }
      assert.match((await read(page, claim(60_000, 60_000))).message, /60000x60000/);
      const { name, details, width } = await read(page, png.subarray(0, 45));
      // A file that ends early: Firefox takes what there is of it.
      if (FIREFOX) assert.equal(width, 60);
      else assert.deepEqual([name, details.parameter], ["InvalidError", "image"]);
      await upload("disc.png", png, "image/png");
      await card("outline").waitFor();
      for (const bytes of [claim(60_000, 60_000), Buffer.from("no picture at all")]) {
        await upload("wrong.png", bytes, "image/png");
        await alarm.getByText("That picture cannot be used").waitFor();
        assert.equal(await cards.count(), 1, "the picture that was there stays");
        await upload("disc.png", png, "image/png");
        await alarm.waitFor({ state: "hidden" });
      }
    }));

  test("comes from the camera, which is let go", { timeout }, () =>
    withPage({ camera: "allowed" }, async (page) => {
      const { card } = await panel(page);
      await page.evaluate(() => {
        const get = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (wish) => (globalThis.stream = await get(wish));
      });
      await page.getByRole("button", { name: "Camera" }).click();
      await page.getByRole("button", { name: "Take it" }).click();
      await card("outline").waitFor();
      assert.deepEqual(await page.evaluate(() => globalThis.stream.getTracks().map((track) => track.readyState)), ["ended"]);
    }));

  test("from a camera that may not be used is explained", { timeout }, () =>
    withPage({ camera: "refused" }, async (page) => {
      const { alarm } = await panel(page);
      await page.getByRole("button", { name: "Camera" }).click();
      await alarm.getByText("There is no camera, or this page may not use it.").waitFor();
    }));
});

describe("an SVG file", () => {
  const svg = (attributes, content) => Buffer.from(`<svg xmlns="http://www.w3.org/2000/svg" ${attributes}>${content}</svg>`);
  const BOX = '<rect x="0" y="0" width="40" height="20"/>';
  /** Sides of the card's picture, and how many of its pixels are dark. */
  const given = async (page) => {
    const canvas = page.locator(".given");
    return [...(await canvas.evaluate(({ width, height }) => [width, height])), await dark(canvas)];
  };

  test("is drawn at a size of its own proportions, whatever it says of it", { timeout }, () =>
    withPage({}, async (page) => {
      const { card, upload } = await panel(page);
      for (const [attributes, sides, ink] of [
        ['width="40" height="40"', [512, 512], 1 / 2],
        ['width="40px" height="20px" viewBox="0 0 40 20"', [512, 256], 1],
        ['viewBox="0,0 40 80"', [256, 512], 1 / 4],
        ['width="100%" height="100%" viewBox="0 0 40 40"', [512, 512], 1 / 2],
        ['width="1e9" height="1e9" viewBox="0 0 40 20"', [512, 512], 1 / 2],
      ]) {
        await upload("box.svg", svg(attributes, BOX), "image/svg+xml");
        await page.waitForFunction(([w, h]) => ((c) => c?.width === w && c.height === h)(document.querySelector(".given")), sides);
        const [width, height, pixels] = await given(page);
        assert.ok(Math.abs(pixels / (width * height) - ink) < 0.01, `${attributes}: ${pixels} of ${width} x ${height}`);
        await card("outline").getByRole("button", { name: "Remove" }).click();
      }
      // One of no size is a square.
      await upload("none.svg", svg("", '<circle r="9" cx="20" cy="20"/>'), "image/svg+xml");
      await card("outline").waitFor();
      const [width, height, pixels] = await given(page);
      assert.deepEqual([width, height, pixels > 0], [512, 512, true]);
    }));

  test("runs nothing and fetches nothing; what is no SVG is refused", { timeout }, () =>
    withPage({}, async (page) => {
      const { alarm, card, upload } = await panel(page);
      server.requests.length = 0;
      const evil = `<script>window.top.harmed = 1</script><style>@import "${server.url}/styled"; rect { fill: #000 }</style>
        <image href="${server.url}/image.png" width="9" height="9"/><rect onload="window.top.harmed = 1" width="9" height="9" fill="#fff"/>`;
      await upload("evil.svg", svg('viewBox="0 0 9 9" onload="window.top.harmed = 1"', evil), "image/svg+xml");
      await card("outline").waitFor();
      assert.ok((await given(page))[2] > 0.9 * 512 ** 2, "its own style applies");
      assert.equal(await page.evaluate(() => window.harmed), undefined);
      assert.deepEqual(server.requests.filter(({ path }) => /styled|image/.test(path)), []);
      for (const wrong of ["<html/>", "<svg", "", `<svg xmlns="http://www.w3.org/2000/svg">${" ".repeat(5 << 20)}</svg>`]) {
        await upload("wrong.svg", Buffer.from(wrong), "image/svg+xml");
        await alarm.getByText("That picture cannot be used").waitFor();
        await upload("good.svg", svg('viewBox="0 0 9 9"', BOX), "image/svg+xml");
        await alarm.waitFor({ state: "hidden" });
      }
    }));
});

describe("drawing over a picture", () => {
  const side = 16;
  const pixels = (colour) => ({
    width: side,
    height: side,
    rgba: Array.from({ length: side * side }, (_, i) => colour(i % side, Math.floor(i / side))).flat(),
  });

  test("leaves what is outside the mask as it is", { timeout }, () =>
    withPage({}, async (page) => {
      await open(page, server, tiny);
      const init = pixels((x, y) => [x * 16, y * 16, 128, 255]);
      const mask = pixels((x) => (x < side / 2 ? [255, 255, 255, 255] : [0, 0, 0, 255]));
      const { rgba } = await steer(page, "/sound/model/", "cpu", request, { init, mask });
      const half = (from) => rgba.map((value, i) => [(i >> 2) % side, Math.abs(value - init.rgba[i])]).filter(([x]) => x < side / 2 === from);
      assert.equal(Math.max(...half(false).map(([, difference]) => difference)), 0);
      assert.ok(Math.max(...half(true).map(([, difference]) => difference)) > 8, "inside, something was drawn");
    }));

  test("takes only the last steps, and says how many", { timeout }, () =>
    withPage({}, async (page) => {
      await open(page, server, tiny);
      const init = pixels(() => [255, 0, 0, 255]);
      const { steps } = await steer(page, "/sound/model/", "cpu", { ...request, strength: 0.5 }, { init });
      assert.ok(steps.every(([step, of]) => of === 2 && step <= 2), JSON.stringify(steps.slice(0, 9)));
      const { name, details } = await steer(page, "/sound/model/", "cpu", { ...request, strength: 0 }, { init });
      assert.deepEqual([name, details.parameter], ["InvalidError", "strength"]);
    }));

  test("is painted on the page", { timeout }, () =>
    withPage({}, async (page) => {
      const { card, kind, upload } = await panel(page);
      await seedAndSteps(page);
      await kind("Starting point").check();
      await upload("disc.png", await disc(page), "image/png");
      await card("init").getByRole("button", { name: "Only a part" }).click();
      await stroke(page, [[0.1, 0.1], [0.2, 0.1]]);
      await page.getByRole("button", { name: "Done" }).click();
      await card("init").getByRole("button", { name: "Change the part" }).waitFor();
      assert.equal(await card("init").locator("output").textContent(), "1.00");
      assert.match((await drawn(page, "cat")).png, /"init":\{"strength":1.0,"sha256":"\w+","mask":"\w+"\}/);
    }));
});

describe("the panel", () => {
  test("takes two pictures of a kind, each with its own end and fall", { timeout }, () =>
    withPage({}, async (page) => {
      const { cards, upload } = await panel(page);
      await seedAndSteps(page);
      const beside = page.getByLabel("beside the one before");
      assert.ok(await beside.isHidden(), "nothing is there yet");
      await upload("disc.png", await disc(page), "image/png");
      await cards.first().waitFor();
      const one = await drawn(page, "cat");
      await beside.check();
      await upload("box.png", await file(page, "image/png", 60, 60, "context.fillRect(9, 9, 30, 30)"), "image/png");
      await page.getByRole("heading", { name: "Outline 2" }).waitFor();
      assert.equal(await cards.count(), 2);
      assert.ok(!(await beside.isChecked()), "the next one replaces again");
      const second = cards.nth(1);
      await second.getByText("Finer").click();
      await second.getByRole("spinbutton", { name: "Steers until Outline 2" }).fill("1");
      await second.getByRole("combobox", { name: "Its weight Outline 2" }).selectOption("noise");
      const two = await drawn(page, "cat");
      const [, controls] = /"controls":(\[.*?\])/.exec(two.png);
      assert.deepEqual(
        JSON.parse(controls).map(({ kind, until, falloff }) => [kind, until, falloff]),
        [["outline", 0.5, "constant"], ["outline", 1, "noise"]],
      );
      assert.ok(meanDifference(one.rgba, two.rgba) > 0.5);
      await second.getByRole("spinbutton", { name: "Steers until Outline 2" }).fill("7");
      await ui(page).draw.click();
      await ui(page).error.getByText("A setting is out of its range: Steers until.").waitFor();
      await second.getByRole("spinbutton", { name: "Steers until Outline 2" }).fill("");
      await page.getByRole("button", { name: "Remove Outline 2" }).click();
      await upload("box.png", await disc(page), "image/png");
      assert.equal(await cards.count(), 1, "it takes the place of the one that is there");
    }));

  test("lets a picture's model draw the draft", { timeout }, () =>
    withPage({}, async (page) => {
      const { card, upload } = await panel(page);
      await seedAndSteps(page);
      await upload("disc.png", await disc(page), "image/png");
      await card("outline").getByText("Finer").click();
      await card("outline").getByLabel("Its model draws the draft").check();
      assert.match((await drawn(page, "cat")).png, /"draft":\{"model":"outline"/);
      await page.getByRole("button", { name: "Remove Outline" }).click();
      assert.doesNotMatch((await drawn(page, "cat")).png, /"draft"/);
    }));

  test("compares strengths, and stops comparing", { timeout }, () =>
    withPage({}, async (page) => {
      const { upload } = await panel(page);
      await seedAndSteps(page);
      await upload("disc.png", await disc(page), "image/png");
      const compare = page.getByRole("button", { name: "Compare strengths" });
      const strip = page.locator("#strip-list button");
      const { cancel, prompt, status } = ui(page);
      await prompt.fill("cat");
      await compare.click();
      await status.getByText(/^Drawn in/).waitFor();
      assert.equal(await strip.count(), 5);
      const sources = await strip.locator("img").evaluateAll((images) => images.map(({ src }) => src));
      assert.equal(new Set(sources).size, 5);
      await page.getByRole("button", { name: "Strength 0.25: show this picture" }).click();
      assert.equal(await page.locator("#picture").getAttribute("src"), sources[1]);
      await page.getByLabel("Steps", { exact: true }).fill("100");
      await compare.click();
      await status.getByText(/^Strength 0.25, picture 2 of 5: step \d+ of 100$/).waitFor();
      await cancel.click();
      await status.getByText("Stopped.").waitFor();
      assert.equal(await strip.count(), 1, "what was drawn stays");
    }));

  for (const [locale, colorScheme, width] of few([
    ["en-US", "light", 1280],
    ["zh-CN", "dark", 1280],
    ["zh-CN", "light", 360],
    ["en-US", "dark", 360],
  ])) {
    test(`is accessible: ${locale}, ${colorScheme}, ${width} px`, { timeout }, () =>
      withPage({ context: { locale, colorScheme, viewport: { width, height: 800 } } }, async (page) => {
        const { card, upload } = await panel(page);
        await page.getByText(/^(Ready\.|就绪。)$/).waitFor(); // Then it is known what the model can be steered by.
        await upload("disc.png", await disc(page), "image/png");
        await card("outline").waitFor();
        await page.locator('#steer [value="init"]').check();
        await upload("disc.png", await disc(page), "image/png");
        await card("init").waitFor();
        await upload("wrong.png", Buffer.from("wrong"), "image/png");
        await page.locator("#steer-alarm").waitFor();
        await page.locator("details.advanced summary").click();
        await page.getByRole("textbox").first().fill("cat");
        await page.locator("#steps").fill("2");
        await page.locator("#compare").click();
        await page.waitForFunction(() => document.querySelectorAll("#strip-list li").length === 5);
        await page.locator("#cancel").waitFor({ state: "hidden" });
        await assertAccessible(page, "the panel");
        await page.getByRole("button", { name: locale === "en-US" ? "Only a part" : "只改一部分" }).focus();
        await page.keyboard.press("Enter");
        await assertAccessible(page, "the pad");
        await page.keyboard.press("Escape");
        await page.locator("#pad").waitFor({ state: "hidden" });
        assert.ok(await page.evaluate(() => document.activeElement.matches('[data-kind="init"] .paint')), "the focus returns");
      }));
  }
});

// Firefox draws with it in page.test.mjs; the rest is arithmetic.
describe("the default model", { skip: FIREFOX || !existsSync(join(ROOT, "www/models/default/model.json")) }, () => {
  test("draws at four times its size, through a draft", { timeout }, () =>
    withPage({}, async (page) => {
      await open(page, server, { device: "cpu" });
      await page.getByLabel("Size").selectOption("256 × 256");
      await page.getByLabel("Seed").fill("7");
      const { png } = await drawn(page, "red apple");
      assert.match(png, /"draft":\{/);
      const sides = await ui(page).picture("red apple").evaluate(({ naturalWidth, naturalHeight }) => [naturalWidth, naturalHeight]);
      assert.deepEqual(sides, [256, 256]);
    }));

  test("follows an outline and a variation", { timeout, skip: !existsSync(join(ROOT, "www/models/sketch/model.json")) }, () =>
    withPage({}, async (page) => {
      const { card, kind, upload } = await panel(page, { device: "cpu" });
      await page.getByLabel("Seed").fill("7");
      const alone = await drawn(page, "red apple");
      await page.getByRole("button", { name: "Sketch it" }).click();
      await stroke(page, SQUARE);
      await page.getByRole("button", { name: "Done" }).click();
      await card("outline").waitFor();
      const outlined = await drawn(page, "red apple");
      await page.getByRole("button", { name: "Remove Outline" }).click();
      await kind("Variation").check();
      await upload("disc.png", await disc(page), "image/png");
      await card("variation").waitFor();
      const varied = await drawn(page, "red apple");
      for (const other of [outlined, varied]) assert.ok(meanDifference(other.rgba, alone.rgba) > 1);
    }));
});
