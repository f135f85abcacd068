/** The element's panel of pictures that steer the drawing: one of a kind, chosen, dropped or pasted. */

/** @import { ControlKind, ControlOptions, Info, Pixels } from "./types.js" */
/** @import { Key, Language } from "./element-i18n.js" */

import { node, paint } from "./element-dom.js";
import { number, text } from "./element-i18n.js";
import { read } from "./pictures.js";

/** One kind of picture. */
export class Slot {
  #kind;
  #onChange;
  /** @type {Language} */
  #language = "en";
  /** @type {Pixels | undefined} */
  #pixels;
  /** What the visitor chose; without a choice the model's own strength holds. @type {number | undefined} */
  #strength;
  #legend = node("legend");
  #choose = node("button", { type: "button", className: "quiet", part: "choose" });
  #hint = node("span");
  #remove = node("button", { type: "button", className: "quiet", part: "remove", hidden: true });
  #choice = node("div", { className: "choice" }, this.#choose, this.#hint, this.#remove);
  #file = node("input", { type: "file", accept: "image/*", hidden: true });
  #canvas = node("canvas", { hidden: true });
  #slider = node("input", { type: "range", min: "0", max: "1", step: "0.05", part: "strength" });
  #name = node("span");
  #amount = node("output");
  #weight = node("label", { hidden: true }, this.#name, " ", this.#amount, this.#slider);
  #alarm = node("p", { className: "alarm", role: "alert", hidden: true });
  /** What is put into the page. */
  node = node("fieldset", { part: "picture" }, this.#legend, this.#file, this.#canvas, this.#weight, this.#choice, this.#alarm);

  /** @param {ControlKind} kind @param {() => void} onChange hears of every change but that of the strength */
  constructor(kind, onChange) {
    this.#kind = kind;
    this.#onChange = onChange;
    this.#choose.onclick = () => this.#file.click();
    this.#file.onchange = async () => {
      await this.take(this.#file.files?.[0]);
      this.#file.value = ""; // The same file may be chosen again.
    };
    this.#slider.oninput = () => {
      this.#strength = this.#slider.valueAsNumber;
      this.#weigh();
    };
    this.#remove.onclick = () => {
      this.clear();
      this.#choose.focus();
      onChange();
    };
    for (const type of /** @type {const} */ (["dragover", "dragleave", "drop"])) {
      this.node.addEventListener(type, (event) => {
        if (!event.dataTransfer?.types.includes("Files") || this.node.disabled) return;
        event.preventDefault();
        this.node.classList.toggle("target", type === "dragover");
        if (type === "drop") this.take(event.dataTransfer.files[0]);
      });
    }
  }

  /** What the drawing is given. @returns {ControlOptions[]} */
  get controls() {
    return this.#pixels ? [{ kind: this.#kind, image: this.#pixels, strength: this.#strength }] : [];
  }

  /** Takes a picture in, or says why not. @param {File | undefined} file */
  async take(file) {
    if (!file) return;
    try {
      this.#pixels = await read(file);
      paint(this.#canvas, this.#pixels);
      this.#alarm.hidden = true;
    } catch {
      this.#alarm.hidden = false;
    }
    this.#show();
    this.#onChange();
  }

  /** Shows the model's own strength. @param {Info} info */
  know({ controls }) {
    const own = controls.find(({ kind }) => kind === this.#kind);
    if (own && this.#strength === undefined) this.#slider.valueAsNumber = own.strength;
    this.#weigh();
  }

  clear() {
    this.#pixels = this.#strength = undefined;
    this.#alarm.hidden = true;
    this.#show();
  }

  #show() {
    const filled = Boolean(this.#pixels);
    this.#canvas.hidden = this.#weight.hidden = this.#remove.hidden = !filled;
    this.#hint.hidden = filled;
    this.#weigh();
  }

  #weigh() {
    this.#amount.textContent = number(this.#language, this.#slider.valueAsNumber, 2);
  }

  /** @param {Language} language */
  speak(language) {
    const say = (/** @type {Key} */ key) => text(language, key);
    this.#language = language;
    this.#legend.textContent = say(this.#kind);
    this.#choose.textContent = say("choose");
    this.#choose.ariaLabel = `${say("choose")}: ${say(this.#kind)}`;
    this.#hint.textContent = say("chooseHint");
    this.#name.textContent = say("strength");
    this.#remove.textContent = say("remove");
    this.#remove.ariaLabel = `${say("remove")}: ${say(this.#kind)}`;
    this.#alarm.textContent = say("errorImage");
    this.#weigh();
  }
}
