/** The page without a network: kept by its service worker, replaced as a whole, installable. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, beforeEach, describe, test } from "node:test";
import { FIREFOX, PATIENCE, ROOT, open, setOffline, start, ui, withPage, work } from "./browser.mjs";

/** A copy of the page that tests may change. */
const www = join(work, "www");
const query = { device: "cpu", model: "/sound/model/" };
const timeout = 2 * PATIENCE;
let server;
/** The server by a name that is not the developer's own machine, though browsers know that it is. */
let site;

before(async () => {
  const original = join(ROOT, "www");
  cpSync(original, www, { recursive: true, filter: (path) => !/\/models$|\.wasm$/.test(path) });
  symlinkSync(join(original, "pkg/pangu_draw_bg.wasm"), join(www, "pkg/pangu_draw_bg.wasm"));
  server = await start(www);
  site = { url: server.url.replace("127.0.0.1", "page.localhost") };
});
after(() => server?.close());
beforeEach(() => {
  for (const file of ["index.html", "page/i18n.js"]) cpSync(join(ROOT, "www", file), join(www, file));
  publish();
  server.fault = undefined;
  server.down = false;
});

/** Lists what the page is made of, as `make web` does. */
const publish = () => execFileSync(join(ROOT, "scripts/shell"), [www]);

/** Writes another version of a file. */
const change = (file, from, to) => {
  const before = readFileSync(join(www, file), "utf8");
  assert.ok(before.includes(from));
  writeFileSync(join(www, file), before.replace(from, to));
};
/** Another version of the page: its heading and its words change. */
function nextVersion() {
  change("index.html", "PanGu-Draw</span>", "PanGu-Draw 2</span>");
  change("page/i18n.js", "Words become pictures", "Words turn into pictures");
  publish();
}
/** What the page shows of its version: two files of it. */
const versions = async (page) => [await page.locator("h1 .latin").textContent(), await page.locator(".tagline").textContent()];
const OLD = ["PanGu-Draw", "Words become pictures inside this tab. Nothing you type leaves it."];
const NEW = ["PanGu-Draw 2", "Words turn into pictures inside this tab. Nothing you type leaves it."];

const withSite = (body, { expected = /net::ERR_|404/, context = {} } = {}) =>
  withPage({ expected, context: { serviceWorkers: "allow", ...context } }, body);

/** Opens the page for the first time and waits until it is kept. */
async function visit(page, at = site) {
  await open(page, at, query);
  await ui(page).status.getByText("Ready.").waitFor();
  await page.evaluate(async () => void (await navigator.serviceWorker.ready));
}

/** Draws with a fixed seed; answers the picture as the page has it. */
async function draw(page) {
  const { prompt, draw, picture } = ui(page);
  await prompt.fill("cat");
  await page.getByLabel("Seed").fill("7");
  await page.locator("details.advanced").evaluate((details) => (details.open = true));
  await page.getByLabel("Steps", { exact: true }).fill("2");
  await draw.click();
  await picture("cat").waitFor();
  return picture("cat").evaluate(async ({ src }) => [...new Uint8Array(await (await fetch(src)).arrayBuffer())].join());
}

/** Lets the browser look for a new version; answers whether one waits then. */
const updated = (page) =>
  page.evaluate(async () => {
    const registration = await navigator.serviceWorker.ready;
    await registration.update();
    const { installing } = registration;
    while (installing?.state === "installing") await new Promise((done) => (installing.onstatechange = done));
    return Boolean(registration.waiting);
  });

describe("without a network", () => {
  test("the page opens and draws the same", { timeout }, () =>
    withSite(async (page) => {
      await visit(page);
      const online = await draw(page);
      await page.waitForFunction(() => document.querySelector("#fetch").hidden);
      await setOffline(page, server, true);
      server.requests.length = 0;
      await page.reload();
      await ui(page).status.getByText("Ready.").waitFor();
      assert.equal(await draw(page), online);
      // Also in the other language, and by the page's other name.
      await page.goto(`${site.url}/index.html?lang=zh&device=cpu&model=/sound/model/`);
      await page.getByText("就绪。").waitFor();
      // The browser itself looks for a new version; it does not know that this is a test.
      const asked = server.requests.map(({ path }) => path).filter((path) => !/^\/(sw|pkg\/shell)\.js$/.test(path));
      assert.deepEqual(asked, [], "nothing came from the server");
    }));

  test("or without its server", { timeout }, () =>
    withSite(async (page) => {
      await visit(page);
      const online = await draw(page);
      await page.waitForFunction(() => document.querySelector("#fetch").hidden);
      server.fault = () => ({ cut: 0 });
      await page.reload();
      await ui(page).status.getByText("Ready.").waitFor();
      assert.equal(await draw(page), online);
    }));
});

