/**
 * Services: they answer requests.
 *
 * A service works as a consumer group where the bus has groups, so that each request goes to one of its processes,
 * and to another if that one dies. Where it has none, every subscriber of the service answers and the first answer
 * counts.
 *
 * @module
 */

import { engineOf } from "./client.js";
import { Disconnected, Rejected, RequestFailed } from "./errors.js";
import { Group } from "./group.js";
import { DEADLINE, FAILED, KIND } from "./request.js";

/**
 * @typedef {import("./message.js").Message} Message
 * @typedef {(request: Message) => unknown} Handler returns the payload of the answer, or throws RequestFailed
 */

/**
 * Answer the requests of a room with what `handler` returns, until the service is closed. Processes that serve with
 * one `group` share the requests, if the bus has consumer groups. A handler throws RequestFailed to answer with an
 * error; anything else that it throws goes to `onError`, and the caller gets RequestFailed (INTERNAL_ERROR).
 *
 * @param {import("./client.js").Client} client @param {string} room @param {Handler} handler
 * @param {{group?: string, concurrency?: number, signal?: AbortSignal}} [options]
 */
export async function serve(client, room, handler, { group = "serve", concurrency = 8, signal } = {}) {
  const service = new Service(client, handler);
  await service.start(room, group, concurrency, signal);
  return service;
}

/** Answers the requests of a room until it is closed. */
export class Service {
  /** Fulfilled at the end; rejected with the ClientError that ended it, if any did. @type {Promise<void>} */
  closed = Promise.resolve();
  #client;
  #callbacks;
  #handler;
  /** @type {Set<Promise<void>>} */
  #answering = new Set();
  /** @type {() => void | Promise<void>} */
  #stop = () => {};

  /**
   * @param {import("./client.js").Client} client @param {Handler} handler
   */
  constructor(client, handler) {
    this.#client = client;
    this.#callbacks = engineOf(client).callbacks;
    this.#handler = handler;
  }

  /** Take no more requests, and finish those in hand. */
  async close() {
    await this.#stop();
    await this.closed.catch(() => {});
  }

  /**
   * Return when requests are taken. Throws what prevents it.
   *
   * @param {string} room @param {string} group @param {number} concurrency @param {AbortSignal} [signal]
   */
  async start(room, group, concurrency, signal) {
    const run = this.#client.welcome.capabilities?.consumer_groups
      ? await this.#work(room, group, concurrency)
      : await this.#listen(room, concurrency, signal);
    this.closed = run().catch((error) => {
      this.#callbacks.failed(error, "serve");
      throw error;
    });
    this.closed.catch(() => {}); // mark it as handled
    signal?.addEventListener("abort", () => this.close(), { once: true });
  }

  /** @param {string} room @param {string} name @param {number} concurrency */
  async #work(room, name, concurrency) {
    await this.#client.command("op.groups.ensure", { room, group: name, start: "end" }, { again: true });
    const group = new Group(this.#client, room, name, { concurrency, start: "end" });
    this.#stop = () => group.stop();
    return () => group.run((job) => this.#answer(job.message));
  }

  /** @param {string} room @param {number} concurrency @param {AbortSignal} [signal] */
  async #listen(room, concurrency, signal) {
    const subscription = this.#client.subscribe(room, {
      onLost: (loss) => this.#callbacks.failed(loss, "serve"),
      signal,
    });
    await subscription.ready;
    this.#stop = () => subscription.close();
    return () => this.#answerAll(subscription, concurrency);
  }

  /** @param {AsyncIterable<Message>} requests @param {number} concurrency */
  async #answerAll(requests, concurrency) {
    const answering = this.#answering;
    for await (const request of requests) {
      const answered = this.#answer(request)
        .catch((error) => this.#callbacks.failed(error, "serve"))
        .finally(() => answering.delete(answered));
      answering.add(answered);
      while (answering.size >= concurrency) await Promise.race(answering);
    }
    await Promise.all(answering);
  }

  /** Answer one request. Other messages and expired requests are skipped. @param {Message} request */
  async #answer(request) {
    const { [KIND]: kind, [DEADLINE]: deadline = "" } = request.headers;
    if (kind !== "request" || (/^\d+$/.test(deadline) && Number(deadline) < Date.now() * 1000)) return;
    try {
      let outcome = "reply";
      let answer;
      try {
        answer = await this.#handler(request);
      } catch (error) {
        outcome = "error";
        if (error instanceof RequestFailed) answer = { code: error.code, message: error.reason };
        else {
          this.#callbacks.failed(error, "serve"); // its text stays here
          answer = { code: FAILED, message: "the service failed" };
        }
      }
      await this.#send(request, outcome, answer);
    } catch (error) {
      if (error instanceof Rejected && error.code === "NOT_FOUND") return; // the one who asked is gone
      if (!(error instanceof Rejected || error instanceof Disconnected)) throw error;
      this.#callbacks.failed(error, "serve");
      if (error instanceof Disconnected) return; // the caller has its deadline
      const failed = { code: FAILED, message: "the answer could not be sent" };
      await this.#send(request, "error", failed).catch(() => {});
    }
  }

  /** @param {Message} request @param {string} kind @param {any} answer */
  async #send(request, kind, answer) {
    const payload = answer === undefined ? null : answer;
    await this.#client.send(request.sender, payload, { headers: { [KIND]: kind }, cause: request.id });
  }
}
