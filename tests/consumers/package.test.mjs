/** What is in the npm package: its size, what it promises and what its documentation says. `make package` makes it. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import { CLASSES } from "../../www/engine.js";

const ROOT = new URL("../../", import.meta.url).pathname;
const PACKAGE = join(ROOT, "pkg");
const read = (...path) => readFileSync(join(...path), "utf8");
const manifest = JSON.parse(read(PACKAGE, "package.json"));
const readme = read(PACKAGE, "README.md");
const files = readdirSync(PACKAGE, { recursive: true }).filter((file) => statSync(join(PACKAGE, file)).isFile());
const bytes = (ending) =>
  files.filter((file) => file.endsWith(ending)).reduce((sum, file) => sum + statSync(join(PACKAGE, file)).size, 0);

describe("the package", () => {
  // A few per cent above what there is: whoever needs more says so here.
  const budgets = [
    // The engine: all backends of burn that a browser can use, the kernels of the CPU built for speed.
    ["engine", () => bytes(".wasm"), 16.6e6],
    ["engine, gzip", () => gzipSync(readFileSync(join(PACKAGE, "pkg/pangu_draw_bg.wasm")), { level: 9 }).length, 4.1e6],
    // Half of it is wasm-bindgen's; read as it is written, since every bundler makes it small.
    ["JavaScript", () => bytes(".js"), 0.17e6],
    ["types", () => bytes(".d.ts"), 0.052e6],
    ["models", () => bytes(".gguf"), 50e6],
  ];
  for (const [name, size, most] of budgets) {
    test(`keeps to its budget: ${name}`, () => {
      const is = size();
      console.log(`${name}: ${is} bytes of ${most}`);
      assert.ok(is > 0 && is <= most, `${is}`);
    });
  }

  test("has no file too large for a CDN", () => {
    for (const file of files) assert.ok(statSync(join(PACKAGE, file)).size < 20e6, file);
  });

  test("has what it says it exports, with types", () => {
    for (const [name, target] of Object.entries(manifest.exports)) {
      const targets = typeof target === "string" ? [target] : Object.values(target);
      if (name === "./models/*") assert.ok(existsSync(join(PACKAGE, "models/default/model.json")));
      else for (const file of targets) assert.ok(files.includes(file.slice(2)), file);
      if (typeof target === "object") assert.ok(target.types, name);
    }
    for (const file of manifest.sideEffects) assert.ok(files.includes(file.slice(2)), file);
    for (const file of files.filter((file) => file.endsWith(".js"))) {
      assert.ok(files.includes(file.replace(/js$/, "d.ts")), `types of ${file}`);
    }
  });

  test("has no module that nothing in it imports", () => {
    const names = Object.values(manifest.exports).flatMap((target) => target.default ?? []).map((name) => join(PACKAGE, name));
    const reached = new Set(names);
    // A set hears of what is added while it is walked.
    for (const name of reached) {
      for (const [, other] of read(name).replace(/\/\*\*.*?\*\//gs, "").matchAll(/(?:from|import|new URL\()\s*"(\.[^"]*\.js)"/g)) reached.add(join(name, "..", other));
    }
    assert.deepEqual([...reached].sort(), files.filter((file) => file.endsWith(".js")).map((file) => join(PACKAGE, file)).sort());
  });

  test("has the crate's version and its licences", () => {
    assert.equal(manifest.version, /^version = "(.*)"$/m.exec(read(ROOT, "Cargo.toml"))[1]);
    assert.equal(manifest.license, /^license = "(.*)"$/m.exec(read(ROOT, "Cargo.toml"))[1]);
    for (const file of ["LICENSE-APACHE", "LICENSE-MIT", "NOTICE"]) assert.equal(read(PACKAGE, file), read(ROOT, file));
  });

  test("has models whose files are all there", () => {
    for (const name of readdirSync(join(PACKAGE, "models"))) {
      const { components, pipeline } = JSON.parse(read(PACKAGE, "models", name, "model.json"));
      for (const { file, folder = name, bytes } of components) {
        assert.equal(statSync(join(PACKAGE, "models", folder, file)).size, bytes, file);
      }
      for (const { folder } of Object.values(pipeline.companions ?? {})) {
        assert.ok(existsSync(join(PACKAGE, "models", folder, "model.json")), folder);
      }
    }
  });
});

describe("its documentation", () => {
  const types = read(PACKAGE, "types.d.ts");
  /** Names of the members of an interface. */
  const members = (name) => {
    const [, body] = new RegExp(`^export interface ${name}\\b[^{]*\\{\\n(.*?)^\\}`, "ms").exec(types);
    return [...body.matchAll(/^  (?:readonly )?(\w+)\??[:(]/gm)].map(([, member]) => member);
  };
  const section = (heading) => {
    const [, body] = new RegExp(`^#+ ${heading}\\n(.*?)(?=^#+ |(?![^]))`, "ms").exec(readme);
    return body;
  };
  /** What the first cells of a section's tables name. */
  const rows = (heading) =>
    [...section(heading).matchAll(/^\| (`.*?`) \|/gm)].flatMap(([, cell]) => [...cell.matchAll(/`([\w.-]+)/g)].map(([, name]) => name));

  test("has every option of opening and loading, and no other", () => {
    assert.deepEqual(rows("Generator.open, Generator.load").sort(), [...members("OpenOptions"), ...members("LoadOptions")].sort());
  });

  test("has every option of drawing, and no other", () => {
    assert.deepEqual(rows("generate").sort(), [...members("DrawOptions"), ...members("ControlOptions")].sort());
  });

  test("has every attribute of the element, and no other", () => {
    const attribute = (name) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    const inherited = ["lang"];
    const readonly = ["value", "type", "form", "labels", "validity", "validationMessage", "willValidate"];
    const methods = ["checkValidity", "reportValidity", "draw", "load", "cancel", "addEventListener", "removeEventListener"];
    const own = members("PanguDrawElement").filter((name) => !readonly.includes(name) && !methods.includes(name));
    assert.deepEqual(rows("An element").sort(), [...new Set(own.map(attribute)), ...inherited].sort());
  });

  test("names every field of what is answered", () => {
    for (const name of ["LoadProgress", "StepProgress", "Insight", "Arithmetic", "Plan", "Memory", "Info", "Picture", "Pixels", "StoredModel"]) {
      for (const member of members(name)) assert.match(readme, new RegExp(`\`${member}\``), `${name}.${member}`);
    }
  });

  test("names everything that the main module exports", async () => {
    for (const name of Object.keys(await import("../../pkg/pangu-draw.js"))) assert.match(readme, new RegExp(`\`${name}\\b`), name);
    const methods = [...read(PACKAGE, "pangu-draw.d.ts").matchAll(/^    (?:static )?(\w+)\(/gm)].map(([, name]) => name);
    assert.ok(methods.includes("generate"));
    for (const name of methods.filter((name) => name !== "constructor")) assert.match(readme, new RegExp(`enerator\\.${name}\\b`), name);
  });

  test("lists every error code with its class, and no other", () => {
    const table = [...section("Errors").matchAll(/^\| `([\w-]+)` \| `(\w+)` \|/gm)].map(([, code, name]) => [code, name]);
    assert.deepEqual(Object.fromEntries(table), Object.fromEntries(Object.entries(CLASSES).map(([code, { name }]) => [code, name])));
    const [, arms] = /pub fn code.*?match self \{(.*?)\n        \}/s.exec(read(ROOT, "src/error.rs"));
    const codes = [...arms.matchAll(/=> "([\w-]+)"/g)].map(([, code]) => code);
    assert.equal(codes.length, arms.trim().split("\n").length);
    for (const code of codes) assert.ok(CLASSES[code], code);
  });
});

test("lock files fetch from npm's registry only, or from where npm is told", () => {
  const locks = execFileSync("git", ["ls-files", "*package-lock.json"], { cwd: ROOT, encoding: "utf8" }).trim().split("\n");
  assert.ok(locks.includes("tests/consumers/package-lock.json"));
  for (const lock of locks) {
    for (const { resolved = "https://registry.npmjs.org/" } of Object.values(JSON.parse(read(ROOT, lock)).packages)) {
      assert.equal(new URL(resolved).origin, "https://registry.npmjs.org", lock);
    }
  }
});
