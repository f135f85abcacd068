/** What the page says when something is in the way: every condition is brought about, and told in both languages. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import { FIREFOX, PATIENCE, ROOT, assertAccessible, insecure, model, open, setOffline, start, ui, withPage, work } from "./browser.mjs";

const timeout = 2 * PATIENCE;
const query = { device: "cpu", model: "/sound/model/" };
let server;
before(async () => (server = await start()));
after(() => server?.close());

/** Waits until `place` says both sentences, one after the other was chosen; it must be accessible, too. */
async function says(page, place, english, chinese) {
  await place.getByText(english).waitFor();
  await assertAccessible(page);
  await page.getByRole("button", { name: "中文" }).click();
  await place.getByText(chinese).waitFor();
  await page.getByRole("button", { name: "English" }).click();
  await place.getByText(english).waitFor();
}
const notices = (page) => page.locator("#notices");

/** Runs `prepare` in the workers before anything else. */
const prepareWorkers = (prepare) => (server.prelude = `(${prepare})();`);
afterEach(() => (server.prelude = ""));

async function draw(page) {
  const { prompt, draw } = ui(page);
  await prompt.fill("cat");
  await page.locator("details.advanced").evaluate((details) => (details.open = true));
  await page.getByLabel("Steps", { exact: true }).fill("2");
  await draw.click();
}

test("no WebGPU: the CPU draws, more slowly", { timeout }, () =>
  withPage({}, async (page) => {
    await open(page, server, { model: query.model });
    await says(page, notices(page), "This browser offers no WebGPU", "此浏览器没有可用的 WebGPU");
  }));

describe("too little memory", () => {
  test("is told before anything is fetched", { timeout }, () =>
    withPage({}, async (page) => {
      const manifest = JSON.parse(readFileSync(join(model, "model.json"), "utf8"));
      // The same model, if its networks had so many bytes.
      for (const component of manifest.components) {
        component.bytes = 2 ** 32;
        component.sha256 = Array(component.bytes / manifest.chunk_bytes).fill("0".repeat(64));
      }
      mkdirSync(join(work, "huge"));
      writeFileSync(join(work, "huge/model.json"), JSON.stringify(manifest));
      server.requests.length = 0;
      await open(page, server, { ...query, model: "/sound/huge/" });
      await says(page, ui(page).error, "There is not enough memory for this.", "内存不足。");
      assert.match(await page.locator("#error-details").textContent(), /bytes of weights do not fit into/);
      assert.ok(!server.requests.some(({ path }) => path.endsWith(".gguf")));
    }));

  test("is told when it runs out", { timeout }, () =>
    withPage({}, async (page) => {
      prepareWorkers(() => {
        const make = WebAssembly.instantiateStreaming;
        WebAssembly.instantiateStreaming = async (...given) => {
          const made = await make(...given);
          const { memory } = made.instance.exports;
          for (let pages = 1 << 15; pages >= 1; ) {
            try {
              memory.grow(pages);
            } catch {
              pages >>= 1;
            }
          }
          return made;
        };
      });
      await open(page, server, query);
      await says(page, ui(page).error, "There is not enough memory for this.", "内存不足。");
      server.prelude = "";
      await draw(page);
      await ui(page).picture("cat").waitFor();
    }));
});

describe("what is fetched cannot be kept", () => {
  test("because the browser keeps nothing for the page", { timeout }, () =>
    withPage({}, async (page) => {
      // An insecure page has no files; neither it nor its worker gets a database.
      const refuse = () => {
        IDBFactory.prototype.open = () => { throw new DOMException("no", "SecurityError"); };
      };
      prepareWorkers(refuse);
      await page.addInitScript(refuse);
      await open(page, { url: insecure(server) }, query);
      await says(page, notices(page), "This browser keeps no files for this page", "此浏览器不为本页面保存文件");
      await draw(page);
      await ui(page).picture("cat").waitFor();
    }));

  test("is kept in a database where there are no files, and nothing is said", { timeout }, () =>
    withPage({}, async (page) => {
      await open(page, { url: insecure(server) }, query);
      await draw(page);
      await ui(page).picture("cat").waitFor();
      await page.locator("#kept > summary").click();
      await page.locator("#kept-list li").waitFor();
      assert.ok(await notices(page).isHidden());
    }));

  test("because there is no room", { timeout }, () =>
    withPage({ room: { origin: server.url, bytes: 1 << 19 } }, async (page) => {
      await open(page, server, query);
      await says(page, notices(page), "no room to keep the whole model", "没有足够的空间保存整个模型");
      await draw(page);
      await ui(page).picture("cat").waitFor();
      assert.ok(await notices(page).isVisible());
    }));

  test("is not said where it is", { timeout }, () =>
    withPage({}, async (page) => {
      await open(page, server, query);
      await draw(page);
      await ui(page).status.getByText(/^Drawn in/).waitFor();
      assert.ok(await notices(page).isHidden());
    }));
});

describe("no network", () => {
  test("and no model is told at once; with a network Draw goes on", { timeout }, () =>
    withPage({ expected: /net::ERR|404/, context: { serviceWorkers: "allow" } }, async (page) => {
      execFileSync(join(ROOT, "scripts/shell"));
      cpSync(model, join(work, "other"), { recursive: true });
      await open(page, server, query);
      await page.evaluate(async () => void (await navigator.serviceWorker.ready));
      await setOffline(page, server, true);
      await open(page, server, { ...query, model: "/sound/other/" });
      await says(page, ui(page).error, "There is no network, and not all of the model is in this browser.", "没有网络，而且此浏览器中没有完整的模型。");
      await setOffline(page, server, false);
      await draw(page);
      await ui(page).picture("cat").waitFor();
      assert.ok(await ui(page).error.isHidden());
    }));

  test("in the middle of a download is told, and the download goes on", { timeout }, () =>
    withPage({ expected: /net::ERR/ }, async (page) => {
      await open(page, server, { ...query, model: "/slow/model/" });
      await page.getByRole("progressbar", { name: "Download of the model" }).waitFor();
      await setOffline(page, server, true);
      await says(page, notices(page), "There is no network. What has arrived is kept", "网络已断开。已下载的部分会保留");
      await setOffline(page, server, false);
      await notices(page).waitFor({ state: "hidden" });
      await ui(page).status.getByText("Ready.").waitFor();
    }));
});

test("a graphics device that is lost: another takes its place", { timeout, skip: FIREFOX }, () =>
  withPage({ webgpu: true, expected: /lost/ }, async (page) => {
    prepareWorkers(() => {
      const request = GPUAdapter.prototype.requestDevice;
      GPUAdapter.prototype.requestDevice = async function (...given) {
        return (globalThis.gpu = await request.apply(this, given));
      };
    });
    await open(page, server, { ...query, device: "webgpu" });
    await ui(page).status.getByText("Ready.").waitFor();
    await page.workers()[0].evaluate(() => globalThis.gpu.destroy());
    await draw(page);
    await ui(page).status.getByText(/^(Step 2 of 2|Developing the picture|Drawn in)/).waitFor();
    assert.ok(await ui(page).error.isHidden());
  }));
