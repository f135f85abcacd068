/** Pictures after they are drawn: kept, found again, drawn again, compared, handed on. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { deflateSync } from "node:zlib";
import { InvalidError } from "../../www/engine.js";
import { chunks, decode, encode, texts, withText } from "../../www/page/png.js";
import { differences, fromFile, fromLink, fromParameters, seal, toLink } from "../../www/page/recipe.js";
import { FIREFOX, NATIVE, PATIENCE, assertAccessible, decode as decodeInPage, few, give, meanDifference, model, open, save, start, ui, withPage, work } from "./browser.mjs";

let server;
before(async () => (server = await start()));
after(() => server?.close());

const tiny = { device: "cpu", model: "/sound/model/" };
const timeout = PATIENCE;
const bytesOf = async (blob) => new Uint8Array(await blob.arrayBuffer());

/** Pixels of every opacity. */
const noise = (width, height) => ({
  width,
  height,
  rgba: Uint8ClampedArray.from({ length: 4 * width * height }, (_, at) => (at * 7919 + (at >> 3) * 104729) % 256),
});

/** A chunk as bytes; the checksum is right unless told otherwise. */
function chunk(type, data, wrong = 0) {
  const named = Buffer.concat([Buffer.from(type, "latin1"), data]);
  const frame = Buffer.alloc(8);
  frame.writeUInt32BE(data.length, 0);
  frame.writeUInt32BE((crc(named) ^ wrong) >>> 0, 4);
  return Buffer.concat([frame.subarray(0, 4), named, frame.subarray(4)]);
}

function crc(bytes) {
  let sum = ~0;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return ~sum >>> 0;
}

/** A picture of one pixel with more chunks: `[type, data, wrong]`. */
function png(...more) {
  const header = Buffer.from("00000001000000010806000000", "hex");
  return assemble(["IHDR", header], ...more, ["IDAT", deflateSync(Buffer.alloc(5))], ["IEND", Buffer.alloc(0)]);
}

const assemble = (...parts) => new Uint8Array(Buffer.concat([Buffer.from("89504e470d0a1a0a", "hex"), ...parts.map((part) => chunk(...part))]));

const itxt = (keyword, text) => ["iTXt", Buffer.concat([Buffer.from(`${keyword}\0\0\0\0\0`), Buffer.from(text)])];
const packed = (keyword, data) => ["iTXt", Buffer.concat([Buffer.from(`${keyword}\0\x01\0\0\0`), deflateSync(data)])];
const invalid = (error) => error instanceof InvalidError && error.details.parameter === "image";

describe("a PNG file", () => {
  test("takes a text, and gives it back", async () => {
    const with1 = await bytesOf(await withText(png(itxt("parameters", "x")), "more", "苹果 🍎"));
    const with2 = await bytesOf(await withText(with1, "more", "anew"));
    assert.deepEqual(await texts(chunks(with1), ["parameters", "more"]), { parameters: "x", more: "苹果 🍎" });
    assert.deepEqual(await texts(chunks(with2), ["parameters", "more"]), { parameters: "x", more: "anew" });
    const latin = png(["tEXt", Buffer.from("a\0\xe9", "latin1")], ["zTXt", Buffer.concat([Buffer.from("b\0\0"), deflateSync(Buffer.from("zip"))])]);
    assert.deepEqual(await texts(chunks(latin), ["a", "b"]), { a: "é", b: "zip" });
  });

  test("keeps pixels as they are, also the colour of what is transparent", async () => {
    for (const [width, height] of [[1, 1], [3, 5], [64, 33]]) {
      const pixels = noise(width, height);
      assert.deepEqual(await decode(await bytesOf(await encode(pixels))), pixels);
    }
  });

  test("that is damaged, or made to do harm, is an error in words", async () => {
    const sound = png(itxt("parameters", "text"), packed("packed", Buffer.from("text")));
    for (let length = 0; length < sound.length; length++) assert.throws(() => chunks(sound.slice(0, length)), invalid, `${length} bytes`);
    for (let at = 0; at < sound.length; at++) {
      const wrong = sound.slice();
      wrong[at] ^= 0x41;
      await assert.rejects(async () => texts(chunks(wrong), ["parameters", "packed"]), invalid, `byte ${at}`);
    }
    const bomb = Buffer.alloc(2 ** 25);
    for (const [what, more] of [
      ["a text that unpacks to 32 MB", packed("parameters", bomb)],
      ["a text that cannot be unpacked", ["iTXt", Buffer.from("parameters\0\x01\0\0\0not zlib")]],
      ["a text that is not UTF-8", ["iTXt", Buffer.from("parameters\0\0\0\0\0\xff\xfe", "latin1")]],
      ["a keyword without end", ["iTXt", Buffer.from("parameters")]],
      ["a language without end", ["iTXt", Buffer.from("parameters\0\0\0en")]],
      ["a header in the wrong place", ["IHDR", Buffer.alloc(13)]],
      ["a wrong checksum", [...itxt("parameters", "x"), 1]],
      ["a chunk without a name", ["\0\0\0\0", Buffer.alloc(0)]],
    ]) {
      const bytes = png(more);
      await assert.rejects(async () => texts(chunks(bytes), ["parameters"]), invalid, what);
    }
    const large = await bytesOf(await encode(noise(513, 1)));
    await assert.rejects(decode(large), invalid, "pixels that are too many");
  });

  test("whose pixels unpack to more than its sides say is refused", async () => {
    const sound = await bytesOf(await encode(noise(2, 2)));
    const [header] = chunks(sound);
    for (const data of [Buffer.alloc(2 ** 25), Buffer.alloc(4), Buffer.from([9, ...Array(8).fill(0), 4, ...Array(8).fill(0)])]) {
      const file = assemble(["IHDR", Buffer.from(header.data)], ["IDAT", deflateSync(data)], ["IEND", Buffer.alloc(0)]);
      await assert.rejects(decode(file), invalid);
    }
  });
});

const SETTINGS = {
  model: "emoji", prompt: "红苹果 🍎, red", negativePrompt: "worm", style: "3d", seed: 7, steps: 8, guidanceScale: 3.5, sampler: "euler",
  width: 128, height: 256, background: "#ffcc00", tLow: 400, upsampler: "lanczos", styleScale: 1.5, spacing: "karras", precision: "f32",
};

