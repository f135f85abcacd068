/** What Firefox draws beside what Chromium draws, and its private windows. The rest, the other tests say: npm run firefox. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, test } from "node:test";
import { PATIENCE, generate, open, start, ui, withPage } from "./browser.mjs";

let server;
before(async () => (server = await start()));
after(() => server?.close());

test("both browsers draw the same file on the CPU", { timeout: 2 * PATIENCE }, async () => {
  const request = { prompt: "a red apple", seed: 7, steps: 4, guidanceScale: 3, sampler: "dpmpp_2m" };
  const files = [];
  for (const firefox of [false, true]) {
    await withPage({ firefox }, async (page) => {
      await open(page, server, { device: "cpu", model: "/sound/model/" });
      const { png } = await generate(page, "/sound/model/", "cpu", request);
      files.push(createHash("sha256").update(Buffer.from(png)).digest("hex"));
    });
  }
  assert.equal(files[0], files[1]);
});

test("Firefox's private windows have no files: what is fetched and drawn is kept in databases", { timeout: PATIENCE }, () =>
  withPage({ firefox: true, privately: true }, async (page) => {
    await open(page, server, { device: "cpu", model: "/sound/model/" });
    const { prompt, draw, picture, status } = ui(page);
    await prompt.fill("cat");
    await draw.click();
    await picture("cat").waitFor();
    assert.equal(await page.evaluate(() => navigator.storage.getDirectory().catch(({ name }) => name)), "SecurityError");
    server.requests.length = 0;
    await page.reload();
    await status.getByText("Ready.").waitFor();
    assert.deepEqual(server.requests.filter(({ path }) => path.endsWith(".gguf")), []);
    await page.getByRole("button", { name: "Show again: cat" }).click();
    await picture("cat").waitFor();
    assert.ok(await page.locator("#notices").isHidden(), "there is nothing to complain of");
  }));
