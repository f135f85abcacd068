"use client";

import { useEffect, useState } from "react";
// Both are also evaluated on the server, where the page is rendered first.
import "pangu-draw/element";
import { Generator } from "pangu-draw";

export function Sticker({ prompt }) {
  const [address, setAddress] = useState();
  useEffect(() => {
    const drawn = Generator.load("/models/tiny/", { device: "cpu" }).then(async (generator) => {
      const { png } = await generator.generate({ prompt, seed: 7, steps: 2 });
      generator.dispose();
      setAddress(URL.createObjectURL(png));
    });
    drawn.catch(console.error);
  }, [prompt]);
  return (
    <>
      {address ? <img src={address} alt={prompt} /> : <p>Drawing {prompt}</p>}
      <pangu-draw model="/models/tiny/" device="cpu" steps={2} prompt="green pear" />
    </>
  );
}
