/** How a drawing is shown while it is made, and what the page suggests to draw. */

import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { Timeline } from "../../www/page/timeline.js";
import { PATIENCE, ROOT, assertAccessible, few, model, open, start, ui, withPage, work } from "./browser.mjs";

const VOCABULARY = {
  format: 1,
  things: [
    { en: ["red apple", "apple"], zh: ["苹果", "红苹果"] },
    { en: ["cat"], zh: ["猫"] },
    { en: ["pineapple"], zh: ["菠萝"] },
  ],
  glyphs: [{ en: ["airplane"], zh: ["飞机"] }],
  colours: [{ en: ["blue"], zh: ["蓝色"] }],
};
const MANIFEST = join(model, "model.json");
/** What the tiny models' projections are, whatever conversion found: ink and cover of their four channels. */
const PROJECTION = { weights: [0, 1, 2, 3].map((row) => [0, 1, 2, 3].map((i) => (row === i ? 0.5 : 0))), bias: [1, 1, 1, 2] };

/** Changes a model's manifest. */
function rewrite(path, change) {
  const manifest = JSON.parse(readFileSync(path, "utf8"));
  change(manifest);
  writeFileSync(path, JSON.stringify(manifest));
}

let server;
before(async () => {
  server = await start();
  for (const path of [MANIFEST, join(work, "sketch/model.json")]) {
    rewrite(path, (manifest) => {
      manifest.pipeline.latent.projection = PROJECTION;
      manifest.vocabulary = "vocabulary.json";
      if (path !== MANIFEST) manifest.name = "sketch";
    });
  }
  writeFileSync(join(model, "vocabulary.json"), JSON.stringify(VOCABULARY));
});
after(() => server?.close());

const query = { device: "cpu", model: "/sound/model/" };

describe("previews", () => {
  test("every step shows what the picture becomes, unless nothing shall", { timeout: PATIENCE }, () =>
    withPage({}, async (page) => {
      await open(page, server, query);
      const heard = await page.evaluate(async () => {
        const { Generator } = await import("/pangu-draw.js");
        const generator = await Generator.load("/sound/model/", { device: "cpu" });
        const draw = async (options) => {
          const previews = [];
          const onStep = ({ step, preview, previewBy, sigma, insight }) => {
            if (preview) previews.push([step, previewBy, preview.width]);
            if (insight) previews.push([step, sigma > 0, insight.noisy.width, insight.estimates.length]);
          };
          const { rgba } = await generator.generate({ prompt: "cat", seed: 1, steps: 3, onStep, ...options });
          return { previews, rgba: [...rgba] };
        };
        const answers = [
          await draw({}),
          await draw({ preview: "decoder", previewEvery: 1 }),
          await draw({ preview: "none", previewEvery: 1 }),
          await draw({ preview: "decoder", insight: true }),
        ];
        const wrong = await draw({ preview: "sometimes" }).catch(({ code }) => code);
        return { answers, wrong, projects: generator.info().projects };
      });
      const [plain, decoder, none, insight] = heard.answers;
      assert.equal(heard.projects, true);
      const cells = plain.previews[0][2];
      assert.deepEqual(plain.previews, [1, 2, 3].map((step) => [step, "projection", cells]));
      const side = decoder.previews[0][2];
      assert.ok(side > cells, `${side} and ${cells}: the decoder's has the picture's size`);
      assert.deepEqual(decoder.previews, [1, 2].map((step) => [step, "decoder", side]));
      assert.deepEqual(none.previews, []);
      assert.deepEqual(insight.previews, [1, 2, 3].map((step) => [step, true, cells, 1]));
      for (const { rgba } of heard.answers) assert.deepEqual(rgba, plain.rgba, "looking changes nothing");
      assert.equal(heard.wrong, "invalid");
    }));
});

