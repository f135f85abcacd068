/** Every sentence that a person reads in the element, in English and Chinese. */

/** @import { PanguDrawError } from "./engine.js" */

import { BusyError, CrashError, DeviceError, InvalidError, ModelError, ReadError, UnsupportedError } from "./engine.js";

const TEXTS = {
  name: { en: "Words into a picture", zh: "文字变图画" },
  prompt: { en: "Prompt", zh: "提示词" },
  promptHint: { en: "what shall be drawn?", zh: "想画什么？" },
  draw: { en: "Draw", zh: "绘制" },
  cancel: { en: "Cancel", zh: "取消" },
  download: { en: "Download PNG", zh: "下载 PNG" },
  seed: { en: "Seed {seed}", zh: "种子 {seed}" },
  progress: { en: "Progress", zh: "进度" },
  drawing: { en: "The picture so far", zh: "正在绘制的图片" },

  firstSize: { en: "The first picture downloads {size}.", zh: "第一次绘制需下载 {size}。" },
  size: { en: "Downloads {size}.", zh: "需下载 {size}。" },
  fallback: { en: "No WebGPU here: the CPU draws, which takes longer.", zh: "此处没有 WebGPU，改用 CPU 绘制，会慢一些。" },
  starting: { en: "Starting…", zh: "正在启动…" },
  waiting: { en: "Waiting for another picture…", zh: "正在等待另一张图…" },
  fetching: { en: "{loaded} of {total}", zh: "{loaded} / {total}" },
  fetchingAtRate: { en: "{loaded} of {total}, {rate}/s, {seconds} s left", zh: "{loaded} / {total}，{rate}/秒，还需 {seconds} 秒" },
  building: { en: "Setting up…", zh: "正在准备…" },
  ready: { en: "Ready.", zh: "就绪。" },
  reading: { en: "Reading the prompt…", zh: "正在理解提示词…" },
  stepping: { en: "Step {step} of {steps}", zh: "第 {step} 步，共 {steps} 步" },
  decoding: { en: "Finishing the picture…", zh: "正在生成图像…" },
  drawn: { en: "Drawn in {seconds} s.", zh: "用时 {seconds} 秒。" },
  restarting: { en: "The engine stopped; another one goes on…", zh: "引擎停止了，正由新的引擎接着画…" },
  stopped: { en: "Stopped.", zh: "已取消。" },
  sayFetching: { en: "Downloading {total}.", zh: "正在下载 {total}。" },
  sayDrawing: { en: "Drawing.", zh: "正在绘制。" },

  outline: { en: "Outline to follow", zh: "跟随的轮廓" },
  variation: { en: "Picture to vary", zh: "要变化的图片" },
  choose: { en: "Choose a picture", zh: "选择图片" },
  chooseHint: { en: "or drop or paste one", zh: "或拖入、粘贴图片" },
  strength: { en: "Strength", zh: "强度" },
  remove: { en: "Remove", zh: "移除" },

  missing: { en: "Please draw a picture first.", zh: "请先绘制一张图片。" },
  retry: { en: "Try again", zh: "重试" },
  useCpu: { en: "Use the CPU", zh: "改用 CPU" },
  errorPrompt: { en: "Please write what shall be drawn.", zh: "请输入想画的内容。" },
  errorImage: { en: "That picture cannot be used: it is damaged, too large, or of an unknown kind.", zh: "无法使用这张图片：文件已损坏、过大或格式未知。" },
  errorModel: { en: "The model's files are damaged, or were replaced meanwhile.", zh: "模型文件已损坏，或已被更新。" },
  errorRead: { en: "The model could not be downloaded.", zh: "无法下载模型。" },
  errorInvalid: { en: "A setting is out of its range: {parameter}.", zh: "有一项设置超出范围：{parameter}。" },
  errorUnsupported: { en: "This model cannot do that.", zh: "此模型不支持这个操作。" },
  errorDevice: { en: "The graphics device failed.", zh: "图形设备出错。" },
  errorCrash: { en: "The drawing engine stopped or could not start.", zh: "绘图引擎已停止或无法启动。" },
  errorBusy: { en: "Another picture is being drawn. Try again when it is done.", zh: "正在绘制另一张图，请稍后重试。" },
  errorOther: { en: "Something went wrong.", zh: "出了点问题。" },
};

/** @typedef {"en" | "zh"} Language */
/** @typedef {keyof typeof TEXTS} Key */
/** @typedef {Record<string, string | number>} Values */

/**
 * The language to speak in `element`: that of its `lang`, or of what it is in, else the browser's.
 *
 * @param {Element} element
 * @returns {Language}
 */
export function languageOf(element) {
  /** @type {Element | null} */
  let at = element;
  while (at) {
    const marked = /** @type {Element | null} */ (at.closest("[lang]"));
    if (marked?.getAttribute("lang")) return spoken(marked.getAttribute("lang") ?? "");
    const root = /** @type {Node} */ ((marked ?? at).getRootNode());
    at = root instanceof ShadowRoot ? root.host : null;
  }
  return spoken(navigator.language);
}

/** @param {string} tag @returns {Language} */
const spoken = (tag) => (/^zh\b/i.test(tag) ? "zh" : "en");

/** A sentence, with `{name}` filled in. @param {Language} language @param {Key} key @param {Values} [values] */
export const text = (language, key, values = {}) =>
  TEXTS[key][language].replace(/\{(\w+)\}/g, (_, name) => String(values[name]));

/** @param {Language} language @param {number} value @param {number} [digits] */
export const number = (language, value, digits = 0) =>
  value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });

/** Bytes, as a person reads them. @param {Language} language @param {number} bytes */
export const megabytes = (language, bytes) => `${number(language, bytes / 1e6, bytes < 1e7 ? 1 : 0)}\u00a0MB`;

/** @type {[Function, Key][]} */
const EXPLANATIONS = [
  [BusyError, "errorBusy"],
  [CrashError, "errorCrash"],
  [DeviceError, "errorDevice"],
  [InvalidError, "errorInvalid"],
  [ModelError, "errorModel"],
  [ReadError, "errorRead"],
  [UnsupportedError, "errorUnsupported"],
];

/** Which sentence explains an error. @param {PanguDrawError} error @returns {Key} */
export function explanation(error) {
  if (error.details.parameter === "image") return "errorImage";
  if (error.details.parameter === "prompt") return "errorPrompt";
  return EXPLANATIONS.find(([type]) => error instanceof type)?.[1] ?? "errorOther";
}
