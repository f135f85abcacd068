/** How the element looks. Constructed, since a strict Content-Security-Policy lets no style element be. */

// Light: celadon glaze and azurite. Dark: gold on indigo-dyed paper.
const CSS = `
:host {
  --ground: var(--pangu-draw-ground, light-dark(#f4f7f4, #132136));
  --plate: var(--pangu-draw-plate, light-dark(#fcfdfb, #e7e4da));
  --squares: light-dark(#f1f4f0, #dbd7cb);
  --ink: var(--pangu-draw-ink, light-dark(#15221f, #efe8d6));
  --ink-soft: var(--pangu-draw-ink-soft, light-dark(#4b5a56, #a8b4c4));
  --line: var(--pangu-draw-line, light-dark(#c3cec7, #2b3d59));
  --accent: var(--pangu-draw-accent, light-dark(#1a4f7e, #dcb75f));
  --on-accent: var(--pangu-draw-on-accent, light-dark(#ffffff, #14202f));
  --gold: light-dark(#a97c22, #dcb75f);
  --alarm: light-dark(#9a2f1f, #ff9d86);
  --radius: var(--pangu-draw-radius, 8px);
  --gap: var(--pangu-draw-gap, clamp(0.75rem, 3cqi, 1.5rem));
  display: block;
  container-type: inline-size;
  inline-size: 100%;
  max-inline-size: 56rem;
  font: var(--pangu-draw-font, 400 1rem/1.45 system-ui, -apple-system, "Segoe UI", "PingFang SC", "Noto Sans CJK SC", "Microsoft YaHei", sans-serif);
  color: var(--ink);
  text-align: start;
}
:host([hidden]) {
  display: none;
}
:host([theme="light"]) {
  color-scheme: light;
}
:host([theme="dark"]) {
  color-scheme: dark;
}
* {
  box-sizing: border-box;
  margin: 0;
}
[hidden] {
  display: none !important;
}
:focus-visible {
  outline: 2px solid var(--accent);
  outline-offset: 2px;
}
.card {
  display: grid;
  gap: var(--gap);
  padding: var(--gap);
  border: 1px solid var(--line);
  border-radius: var(--radius);
  background: var(--ground);
  accent-color: var(--accent);
}
.form {
  position: relative;
  display: flex;
  flex-direction: column;
  gap: 0.75rem;
  min-width: 0;
}
label,
legend {
  color: var(--ink-soft);
  font-size: 0.8125rem;
  line-height: 1.4;
}
.ask {
  display: flex;
  flex: 1;
  flex-direction: column;
  gap: 0.25rem;
}
textarea {
  flex: 1;
  width: 100%;
  min-height: 2.6rem;
  max-height: 16rem;
  padding: 0.5rem 0.65rem;
  border: 1px solid color-mix(in oklab, var(--ink-soft) 80%, var(--line));
  border-radius: calc(var(--radius) * 0.6);
  background: var(--pangu-draw-field, light-dark(#ffffff, #0e1a2c));
  color: inherit;
  font: inherit;
  field-sizing: content;
  resize: none;
}
textarea:focus-visible {
  outline-offset: -1px;
}
textarea::placeholder {
  color: var(--ink-soft);
  opacity: 1;
}
button {
  font: inherit;
  cursor: pointer;
}
.draw {
  min-height: 2.75rem;
  padding: 0.4rem 1.25rem;
  border: 1px solid var(--accent);
  border-radius: calc(var(--radius) * 0.6);
  background: var(--accent);
  color: var(--on-accent);
  font-weight: 600;
}
.draw:hover {
  filter: brightness(1.12);
}
.draw.cancels {
  background: transparent;
  color: var(--ink);
  border-color: var(--ink-soft);
}
button:disabled,
textarea:disabled {
  opacity: 0.55;
  cursor: default;
  filter: none;
}
.quiet {
  padding: 0.35rem 0;
  border: 0;
  background: none;
  color: var(--ink);
  font-size: 0.875rem;
  text-align: start;
  text-decoration: underline;
  text-decoration-color: var(--gold);
  text-underline-offset: 0.3em;
}
.state {
  display: grid;
  gap: 0.35rem;
  color: var(--ink-soft);
  font-size: 0.8125rem;
  line-height: 1.4;
  font-variant-numeric: tabular-nums;
}
.state:not(:has(:not([hidden], :empty))),
.state > p:empty {
  display: none;
}
progress {
  appearance: none;
  display: block;
  width: 100%;
  height: 4px;
  border: 0;
  border-radius: 2px;
  overflow: hidden;
  background: var(--line);
}
progress::-webkit-progress-bar {
  background: var(--line);
}
progress::-webkit-progress-value {
  background: var(--gold);
  transition: inline-size 160ms linear;
}
progress::-moz-progress-bar {
  background: var(--gold);
}
.error {
  display: grid;
  gap: 0.2rem;
  justify-items: start;
  padding-inline-start: 0.7rem;
  border-inline-start: 2px solid var(--alarm);
  font-size: 0.875rem;
}
.error p {
  color: var(--alarm);
}
.error code {
  max-width: 100%;
  color: var(--ink-soft);
  font-size: 0.75rem;
  overflow-wrap: anywhere;
}
.ways {
  display: flex;
  flex-wrap: wrap;
  gap: 0 1rem;
}
figure {
  min-width: 0;
}
figure:focus {
  outline: none;
}
.plate {
  position: relative;
  aspect-ratio: var(--ratio, 1);
  overflow: hidden;
  border: 1px solid var(--line);
  border-radius: calc(var(--radius) * 0.6);
  background: repeating-conic-gradient(var(--squares) 0 25%, var(--plate) 0 50%) 0 0 / 20px 20px;
}
.plate > * {
  position: absolute;
  inset: 0;
  width: 100%;
  height: 100%;
  object-fit: contain;
}
.plate > .mark {
  inset: 36%;
  width: 28%;
  height: 28%;
  opacity: 0.3;
}
/* It keeps its place, so that nothing jumps when a picture is done. */
figcaption[hidden] {
  display: flex !important;
  visibility: hidden;
}
figcaption {
  display: flex;
  flex-wrap: wrap;
  justify-content: space-between;
  align-items: baseline;
  gap: 0 0.75rem;
  margin-block-end: -0.35rem;
  color: var(--ink-soft);
  font-size: 0.8125rem;
}
.said {
  position: absolute;
  width: 1px;
  height: 1px;
  overflow: hidden;
  clip-path: inset(50%);
  white-space: nowrap;
}
fieldset {
  display: grid;
  grid-template-columns: auto minmax(0, 1fr);
  gap: 0.35rem 0.75rem;
  align-items: center;
  min-width: 0;
  padding: 0.35rem 0.7rem 0.6rem;
  border: 1px dashed color-mix(in oklab, var(--ink-soft) 60%, var(--line));
  border-radius: calc(var(--radius) * 0.6);
}
fieldset.target {
  border-color: var(--accent);
  border-style: solid;
}
fieldset .choice {
  display: flex;
  flex-wrap: wrap;
  align-items: baseline;
  gap: 0 0.9rem;
}
fieldset .choice,
fieldset .alarm {
  grid-column: 1 / -1;
  color: var(--ink-soft);
  font-size: 0.8125rem;
}
fieldset .alarm {
  color: var(--alarm);
}
fieldset canvas {
  width: 4rem;
  height: 4rem;
  border: 1px solid var(--line);
  border-radius: 3px;
  object-fit: contain;
  background: var(--plate);
}
fieldset input[type="range"] {
  display: block;
  width: 100%;
  margin-block: 0.3rem 0;
}
@container (inline-size < 16rem) {
  .form {
    gap: 0.5rem;
  }
  .error,
  .quiet {
    font-size: 0.8125rem;
  }
}
@container (inline-size >= 34rem) {
  .card {
    grid-template-columns: minmax(0, 1fr) minmax(0, 1.15fr);
  }
  textarea {
    font-size: 1.25em;
    max-height: none;
  }
  .draw {
    align-self: start;
    min-width: 9rem;
  }
}
@media (prefers-reduced-motion: reduce) {
  * {
    transition: none !important;
  }
}
@media (forced-colors: active) {
  .draw {
    border-color: ButtonText;
  }
}
`;

/** @type {CSSStyleSheet | undefined} */
let shared;

/** One sheet for all elements. */
export function sheet() {
  if (!shared) {
    shared = new CSSStyleSheet();
    shared.replaceSync(CSS);
  }
  return shared;
}
