/** The few things that every part of the page does with its elements. */

/** @template {HTMLElement} T @param {string} id @param {{ new (): T }} type @returns {T} */
export function element(id, type) {
  const found = document.getElementById(id);
  if (found instanceof type) return found;
  throw new Error(`the page has no ${id}`);
}

/** @template {HTMLElement} T @param {ParentNode} root @param {string} selector @param {{ new (): T }} type @returns {T} */
export function within(root, selector, type) {
  const found = root.querySelector(selector);
  if (found instanceof type) return found;
  throw new Error(`the page has no ${selector}`);
}

/** Shows a dialog until it is closed; answers whether by `agree`. @param {HTMLDialogElement} dialog @param {HTMLElement} agree */
export function answered(dialog, agree) {
  const { promise, resolve } = Promise.withResolvers();
  dialog.returnValue = "";
  dialog.addEventListener("close", () => resolve(dialog.returnValue === agree.id), { once: true });
  agree.onclick = () => dialog.close(agree.id);
  dialog.showModal();
  return /** @type {Promise<boolean>} */ (promise);
}
