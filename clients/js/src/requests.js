/**
 * Requests in flight: each has one answer, or an error that says why there is none. One timer watches all of them:
 * it probes the link when an answer is late, and ends what is past its deadline.
 *
 * @module
 */

import { Backoff } from "./backoff.js";
import { ClientError, Disconnected, rejected } from "./errors.js";
import { refusal } from "./outgoing.js";
import { Deferred, now, within } from "./time.js";

const PATIENCE = 5000; // ms without an answer after which the link is probed
const BULK = 4096; // messages of one publishMany in flight

/**
 * @typedef {import("./message.js").Envelope} Envelope
 * @typedef {import("./outgoing.js").Outgoing} Outgoing
 * @typedef {import("./link.js").Link} Link
 */

/**
 * One request in flight.
 *
 * @typedef {object} Waiter
 * @property {Outgoing} outgoing
 * @property {Link} link
 * @property {Deferred<Envelope>} reply
 * @property {number} deadline
 * @property {number} probeAt
 * @property {((reply: Envelope) => void) | undefined} onReply called before anything behind the reply is read
 */

/** Sends requests and pairs them with their answers. */
export class Requests {
  #connection;
  #patience;
  /** @type {Map<string, Waiter[]>} by the id of the request */
  #waiting = new Map();
  #watchedAt = Infinity;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {import("./connection.js").Connection} connection
   * @param {number} timeout milliseconds that each request may take, reconnects included
   */
  constructor(connection, timeout) {
    this.timeout = timeout;
    this.#connection = connection;
    this.#patience = Math.min(PATIENCE, timeout / 3);
  }

  // -- asking