describe("a new version", () => {
  test("is offered, and replaces the old one as a whole", { timeout }, () =>
    withSite(async (page) => {
      await visit(page);
      nextVersion();
      server.requests.length = 0;
      await page.reload();
      assert.deepEqual(await versions(page), OLD);
      const news = page.getByRole("complementary", { name: "News" });
      await news.getByText("A new version of this page is there.").waitFor();
      assert.deepEqual(await versions(page), OLD, "nothing changes unasked");
      const fetched = server.requests.map(({ path }) => path).filter((path) => !/^\/sound|sw\.js|shell\.js/.test(path));
      assert.deepEqual(fetched.sort(), ["/", "/page/i18n.js"], "what did not change is not fetched again");

      // A page that is open goes on with what it began with.
      const other = await page.context().newPage();
      await open(other, site, query);
      await news.getByRole("button", { name: "Reload" }).click();
      await news.getByText("Close this page’s other tabs first").waitFor();
      assert.deepEqual(await versions(other), OLD);
      await other.close();
      await news.getByRole("button", { name: "Reload" }).click();
      await page.getByText("Words turn into pictures").waitFor();
      assert.deepEqual(await versions(page), NEW);
      assert.ok(await news.isHidden());
      assert.equal((await page.evaluate(() => caches.keys())).length, 1, "the old one is gone");
      await setOffline(page, server, true);
      await page.reload();
      assert.deepEqual(await versions(page), NEW);
    }));

  test("that is not wholly there leaves the old one as it is", { timeout }, () =>
    withSite(async (page) => {
      await visit(page);
      for (const [what, fault] of [
        ["a file is missing", ({ path }) => (path === "/page/i18n.js" ? { status: 404 } : undefined)],
        ["a file ends early", ({ path }) => (path === "/page/i18n.js" ? { cut: 2000 } : undefined)],
        ["a file is another", ({ path }) => (path === "/page/i18n.js" ? { flip: 2000 } : undefined)],
      ]) {
        nextVersion();
        server.fault = fault;
        server.requests.length = 0;
        assert.equal(await updated(page), false, what);
        assert.ok(server.requests.some(({ path }) => path === "/page/i18n.js"), "it was tried");
        await page.reload();
        assert.deepEqual(await versions(page), OLD, what);
        await setOffline(page, server, true);
        await page.reload();
        assert.deepEqual(await versions(page), OLD, `${what}, offline`);
        await setOffline(page, server, false);
        server.fault = undefined;
        for (const file of ["index.html", "page/i18n.js"]) cpSync(join(ROOT, "www", file), join(www, file));
      }
      nextVersion();
      assert.equal(await updated(page), true, "the next attempt takes it");
    }));
});

test("what is no whole file of the page goes through", { timeout }, () =>
  withSite(async (page) => {
    await visit(page);
    await page.reload();
    const answers = await page.evaluate(async () => {
      const part = await fetch("page/style.css", { headers: { range: "bytes=2-5" } });
      const posted = await fetch("page/style.css", { method: "POST" });
      return [part.status, (await part.text()).length, part.headers.get("content-range").slice(0, 10), posted.status];
    });
    assert.deepEqual(answers, [206, 4, "bytes 2-5/", 200]);
    assert.ok(server.requests.some(({ path, range }) => path === "/page/style.css" && range), "the server answered it");
  }));

test("who develops the page sees what is in the files", { timeout }, () =>
  withSite(async (page) => {
    await visit(page, server);
    await page.reload();
    change("page/i18n.js", "Words become pictures", "Words turn into pictures");
    await page.reload();
    await page.getByText("Words turn into pictures").waitFor();
    await setOffline(page, server, true);
    await page.reload();
    assert.deepEqual(await versions(page), OLD, "without the server, what was published last");
  }));

test("the page can be installed", { timeout }, () =>
  withSite(async (page) => {
    await visit(page);
    // Firefox installs no pages; what they say of themselves it reads all the same.
    if (!FIREFOX) {
      const session = await page.context().newCDPSession(page);
      const { installabilityErrors } = await session.send("Page.getInstallabilityErrors");
      assert.deepEqual(installabilityErrors.filter(({ errorId }) => errorId !== "in-incognito"), []);
      assert.deepEqual((await session.send("Page.getAppManifest")).errors, []);
    }
    const manifest = await page.evaluate(async () => (await fetch(document.querySelector("link[rel=manifest]").href)).json());
    assert.ok(manifest.name_localized.zh && manifest.description_localized.zh);
    for (const { src, sizes, type } of manifest.icons) {
      const [side, found] = await page.evaluate(async (src) => {
        const answer = await fetch(src);
        const image = new Image();
        image.src = src;
        await image.decode();
        return [image.naturalWidth, answer.headers.get("content-type")];
      }, src);
      assert.ok(sizes === "any" || sizes === `${side}x${side}`, `${src}: ${side}`);
      assert.equal(found, type);
    }
  }));
