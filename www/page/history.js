/** Finished pictures, kept in the browser: their files, which know how they were drawn, and what is needed to find them. */

import { PanguDrawError } from "../engine.js";

/**
 * A kept picture without its file. `words` is what a search looks through; `opened` ones came as a file, which need not name a seed.
 *
 * @typedef {{ id: number, time: number, starred: boolean, steered: boolean, opened?: boolean, prompt: string, words: string, seed?: number, width: number, height: number, bytes: number }} Entry
 */
/** @typedef {{ file: ArrayBuffer, thumb: ArrayBuffer }} Files */
/** What can be put back. @typedef {{ entry: Entry, files: Files }} Removed */

/**
 * Pictures cannot be kept: the browser allows no storage (`blocked`), there is no room (`full`); or one cannot be had: it is gone
 * (`missing`) or broken (`damaged`).
 */
export class HistoryError extends PanguDrawError {}

/** Most pictures, and most bytes of them. */
const LIMITS = { count: 1000, bytes: 2 ** 28 };
/** Where the browser keeps them. */
const NAME = "pangu-draw-pictures";
/** Small pictures lie apart, so that a page of them is read without the files. */
const STORES = /** @type {const} */ (["entries", "files", "thumbs"]);
/** @typedef {Record<typeof STORES[number], IDBObjectStore>} Stores */

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
const answer = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/** An error in this module's words. @param {unknown} error */
const told = (error) => {
  if (error instanceof HistoryError) return error;
  const full = error instanceof DOMException && error.name === "QuotaExceededError";
  return new HistoryError(full ? "full" : "blocked", `the browser does not keep pictures: ${error}`);
};

/** @param {unknown} value @returns {value is Entry} */
function isEntry(value) {
  const entry = /** @type {Partial<Record<keyof Entry, unknown>>} */ (value ?? {});
  const numbers = [entry.id, entry.time, entry.seed ?? 0, entry.width, entry.height, entry.bytes];
  return (
    numbers.every((number) => Number.isSafeInteger(number)) &&
    [entry.starred, entry.steered, entry.opened ?? false].every((flag) => typeof flag === "boolean") &&
    [entry.prompt, entry.words].every((text) => typeof text === "string")
  );
}

/** One spelling of what people write in several: full and half width, large and small letters. @param {string} text */
const fold = (text) => text.normalize("NFKC").toLowerCase();

/** The entries in which all words occur. Chinese needs no spaces between them. @param {Entry[]} entries @param {string} query */
export function search(entries, query) {
  const terms = fold(query).split(/\s+/);
  return entries.filter(({ words }) => terms.every((term) => fold(words).includes(term)));
}

/** Where pictures are kept while the browser keeps none: in this tab. It does what {@link Stored} does. */
class Unstored {
  /** @type {Map<number, Removed>} */
  #kept = new Map();
  #last = 0;

  async all() {
    return [...this.#kept.values()].map(({ entry }) => entry);
  }

  /** @param {number} id */
  async file(id) {
    return this.#kept.get(id)?.files.file;
  }

  /** @param {number} id */
  async thumb(id) {
    return this.#kept.get(id)?.files.thumb;
  }

  /** @param {Omit<Entry, "id"> & { id?: number }} entry @param {Files | undefined} files @param {number[]} surplus */
  async put(entry, files, surplus) {
    for (const id of surplus) this.#kept.delete(id);
    const id = entry.id ?? ++this.#last;
    const kept = files ?? this.#kept.get(id)?.files;
    if (kept) this.#kept.set(id, { entry: { ...entry, id }, files: kept });
    return id;
  }

  /** @param {number[]} ids */
  async remove(ids) {
    for (const id of ids) this.#kept.delete(id);
  }
}

/** Pictures in the browser's database. */
class Stored {
  #name;
  /** @type {IDBDatabase | undefined} */
  #database;

  /** @param {string} name */
  constructor(name) {
    this.#name = name;
  }

