/** Builds this app as `webpack --mode production` does, and puts its static files beside. */

import { cpSync } from "node:fs";
import webpack from "webpack";

const context = import.meta.dirname;
const output = { path: `${context}/dist`, clean: true };
// The hints are about the size of the engine, which no page waits for.
webpack({ mode: "production", context, entry: "./main.js", output, performance: { hints: false } }, (error, stats) => {
  if (error || stats.hasErrors() || stats.hasWarnings()) throw error ?? new Error(stats.toString("errors-warnings"));
  cpSync(`${context}/public`, `${context}/dist`, { recursive: true });
});
