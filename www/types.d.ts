/** Shapes shared by the page, the main-thread API and the worker. */

import type { PanguDrawError } from "./engine.js";

/** Where the networks run: `auto` takes WebGPU when the browser has an adapter, else the CPU. */
export type DeviceChoice = "auto" | "webgpu" | "cpu";

/** The numbers between a network's layers. */
export type Precision = "f16" | "f32";

/** A text in English and Chinese. */
export interface Bilingual {
  en: string;
  zh: string;
}

/** How far a load has come. */
export interface LoadProgress {
  /** `fetch` while bytes arrive, `build` while the last network takes its weights in. */
  stage: "fetch" | "build";
  /** Name of the model that the component at hand is of; of several that share it, the first that asked for it. */
  model: string;
  /** Role of that component, e.g. `structure`. */
  component: string;
  /** Bytes of that component that are here, and in all. */
  componentLoaded: number;
  componentTotal: number;
  /** Bytes here so far, of all components that are being loaded. */
  loaded: number;
  /** Bytes of all of them. */
  total: number;
  /** Bytes of `loaded` that the browser had stored. */
  stored: number;
  /** What comes over the network, as of the last seconds; null before that is known. */
  bytesPerSecond: number | null;
  /** What is left at that rate. */
  secondsLeft: number | null;
}

export interface OpenOptions {
  device?: DeviceChoice;
  /**
   * Bytes of weights that stay in the device's memory though nothing needs them: 0 lets everything go at once, Infinity keeps
   * all. 1 GiB unless said otherwise.
   */
  memory?: number;
  /** Whether weights are kept in the browser, so that they are fetched once. Yes, unless said otherwise. */
  store?: boolean;
  /** Stops the opening, also inside a download. */
  signal?: AbortSignal;
}

export interface LoadOptions extends OpenOptions {
  /** Whether to wait for everything, rather than for what the first step needs. */
  all?: boolean;
  /** Whether to ask the browser, which may ask the user, to keep what is stored when space is short. Yes, unless said otherwise. */
  persist?: boolean;
  /** Hears also of what arrives after the generator can draw. */
  onProgress?: (progress: LoadProgress) => void;
}

/** What a drawing takes. */
export interface Plan {
  /** Files in the order of their need. `here`: in the device's memory already. */
  components: { model: string; role: string; bytes: number; storedBytes: number; here: boolean }[];
  /** Bytes that must come over the network. */
  fetchBytes: number;
  /** Bytes that the browser has stored. */
  storedBytes: number;
  /** Most bytes of weights in the device's memory at once. */
  peakWeightBytes: number;
  /** Most bytes in the engine's own memory while weights pass through it. */
  transferBytes: number;
  /** Why this device cannot do it, in English; null if it can. */
  obstacle: string | null;
}

/** Memory in bytes. */
export interface Memory {
  /** Weights on the device now. */
  weightBytes: number;
  /** Most weights there ever were at once. */
  peakWeightBytes: number;
  /** What the GPU's allocator has given out; null on the CPU. */
  usedBytes: number | null;
  /** What it holds of the GPU's memory. */
  reservedBytes: number | null;
  /** WebAssembly's own memory, which never shrinks. */
  heapBytes: number;
}

