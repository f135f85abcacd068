/** What can be done with the picture on show: a quiet row below it, and a second one on request. */

/** @import { Found } from "./recipe.js" */
/** @import { Drawn } from "./strip.js" */
/** @import { Key } from "./i18n.js" */
/** @import { Format, Type } from "./stickers.js" */

import { copyPicture, ShareError, shareLink } from "./share.js";
import { FORMATS, StickerError, encode, paint, writesWebp } from "./stickers.js";
import { element } from "./dom.js";
import { fromFile, toLink } from "./recipe.js";
import { number, text } from "./i18n.js";
import { pixelsOf } from "./canvas.js";
import * as gallery from "./gallery.js";
import * as strip from "./strip.js";

const ui = {
  caption: element("caption", HTMLElement),
  words: element("caption-words", HTMLElement),
  star: element("star", HTMLButtonElement),
  seed: element("seed", HTMLInputElement),
  keepSeed: element("keep-seed", HTMLButtonElement),
  download: element("download", HTMLAnchorElement),
  more: element("more", HTMLButtonElement),
  moreTools: element("more-tools", HTMLElement),
  take: element("take", HTMLButtonElement),
  against: element("against", HTMLButtonElement),
  sticker: element("make-sticker", HTMLButtonElement),
  copy: element("copy", HTMLButtonElement),
  share: element("share", HTMLButtonElement),
  remove: element("remove", HTMLButtonElement),
  said: element("said", HTMLElement),
  dialog: element("sticker", HTMLDialogElement),
  format: element("sticker-format", HTMLSelectElement),
  type: element("sticker-type", HTMLSelectElement),
  rim: element("sticker-rim", HTMLInputElement),
  preview: element("sticker-preview", HTMLImageElement),
  size: element("sticker-size", HTMLElement),
  save: element("sticker-save", HTMLAnchorElement),
  close: element("sticker-close", HTMLButtonElement),
};

/** The picture on show. @type {Drawn | undefined} */
let shown;
/** @type {(found: Found) => unknown} */
let take = () => {};
/** Says again, in the language now chosen, what was said last. @type {() => void} */
let saySaid = () => {};

/** @param {Key} [key] @param {string} [link] something to copy by hand */
function say(key, link) {
  saySaid = () => {
    ui.said.textContent = key ? text(key) : "";
    if (!link) return;
    const address = Object.assign(document.createElement("a"), { href: link, textContent: link });
    ui.said.append(" ", address);
  };
  saySaid();
  ui.said.hidden = !key;
}

/** A file's name that says what is in it. @param {Drawn} drawn @param {string} ending */
const fileName = ({ prompt, seed }, ending) =>
  [prompt.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60), seed].filter((part) => part !== undefined).join("-") + ending;

/** Shows what can be done with a picture. @param {Drawn} drawn */
export function offer(drawn) {
  if (shown !== drawn) say();
  shown = drawn;
  ui.words.textContent = drawn.prompt;
  ui.keepSeed.hidden = drawn.seed === undefined;
  ui.keepSeed.textContent = text("keepSeed", { seed: drawn.seed ?? "" });
  ui.download.href = drawn.url;
  ui.download.download = fileName(drawn, ".png");
  ui.star.hidden = ui.remove.hidden = drawn.id === undefined;
  ui.star.textContent = text(drawn.starred ? "starred" : "star");
  ui.star.ariaPressed = String(Boolean(drawn.starred));
  ui.caption.hidden = false;
}

/** Says everything in the language now chosen. */
export function speak() {
  if (shown) offer(shown);
  saySaid();
}

/** What the picture on show was drawn from. */
const recipe = async () => (shown ? await fromFile(shown.png) : undefined);

/** @param {Key} done @param {() => Promise<unknown>} work @param {string} [link] */
async function handOn(done, work, link) {
  try {
    const outcome = await work();
    if (outcome !== "left" && outcome !== "shared") say(done);
  } catch (error) {
    if (!(error instanceof ShareError)) throw error;
    /** @type {Record<string, Key>} */
    const keys = { unsupported: "shareUnsupported", denied: "shareDenied" };
    say(keys[error.code] ?? "shareFailed", link);
  }
}

