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
  /** Stops the drawing, also inside a step. */
  signal?: AbortSignal;
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
  defaults: { steps: number; guidanceScale: number; sampler: string; style: string | null };
  image: { width: number; height: number; multiple: number; max: number };
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

/** A request as it crosses to the worker: {@link DrawOptions} without its functions. */
export type DrawRequest = Omit<DrawOptions, "signal" | "onStep"> & { seed: number };

/** To the worker. */
export type ToWorker =
  | { id: number; op: "load"; url: string; device: DeviceChoice }
  | { id: number; op: "generate"; request: DrawRequest }
  | { id: number; op: "cancel" };

/** A finished picture as it crosses from the worker. */
export type PictureMessage = Pixels & { png: Uint8Array<ArrayBuffer>; timings: Record<string, number> };

/** From the worker: an event of a running call, its answer, its failure, or the end of the worker. */
export type FromWorker =
  | { id: number; event: LoadProgress | StepProgress }
  | { id: number; result: Info | PictureMessage }
  | { id: number; error: ErrorMessage }
  | { crash: string };
