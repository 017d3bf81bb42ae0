/** What a page, its visibility and its network mean for a connection. @module */

/**
 * Tell a connection of what happens to the page, if this is one. Gives a function that ends this.
 *
 * @param {{networkChanged: () => void, freeze: () => void, thaw: () => void}} connection
 */
export function watchPage(connection) {
  const { document, addEventListener } = /** @type {any} */ (globalThis);
  const controller = new AbortController();
  /** @param {any} target @param {string} name @param {(event: any) => void} handle */
  const on = (target, name, handle) => target.addEventListener(name, handle, { signal: controller.signal });
  const changed = () => connection.networkChanged();
  if (addEventListener) {
    on(globalThis, "online", changed);
    on(globalThis, "offline", changed);
  }
  if (document) {
    on(document, "visibilitychange", () => document.visibilityState === "visible" && changed());
    on(globalThis, "pagehide", (event) => event.persisted && connection.freeze());
    on(globalThis, "pageshow", (event) => event.persisted && connection.thaw());
  }
  return () => controller.abort();
}
