/** What is worth knowing though it keeps nobody from drawing: each thing is said once, as long as it is so. */

/** @import { Generator } from "../pangu-draw.js" */
/** @import { Key } from "./i18n.js" */

import { element } from "./dom.js";
import { text } from "./i18n.js";

const list = element("notices", HTMLElement);
/** @type {Set<Key>} */
const said = new Set();

/** Says it in the language now chosen. */
export function speak() {
  list.replaceChildren(
    ...[...said].map((key) => {
      const item = document.createElement("p");
      item.className = "notice";
      item.textContent = text(key);
      return item;
    }),
  );
  list.hidden = said.size === 0;
}

/** @param {Key} key @param {boolean} so whether it is so */
export function notice(key, so) {
  if (said.has(key) === so) return;
  if (so) said.add(key);
  else said.delete(key);
  speak();
}

/** Whether the browser lets this page keep anything, in files or in a database: private windows often may not. */
async function storable() {
  try {
    await navigator.storage.getDirectory();
    if ("createWritable" in FileSystemFileHandle.prototype) return true;
  } catch {
    // There may be a database.
  }
  return new Promise((resolve) => {
    try {
      const probe = indexedDB.open("pangu-draw-probe");
      probe.onsuccess = () => {
        probe.result.close();
        indexedDB.deleteDatabase("pangu-draw-probe");
        resolve(true);
      };
      probe.onerror = () => resolve(false);
    } catch {
      resolve(false);
    }
  });
}

/** Says so if what a model has fetched will have to be fetched again. @param {Generator} generator */
export async function sayWhetherKept(generator) {
  // What cannot be found out is not said.
  const plan = await generator.plan().catch(() => undefined);
  const lost = Boolean(plan?.components.some(({ here, bytes, storedBytes }) => here && storedBytes < bytes));
  const room = lost && (await storable());
  notice("noStore", lost && !room);
  notice("noRoom", lost && room);
}