describe("a recipe", () => {
  test("is read where this project writes it, and where it wrote it before", async () => {
    const controls = [{ kind: "outline", strength: 0.8, until: 0.5, falloff: "constant", sha256: "0" }];
    const { tLow, ...plain } = SETTINGS;
    const settings = JSON.stringify({ ...plain, draft: { model: null, tLow, size: [1, 1] }, controls, init: { strength: 0.6, sha256: "0", mask: "0" } });
    const pictures = [noise(4, 4), noise(5, 4), noise(6, 4)];
    for (const keyword of ["parameters", "pangu-draw"]) {
      const beside = keyword === "parameters" ? [] : [itxt("parameters", "cat\nSteps: 1, Seed: 2")];
      const file = new Blob([png(...beside, itxt(keyword, settings))]);
      const bare = await fromFile(file);
      assert.deepEqual(bare, { recipe: { ...SETTINGS, controls: [], strength: 0.6 }, left: ["controls", "init", "mask"] });
      const sealed = await seal(file, { prompt: "", controls: [{ kind: "outline", image: pictures[0] }], init: pictures[1], mask: pictures[2] });
      const { recipe, left } = await fromFile(sealed);
      assert.deepEqual(recipe, {
        ...SETTINGS, strength: 0.6, init: pictures[1], mask: pictures[2],
        controls: [{ kind: "outline", strength: 0.8, until: 0.5, falloff: "constant", image: pictures[0] }],
      });
      assert.deepEqual(left, []);
    }
    // Where no draft was wanted, the settings say so; what a newer version says is not passed over.
    const newer = await fromFile(new Blob([png(itxt("pangu-draw", JSON.stringify({ ...plain, tLow: 1000, hue: 3 })))]));
    assert.deepEqual(newer, { recipe: { ...SETTINGS, tLow: 1000, controls: [] }, left: ["hue"] });
  });

  test("that is no recipe, or wants harm, is refused or left out", async () => {
    const read = async (...more) => fromFile(new Blob([png(...more)]));
    assert.equal(await fromFile(new Blob(["no picture"])), undefined);
    assert.equal(await read(), undefined);
    assert.equal(await read(itxt("parameters", "just words")), undefined);
    await assert.rejects(read(itxt("pangu-draw", "{")), invalid);
    await assert.rejects(read(itxt("parameters", `Steps: 1${" ".repeat(30_000)}`)), invalid);
    const wrong = { prompt: 7, steps: 1e9, seed: -1, width: "128", guidanceScale: null, background: "red; url(x)", tLow: "1", style: "x".repeat(200), spacing: "wide", precision: "f64", styleScale: 51 };
    const found = await read(itxt("pangu-draw", JSON.stringify(wrong)));
    assert.deepEqual(found, { recipe: { controls: [] }, left: ["prompt", "style", "seed", "steps", "width", "background", "tLow", "styleScale", "spacing", "precision"] });
    const settings = itxt("pangu-draw", JSON.stringify({ prompt: "x", controls: [{ kind: "outline" }] }));
    for (const url of ["data:image/png;base64,AAAA", "https://example.org/x.png", 7, `data:image/png;base64,${"A".repeat(99)}`]) {
      await assert.rejects(read(settings, itxt("pangu-draw-pictures", JSON.stringify({ controls: [url] }))), invalid, String(url));
    }
    const many = Array(99).fill({ kind: "outline" });
    const url = `data:image/png;base64,${Buffer.from(await bytesOf(await encode(noise(1, 1)))).toString("base64")}`;
    const flood = await read(itxt("pangu-draw", JSON.stringify({ prompt: "x", controls: many })), itxt("pangu-draw-pictures", JSON.stringify({ controls: many.map(() => url) })));
    assert.deepEqual([flood.recipe.controls.length, flood.left], [16, ["controls"]]);
    assert.equal(fromLink("#toString=1"), undefined);
    for (const kind of ["pose", "__proto__", null]) {
      const strange = itxt("pangu-draw", JSON.stringify({ prompt: "x", controls: [{ kind }, null, 7] }));
      assert.deepEqual((await read(strange)).left, ["controls"]);
    }
  });

  test("of another tool gives what can be understood, and names the rest", () => {
    const text = `a red apple, (best:1.2)\non a table\nNegative prompt: worm,\nhole\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4.5, Seed: 123, Size: 256x128, Model hash: abc, Model: other, Lora hashes: "a: 1, b: 2", Clip skip: 2, Version: v1`;
    assert.deepEqual(fromParameters(text), {
      recipe: {
        model: "other", prompt: "a red apple, (best:1.2)\non a table", negativePrompt: "worm,\nhole", seed: 123, steps: 20,
        guidanceScale: 4.5, sampler: "dpmpp_2m", spacing: "karras", width: 256, height: 128,
      },
      left: ["Lora hashes", "Clip skip"],
      from: "tool",
    });
    // What this project writes for other tools, where they have lost the rest.
    const own = `猫\nSteps: 8, Sampler: Euler, CFG scale: 4, Seed: 7, Size: 128x96, Model: "my \\"best\\", model: 2", Version: PanGu-Draw 0.1.0, Spacing: trailing, Style guidance: 1.5, Denoising strength: 0.6, Background: #ffcc00, Control outline: "strength 0.9, until 0.5", Draft until: 400`;
    const plain = {
      model: 'my "best", model: 2', prompt: "猫", negativePrompt: "", seed: 7, steps: 8, guidanceScale: 4, sampler: "euler", width: 128, height: 96,
      background: "#ffcc00", tLow: 400, styleScale: 1.5, spacing: "trailing",
    };
    assert.deepEqual(fromParameters(own), { recipe: { ...plain, style: "" }, left: ["Denoising strength", "Control outline"], from: "tool" });
    assert.equal(fromParameters(own.replace("Style guidance", "Style: 3d, Style guidance")).recipe.style, "3d");
    assert.deepEqual(fromParameters("x\nSteps: 1, Schedule type: Beta").left, ["Schedule type"]);
    assert.equal(fromParameters("a cat\nNegative prompt: dog"), undefined);
    const odd = fromParameters("猫\nSteps: 5, Sampler: Magic, Size: large, Seed: x");
    assert.deepEqual(odd, { recipe: { prompt: "猫", negativePrompt: "", steps: 5, sampler: "Magic" }, left: ["seed", "width", "height"], from: "tool" });
  });

  test("travels in a link, and comes back as it was", () => {
    const recipe = { ...SETTINGS, prompt: "红苹果 🍎 & \"100%\" + #7\nsecond line", until: 0.25, exchange: "one_way" };
    const link = toLink({ ...recipe, controls: [{ kind: "outline", image: noise(1, 1) }], init: noise(1, 1), strength: 0.5 });
    assert.match(link, /^[\w=&%.*+-]+$/);
    assert.deepEqual(fromLink(`#${link}`), { recipe, left: [], from: "link" });
    assert.equal(fromLink(""), undefined);
    assert.equal(fromLink("#top"), undefined);
    assert.equal(fromLink("#other=1"), undefined);
    assert.deepEqual(fromLink("#prompt=x&steps=0&seed=1.5&width=1e9&guidanceScale=&tLow=NaN&background=url(x)&__proto__=1"), {
      recipe: { prompt: "x" },
      left: ["seed", "steps", "guidanceScale", "width", "background", "tLow"],
      from: "link",
    });
    assert.throws(() => fromLink(`#prompt=${"x".repeat(40_000)}`), InvalidError);
  });

  test("tells what is different in another", () => {
    const control = (image, strength) => [{ kind: "outline", image, strength }];
    assert.deepEqual(differences(SETTINGS, { ...SETTINGS }), []);
    const a = { ...SETTINGS, controls: control(noise(2, 2), 0.5) };
    const b = { ...SETTINGS, steps: 25, width: 256, style: "", controls: control(noise(2, 2), 0.75), init: noise(1, 1) };
    assert.deepEqual(differences(a, b), [
      ["style", "3d", ""],
      ["steps", 8, 25],
      ["width", "128 × 256", "256 × 256"],
      ["outline", 0.5, 0.75],
      ["init", false, true],
    ]);
    assert.deepEqual(differences(a, { ...a, controls: control(noise(2, 3), 0.5) }), [["outline", true, true]]);
  });
});

