/** A message in the hands of a worker. @module */

const MAX_REASON = 500;

/** One message to be worked on. Settle it with `ack` or `nack`. */
export class Job {
  /** Its lease ran out, so that another consumer may have it. */
  lost = false;
  #group;
  #settled = false;

  /**
   * @param {import("./group.js").Group} group @param {import("./message.js").Message} message
   * @param {number} deliveries how often it was handed out, this time included
   * @param {string} reason why it was given back before
   */
  constructor(group, message, deliveries, reason) {
    this.message = message;
    this.deliveries = deliveries;
    this.reason = reason;
    this.#group = group;
  }

  /** Settle it as done. Throws Disconnected or Rejected when the bus did not confirm. */
  async ack() {
    if (this.#settled) return;
    this.#settled = true;
    try {
      await this.#group.acked(this);
    } finally {
      this.#group.letGo(this);
    }
  }

  /**
   * Give it back, to be handed out again. False if its lease had run out.
   *
   * @param {{delay?: number, reason?: string}} [options] `delay` in milliseconds
   */
  async nack({ delay = 0, reason = "" } = {}) {
    if (this.#settled) return false;
    this.#settled = true;
    try {
      return await this.#group.nacked(this, delay, reason.slice(0, MAX_REASON));
    } finally {
      this.#group.letGo(this);
    }
  }

  toString() {
    return `job ${this.message.room} ${this.message.sequence}, delivery ${this.deliveries}`;
  }
}
