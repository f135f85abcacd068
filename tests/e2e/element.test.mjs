/** `<pangu-draw>` in pages of other origins, under the Content-Security-Policy that docs/embedding.md asks for. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { AXE, PATIENCE, ROOT, model, start, withPage } from "./browser.mjs";
import { serve } from "./server.mjs";

/** Serves the package to every origin. */
let library;
/** Serves the same to its own origin only. */
let closed;
/** Pages of a third origin. */
let site;

before(async () => {
  library = await start();
  library.fault = () => ({ headers: CORS });
  closed = await serve(join(ROOT, "www"), join(model, ".."));
  site = await host();
});
after(() => [library, closed, site].forEach((server) => server?.close()));

const CORS = { "access-control-allow-origin": "*" };

/** The policies of docs/embedding.md: every line of a block `csp` there is one. */
const [OWN, FOREIGN] = [...readFileSync(join(ROOT, "docs/embedding.md"), "utf8").matchAll(/```csp\n(.*?)```/gs)].map(([, policy]) =>
  policy.trim().replaceAll(/\s+/g, " "),
);

/** A site that shows what it is given, and keeps what is posted to it. */
async function host() {
  const pages = new Map();
  const posted = [];
  const server = createServer(async (request, response) => {
    if (request.method === "POST") {
      const body = Buffer.concat(await Array.fromAsync(request));
      posted.push(await new Response(body, { headers: { "content-type": request.headers["content-type"] } }).formData());
      return response.writeHead(200, { "content-type": "text/html" }).end("<title>posted</title>");
    }
    const page = pages.get(request.url);
    if (!page) return response.writeHead(204).end();
    response.writeHead(200, { "content-type": "text/html", "content-security-policy": page.policy }).end(page.html);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${server.address().port}`;
  return {
    url,
    posted,
    /** The address of a page with `body`, which has the element from `origin`. */
    page(body, { origin = library.url, policy = FOREIGN } = {}) {
      const path = `/${pages.size}`;
      pages.set(path, {
        policy: policy.replaceAll("https://any.host", origin),
        html: `<!doctype html><html lang="en"><meta name="color-scheme" content="light dark"><title>A site</title>
          <script type="module" src="${origin}/element.js"></script><main><h1>A site</h1>${body}</main></html>`,
      });
      return url + path;
    },
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}

/** An element with the tiny model, on the CPU. */
const tag = (more = "") => `<pangu-draw device="cpu" model="${library.url}/sound/model/" steps="2" ${more}></pangu-draw>`;

/** Opens a page with `body` and runs `work`; what the policy forbids fails the test, unless `expected` says so. */
const onSite = (body, work, { context, expected, ...where } = {}) =>
  withPage({ context, expected }, async (page) => {
    await page.goto(site.page(body, where));
    await page.waitForFunction(() => customElements.get("pangu-draw"));
    await work(page, page.locator("pangu-draw"));
  });

const parts = (element) => ({
  prompt: element.getByRole("textbox"),
  draw: element.locator("[part=button]"),
  status: element.locator("[part=status]"),
  note: element.locator("[part=note]"),
  error: element.locator("[part=error]"),
  image: element.locator("img[part=image]"),
});

/** Names of files of weights that were asked for. */
const weights = (server) => server.requests.map(({ path }) => path).filter((path) => path.endsWith(".gguf"));

describe("in pages of other origins", () => {
  test("draws under the strict policy, and fetches nothing large before it is asked", { timeout: PATIENCE }, () =>
    onSite(tag('prompt="red apple"'), async (page, element) => {
      library.requests.length = 0;
      await page.reload();
      const { note, draw, image, status } = parts(element);
      const list = JSON.parse(readFileSync(join(model, "model.json"), "utf8"));
      await note.getByText(/^The first picture downloads [\d.]+ MB\.$/).waitFor();
      assert.deepEqual(weights(library), []);
      assert.equal(page.workers().length, 0);
      assert.equal(await page.evaluate(() => globalThis.crossOriginIsolated), false);
      // The figure is that of the engine and of what this drawing takes.
      const needed = list.components.filter(({ role }) => role !== "encoder").reduce((sum, { bytes }) => sum + bytes, 0);
      const bytes = needed + statSync(join(ROOT, "www/pkg/pangu_draw_bg.wasm")).size;
      assert.equal(await note.textContent(), `The first picture downloads ${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB.`);
      await draw.click();
      await image.waitFor();
      assert.equal(await image.getAttribute("alt"), "red apple");
      assert.match(await status.textContent(), /^Drawn in [\d.]+ s\.$/);
      assert.ok(weights(library).length > 0);
      assert.equal(page.workers().length, 1);
    }));
});