  /** The database; again, if the browser has closed it meanwhile. */
  async open() {
    if (this.#database) return this.#database;
    const request = indexedDB.open(this.#name, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("entries", { keyPath: "id", autoIncrement: true });
      request.result.createObjectStore("files");
      request.result.createObjectStore("thumbs");
    };
    const database = await answer(request);
    database.onversionchange = () => database.close();
    database.onclose = () => (this.#database = undefined);
    return (this.#database = database);
  }

  /**
   * Runs one transaction; all of it happens, or nothing.
   *
   * @template T
   * @param {IDBTransactionMode} mode
   * @param {(stores: Stores) => Promise<T>} work
   */
  async #run(mode, work) {
    const transaction = (await this.open()).transaction(STORES, mode);
    const ended = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
    ended.catch(() => {});
    const stores = /** @type {Stores} */ (Object.fromEntries(STORES.map((name) => [name, transaction.objectStore(name)])));
    try {
      const result = await work(stores);
      await ended;
      return result;
    } catch (error) {
      if (transaction.error === null) transaction.abort();
      throw error;
    }
  }

  /** @returns {Promise<unknown[]>} */
  all() {
    return this.#run("readonly", ({ entries }) => answer(entries.getAll()));
  }

  /** @param {number} id @returns {Promise<unknown>} */
  file(id) {
    return this.#run("readonly", ({ files }) => answer(files.get(id)));
  }

  /** @param {number} id @returns {Promise<unknown>} */
  thumb(id) {
    return this.#run("readonly", ({ thumbs }) => answer(thumbs.get(id)));
  }

  /** @param {Omit<Entry, "id"> & { id?: number }} entry @param {Files | undefined} kept @param {number[]} surplus */
  put(entry, kept, surplus) {
    return this.#run("readwrite", async (stores) => {
      for (const id of surplus) for (const name of STORES) stores[name].delete(id);
      // Another tab may have deleted what is changed here.
      if (!kept && (await answer(stores.entries.getKey(Number(entry.id)))) === undefined) return NaN;
      const id = Number(await answer(stores.entries.put(entry)));
      if (kept) {
        stores.thumbs.put(kept.thumb, id);
        await answer(stores.files.put(kept.file, id));
      }
      return id;
    });
  }

  /** @param {number[]} ids */
  remove(ids) {
    return this.#run("readwrite", async (stores) => {
      for (const id of ids) for (const name of STORES) stores[name].delete(id);
    });
  }
}

export class History {
  #limits;
  #store;
  /** Why nothing outlives the tab, if so. @type {HistoryError | undefined} */
  blocked;

  /** @param {Stored | Unstored} store @param {typeof LIMITS} limits */
  constructor(store, limits) {
    this.#store = store;
    this.#limits = limits;
  }

  /** What the browser keeps; what this tab keeps, if the browser keeps nothing. */
  static async open({ name = NAME, limits = LIMITS } = {}) {
    try {
      const store = new Stored(name);
      await store.open();
      return new History(store, limits);
    } catch (error) {
      return Object.assign(new History(new Unstored(), limits), { blocked: told(error) });
    }
  }

  /** Newest first, and the keys of what cannot be read. @returns {Promise<{ entries: Entry[], damaged: number[] }>} */
  async list() {
    try {
      const all = await this.#store.all();
      const entries = all.filter(isEntry).sort((a, b) => b.time - a.time || b.id - a.id);
      const damaged = all.filter((value) => !isEntry(value)).map((value) => /** @type {any} */ (value).id);
      return { entries, damaged };
    } catch (error) {
      throw told(error);
    }
  }

  /**
   * Keeps a picture; the oldest that have no star go where there is no room.
   *
   * @param {Omit<Entry, "id" | "bytes"> & { id?: number }} entry
   * @param {Files} files
   * @returns {Promise<Entry>}
   */
  async keep(entry, files) {
    const bytes = files.file.byteLength + files.thumb.byteLength;
    const { entries } = await this.list();
    const oldest = entries.filter(({ starred }) => !starred).reverse();
    let [count, sum] = [entries.length + 1, bytes + entries.reduce((sum, { bytes }) => sum + bytes, 0)];
    /** @type {number[]} */
    const surplus = [];
    const drop = () => {
      const dropped = oldest.shift();
      if (!dropped) throw new HistoryError("full", "every kept picture has a star, and there is no room for more");
      surplus.push(dropped.id);
      [count, sum] = [count - 1, sum - dropped.bytes];
    };
    while (count > this.#limits.count || sum > this.#limits.bytes) drop();
    for (;;) {
      try {
        const id = await this.#store.put({ ...entry, bytes }, files, surplus);
        return { ...entry, bytes, id };
      } catch (error) {
        const why = told(error);
        if (why.code !== "full") throw why;
        // The browser's own bound may be lower. A few at once: it counts roughly.
        for (let few = 0; few < 8 && (few === 0 || oldest.length > 0); few++) drop();
      }
    }
  }

  /** A picture's file. @param {number} id @returns {Promise<ArrayBuffer>} */
  async file(id) {
    return this.#bytes(await this.#store.file(id).catch((error) => Promise.reject(told(error))));
  }

  /** A picture's small version. @param {number} id @returns {Promise<ArrayBuffer>} */
  async thumb(id) {
    return this.#bytes(await this.#store.thumb(id).catch((error) => Promise.reject(told(error))));
  }

  /** @param {unknown} found */
  #bytes(found) {
    if (found === undefined) throw new HistoryError("missing", "the picture is not kept any more");
    if (!(found instanceof ArrayBuffer)) throw new HistoryError("damaged", "the picture cannot be read");
    return found;
  }

  /** @param {Entry} entry */
  async update(entry) {
    await this.#store.put(entry, undefined, []).catch((error) => Promise.reject(told(error)));
  }

  /** @param {number[]} ids */
  async remove(ids) {
    await this.#store.remove(ids).catch((error) => Promise.reject(told(error)));
  }
}