describe("the panel", () => {
  for (const [lang, scheme, words] of [
    ["en", "light", { panel: "How it was drawn", prompt: "Prompt", draw: "Draw", film: "Steps of the drawing", step: /^Estimate after step/, table: "Downloads and steps", decoder: "Decoder" }],
    ["zh", "dark", { panel: "绘制过程", prompt: "提示词", draw: "绘制", film: "绘制的各个步骤", step: /步之后的估计$/, table: "下载与步骤", decoder: "解码器" }],
  ]) {
    test(`tells how a picture was drawn, ${lang}, ${scheme}`, { timeout: PATIENCE }, () =>
      withPage({ context: { colorScheme: scheme } }, async (page) => {
        await open(page, server, { ...query, lang });
        const summary = page.getByText(words.panel, { exact: true });
        assert.ok(await summary.isHidden(), "there is nothing to tell yet");
        await page.getByRole("textbox", { name: words.prompt }).fill("cat");
        await page.locator("#steps").evaluate((input) => (input.value = "4"));
        await page.getByRole("button", { name: words.draw, exact: true }).click();
        await page.getByRole("img", { name: "cat", exact: true }).waitFor();
        assert.equal(await page.locator("#technique").getAttribute("open"), null, "it is closed until somebody looks");
        await summary.focus();
        await page.keyboard.press("Enter");
        await page.keyboard.press("Tab");
        const film = page.getByRole("list", { name: words.film });
        assert.ok(await film.evaluate((list) => list === document.activeElement), "the strip scrolls by keyboard");
        await film.getByRole("listitem").nth(3).waitFor(); // It fills a moment after it was opened.
        assert.equal(await film.getByRole("listitem").count(), 4);
        assert.equal(await film.getByRole("img", { name: words.step }).count(), 4);
        const table = page.getByRole("table", { name: words.table });
        const decoder = table.getByRole("row", { name: words.decoder });
        assert.match(await decoder.textContent(), /\d.*[kM]B/);
        assert.equal(await table.locator(".beat").count(), 4);
        assert.ok(await page.locator("#fusion").isHidden(), "one model drew");
        await assertAccessible(page);
        await page.setViewportSize({ width: 360, height: 800 });
        await assertAccessible(page, "a narrow screen");
      }));
  }

  test("shows models that draw together side by side", { timeout: PATIENCE }, () =>
    withPage({}, async (page) => {
      await open(page, server, query);
      const { prompt, draw, picture, status } = ui(page);
      await status.getByText("Ready.").waitFor();
      await page.getByText("Pictures that steer").click();
      await page.locator("#steer-file").setInputFiles({
        name: "lines.png",
        mimeType: "image/png",
        buffer: Buffer.from(
          await page.evaluate(async () => {
            const canvas = new OffscreenCanvas(32, 32);
            const context = canvas.getContext("2d");
            context.fillStyle = "white";
            context.fillRect(0, 0, 32, 32);
            context.strokeRect(8, 8, 16, 16);
            return [...new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer())];
          }),
        ),
      });
      await page.locator("#steer-cards").getByRole("listitem").waitFor();
      await prompt.fill("cat");
      await page.locator("#steps").evaluate((input) => (input.value = "4"));
      await draw.click();
      await picture("cat").waitFor();
      await page.getByText("How it was drawn", { exact: true }).click();
      const compared = page.locator("#fusion-list").getByRole("img", { name: /weight 0\.50: estimate in step 1$/ });
      await compared.first().waitFor();
      assert.equal(await compared.count(), 2);
      await page.locator("#fusion-list").getByText("Outline companion 0.50").first().waitFor();
      // Of a model that is not the page's own, its maker's name says more.
      const { name } = JSON.parse(readFileSync(MANIFEST, "utf8"));
      await page.locator("#fusion-list").getByText(`${name} 0.50`, { exact: true }).first().waitFor();
      await assertAccessible(page);
      await page.getByRole("button", { name: "中文" }).click();
      await page.locator("#fusion-list").getByText("轮廓辅助模型 0.50").first().waitFor();
    }));

  const DEFAULT = join(ROOT, "www/models/default/model.json");
  test("calls the page's own models by what they are for", { timeout: PATIENCE, skip: !existsSync(DEFAULT) }, () =>
    withPage({}, async (page) => {
      await page.goto(`${server.url}/?${new URLSearchParams(query)}`);
      const names = await page.evaluate(async () => {
        const [{ Generator }, { called, meet }, { choose }] = await Promise.all(["/pangu-draw.js", "/page/cast.js", "/page/i18n.js"].map((path) => import(path)));
        const generator = await Generator.open("models/default/", { device: "cpu" });
        const { model } = generator.info();
        const before = called(model);
        await meet(generator, { controls: [{ kind: "outline" }], draft: "variation" });
        const models = [model, "sketch", "variation", "stranger"];
        const english = models.map(called);
        choose("zh");
        return [model, before, english, models.map(called)];
      });
      assert.deepEqual(names, [
        "emoji", "emoji",
        ["Default model", "Outline companion", "Variation companion", "stranger"],
        ["默认模型", "轮廓辅助模型", "变体辅助模型", "stranger"],
      ]);
    }));

  test("keeps the parts of several models apart", { timeout: PATIENCE }, () =>
    withPage({}, async (page) => {
      await open(page, server, query);
      await ui(page).status.getByText("Ready.").waitFor();
      // As the engine tells it of models whose decoders are not the same.
      const heads = await page.evaluate(async () => {
        const { begin, hearLoad, hearStep } = await import("/page/technique.js");
        const load = (model, component, bytes) => hearLoad({ model, component, componentLoaded: bytes });
        begin("home");
        for (const [model, bytes] of [["home", 1e6], ["sketch", 2e6], ["home", 3e6]]) load(model, "decoder", bytes);
        const estimates = ["home", "sketch"].map((model) => ({ model, weight: 0.5, picture: null }));
        hearStep({ stage: "denoise", step: 1, steps: 1, within: 0, sigma: 1, expert: null, insight: { noisy: null, estimates } });
        document.querySelector("#technique").open = true;
        while (!document.querySelector("#timeline-parts tr")) await new Promise(requestAnimationFrame);
        return [...document.querySelectorAll("#timeline-parts tr")].map(({ cells: [head, came] }) => [head.textContent, came.textContent.match(/\((.*)\)/)?.[1]]);
      });
      const rows = heads.filter(([head]) => / · (home|sketch)$/.test(head));
      assert.deepEqual(rows, [["Decoder · home", "3.0\u00a0MB"], ["Decoder · sketch", "2.0\u00a0MB"]]);
    }));

  test("hears from the engine whose part arrives", { timeout: PATIENCE }, () =>
    withPage({ expected: /Failed to load resource/ }, async (page) => {
      await page.goto(`${server.url}/page/style.css`);
      const [name, heard] = await page.evaluate(async () => {
        const { Generator } = await import("/pangu-draw.js");
        const heard = new Set();
        const generator = await Generator.load("/sound/model/", { device: "cpu", all: true, onProgress: ({ model }) => heard.add(model) });
        return [generator.info().model, [...heard]];
      });
      assert.deepEqual(heard, [name]);
    }));
});

