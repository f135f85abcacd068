import "pangu-draw/element";
import { Generator } from "pangu-draw";

const generator = await Generator.load("models/tiny/", { device: "cpu" });
const { png } = await generator.generate({ prompt: "red apple", seed: 7, steps: 2 });
const image = document.querySelector("img");
image.src = URL.createObjectURL(png);
image.alt = "red apple";