/** The link that fills the form elsewhere. */
async function link() {
  const { href } = location;
  const address = new URL(href);
  const model = address.searchParams.get("model");
  address.search = model ? String(new URLSearchParams({ model })) : "";
  address.hash = toLink((await recipe())?.recipe ?? {});
  return address.href;
}

/** Stickers begun: only the newest is shown. */
let begun = 0;

/** Draws the sticker as the dialog has it. */
async function drawSticker() {
  if (!shown) return;
  const drawn = shown;
  const turn = ++begun;
  /** @type {Format} */
  const { types, most, ...format } = FORMATS[/** @type {keyof typeof FORMATS} */ (ui.format.value)];
  const webp = await writesWebp();
  const possible = types.filter((type) => webp || type !== "image/webp");
  const offered = possible.length > 0 ? possible : /** @type {Type[]} */ (["image/png"]);
  const chosen = offered.includes(/** @type {Type} */ (ui.type.value)) ? ui.type.value : offered[0];
  ui.type.replaceChildren(...offered.map((type) => new Option(type === "image/webp" ? "WebP" : "PNG", type)));
  ui.type.value = chosen;
  ui.save.hidden = true;
  try {
    const canvas = paint(await pixelsOf(drawn.png), { ...format, types, most }, ui.rim.checked);
    // A PNG instead of the WebP that this browser does not write is no sticker for that messenger, but a start.
    const file = await encode(canvas, /** @type {Type} */ (chosen), possible.length > 0 ? most : Infinity);
    if (turn !== begun) return;
    URL.revokeObjectURL(ui.preview.src);
    ui.preview.src = ui.save.href = URL.createObjectURL(file);
    ui.preview.alt = drawn.prompt;
    ui.save.download = fileName(drawn, `-${ui.format.value}.${chosen === "image/webp" ? "webp" : "png"}`);
    ui.save.hidden = false;
    const size = text("stickerSize", { width: canvas.width, height: canvas.height, kilobytes: number(file.size / 1000, 1) });
    ui.size.textContent = possible.length === types.length ? size : `${size}${text("space")}${text("stickerNoWebp")}`;
  } catch (error) {
    if (!(error instanceof StickerError)) throw error;
    ui.preview.removeAttribute("src");
    ui.size.textContent = text(error.code === "empty" ? "stickerEmpty" : error.code === "too-large" ? "stickerLarge" : "stickerNoWebp");
  }
}

/**
 * The row acts: `fill` takes a recipe into the form.
 *
 * @param {(found: Found) => unknown} fill
 * @param {(drawn: Drawn) => void} removed hears that the picture on show is deleted
 */
export function start(fill, removed) {
  take = fill;
  ui.keepSeed.onclick = () => shown && (ui.seed.value = String(shown.seed ?? ""));
  ui.more.onclick = () => {
    ui.moreTools.hidden = !ui.moreTools.hidden;
    ui.more.ariaExpanded = String(!ui.moreTools.hidden);
  };
  ui.star.onclick = async () => {
    const drawn = shown;
    if (!drawn) return;
    await gallery.star(drawn);
    if (drawn === shown) offer(drawn);
  };
  ui.take.onclick = async () => {
    const found = await recipe();
    if (found) take(found);
  };
  ui.against.onclick = () => {
    if (!shown) return;
    ui.seed.value = String(shown.seed ?? "");
    strip.keep(shown);
  };
  ui.copy.onclick = () => handOn("copied", async () => shown && copyPicture(shown.png));
  ui.share.onclick = async () => {
    const address = await link();
    await handOn("linkCopied", () => shareLink(address), address);
  };
  ui.remove.onclick = async () => {
    const drawn = shown;
    if (!drawn) return;
    await gallery.remove(drawn);
    removed(drawn);
  };
  ui.sticker.onclick = async () => {
    ui.dialog.showModal();
    await drawSticker();
  };
  for (const control of [ui.format, ui.type, ui.rim]) control.addEventListener("change", drawSticker);
  ui.close.onclick = () => ui.dialog.close();
  ui.dialog.addEventListener("close", () => {
    URL.revokeObjectURL(ui.preview.src);
    ui.preview.removeAttribute("src");
  });
}
