/** Call what the program supplied. Nothing that it throws reaches the connection. @module */

import { now, sleep } from "./time.js";

const MAX_WAITING = 10_000; // calls of one asynchronous callback
const CLOSE_TIME = 1000; // ms that they have to end when the client is closed

/**
 * What a program can hear of. Each may be asynchronous; then its calls run one after the other.
 *
 * @typedef {object} CallbackOptions
 * @property {(signal: import("./message.js").Envelope) => unknown} [onSignal] a signal of the bus
 * @property {(message: import("./message.js").Message) => unknown} [onDirect] a message to this client
 * @property {(state: import("./state.js").State) => unknown} [onState] the state changed
 * @property {(error: unknown, where: string) => unknown} [onError] an error of a callback, of the token function,
 *   of a service, or a signal `error` of the bus; default: console.error
 */

/** Runs callbacks; their errors go to `onError` with the callback's name, or to the console. */
export class Callbacks {
  /** @type {CallbackOptions} */
  #options;
  /** @type {Map<string, (() => unknown)[]>} calls that wait, by the callback that runs */
  #waiting = new Map();

  /** @param {CallbackOptions} options */
  constructor(options) {
    this.#options = options;
  }

  /** @param {import("./message.js").Envelope} envelope */
  signal(envelope) {
    this.call("onSignal", this.#options.onSignal, envelope);
  }

  /** @param {import("./message.js").Message} message */
  direct(message) {
    this.call("onDirect", this.#options.onDirect, message);
  }

  /** @param {import("./state.js").State} state */
  state(state) {
    this.call("onState", this.#options.onState, state);
  }

  /**
   * Call it now, or behind those of its calls that still run.
   *
   * @template T
   * @param {string} name @param {((argument: T) => unknown) | undefined} callback @param {T} argument
   */
  call(name, callback, argument) {
    if (!callback) return;
    const call = () => callback(argument);
    const waiting = this.#waiting.get(name);
    if (!waiting) {
      const running = this.#guarded(name, call);
      if (running) this.#workOff(name, running);
    } else if (waiting.length < MAX_WAITING) waiting.push(call);
    else this.failed(new RangeError(`more than ${MAX_WAITING} calls wait; one was dropped`), name);
  }

  /** Report an error. @param {unknown} error @param {string} where the callback or the activity */
  failed(error, where) {
    const { onError = () => console.error(`arqonbus: ${where} failed:`, error) } = this.#options;
    try {
      onError(error, where);
    } catch (another) {
      console.error("arqonbus: onError failed:", another, error);
    }
  }

  /** Give asynchronous callbacks a moment to end. */
  async close() {
    const end = now() + CLOSE_TIME;
    while (this.#waiting.size && now() < end) await sleep(5);
    for (const waiting of this.#waiting.values()) waiting.length = 0;
  }

  /** The result of a call if that takes time; it never rejects. @param {string} name @param {() => unknown} call */
  #guarded(name, call) {
    try {
      const result = call();
      if (result instanceof Promise) return result.catch((error) => this.failed(error, name));
    } catch (error) {
      this.failed(error, name);
    }
    return undefined;
  }

  /** @param {string} name @param {Promise<unknown>} running */
  async #workOff(name, running) {
    /** @type {(() => unknown)[]} */
    const waiting = [];
    this.#waiting.set(name, waiting);
    await running;
    for (let call = waiting.shift(); call; call = waiting.shift()) await this.#guarded(name, call);
    this.#waiting.delete(name);
  }
}
