/** How the page lies on screens of every size, in every state: nothing hides, nothing is too small, everybody can use it. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { FIREFOX, PATIENCE, assertAccessible, few, open, start, ui, withPage } from "./browser.mjs";

const timeout = 2 * PATIENCE;
const query = { device: "cpu", model: "/sound/model/" };
/** Smallest side of what a finger presses. */
const FINGER = 44;

let server;
before(async () => (server = await start()));
after(() => server?.close());

/** Fails unless the page is accessible and, for fingers, has nothing too small. */
async function look(page, what, fingers) {
  await assertAccessible(page, what);
  if (!fingers) return;
  const small = await page.evaluate((least) => {
    const root = document.querySelector("dialog[open]") ?? document;
    const all = [...root.querySelectorAll("button, a[href], summary, select, input, textarea, [tabindex]")];
    return all
      .filter((part) => part.checkVisibility({ visibilityProperty: true }))
      .map((part) => [part, (part.matches("[type=radio], [type=checkbox]") ? part.closest("label") : part).getBoundingClientRect()])
      .filter(([, { width, height }]) => width < least || height < least)
      .map(([part, { width, height }]) => `${part.id || part.className || part.textContent}: ${width} x ${height}`);
  }, FINGER);
  assert.deepEqual(small, [], what);
}

for (const [width, height, locale, colorScheme] of few([
  [360, 740, "en-US", "light"],
  [360, 740, "zh-CN", "dark"],
  [800, 1100, "en-US", "dark"],
  [800, 1100, "zh-CN", "light"],
  [1400, 900, "en-US", "light"],
  [1400, 900, "zh-CN", "dark"],
])) {
  test(`${width} x ${height}, ${locale}, ${colorScheme}`, { timeout }, () => {
    const fingers = width < 800;
    const context = { locale, colorScheme, viewport: { width, height }, hasTouch: fingers, isMobile: fingers };
    return withPage({ context }, async (page) => {
      const status = (text) => page.waitForFunction((text) => new RegExp(text).test(document.querySelector("#status").textContent), text);
      const draw = async (steps) => {
        await page.locator("#prompt").fill("cat");
        await page.locator("#steps").fill(String(steps));
        await page.locator("#draw").click();
      };
      await open(page, server, { ...query, model: "/slow/model/" });
      await page.locator("#fetch").waitFor();
      await look(page, "loading", fingers);
      await status("^(Ready\\.|就绪。)$");
      await look(page, "empty", fingers);
      await page.locator("details.advanced summary").click();
      await page.locator("#steer > summary").click();
      await page.locator("#kept summary").click();
      await draw(200);
      await status("Step|步");
      await look(page, "drawing", fingers);
      await page.locator("#cancel").click();
      await page.locator("#cancel").waitFor({ state: "hidden" });
      await draw(2);
      await page.locator("#picture").waitFor();
      await page.locator("#steer-sketch").click();
      await look(page, "the pad", fingers);
      const box = await page.locator("#pad-canvas").boundingBox();
      await page.mouse.click(box.x + 30, box.y + 30);
      await page.locator("#pad-done").click();
      await page.locator(".finer summary").click();
      await look(page, "drawn, with everything open", fingers);
      await draw(0);
      await page.locator("#error").waitFor();
      await look(page, "an error", fingers);
    });
  });
}

describe("a phone that lies on its side", () => {
  test("shows the whole picture, and a pad with room to draw", { timeout }, () =>
    withPage({ context: { viewport: { width: 740, height: 360 }, hasTouch: true, isMobile: true } }, async (page) => {
      await open(page, server, query);
      await ui(page).status.getByText("Ready.").waitFor();
      const leaf = await page.locator("#leaf").boundingBox();
      assert.ok(leaf.height <= 360 && leaf.height >= 200, JSON.stringify(leaf));
      await page.locator("#steer > summary").click();
      await page.locator("#steer-sketch").click();
      const paper = await page.locator("#pad-paper").boundingBox();
      assert.ok(paper.height >= 200, JSON.stringify(paper));
      for (const id of ["pad-paper", "pad-pen", "pad-width", "pad-undo", "pad-done", "pad-cancel"]) {
        const box = await page.locator(`#${id}`).boundingBox();
        assert.ok(box.y >= 0 && box.y + box.height <= 360 && box.x + box.width <= 740, `${id} is in sight: ${JSON.stringify(box)}`);
      }
    }));

  // Firefox cannot be told of a notch.
  test("keeps clear of its notch", { timeout, skip: FIREFOX }, () =>
    withPage({ context: { viewport: { width: 740, height: 360 }, hasTouch: true, isMobile: true } }, async (page) => {
      const session = await page.context().newCDPSession(page);
      await session.send("Emulation.setSafeAreaInsetsOverride", { insets: { top: 20, left: 60, right: 50, bottom: 25 } });
      await open(page, server, query);
      await ui(page).status.getByText("Ready.").waitFor();
      const outside = await page.evaluate(() =>
        [...document.querySelectorAll("main *, header *, footer *")]
          .filter((part) => part.checkVisibility())
          .filter((part) => (({ left, right }) => left < 60 || right > innerWidth - 50)(part.getBoundingClientRect()))
          .map((part) => part.outerHTML.slice(0, 80)),
      );
      assert.deepEqual(outside, []);
      assert.ok((await page.locator("h1").boundingBox()).y >= 20);
    }));
});