test("a timeline knows when each part was needed", () => {
  const load = (timeline, model, component) => timeline.load({ model, component, componentLoaded: 1 }, 1);
  const step = (timeline, now, more) => timeline.step({ stage: "denoise", sigma: 1, ...more }, now);
  const estimates = (...models) => ({ noisy: null, estimates: models.map((model) => ({ model, weight: 1, picture: null })) });
  const needed = (timeline) => Object.fromEntries(timeline.chart().parts.map(({ model, component, needed }) => [`${model} ${component}`, needed && Math.round(needed * 1000)]));
  const timeline = new Timeline();
  for (const part of ["text", "structure", "texture", "decoder", "encoder"]) load(timeline, "home", part);
  for (const part of ["unet", "decoder"]) load(timeline, "other", part);
  timeline.begin("home", 11);
  timeline.step({ stage: "text" }, 12);
  timeline.step({ stage: "denoise" }, 21);
  step(timeline, 31, { expert: "structure", insight: estimates("home") });
  step(timeline, 41, { expert: "texture", insight: estimates("home") });
  timeline.step({ stage: "decode" }, 51);
  // Alone; the other model was there from a drawing before.
  assert.deepEqual(needed(timeline), {
    "home text": 10, "home structure": 20, "home texture": 30, "home decoder": 50, "home encoder": null, "other unet": null, "other decoder": null,
  });
  timeline.begin("home", 61);
  timeline.step({ stage: "denoise" }, 71);
  step(timeline, 81, { expert: "texture", insight: estimates("home", "other") });
  timeline.step({ stage: "decode" }, 91);
  // Together: they meet in pixels from the first step on.
  assert.deepEqual(needed(timeline), {
    "home text": 60, "home structure": 70, "home texture": 70, "home decoder": 70, "home encoder": 70, "other unet": 70, "other decoder": 70,
  });
});

