/** A worker in a consumer group: takes jobs, extends their leases, and settles them. @module */

import { Backoff } from "./backoff.js";
import { engineOf } from "./client.js";
import { ClientError, Disconnected, Rejected } from "./errors.js";
import { GroupLost, Retry } from "./group_errors.js";
import { Job } from "./job.js";
import { Message } from "./message.js";
import { command } from "./outgoing.js";
import { Deferred, now, sleep, within } from "./time.js";

const MAX_AT_ONCE = 500;
const MOST_PER_CALL = 1000;

/**
 * Times are milliseconds.
 *
 * @typedef {object} GroupOptions
 * @property {string} [consumer] name of this worker; default: the client id
 * @property {number} [concurrency] jobs that may be unsettled at one time; default: 1
 * @property {number} [lease] for which a job is this worker's; extended while it is unsettled; default: 30 000
 * @property {"begin" | "end" | bigint | number} [start] where a new group begins; default: begin
 * @property {number} [maxDeliveries] after which a job is a dead letter; default: 5
 * @property {number} [retryDelay] before a job whose handler failed is handed out again; default: 1000
 * @property {number} [wait] that one read waits for jobs; default: 5000
 * @property {boolean} [recreate] create the group again when it was deleted
 * @property {number} [grace] that `close` waits for jobs in hand; default: 5000
 */

/**
 * Iterate over it for jobs, at most `concurrency` of them unsettled at one time; or `run` a handler. Leaving the loop
 * waits for the jobs in hand, then gives them back. If the group is deleted, iteration throws GroupLost.
 *
 * @implements {AsyncIterableIterator<Job>}
 */
export class Group {
  /** Messages that the room no longer held when their turn came. */
  missed = 0;
  #requests;
  #place;
  #options;
  #known = false; // the bus has the group, or had it
  /** @type {Job[]} */
  #ready = [];
  /** @type {Set<Job>} */
  #held = new Set();
  /** Something is ready, settled, or to be stopped. @type {Deferred<void>} */
  #changed = new Deferred();
  #stop = new AbortController();
  /** @type {unknown} */
  #error;
  /** @type {Promise<void> | null} */
  #fetching = null;
  /** @type {Promise<void> | null} */
  #keeping = null;
  #idle = new AbortController(); // aborted when no job is held
  /** Acks that wait to be sent, by epoch. @type {Map<string, {sequence: bigint, sent: Deferred<void>}[]>} */
  #acks = new Map();

