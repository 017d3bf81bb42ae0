/** The working parts of a client, put together: what the connection brings goes to where it is waited for. @module */

import { Backoff } from "./backoff.js";
import { Connection, NORMAL } from "./connection.js";
import { ClientError, Closed, Disconnected, Rejected } from "./errors.js";
import { Memberships } from "./memberships.js";
import { Message } from "./message.js";
import { command, refusal } from "./outgoing.js";
import { watchPage } from "./page.js";
import { Requests } from "./requests.js";
import { now } from "./time.js";
import { TokenFailed, TokenSource } from "./tokens.js";

const REFRESH_BACKOFF = 500; // ms; bound of the first wait after a refresh that failed

/**
 * @typedef {import("./link.js").Link} Link
 * @typedef {import("./message.js").Envelope} Envelope
 */

/** A connection with its requests and rooms. */
export class Engine {
  /** @type {Record<string, any>} */
  welcome = {};
  /** Where the answers of services go, by the id of the request. @type {Map<string, {link: Link, answer: import("./time.js").Deferred<Message>}>} */
  answers = new Map();
  #token;
  #leavePage;

  /**
   * @param {string} url @param {import("./tokens.js").Token} token
   * @param {number} timeout milliseconds @param {object} ws options for the package `ws`
   * @param {import("./callbacks.js").Callbacks} callbacks
   */
  constructor(url, token, timeout, ws, callbacks) {
    this.callbacks = callbacks;
    this.#token = new TokenSource(token);
    this.connection = new Connection(url, this.#token, ws, this, callbacks);
    this.requests = new Requests(this.connection, timeout);
    this.memberships = new Memberships(this.connection, this.requests, callbacks);
    this.#leavePage = watchPage(this.connection);
  }

  /** End the connection and everything that runs. @param {ClientError} error */
  async close(error) {
    await this.connection.close(error);
    await this.callbacks.close();
  }

  // -- what the connection says

  /** @param {Link} link */
  linkOpened(link) {
    this.welcome = link.welcome;
    const rejoining = this.memberships.rejoin(link);
    if (!rejoining.length) {
      this.#online();
      return;
    }
    this.connection.change("rejoining", `joining ${rejoining.length} rooms again`);
    Promise.all(rejoining).then(() => {
      if (this.connection.link === link) this.#online();
    });
  }

  #online() {
    this.connection.change("online", `connected to ${this.connection.url}`);
  }

  /** @param {Link} link @param {Envelope} envelope @param {number} size */
  received(link, envelope, size) {
    if (envelope.kind === "MESSAGE") {
      if (envelope.recipient) this.#direct(new Message(envelope));
      else this.memberships.deliver(envelope, size);
    } else if (envelope.kind === "REPLY") this.requests.answered(envelope);
    else if (envelope.kind === "SIGNAL") this.#signal(link, envelope);
  }

  /** @param {Link} link @param {Disconnected} error @param {boolean} tooBig */
  linkEnded(link, error, tooBig) {
    this.memberships.linkEnded(link);
    this.requests.linkEnded(link, error, tooBig);
    for (const asked of this.answers.values()) if (asked.link === link) asked.answer.reject(error);
  }

  /** @param {ClientError} error */
  ended(error) {
    this.#leavePage();
    this.requests.ended(error);
    this.memberships.end(error, !(error instanceof Closed && error.code === NORMAL));
    for (const { answer } of this.answers.values()) answer.reject(error);
  }

  /** @param {Message} message */
  #direct(message) {
    const asked = this.answers.get(message.cause);
    if (asked && !asked.answer.done) asked.answer.resolve(message);
    // Else it may be an answer that came too late or twice.
    else if (!["reply", "error"].includes(message.headers.rpc)) this.callbacks.direct(message);
  }

  /** @param {Link} link @param {Envelope} envelope */
  #signal(link, envelope) {
    const { name, room, payload } = envelope;
    if (name === "gap" || name === "epoch") {
      this.memberships.lost(room, payload.reason || `sequences ${payload.first} to ${payload.last} are gone`);
    } else if (name === "left") this.memberships.left(room);
    else if (name === "token.expiring" && this.#token.renewable) this.#renewToken(link);
    else if (name === "error") this.callbacks.failed(refusal(null, envelope), "bus");
    this.callbacks.signal(envelope);
  }

  /** Refresh the token on this link; try again until that worked or the link ended. @param {Link} link */
  async #renewToken(link) {
    const { connection } = this;
    const backoff = new Backoff(REFRESH_BACKOFF);
    try {
      await connection.ready(now() + this.requests.timeout);
      while (connection.link === link) {
        try {
          const token = await this.#token.fresh(connection.signal);
          await this.requests.ask(command("op.auth.refresh", { token }));
          return;
        } catch (error) {
          if (connection.end || !(error instanceof TokenFailed || error instanceof Rejected)) throw error;
          this.callbacks.failed(error.cause ?? error, "token");
        }
        await connection.pause(backoff.next());
      }
    } catch (error) {
      // The link is gone; the next one begins with a fresh token.
      if (!(error instanceof ClientError || connection.end)) throw error;
    }
  }
}
