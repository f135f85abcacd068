/** What Firefox draws beside what Chromium draws. What either does by itself, the other tests say: BROWSER=firefox npm test. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, test } from "node:test";
import { PATIENCE, generate, open, start, withPage } from "./browser.mjs";

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
