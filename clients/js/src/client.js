/** The client: connects, publishes, subscribes, runs commands, and reconnects by itself. @module */

import { Callbacks } from "./callbacks.js";
import { NORMAL } from "./connection.js";
import { Engine } from "./engine.js";
import { ClientError, Closed, PublishFailed } from "./errors.js";
import { history } from "./history.js";
import { Ack } from "./message.js";
import { checkUrl } from "./opening.js";
import { command, message } from "./outgoing.js";
import { request } from "./request.js";
import { Subscription } from "./subscription.js";

/**
 * @typedef {import("./message.js").Member} Member
 * @typedef {import("./message.js").Message} Message
 * @typedef {import("./outgoing.js").MessageOptions} MessageOptions
 * @typedef {import("./outgoing.js").Payload} Payload
 */

/**
 * @typedef {object} OwnClientOptions
 * @property {number} [timeout] milliseconds that each call may take, reconnects included; default: 30 000
 * @property {object} [ws] Node with the package `ws`: options for it, such as `ca`, `cert`, `key` and `agent`
 *
 * @typedef {OwnClientOptions & import("./callbacks.js").CallbackOptions} ClientOptions
 */

/**
 * The working parts of a client, for the modules of this package.
 *
 * @type {(client: Client) => Engine}
 */
export let engineOf;

/**
 * A connection to a bus that outlives failures of network, bus and callbacks. Times are milliseconds. An aborted
 * `signal` ends a call with its reason.
 *
 * @example
 * const client = new Client("wss://bus.example.org/v1/ws", async () => (await fetch("/token")).text());
 * await client.connect();
 * await client.publish("orders", { item: 1 });
 * for await (const message of client.subscribe("orders")) console.log(message.json());
 */
export class Client {
  #engine;

  static {
    engineOf = (client) => client.#engine;
  }

  /**
   * Throws TypeError for an unusable url.
   *
   * @param {string} url begins with ws:// or wss://
   * @param {import("./tokens.js").Token} token a string, or a function that gives a fresh one: then the client renews
   *   its token before it expires
   * @param {ClientOptions} [options]
   */
  constructor(url, token, { timeout = 30_000, ws = {}, ...callbacks } = {}) {
    this.url = checkUrl(url);
    this.#engine = new Engine(url, token, timeout, ws, new Callbacks(callbacks));
  }

  // -- life

  /** State of the connection, with a reason. */
  get state() {
    return this.#engine.connection.state;
  }

  /** Fulfilled with the error that ended the client, which is Closed (1000) after `close`. */
  get closed() {
    return this.#engine.connection.finished.promise;
  }

  /** Number of times that the connection was replaced. */
  get reconnects() {
    return this.#engine.connection.reconnects;
  }

  /** The welcome of the bus: its `client` id, `tenant`, `node`, `limits`, `capabilities` … */
  get welcome() {
    return this.#engine.welcome;
  }

