/** Keeps the page in the browser, so that it opens without a network, and offers new versions of it. */

import { element } from "./dom.js";
import { text } from "./i18n.js";

const ui = {
  news: element("news", HTMLElement),
  words: element("news-words", HTMLElement),
  reload: element("news-reload", HTMLButtonElement),
};

/** Says again, in the language now chosen, what there is to say about a new version. */
export let speak = () => {};

/** @param {"update" | "updateOthers"} key */
function say(key) {
  speak = () => (ui.words.textContent = text(key));
  speak();
  ui.news.hidden = false;
}

/** Offers the version that waits; it is taken when somebody asks for it, or when no page is open any more. @param {ServiceWorker} waiting */
function offer(waiting) {
  say("update");
  ui.reload.onclick = () => {
    navigator.serviceWorker.oncontrollerchange = () => location.reload();
    waiting.postMessage("take over");
  };
}

/** Installs the service worker that keeps the page, where the browser has such a thing. */
export async function keep() {
  const { serviceWorker } = navigator;
  // Absent in insecure pages, and in some private windows. A page of an old version is no reason to fail.
  const registration = await serviceWorker?.register("sw.js", { updateViaCache: "none" }).catch(() => undefined);
  if (!registration) return;
  serviceWorker.addEventListener("message", ({ data }) => data === "others" && say("updateOthers"));
  const look = () => {
    // Without a controller this is the first visit: nothing is old.
    if (registration.waiting && serviceWorker.controller) offer(registration.waiting);
  };
  look();
  registration.addEventListener("updatefound", () => registration.installing?.addEventListener("statechange", look));
}
