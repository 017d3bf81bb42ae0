/** The client's state as a program sees it. @module */

/** @typedef {"idle" | "connecting" | "online" | "rejoining" | "closed"} StateName */

/** State of a client. `reason`: one sentence about the last change, `error`: what caused it, if any. */
export class State {
  /** @param {StateName} name @param {string} reason @param {unknown} [error] */
  constructor(name, reason, error) {
    this.name = name;
    this.reason = reason;
    this.error = error;
  }

  toString() {
    return `${this.name}: ${this.reason}`;
  }
}