  /**
   * The successful reply. `again`: repeat the request after a lost connection or a busy bus. Throws Rejected,
   * Disconnected when no answer came in time, NotConnected, the client's end, or the signal's reason.
   *
   * @param {Outgoing} outgoing
   * @param {{again?: boolean, onReply?: (reply: Envelope) => void, signal?: AbortSignal}} [options]
   */
  async ask(outgoing, { again = false, onReply, signal } = {}) {
    const deadline = now() + this.timeout;
    const backoff = new Backoff();
    for (;;) {
      const link = await this.#connection.ready(deadline, signal);
      let reply;
      try {
        reply = await this.exchange(link, outgoing, { deadline, onReply, signal });
      } catch (error) {
        if (error instanceof Disconnected && again && now() < deadline && !this.#connection.end) continue;
        throw error;
      }
      if (reply.status.code === "OK") return reply;
      const refused = refusal(outgoing, reply);
      const { retryAfter } = refused.status;
      const wait = backoff.next(retryAfter);
      if (!again || !retryAfter || now() + wait >= deadline) throw refused;
      await this.#connection.pause(wait);
    }
  }

  /**
   * The successful reply on this link and no other. Throws Rejected or Disconnected.
   *
   * @param {Link} link @param {Outgoing} outgoing
   * @param {{deadline?: number, onReply?: (reply: Envelope) => void, signal?: AbortSignal}} options
   */
  async askOnce(link, outgoing, { deadline = now() + this.timeout, ...options }) {
    const reply = await this.exchange(link, outgoing, { deadline, ...options });
    if (reply.status.code !== "OK") throw refusal(outgoing, reply);
    return reply;
  }

  /**
   * The reply on this link, whatever it says.
   *
   * @param {Link} link @param {Outgoing} outgoing
   * @param {{deadline: number, onReply?: (reply: Envelope) => void, signal?: AbortSignal}} options
   */
  async exchange(link, outgoing, { deadline, onReply, signal }) {
    const waiter = this.#send(link, outgoing, deadline, onReply);
    if (!signal) return waiter.reply.promise;
    try {
      return await within(waiter.reply.promise, Infinity, signal);
    } finally {
      if (!waiter.reply.done) this.#forget(waiter);
    }
  }

  /**
   * The reply to each, in order, or why there is none. All travel together; each is repeated as in `ask`.
   *
   * @param {Outgoing[]} requests @param {AbortSignal} [signal]
   * @returns {Promise<(Envelope | ClientError)[]>}
   */
  async askMany(requests, signal) {
    const results = [];
    for (let begin = 0; begin < requests.length; begin += BULK) {
      const some = requests.slice(begin, begin + BULK).map((one) => this.ask(one, { again: true, signal }).catch(asResult));
      results.push(...(await Promise.all(some)));
    }
    return results;
  }

  // -- answers

  /**
   * @param {Link} link @param {Outgoing} outgoing @param {number} deadline
   * @param {((reply: Envelope) => void) | undefined} onReply
   * @returns {Waiter}
   */
  #send(link, outgoing, deadline, onReply) {
    link.send(outgoing);
    const probeAt = Math.min(deadline, now() + this.#patience);
    const waiter = { outgoing, link, reply: new Deferred(), deadline, probeAt, onReply };
    const others = this.#waiting.get(outgoing.id);
    if (others) others.push(waiter); // the same id twice: answered in the order of sending
    else this.#waiting.set(outgoing.id, [waiter]);
    if (this.#watchedAt > probeAt) this.#watch(probeAt);
    return waiter;
  }

  /** A reply came. @param {Envelope} reply */
  answered(reply) {
    const waiter = this.#waiting.get(reply.reply_to)?.[0];
    if (!waiter) return;
    this.#forget(waiter);
    waiter.onReply?.(reply);
    waiter.reply.resolve(reply);
  }

  /** @param {Waiter} waiter */
  #forget(waiter) {
    const { id } = waiter.outgoing;
    const left = (this.#waiting.get(id) ?? []).filter((one) => one !== waiter);
    if (left.length) this.#waiting.set(id, left);
    else this.#waiting.delete(id);
  }

  // -- ends

  /**
   * Nothing that was sent on the link is answered any more.
   *
   * @param {Link} link @param {Disconnected} error @param {boolean} tooBig
   */
  linkEnded(link, error, tooBig) {
    const lost = [...this.#waiting.values()].flat().filter((waiter) => waiter.link === link);
    const largest = tooBig && lost.length ? lost.reduce((a, b) => (b.outgoing.bytes > a.outgoing.bytes ? b : a)) : null;
    for (const waiter of lost) {
      this.#forget(waiter);
      const reason = "the bus closed the connection because of its size";
      waiter.reply.reject(waiter === largest ? rejected("TOO_LARGE", reason) : error);
    }
  }

  /** The client has ended. @param {ClientError} error */
  ended(error) {
    for (const waiter of [...this.#waiting.values()].flat()) waiter.reply.reject(error);
    this.#waiting.clear();
    clearTimeout(this.#timer);
  }

  // -- time

  /** @param {number} at */
  #watch(at) {
    clearTimeout(this.#timer);
    this.#watchedAt = at;
    this.#timer = setTimeout(() => this.#look(), at - now());
  }

  /** Probe links that owe an answer; end what is past its deadline. */
  #look() {
    this.#watchedAt = Infinity;
    const time = now();
    let due = Infinity;
    for (const waiter of [...this.#waiting.values()].flat()) {
      if (waiter.probeAt <= time) waiter.link.probe(this.#patience);
      if (waiter.deadline <= time) {
        this.#forget(waiter);
        waiter.reply.reject(new Disconnected(`no answer came within ${this.timeout / 1000} s`));
        continue;
      }
      if (waiter.probeAt <= time) waiter.probeAt = Math.min(waiter.deadline, time + this.#patience);
      due = Math.min(due, waiter.probeAt);
    }
    if (this.#waiting.size) this.#watch(Math.max(due, time + 10));
  }
}

/** @param {unknown} error */
function asResult(error) {
  if (error instanceof ClientError) return error;
  throw error;
}