/** A file of a picture that the page paints. */
const disc = (page, colour = "rgb(200 30 30 / 0.7)") =>
  page.evaluate(async (colour) => {
    const context = new OffscreenCanvas(60, 40).getContext("2d");
    context.fillStyle = colour;
    context.arc(30, 20, 15, 0, 7);
    context.fill();
    return [...new Uint8Array(await (await context.canvas.convertToBlob()).arrayBuffer())];
  }, colour);

/** Opens the page with the tiny model and few steps. */
async function prepared(page, { steps = 2, query = tiny } = {}) {
  await open(page, server, query);
  await ui(page).status.getByText("Ready.").waitFor();
  await page.locator("details.advanced summary").click();
  await page.locator("#steps").fill(String(steps));
}

/** Draws; answers when the picture is there and kept. */
async function draw(page, prompt, button = "#draw") {
  if (prompt) await page.locator("#prompt").fill(prompt);
  await page.locator(button).click();
  // The press itself sets the mark that is waited for to go: however fast it draws, it cannot be missed.
  await page.locator('#draw[aria-disabled="false"]').waitFor();
}

/** The file of the picture on show. */
const shownFile = (page) =>
  page.locator("#picture").evaluate(async ({ src }) => [...new Uint8Array(await (await fetch(src)).arrayBuffer())]);

/** Drops a file on the page. */
const drop = (page, bytes) => give(page.locator("main"), "drop", bytes);

const small = (page) => page.locator("#album-list button");
const more = async (page, name) => {
  if (await page.locator("#more-tools").isHidden()) await page.getByRole("button", { name: "More", exact: true }).click();
  await page.locator("#more-tools").getByRole("button", { name, exact: true }).click();
};

/** Presses Enter on a button, as somebody without a mouse does. */
async function press(page, selector) {
  await page.locator(selector).focus();
  await page.keyboard.press("Enter");
}

describe("four at once", () => {
  test("are drawn one after another; one is picked, its seed kept", { timeout }, () =>
    withPage({}, async (page) => {
      await prepared(page);
      await page.locator("#seed").fill("40");
      await draw(page, "cat", "#four");
      const four = page.locator("#strip-list button");
      assert.equal(await four.count(), 4);
      assert.deepEqual(await page.locator("#strip-list span").allTextContents(), ["40", "41", "42", "43"]);
      const sources = await four.locator("img").evaluateAll((images) => images.map(({ src }) => src));
      assert.equal(new Set(sources).size, 4);
      await page.getByRole("button", { name: "Variation 3 of four" }).click();
      assert.equal(await page.locator("#picture").getAttribute("src"), sources[2]);
      assert.equal(await four.nth(2).getAttribute("aria-current"), "true");
      await page.getByRole("button", { name: "Keep seed 42" }).click();
      assert.equal(await page.locator("#seed").inputValue(), "42");
      assert.equal(await small(page).count(), 4, "all are kept");
      const picked = await shownFile(page);
      await draw(page);
      assert.deepEqual(await shownFile(page), picked);
      // Without a seed, each has one of its own.
      await page.locator("#seed").fill("");
      await draw(page, undefined, "#four");
      assert.equal(new Set(await page.locator("#strip-list span").allTextContents()).size, 4);
    }));

  test("appear as they are done, and what is done stays when it is stopped", { timeout }, () =>
    withPage({}, async (page) => {
      await prepared(page, { steps: 60 });
      await page.locator("#prompt").fill("cat");
      await page.locator("#four").click();
      await ui(page).status.getByText(/^Picture 2 of 4: step \d+ of 60$/).waitFor();
      assert.equal(await page.locator("#strip-list button").count(), 1);
      await ui(page).cancel.click();
      await ui(page).status.getByText("Stopped.").waitFor();
      assert.equal(await page.locator("#strip-list button").count(), 1);
      assert.equal(await small(page).count(), 1);
    }));
});

