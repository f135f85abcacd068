/** The models that draw, by names that a reader understands: what they are here for, not what their files are called. */

/** @import { ControlKind, DrawOptions } from "../types.js" */
/** @import { Generator } from "../pangu-draw.js" */
/** @import { Key } from "./i18n.js" */

import { text } from "./i18n.js";

/** The page's own model. */
export const DEFAULT_MODEL = "models/default/";
/** What draws along with it, by the control that it serves. @type {Record<ControlKind, Key>} */
const COMPANIONS = { outline: "companionOutline", variation: "companionVariation" };

/** What the page calls a model, by the name in its manifest. @type {Map<string, Key>} */
const known = new Map();

/**
 * Learns which models draw a request. Of somebody's own model the name says more than the page could.
 *
 * @param {Generator} generator
 * @param {Pick<DrawOptions, "controls" | "draft">} options
 */
export async function meet(generator, { controls = [], draft }) {
  const { model: home, url } = generator.info();
  if (url === new URL(DEFAULT_MODEL, document.baseURI).href) known.set(home, "defaultModel");
  for (const kind of new Set([...controls.map(({ kind }) => kind), draft])) {
    if (!kind || [...known.values()].includes(COMPANIONS[kind])) continue;
    // Only a companion can be asked for a draft; what cannot be found out is called by its name.
    const { components } = await generator.plan({ draft: kind }).catch(() => ({ components: [] }));
    const companion = components.find(({ model }) => model !== home)?.model;
    if (companion !== undefined) known.set(companion, COMPANIONS[kind]);
  }
}

/** @param {string} model */
export function called(model) {
  const key = known.get(model);
  return key ? text(key) : model;
}
