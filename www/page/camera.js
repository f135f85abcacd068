/** The camera: one shot, then it is let go. */

import { answered, element } from "./dom.js";

const ui = {
  dialog: element("camera", HTMLDialogElement),
  video: element("camera-video", HTMLVideoElement),
  shoot: element("camera-shoot", HTMLButtonElement),
  cancel: element("camera-cancel", HTMLButtonElement),
};
ui.cancel.addEventListener("click", () => ui.dialog.close());

/** Whether the browser lets pages ask for a camera. */
export const available = Boolean(navigator.mediaDevices?.getUserMedia);

/**
 * Lets the user take a picture; answers it, or nothing if the camera was left.
 *
 * @returns {Promise<ImageBitmap | undefined>}
 * @throws {DOMException} if there is no camera, or if it may not be used
 */
export async function shot() {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  try {
    ui.video.srcObject = stream;
    ui.shoot.disabled = true;
    const taken = answered(ui.dialog, ui.shoot);
    await ui.video.play().catch(() => {}); // Left before it began.
    ui.shoot.disabled = false;
    ui.shoot.focus();
    return (await taken) ? await createImageBitmap(ui.video) : undefined;
  } finally {
    for (const track of stream.getTracks()) track.stop();
    ui.video.srcObject = null;
  }
}