/** A model of which the browser has something stored. */
export interface StoredModel {
  address: string;
  name: string;
  titleEn: string;
  titleZh: string;
  /** Bytes stored of its files; those that models share count for each. */
  storedBytes: number;
  /** Bytes of all its files. */
  bytes: number;
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
  /** Guidance by the style on top, as PanGu-Draw has it; 0: the style's words go into the prompt instead. */
  styleScale?: number;
  /** One of {@link Info.samplers}. */
  sampler?: string;
  /** Where in the noise schedule the steps lie: `leading`, `linspace`, `trailing`, `karras` or `exponential`. */
  spacing?: string;
  width?: number;
  height?: number;
  /** What is behind a picture with transparency: "transparent" (the default), or a colour as "#rrggbb". */
  background?: string;
  /**
   * How steps show what the picture looks like. `projection`: every step does, small and at next to no cost, where
   * {@link Info.projects} says that the model can, beside what `previewEvery` asks for; `decoder`: as `previewEvery` says, and
   * not otherwise; `none`: not at all. Left out, it is `decoder` where `previewEvery` asks for any, else `projection`.
   */
  preview?: "projection" | "decoder" | "none";
  /** Has the decoder show the picture after every so many steps, 0 = never; each takes about as long as a step. */
  previewEvery?: number;
  /** Whether every step tells what it was made of: {@link StepProgress.insight}. */
  insight?: boolean;
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
  /** The numbers that networks compute in: "auto" takes f16 where a GPU has `shader-f16`, else f32. */
  precision?: "auto" | Precision;
  /** Stops the drawing, also inside a step and while something is loaded for it. */
  signal?: AbortSignal;
  /** What arrives for the drawing while it is drawn. */
  onLoad?: (progress: LoadProgress) => void;
  onStep?: (step: StepProgress) => void;
  /**
   * The engine died over the drawing: its worker was killed, it ran out of memory, it crashed, the GPU was lost. A new one is
   * started and goes on; only if that dies, too, and again, without getting any further, the drawing fails.
   */
  onRestart?: (restart: Restart) => void;
}

/** The death of an engine that another takes the place of. */
export interface Restart {
  /** What it died of: a `CrashError` or a `DeviceError`. */
  error: PanguDrawError;
  /** Steps of the drawing that need not be made again. */
  step: number;
}

/** How far a drawing has come; reported after every block of the network. */
export interface StepProgress {
  stage: "text" | "denoise" | "decode";
  /** Steps finished. */
  step: number;
  steps: number;
  /** Part of the running step that is done, 0 to 1. */
  within: number;
  /** What the picture looks like so far: a pixel a latent cell from a projection, of the picture's size from the decoder. */
  preview?: Pixels;
  previewBy?: "projection" | "decoder";
  /** With the event that finishes a step: the noise level that the step started from. */
  sigma?: number;
  /** With that event: the expert that has this noise level; null in an undivided model. */
  expert?: "structure" | "texture" | null;
  /** With that event, if it was asked for. */
  insight?: Insight;
}

/** What a step was made of. There are no pictures of models that have no projection. */
export interface Insight {
  /** The latent that the step started from, noise and all, scaled to unit variance. */
  noisy: Pixels | null;
  /** What each model that was asked takes the picture to be, and its weight among all; the model's own first, if it was asked. */
  estimates: { model: string; weight: number; picture: Pixels | null }[];
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
  /** The numbers that it was computed with. */
  arithmetic: Arithmetic;
}

