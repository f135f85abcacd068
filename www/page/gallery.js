/** The history on the page: pictures drawn before, how one finds them again, and what the browser says when it keeps none. */

/** @import { Entry } from "./history.js" */
/** @import { Key } from "./i18n.js" */
/** @import { Recipe } from "./recipe.js" */
/** @import { Drawn } from "./strip.js" */

import { History, HistoryError, search } from "./history.js";
import { answered, element } from "./dom.js";
import { megabytes, number, text } from "./i18n.js";
import { chunks, sides } from "./png.js";
import { pixelsOf } from "./canvas.js";
import { fromFile } from "./recipe.js";
import { scale } from "./stickers.js";

/** Pictures that are shown at once; more on request. */
const PAGE = 48;
/** Longest side of a small picture. */
const THUMB = 160;
/** Most pixels of a picture that is opened. */
const MOST_PIXELS = 5e7;

const ui = {
  count: element("album-count", HTMLElement),
  tools: element("album-tools", HTMLElement),
  search: element("album-search", HTMLInputElement),
  filter: element("album-filter", HTMLSelectElement),
  note: element("album-note", HTMLElement),
  noteText: element("album-note-text", HTMLElement),
  undo: element("album-undo", HTMLButtonElement),
  list: element("album-list", HTMLElement),
  none: element("album-none", HTMLElement),
  more: element("album-more", HTMLButtonElement),
  empty: element("album-empty", HTMLElement),
  clear: element("album-clear", HTMLButtonElement),
  dialog: element("clear", HTMLDialogElement),
  question: element("clear-title", HTMLElement),
  agree: element("clear-agree", HTMLButtonElement),
  back: element("clear-back", HTMLButtonElement),
};

const opened = History.open();
/** Newest first. @type {Entry[]} */
let entries = [];
/** Keys of what the browser keeps and nobody can read. @type {number[]} */
let damaged = [];
let limit = PAGE;
/** Key of the picture on show. @type {number | undefined} */
let shownId;
/** @type {(drawn: Drawn) => void} */
let show = () => {};
/** Addresses of the small pictures on the page, by key. @type {Map<number, string>} */
const thumbs = new Map();
/** Says again, in the language now chosen, what was said last. @type {() => void} */
let sayNote = () => {};
/** Takes back what was done last. @type {(() => Promise<unknown>) | undefined} */
let undo;

/** @param {Key} [key] @param {() => Record<string, string | number>} [values] @param {() => Promise<unknown>} [back] */
function note(key, values = () => ({}), back) {
  sayNote = () => (ui.noteText.textContent = key ? text(key, values()) : "");
  sayNote();
  undo = back;
  ui.undo.hidden = !back;
  ui.note.hidden = !key;
}

/** Runs what the browser may refuse; its refusal is told, and breaks nothing. @param {() => Promise<unknown>} work */
async function attempt(work) {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof HistoryError)) throw error;
    /** @type {Record<string, Key>} */
    const keys = { full: "albumFull", missing: "albumMissing", damaged: "albumDamaged" };
    note(keys[error.code] ?? "albumBlocked");
  }
}

/** Reads what is kept, and shows it. */
const refresh = () =>
  attempt(async () => {
    const history = await opened;
    ({ entries, damaged } = await history.list());
    if (history.blocked) note("albumBlocked");
    else if (damaged.length > 0) {
      note("albumUnreadable", () => ({ count: damaged.length }), async () => {
        await history.remove(damaged);
        note();
      });
      ui.undo.textContent = text("remove");
    }
    for (const [id, url] of thumbs) {
      if (entries.some((entry) => entry.id === id)) continue;
      URL.revokeObjectURL(url);
      thumbs.delete(id);
    }
    paint();
  });

/** Those that the search and the filter let through. */
function found() {
  const { value } = ui.filter;
  const filtered = entries.filter((entry) => value === "all" || entry[/** @type {"starred" | "steered" | "opened"} */ (value)]);
  return search(filtered, ui.search.value.trim());
}

function paint() {
  const hits = found();
  const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.id : undefined;
  ui.list.replaceChildren(...hits.slice(0, limit).map(small));
  if (focused) /** @type {HTMLElement | null} */ (ui.list.querySelector(`[data-id="${focused}"]`))?.focus();
  ui.empty.hidden = entries.length > 0;
  ui.tools.hidden = ui.count.hidden = entries.length === 0;
  ui.clear.hidden = entries.length === 0;
  ui.none.hidden = entries.length === 0 || hits.length > 0;
  ui.more.hidden = hits.length <= limit;
  speak();
}