describe("the history", () => {
  test("survives a reload, is searched and filtered, starred and deleted", { timeout }, () =>
    withPage({}, async (page) => {
      await prepared(page);
      for (const prompt of ["red apple", "一只红苹果", "Blue Whale"]) await draw(page, prompt);
      const before = await shownFile(page);
      await page.reload();
      await small(page).nth(2).waitFor();
      await page.getByRole("button", { name: "Show again: Blue Whale" }).click();
      await ui(page).picture("Blue Whale").waitFor();
      assert.deepEqual(await shownFile(page), before);
      assert.ok((await small(page).first().locator("img").evaluate((image) => image.decode().then(() => image.naturalWidth))) > 0);
      const search = page.getByRole("searchbox", { name: "Search" });
      for (const [query, hits] of [["apple", 1], ["APPLE  red", 1], ["苹果", 1], ["红", 1], ["ｗｈａｌｅ", 1], ["zebra", 0], ["  ", 3]]) {
        await search.fill(query);
        assert.equal(await small(page).count(), hits, query);
      }
      await page.getByRole("button", { name: "Show again: red apple" }).click();
      await page.getByRole("button", { name: "☆ Star" }).click();
      await page.getByRole("button", { name: "★ Starred", pressed: true }).waitFor();
      await page.getByLabel("Show", { exact: true }).selectOption("starred");
      assert.equal(await small(page).count(), 1);
      await page.getByLabel("Show", { exact: true }).selectOption("steered");
      assert.ok(await page.getByText("Nothing like that was drawn.").isVisible());
      await page.getByLabel("Show", { exact: true }).selectOption("all");
      await more(page, "Delete");
      await page.getByText("Deleted: red apple.").waitFor();
      assert.equal(await small(page).count(), 2);
      await page.locator("#album-undo").click();
      await small(page).nth(2).waitFor();
      await page.reload();
      await page.getByRole("button", { name: "Show again, starred: red apple" }).waitFor();
      await page.getByRole("button", { name: "Delete all" }).click();
      await page.getByText("Delete all 3 pictures, 1 of them starred?").waitFor();
      await page.getByRole("button", { name: "Back" }).click();
      assert.equal(await small(page).count(), 3);
      await page.getByRole("button", { name: "Delete all" }).click();
      await page.locator("#clear-agree").click();
      await page.getByText("All pictures are deleted.").waitFor();
      await page.reload();
      await page.getByText("What you draw is kept here").waitFor();
      assert.equal(await small(page).count(), 0);
    }));

  test("has a bound, and lets the oldest without a star go", { timeout }, () =>
    withPage({}, async (page) => {
      await open(page, server, tiny);
      const kept = await page.evaluate(async () => {
        const { History, search } = await import("/page/history.js");
        const files = (bytes) => ({ file: new ArrayBuffer(bytes), thumb: new ArrayBuffer(1) });
        const entry = (time, starred = false) => ({ time, starred, steered: false, prompt: `p${time}`, words: `p${time}`, seed: time, width: 1, height: 1 });
        const history = await History.open({ name: "test", limits: { count: 3, bytes: 1000 } });
        const times = async () => (await history.list()).entries.map(({ time }) => time);
        const seen = [];
        await history.keep(entry(1, true), files(10));
        for (const time of [2, 3, 4]) await history.keep(entry(time), files(10));
        seen.push(await times());
        await history.keep(entry(5), files(900));
        seen.push(await times());
        await history.keep(entry(6), files(500));
        seen.push(await times());
        const refused = await history.keep(entry(7), files(5000)).catch(({ name, code }) => [name, code]);
        seen.push(refused, await times());
        // The browser's own bound comes first.
        const put = IDBObjectStore.prototype.put;
        let refusals = 1;
        IDBObjectStore.prototype.put = function (...given) {
          if (this.name === "files" && refusals-- > 0) throw new DOMException("no room", "QuotaExceededError");
          return put.apply(this, given);
        };
        await history.keep(entry(8), files(10));
        IDBObjectStore.prototype.put = put;
        seen.push(await times());
        const gone = await history.file(99).catch(({ code }) => code);
        const { entries } = await history.list();
        return [...seen, gone, search(entries, "P1").length];
      });
      assert.deepEqual(kept, [[4, 3, 1], [5, 4, 1], [6, 1], ["HistoryError", "full"], [6, 1], [8, 1], "missing", 1]);
    }));

  for (const [how, refuse] of [
    ["at once", () => (IDBFactory.prototype.open = () => { throw new DOMException("refused", "SecurityError"); })],
    ["later", () => {
      IDBFactory.prototype.open = () => {
        const request = { error: new DOMException("refused", "InvalidStateError") };
        setTimeout(() => request.onerror?.());
        return request;
      };
    }],
  ]) {
    test(`says that the browser keeps nothing, if it refuses ${how}, and works on`, { timeout }, () =>
      withPage({}, async (page) => {
        await page.addInitScript(refuse);
        await prepared(page);
        await page.getByText("The browser keeps no pictures for this page").waitFor();
        for (const prompt of ["cat", "dog"]) await draw(page, prompt);
        await page.getByRole("button", { name: "Show again: cat" }).click();
        await ui(page).picture("cat").waitFor();
        await more(page, "Delete");
        assert.equal(await small(page).count(), 1);
        await page.locator("#album-undo").click();
        await small(page).nth(1).waitFor();
        await page.getByRole("button", { name: "中文" }).click();
        await page.getByText("浏览器没有为此页面保存图片").waitFor();
      }));
  }

  test("says that there is no room, and the picture is drawn all the same", { timeout }, () =>
    withPage({}, async (page) => {
      await page.addInitScript(() => {
        const put = IDBObjectStore.prototype.put;
        IDBObjectStore.prototype.put = function (...given) {
          if (this.name === "files") throw new DOMException("no room", "QuotaExceededError");
          return put.apply(this, given);
        };
      });
      await prepared(page);
      await draw(page, "cat");
      await ui(page).picture("cat").waitFor();
      await ui(page).status.getByText(/^Drawn in/).waitFor();
      await page.getByText("There is no room left").waitFor();
      assert.equal(await small(page).count(), 0);
      assert.ok(await page.locator("#star").isHidden(), "what is not kept has no star");
    }));

  test("lives with entries that are damaged, and removes them", { timeout }, () =>
    withPage({}, async (page) => {
      await prepared(page);
      for (const prompt of ["cat", "dog", "cow"]) await draw(page, prompt);
      await page.evaluate(
        () =>
          new Promise((resolve) => {
            indexedDB.open("pangu-draw-pictures").onsuccess = ({ target: { result: database } }) => {
              const transaction = database.transaction(["entries", "files", "thumbs"], "readwrite");
              transaction.objectStore("entries").put({ id: 3, prompt: { nothing: 1 } });
              transaction.objectStore("files").put(new Uint8Array([137, 80, 78, 71, 0]).buffer, 2);
              transaction.objectStore("files").delete(1);
              transaction.objectStore("thumbs").put("nothing", 1);
              transaction.oncomplete = () => resolve(database.close());
            };
          }),
      );
      await page.reload();
      await page.getByText("damaged in the browser's storage: 1.").waitFor();
      assert.equal(await small(page).count(), 2);
      await page.locator("#album-undo").click();
      await page.locator("#album-note").waitFor({ state: "hidden" });
      await page.getByRole("button", { name: "Show again: dog" }).click();
      await page.getByText("That picture is damaged").waitFor();
      await page.locator("#album-undo").click();
      await small(page).nth(1).waitFor({ state: "detached" });
      await page.getByRole("button", { name: "Show again: cat" }).click();
      await page.getByText("That picture is not kept any more.").waitFor();
      await page.locator("#album-undo").click();
      await page.getByText("What you draw is kept here").waitFor();
      await ui(page).status.getByText("Ready.").waitFor();
      await draw(page, "horse");
      assert.equal(await small(page).count(), 1);
    }));
});

