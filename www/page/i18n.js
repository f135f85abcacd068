/** Every sentence a person reads on the page, in English and Chinese. */

/** @typedef {"en" | "zh"} Language */

const TEXTS = {
  title: { en: "PanGu-Draw: words into pictures, in this tab", zh: "盘古画：在这个页面里，把文字画成图" },
  tagline: {
    en: "Words become pictures inside this tab. Nothing you type leaves it.",
    zh: "文字在这个页面里变成图画，你输入的内容不会离开它。",
  },
  switchLanguage: { en: "中文", zh: "English" },
  prompt: { en: "Prompt", zh: "提示词" },
  promptHint: { en: "what shall be drawn?", zh: "想画什么？" },
  examples: { en: "Try", zh: "试试" },
  style: { en: "Style", zh: "风格" },
  noStyle: { en: "As the model likes", zh: "由模型决定" },
  background: { en: "Background", zh: "背景" },
  transparent: { en: "Transparent", zh: "透明" },
  oneColour: { en: "One colour", zh: "纯色" },
  backgroundColour: { en: "Background colour", zh: "背景颜色" },
  seed: { en: "Seed", zh: "种子" },
  seedHint: { en: "random", zh: "随机" },
  size: { en: "Size", zh: "尺寸" },

  steer: { en: "Pictures that steer", zh: "用图片引导" },
  steerAs: { en: "Use a picture as", zh: "图片用作" },
  outline: { en: "Outline", zh: "轮廓" },
  outlineHint: { en: "The drawing follows its lines.", zh: "绘制时跟随它的线条。" },
  variation: { en: "Variation", zh: "变体" },
  variationHint: { en: "The drawing shows the same thing, another way.", zh: "画同样的东西，换一个样子。" },
  init: { en: "Starting point", zh: "起点" },
  initHint: { en: "It is drawn over, all of it or where you paint.", zh: "在它上面重画，可以只画涂抹的部分。" },
  sketch: { en: "Sketch it", zh: "手绘" },
  chooseFile: { en: "Choose a file", zh: "选择文件" },
  camera: { en: "Camera", zh: "拍照" },
  dropOrPaste: { en: "or drop or paste one", zh: "或拖入、粘贴图片" },
  given: { en: "Your picture", zh: "你的图片" },
  seen: { en: "What the model sees", zh: "模型看到的" },
  strength: { en: "Strength", zh: "强度" },
  overStrength: { en: "Drawn over", zh: "重画程度" },
  edit: { en: "Draw on", zh: "继续画" },
  addMask: { en: "Only a part", zh: "只改一部分" },
  changeMask: { en: "Change the part", zh: "修改涂抹" },
  remove: { en: "Remove", zh: "移除" },
  compare: { en: "Compare strengths", zh: "比较不同强度" },
  strip: { en: "Strength", zh: "强度" },
  stripItem: { en: "Strength {strength}: show this picture", zh: "强度 {strength}：显示这张图" },
  padOutline: { en: "Draw the outline", zh: "画出轮廓" },
  padMask: { en: "Paint over what shall be drawn anew", zh: "涂抹要重画的部分" },
  padCanvas: { en: "Drawing pad: draw with mouse, finger or pen", zh: "画板：用鼠标、手指或笔绘画" },
  pen: { en: "Pen", zh: "画笔" },
  eraser: { en: "Eraser", zh: "橡皮" },
  penWidth: { en: "Width", zh: "粗细" },
  undo: { en: "Undo", zh: "撤销" },
  clear: { en: "Clear", zh: "清空" },
  done: { en: "Done", zh: "完成" },
  back: { en: "Back", zh: "返回" },
  cameraTitle: { en: "Take a picture", zh: "拍一张照片" },
  shoot: { en: "Take it", zh: "拍照" },
  errorImage: {
    en: "That picture cannot be used: it is damaged, of an unknown kind, or has more than 50 million pixels.",
    zh: "无法使用这张图片：文件已损坏、格式未知，或超过 5000 万像素。",
  },
  errorCamera: {
    en: "There is no camera, or this page may not use it. The browser's settings for this page can allow it.",
    zh: "没有摄像头，或未允许此页面使用。可以在浏览器的网站设置中允许。",
  },

  advanced: { en: "Advanced", zh: "高级设置" },
  negativePrompt: { en: "Without", zh: "不要出现" },
  negativeHint: { en: "what to keep out", zh: "画面里不想要的东西" },
  steps: { en: "Steps", zh: "步数" },
  guidance: { en: "Guidance", zh: "引导强度" },
  sampler: { en: "Sampler", zh: "采样器" },
  exchange: { en: "Exchange", zh: "模型交流" },
  two_way: { en: "Two ways", zh: "双向" },
  renoised: { en: "Renoised", zh: "重新加噪" },
  one_way: { en: "One way", zh: "单向" },
  until: { en: "Steers until", zh: "引导到" },
  tLow: { en: "Draft until step T", zh: "草图到时间步 T" },
  upsampler: { en: "Enlarging", zh: "放大方式" },
  nearest: { en: "Nearest", zh: "最近邻" },
  bicubic: { en: "Bicubic", zh: "双三次" },
  lanczos: { en: "Lanczos", zh: "Lanczos" },
  draw: { en: "Draw", zh: "绘制" },
  cancel: { en: "Cancel", zh: "取消" },
  download: { en: "Download PNG", zh: "下载 PNG" },
  keepSeed: { en: "Keep seed {seed}", zh: "保留种子 {seed}" },
  axis: { en: "Progress of the drawing", zh: "绘制进度" },
  fetchBar: { en: "Download of the model", zh: "模型下载进度" },
  noise: { en: "noise", zh: "混沌" },
  structure: { en: "structure", zh: "结构" },
  texture: { en: "texture", zh: "纹理" },
  album: { en: "Drawn so far", zh: "已画的图" },
  recall: { en: "Show again: {prompt}", zh: "再次显示：{prompt}" },

  waiting: { en: "The model ({total}) is fetched when you press Draw.", zh: "按下“绘制”后才会下载模型（{total}）。" },
  starting: { en: "Starting…", zh: "正在启动…" },
  fetching: { en: "Fetching the model: {loaded} of {total}", zh: "正在下载模型：{loaded} / {total}" },
  fetchingAtRate: {
    en: "Fetching the model: {loaded} of {total}, {rate} a second, {seconds} s left",
    zh: "正在下载模型：{loaded} / {total}，每秒 {rate}，还需 {seconds} 秒",
  },
  restoring: {
    en: "Loading the model kept in this browser: {loaded} of {total}",
    zh: "正在读取浏览器中保存的模型：{loaded} / {total}",
  },
  kept: { en: "Models kept in this browser", zh: "保存在此浏览器中的模型" },
  keptNone: { en: "None.", zh: "没有。" },
  keptModel: { en: "{title}: {stored} of {bytes}", zh: "{title}：{stored} / {bytes}" },
  keptDelete: { en: "Delete", zh: "删除" },
  keptDeleteModel: { en: "Delete {title}", zh: "删除{title}" },
  keptDeleted: { en: "{title} deleted: {freed} freed.", zh: "已删除{title}：释放 {freed}。" },
  building: { en: "Setting up the networks…", zh: "正在准备网络…" },
  queued: { en: "Your picture follows at once.", zh: "随后立即开始绘制。" },
  ready: { en: "Ready.", zh: "就绪。" },
  reading: { en: "Reading the prompt…", zh: "正在理解提示词…" },
  stepping: { en: "Step {step} of {steps}", zh: "第 {step} 步，共 {steps} 步" },
  comparing: {
    en: "Strength {strength}, picture {picture} of {pictures}: step {step} of {steps}",
    zh: "强度 {strength}，第 {picture} 张，共 {pictures} 张：第 {step} 步，共 {steps} 步",
  },
  decoding: { en: "Developing the picture…", zh: "正在生成图像…" },
  drawn: { en: "Drawn in {seconds} s.", zh: "用时 {seconds} 秒。" },
  drawnAgain: {
    en: "Drawn in {seconds} s. Some numbers were too large for f16; from there on it was computed in f32.",
    zh: "用时 {seconds} 秒。部分数值超出 f16 的范围，此后改用 f32 计算。",
  },
  stopped: { en: "Stopped.", zh: "已取消。" },

  onWebgpu: { en: "WebGPU", zh: "WebGPU" },
  onCpu: { en: "CPU", zh: "CPU" },
  fallback: {
    en: "This browser offers no WebGPU, so the picture is drawn on the CPU. It takes longer.",
    zh: "此浏览器没有可用的 WebGPU，改用 CPU 绘制，会慢一些。",
  },

  details: { en: "Technical details", zh: "技术细节" },
  errorModel: {
    en: "The model's files are damaged or do not belong together. Reload the page to fetch them again.",
    zh: "模型文件已损坏或不匹配。请刷新页面重新下载。",
  },
  errorStore: {
    en: "The browser did not do that with what it keeps. Try again, or clear this site's data in the browser's settings.",
    zh: "浏览器未能处理所保存的数据。请重试，或在浏览器设置中清除此网站的数据。",
  },
  errorRead: {
    en: "The model could not be fetched. Check the connection and press Draw to try again.",
    zh: "无法下载模型。请检查网络，然后再按“绘制”。",
  },
  errorInvalid: { en: "A setting is out of its range: {parameter}.", zh: "有一项设置超出范围：{parameter}。" },
  errorUnsupported: { en: "This model cannot do that.", zh: "此模型不支持这个操作。" },
  errorDevice: {
    en: "The graphics device failed. Press Draw to try again, or draw on the CPU.",
    zh: "图形设备出错。请再按“绘制”，或改用 CPU。",
  },
  errorCrash: {
    en: "The engine stopped unexpectedly. Press Draw: it starts afresh.",
    zh: "引擎意外停止。再按“绘制”即可重新启动。",
  },
  errorOther: { en: "Something went wrong.", zh: "出了点问题。" },
  useCpu: { en: "Draw on the CPU", zh: "改用 CPU" },

  aboutHow: {
    en: "A picture starts as noise. One network settles its structure, a second one its texture: the time-decoupled generator of PanGu-Draw, in Rust, on your own device.",
    zh: "图画始于噪声：一个网络先定结构，另一个再添纹理。这是 PanGu-Draw 的时间解耦生成器，用 Rust 写成，运行在你自己的设备上。",
  },
  aboutLimits: {
    en: "The default model is small and was trained on emoji and icons: it knows things, not photographs.",
    zh: "默认模型很小，用表情符号和图标训练：它认识事物，但画不出照片。",
  },
};

