/** Types of `<pangu-draw>` in JSX, for React 19: `import type {} from "pangu-draw/react"`. */

import type { DetailedHTMLProps, HTMLAttributes } from "react";
import type { PanguDrawElement, PanguDrawElementEventMap, QueuePolicy } from "./types.js";

/** Properties that attributes are for. */
type Properties =
  | "model"
  | "prompt"
  | "negativePrompt"
  | "pictureStyle"
  | "seed"
  | "steps"
  | "guidance"
  | "width"
  | "height"
  | "controls"
  | "device"
  | "theme"
  | "queuePolicy"
  | "preload"
  | "name"
  | "required"
  | "disabled";

/** React listens to the event `x` of a custom element by the property `onx`. */
type Listeners = {
  [Type in "load-progress" | "step" | "image" | "error" | "cancel" as `on${Type}`]?: (event: PanguDrawElementEventMap[Type]) => void;
};

/** Attributes of other names than their properties: these work on a server, too. */
interface Attributes {
  "negative-prompt"?: string;
  "picture-style"?: string;
  "queue-policy"?: QueuePolicy;
}

type Props = DetailedHTMLProps<HTMLAttributes<PanguDrawElement>, PanguDrawElement> &
  Partial<Pick<PanguDrawElement, Properties>> &
  Attributes &
  Listeners;

declare module "react" {
  namespace JSX {
    interface IntrinsicElements {
      "pangu-draw": Props;
    }
  }
}