/** The numbers that a picture was computed with, at the end of each stage. */
export interface Arithmetic {
  denoise: Precision;
  autoencoder: Precision;
  /** Where f16 was too small: that evaluation of the stage's networks (from 1) was made again in f32, and so were all after it. */
  overflows: { stage: "denoise" | "autoencoder"; evaluation: number }[];
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
  /** The numbers that networks compute in here, unless a request says otherwise. */
  precision: Precision;
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
    styleScale: number;
    spacing: string;
    tLow: number;
    exchange: string;
    upsampler: string;
  };
  image: { width: number; height: number; multiple: number; max: number };
  /** Whether a drawing can begin with a picture, or with a draft of another size. */
  encodes: boolean;
  /** Whether steps can show their latent without the decoder. */
  projects: boolean;
  /** File in the model's folder that lists what it knows by name; null if there is none. */
  vocabulary: string | null;
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
export type DrawRequest = Omit<DrawOptions, "signal" | "onLoad" | "onStep" | "onRestart" | "controls" | "init" | "mask"> & {
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
  | { op: "open"; url: string; device: DeviceChoice; memory?: number; store: boolean }
  | { op: "load"; all: boolean }
  | { op: "plan"; request: DrawRequest; pictures: Pictures }
  | { op: "memory" }
  | { op: "models" }
  | { op: "delete"; address: string }
  | { op: "generate"; request: DrawRequest; pictures: Pictures; checkpoint?: Uint8Array<ArrayBuffer> }
  | { op: "size"; bytes: Uint8Array<ArrayBuffer> }
  | { op: "view"; kind: ControlKind; image: Pixels; width: number; height: number };

/** To the worker. */
export type ToWorker = { id: number } & (Call | { op: "cancel" });

/** A finished picture as it crosses from the worker. */
export type PictureMessage = Omit<Picture, "png" | "seed"> & { png: Uint8Array<ArrayBuffer> };

/** Where a drawing stands after a step: what another engine needs to finish it. */
export interface CheckpointMessage {
  step: number;
  checkpoint: Uint8Array<ArrayBuffer>;
}

/**
 * From the worker: an event of a running call, its answer, its failure, the end of the worker, or the name of the lock that it
 * holds for life.
 */
export type FromWorker =
  | { id: number; event: LoadProgress | StepProgress | CheckpointMessage }
  | { id: number; result: unknown }
  | { id: number; error: ErrorMessage }
  | { end: ErrorMessage }
  | { life: string };

/**
 * What becomes of a drawing that is asked for while the engine draws: it waits; it fails with `busy`; or it takes the place of
 * what the same element has running or waiting.
 */
export type QueuePolicy = "queue" | "reject" | "replace";

/** A drawing is done. */
export interface ImageDetail {
  /** The picture as the form gets it. */
  file: File;
  picture: Picture;
  prompt: string;
  seed: number;
}

/** What an element was at. */
export interface TaskDetail {
  task: "draw" | "load";
  /** The prompt of a drawing. */
  prompt?: string;
}

/** What failed, and why. */
export interface ErrorDetail extends TaskDetail {
  error: PanguDrawError;
  code: string;
  message: string;
}

/** The events of `<pangu-draw>`; none bubbles. */
export interface PanguDrawElementEventMap extends Omit<HTMLElementEventMap, "cancel" | "error"> {
  "load-progress": CustomEvent<LoadProgress>;
  step: CustomEvent<StepProgress>;
  image: CustomEvent<ImageDetail>;
  error: CustomEvent<ErrorDetail>;
  cancel: CustomEvent<TaskDetail>;
}

/** `<pangu-draw>`. Numbers are null where the model's own setting holds. */
export interface PanguDrawElement extends HTMLElement {
  /** The folder that holds `model.json`; the default model beside `element.js` unless said otherwise. */
  model: string;
  /** What is in the field now; the attribute is what it begins with. */
  prompt: string;
  negativePrompt: string;
  /** Id of one of {@link Info.styles}. The attribute is `picture-style`: `style` is CSS. */
  pictureStyle: string;
  seed: number | null;
  steps: number | null;
  guidance: number | null;
  width: number | null;
  height: number | null;
  /** Kinds of pictures that the visitor may add, separated by spaces. */
  controls: string;
  device: DeviceChoice;
  /** `auto` is the colour scheme of the page. */
  theme: "auto" | "light" | "dark";
  queuePolicy: QueuePolicy;
  /** Whether what a drawing needs is fetched at once. */
  preload: boolean;
  name: string;
  /** Whether the form wants a picture. */
  required: boolean;
  disabled: boolean;
  /** The picture that the form gets. */
  readonly value: File | null;
  readonly type: string;
  readonly form: HTMLFormElement | null;
  readonly labels: NodeList;
  readonly validity: ValidityState;
  readonly validationMessage: string;
  readonly willValidate: boolean;
  checkValidity(): boolean;
  reportValidity(): boolean;
  /** Draws what the attributes and the visitor say; `options` say more, or otherwise. */
  draw(options?: Partial<DrawOptions>): Promise<Picture>;
  /** Fetches what the first step of a drawing needs; the rest follows. */
  load(): Promise<void>;
  /** Ends what this element draws, waits for, or loads. */
  cancel(): void;
  addEventListener<Type extends keyof PanguDrawElementEventMap>(
    type: Type,
    listener: (this: PanguDrawElement, event: PanguDrawElementEventMap[Type]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | AddEventListenerOptions): void;
  removeEventListener<Type extends keyof PanguDrawElementEventMap>(
    type: Type,
    listener: (this: PanguDrawElement, event: PanguDrawElementEventMap[Type]) => void,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(type: string, listener: EventListenerOrEventListenerObject, options?: boolean | EventListenerOptions): void;
}

declare global {
  interface HTMLElementTagNameMap {
    "pangu-draw": PanguDrawElement;
  }
}