describe("suggestions", () => {
  test("come while one writes, in either language, and are taken by keyboard or pointer", { timeout: PATIENCE }, () =>
    withPage({}, async (page) => {
      await open(page, server, query);
      const { prompt, status } = ui(page);
      await page.getByRole("button", { name: "Surprise me" }).waitFor();
      const list = page.getByRole("listbox", { name: "Suggestions" });
      const words = () => list.getByRole("option").evaluateAll((options) => options.map((option) => option.firstChild.data));

      await prompt.pressSequentially("app");
      assert.deepEqual(await words(), ["apple", "red apple"]);
      await assertAccessible(page);
      await page.keyboard.press("ArrowDown");
      await page.keyboard.press("ArrowDown");
      assert.equal(await prompt.getAttribute("aria-activedescendant"), "suggestion-1");
      await page.keyboard.press("Enter");
      assert.equal(await prompt.inputValue(), "red apple");
      assert.ok(await list.isHidden());
      assert.match(await status.textContent(), /^Ready/, "Enter took the suggestion, and drew nothing");

      await prompt.fill("");
      await prompt.pressSequentially("a cat and a blue ai");
      assert.deepEqual(await words(), ["blue airplane"]);
      await list.getByRole("option").click();
      assert.equal(await prompt.inputValue(), "a cat and a blue airplane");

      await prompt.fill("苹");
      assert.deepEqual(await words(), ["苹果", "红苹果"]);
      await page.keyboard.press("Escape");
      assert.ok(await list.isHidden());
      assert.equal(await prompt.inputValue(), "苹");

      // What is being composed is left alone; what was composed is not.
      await prompt.fill("");
      const input = (isComposing) =>
        prompt.evaluate((field, isComposing) => {
          field.value = "ca";
          field.setSelectionRange(2, 2);
          field.dispatchEvent(new InputEvent("input", { isComposing }));
        }, isComposing);
      await input(true);
      assert.ok(await list.isHidden());
      await prompt.evaluate((field) => field.dispatchEvent(new CompositionEvent("compositionend")));
      assert.deepEqual(await words(), ["cat"]);

      await prompt.fill("zebra");
      assert.ok(await list.isHidden(), "the model knows no such thing");
      await page.getByRole("button", { name: "Surprise me" }).click();
      const known = ["red apple", "cat", "pineapple", "blue airplane"];
      assert.ok(known.includes(await prompt.inputValue()), await prompt.inputValue());
    }));

  for (const [what, content] of few([
    ["is not there", undefined],
    ["is no JSON", "{"],
    ["is of another format", JSON.stringify({ ...VOCABULARY, format: 2 })],
    ["is far too long", JSON.stringify({ ...VOCABULARY, more: "x".repeat(300_000) })],
  ])) {
    test(`there are none where the file ${what}`, { timeout: PATIENCE }, () =>
      withPage({ expected: /404/ }, async (page) => {
        server.fault = ({ path }) => (path.endsWith("vocabulary.json") && content === undefined ? { status: 404 } : undefined);
        if (content !== undefined) writeFileSync(join(model, "vocabulary.json"), content);
        await open(page, server, query);
        const address = `${server.url}/sound/model/vocabulary.json`;
        await page.waitForFunction((address) => performance.getEntriesByName(address).length > 0, address);
        await ui(page).prompt.pressSequentially("app");
        assert.ok(await page.getByRole("listbox").isHidden());
        assert.equal(await page.getByRole("button", { name: "Surprise me" }).count(), 0);
        server.fault = undefined;
        writeFileSync(join(model, "vocabulary.json"), JSON.stringify(VOCABULARY));
      }));
  }

  test("what is wrong in the file is left out", { timeout: PATIENCE }, () =>
    withPage({}, async (page) => {
      await open(page, server, query);
      const parsed = await page.evaluate(async () => {
        const { parse, suggest } = await import("/page/vocabulary.js");
        const things = [null, 7, { en: "cat" }, { en: ["ok", 5, "", "x".repeat(61), "a\u202eb"], zh: [{}] }];
        const many = Array.from({ length: 5000 }, (_, i) => ({ en: [`thing ${i}`] }));
        const vocabulary = parse({ format: 1, things, glyphs: many, colours: "red" });
        return { things: vocabulary.things, glyphs: vocabulary.glyphs.length, colours: vocabulary.colours, most: suggest(vocabulary, "thing").length };
      });
      assert.deepEqual(parsed, { things: [{ en: ["ok"], zh: [] }], glyphs: 2000, colours: [], most: 6 });
    }));
});
