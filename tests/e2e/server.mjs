/** A web server for the tests: the page, and model folders in several states of health. */

import { createReadStream } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

const TYPES = {
  ".html": "text/html",
  ".css": "text/css",
  ".js": "text/javascript",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};

/** Sends a file in small pieces with pauses, so that a download can be watched. */
async function trickle(bytes, response) {
  for (let at = 0; at < bytes.length && !response.destroyed; at += 16384) {
    response.write(bytes.subarray(at, at + 16384));
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  response.end();
}

/**
 * Serves the page in `www`, and the folders in `models` three times: below `/sound/` as they are, below `/broken/` with one
 * bit flipped in every weight file, below `/slow/` slowly. Everything else is not found. `asked` lists the paths asked for.
 */
export async function serve(www, models) {
  const asked = [];
  const server = createServer(async (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
    asked.push(path);
    const [prefix, kind] = /^\/(sound|broken|slow)(?=\/)/.exec(path) ?? [];
    const file = kind ? join(models, path.slice(prefix.length)) : join(www, path.endsWith("/") ? `${path}index.html` : path);
    const found = await stat(file).catch(() => undefined);
    if (!found?.isFile()) return response.writeHead(404).end();
    const type = TYPES[extname(file)] ?? "application/octet-stream";
    response.writeHead(200, { "content-type": type, "content-length": found.size, "cache-control": "no-cache" });
    if (kind === "slow") return trickle(await readFile(file), response);
    if (kind !== "broken" || file.endsWith(".json")) return createReadStream(file).pipe(response);
    const bytes = await readFile(file);
    bytes[bytes.length - 7] ^= 4;
    response.end(bytes);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { asked, url: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}
