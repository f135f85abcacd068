/** What a model knows by name: read from a file that comes from anywhere, and what of it a person may be about to write. */

/** @typedef {{ en: string[], zh: string[] }} Names */
/** @typedef {{ things: Names[], glyphs: Names[], colours: Names[] }} Vocabulary */
/** A prompt's end from `start` on, and what could stand there instead; `other` says the same in the other language. */
/** @typedef {{ start: number, words: string, other: string, language: "en" | "zh" }} Suggestion */

/** The file's format that this page reads. */
const FORMAT = 1;
const MAX_BYTES = 256 << 10;
const MAX_ENTRIES = 2000;
const MAX_NAMES = 8;
const MAX_LENGTH = 60;
/** Suggestions at once. */
const MOST = 6;
/** Words, or Chinese characters, of a prompt's end that may be the beginning of a name. */
const WORDS = 4;
const CHARACTERS = 8;

/** The file's first bytes as text; fails where there are more than a vocabulary has. @param {Response} response */
async function limited(response) {
  const reader = response.body?.getReader();
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let [content, bytes] = ["", 0];
  for (;;) {
    const { done, value } = (await reader?.read()) ?? { done: true, value: undefined };
    if (!value || done) return content + decoder.decode();
    bytes += value.length;
    if (bytes > MAX_BYTES) {
      await reader?.cancel();
      throw new RangeError("the vocabulary is too long");
    }
    content += decoder.decode(value, { stream: true });
  }
}

/** Fetches a vocabulary; none, if there is none that can be read. @param {string} url @returns {Promise<Vocabulary | undefined>} */
export async function fetchVocabulary(url) {
  try {
    const response = await fetch(url);
    return response.ok ? parse(JSON.parse(await limited(response))) : undefined;
  } catch {
    return undefined;
  }
}

/** Takes what is as it should be, and leaves the rest. @param {any} json @returns {Vocabulary | undefined} */
export function parse(json) {
  if (json?.format !== FORMAT) return undefined;
  const plain = (/** @type {unknown} */ name) =>
    typeof name === "string" && name.length > 0 && name.length <= MAX_LENGTH && !/\p{C}/u.test(name);
  const names = (/** @type {unknown} */ list) => (Array.isArray(list) ? list.slice(0, MAX_NAMES).filter(plain) : []);
  const entries = (/** @type {unknown} */ list) =>
    (Array.isArray(list) ? list.slice(0, MAX_ENTRIES) : [])
      .map((entry) => ({ en: names(entry?.en), zh: names(entry?.zh) }))
      .filter(({ en, zh }) => en.length + zh.length > 0);
  return { things: entries(json.things), glyphs: entries(json.glyphs), colours: entries(json.colours) };
}

const isHan = (/** @type {string} */ character) => /\p{Script=Han}/u.test(character);

/** A glyph in a colour, as people say it. @param {"en" | "zh"} language @param {string} colour @param {string} glyph */
const painted = (language, colour, glyph) => (language === "en" ? `${colour} ${glyph}` : `${colour}的${glyph}`);

/**
 * The ends of `text` that may be the beginning of a name, the longest first.
 *
 * @param {string} text
 * @param {"en" | "zh"} language
 */
function ends(text, language) {
  if (language === "zh") {
    const run = /\p{Script=Han}+$/u.exec(text)?.[0] ?? "";
    const characters = [...run].slice(-CHARACTERS);
    return characters.map((_, index) => characters.slice(index).join(""));
  }
  const run = /[^,.;:!?\n\p{Script=Han}，。；：！？、]+$/u.exec(text)?.[0].trimStart() ?? "";
  const words = run.split(/(?<=\s)(?=\S)/).slice(-WORDS);
  return words.map((_, index) => words.slice(index).join("")).filter((end) => end.trim().length > 1);
}

/**
 * What a person who has written `text` may be about to write: names that begin so, in the language of the last character, then
 * those in which a word does.
 *
 * @param {Vocabulary} vocabulary
 * @param {string} text
 * @returns {Suggestion[]}
 */
export function suggest({ things, glyphs, colours }, text) {
  const language = isHan([...text].pop() ?? "") ? "zh" : "en";
  const another = language === "en" ? "zh" : "en";
  for (const end of ends(text, language)) {
    const sought = end.toLowerCase();
    /** @type {Map<string, { rank: number, other: string }>} */
    const found = new Map();
    const add = (/** @type {string} */ words, /** @type {string} */ other) => {
      const name = words.toLowerCase();
      const begins = name.startsWith(sought);
      const holds = language === "en" ? name.includes(` ${sought}`) : name.includes(sought);
      if (name !== sought && (begins || holds) && !found.has(words)) found.set(words, { rank: begins ? 0 : 1, other });
    };
    for (const names of [...things, ...glyphs]) for (const name of names[language]) add(name, names[another][0] ?? "");
    // Glyphs come in colours: which one is meant is known when the colour is written.
    for (const colour of colours) {
      const [own = "", other = ""] = [colour[language][0], colour[another][0]];
      if (!own || !sought.startsWith(own.toLowerCase())) continue;
      for (const glyph of glyphs) {
        const [name, otherName] = [glyph[language][0], glyph[another][0]];
        if (name) add(painted(language, own, name), other && otherName ? painted(another, other, otherName) : "");
      }
    }
    if (found.size === 0) continue;
    const start = text.length - end.length;
    return [...found]
      .sort(([a, { rank: first }], [b, { rank: second }]) => first - second || a.length - b.length)
      .slice(0, MOST)
      .map(([words, { other }]) => ({ start, words, other, language }));
  }
  return [];
}

/**
 * Something that the model knows: a thing, or now and then a glyph in a colour.
 *
 * @param {Vocabulary} vocabulary
 * @param {"en" | "zh"} language
 * @param {() => number} [random]
 */
export function surprise({ things, glyphs, colours }, language, random = Math.random) {
  const named = (/** @type {Names[]} */ list) => list.flatMap((names) => names[language].slice(0, 1));
  const any = (/** @type {string[]} */ list) => list[Math.floor(random() * list.length)];
  const [plain, painting, colouring] = [named(things), named(glyphs), named(colours)];
  const paints = painting.length > 0 && colouring.length > 0;
  if (paints && (plain.length === 0 || random() < 0.25)) return painted(language, any(colouring), any(painting));
  return any(plain) ?? "";
}
