/** Delay before the next attempt: exponential with full jitter. @module */

/** Waiting times in milliseconds. */
export class Backoff {
  #first;
  #most;
  #attempt = 0;

  /** @param {number} [first] bound of the first wait @param {number} [most] the largest bound */
  constructor(first = 100, most = 10_000) {
    this.#first = first;
    this.#most = most;
  }

  /**
   * The next wait: random up to a bound that doubles, plus the server's hint.
   *
   * @param {number} [hint] milliseconds
   */
  next(hint = 0) {
    const bound = Math.min(this.#most, this.#first * 2 ** this.#attempt);
    this.#attempt = Math.min(this.#attempt + 1, 30);
    return hint + Math.random() * bound;
  }

  /** Start over with the first bound. */
  reset() {
    this.#attempt = 0;
  }
}