describe("a picture that is dropped", () => {
  test("is drawn again bit for bit, with the pictures that steered it", { timeout }, () =>
    withPage({}, async (page) => {
      await prepared(page, { steps: 5 });
      await page.locator("#steer summary").click();
      const upload = (buffer) => page.locator("#steer-file").setInputFiles({ name: "x.png", mimeType: "image/png", buffer: Buffer.from(buffer) });
      await upload(await disc(page));
      await page.locator('.card[data-kind="outline"] .strength input').fill("0.65");
      const outlines = page.locator('.card[data-kind="outline"]');
      const cards = () => outlines.evaluateAll((cards) => cards.map((card) => [...card.querySelectorAll("output, .until, .falloff")].map(({ value }) => value)));
      await page.locator("#steer-beside").check();
      await upload(await disc(page, "blue"));
      await outlines.nth(1).locator(".strength input").fill("0.3");
      await page.locator('#steer [value="init"]').check();
      await upload(await disc(page));
      await page.locator('.card[data-kind="init"] .paint').click();
      const box = await page.locator("#pad-canvas").boundingBox();
      await page.mouse.move(box.x + 40, box.y + 40);
      await page.mouse.down();
      await page.mouse.move(box.x + 160, box.y + 90, { steps: 5 });
      await page.mouse.up();
      await page.locator("#pad-done").click();
      await page.locator('.card[data-kind="init"] .strength input').fill("0.8");
      for (const [field, value] of [["negative", "虫子"], ["guidance", "2.5"], ["seed", "1234"]]) await page.locator(`#${field}`).fill(value);
      await outlines.first().locator("summary").click();
      await outlines.first().locator(".until").fill("0.6");
      await outlines.first().locator(".falloff").selectOption("noise");
      await page.locator("#sampler").selectOption("euler_ancestral");
      await page.locator("#exchange").selectOption("one_way");
      await page.locator("#upsampler").selectOption("nearest");
      await draw(page, "红苹果 🍎");
      const file = await shownFile(page);
      await page.locator("#album-filter").selectOption("steered");
      assert.equal(await small(page).count(), 1);

      await prepared(page);
      await page.locator("#prompt").fill("something else");
      await drop(page, file);
      await page.getByRole("dialog").getByText("红苹果 🍎").waitFor();
      await page.keyboard.press("Enter");
      await page.getByText("Filled in as it was drawn.").waitFor();
      const fields = ["prompt", "negative", "guidance", "seed", "steps", "sampler", "exchange", "upsampler"];
      const values = Object.fromEntries(await Promise.all(fields.map(async (id) => [id, await page.locator(`#${id}`).inputValue()])));
      assert.deepEqual(values, {
        prompt: "红苹果 🍎", negative: "虫子", guidance: "2.5", seed: "1234", steps: "5", sampler: "euler_ancestral", exchange: "one_way", upsampler: "nearest",
      });
      const [[...first], [strength]] = await cards();
      assert.deepEqual([first, strength], [["0.65", "0.6", "noise"], "0.30"]);
      await page.getByRole("button", { name: "Change the part" }).waitFor();
      await draw(page);
      assert.ok(Buffer.from(await shownFile(page)).equals(Buffer.from(file)), "the same file, byte for byte");
    }));

  test("may steer instead, and comes by paste too", { timeout }, () =>
    withPage({}, async (page) => {
      await prepared(page);
      await draw(page, "cat");
      const file = await shownFile(page);
      await give(page.locator("main"), "paste", file);
      await page.getByRole("button", { name: "Use it as: Outline" }).click();
      await page.locator('.card[data-kind="outline"]').waitFor();
      assert.ok(await page.locator("#taken").isHidden());
      await drop(page, file);
      await page.keyboard.press("Escape");
      await page.getByRole("dialog").waitFor({ state: "hidden" });
      assert.equal(await page.locator(".card").count(), 1);
      // Its settings know of no picture that steers.
      await drop(page, file);
      await page.locator("#opened-settings").click();
      await page.getByText("Filled in as it was drawn.").waitFor();
      assert.equal(await page.locator(".card").count(), 0);
    }));

  test("of another tool, of another model, or damaged, is told apart", { timeout }, () =>
    withPage({}, async (page) => {
      await prepared(page);
      const choose = (buffer) => page.locator("#file").setInputFiles({ name: "x.png", mimeType: "image/png", buffer: Buffer.from(buffer) });
      const taken = page.locator("#taken");
      await choose(png(itxt("parameters", "猫\nNegative prompt: dog\nSteps: 9, Sampler: UniPC, CFG scale: 5.25, Seed: 77, Size: 4096x4096, Model: dreams, Clip skip: 2, constructor: 1")));
      await taken.getByText("Filled in from another tool's picture.").waitFor();
      assert.match(await taken.textContent(), /drawn by another model, dreams.* Left out.*: Clip skip, constructor, Size, Sampler\.$/);
      for (const [id, value] of [["prompt", "猫"], ["negative", "dog"], ["steps", "9"], ["guidance", "5.25"], ["seed", "77"]]) {
        assert.equal(await page.locator(`#${id}`).inputValue(), value);
      }
      await draw(page);
      await ui(page).picture("猫").waitFor();
      assert.ok(await taken.isHidden());
      const foreign = { model: "model", prompt: "dog", style: "oil", steps: 400, sampler: "magic", width: 17, height: 16, background: "#00ff00", seed: 5 };
      await choose(png(itxt("pangu-draw", JSON.stringify(foreign))));
      await taken.getByText("Filled in from the picture.").waitFor();
      assert.match(await taken.textContent(), /: Style, Size, Steps, Sampler, Background\.$/);
      await draw(page);
      await ui(page).picture("dog").waitFor();
      for (const [bytes, message] of [
        [png([...itxt("pangu-draw", "{}"), 1]), "is damaged"],
        [png(itxt("pangu-draw", "[")), "is damaged"],
        [png(), "does not say how it was drawn"],
        [Buffer.from("nothing"), "does not say how it was drawn"],
      ]) {
        await choose(bytes);
        await taken.getByText(message).waitFor();
        assert.equal(await page.locator("#prompt").inputValue(), "dog", "nothing was changed");
        await page.evaluate(() => (document.querySelector("#taken").hidden = true));
      }
      // A damaged one that is dropped steers nothing either.
      await drop(page, png([...itxt("pangu-draw", "{}"), 1]));
      await taken.getByText("is damaged").waitFor();
      assert.equal(await page.locator(".card").count(), 0);
    }));

  test("brings along what the form has no field for", { timeout }, () =>
    withPage({ context: { permissions: ["clipboard-read", "clipboard-write"] } }, async (page) => {
      const manifest = readFileSync(join(model, "model.json"), "utf8");
      const ink = { id: "ink", name: { en: "Ink", zh: "水墨" }, template: { en: "{}, ink", zh: "{}，水墨" } };
      const { pipeline, ...rest } = JSON.parse(manifest);
      writeFileSync(join(model, "model.json"), JSON.stringify({ ...rest, pipeline: { ...pipeline, styles: [ink] } }));
      try {
        const path = join(work, "native.png");
        const wanted = { style: "ink", "style-guidance": 3, spacing: "karras", precision: "f32", seed: 5, steps: 3, device: "cpu", model };
        execFileSync(NATIVE, ["draw", "cat", ...Object.entries(wanted).flatMap(([name, value]) => [`--${name}`, String(value)]), "-o", path]);
        const native = readFileSync(path);
        const told = async (bytes) => (await fromFile(new Blob([new Uint8Array(bytes)]))).recipe;
        await prepared(page);
        const note = page.locator("#extras");
        await drop(page, native);
        await page.locator("#opened-settings").click();
        await page.getByText("Filled in as it was drawn.").waitFor();
        assert.equal(await page.locator("#extras-words").textContent(), "Also in use: Style guidance 3, Step spacing karras, Precision f32.");
        await page.getByRole("button", { name: "中文" }).click();
        assert.equal(await page.locator("#extras-words").textContent(), "另外还用到：风格引导强度 3、时间步间距 karras、运算精度 f32。");
        await page.getByRole("button", { name: "English" }).click();
        await draw(page);
        const file = await shownFile(page);
        assert.deepEqual(await told(file), await told(native));
        const [here, there] = [await decodeInPage(page, file), await decodeInPage(page, native)];
        assert.ok(meanDifference(here, there) <= 1);
        assert.ok(await note.isVisible(), "it holds until it is taken away");

        // The link and the history carry it.
        await more(page, "Share a link");
        await page.getByText("Link copied.").waitFor();
        const link = await page.evaluate(() => navigator.clipboard.readText());
        const other = await page.context().newPage();
        await other.goto(link.replace("?", "?device=cpu&"));
        await other.getByText("Filled in from the link.").waitFor();
        await other.getByText("Also in use: Style guidance 3, Step spacing karras, Precision f32.").waitFor();
        await draw(other);
        assert.ok(Buffer.from(await shownFile(other)).equals(Buffer.from(file)), "the same file, byte for byte");
        await other.close();

        await press(page, "#extras-remove");
        assert.ok(await note.isHidden());
        assert.equal(await page.evaluate(() => document.activeElement.id), "draw");
        await draw(page);
        const without = await shownFile(page);
        const { styleScale, spacing, precision } = await told(without);
        assert.deepEqual([styleScale, spacing, precision], [0, pipeline.defaults.spacing, undefined]);
        assert.ok(meanDifference(await decodeInPage(page, without), here) > 0);
        await page.getByRole("button", { name: "Show again: cat" }).nth(1).click();
        await more(page, "Take its settings");
        await note.waitFor();
        // What is as the model has it needs no word; nor can the CPU do everything.
        await drop(page, without);
        await page.locator("#opened-settings").click();
        await note.waitFor({ state: "hidden" });
        await page.locator("#file").setInputFiles({ name: "x.png", mimeType: "image/png", buffer: Buffer.from(png(itxt("pangu-draw", JSON.stringify({ prompt: "dog", precision: "f16", spacing: "wide" })))) });
        await page.getByText("Left out, since this model or page does not have it: Step spacing, Precision.").waitFor();
        assert.ok(await note.isHidden());
      } finally {
        writeFileSync(join(model, "model.json"), manifest);
      }
    }));

  test("is shown and kept with those that were drawn, once", { timeout }, () =>
    withPage({}, async (page) => {
      await prepared(page);
      await draw(page, "cat");
      const file = await shownFile(page);
      const choose = async (bytes) => {
        await page.locator("#file").setInputFiles({ name: "x.png", mimeType: "image/png", buffer: Buffer.from(bytes) });
        await page.locator("#taken").waitFor();
      };
      const opened = page.getByRole("button", { name: "Show again, opened from a file: cat" });
      // It was drawn here.
      await draw(page, "dog");
      await choose(file);
      await page.locator('#album-list [aria-current="true"][data-prompt="cat"]').waitFor();
      assert.deepEqual([await small(page).count(), await opened.count()], [2, 0]);
      assert.deepEqual(await shownFile(page), file);
      await page.getByRole("button", { name: "☆ Star" }).waitFor();
      // It was not, or is not known any more.
      await more(page, "Delete");
      await page.getByText("Deleted: cat.").waitFor();
      await choose(file);
      await ui(page).picture("cat").waitFor();
      await opened.waitFor();
      await choose(file);
      await drop(page, file);
      await page.getByRole("button", { name: "Back" }).click();
      await drop(page, file);
      await page.locator("#opened-settings").click();
      await page.locator('#album-list .opened[aria-current="true"]').waitFor();
      assert.deepEqual([await small(page).count(), await opened.count()], [2, 1]);
      // Of another tool, without a seed.
      const foreign = png(itxt("parameters", "猫\nNegative prompt: hat\nSteps: 9, Sampler: Euler"));
      await choose(foreign);
      await page.getByRole("button", { name: "Show again, opened from a file: 猫" }).waitFor();
      await ui(page).picture("猫").waitFor();
      assert.ok(await page.locator("#keep-seed").isHidden());
      assert.equal(await page.locator("#download").getAttribute("download"), "猫.png");
      await page.getByLabel("Show", { exact: true }).selectOption("opened");
      assert.equal(await small(page).count(), 2);
      await page.reload();
      await opened.waitFor();
      await page.getByRole("searchbox", { name: "Search" }).fill("hat");
      assert.equal(await small(page).count(), 1);
      await small(page).click();
      await ui(page).picture("猫").waitFor();
      assert.deepEqual(await shownFile(page), [...foreign]);
      await page.getByRole("button", { name: "中文" }).click();
      await page.getByRole("button", { name: "再次显示（从文件打开）：猫" }).waitFor();
    }));

  test("whose pixels cannot be shown fills the form all the same", { timeout }, () =>
    withPage({}, async (page) => {
      await prepared(page);
      await draw(page, "cat");
      const before = await shownFile(page);
      const settings = itxt("pangu-draw", JSON.stringify({ prompt: "dog" }));
      const header = (width) => ["IHDR", Buffer.from(`${width}000000010806000000`, "hex")];
      const broken = [["7fffffff", deflateSync(Buffer.alloc(5))]];
      // Firefox takes pixels as far as they go.
      if (!FIREFOX) broken.push(["00000001", Buffer.from("no pixels")]);
      for (const [width, pixels] of broken) {
        const file = assemble(header(width), settings, ["IDAT", pixels], ["IEND", Buffer.alloc(0)]);
        await page.locator("#prompt").fill("");
        await page.locator("#file").setInputFiles({ name: "x.png", mimeType: "image/png", buffer: Buffer.from(file) });
        await page.getByText("The settings in the file are filled in, but its picture cannot be shown").waitFor();
        assert.equal(await page.locator("#prompt").inputValue(), "dog");
        assert.deepEqual([await small(page).count(), await shownFile(page)], [1, before]);
        await page.evaluate(() => (document.querySelector("#album-note").hidden = true));
      }
    }));
});

