/** Shapes shared by the page, the main-thread API and the worker. */

/** Where the networks run: `auto` takes WebGPU when the browser has an adapter, else the CPU. */
export type DeviceChoice = "auto" | "webgpu" | "cpu";

/** A text in English and Chinese. */
export interface Bilingual {
  en: string;
  zh: string;
}

/** How far a load has come. */
export interface LoadProgress {
  /** `fetch` while bytes arrive, `build` while a network takes its weights in. */
  stage: "fetch" | "build";
  /** Role of the component at hand, e.g. `structure`; empty before the manifest is known. */
  component: string;
  /** Bytes received so far, of all components. */
  loaded: number;
  /** Bytes of all components; 0 before the manifest is known. */
  total: number;
}

export interface LoadOptions {
  device?: DeviceChoice;
  onProgress?: (progress: LoadProgress) => void;
  /** Stops the load, also inside a download. */
  signal?: AbortSignal;
}

/** What a picture beside the prompt steers: where lines are, or what is shown. */
export type ControlKind = "outline" | "variation";

/** Any picture that a page may have. A file is read upright, as its orientation flag says. */
export type PictureSource =
  | Blob
  | ImageBitmap
  | ImageData
  | HTMLImageElement
  | HTMLCanvasElement
  | OffscreenCanvas
  | Pixels;

/** A picture that steers the drawing. What is left out is as {@link Info.controls} says. */
export interface ControlOptions {
  kind: ControlKind;
  image: PictureSource;
  /** The weight of the model that knows it, 0 to 1. */
  strength?: number;
  /** The share of the schedule, from noise on, through which it acts, 0 to 1. */
  until?: number;
  /** How the weight falls until there: not at all, or with the noise. */
  falloff?: "constant" | "noise";
}

/** What a picture is drawn from. Everything but the prompt falls back to the model's own settings. */
export interface DrawOptions {
  prompt: string;
  negativePrompt?: string;
  /** Id of one of {@link Info.styles}. */
  style?: string;
  /** 0 to 2^53 - 1; the same seed draws the same picture. Drawn at random when absent. */
  seed?: number;
  steps?: number;
  /** Classifier-free guidance, 1 = off. */
  guidanceScale?: number;
  /** One of {@link Info.samplers}. */
  sampler?: string;
  width?: number;
  height?: number;
  /** What is behind a picture with transparency: "transparent" (the default), or a colour as "#rrggbb". */
  background?: string;
  /** Sends a preview after every so many steps, 0 = never. */
  previewEvery?: number;
  /** Pictures that steer the drawing; of the kinds in {@link Info.controls}. */
  controls?: ControlOptions[];
  /** What models that draw along hear of each other: one of {@link Info.exchanges}. */
  exchange?: string;
  /** A picture to begin with instead of noise. */
  init?: PictureSource;
  /** How much of the way from noise is drawn over `init`, above 0 and up to 1. */
  strength?: number;
  /** Where `init` is drawn over: where this picture, put on black, is light. */
  mask?: PictureSource;
  /** The timestep at which a large picture passes from a draft to its own size: 0 draws the draft to its end. */
  tLow?: number;
  /** How pictures are scaled between sizes: one of {@link Info.upsamplers}. */
  upsampler?: string;
  /** The kind of control whose model draws the draft, whatever the size. */
  draft?: ControlKind;
  /** Stops the drawing, also inside a step and while something is loaded for it. */
  signal?: AbortSignal;
  /** What is loaded first, where the drawing needs more than the model itself. */
  onLoad?: (progress: LoadProgress) => void;
  onStep?: (step: StepProgress) => void;
}

/** How far a drawing has come; reported after every block of the network. */
export interface StepProgress {
  stage: "text" | "denoise" | "decode";
  /** Steps finished. */
  step: number;
  steps: number;
  /** Part of the running step that is done, 0 to 1. */
  within: number;
  /** What the picture looks like so far, small. */
  preview?: Pixels;
}

/** Straight 8-bit RGBA, rows from the top. */
export interface Pixels {
  width: number;
  height: number;
  rgba: Uint8ClampedArray<ArrayBuffer>;
}

/** A finished picture. */
export interface Picture extends Pixels {
  /** The picture as a file that carries its parameters. */
  png: Blob;
  /** The seed it was drawn from. */
  seed: number;
  /** Seconds by stage. */
  timings: Record<string, number>;
}

/** What was loaded, and where it runs. */
export interface Info {
  /** The model's name. */
  model: string;
  /** Where it was loaded from. */
  url: string;
  device: "webgpu" | "cpu";
  /** The adapter's name, or why there is no WebGPU. */
  deviceDetail: string;
  /** Whether `auto` had to fall back to the CPU. */
  fallback: boolean;
  /** Size of the model's files. */
  bytes: number;
  styles: { id: string; name: Bilingual }[];
  samplers: string[];
  /** The controls that the model can follow, with how strongly and how long it does unless told otherwise. */
  controls: { kind: ControlKind; strength: number; until: number }[];
  exchanges: string[];
  upsamplers: string[];
  defaults: {
    steps: number;
    guidanceScale: number;
    sampler: string;
    style: string | null;
    tLow: number;
    exchange: string;
    upsampler: string;
  };
  image: { width: number; height: number; multiple: number; max: number };
  /** Whether a drawing can begin with a picture, or with a draft of another size. */
  encodes: boolean;
  /** Whether pictures come out with transparency. */
  transparency: boolean;
  /** Share of the noise scale that the structure expert draws, 0 to 1; absent for an undivided model. */
  boundary: number | null;
}

/** An error as it crosses from the worker. */
export interface ErrorMessage {
  code: string;
  message: string;
  /** Further fields of the error: the tensor's name, the chunk, the parameter. */
  details: Record<string, unknown>;
}

/** A request as it crosses to the worker: {@link DrawOptions} without its functions and pictures. */
export type DrawRequest = Omit<DrawOptions, "signal" | "onLoad" | "onStep" | "controls" | "init" | "mask"> & {
  seed: number;
  controls: Omit<ControlOptions, "image">[];
};

/** The pictures of a request, those of the controls in their order. */
export interface Pictures {
  controls: Pixels[];
  init?: Pixels;
  mask?: Pixels;
}

/** What the worker can be asked for. */
export type Call =
  | { op: "load"; url: string; device: DeviceChoice }
  | { op: "generate"; request: DrawRequest; pictures: Pictures }
  | { op: "size"; bytes: Uint8Array<ArrayBuffer> }
  | { op: "view"; kind: ControlKind; image: Pixels; width: number; height: number };

/** To the worker. */
export type ToWorker = { id: number } & (Call | { op: "cancel" });

/** A finished picture as it crosses from the worker. */
export type PictureMessage = Pixels & { png: Uint8Array<ArrayBuffer>; timings: Record<string, number> };

/** From the worker: an event of a running call, its answer, its failure, or the end of the worker. */
export type FromWorker =
  | { id: number; event: LoadProgress | StepProgress }
  | { id: number; result: Info | PictureMessage | Pixels | { width: number; height: number } }
  | { id: number; error: ErrorMessage }
  | { crash: string };