/** A small picture that shows itself large when it is pressed. @param {Entry} entry */
function small({ id, starred, opened = false, prompt }) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const image = document.createElement("img");
  button.type = "button";
  button.dataset.id = String(id);
  button.dataset.prompt = prompt;
  button.classList.toggle("starred", starred);
  button.classList.toggle("opened", opened);
  button.ariaCurrent = String(id === shownId);
  button.onclick = () => open(id);
  image.alt = "";
  image.loading = "lazy";
  paintThumb(id, image);
  button.append(image);
  item.append(button);
  return item;
}

/** @param {number} id @param {HTMLImageElement} image */
async function paintThumb(id, image) {
  try {
    const url = thumbs.get(id) ?? URL.createObjectURL(new Blob([await (await opened).thumb(id)]));
    thumbs.set(id, url);
    image.src = url;
  } catch {
    // Its place stays empty; a press on it tells why.
  }
}

/** @param {Entry} entry @param {ArrayBuffer} file @returns {Drawn} */
function drawnFrom({ id, starred, prompt, seed, width, height }, file) {
  const png = new Blob([file], { type: "image/png" });
  return { id, starred, prompt, seed, width, height, png, url: URL.createObjectURL(png) };
}

/** Shows a kept picture large. @param {number} id */
const open = (id) =>
  attempt(async () => {
    const entry = entries.find((entry) => entry.id === id);
    if (!entry) return;
    try {
      const file = await (await opened).file(id);
      // What cannot be read as the file it was cannot be shown either.
      await fromFile(new Blob([file])).catch(() => Promise.reject(new HistoryError("damaged", "the file is damaged")));
      show(drawnFrom(entry, file));
    } catch (error) {
      if (error instanceof HistoryError && error.code === "missing") await refresh();
      if (!(error instanceof HistoryError) || error.code === "blocked") throw error;
      note(error.code === "missing" ? "albumMissing" : "albumDamaged", undefined, async () => {
        await (await opened).remove([id]);
        note();
      });
      ui.undo.textContent = text("remove");
    }
  });

/** A small version of a picture, as a file. @param {Blob} png */
async function thumbnail(png) {
  const pixels = await pixelsOf(png);
  const { width, height } = pixels;
  const ratio = Math.min(1, THUMB / Math.max(width, height));
  const [across, down] = [width, height].map((side) => Math.max(1, Math.round(side * ratio)));
  const { rgba } = ratio < 1 ? scale(pixels, { left: 0, top: 0, width, height }, across, down) : pixels;
  const canvas = new OffscreenCanvas(across, down);
  canvas.getContext("2d")?.putImageData(new ImageData(rgba, across, down), 0, 0);
  return (await canvas.convertToBlob()).arrayBuffer();
}

/**
 * The picture in a file that was opened; nothing, if it cannot be shown.
 *
 * @param {Blob} file
 * @param {Recipe} recipe what the file says of how it was drawn
 * @returns {Promise<Drawn | undefined>}
 */
export async function read(file, { prompt = "", seed }) {
  try {
    const bytes = new Uint8Array(await file.arrayBuffer());
    const { width, height } = sides(chunks(bytes));
    if (width * height > MOST_PIXELS) throw new RangeError(`${width} x ${height} pixels`);
    // A copy: the file on the disk may be gone when it is wanted again.
    const png = new Blob([bytes], { type: "image/png" });
    (await createImageBitmap(png)).close();
    return { prompt, seed, width, height, png, url: URL.createObjectURL(png) };
  } catch {
    note("openedUnseen");
    return undefined;
  }
}

/** The kept picture that is the same to the byte. @param {History} history @param {Drawn} drawn @param {ArrayBuffer} file */
async function twin(history, drawn, file) {
  const bytes = new Uint8Array(file);
  const { entries } = await history.list();
  for (const entry of entries) {
    if ((/** @type {const} */ (["prompt", "seed", "width", "height"])).some((name) => entry[name] !== drawn[name])) continue;
    const kept = await history.file(entry.id).catch(() => new ArrayBuffer(0));
    if (kept.byteLength === bytes.length && new Uint8Array(kept).every((byte, at) => byte === bytes[at])) return entry;
  }
  return undefined;
}

/** Ends when what came before is kept: the same file may be opened twice in a row. @type {Promise<unknown>} */
let keeping = Promise.resolve();