  /**
   * The group is created if it does not exist.
   *
   * @param {import("./client.js").Client} client @param {string} room @param {string} group
   * @param {GroupOptions} [options]
   */
  constructor(client, room, group, options = {}) {
    const { requests } = engineOf(client);
    this.#requests = requests;
    this.#place = { room, group };
    this.#options = {
      consumer: /** @type {string} */ (client.welcome.client),
      concurrency: 1,
      lease: 30_000,
      start: /** @type {"begin" | "end" | bigint | number} */ ("begin"),
      maxDeliveries: 5,
      retryDelay: 1000,
      recreate: false,
      grace: 5000,
      ...options,
      wait: Math.min(options.wait ?? 5000, requests.timeout / 2), // an answer that comes too late leases for nothing
    };
    if (!(this.#options.concurrency >= 1)) throw new RangeError("concurrency must be at least 1");
  }

  // -- for the program

  /** The room that takes what failed `maxDeliveries` times. Read it with `history`. */
  get deadLetterRoom() {
    return `${this.#place.room}.dlq.${this.#place.group}`;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** @returns {Promise<IteratorResult<Job, undefined>>} */
  async next() {
    for (;;) {
      const job = this.#ready.shift();
      if (job) return { done: false, value: job };
      if (this.#error) throw this.#error;
      const { aborted: stopping } = this.#stop.signal;
      if (stopping && !this.#fetching) return { done: true, value: undefined };
      if (!stopping && this.#held.size < this.#options.concurrency) this.#fetching ??= this.#fetch();
      await this.#change();
    }
  }

  /** Called when a `for await` is left. @returns {Promise<IteratorResult<Job, undefined>>} */
  async return() {
    await this.close();
    return { done: true, value: undefined };
  }

  /**
   * Handle jobs at the same time until `stop`; a job whose handler throws is given back. Returns, or throws what the
   * iteration threw, after the last handler has ended.
   *
   * @param {(job: Job) => unknown} handle
   * @param {{signal?: AbortSignal}} [options] an aborted signal stops
   */
  async run(handle, { signal } = {}) {
    const stop = () => this.stop();
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop);
    /** @type {Set<Promise<void>>} */
    const handling = new Set();
    try {
      for (let one = await this.next(); !one.done; one = await this.next()) {
        const handled = this.#handle(one.value, handle).finally(() => handling.delete(handled));
        handling.add(handled);
      }
    } finally {
      signal?.removeEventListener("abort", stop);
      await Promise.all(handling);
    }
  }

  /** Take no more jobs, once the read on its way is answered; those that are held still come. */
  stop() {
    this.#stop.abort();
    this.#changed.resolve();
  }

  /**
   * Stop, give back what was not begun, and wait for the jobs in hand. What is not settled then is given back, with a
   * warning on the console.
   *
   * @param {{grace?: number}} [options] milliseconds
   */
  async close({ grace = this.#options.grace } = {}) {
    this.stop();
    await this.#fetching;
    for (const job of this.#ready.splice(0)) {
      await job.nack({ reason: "the worker stopped before it began" }).catch(ignore);
    }
    const deadline = now() + grace;
    while (this.#held.size && now() < deadline) await within(this.#change(), deadline).catch(ignore);
    for (const job of [...this.#held]) {
      console.warn(`arqonbus: ${job} was not settled and is given back`);
      await job.nack({ reason: "the worker stopped and had not settled it" }).catch(ignore);
    }
    await this.#keeping;
  }

  /** @param {Job} job @param {(job: Job) => unknown} handle */
  async #handle(job, handle) {
    try {
      await handle(job);
      await job.ack();
    } catch (error) {
      if (error instanceof ClientError) console.warn(`arqonbus: ${job} could not be settled:`, error);
      else if (!(error instanceof Retry)) console.error(`arqonbus: ${job} failed and is given back:`, error);
      const delay = error instanceof Retry ? error.delay : this.#options.retryDelay;
      const reason = error instanceof Retry ? error.message : String(error);
      await job.nack({ delay, reason }).catch(ignore); // the error says more; the lease ends by itself
    }
  }

  async #change() {
    if (this.#changed.done) this.#changed = new Deferred();
    await this.#changed.promise;
  }

  // -- for jobs

  /** The job is settled: there is room for another one. @param {Job} job */
  letGo(job) {
    this.#held.delete(job);
    if (!this.#held.size) this.#idle.abort();
    this.#changed.resolve();
  }

  /** Acks that come while one is on its way go together. @param {Job} job */
  async acked({ message }) {
    /** @type {Deferred<void>} */
    const sent = new Deferred();
    const idle = !this.#acks.size;
    const waiting = this.#acks.get(message.epoch) ?? [];
    this.#acks.set(message.epoch, waiting);
    waiting.push({ sequence: message.sequence, sent });
    if (idle) this.#sendAcks();
    await sent.promise;
  }

  /** Give a job back; see Job.nack. @param {Job} job @param {number} delay @param {string} reason */
  async nacked({ message }, delay, reason) {
    const { consumer } = this.#options;
    const asked = { epoch: message.epoch, consumer, sequence: message.sequence, delay: delay / 1000, reason };
    try {
      await this.#ask("op.groups.nack", asked, true);
      return true;
    } catch (error) {
      if (error instanceof Rejected && error.code === "CONFLICT") return false;
      throw error;
    }
  }

  // -- talking to the bus

  /** @param {string} operation @param {Record<string, unknown>} args @param {boolean} again */
  async #ask(operation, args, again) {
    return (await this.#requests.ask(command(operation, { ...this.#place, ...args }), { again })).payload;
  }

  async #sendAcks() {
    for (;;) {
      await null; // the rest of this turn's acks come along
      const [entry] = this.#acks;
      if (!entry) return;
      const [epoch, waiting] = entry;
      const some = waiting.splice(0, MOST_PER_CALL);
      try {
        await this.#ask("op.groups.ack", { epoch, sequences: some.map(({ sequence }) => sequence) }, true);
        for (const { sent } of some) sent.resolve();
      } catch (error) {
        for (const { sent } of some) sent.reject(error);
      }
      if (!waiting.length) this.#acks.delete(epoch);
    }
  }

  /** Read until there are jobs, or the end. Not cancelled: what a read brings is leased to this consumer. */
  async #fetch() {
    const backoff = new Backoff();
    try {
      while (!this.#stop.signal.aborted && !this.#ready.length) {
        try {
          await this.#read();
        } catch (error) {
          const retryAfter = error instanceof Rejected ? error.status.retryAfter : 0;
          if (error instanceof Rejected && error.code === "NOT_FOUND") await this.#ensure();
          else if (error instanceof Disconnected || retryAfter) await sleep(backoff.next(retryAfter), this.#stop.signal);
          else throw error;
        }
      }
    } catch (error) {
      this.#error = error;
    } finally {
      this.#fetching = null;
      this.#changed.resolve();
    }
  }

  /** Create the group, unless it was there before and is gone. */
  async #ensure() {
    const { start, maxDeliveries, recreate } = this.#options;
    if (this.#known && !recreate) throw new GroupLost(this.#place.room, this.#place.group);
    await this.#ask("op.groups.ensure", { start, max_deliveries: maxDeliveries }, true);
  }

  async #read() {
    const { consumer, lease, wait, concurrency } = this.#options;
    const limit = Math.min(concurrency - this.#held.size, MAX_AT_ONCE);
    const given = await this.#ask("op.groups.read", { consumer, lease: lease / 1000, wait: wait / 1000, limit }, false);
    this.#known = true;
    this.missed += Number(given.missed ?? 0);
    for (const { message, deliveries, reason = "" } of given.jobs) {
      const job = new Job(this, new Message(message), deliveries, reason);
      this.#held.add(job);
      this.#ready.push(job);
    }
    if (this.#held.size) this.#keeping ??= this.#keepLeases();
  }

  async #keepLeases() {
    while (this.#held.size) {
      this.#idle = new AbortController();
      await sleep(this.#options.lease / 3, this.#idle.signal);
      const held = [...this.#held].filter((job) => !job.lost);
      while (held.length) await this.#extend(held.splice(0, MOST_PER_CALL));
    }
    this.#keeping = null;
  }

  /** Extend the leases. Whatever goes wrong here shows when the job is settled. @param {Job[]} jobs */
  async #extend(jobs) {
    const { consumer, lease } = this.#options;
    for (const epoch of new Set(jobs.map(({ message }) => message.epoch))) {
      const some = jobs.filter(({ message }) => message.epoch === epoch);
      const sequences = some.map(({ message }) => message.sequence);
      try {
        const args = { epoch, consumer, lease: lease / 1000, sequences };
        const extended = new Set((await this.#ask("op.groups.extend", args, false)).extended.map(BigInt));
        for (const job of some) job.lost = !extended.has(job.message.sequence);
      } catch (error) {
        if (!(error instanceof ClientError)) throw error;
      }
    }
  }
}

function ignore() {}
