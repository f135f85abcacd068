/** When the parts of a model came and when they were needed, on one axis with the steps of a drawing. */

/** @import { LoadProgress, StepProgress } from "../types.js" */

/** Waiting longer than this between loading and drawing is cut out of the axis, in milliseconds. */
const PATIENCE = 1000;
/** What a cut leaves of it. */
const CUT = 300;

/** @typedef {{ model: string, component: string, from: number, to: number, bytes: number }} Arrival Milliseconds of the page's clock. */
/** @typedef {{ at: number, expert: "structure" | "texture" | null }} Mark When a step was finished. */
/**
 * What a timeline shows: times in seconds from the left end, after the cut; `needed` is null for what the drawing did without.
 *
 * @typedef {object} Chart
 * @property {(Arrival & { needed: number | null })[]} parts
 * @property {Mark[]} steps
 * @property {number} length
 * @property {number} cut Seconds that are cut out.
 */

export class Timeline {
  /** By model and component: models have parts of the same role. @type {Map<string, Arrival>} */
  #arrivals = new Map();
  /** When the drawing began, when its first step did, and when the picture was decoded. */
  #began = 0;
  #denoised = 0;
  #decoded = 0;
  /** @type {Mark[]} */
  #steps = [];
  /** The model that the drawing is asked of, and those that draw along. */
  #home = "";
  /** @type {Set<string>} */
  #along = new Set();

  /** @param {LoadProgress} progress @param {number} [now] */
  load({ model = "", component, componentLoaded }, now = performance.now()) {
    const key = JSON.stringify([model, component]);
    const known = this.#arrivals.get(key);
    if (!known) this.#arrivals.set(key, { model, component, from: now, to: now, bytes: componentLoaded });
    else if (componentLoaded > known.bytes) Object.assign(known, { to: now, bytes: componentLoaded });
  }

  /** A drawing begins. @param {string} home the model that it is asked of @param {number} [now] */
  begin(home, now = performance.now()) {
    this.#began = now;
    this.#home = home;
    this.#along = new Set();
    this.#denoised = this.#decoded = 0;
    this.#steps = [];
  }

  /** @param {StepProgress} progress @param {number} [now] */
  step({ stage, sigma, expert = null, insight }, now = performance.now()) {
    for (const { model } of insight?.estimates ?? []) if (model !== this.#home) this.#along.add(model);
    if (stage !== "text") this.#denoised ||= now;
    if (sigma !== undefined) this.#steps.push({ at: now, expert });
    if (stage === "decode") this.#decoded ||= now;
  }

  /** When the first step of the texture expert began, or 0. */
  get #textured() {
    const first = this.#steps.findIndex(({ expert }) => expert === "texture");
    return first < 0 ? 0 : (this.#steps[first - 1]?.at ?? this.#denoised);
  }

  /** Whether models draw together that have decoders of their own: they meet in pixels, at every step. */
  get #apart() {
    return [...this.#arrivals.values()].some(({ model, component }) => component === "decoder" && this.#along.has(model));
  }

  /** When a part was needed, or 0. @param {Arrival} arrival */
  #needed({ model, component }) {
    if (model && model !== this.#home && !this.#along.has(model)) return 0;
    if (component === "texture") return this.#textured;
    if (/^(text|picture)/.test(component)) return this.#began;
    if (component === "decoder" && !this.#apart) return this.#decoded;
    if (component === "encoder" && !this.#apart) return 0;
    return this.#denoised;
  }

  /** What there is to show; nothing before the first step. @returns {Chart | undefined} */
  chart() {
    if (this.#steps.length === 0) return undefined;
    const arrivals = [...this.#arrivals.values()];
    const before = arrivals.flatMap(({ from, to }) => [from, to]).filter((time) => time < this.#began);
    const start = Math.min(this.#began, ...before);
    const idle = before.length > 0 ? this.#began - Math.max(...before) : 0;
    const cut = idle > PATIENCE ? idle - CUT : 0;
    const seconds = (/** @type {number} */ time) => (time - start - (time >= this.#began ? cut : 0)) / 1000;
    const end = Math.max(this.#decoded, ...this.#steps.map(({ at }) => at), ...arrivals.map(({ to }) => to));
    return {
      parts: arrivals.map((arrival) => {
        const needed = this.#needed(arrival);
        return { ...arrival, from: seconds(arrival.from), to: seconds(arrival.to), needed: needed ? seconds(needed) : null };
      }),
      steps: this.#steps.map(({ at, expert }) => ({ at: seconds(at), expert })),
      length: Math.max(seconds(end), 1e-3),
      cut: cut / 1000,
    };
  }
}