describe("handing on", () => {
  test("a link fills the form elsewhere, and draws nothing by itself", { timeout }, () =>
    withPage({ context: { permissions: ["clipboard-read", "clipboard-write"] } }, async (page) => {
      await prepared(page);
      await page.locator("#seed").fill("99");
      await page.locator("#negative").fill("虫 🐛");
      await draw(page, "红苹果 🍎 & more");
      const entries = await page.evaluate(() => history.length);
      const address = page.url();
      await more(page, "Share a link");
      await page.getByText("Link copied.").waitFor();
      const link = await page.evaluate(() => navigator.clipboard.readText());
      assert.ok(link.startsWith(`${server.url}/?model=`), link);
      assert.deepEqual([page.url(), await page.evaluate(() => history.length)], [address, entries]);
      const file = await shownFile(page);

      const other = await page.context().newPage();
      await other.goto(link.replace("?", "?device=cpu&"));
      await other.getByText("Filled in from the link.").waitFor();
      for (const [id, value] of [["prompt", "红苹果 🍎 & more"], ["negative", "虫 🐛"], ["seed", "99"], ["steps", "2"]]) {
        assert.equal(await other.locator(`#${id}`).inputValue(), value);
      }
      assert.ok(await other.locator("#picture").isHidden());
      await ui(other).status.getByText("Ready.").waitFor();
      await draw(other);
      assert.deepEqual(await shownFile(other), file);
      await other.evaluate(() => (location.hash = "#prompt=cat&style=oil&steps=3"));
      await other.getByText(/link\. Left out.*: Style\.$/).waitFor();
      assert.deepEqual([await other.locator("#prompt").inputValue(), await other.locator("#steps").inputValue()], ["cat", "3"]);
      await other.evaluate((long) => (location.hash = long), `#prompt=${"x".repeat(40_000)}`);
      await other.getByText("That link is damaged or too long.").waitFor();
      assert.equal(await other.locator("#prompt").inputValue(), "cat");
    }));

  test("goes through the device's own way where there is one", { timeout }, () =>
    withPage({}, async (page) => {
      await page.addInitScript(() => {
        Object.defineProperty(Navigator.prototype, "share", { value: async (data) => void (globalThis.shared = data), configurable: true });
      });
      await prepared(page);
      await draw(page, "cat");
      await more(page, "Share a link");
      await page.waitForFunction(() => globalThis.shared);
      assert.match(await page.evaluate(() => globalThis.shared.url), /#.*prompt=cat/);
      assert.ok(await page.locator("#said").isHidden());
    }));

  test("copies the picture; what the browser refuses is told", { timeout }, () =>
    withPage({ context: { permissions: ["clipboard-read", "clipboard-write"] } }, async (page) => {
      await prepared(page);
      await draw(page, "cat");
      const said = page.locator("#said");
      await page.evaluate(() => {
        const { write } = navigator.clipboard;
        navigator.clipboard.write = (items) => write.call(navigator.clipboard, (globalThis.written = items));
      });
      await more(page, "Copy");
      await said.getByText(/^Copied\./).waitFor();
      const copied = await page.evaluate(async (firefox) => {
        // Firefox without a screen takes pictures to its clipboard and gives out none.
        const [item] = firefox ? globalThis.written : await navigator.clipboard.read();
        return [...new Uint8Array(await (await item.getType("image/png")).arrayBuffer())];
      }, FIREFOX);
      assert.deepEqual(await decodeInPage(page, copied), await decodeInPage(page, await shownFile(page)));
      await page.evaluate(() => {
        navigator.clipboard.write = async () => { throw new DOMException("no", "NotAllowedError"); };
        navigator.clipboard.writeText = navigator.clipboard.write;
      });
      await more(page, "Copy");
      await said.getByText("The browser did not allow it.").waitFor();
      await more(page, "Share a link");
      await said.getByRole("link", { name: /#.*prompt=cat/ }).waitFor();
      await page.evaluate(() => delete globalThis.ClipboardItem);
      await more(page, "Copy");
      await said.getByText("This browser offers no clipboard here.").waitFor();
    }));
});

describe("a sticker", () => {
  /** Opaque bounds and size of a file that is downloaded. */
  const measure = (page, bytes) =>
    page.evaluate(async (bytes) => {
      const bitmap = await createImageBitmap(new Blob([new Uint8Array(bytes)]));
      const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
      context.drawImage(bitmap, 0, 0);
      const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
      let [left, top, right, bottom] = [bitmap.width, bitmap.height, 0, 0];
      for (let y = 0; y < bitmap.height; y++) {
        for (let x = 0; x < bitmap.width; x++) {
          if (data[4 * (y * bitmap.width + x) + 3] < 16) continue;
          [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x + 1), Math.max(bottom, y + 1)];
        }
      }
      return { size: [bitmap.width, bitmap.height], free: [left, top, bitmap.width - right, bitmap.height - bottom] };
    }, bytes);
  const isWebp = (bytes) => bytes.subarray(0, 4).toString() === "RIFF" && bytes.subarray(8, 12).toString() === "WEBP";

  test("is a file as each messenger takes it", { timeout }, () =>
    withPage({}, async (page) => {
      await prepared(page);
      await draw(page, "cat");
      await more(page, "Make a sticker");
      const size = page.locator("#sticker-size");
      for (const [format, type, [width, height], free, most] of [
        ["telegram", "image/webp", [512, 512], 8, 512_000],
        ["telegram", "image/png", [512, 512], 8, 512_000],
        ["whatsapp", "image/webp", [512, 512], 16, 100_000],
        ["discord", "image/png", [320, 320], 8, 512_000],
        ["emoji", "image/png", [128, 128], 3, 128_000],
      ]) {
        await page.locator("#sticker-format").selectOption(format);
        await page.locator("#sticker-type").selectOption(type);
        await page.waitForFunction(
          ([format, ending]) => { const save = document.querySelector("#sticker-save"); return !save.hidden && save.download.endsWith(`-${format}.${ending}`); },
          [format, type.slice(6)],
        );
        await size.getByText(`${width} × ${height}, `).waitFor();
        const { bytes } = await save(page, page.locator("#sticker-save"));
        assert.equal(isWebp(bytes), type === "image/webp", format);
        assert.ok(bytes.length < most, `${format}: ${bytes.length} bytes`);
        const measured = await measure(page, [...bytes]);
        assert.deepEqual(measured.size, [width, height]);
        for (const side of measured.free) assert.ok(Math.abs(side - free) <= 1, `${format}: ${measured.free}`);
      }
    }));

  test("is trimmed, centred, rimmed, and made to fit", { timeout }, () =>
    withPage({}, async (page) => {
      await open(page, server, tiny);
      const made = await page.evaluate(async () => {
        const { FORMATS, encode, paint, trim } = await import("/page/stickers.js");
        const pixels = { width: 40, height: 40, rgba: new Uint8ClampedArray(6400) };
        // A red block, wider than high, in a corner.
        for (let y = 2; y < 12; y++) for (let x = 3; x < 23; x++) pixels.rgba.set([255, 0, 0, 255], 4 * (40 * y + x));
        const read = (canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const at = ({ data, width }, x, y) => [...data.subarray(4 * (y * width + x), 4 * (y * width + x) + 4)];
        const square = read(paint(pixels, FORMATS.whatsapp, true));
        const wide = read(paint(pixels, FORMATS.telegram, false));
        const noisy = new OffscreenCanvas(512, 512);
        const data = new Uint8ClampedArray(2 ** 20);
        for (let from = 0; from < data.length; from += 65_536) crypto.getRandomValues(data.subarray(from, from + 65_536));
        noisy.getContext("2d").putImageData(new ImageData(data.map((value, at) => (at % 4 === 3 ? 255 : value)), 512, 512), 0, 0);
        const fitted = await encode(noisy, "image/webp", 99_999);
        const codes = await Promise.all([
          encode(noisy, "image/png", 99_999).catch(({ code }) => code),
          (async () => trim({ width: 2, height: 2, rgba: new Uint8ClampedArray(16) }))().catch(({ code }) => code),
        ]);
        return {
          box: trim(pixels), middle: at(square, 256, 256), rim: at(square, 20, 256), free: at(square, 8, 256), above: at(square, 256, 100),
          wide: [wide.width, wide.height], edge: at(wide, 9, Math.floor(wide.height / 2)), fitted: [fitted.type, fitted.size < 100_000], codes,
        };
      });
      assert.deepEqual(made.box, { left: 3, top: 2, width: 20, height: 10 });
      assert.deepEqual([made.middle, made.rim, made.free[3], made.above[3]], [[255, 0, 0, 255], [255, 255, 255, 255], 0, 0]);
      assert.deepEqual(made.wide, [512, 264]);
      assert.ok(made.edge[3] > 100, "it reaches the margin");
      assert.deepEqual([made.fitted, made.codes], [["image/webp", true], ["too-large", "empty"]]);
    }));

  test("is a PNG where the browser writes no WebP, and says so", { timeout }, () =>
    withPage({}, async (page) => {
      await page.addInitScript(() => {
        const { convertToBlob } = OffscreenCanvas.prototype;
        OffscreenCanvas.prototype.convertToBlob = function () { return convertToBlob.call(this); };
      });
      await prepared(page);
      await draw(page, "cat");
      await more(page, "Make a sticker");
      await page.locator("#sticker-format").selectOption("whatsapp");
      await page.getByText("This browser does not write WebP").waitFor();
      assert.deepEqual(await page.locator("#sticker-type option").allTextContents(), ["PNG"]);
      assert.match(await page.locator("#sticker-save").getAttribute("download"), /-whatsapp\.png$/);
      await page.locator("#sticker-format").selectOption("discord");
      await page.locator("#sticker-size").getByText(/^320 × 320, [\d.]+ kB\.$/).waitFor();
    }));
});

test("two requests are compared side by side, and what differs is named", { timeout }, () =>
  withPage({}, async (page) => {
    await prepared(page, { steps: 2 });
    await draw(page, "cat");
    const [kept, seed] = [await shownFile(page), await page.locator("#keep-seed").textContent()];
    await more(page, "Compare with the next");
    await page.getByText("A is kept.").waitFor();
    assert.ok(seed.endsWith(` ${await page.locator("#seed").inputValue()}`), "the same seed");
    await page.locator("#steps").fill("5");
    await page.locator("#negative").fill("dog");
    await draw(page);
    const rows = () => page.locator("#differences tbody tr").evaluateAll((rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)));
    await page.locator("#differences tbody tr").nth(1).waitFor();
    assert.deepEqual(await rows(), [["Without", "none", "dog"], ["Steps", "2", "5"]]);
    assert.deepEqual(await page.locator("#strip-list span").allTextContents(), ["A", "B"]);
    await page.getByRole("button", { name: "Picture A: show it" }).click();
    assert.deepEqual(await shownFile(page), kept);
    // The next one takes B's place.
    await page.locator("#negative").fill("");
    await draw(page);
    await page.waitForFunction(() => document.querySelectorAll("#differences tbody tr").length === 1);
    assert.deepEqual(await rows(), [["Steps", "2", "5"]]);
    await page.getByRole("button", { name: "中文" }).click();
    assert.deepEqual(await rows(), [["步数", "2", "5"]]);
    await page.locator("#strip-leave").click();
    assert.ok(await page.locator("#strip").isHidden());
    await draw(page);
    assert.ok(await page.locator("#strip").isHidden());
  }));

test("all of it works by keyboard", { timeout }, () =>
  withPage({}, async (page) => {
    await prepared(page);
    await draw(page, "cat");
    const file = await shownFile(page);
    const reach = async (id) => {
      for (let presses = 0; presses < 80; presses++) {
        if ((await page.evaluate(() => document.activeElement?.id)) === id) return;
        await page.keyboard.press("Tab");
      }
      assert.fail(`${id} cannot be reached`);
    };
    await page.locator("#prompt").focus();
    for (const id of ["four", "star"]) await reach(id);
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "★ Starred", pressed: true }).waitFor();
    await reach("more");
    await page.keyboard.press("Enter");
    await reach("make-sticker");
    await page.keyboard.press("Enter");
    await page.locator("#sticker-save").waitFor();
    await reach("sticker-save");
    await page.keyboard.press("Escape");
    assert.equal(await page.evaluate(() => document.activeElement.id), "make-sticker", "the focus returns");
    await drop(page, file);
    await page.getByRole("dialog").waitFor();
    await reach("opened-steer");
    await page.keyboard.press("Enter");
    await page.locator('.card[data-kind="outline"]').waitFor();
    await reach("album-search");
    await page.keyboard.type("cat");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await page.locator("#album-list [aria-current=true]").waitFor();
    await press(page, "#remove");
    await page.getByText("Deleted: cat.").waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.id), "album-undo", "the way back is at hand");
    await page.keyboard.press("Enter");
    await small(page).first().waitFor();
  }));

