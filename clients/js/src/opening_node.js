/** Open a WebSocket of the package `ws`, which sends headers and tells why a connection fails. @module */

// @ts-ignore it has no types of its own
import { WebSocket } from "ws";

import { ConnectionRefused } from "./errors.js";
import { TryAgain, WIRE } from "./opening.js";

const MAX_BODY = 200; // characters of a body that is not the bus's own, in an error text
const RETRIED = [408, 425, 429, 500, 502, 503, 504];
const UNTRUSTED = /CERT|SIGNATURE|SELF_SIGNED/;

/**
 * A WebSocket that is being opened. `fail` gets what goes wrong.
 *
 * @param {string} url @param {string} token @param {object} options for `ws` @param {(error: Error) => void} fail
 * @returns {import("./opening.js").Socket}
 */
export function withHeaders(url, token, options, fail) {
  const headers = { Authorization: `Bearer ${token}` };
  const socket = new WebSocket(url, [WIRE], { perMessageDeflate: false, maxPayload: 0, ...options, headers });
  socket.on("unexpected-response", async (/** @type {any} */ _, /** @type {any} */ response) => {
    let body = "";
    try {
      for await (const piece of response.setEncoding("utf8")) body += piece;
    } catch {
      // what came of it is enough
    }
    fail(answered(response.statusCode, response.headers["retry-after"], body));
  });
  socket.on("error", (/** @type {any} */ error) => {
    fail(new TryAgain(reasonOf(url, error), error, 0, UNTRUSTED.test(error.code) ? "untrusted" : undefined));
  });
  return socket;
}

/** @param {string} url @param {any} error */
function reasonOf(url, error) {
  const { code = "", message } = error;
  if (code === "ENOTFOUND" || code === "EAI_AGAIN") return `the host name could not be resolved: ${message}`;
  if (code === "ECONNREFUSED") return `the connection was refused: ${message || code}`;
  if (UNTRUSTED.test(code)) return `the certificate of ${url} could not be verified: ${message}`;
  return message || code;
}

/** What an HTTP answer means. @param {number} status @param {string | undefined} after @param {string} text */
function answered(status, after, text) {
  let code = "";
  let message = "the server refused the connection";
  try {
    const body = JSON.parse(text);
    code = String(body.code);
    message = String(body.message);
  } catch {
    const shown = text.trim().replace(/\p{C}/gu, " ").slice(0, MAX_BODY);
    if (shown) message += `: ${shown}`;
  }
  const refused = new ConnectionRefused(status, code, message);
  if (RETRIED.includes(status)) {
    return new TryAgain(refused.message, refused, /^\d+$/.test(after ?? "") ? Number(after) * 1000 : 0);
  }
  return code === "EXPIRED" ? new TryAgain(refused.message, refused, 0, "expired") : refused;
}
