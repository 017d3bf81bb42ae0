/** Open a WebSocket, and sort what goes wrong into what may pass and what will not. @module */

import { NotConnected } from "./errors.js";
import { Deferred, TimedOut, now, within } from "./time.js";

const OPEN_TIME = 10_000; // ms for one attempt
export const WIRE = "arqonbus.v1.json";

/**
 * What both kinds of WebSocket have; the last two are those of the package `ws`.
 *
 * @typedef {WebSocket & {ping?: () => void, terminate?: () => void, on?: (event: string, handle: Function) => void}} Socket
 */

/**
 * This attempt failed; another may succeed. `after`: milliseconds that the server asks to wait. `because`: of a
 * certificate that could not be verified, or of a token that has expired.
 */
export class TryAgain extends Error {
  /** @param {string} reason @param {unknown} [cause] @param {number} [after] @param {"untrusted" | "expired"} [because] */
  constructor(reason, cause, after = 0, because) {
    super(reason, { cause });
    this.after = after;
    this.because = because;
  }
}

/** The url, if a client can connect to it. Throws TypeError. @param {string} url */
export function checkUrl(url) {
  const { protocol } = new URL(url);
  if (protocol !== "ws:" && protocol !== "wss:") {
    throw new TypeError(`a client cannot connect to ${url}; use ws:// or wss://`);
  }
  return url;
}

/**
 * Connect and upgrade. `use` gets the open socket before anything arrives. Throws TryAgain, ConnectionRefused for
 * a final answer, NotConnected for a final failure.
 *
 * @template T
 * @param {string} url @param {string} token
 * @param {object} options for the package `ws`
 * @param {(socket: Socket) => T} use
 * @param {AbortSignal} signal
 * @returns {Promise<T>}
 */
export async function open(url, token, options, use, signal) {
  const node = await forNode();
  /** @type {Deferred<T>} */
  const opened = new Deferred();
  const socket = node ? node.withHeaders(url, token, options, opened.reject) : withSubprotocol(url, token);
  socket.onopen = () => opened.resolve(use(socket));
  socket.onclose = ({ code }) => opened.reject(new TryAgain(`the connection failed; why is not told (${code})`));
  try {
    return await within(opened.promise, now() + OPEN_TIME, signal);
  } catch (error) {
    opened.promise.catch(() => {}); // it is closed below
    socket.onopen = socket.onclose = null;
    socket.terminate ? socket.terminate() : socket.close();
    throw error instanceof TimedOut ? new TryAgain("no answer came to the upgrade in time") : error;
  }
}

/** The module for the package `ws`, which tells why a connection fails; undefined where there is none. */
async function forNode() {
  const { process, Deno, Bun } = /** @type {any} */ (globalThis);
  if (!process?.versions?.node || Deno || Bun) return undefined;
  try {
    return await import("./opening_node.js");
  } catch {
    if (typeof WebSocket === "function") return undefined;
    throw new NotConnected("this version of Node has no WebSocket; install the package ws");
  }
}

/** @param {string} url @param {string} token @returns {Socket} */
function withSubprotocol(url, token) {
  try {
    return new WebSocket(url, [WIRE, `bearer.${token}`]);
  } catch (error) {
    throw new NotConnected(`no connection to ${url} is possible: ${error}`, error);
  }
}
