/** Promises with deadlines and signals. Times are milliseconds; `now` never goes back. @module */

export const now = () => performance.now();

/**
 * A promise that is settled from outside. An unhandled rejection of it is not reported.
 *
 * @template T
 */
export class Deferred {
  done = false;

  constructor() {
    /** @type {(value: T) => void} */
    this.resolve = () => {};
    /** @type {(error: unknown) => void} */
    this.reject = () => {};
    /** @type {Promise<T>} */
    this.promise = new Promise((resolve, reject) => {
      this.resolve = (value) => {
        this.done = true;
        resolve(value);
      };
      this.reject = (error) => {
        this.done = true;
        reject(error);
      };
    });
    this.promise.catch(() => {});
  }
}

/** The deadline of `within` passed. */
export class TimedOut extends Error {}

/**
 * The outcome of a promise; or TimedOut at the deadline; or the signal's reason, once it is aborted.
 *
 * @template T
 * @param {Promise<T>} promise
 * @param {number} deadline as `now` counts
 * @param {AbortSignal} [signal]
 * @returns {Promise<T>}
 */
export async function within(promise, deadline, signal) {
  let stop = () => {};
  try {
    return await new Promise((resolve, reject) => {
      const abort = () => reject(signal?.reason);
      const timer = deadline < Infinity ? setTimeout(() => reject(new TimedOut()), deadline - now()) : undefined;
      stop = () => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", abort);
      };
      signal?.addEventListener("abort", abort);
      if (signal?.aborted) abort();
      promise.then(resolve, reject);
    });
  } finally {
    stop();
  }
}

/**
 * Wait, or until the signal is aborted. Never rejects.
 *
 * @param {number} delay @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
export function sleep(delay, signal) {
  return within(new Promise(() => {}), now() + delay, signal).catch(() => {});
}
