/** Suggests, while a prompt is written, what the model knows: a list under the field that arrow keys walk. */

/** @import { Suggestion, Vocabulary } from "./vocabulary.js" */

import { element } from "./dom.js";
import { current, text } from "./i18n.js";
import { fetchVocabulary, suggest, surprise } from "./vocabulary.js";

const prompt = element("prompt", HTMLTextAreaElement);
const list = element("suggestions", HTMLElement);
const count = element("suggestion-count", HTMLElement);

/** @type {Vocabulary | undefined} */
let vocabulary;
/** @type {Suggestion[]} */
let offered = [];
/** Which of them is chosen. */
let active = -1;

/** Takes the vocabulary at `url`, if there is one; answers whether there is. @param {string | undefined} url */
export async function learn(url) {
  vocabulary = url ? await fetchVocabulary(url) : undefined;
  return Boolean(vocabulary);
}

/** A button that writes a prompt of its own; none, if no vocabulary is known. */
export function surpriseButton() {
  if (!vocabulary) return undefined;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = text("surprise");
  button.onclick = () => {
    if (!vocabulary) return;
    prompt.value = surprise(vocabulary, current());
    prompt.focus();
  };
  return button;
}

function close() {
  offered = [];
  active = -1;
  list.hidden = true;
  list.replaceChildren();
  count.textContent = "";
  prompt.removeAttribute("aria-activedescendant");
}

/** Offers what may follow what stands before the caret. */
function offer() {
  const { selectionStart, selectionEnd, value } = prompt;
  const written = selectionStart === selectionEnd ? value.slice(0, selectionStart) : "";
  const found = vocabulary ? suggest(vocabulary, written) : [];
  close();
  if (found.length === 0) return;
  offered = found;
  list.replaceChildren(
    ...offered.map(({ words, other, language }, index) => {
      const option = document.createElement("li");
      const also = document.createElement("span");
      option.id = `suggestion-${index}`;
      option.setAttribute("role", "option");
      option.ariaSelected = "false";
      option.lang = language === "zh" ? "zh-Hans" : "en";
      also.lang = language === "zh" ? "en" : "zh-Hans";
      also.textContent = other;
      option.append(words, " ", also);
      option.onclick = () => take(index);
      return option;
    }),
  );
  list.hidden = false;
  count.textContent = text("suggestionCount", { count: offered.length });
}

/** Chooses an option without taking it; -1 chooses none. @param {number} index */
function choose(index) {
  active = index;
  for (const [at, option] of [...list.children].entries()) {
    option.ariaSelected = String(at === index);
    if (at === index) option.scrollIntoView({ block: "nearest" });
  }
  if (index < 0) prompt.removeAttribute("aria-activedescendant");
  else prompt.setAttribute("aria-activedescendant", `suggestion-${index}`);
}

/** Writes a suggestion in place of what it was suggested for. @param {number} index */
function take(index) {
  const { start, words } = offered[index];
  prompt.setRangeText(words, start, prompt.selectionStart, "end");
  close();
  prompt.focus();
}

prompt.addEventListener("input", (event) => {
  // What an input method is still composing is nobody's word yet.
  if (/** @type {InputEvent} */ (event).isComposing) close();
  else offer();
});
prompt.addEventListener("compositionend", offer);
prompt.addEventListener("blur", close);
// Before the page takes Enter for a wish to draw.
prompt.addEventListener(
  "keydown",
  (event) => {
    if (offered.length === 0 || event.isComposing) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      // Round and round, with none chosen in between.
      const places = offered.length + 1;
      const step = event.key === "ArrowDown" ? 1 : places - 1;
      choose(((active + 1 + step) % places) - 1);
    } else if (event.key === "Enter" && active >= 0) take(active);
    else if (event.key === "Escape") close();
    else return void (event.key === "Enter" && close());
    event.preventDefault();
    event.stopImmediatePropagation();
  },
  { capture: true },
);
// A press in the list leaves the caret where it is.
list.addEventListener("pointerdown", (event) => event.preventDefault());
