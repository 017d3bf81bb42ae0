/** The token of a client: fixed, or from a function that may fail. @module */

import { NotConnected } from "./errors.js";
import { now, within } from "./time.js";

const TOKEN_TIME = 10_000; // ms that the function may take

/** @typedef {string | (() => string | Promise<string>)} Token */

/** The token function failed, gave nothing usable, or took too long. `cause` says why. */
export class TokenFailed extends Error {}

/** Gives tokens. `renewable`: whether another call can give another token. */
export class TokenSource {
  #token;

  /** @param {Token} token */
  constructor(token) {
    this.#token = token;
    this.renewable = typeof token === "function";
  }

  /**
   * A token to use now. Throws TokenFailed, or NotConnected for a fixed token that is unusable.
   *
   * @param {AbortSignal} signal
   */
  async fresh(signal) {
    if (typeof this.#token !== "function") return checked(this.#token);
    const ask = this.#token;
    try {
      return checked(await within(Promise.resolve().then(ask), now() + TOKEN_TIME, signal));
    } catch (error) {
      if (error instanceof NotConnected) {
        throw new TokenFailed(`the token function gave an unusable value: ${error.message}`, { cause: error });
      }
      throw new TokenFailed(`the token function failed: ${error}`, { cause: error });
    }
  }
}

/** @param {unknown} token @returns {string} */
function checked(token) {
  if (typeof token === "string" && /^[\x21-\x7e]+$/.test(token)) return token;
  throw new NotConnected(`the token ${token === "" ? "is empty" : "is not a string of printable ASCII characters"}`);
}
