/** The tests' own server does what it says. */

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { get } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, beforeEach, test } from "node:test";
import { gunzipSync } from "node:zlib";
import { serve } from "./server.mjs";

const folder = mkdtempSync(join(tmpdir(), "pangu-draw-"));
const bytes = Buffer.from(Array.from({ length: 100 }, (_, i) => i));
let server;
before(async () => {
  mkdirSync(join(folder, "model"));
  writeFileSync(join(folder, "model/a.gguf"), bytes);
  writeFileSync(join(folder, "index.html"), "page");
  server = await serve(folder, folder);
});
after(() => {
  server.close();
  rmSync(folder, { recursive: true });
});
beforeEach(() => {
  server.fault = undefined;
  server.requests.length = 0;
});

/** What comes over the wire, whole or not; `hangUp` after that many bytes. */
const ask = (path, headers = {}, hangUp = Infinity) =>
  new Promise((resolve, reject) => {
    get(server.url + path, { headers, insecureHTTPParser: true, agent: false }, (response) => {
      const pieces = [];
      const done = (whole) => resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(pieces), whole });
      response.on("data", (piece) => {
        pieces.push(piece);
        if (Buffer.concat(pieces).length >= hangUp) response.destroy();
      });
      response.on("end", () => done(response.complete)).on("error", () => done(false)).on("close", () => done(false));
    }).on("error", reject);
  });
const part = { range: "bytes=10-29" };
const spoilt = (fault, headers = part) => {
  server.fault = () => fault;
  return ask("/sound/model/a.gguf", headers);
};

test("serves the page, and files in parts", async () => {
  assert.equal((await ask("/")).body.toString(), "page");
  for (const [range, status, body, said] of [
    [undefined, 200, bytes, undefined],
    ["bytes=10-19", 206, bytes.subarray(10, 20), "bytes 10-19/100"],
    ["bytes=90-", 206, bytes.subarray(90), "bytes 90-99/100"],
    ["bytes=-5", 206, bytes.subarray(95), "bytes 95-99/100"],
    ["bytes=90-500", 206, bytes.subarray(90), "bytes 90-99/100"],
    ["bytes=100-", 416, Buffer.alloc(0), "bytes */100"],
    ["nonsense", 200, bytes, undefined],
  ]) {
    const answer = await ask("/sound/model/a.gguf", range ? { range } : {});
    assert.deepEqual([answer.status, answer.body, answer.headers["content-range"]], [status, body, said], range);
  }
  assert.equal((await ask("/sound/model/b.gguf")).status, 404);
  const { path, range, status, sent } = server.requests[2];
  assert.deepEqual({ path, range, status, sent }, { path: "/sound/model/a.gguf", range: [10, 20], status: 206, sent: 10 });
});

test("knows whether a file is still the same", async () => {
  const { etag } = (await ask("/sound/model/a.gguf")).headers;
  assert.equal((await ask("/sound/model/a.gguf", { "if-none-match": etag })).status, 304);
  assert.equal((await ask("/sound/model/a.gguf", { ...part, "if-range": etag })).status, 206);
  assert.equal((await ask("/sound/model/a.gguf", { ...part, "if-range": '"other"' })).status, 200);
});

test("damages what is broken", async () => {
  const expected = Buffer.from(bytes);
  expected[93] ^= 4;
  assert.deepEqual((await ask("/broken/model/a.gguf")).body, expected);
});

test("misbehaves on command", async () => {
  assert.equal((await spoilt({ status: 403 })).status, 403);
  const busy = await spoilt({ status: 429, headers: { "retry-after": "2" } });
  assert.deepEqual([busy.status, busy.headers["retry-after"]], [429, "2"]);
  const whole = await spoilt({ ignoreRange: true });
  assert.deepEqual([whole.status, whole.body, whole.headers["content-range"]], [200, bytes, undefined]);
  const some = await spoilt({ part: 5 });
  assert.deepEqual([some.body, some.headers["content-range"]], [bytes.subarray(10, 15), "bytes 10-14/100"]);
  assert.equal((await spoilt({ headers: { "content-range": "bytes 0-19/7" } })).headers["content-range"], "bytes 0-19/7");
  const packed = await spoilt({ gzip: true });
  assert.deepEqual([packed.headers["content-encoding"], gunzipSync(packed.body)], ["gzip", bytes.subarray(10, 30)]);
  assert.equal((await spoilt({ flip: 12 })).body[2], 12 ^ 1);
  assert.deepEqual((await spoilt({ flip: 5 })).body, bytes.subarray(10, 30));
  const begun = await spoilt({ before: "// " }, {});
  assert.deepEqual([begun.body.subarray(0, 3).toString(), begun.headers["cache-control"]], ["// ", "no-store"]);
  const cut = await spoilt({ cut: 7 });
  assert.deepEqual([cut.headers["content-length"], cut.body, cut.whole], ["20", bytes.subarray(10, 17), false]);
  server.fault = () => ({ stall: 6 });
  const stalled = await ask("/sound/model/a.gguf", part, 6);
  assert.deepEqual([stalled.body, stalled.whole], [bytes.subarray(10, 16), false]);
  server.fault = ({ range }) => (range ? { status: 500 } : undefined);
  assert.equal((await ask("/sound/model/a.gguf")).status, 200);
});

test("keeps an answer back, and is down, as long as it is told", async () => {
  let release;
  const hold = new Promise((resolve) => (release = resolve));
  const answer = spoilt({ hold });
  while (server.requests.length === 0) await new Promise(setImmediate);
  assert.equal(server.requests[0].status, 0);
  release();
  assert.equal((await answer).status, 206);
  server.down = true;
  await assert.rejects(ask("/"));
  server.down = false;
  assert.equal((await ask("/sound/model/a.gguf")).status, 200);
});

test("sends more than it says", async () => {
  const socket = await import("node:net").then(({ connect }) => connect(Number(new URL(server.url).port), "127.0.0.1"));
  server.fault = () => ({ extra: 3 });
  socket.write("GET /sound/model/a.gguf HTTP/1.1\r\nHost: x\r\n\r\n");
  const pieces = [];
  for await (const piece of socket) pieces.push(piece);
  const text = Buffer.concat(pieces);
  const start = text.indexOf("\r\n\r\n") + 4;
  assert.match(text.subarray(0, start).toString(), /content-length: 100/i);
  assert.equal(text.length - start, 103);
});

test("all connections share a slow line", async () => {
  writeFileSync(join(folder, "model/large.gguf"), Buffer.alloc(125_000));
  const began = performance.now();
  await Promise.all([1, 2].map(() => ask("/10mbit/model/large.gguf")));
  // Two megabits at ten a second; never faster, though on a busy machine slower.
  assert.ok(performance.now() - began >= 195, `${performance.now() - began}`);
});
