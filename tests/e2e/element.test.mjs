/** `<pangu-draw>` in pages of other origins, under the Content-Security-Policy that docs/embedding.md asks for. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { PATIENCE, ROOT, assertAccessible, few, give, model, save, start, withPage } from "./browser.mjs";
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

/** The policies that docs/embedding.md asks for: of a page of another origin, and of one of the package's own. */
const [FOREIGN, OWN] = [...readFileSync(join(ROOT, "docs/embedding.md"), "utf8").matchAll(/```csp\n(.*?)```/gs)].map(([, policy]) =>
  policy.trim().replaceAll(/\s+/g, " "),
);

/** A site that shows what it is given, and keeps what is posted to it. */
async function host() {
  const pages = new Map();
  const posted = [];
  const server = createServer(async (request, response) => {
    if (request.method === "POST") {
      const pieces = [];
      for await (const piece of request) pieces.push(piece);
      const body = Buffer.concat(pieces);
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
    page(body, { origin = library.url, policy = FOREIGN, script = true } = {}) {
      const path = `/${pages.size}`;
      pages.set(path, {
        policy: policy.replaceAll("https://any.host", origin),
        html: `<!doctype html><html lang="en"><meta name="color-scheme" content="light dark"><title>A site</title>
          ${script ? `<script type="module" src="${origin}/element.js"></script>` : ""}<main><h1>A site</h1>${body}</main></html>`,
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

/** A black square on white, as a PNG file. */
const SQUARE =
  "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAAAAABWESUoAAAAGklEQVR42mP4TwAwjDAFDGhgVMHIVjDC8wUAMJb9Hysc1uIAAAAASUVORK5CYII=";

/** Records what an element tells, as plain data, on `window.told`. */
const record = (element) =>
  element.evaluate((element) => {
    window.told = [];
    for (const type of ["load-progress", "step", "image", "error", "cancel"]) {
      element.addEventListener(type, ({ detail, bubbles }) => {
        const { task, code, prompt, seed, loaded, step, steps } = detail;
        window.told.push({ type, bubbles, task, code, prompt, seed, loaded, step, steps, error: detail.error?.name, file: detail.file?.name });
      });
    }
  });
const told = (page, type) => page.evaluate((type) => window.told.filter((event) => event.type === type), type);

/** Calls `draw`; answers plain data of the picture or of the error. */
const draw = (element, options) =>
  element.evaluate(async (element, options) => {
    try {
      const { width, height, seed, rgba } = await element.draw(options);
      const hash = await crypto.subtle.digest("SHA-1", rgba).catch(() => rgba.slice(0, 400));
      return { width, height, seed, pixels: [...new Uint8Array(hash)].join(" ") };
    } catch ({ name, code, message, details }) {
      return { name, code, message, details };
    }
  }, options);

describe("in pages of other origins", () => {
  test("draws under the strict policy, and fetches nothing large before it is asked", { timeout: PATIENCE }, () =>
    onSite(tag('prompt="red apple"'), async (page, element) => {
      library.requests.length = 0;
      await page.reload();
      const { note, draw, image, status } = parts(element);
      await note.getByText(/^The first picture downloads [\d.]+\sMB\.$/).waitFor();
      assert.deepEqual(weights(library), []);
      assert.equal(page.workers().length, 0);
      assert.equal(await page.evaluate(() => globalThis.crossOriginIsolated), false);
      // The figure is that of the engine and of what this drawing takes.
      const list = JSON.parse(readFileSync(join(model, "model.json"), "utf8"));
      const needed = list.components.filter(({ role }) => role !== "encoder").reduce((sum, { bytes }) => sum + bytes, 0);
      const bytes = needed + statSync(join(ROOT, "www/pkg/pangu_draw_bg.wasm")).size;
      assert.equal(await note.textContent(), `The first picture downloads ${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)}\u00a0MB.`);
      await draw.click();
      await image.waitFor();
      assert.equal(await image.getAttribute("alt"), "red apple");
      assert.match(await status.textContent(), /^Drawn in [\d.]+ s\.$/);
      assert.ok(weights(library).length > 0);
      assert.equal(page.workers().length, 1);
      await note.waitFor({ state: "hidden" }); // Nothing is left to be downloaded.
      const { name } = await save(page, element.getByRole("link", { name: "Download PNG" }));
      assert.match(name, /^red-apple-\d+\.png$/);
    }));

  test("draws where a page asks for Trusted Types", { timeout: PATIENCE }, () =>
    onSite(
      tag(),
      async (page, element) => assert.equal((await draw(element, { prompt: "cat", seed: 7 })).seed, 7),
      { policy: `${FOREIGN}; require-trusted-types-for 'script'; trusted-types pangu-draw` },
    ));

  test("the plan of a drawing agrees with the figure that stands there before", { timeout: PATIENCE }, () =>
    onSite(tag(), async (page) => {
      const [list, planned] = await page.evaluate(async (library) => {
        const { Generator } = await import(`${library}/pangu-draw.js`);
        const generator = await Generator.open(`${library}/sound/model/`, { device: "cpu" });
        const { fetchBytes } = await generator.plan();
        generator.dispose();
        return [await (await fetch(`${library}/sound/model/model.json`)).json(), fetchBytes];
      }, library.url);
      const needed = list.components.filter(({ role }) => role !== "encoder");
      assert.equal(planned, needed.reduce((sum, { bytes }) => sum + bytes, 0));
    }));

  test("a page of the package's own origin may allow less", { timeout: PATIENCE }, () =>
    withPage({}, async (page) => {
      library.fault = ({ path }) => ({
        headers: path.endsWith(".html") ? { "content-security-policy": `${OWN.replace("img-src", "img-src 'self'")}; style-src 'self'` } : {},
      });
      try {
        await page.goto(`${library.url}/embed.html`);
        const element = page.locator("pangu-draw").first();
        await element.evaluate((element, model) => Object.assign(element, { model, device: "cpu", steps: 2 }), "/sound/model/");
        await parts(element).draw.click();
        await parts(element).image.waitFor();
        assert.equal(page.workers().length, 1);
      } finally {
        library.fault = () => ({ headers: CORS });
      }
    }));

  test("a model that its server keeps to itself is a typed error, told to the visitor", { timeout: PATIENCE }, () =>
    onSite(
      `<pangu-draw device="cpu" model="CLOSED/sound/model/" prompt="cat"></pangu-draw>`.replace("CLOSED", () => closed.url),
      async (page, element) => {
        await record(element);
        const { draw, error } = parts(element);
        await draw.click();
        await error.getByText("The model could not be downloaded.").waitFor();
        assert.match(await error.locator("code").textContent(), /^read: /);
        assert.deepEqual((await told(page, "error")).map(({ error, code, task, prompt }) => [error, code, task, prompt]), [["ReadError", "read", "draw", "cat"]]);
        // Once it is let out, the visitor's retry draws.
        closed.fault = () => ({ headers: CORS });
        await error.getByRole("button", { name: "Try again" }).click();
        await parts(element).image.waitFor();
        closed.fault = undefined;
      },
      { expected: /CORS|ERR_FAILED/, policy: FOREIGN.replaceAll("https://any.host", () => `${library.url} ${closed.url}`) },
    ));

  for (const [what, withheld] of [
    ["worker", /worker\.js$/],
    ["engine", /\.wasm$/],
  ]) {
    test(`a package whose ${what} is not served to others is a typed error that says what to do`, { timeout: PATIENCE }, () =>
      onSite(
        tag('prompt="cat"'),
        async (page, element) => {
          library.fault = ({ path }) => ({ headers: withheld.test(path) ? {} : CORS });
          try {
            const { name, code, message } = await draw(element, {});
            assert.deepEqual([name, code], ["CrashError", "crash"]);
            assert.match(message, /Access-Control-Allow-Origin/);
            await parts(element).error.getByText("The drawing engine stopped or could not start.").waitFor();
          } finally {
            library.fault = () => ({ headers: CORS });
          }
        },
        { expected: /CORS|ERR_FAILED/ },
      ));
  }
});

describe("for a page's script", () => {
  test("importing it elsewhere than in a page is safe, and starts nothing", () => {
    const source = `import(${JSON.stringify(join(ROOT, "www/element.js"))}).then((module) => console.log(Object.keys(module).join()))`;
    assert.equal(execFileSync("node", ["--input-type=module", "-e", source], { encoding: "utf8" }).trim(), "PanguDrawElement");
  });

  test("attributes and properties are one, and wrong ones are typed errors", { timeout: PATIENCE }, () =>
    onSite(tag(), async (page, element) => {
      const read = await element.evaluate((element) => {
        const before = { ...Object.fromEntries(["seed", "steps", "guidance", "width", "height"].map((name) => [name, element[name]])) };
        Object.assign(element, {
          negativePrompt: "blue", pictureStyle: "flat", seed: 5, guidance: 2.5, width: 64, height: 32,
          controls: "outline", theme: "dark", queuePolicy: "replace", name: "picture", required: true, disabled: true,
        });
        const attributes = Object.fromEntries([...element.attributes].map(({ name, value }) => [name, value]));
        const { negativePrompt, pictureStyle, seed, guidance, width, height, controls, theme, queuePolicy, name, required, disabled, device } = element;
        return { before, attributes, properties: { negativePrompt, pictureStyle, seed, guidance, width, height, controls, theme, queuePolicy, name, required, disabled, device } };
      });
      assert.deepEqual(read.before, { seed: null, steps: 2, guidance: null, width: null, height: null });
      assert.deepEqual(read.attributes, {
        device: "cpu", model: `${library.url}/sound/model/`, steps: "2", "negative-prompt": "blue", "picture-style": "flat", seed: "5",
        guidance: "2.5", width: "64", height: "32", controls: "outline", theme: "dark", "queue-policy": "replace", name: "picture",
        required: "", disabled: "",
      });
      assert.deepEqual(read.properties, {
        negativePrompt: "blue", pictureStyle: "flat", seed: 5, guidance: 2.5, width: 64, height: 32, controls: "outline", theme: "dark",
        queuePolicy: "replace", name: "picture", required: true, disabled: true, device: "cpu",
      });
      // What no one may set has its standard value; null goes back to it.
      const standard = await element.evaluate((element) => {
        Object.assign(element, { seed: null, device: "quantum", theme: "pink", queuePolicy: "soon" });
        return [element.seed, element.hasAttribute("seed"), element.device, element.theme, element.queuePolicy];
      });
      assert.deepEqual(standard, [null, false, "auto", "auto", "queue"]);
      await element.evaluate((element) => Object.assign(element, { device: "cpu", pictureStyle: null, width: null, height: null, prompt: "cat" }));
      for (const [attribute, value, parameter] of [
        ["steps", "many", "steps"],
        ["width", "17", "width"],
        ["picture-style", "cubist", "style"],
        ["guidance", "-1", "guidance scale"],
      ]) {
        const before = await element.getAttribute(attribute);
        await element.evaluate((element, [name, value]) => element.setAttribute(name, value), [attribute, value]);
        const { name, code, details } = await draw(element, {});
        assert.deepEqual([name, code, details.parameter], ["InvalidError", "invalid", parameter]);
        await element.evaluate((element, [name, value]) => (value === null ? element.removeAttribute(name) : element.setAttribute(name, value)), [attribute, before]);
      }
    }));

  test("the prompt is the visitor's: the attribute is only where it begins", { timeout: PATIENCE }, () =>
    onSite(tag('prompt="cat"'), async (page, element) => {
      const { prompt } = parts(element);
      await element.evaluate((element) => element.setAttribute("prompt", "dog"));
      assert.equal(await prompt.inputValue(), "dog");
      await prompt.fill("horse");
      await element.evaluate((element) => element.setAttribute("prompt", "cow"));
      assert.equal(await element.evaluate(({ prompt }) => prompt), "horse");
      await element.evaluate((element) => (element.prompt = "goat"));
      assert.equal(await prompt.inputValue(), "goat");
    }));

  test("draw, load and cancel tell what they do", { timeout: PATIENCE }, () =>
    onSite(tag(), async (page, element) => {
      await record(element);
      await element.evaluate((element) => element.load());
      assert.ok((await told(page, "load-progress")).at(-1).loaded > 0);
      const attributes = await draw(element, { prompt: "cat", seed: 7 });
      const again = await draw(element, { prompt: "cat", seed: 7 });
      const other = await draw(element, { prompt: "cat", seed: 8 });
      assert.equal(attributes.pixels, again.pixels);
      assert.notEqual(attributes.pixels, other.pixels);
      const [image] = await told(page, "image");
      assert.deepEqual([image.prompt, image.seed, image.file, image.bubbles], ["cat", 7, "cat-7.png", false]);
      const steps = await told(page, "step");
      assert.equal(steps.at(-1).steps, 2);
      assert.deepEqual(await told(page, "error"), []);

      const outcome = await element.evaluate(async (element) => {
        const picture = element.draw({ prompt: "dog", steps: 500 });
        element.addEventListener("step", () => element.cancel(), { once: true });
        return picture.catch(({ name, code }) => [name, code]);
      });
      assert.deepEqual(outcome, ["CancelledError", "cancelled"]);
      assert.deepEqual((await told(page, "cancel")).map(({ task, prompt }) => [task, prompt]), [["draw", "dog"]]);
      assert.equal(await parts(element).image.getAttribute("alt"), "cat", "the picture before is there again");
      // A signal of the caller does the same; an empty prompt needs no engine to be refused.
      const aborted = await element.evaluate((element) => element.draw({ prompt: "dog", signal: AbortSignal.abort() }).catch(({ code }) => code));
      assert.equal(aborted, "cancelled");
      const { code, details } = await draw(element, {});
      assert.deepEqual([code, details.parameter], ["invalid", "prompt"]);
    }));

  test("preload fetches at once, and can be stopped", { timeout: PATIENCE }, () =>
    onSite(tag("preload"), async (page, element) => {
      await parts(element).status.getByText("Ready.").waitFor();
      const slow = await element.evaluate(async (element, model) => {
        const told = new Promise((resolve) => element.addEventListener("cancel", ({ detail }) => resolve(detail.task)));
        element.addEventListener("load-progress", () => element.cancel(), { once: true });
        element.model = model;
        return told;
      }, `${library.url}/slow/model/`);
      assert.equal(slow, "load");
      await parts(element).status.getByText("Stopped.").waitFor();
    }));

  test("what was set before the definition holds, and a second definition is harmless", { timeout: PATIENCE }, () =>
    withPage({}, async (page) => {
      await page.goto(site.page("<pangu-draw></pangu-draw>", { script: false }));
      const values = await page.evaluate(async (library) => {
        const element = document.querySelector("pangu-draw");
        Object.assign(element, { prompt: "cat", seed: 3, queuePolicy: "reject" });
        await import(`${library}/element.js`);
        const first = customElements.get("pangu-draw");
        await import(`${library}/element.js?again`);
        return [element.prompt, element.getAttribute("seed"), element.getAttribute("queue-policy"), customElements.get("pangu-draw") === first];
      }, library.url);
      assert.deepEqual(values, ["cat", "3", "reject", true]);
    }));
});

describe("several of them", () => {
  const pair = () => tag('id="a" prompt="cat"') + tag('id="b" prompt="dog"');
  const both = (page) => [page.locator("#a"), page.locator("#b")];

  test("share one worker, which ends after the last has left the page", { timeout: PATIENCE }, () =>
    onSite(pair(), async (page) => {
      const [a, b] = both(page);
      library.requests.length = 0;
      await parts(a).draw.click();
      await parts(b).draw.click();
      await parts(a).image.waitFor();
      await parts(b).image.waitFor();
      assert.equal(page.workers().length, 1);
      const pieces = library.requests.filter(({ path }) => path.endsWith(".gguf")).map(({ path, range }) => `${path} ${range}`);
      assert.deepEqual(pieces, [...new Set(pieces)], "nothing is fetched twice");
      await a.evaluate((element) => element.remove());
      const [worker] = page.workers();
      const ended = new Promise((resolve) => worker.on("close", resolve));
      await b.evaluate((element) => element.remove());
      await ended;
      assert.equal(page.workers().length, 0);
    }));

  test("one that comes back in time finds the engine running", { timeout: PATIENCE }, () =>
    onSite(tag('prompt="cat"'), async (page, element) => {
      await draw(element, {});
      const [worker] = page.workers();
      await element.evaluate(async (element) => {
        const parent = element.parentNode;
        element.remove();
        await new Promise((resolve) => setTimeout(resolve));
        parent.append(element);
        await element.draw();
      });
      assert.deepEqual(page.workers(), [worker]);
    }));

  test("queue: each waits for its turn, and says so", { timeout: PATIENCE }, () =>
    onSite(pair(), async (page) => {
      const [a, b] = both(page);
      await record(a);
      const order = page.evaluate(async () => {
        const done = [];
        const [a, b] = ["a", "b"].map((id) => document.getElementById(id));
        await Promise.all([a.draw({ steps: 40 }).then(() => done.push("a")), b.draw().then(() => done.push("b"))]);
        return done;
      });
      await parts(b).status.getByText("Waiting for another picture…").waitFor();
      assert.deepEqual(await order, ["a", "b"]);
    }));

  test("reject: a drawing that would have to wait is refused with a typed error", { timeout: PATIENCE }, () =>
    onSite(pair(), async (page) => {
      const [a, b] = both(page);
      await b.evaluate((element) => (element.queuePolicy = "reject"));
      await record(b);
      const first = draw(a, { steps: 40 });
      await parts(a).status.getByText(/^Step/).waitFor();
      const { name, code } = await draw(b, {});
      assert.deepEqual([name, code], ["BusyError", "busy"]);
      await parts(b).error.getByText("Another picture is being drawn").waitFor();
      assert.equal((await told(page, "error"))[0].code, "busy");
      assert.ok((await first).width > 0, "the other one goes on");
      await parts(b).error.getByRole("button", { name: "Try again" }).click();
      await parts(b).image.waitFor();
    }));

  test("replace: takes the place of its own drawing, and leaves those of others alone", { timeout: PATIENCE }, () =>
    onSite(pair(), async (page) => {
      const outcome = await page.evaluate(async () => {
        const [a, b] = ["a", "b"].map((id) => document.getElementById(id));
        a.queuePolicy = b.queuePolicy = "replace";
        const name = (promise) => promise.then(({ seed }) => seed, ({ name }) => name);
        const drawings = [a.draw({ steps: 500, seed: 1 }), b.draw({ seed: 2 }), b.draw({ seed: 3 })].map(name);
        await new Promise((resolve) => a.addEventListener("step", resolve, { once: true }));
        drawings.push(name(a.draw({ seed: 4 })));
        return Promise.all(drawings);
      });
      assert.deepEqual(outcome, ["CancelledError", "CancelledError", 3, 4]);
      // While it draws, Enter asks for the new words.
      const [a] = both(page);
      await a.evaluate((element) => (element.steps = 500));
      await parts(a).prompt.press("Enter");
      await parts(a).status.getByText(/^Step/).waitFor();
      await a.evaluate((element) => (element.steps = 2));
      await parts(a).prompt.fill("horse");
      await parts(a).prompt.press("Enter");
      await a.getByRole("img", { name: "horse" }).waitFor();
    }));

  /** Keeps the engine back. Answers what was asked for of it, but for its length. */
  const engines = () => library.requests.filter(({ path, method }) => path.endsWith(".wasm") && method === "GET");
  const hold = () => {
    library.requests.length = 0;
    // Not stored: a browser would ask for the rest of it, in several requests.
    const headers = { ...CORS, "cache-control": "no-store" };
    library.fault = ({ path, method }) => (path.endsWith(".wasm") && method === "GET" ? { headers, stall: 100 } : { headers: CORS });
  };
  const release = () => (library.fault = () => ({ headers: CORS }));
  after(release);
  const until = async (page, so) => {
    while (!so()) await page.waitForTimeout(20);
  };

  test("cancel while the engine arrives ends its download, unless another one waits for it", { timeout: PATIENCE }, () =>
    onSite(pair(), async (page) => {
      const [a, b] = both(page);
      hold();
      // Alone.
      let drawing = draw(a, {});
      await until(page, () => engines().length === 1);
      await a.evaluate((element) => element.cancel());
      assert.equal((await drawing).code, "cancelled");
      await until(page, () => engines()[0].closed && page.workers().length === 0);
      await parts(a).status.getByText("Stopped.").waitFor();
      await parts(a).note.getByText(/downloads/).waitFor();
      // Its own next one, and that of another element, go on with what has begun.
      await a.evaluate((element) => (element.queuePolicy = "replace"));
      drawing = draw(a, {});
      await until(page, () => engines().length === 2);
      const [next, other] = [draw(a, { seed: 4 }), draw(b, { seed: 5 })];
      assert.equal((await drawing).code, "cancelled");
      await b.evaluate((element) => element.load().catch(() => {}) && element.cancel());
      assert.equal((await other).code, "cancelled");
      assert.deepEqual(engines().map(({ closed }) => closed), [true, false]);
      await a.evaluate((element) => element.cancel());
      assert.equal((await next).code, "cancelled");
      await until(page, () => engines()[1].closed);
      // A load is cancelled likewise; then all is as if nothing had been.
      const load = b.evaluate((element) => element.load().catch(({ code }) => code));
      await until(page, () => engines().length === 3);
      await b.evaluate((element) => element.cancel());
      assert.equal(await load, "cancelled");
      await until(page, () => engines()[2].closed);
      release();
      assert.equal((await draw(b, { seed: 6 })).seed, 6);
      assert.equal((await draw(a, { seed: 7 })).seed, 7);
      assert.equal(page.workers().length, 1);
    }));
});

describe("in the tree of a page", () => {
  test("removed while it draws, it stops; moved, it goes on", { timeout: PATIENCE }, () =>
    onSite(tag('prompt="cat"') + "<section></section>", async (page, element) => {
      const outcome = await element.evaluate(async (element) => {
        const moved = element.draw({ steps: 20, seed: 5 });
        await new Promise((resolve) => element.addEventListener("step", resolve, { once: true }));
        document.querySelector("section").append(element);
        const { seed } = await moved;
        const removed = element.draw({ steps: 500 });
        await new Promise((resolve) => element.addEventListener("step", resolve, { once: true }));
        element.remove();
        const { code } = await removed.catch((error) => error);
        return [seed, code];
      });
      assert.deepEqual(outcome, [5, "cancelled"]);
    }));

  test("a form gets the picture as a PNG file", { timeout: PATIENCE }, () =>
    onSite(
      `<form method="post" enctype="multipart/form-data" action="/"><fieldset>
        ${tag('name="sticker" prompt="cat" seed="7" required')}<button>Send</button><button type="reset">Reset</button></fieldset></form>`,
      async (page, element) => {
        const send = page.getByRole("button", { name: "Send" });
        const { draw, image, prompt } = parts(element);
        await send.click();
        const validity = await element.evaluate((element) => {
          const { validity, validationMessage, form, willValidate } = element;
          return [validity.valueMissing, validationMessage, form === document.forms[0], willValidate, element.checkValidity(), element.matches(":invalid")];
        });
        assert.deepEqual(validity, [true, "Please draw a picture first.", true, true, false, true]);
        assert.ok(await prompt.evaluate((field) => field.matches(":focus")), "the field that can mend it is in focus");
        assert.equal(site.posted.length, 0);

        await draw.click();
        await image.waitFor();
        assert.equal(await element.evaluate((element) => element.checkValidity()), true);
        // A disabled set of fields disables it, too.
        await page.locator("form > fieldset").evaluate((fieldset) => (fieldset.disabled = true));
        assert.ok((await prompt.isDisabled()) && (await draw.isDisabled()));
        await page.locator("form > fieldset").evaluate((fieldset) => (fieldset.disabled = false));
        assert.ok(await draw.isEnabled());

        await send.click();
        await page.waitForFunction(() => document.title === "posted");
        const file = site.posted.at(-1).get("sticker");
        assert.deepEqual([file.name, file.type], ["cat-7.png", "image/png"]);
        const png = Buffer.from(await file.arrayBuffer());
        assert.equal(png.subarray(1, 4).toString(), "PNG");
        assert.match(png.toString("latin1"), /"prompt":"cat"/);
      },
      { policy: `${FOREIGN}; form-action 'self'` },
    ));

  test("a form that is reset has neither picture nor the visitor's words", { timeout: PATIENCE }, () =>
    onSite(`<form>${tag('name="sticker" prompt="cat"')}</form>`, async (page, element) => {
      await parts(element).prompt.fill("dog");
      await parts(element).draw.click();
      await parts(element).image.waitFor();
      const entries = () => page.evaluate(() => [...new FormData(document.forms[0])].map(([name, { size }]) => [name, size > 0]));
      assert.deepEqual(await entries(), [["sticker", true]]);
      await page.evaluate(() => document.forms[0].reset());
      assert.deepEqual(await entries(), []);
      assert.equal(await parts(element).prompt.inputValue(), "cat");
      assert.ok(await parts(element).image.isHidden());
    }));
});

describe("for a visitor", () => {
  test("by keyboard alone: draw, cancel, draw again, save", { timeout: PATIENCE }, () =>
    onSite(tag(), async (page, element) => {
      const focused = () => element.evaluate(({ shadowRoot }) => shadowRoot.activeElement?.part.value);
      const { status, image, error } = parts(element);
      await page.keyboard.press("Tab");
      assert.equal(await focused(), "prompt");
      await page.keyboard.press("Tab");
      await page.keyboard.press("Enter");
      await error.getByText("Please write what shall be drawn.").waitFor();
      assert.equal(await focused(), "prompt");
      await page.keyboard.type("cat");
      await element.evaluate((element) => (element.steps = 500));
      await page.keyboard.press("Enter");
      await status.getByText(/^Step/).waitFor();
      await page.keyboard.press("Tab");
      assert.equal(await focused(), "button");
      await page.keyboard.press("Space");
      await status.getByText("Stopped.").waitFor();
      assert.equal(await focused(), "button", "the button that was pressed is still there");
      await element.evaluate((element) => (element.steps = 2));
      await page.keyboard.press("Space");
      await image.waitFor();
      await page.keyboard.press("Tab");
      assert.equal(await focused(), "download");
    }));

  test("pictures that steer are chosen, dropped and pasted, weighed, and taken away", { timeout: PATIENCE }, () =>
    onSite(tag('controls="outline variation" prompt="cat" seed="7"'), async (page, element) => {
      const [outline, variation] = [element.getByRole("group", { name: "Outline to follow" }), element.getByRole("group", { name: "Picture to vary" })];
      await variation.waitFor();
      const file = { name: "square.png", mimeType: "image/png", buffer: Buffer.from(SQUARE, "base64") };
      const plain = await draw(element, {});
      await outline.locator("input[type=file]").setInputFiles(file);
      await outline.getByRole("slider").waitFor();
      const steered = await draw(element, {});
      assert.notEqual(steered.pixels, plain.pixels);
      await outline.getByRole("slider").press("Home");
      assert.equal((await draw(element, {})).pixels, plain.pixels, "a strength of nothing steers nothing");
      await outline.getByRole("button", { name: "Remove: Outline to follow" }).click();
      assert.ok(await outline.getByRole("slider").isHidden());

      await give(outline, "drop", file.buffer);
      await outline.getByRole("slider").waitFor();
      await outline.getByRole("button", { name: "Remove: Outline to follow" }).click();
      await give(parts(element).prompt, "paste", file.buffer);
      await outline.getByRole("slider").waitFor();
      await outline.locator("input[type=file]").setInputFiles({ ...file, buffer: Buffer.from("no picture") });
      await outline.getByText("That picture cannot be used").waitFor();
    }));

  test("follows the language of the place", { timeout: PATIENCE }, () =>
    onSite(`<section>${tag('prompt="cat"')}</section>`, async (page, element) => {
      const speaks = (name) => element.getByRole("button", { name, exact: true }).waitFor();
      await speaks("Draw");
      await page.locator("section").evaluate((section) => (section.lang = "zh-CN"));
      await speaks("绘制");
      await element.evaluate((element) => (element.lang = "en"));
      await speaks("Draw");
      await page.evaluate(() => document.querySelectorAll("[lang]").forEach((each) => each.removeAttribute("lang")));
      await speaks("绘制");
      await parts(element).draw.click();
      await parts(element).status.getByText(/^用时 [\d.]+ 秒。$/).waitFor();
    }, { context: { locale: "zh-CN" } }));

  for (const [lang, colorScheme, width] of few([
    ["en", "light", 800],
    ["zh", "dark", 800],
    ["en", "dark", 200],
    ["zh", "light", 200],
  ])) {
    test(`is accessible: ${lang}, ${colorScheme}, ${width} px`, { timeout: PATIENCE }, () =>
      onSite(
        tag(`lang="${lang}" prompt="cat" controls="outline"`),
        async (page, element) => {
          await element.evaluate((element, width) => (element.style.width = `${width}px`), width);
          // Where nobody paints the ground, axe takes it for white, which it is not in the dark.
          await page.evaluate(() => (document.documentElement.style.background = "Canvas"));
          const check = async (state) => {
            await assertAccessible(page, state);
            const [inner, outer] = await element.evaluate(({ shadowRoot, clientWidth }) => [shadowRoot.firstElementChild.scrollWidth, clientWidth]);
            assert.ok(inner <= outer, `${state}: nothing sticks out`);
          };
          await parts(element).note.waitFor();
          await check("before");
          await parts(element).draw.click();
          await parts(element).image.waitFor();
          await check("after");
          await draw(element, { steps: 0 });
          await parts(element).error.waitFor();
          await check("failed");
        },
        { context: { colorScheme, viewport: { width: 900, height: 900 } } },
      ));
  }
});