  /**
   * Connect and wait for the welcome. Throws ConnectionRefused or NotConnected at once for what trying again does not
   * mend, and NotConnected with the last cause after the timeout.
   *
   * @param {{signal?: AbortSignal}} [options]
   */
  async connect({ signal } = {}) {
    const { connection, requests } = this.#engine;
    connection.start();
    try {
      await connection.ready(performance.now() + requests.timeout, signal);
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  /** End everything; subscriptions end their iteration, calls under way throw Closed. */
  async close() {
    await this.#engine.close(new Closed(NORMAL, "the client was closed"));
  }

  // -- messages

  /**
   * Publish and wait for the ack. Repeated with the same id until the timeout; a room stores an id once. Throws
   * Rejected when the bus, or the client on its behalf, refuses the message; Disconnected when no ack came in time.
   *
   * @param {string} room @param {Payload} payload
   * @param {MessageOptions & {signal?: AbortSignal}} [options]
   */
  async publish(room, payload, { signal, ...options } = {}) {
    const outgoing = message({ room }, payload, options);
    return new Ack(await this.#engine.requests.ask(outgoing, { again: true, signal }), room);
  }

  /**
   * Publish messages together, in one round trip where the limits allow it; their acks in the same order. Throws
   * PublishFailed, which has the outcome of each, if any message was not acked.
   *
   * @param {string} room @param {Payload[]} payloads
   * @param {Omit<MessageOptions, "id"> & {ids?: string[], signal?: AbortSignal}} [options]
   */
  async publishMany(room, payloads, { ids = [], signal, ...options } = {}) {
    const outgoing = payloads.map((payload, index) => message({ room }, payload, { ...options, id: ids[index] }));
    const replies = await this.#engine.requests.askMany(outgoing, signal);
    const results = replies.map((reply) => (reply instanceof ClientError ? reply : new Ack(reply, room)));
    const acks = results.flatMap((result) => (result instanceof Ack ? [result] : []));
    if (acks.length < results.length) throw new PublishFailed(results);
    return acks;
  }

  /**
   * Send to one client by its client id; nothing is stored. Throws Rejected (NOT_FOUND) if it is not connected.
   *
   * @param {string} recipient @param {Payload} payload
   * @param {MessageOptions & {signal?: AbortSignal}} [options]
   */
  async send(recipient, payload, { signal, ...options } = {}) {
    return new Ack(await this.#engine.requests.ask(message({ recipient }, payload, options), { signal }), "");
  }

  /**
   * Subscribe to a room, from now or from behind a position. It survives reconnects. `ready` is fulfilled when the
   * room was joined; if it cannot be, `ready` and the iteration throw Rejected, or Disconnected after the timeout.
   *
   * @param {string} room @param {import("./subscription.js").SubscribeOptions} [options]
   */
  subscribe(room, { signal, ...options } = {}) {
    const { memberships } = this.#engine;
    const subscription = new Subscription(memberships, room, options);
    subscription.ready = memberships.subscribe(subscription, signal);
    subscription.ready.catch(() => {}); // the iteration throws it, too
    signal?.addEventListener("abort", () => subscription.close(signal.reason), { once: true });
    return subscription;
  }

  // -- requests

  /**
   * Ask the service of a room and wait for its answer. Throws DeadlineExceeded; RequestFailed when the service
   * answered with an error; Rejected; and Disconnected when the connection was lost meanwhile, because the answer
   * cannot arrive any more.
   *
   * @param {string} room @param {Payload} payload @param {import("./request.js").RequestOptions} [options]
   */
  request(room, payload, options = {}) {
    return request(this.#engine, room, payload, options);
  }

  // -- questions

  /**
   * Run an operation and return its result. Throws Rejected, or Disconnected if no answer came. `again`: ask again
   * after a lost connection or a busy bus, which may run the operation twice.
   *
   * @param {string} operation @param {Record<string, unknown>} [args]
   * @param {{again?: boolean, signal?: AbortSignal}} [options]
   * @returns {Promise<any>}
   */
  async command(operation, args = {}, options = {}) {
    return (await this.#engine.requests.ask(command(operation, args), options)).payload;
  }

  /**
   * The clients in a room on all nodes. Throws Rejected.
   *
   * @param {string} room @param {{limit?: number, signal?: AbortSignal}} [options] at most `limit` (1-1000)
   * @returns {Promise<Member[]>}
   */
  async presence(room, { limit = 100, signal } = {}) {
    const { clients } = await this.command("op.rooms.presence", { room, limit }, { again: true, signal });
    return clients.map((/** @type {any} */ member) => ({ ...member, since: new Date(member.since) }));
  }

  /**
   * The newest message that a room holds, or null. Throws Rejected (NOT_FOUND) for a room that is not there.
   *
   * @param {string} room @param {{channel?: string, signal?: AbortSignal}} [options]
   * @returns {Promise<Message | null>}
   */
  async lastValue(room, options = {}) {
    for await (const newest of this.history(room, { ...options, newestFirst: true, page: 1 })) return newest;
    return null;
  }

  /**
   * The messages of a room with begin <= t < end, read page after page. Throws Rejected: POSITION_LOST when what
   * follows was trimmed or a new log began.
   *
   * @param {string} room @param {import("./history.js").HistoryOptions} [options]
   */
  history(room, options = {}) {
    return history(this.#engine.requests, room, options);
  }
}