/**
 * Keeps a finished picture, and gives it its key. What was opened is kept once.
 *
 * @param {Drawn} drawn
 * @param {{ steered: boolean, words: string, opened?: boolean }} about `words`: what a search looks through
 */
export function keep(drawn, { steered, words, opened: was = false }) {
  const kept = keeping.then(() =>
    attempt(async () => {
      const history = await opened;
      const { prompt, seed, width, height, png } = drawn;
      const file = await png.arrayBuffer();
      const before = was ? await twin(history, drawn, file) : undefined;
      const entry = { time: Date.now(), starred: false, steered, opened: was, prompt, words, seed, width, height };
      const { id, starred } = before ?? (await history.keep(entry, { file, thumb: await thumbnail(png) }));
      Object.assign(drawn, { id, starred });
      note();
      await refresh();
    }),
  );
  keeping = kept.catch(() => {});
  return kept;
}

/** Gives a picture a star, or takes it. @param {Drawn} drawn */
export const star = (drawn) =>
  attempt(async () => {
    const entry = entries.find(({ id }) => id === drawn.id);
    if (!entry) throw new HistoryError("missing", "the picture is not kept");
    await (await opened).update({ ...entry, starred: !entry.starred });
    drawn.starred = !entry.starred;
    await refresh();
  });

/** Deletes a picture, with a way back. @param {Drawn} drawn */
export const remove = (drawn) =>
  attempt(async () => {
    const history = await opened;
    const entry = entries.find(({ id }) => id === drawn.id);
    if (!entry) throw new HistoryError("missing", "the picture is not kept");
    const files = await Promise.all([history.file(entry.id), history.thumb(entry.id)]).catch(() => undefined);
    await history.remove([entry.id]);
    const back = files && (async () => {
      await history.keep(entry, { file: files[0], thumb: files[1] });
      note();
    });
    drawn.id = undefined;
    await refresh();
    note("albumDeleted", () => ({ prompt: entry.prompt }), back);
    ui.undo.textContent = text("undo");
    ui.undo.focus();
  });

/** Says which picture is on show. @param {Drawn | undefined} drawn */
export function mark(drawn) {
  shownId = drawn?.id;
  for (const button of ui.list.querySelectorAll("button")) button.ariaCurrent = String(button.dataset.id === String(shownId));
}

/** Says everything in the language now chosen. */
export function speak() {
  const hits = found();
  ui.count.textContent = text(hits.length === entries.length ? "albumCount" : "albumHits", {
    hits: number(hits.length, 0),
    count: number(entries.length, 0),
    size: megabytes(entries.reduce((sum, { bytes }) => sum + bytes, 0)),
  });
  for (const button of ui.list.querySelectorAll("button")) {
    const marks = (/** @type {const} */ (["starred", "opened"])).filter((mark) => button.classList.contains(mark));
    const said = marks.map((mark) => text(mark === "starred" ? "recallStarred" : "recallOpened")).join("");
    button.setAttribute("aria-label", text("recall", { marks: said, prompt: button.dataset.prompt ?? "" }));
    button.title = marks.includes("opened") ? text("openedFile") : "";
  }
  sayNote();
}

/** Asks, then deletes everything. */
const clear = () =>
  attempt(async () => {
    const starred = entries.filter(({ starred }) => starred).length;
    ui.question.textContent = text(starred > 0 ? "albumClearStarred" : "albumClearAll", { count: number(entries.length, 0), starred: number(starred, 0) });
    if (!(await answered(ui.dialog, ui.agree))) return;
    const history = await opened;
    await history.remove([...entries.map(({ id }) => id), ...damaged]);
    note("albumCleared");
    await refresh();
  });

/** The gallery shows pictures with `take`. @param {(drawn: Drawn) => void} take */
export function start(take) {
  show = take;
  for (const [control, event] of /** @type {const} */ ([[ui.search, "input"], [ui.filter, "change"]])) {
    control.addEventListener(event, () => {
      limit = PAGE;
      paint();
    });
  }
  ui.more.onclick = () => {
    const next = limit;
    limit += PAGE;
    paint();
    ui.list.children[next]?.querySelector("button")?.focus();
  };
  ui.clear.onclick = clear;
  ui.back.onclick = () => ui.dialog.close();
  ui.undo.onclick = () =>
    attempt(async () => {
      await undo?.();
      await refresh();
      (ui.list.querySelector("button") ?? ui.search).focus();
    });
  // Another tab may have drawn meanwhile.
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && refresh());
  refresh();
}