/** @typedef {keyof typeof TEXTS} Key */

/** Prompts to try: pairs that mean the same. */
export const EXAMPLES = [
  { en: "red apple", zh: "红苹果" },
  { en: "sunflower", zh: "向日葵" },
  { en: "rainbow", zh: "彩虹" },
  { en: "slice of watermelon", zh: "一片西瓜" },
  { en: "butterfly", zh: "蝴蝶" },
  { en: "yellow star", zh: "黄色的星星" },
];

/** The page's language: what was chosen before, else what the browser prefers. @returns {Language} */
function preferred() {
  const asked = new URLSearchParams(location.search).get("lang") ?? localStorage.getItem("language");
  if (asked === "en" || asked === "zh") return asked;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

/** @type {Language} */
let language = preferred();

export const current = () => language;

/** @param {Language} chosen */
export function choose(chosen) {
  language = chosen;
  localStorage.setItem("language", chosen);
}

/**
 * A sentence in the page's language, with `{name}` filled in.
 *
 * @param {Key} key
 * @param {Record<string, string | number>} [values]
 */
export function text(key, values = {}) {
  return TEXTS[key][language].replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/** Fills every element marked with `data-text`, `data-label` or `data-hint`. @param {ParentNode} root */
export function translate(root) {
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  document.title = text("title");
  for (const element of root.querySelectorAll("[data-text], [data-label], [data-hint]")) {
    const { text: content, label, hint } = /** @type {HTMLElement} */ (element).dataset;
    if (content) element.textContent = text(/** @type {Key} */ (content));
    if (label) element.setAttribute("aria-label", text(/** @type {Key} */ (label)));
    if (hint) element.setAttribute("placeholder", text(/** @type {Key} */ (hint)));
  }
}

/** A byte count as megabytes, as a person reads it. @param {number} bytes */
export const megabytes = (bytes) => `${number(bytes / 1e6, bytes < 1e6 ? 3 : 2)} MB`;

/** @param {number} value @param {number} digits */
export const number = (value, digits) =>
  value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
