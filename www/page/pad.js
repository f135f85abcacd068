/** The drawing pad: strokes of a pen and an eraser, by pointer or by keyboard, on paper or over a picture. */

/** @import { Pixels } from "../types.js" */

import { answered, element } from "./dom.js";
import { paintPixels } from "./canvas.js";
import { text } from "./i18n.js";

/** Longest side of the pad in its own pixels. */
const SIDE = 512;
/** What a mask is painted with, so that it shows on any picture. */
const TINT = "#d9480f";
/** How far an arrow key goes, in the pad's pixels: alone, and with Shift. */
const STRIDE = [16, 4];
/** @type {Record<string, [number, number]>} */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * One stroke: the line's width and its points, in the pad's pixels; or, of a mask that came as a picture, all that was painted: how
 * light that picture is, as opacity.
 *
 * @typedef {{ width: number, erase: boolean, points: [number, number][], stamp?: OffscreenCanvas }} Stroke
 */
/** @typedef {{ width: number, height: number }} Size */

const ui = {
  dialog: element("pad", HTMLDialogElement),
  title: element("pad-title", HTMLElement),
  paper: element("pad-paper", HTMLElement),
  beneath: element("pad-beneath", HTMLCanvasElement),
  canvas: element("pad-canvas", HTMLCanvasElement),
  cursor: element("pad-cursor", HTMLElement),
  say: element("pad-say", HTMLElement),
  pen: element("pad-pen", HTMLButtonElement),
  eraser: element("pad-eraser", HTMLButtonElement),
  width: element("pad-width", HTMLInputElement),
  undo: element("pad-undo", HTMLButtonElement),
  clear: element("pad-clear", HTMLButtonElement),
  done: element("pad-done", HTMLButtonElement),
  cancel: element("pad-cancel", HTMLButtonElement),
};

/** What is on the pad, oldest first. @type {Stroke[]} */
let strokes = [];
/** What Undo goes back to: also what Clear took away. @type {Stroke[][]} */
let before = [];
/** The stroke under the pointer or the cursor; Undo may have taken it off the pad. @type {Stroke | undefined} */
let running;
/** Where the keyboard's pen is, and whether it is down. @type {[number, number]} */
let cursor = [0, 0];
let down = false;
let erasing = false;
let colour = "#000";

