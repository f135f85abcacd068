/** How it was drawn, for those who like to see it: the steps, the models that drew together, the downloads. */

/** @import { LoadProgress, Pixels, StepProgress } from "../types.js" */
/** @import { Key } from "./i18n.js" */

import { called } from "./cast.js";
import { paintPixels, paintSmoothly } from "./canvas.js";
import { element } from "./dom.js";
import { megabytes, number, text } from "./i18n.js";
import { Timeline } from "./timeline.js";

/** Most steps that are shown, evenly chosen where there are more. */
const FRAMES = 40;
/** Steps at which the estimates of models that draw together are shown side by side. */
const COMPARED = 4;

const ui = {
  panel: element("technique", HTMLDetailsElement),
  film: element("film", HTMLElement),
  fusion: element("fusion", HTMLElement),
  fusionList: element("fusion-list", HTMLElement),
  parts: element("timeline-parts", HTMLElement),
  cut: element("timeline-cut", HTMLElement),
};

/** What a step that is done said of itself. @typedef {StepProgress & { sigma: number }} Told */

const timeline = new Timeline();
/** @type {Told[]} */
let told = [];
let due = false;

/** @type {Record<string, Key>} */
const PARTS = {
  text: "partText",
  structure: "partStructure",
  texture: "partTexture",
  decoder: "partDecoder",
  encoder: "partEncoder",
  unet: "partUnet",
  controlnet: "partControlnet",
  picture: "partPicture",
};
/** A part's name, if the page knows its role, or what the model's author calls it. @param {string} role */
const part = (role) => (Object.hasOwn(PARTS, role) ? text(PARTS[role]) : role);

/** Hears of what arrives. @param {LoadProgress} progress */
export const hearLoad = (progress) => timeline.load(progress);

/** A drawing begins. @param {string} home the model that it is asked of */
export function begin(home) {
  told = [];
  timeline.begin(home);
}

/** Hears of a drawing's progress. @param {StepProgress} progress */
export function hearStep(progress) {
  timeline.step(progress);
  if (progress.sigma !== undefined) told.push(/** @type {Told} */ (progress));
  if (progress.sigma !== undefined || progress.stage === "decode") show();
}

/** Shows all again soon, if anybody looks; also where the language changes. */
export function show() {
  ui.panel.hidden = told.length === 0;
  if (!ui.panel.open || due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    showFilm();
    showFusion();
    showTimeline();
  });
}

/** At most `count` of `items`, evenly chosen, the first and the last among them. @template T @param {T[]} items @param {number} count */
const chosen = (items, count) =>
  items.length <= count ? items : Array.from({ length: count }, (_, i) => items[Math.round((i * (items.length - 1)) / (count - 1))]);

/** @param {string} name @param {string} [content] @param {string} [kind] */
function make(name, content = "", kind = "") {
  const made = document.createElement(name);
  made.textContent = content;
  made.className = kind;
  return made;
}

/** A small picture with words for those who do not see it. @param {Pixels} pixels @param {string} label @param {typeof paintPixels} paint */
function picture(pixels, label, paint) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.ariaLabel = label;
  paint(canvas, pixels);
  return canvas;
}

const rounded = (/** @type {number} */ sigma) => number(sigma, sigma < 1 ? 2 : 1);

function showFilm() {
  const frames = chosen(told, FRAMES);
  ui.film.replaceChildren(
    ...frames.map(({ step, sigma, expert, preview, insight }, index) => {
      const item = document.createElement("li");
      const values = { step, sigma: rounded(sigma) };
      if (insight?.noisy) item.append(picture(insight.noisy, text("filmNoisy", values), paintPixels));
      if (preview) item.append(picture(preview, text("filmEstimate", values), paintSmoothly));
      item.append(make("span", number(step, 0), "step"), make("span", `σ ${values.sigma}`));
      if (expert) item.append(make("span", text(expert), `expert ${expert}`));
      if (expert === "texture" && frames[index - 1]?.expert === "structure") {
        item.className = "switch";
        item.append(make("span", text("filmSwitch"), "unseen"));
        item.title = text("filmSwitch");
      }
      return item;
    }),
  );
}

function showFusion() {
  const together = told.filter(({ insight }) => insight && insight.estimates.length > 1);
  ui.fusion.hidden = together.length === 0;
  ui.fusionList.replaceChildren(
    ...chosen(together, COMPARED).map(({ step, insight }) => {
      const item = document.createElement("li");
      item.append(make("span", text("fusionStep", { step }), "step"));
      for (const { model, weight, picture: pixels } of insight?.estimates ?? []) {
        const values = { model: called(model), weight: number(weight, 2), step };
        const figure = make("div", "", "estimate");
        if (pixels) figure.append(picture(pixels, text("fusionEstimate", values), paintSmoothly));
        const caption = make("span");
        caption.append(make("span", values.model), " ", make("span", values.weight));
        figure.append(caption);
        item.append(figure);
      }
      return item;
    }),
  );
}

function showTimeline() {
  const chart = timeline.chart();
  if (!chart) return;
  const share = (/** @type {number} */ time) => `${Math.max(0, Math.min(100, (time / chart.length) * 100))}%`;
  /** @param {string} kind @param {Record<string, number>} places */
  const mark = (kind, places) => {
    const made = make("span", "", kind);
    for (const [name, time] of Object.entries(places)) made.style.setProperty(`--${name}`, share(time));
    return made;
  };
  /** @param {string} name @param {string[]} cells @param {HTMLElement[]} marks */
  const row = (name, cells, marks) => {
    const made = document.createElement("tr");
    const head = make("th", name);
    head.setAttribute("scope", "row");
    const lane = make("td", "", "lane");
    lane.ariaHidden = "true";
    lane.append(...marks);
    made.append(head, ...cells.map((cell) => make("td", cell)), lane);
    return made;
  };
  const seconds = (/** @type {number} */ time) => number(time, 1);
  const several = new Set(chart.parts.map(({ model }) => model)).size > 1;
  const parts = chart.parts.map(({ model, component, from, to, bytes, needed }) => {
    const came = `${seconds(from)}–${seconds(to)} (${megabytes(bytes).replace(" ", "\u00a0")})`;
    const marks = [mark("came", { from, to }), ...(needed === null ? [] : [mark("needed", { from: needed })])];
    return row(several ? `${part(component)} · ${called(model)}` : part(component), [came, needed === null ? "–" : seconds(needed)], marks);
  });
  const ticks = chart.steps.map(({ at, expert }) => mark(`beat ${expert ?? ""}`, { from: at }));
  const [first, last] = [chart.steps[0], chart.steps[chart.steps.length - 1]];
  const span = `${seconds(first.at)}–${seconds(last.at)}`;
  const steps = row(text("timelineSteps"), [text("timelineStepsOf", { steps: chart.steps.length }), span], ticks);
  ui.parts.replaceChildren(...parts, steps);
  ui.cut.hidden = chart.cut === 0;
  ui.cut.textContent = text("timelineCut", { seconds: seconds(chart.cut) });
}

ui.panel.addEventListener("toggle", show);
