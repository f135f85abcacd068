import { createRoot } from "react-dom/client";
import { Sticker } from "./Sticker";

createRoot(document.getElementById("root")!).render(<Sticker prompt="red apple" />);