for (const [locale, colorScheme, width] of few([
  ["en-US", "light", 1280],
  ["zh-CN", "dark", 1280],
  ["zh-CN", "light", 360],
  ["en-US", "dark", 360],
])) {
  test(`is accessible: ${locale}, ${colorScheme}, ${width} px`, { timeout }, () =>
    withPage({ context: { locale, colorScheme, viewport: { width, height: 800 } } }, async (page) => {
      await open(page, server, tiny);
      await page.locator("#axis-tick").waitFor({ state: "attached" });
      await page.waitForFunction(() => document.querySelector("#sampler").options.length > 0);
      await page.locator("details.advanced summary").click();
      await page.locator("#steps").fill("2");
      await draw(page, "cat", "#four");
      await page.locator("#star").click();
      await page.locator("#album-list .starred").waitFor();
      await page.locator("#more").click();
      await assertAccessible(page, "four, and the history");
      await page.locator("#against").click();
      await page.locator("#steps").fill("3");
      await draw(page);
      await page.locator("#differences tbody tr").first().waitFor();
      await page.locator("#remove").click();
      await page.locator("#album-undo").waitFor();
      await assertAccessible(page, "a comparison, and the way back");
      await page.locator("#album-list button").first().click();
      await page.locator("#make-sticker").click();
      await page.locator("#sticker-save").waitFor();
      await assertAccessible(page, "the sticker");
      await page.keyboard.press("Escape");
      const file = await shownFile(page);
      await drop(page, file);
      await page.locator("#opened-settings").waitFor();
      await assertAccessible(page, "the question");
      await page.keyboard.press("Enter");
      await page.locator("#taken").waitFor();
      await assertAccessible(page, "what was filled in");
      await page.locator("#album-clear").click();
      await page.locator("#clear-agree").waitFor();
      await assertAccessible(page, "the question before all is deleted");
    }));
}
