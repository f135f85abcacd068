import { useEffect, useState } from "react";
import { CancelledError, Generator, PanguDrawError, type DrawOptions, type Picture, type StepProgress } from "pangu-draw";

const settings: Omit<DrawOptions, "prompt"> = { seed: 7, steps: 2 };

async function draw(options: DrawOptions): Promise<Picture> {
  const generator = await Generator.load("models/tiny/", { device: "cpu", signal: options.signal });
  try {
    return await generator.generate(options);
  } finally {
    generator.dispose();
  }
}

/** What is drawn from a prompt; a new prompt cancels the drawing of the last one. */
export function Sticker({ prompt }: { prompt: string }) {
  const [address, setAddress] = useState<string>();
  const [progress, setProgress] = useState<StepProgress>();
  const [failure, setFailure] = useState<PanguDrawError>();
  useEffect(() => {
    const controller = new AbortController();
    draw({ ...settings, prompt, signal: controller.signal, onStep: setProgress }).then(
      ({ png }) => setAddress(URL.createObjectURL(png)),
      (error: unknown) => {
        if (!(error instanceof PanguDrawError)) throw error;
        if (!(error instanceof CancelledError)) setFailure(error);
      },
    );
    return () => controller.abort();
  }, [prompt]);
  if (failure) return <p role="alert">{`${failure.code}: ${failure.message}`}</p>;
  if (!address) return <progress value={progress?.step ?? 0} max={progress?.steps ?? 1} />;
  return <img src={address} alt={prompt} />;
}
