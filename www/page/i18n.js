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
  beside: { en: "beside the one before", zh: "与之前的图片并用" },
  finer: { en: "Finer", zh: "细调" },
  falloff: { en: "Its weight", zh: "权重变化" },
  falloffModel: { en: "As the model likes", zh: "由模型决定" },
  falloffConstant: { en: "Stays", zh: "保持不变" },
  falloffNoise: { en: "Falls with the noise", zh: "随噪声减弱" },
  drawsDraft: { en: "Its model draws the draft", zh: "由它的模型画草图" },
  given: { en: "Your picture", zh: "你的图片" },
  seen: { en: "What the model sees", zh: "模型看到的" },
  strength: { en: "Strength", zh: "强度" },
  overStrength: { en: "Drawn over", zh: "重画程度" },
  edit: { en: "Draw on", zh: "继续画" },
  addMask: { en: "Only a part", zh: "只改一部分" },
  changeMask: { en: "Change the part", zh: "修改涂抹" },
  remove: { en: "Remove", zh: "移除" },
  compare: { en: "Compare strengths", zh: "比较不同强度" },
  stripItem: { en: "Strength {strength}: show this picture", zh: "强度 {strength}：显示这张图" },
  padOutline: { en: "Draw the outline", zh: "画出轮廓" },
  padMask: { en: "Paint over what shall be drawn anew", zh: "涂抹要重画的部分" },
  padCanvas: { en: "Drawing pad: draw with mouse, finger or pen", zh: "画板：用鼠标、手指或笔绘画" },
  padKeys: { en: "Drawing by keyboard", zh: "用键盘绘画" },
  padHelp: {
    en: "By keyboard: arrow keys move, with Shift in small steps; Space puts the pen down and lifts it.",
    zh: "键盘：方向键移动，按住 Shift 小步移动；空格键落笔或提笔。",
  },
  padAt: { en: "{x} % from the left, {y} % from the top", zh: "距左 {x}%，距上 {y}%" },
  padDown: { en: "Pen down, {place}", zh: "落笔，{place}" },
  padUp: { en: "Pen up, {place}", zh: "提笔，{place}" },
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
  until: { en: "Steers until", zh: "引导截至" },
  untilHint: { en: "0 to 1", zh: "0 到 1" },
  tLow: { en: "Draft until step T", zh: "草图到时间步 T" },
  upsampler: { en: "Enlarging", zh: "放大方式" },
  nearest: { en: "Nearest", zh: "最近邻" },
  bicubic: { en: "Bicubic", zh: "双三次" },
  lanczos: { en: "Lanczos", zh: "Lanczos" },
  extras: { en: "Also in use: {list}.", zh: "另外还用到：{list}。" },
  styleScale: { en: "Style guidance", zh: "风格引导强度" },
  spacing: { en: "Step spacing", zh: "时间步间距" },
  precision: { en: "Precision", zh: "运算精度" },
  draw: { en: "Draw", zh: "绘制" },
  cancel: { en: "Cancel", zh: "取消" },
  download: { en: "Download PNG", zh: "下载 PNG" },
  keepSeed: { en: "Keep seed {seed}", zh: "保留种子 {seed}" },
  axis: { en: "Progress of the drawing", zh: "绘制进度" },
  fetchBar: { en: "Download of the model", zh: "模型下载进度" },
  noise: { en: "noise", zh: "混沌" },
  structure: { en: "structure", zh: "结构" },
  texture: { en: "texture", zh: "纹理" },

  four: { en: "Four at once", zh: "一次画四张" },
  variations: { en: "Four variations", zh: "四种画法" },
  fourItem: { en: "Variation {picture} of four: show it", zh: "第 {picture} 张：显示" },
  drawingFour: { en: "Picture {picture} of {pictures}: step {step} of {steps}", zh: "第 {picture} 张，共 {pictures} 张：第 {step} 步，共 {steps} 步" },
  strengths: { en: "Strength", zh: "强度" },
  pair: { en: "Side by side", zh: "并排比较" },
  pairItem: { en: "Picture {letter}: show it", zh: "图 {letter}：显示" },
  pairHint: { en: "A is kept. Change a setting and press Draw: B appears beside it.", zh: "已保留 A。改变一项设置再按“绘制”，B 会出现在旁边。" },
  pairSame: { en: "Both have the same settings.", zh: "两张图的设置相同。" },
  pairLeave: { en: "Stop comparing", zh: "结束比较" },
  none: { en: "none", zh: "无" },
  model: { en: "Model", zh: "模型" },
  part: { en: "The part to draw over", zh: "要重画的部分" },

  star: { en: "☆ Star", zh: "☆ 收藏" },
  starred: { en: "★ Starred", zh: "★ 已收藏" },
  more: { en: "More", zh: "更多" },
  take: { en: "Take its settings", zh: "套用它的设置" },
  against: { en: "Compare with the next", zh: "与下一张比较" },
  makeSticker: { en: "Make a sticker", zh: "做成贴纸" },
  copy: { en: "Copy", zh: "复制" },
  share: { en: "Share a link", zh: "分享链接" },
  copied: { en: "Copied. The copy is the picture alone; the downloaded PNG also holds how it was drawn.", zh: "已复制。复制的只有图像；下载的 PNG 还包含绘制方法。" },
  linkCopied: { en: "Link copied. It holds every setting, but no pictures.", zh: "链接已复制。它包含全部设置，但不含图片。" },
  shareUnsupported: { en: "This browser offers no clipboard here.", zh: "此浏览器在这里没有剪贴板。" },
  shareDenied: { en: "The browser did not allow it. Its settings for this page can.", zh: "浏览器没有允许。可以在浏览器的网站设置中允许。" },
  shareFailed: { en: "The browser could not do it.", zh: "浏览器没能完成。" },

  sticker: { en: "Sticker", zh: "贴纸" },
  stickerFor: { en: "For", zh: "用于" },
  stickerEmoji: { en: "An emoji of one's own", zh: "自定义表情" },
  stickerType: { en: "File", zh: "文件" },
  stickerRim: { en: "White rim", zh: "白色描边" },
  stickerSave: { en: "Download", zh: "下载" },
  stickerSize: { en: "{width} × {height}, {kilobytes} kB.", zh: "{width} × {height}，{kilobytes} kB。" },
  stickerNoWebp: { en: "This browser does not write WebP, so it is a PNG.", zh: "此浏览器不能生成 WebP，因此是 PNG。" },
  stickerEmpty: { en: "Nothing is drawn on this picture.", zh: "这张图上什么都没有。" },
  stickerLarge: { en: "The file is larger than is taken there. WebP files are smaller.", zh: "文件超过允许的大小。WebP 文件更小。" },

  opened: { en: "This picture knows how it was drawn", zh: "这张图记得自己是怎样画的" },
  openedSteer: { en: "Use it as: {kind}", zh: "用作{kind}" },
  openedUnseen: {
    en: "The settings in the file are filled in, but its picture cannot be shown: it is damaged or too large.",
    zh: "已填入文件中的设置，但其中的图片无法显示：已损坏或过大。",
  },
  openFile: { en: "Open a PNG", zh: "打开 PNG" },
  taken: { en: "Filled in as it was drawn. Draw makes the same picture again.", zh: "已按原样填好。按“绘制”会画出同一张图。" },
  takenPart: { en: "Filled in from the picture.", zh: "已按图片填好。" },
  takenLink: { en: "Filled in from the link.", zh: "已按链接填好。" },
  takenForeign: { en: "Filled in from another tool's picture.", zh: "已按其他工具的图片填好。" },
  takenSoon: { en: "The settings are filled in as soon as the model is here.", zh: "模型就绪后会填好设置。" },
  takenModel: { en: "It was drawn by another model, {model}: this one draws it another way.", zh: "它由另一个模型 {model} 绘制，此模型画出来会不一样。" },
  takenLeft: { en: "Left out, since this model or page does not have it: {list}.", zh: "未能套用（此模型或页面没有）：{list}。" },
  takenNothing: { en: "That file does not say how it was drawn.", zh: "这个文件没有记录绘制方法。" },
  takenDamaged: { en: "What that file says of how it was drawn is damaged. Nothing was changed.", zh: "文件中的绘制记录已损坏，没有作任何更改。" },
  takenWrongLink: { en: "That link is damaged or too long. Nothing was filled in.", zh: "链接已损坏或过长，没有填入任何内容。" },
  comma: { en: ", ", zh: "、" },
  space: { en: " ", zh: "" },

  album: { en: "Drawn before", zh: "画过的图" },
  albumCount: { en: "{count} kept in this browser, {size}", zh: "此浏览器中保存了 {count} 张，{size}" },
  albumHits: { en: "{hits} of {count}", zh: "{count} 张中的 {hits} 张" },
  albumSearch: { en: "Search", zh: "搜索" },
  albumSearchHint: { en: "words, a style, a seed", zh: "文字、风格或种子" },
  albumFilter: { en: "Show", zh: "显示" },
  albumAll: { en: "Everything", zh: "全部" },
  albumStarred: { en: "Starred", zh: "已收藏" },
  albumSteered: { en: "Steered by pictures", zh: "用图片引导的" },
  albumOpened: { en: "Opened from files", zh: "从文件打开的" },
  albumEmpty: {
    en: "What you draw is kept here, in this browser only. A PNG that was drawn here brings its settings back: drop it on the page, paste it, or open it.",
    zh: "你画的图会保存在这里，只在此浏览器中。在这里画的 PNG 可以恢复它的设置：拖到页面上、粘贴，或者打开它。",
  },
  albumNone: { en: "Nothing like that was drawn.", zh: "没有找到。" },
  albumMore: { en: "Show more", zh: "显示更多" },
  albumClear: { en: "Delete all", zh: "全部删除" },
  albumClearAll: { en: "Delete all {count} pictures? They cannot be brought back.", zh: "删除全部 {count} 张图？删除后无法恢复。" },
  albumClearStarred: {
    en: "Delete all {count} pictures, {starred} of them starred? They cannot be brought back.",
    zh: "删除全部 {count} 张图，包括收藏的 {starred} 张？删除后无法恢复。",
  },
  albumCleared: { en: "All pictures are deleted.", zh: "已删除所有图片。" },
  albumDeleted: { en: "Deleted: {prompt}.", zh: "已删除：{prompt}。" },
  albumFull: { en: "There is no room left: the last picture was not kept. Delete some, or take stars away.", zh: "没有空间了：最后一张图没有保存。请删除一些图片或取消收藏。" },
  albumMissing: { en: "That picture is not kept any more.", zh: "这张图已不再保存。" },
  albumDamaged: { en: "That picture is damaged in the browser's storage and cannot be shown.", zh: "这张图在浏览器存储中已损坏，无法显示。" },
  albumUnreadable: { en: "Pictures that are damaged in the browser's storage: {count}.", zh: "浏览器存储中损坏的图片：{count} 张。" },
  albumBlocked: {
    en: "The browser keeps no pictures for this page, perhaps because the window is private. What you draw is here until the page is closed.",
    zh: "浏览器没有为此页面保存图片，可能是隐私窗口。画好的图在关闭页面前一直在这里。",
  },
  recall: { en: "Show again{marks}: {prompt}", zh: "再次显示{marks}：{prompt}" },
  recallStarred: { en: ", starred", zh: "（已收藏）" },
  recallOpened: { en: ", opened from a file", zh: "（从文件打开）" },
  openedFile: { en: "Opened from a file", zh: "从文件打开" },

  technique: { en: "How it was drawn", zh: "绘制过程" },
  film: { en: "Step by step", zh: "逐步" },
  filmHint: {
    en: "Above, the latent with its noise as a step finds it; below, what the model then takes the picture to be. σ is the noise level.",
    zh: "上面是这一步开始时带噪声的潜变量，下面是模型此时对画面的估计。σ 是噪声水平。",
  },
  filmList: { en: "Steps of the drawing", zh: "绘制的各个步骤" },
  filmNoisy: { en: "Latent before step {step}, noise level {sigma}", zh: "第 {step} 步之前的潜变量，噪声水平 {sigma}" },
  filmEstimate: { en: "Estimate after step {step}", zh: "第 {step} 步之后的估计" },
  filmSwitch: { en: "Here the texture expert takes over.", zh: "从这里起由纹理专家接手。" },
  fusion: { en: "Models that draw together", zh: "共同绘制的模型" },
  fusionHint: {
    en: "What each of them takes the picture to be, and how much that weighs.",
    zh: "每个模型对画面的估计及其权重。",
  },
  fusionStep: { en: "Step {step}", zh: "第 {step} 步" },
  fusionEstimate: { en: "{model}, weight {weight}: estimate in step {step}", zh: "{model}，权重 {weight}：第 {step} 步的估计" },
  defaultModel: { en: "Default model", zh: "默认模型" },
  companionOutline: { en: "Outline companion", zh: "轮廓辅助模型" },
  companionVariation: { en: "Variation companion", zh: "变体辅助模型" },
  timeline: { en: "Downloads and steps", zh: "下载与步骤" },
  timelineHint: {
    en: "When each part of the model came, and when it was needed: drawing does not wait for all of it. Times in seconds.",
    zh: "模型各部分到达和被用到的时间：不必等全部到达就开始绘制。时间以秒计。",
  },
  timelinePart: { en: "Part", zh: "部分" },
  timelineCame: { en: "Came", zh: "到达" },
  timelineNeeded: { en: "Needed", zh: "用到" },
  timelineSteps: { en: "Steps", zh: "步骤" },
  timelineStepsOf: { en: "{steps} steps", zh: "{steps} 步" },
  timelineCut: { en: "Between loading and drawing {seconds} s passed, which are cut out.", zh: "加载与绘制之间的 {seconds} 秒已略去。" },
  partText: { en: "Text encoder", zh: "文本编码器" },
  partStructure: { en: "Structure expert", zh: "结构专家" },
  partTexture: { en: "Texture expert", zh: "纹理专家" },
  partDecoder: { en: "Decoder", zh: "解码器" },
  partEncoder: { en: "Encoder", zh: "编码器" },
  partUnet: { en: "Denoiser", zh: "去噪网络" },
  partControlnet: { en: "ControlNet", zh: "ControlNet" },
  partPicture: { en: "Picture encoder", zh: "图片编码器" },

  suggestions: { en: "Suggestions", zh: "建议" },
  suggestionCount: { en: "{count} suggestions. Arrow keys choose, Enter takes.", zh: "{count} 条建议。用方向键选择，回车采用。" },
  surprise: { en: "Surprise me", zh: "随便来一个" },

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
  stopped: { en: "Stopped.", zh: "已取消。" },
  restarting: {
    en: "The engine stopped. Restarting it: the drawing goes on where it was…",
    zh: "引擎意外停止，正在重新启动，随后从中断处继续绘制…",
  },

  onWebgpu: { en: "WebGPU", zh: "WebGPU" },
  onCpu: { en: "CPU", zh: "CPU" },
  fallback: {
    en: "This browser offers no WebGPU, so the picture is drawn on the CPU. It takes longer.",
    zh: "此浏览器没有可用的 WebGPU，改用 CPU 绘制，会慢一些。",
  },
  overflow: {
    en: "Numbers grew too large for the GPU's 16-bit arithmetic, so the picture was finished in 32 bits. It took longer.",
    zh: "部分数值超出 GPU 16 位运算的范围，画面改用 32 位运算完成，用时更长。",
  },

  news: { en: "News of this page", zh: "页面消息" },
  update: { en: "A new version of this page is there.", zh: "此页面有新版本。" },
  updateOthers: {
    en: "Close this page’s other tabs first, then reload.",
    zh: "请先关闭此页面的其他标签页，再重新加载。",
  },
  reload: { en: "Reload", zh: "重新加载" },

  noStore: {
    en: "This browser keeps no files for this page, as in a private window: the model is fetched anew at every visit.",
    zh: "此浏览器不为本页面保存文件（例如无痕窗口），每次访问都要重新下载模型。",
  },
  noRoom: {
    en: "The browser has no room to keep the whole model: what is missing is fetched anew at the next visit. Deleting other models below makes room.",
    zh: "浏览器没有足够的空间保存整个模型，缺少的部分下次访问时会重新下载。删除下方的其他模型可以腾出空间。",
  },
  offline: {
    en: "There is no network. What has arrived is kept; the download goes on when the network is back.",
    zh: "网络已断开。已下载的部分会保留，网络恢复后继续下载。",
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
  errorOffline: {
    en: "There is no network, and not all of the model is in this browser. Press Draw when the network is back.",
    zh: "没有网络，而且此浏览器中没有完整的模型。网络恢复后请再按“绘制”。",
  },
  errorMemory: {
    en: "There is not enough memory for this. A smaller picture, fewer steering pictures or a smaller model may fit; closing other tabs helps, too.",
    zh: "内存不足。可以尝试更小的图片、更少的引导图片或更小的模型，关闭其他标签页也有帮助。",
  },
  errorInvalid: { en: "A setting is out of its range: {parameter}.", zh: "有一项设置超出范围：{parameter}。" },
  errorUnsupported: { en: "This model cannot do that.", zh: "此模型不支持这个操作。" },
  errorDevice: {
    en: "The graphics device failed. Press Draw to try again, or draw on the CPU.",
    zh: "图形设备出错。请再按“绘制”，或改用 CPU。",
  },
  errorCrash: {
    en: "The engine stopped unexpectedly, each time it was restarted. A smaller picture may work. Press Draw: it starts afresh.",
    zh: "引擎多次意外停止，重新启动后仍然如此。可以试试较小的尺寸，然后再按“绘制”。",
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

/** A byte count as a person reads it. @param {number} bytes */
export const megabytes = (bytes) => (bytes < 1e6 ? `${number(bytes / 1e3, 0)} kB` : `${number(bytes / 1e6, bytes < 1e8 ? 1 : 0)} MB`);

/** @param {number} value @param {number} digits */
export const number = (value, digits) =>
  value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
