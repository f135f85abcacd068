import { Sticker } from "./sticker.js";

export default function Page() {
  return <Sticker prompt="red apple" />;
}
