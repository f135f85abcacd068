/** Handing a picture on: to the clipboard, and as a link. */

import { PanguDrawError } from "../engine.js";

/** Something could not be handed on: this browser cannot (`unsupported`), it may not (`denied`), or it did not (`failed`). */
export class ShareError extends PanguDrawError {}

/** @param {unknown} error */
function told(error) {
  if (error instanceof ShareError) return error;
  const denied = error instanceof DOMException && error.name === "NotAllowedError";
  return new ShareError(denied ? "denied" : "failed", String(error));
}

/** @template T @param {() => Promise<T>} work */
const attempt = (work) => work().catch((error) => Promise.reject(told(error)));

/** Puts a picture on the clipboard. Browsers write it anew there: without the texts in it. @param {Blob} png */
export const copyPicture = (png) =>
  attempt(async () => {
    if (!navigator.clipboard?.write || !globalThis.ClipboardItem) throw new ShareError("unsupported", "there is no clipboard for pictures");
    await navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
  });

/**
 * Hands a link to the device's own way of sharing, or copies it where there is none.
 *
 * @param {string} url
 * @returns {Promise<"shared" | "copied" | "left">} `left`: the user thought better of it
 */
export const shareLink = (url) =>
  attempt(async () => {
    if (navigator.share) {
      try {
        await navigator.share({ title: document.title, url });
        return "shared";
      } catch (error) {
        if (error instanceof DOMException && error.name === "AbortError") return "left";
        // Some browsers have it and share nothing; the clipboard may do.
      }
    }
    if (!navigator.clipboard?.writeText) throw new ShareError("unsupported", "there is no clipboard");
    await navigator.clipboard.writeText(url);
    return "copied";
  });