/** The pad's size for a picture of this one. @param {Size} size @returns {Size} */
function padSize({ width, height }) {
  const scale = SIDE / Math.max(width, height);
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

/** @param {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} context @param {Stroke} stroke @param {string} colour */
function paint(context, { width, erase, points, stamp }, colour) {
  context.globalCompositeOperation = erase ? "destination-out" : "source-over";
  if (stamp) {
    const ink = /** @type {OffscreenCanvasRenderingContext2D} */ (new OffscreenCanvas(stamp.width, stamp.height).getContext("2d"));
    ink.drawImage(stamp, 0, 0);
    ink.globalCompositeOperation = "source-in";
    ink.fillStyle = colour;
    ink.fillRect(0, 0, stamp.width, stamp.height);
    context.drawImage(ink.canvas, 0, 0, context.canvas.width, context.canvas.height);
    return;
  }
  context.strokeStyle = context.fillStyle = colour;
  context.lineWidth = width;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(...points[0]);
  for (const point of points.slice(1)) context.lineTo(...point);
  // A single touch is a dot; a line of no length would be none.
  if (points.length === 1) context.lineTo(points[0][0] + 0.01, points[0][1]);
  context.stroke();
}

/** Strokes as a picture of their own, on a background. @param {Stroke[]} strokes @param {Size} size @param {{ ink: string, paper: string }} colours */
function picture(strokes, size, { ink, paper }) {
  const { width, height } = padSize(size);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (new OffscreenCanvas(width, height).getContext("2d"));
  for (const stroke of strokes) paint(context, stroke, ink);
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = paper;
  context.fillRect(0, 0, width, height);
  return context.canvas;
}

/** A drawing in black on white. @param {Stroke[]} strokes @param {Size} size */
export const drawing = (strokes, size) => picture(strokes, size, { ink: "#000", paper: "#fff" });
/** A mask: white where something was painted, else black. @param {Stroke[]} strokes @param {Size} size @returns {Pixels} */
export function mask(strokes, size) {
  const canvas = picture(strokes, size, { ink: "#fff", paper: "#000" });
  const { width, height } = canvas;
  return { width, height, rgba: /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d")).getImageData(0, 0, width, height).data };
}

/** A mask as what was painted. @param {Pixels} pixels white where something was painted, else black @returns {Stroke[]} */
export function painted({ width, height, rgba }) {
  const stamp = new OffscreenCanvas(width, height);
  const white = new Uint8ClampedArray(rgba.length).fill(255);
  for (let at = 3; at < rgba.length; at += 4) white[at] = rgba[at - 3];
  stamp.getContext("2d")?.putImageData(new ImageData(white, width, height), 0, 0);
  return [{ width: 0, erase: false, points: [], stamp }];
}

/** Paints a mask over a canvas that shows the picture it is for. @param {HTMLCanvasElement} canvas @param {Stroke[]} strokes @param {Size} size */
export function tint(canvas, strokes, size) {
  const { width, height } = padSize(size);
  const context = new OffscreenCanvas(width, height).getContext("2d");
  const onto = canvas.getContext("2d");
  if (!context || !onto) return;
  for (const stroke of strokes) paint(context, stroke, TINT);
  // The picture may stand in the middle of a canvas of other proportions.
  const scale = Math.min(canvas.width / width, canvas.height / height);
  const [w, h] = [width * scale, height * scale];
  onto.globalAlpha = 0.6;
  onto.drawImage(context.canvas, (canvas.width - w) / 2, (canvas.height - h) / 2, w, h);
  onto.globalAlpha = 1;
}

function repaint() {
  const context = ui.canvas.getContext("2d");
  if (!context) return;
  context.globalCompositeOperation = "source-over";
  context.clearRect(0, 0, ui.canvas.width, ui.canvas.height);
  for (const stroke of strokes) paint(context, stroke, colour);
  ui.undo.disabled = before.length === 0;
  ui.clear.disabled = strokes.length === 0;
}

/** @param {Stroke[]} next */
function change(next) {
  before.push(strokes);
  strokes = next;
  repaint();
}

function undo() {
  down = false;
  strokes = before.pop() ?? strokes;
  repaint();
}

/** @param {boolean} erase */
function take(erase) {
  down = false;
  erasing = erase;
  ui.pen.setAttribute("aria-pressed", String(!erase));
  ui.eraser.setAttribute("aria-pressed", String(erase));
}

/** Where a pointer is, in the pad's pixels. @param {PointerEvent} event @returns {[number, number]} */
function place({ clientX, clientY }) {
  const { left, top, width, height } = ui.canvas.getBoundingClientRect();
  return [((clientX - left) / width) * ui.canvas.width, ((clientY - top) / height) * ui.canvas.height];
}

/** @param {[number, number]} point */
function begin(point) {
  running = { width: Number(ui.width.value), erase: erasing, points: [point] };
  change([...strokes, running]);
}

/** Moves the keyboard's pen and says where it is. @param {[number, number]} to */
function move([x, y]) {
  const { width, height } = ui.canvas;
  cursor = [Math.min(width, Math.max(0, x)), Math.min(height, Math.max(0, y))];
  const [left, top] = [(100 * cursor[0]) / width, (100 * cursor[1]) / height];
  Object.assign(ui.cursor.style, { left: `${left}%`, top: `${top}%` });
  ui.cursor.classList.toggle("down", down);
  return text("padAt", { x: Math.round(left), y: Math.round(top) });
}

ui.paper.addEventListener("keydown", (event) => {
  const arrow = ARROWS[event.key];
  if ((!arrow && event.key !== " ") || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  ui.cursor.hidden = false;
  if (arrow) {
    const stride = STRIDE[Number(event.shiftKey)];
    ui.say.textContent = move([cursor[0] + arrow[0] * stride, cursor[1] + arrow[1] * stride]);
    if (!down) return;
    running?.points.push(cursor);
    repaint();
  } else if (!event.repeat) {
    down = !down;
    if (down) begin(cursor);
    ui.say.textContent = text(down ? "padDown" : "padUp", { place: move(cursor) });
  }
});
ui.canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !event.isPrimary) return;
  ui.canvas.setPointerCapture(event.pointerId);
  begin(place(event));
  down = false;
  ui.cursor.hidden = true;
});
ui.canvas.addEventListener("pointermove", (event) => {
  if (!ui.canvas.hasPointerCapture(event.pointerId)) return;
  const moves = event.getCoalescedEvents?.() ?? [];
  running?.points.push(...(moves.length > 0 ? moves : [event]).map(place));
  repaint();
});
ui.pen.addEventListener("click", () => take(false));
ui.eraser.addEventListener("click", () => take(true));
ui.undo.addEventListener("click", undo);
ui.clear.addEventListener("click", () => {
  down = false;
  change([]);
});
ui.cancel.addEventListener("click", () => ui.dialog.close());
ui.dialog.addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() !== "z" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  undo();
});

/**
 * Lets the user draw, beginning with `drawn`; answers the strokes, or nothing if the pad was left.
 *
 * @param {{ size: Size, drawn?: Stroke[], beneath?: Pixels }} options `beneath` is painted over, for a mask
 * @returns {Promise<Stroke[] | undefined>}
 */
export async function sketch({ size, drawn = [], beneath }) {
  Object.assign(ui.canvas, padSize(size));
  ui.paper.style.setProperty("--ratio", String(size.width / size.height));
  ui.beneath.hidden = !beneath;
  if (beneath) paintPixels(ui.beneath, beneath);
  colour = beneath ? TINT : "#000";
  ui.canvas.classList.toggle("tint", Boolean(beneath));
  ui.title.textContent = text(beneath ? "padMask" : "padOutline");
  Object.assign(ui.width, beneath ? { max: "96", value: "48" } : { max: "24", value: "12" });
  [strokes, before] = [drawn, []];
  take(false);
  repaint();
  down = false;
  move([ui.canvas.width / 2, ui.canvas.height / 2]);
  ui.cursor.hidden = true;
  ui.say.textContent = text("padHelp");
  if (!(await answered(ui.dialog, ui.done))) return undefined;
  const first = strokes.findIndex(({ erase }) => !erase);
  return first < 0 ? [] : strokes.slice(first);
}
