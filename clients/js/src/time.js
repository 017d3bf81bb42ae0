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
export function within(promise, deadline, signal) {
  return new Promise((resolve, reject) => {
    const abort = () => settle(() => reject(signal?.reason));
    const timer = deadline === Infinity ? undefined : setTimeout(() => settle(() => reject(new TimedOut())), deadline - now());
    /** @param {() => void} outcome */
    const settle = (outcome) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      outcome();
    };
    promise.then((value) => settle(() => resolve(value)), (error) => settle(() => reject(error)));
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort);
  });
}

/**
 * Wait, or until the signal is aborted. Never rejects.
 *
 * @param {number} delay @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
export function sleep(delay, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, delay);
    if (signal?.aborted) done();
    else signal?.addEventListener("abort", done);
  });
}
