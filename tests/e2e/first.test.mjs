/** The first seconds of a visit: what the page weighs, and that it can be used before its engine has arrived. */

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import { FIREFOX, PATIENCE, ROOT, open, start, ui, withPage } from "./browser.mjs";

const timeout = PATIENCE;
const query = { device: "cpu", model: "/sound/model/" };
/** What the page may ask for, and how many bytes that may be when compressed, before somebody can use it. */
const BUDGET = { requests: 36, bytes: 96_000 };
/** The most that what is seen may move while things arrive, as browsers count it. */
const SHIFT = 0.1;

let server;
before(async () => (server = await start()));
after(() => server?.close());

/** Keeps the engine's WebAssembly back; the answer lets it through. */
function holdEngine() {
  let release;
  const hold = new Promise((resolve) => (release = resolve));
  server.fault = ({ path }) => (path.endsWith(".wasm") ? { hold } : undefined);
  return release;
}
afterEach(() => (server.fault = undefined));

/** Opens the page without its engine and waits until it can be used. */
async function openWithout(page, query) {
  const release = holdEngine();
  server.requests.length = 0;
  await open(page, server, query);
  await ui(page).status.getByText("Starting…").waitFor();
  return release;
}

test("the page can be used before its engine is here, and draws as soon as it is", { timeout }, () =>
  withPage({}, async (page) => {
    const release = await openWithout(page, query);
    const { prompt, draw, cancel, status, picture } = ui(page);
    await prompt.fill("cat");
    await page.getByRole("button", { name: "中文" }).click();
    await page.getByRole("textbox", { name: "提示词", exact: true }).waitFor();
    await page.getByRole("button", { name: "English" }).click();
    for (const panel of ["Advanced", "Pictures that steer", "Models kept in this browser"]) {
      await page.locator("summary", { hasText: panel }).click();
    }
    await page.getByLabel("Steps", { exact: true }).fill("3");
    await page.getByRole("button", { name: "Sketch it" }).click();
    await page.keyboard.press("Space");
    for (let i = 0; i < 9; i++) await page.keyboard.press("ArrowRight");
    await page.getByRole("button", { name: "Done" }).click();
    await page.locator('.card[data-kind="outline"]').waitFor();

    await draw.click();
    await status.getByText("Starting… Your picture follows at once.").waitFor();
    await cancel.click();
    await status.getByText("Stopped.").waitFor();
    await draw.click();
    await status.getByText("Starting… Your picture follows at once.").waitFor();
    release();
    await picture("cat").waitFor();
    const bytes = await picture("cat").evaluate(async ({ src }) => [...new Uint8Array(await (await fetch(src)).arrayBuffer())]);
    assert.match(Buffer.from(bytes).toString(), /"steps":3\b/, "what was set meanwhile holds");
    assert.match(Buffer.from(bytes).toString(), /"kind":"outline"/);
    assert.equal(await page.locator(".seen").evaluate(({ width }) => width), 16, "what the model sees is shown when there is one");
  }));

test("what comes before is small, and asked for at once", { timeout }, () =>
  withPage({}, async (page) => {
    await openWithout(page, query);
    // What the worker asks for is on nobody's way.
    const asked = server.requests.map(({ path }) => path).filter((path) => path !== "/worker.js" && !path.startsWith("/pkg/"));
    const files = [...new Set(asked)].map((path) => (path === "/" ? "/index.html" : path));
    const bytes = files.map((file) => gzipSync(readFileSync(join(ROOT, "www", file))).length).reduce((sum, length) => sum + length);
    console.log(`before the page can be used: ${asked.length} requests, ${bytes} bytes compressed`);
    assert.ok(asked.length <= BUDGET.requests && bytes <= BUDGET.bytes, files.join());
    const html = readFileSync(join(ROOT, "www/index.html"), "utf8");
    const told = [...html.matchAll(/(?:href|src)="([^"]+\.js)"/g)].map(([, path]) => `/${path}`);
    assert.deepEqual(files.filter((file) => file.endsWith(".js")).sort(), told.sort(), "index.html names every module, and no other");
  }));

// Firefox reports no shifts of the layout.
describe("nothing moves while things arrive", { skip: FIREFOX || !existsSync(join(ROOT, "www/models/default/model.json")) }, () => {
  for (const [width, height, locale] of [
    [1400, 900, "en-US"],
    [800, 1000, "zh-CN"],
    [360, 740, "en-US"],
    [360, 740, "zh-CN"],
  ]) {
    test(`${width} x ${height}, ${locale}`, { timeout }, () =>
      withPage({ context: { locale, viewport: { width, height } } }, async (page) => {
        await page.addInitScript(() => {
          window.shifts = [];
          const note = (list) =>
            window.shifts.push(...list.getEntries().map(({ value, sources }) => [value, sources.map(({ node }) => node?.id || node?.className)]));
          new PerformanceObserver(note).observe({ type: "layout-shift", buffered: true });
        });
        const release = holdEngine();
        await open(page, server, { device: "cpu" });
        await page.getByText(/Starting…|正在启动…/).waitFor();
        release();
        await page.getByText(/^(Ready\.|就绪。)$/).waitFor();
        // What is pending is observed with the frame after next.
        await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
        const shifts = await page.evaluate(() => window.shifts);
        const sum = shifts.reduce((sum, [value]) => sum + value, 0);
        assert.ok(sum <= SHIFT, JSON.stringify(shifts));
      }));
  }
});

test("it keeps to a policy that a host may send with every file", { timeout }, () =>
  withPage({ expected: /violates the following/ }, async (page) => {
    const policy = /```\n(Content-Security-Policy: [^]*?)\n```/.exec(readFileSync(join(ROOT, "docs/hosting.md"), "utf8"))?.[1];
    const [name, value] = policy.split(": ");
    server.fault = () => ({ headers: { [name]: value } });
    await page.addInitScript(() => {
      window.violations = [];
      document.addEventListener("securitypolicyviolation", ({ violatedDirective }) => window.violations.push(violatedDirective));
    });
    await open(page, server, query);
    await page.locator("details.advanced summary").click();
    await page.getByLabel("Steps", { exact: true }).fill("2");
    const { prompt, draw, picture } = ui(page);
    await prompt.fill("cat");
    await page.locator("summary", { hasText: "Pictures that steer" }).click();
    await page.locator("#steer-file").setInputFiles(join(ROOT, "www/mark.svg"));
    await page.locator('.card[data-kind="outline"]').waitFor();
    await draw.click();
    await picture("cat").waitFor();
    assert.deepEqual(await page.evaluate(() => window.violations), []);
    // That it is in force at all.
    await page.addScriptTag({ content: "window.harmed = 1" }).catch(() => {});
    assert.deepEqual(await page.evaluate(() => [window.harmed, window.violations.length > 0]), [undefined, true]);
  }));
