import type {} from "pangu-draw/react";
import "pangu-draw/element";
import { createRoot } from "react-dom/client";
import { Sticker } from "./Sticker.tsx";

createRoot(document.getElementById("root")!).render(
  <>
    <Sticker prompt="red apple" />
    <pangu-draw
      model="models/tiny/"
      device="cpu"
      steps={2}
      prompt="green pear"
      onimage={({ detail }) => (document.title = `${detail.prompt}, ${detail.file.size} bytes`)}
    />
  </>,
);
