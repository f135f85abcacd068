/** A web server for the tests: the page, and model folders in several states of health. */

import { readFile, stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { gzipSync } from "node:zlib";

const TYPES = {
  ".html": "text/html",
  ".css": "text/css",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".webmanifest": "application/manifest+json",
  ".wasm": "application/wasm",
};
/** What `/slow/` sends in a second, in Mbit. */
const SLOW = 6.5;

/**
 * What goes wrong with one answer; everything may be left out, and be combined.
 * @typedef {object} Fault
 * @property {Promise<unknown>} [hold] Answers only when this is kept.
 * @property {number} [status] Answers this, with an empty body.
 * @property {Record<string, string>} [headers] More headers, or others: `retry-after`, `location`, `content-range`, `etag`.
 * @property {boolean} [ignoreRange] Answers 200 and the whole file.
 * @property {boolean} [gzip] Compresses the body, and says so.
 * @property {string} [before] Puts this text before the file's, for this once: it is not to be kept.
 * @property {number} [flip] Flips the lowest bit of the byte at this offset of the file.
 * @property {number} [part] Answers only so many bytes of the range, and says so.
 * @property {number} [extra] The body is that many bytes longer than `content-length` says.
 * @property {number} [cut] Ends the connection after that many bytes of the body.
 * @property {number} [stall] Falls silent after that many bytes of the body, until the client hangs up.
 */

/** The bytes `[start, end)` that a `Range` header names in a file of `size` bytes; none if it is not one range. */
function parse(range, size) {
  const [, start, end] = /^bytes=(\d*)-(\d*)$/.exec(range ?? "") ?? [];
  if (start === undefined || start + end === "") return undefined;
  return start === "" ? [Math.max(0, size - Number(end)), size] : [Number(start), end === "" ? size : Math.min(size, Number(end) + 1)];
}

/** A line of so many Mbit/s that all connections share: sends pieces when their time has come. */
class Line {
  #free = 0;

  constructor(rate) {
    this.bytesPerMs = rate * 125;
  }

  /** Waits until `bytes` have passed the line. */
  async pass(bytes) {
    this.#free = Math.max(this.#free, performance.now()) + bytes / this.bytesPerMs;
    const pause = this.#free - performance.now();
    if (pause > 1) await wait(pause);
  }
}

/** Sends `body` with pauses as `line` says, and only as fast as the client takes it. */
async function send(response, body, line, request) {
  const step = line ? Math.ceil(line.bytesPerMs * 20) : 1 << 20;
  for (let at = 0; at < body.length && !response.destroyed; at += step) {
    const piece = body.subarray(at, at + step);
    await line?.pass(piece.length);
    request.sent += piece.length;
    if (!response.write(piece)) {
      await new Promise((resolve) => {
        const done = () => resolve(response.off("drain", done).off("close", done));
        response.on("drain", done).on("close", done);
      });
    }
  }
}

/**
 * Serves the page in `www`, and the folders in `models` below `/sound/` as they are, below `/broken/` with one bit flipped in
 * every weight file, below `/slow/` slowly, below `/20mbit/` at 20 Mbit/s (any number will do; all connections share it).
 * Everything else is not found.
 *
 * The answer's `fault` may be set to a function of a request that answers what goes wrong with it: a {@link Fault}, or nothing.
 * `requests` lists what was asked for, as `{ path, method, range, headers, status, sent, closed }`: `range` is `[start, end)`,
 * `sent` the bytes of the body that went out, `closed` whether the client has all of it, or wants no more. `elsewhere` is the same
 * server under another origin, which lets no page read it, unless a fault's headers do. `prelude` is JavaScript that the worker runs
 * before anything else. While it is `down`, nobody gets through to it.
 */
export async function serve(www, models) {
  const lines = new Map();
  const line = (rate) => lines.get(rate) ?? lines.set(rate, new Line(rate)).get(rate);

  async function answer(request, response) {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
    const [prefix, kind, rate] = /^\/(sound|broken|slow|(\d+)mbit)(?=\/)/.exec(path) ?? [];
    const file = kind ? join(models, path.slice(prefix.length)) : join(www, path.endsWith("/") ? `${path}index.html` : path);
    const found = await stat(file).catch(() => undefined);
    const size = found?.isFile() ? found.size : 0;
    const { headers } = request;
    const asked = { path, method: request.method, range: parse(headers.range, size), headers, status: 0, sent: 0, closed: false };
    response.on("close", () => (asked.closed = true));
    /** @type {Fault} */
    const fault = tests.fault?.(asked) ?? {};
    tests.requests.push(asked);
    await fault.hold;

    const reply = (status, headers = {}) => {
      asked.status = status;
      return response.writeHead(status, { ...headers, ...fault.headers });
    };
    if (fault.status) return reply(fault.status).end();
    if (!found?.isFile()) return reply(404).end();
    const etag = `"${size}-${found.mtimeMs}"`;
    const type = TYPES[extname(file)] ?? "application/octet-stream";
    const before = (path === "/worker.js" ? tests.prelude : "") + (fault.before ?? "");
    const common = { "content-type": type, "cache-control": before ? "no-store" : "no-cache", "accept-ranges": "bytes", etag };
    if (headers["if-none-match"] === etag && !before) return reply(304, common).end();

    let body = await readFile(file);
    if (kind === "broken" && !file.endsWith(".json")) body[body.length - 7] ^= 4;
    if (before) body = Buffer.concat([Buffer.from(before), body]);
    if (fault.flip < size) body[fault.flip] ^= 1;
    const whole = !asked.range || fault.ignoreRange || (headers["if-range"] ?? etag) !== etag;
    if (!whole) {
      const [start] = asked.range;
      const end = Math.min(asked.range[1], start + (fault.part ?? size));
      if (start >= end) return reply(416, { ...common, "content-range": `bytes */${size}` }).end();
      body = body.subarray(start, end);
      common["content-range"] = `bytes ${start}-${end - 1}/${size}`;
    }
    if (fault.gzip) {
      body = gzipSync(body);
      common["content-encoding"] = "gzip";
    }
    reply(whole ? 200 : 206, { ...common, "content-length": body.length });
    if (fault.extra) body = Buffer.concat([body, Buffer.alloc(fault.extra)]);
    await send(response, body.subarray(0, fault.cut ?? fault.stall), kind === "slow" ? line(SLOW) : rate && line(Number(rate)), asked);
    if (fault.stall !== undefined) return;
    if (fault.cut !== undefined || fault.extra) return void setImmediate(() => response.socket?.destroySoon());
    response.end();
  }

  let down = false;
  const server = createServer((request, response) => void answer(request, response));
  server.on("connection", (socket) => down && socket.destroy());
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  const tests = {
    url: `http://127.0.0.1:${port}`,
    elsewhere: `http://localhost:${port}`,
    requests: [],
    prelude: "",
    /** @type {((request: any) => Fault | undefined) | undefined} */
    fault: undefined,
    set down(value) {
      down = value;
      if (down) server.closeAllConnections();
    },
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
  return tests;
}
