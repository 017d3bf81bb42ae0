/**
 * The owner of the connection: it connects, reads, and comes back, until the client is closed. States and decisions
 * are those of docs/reference/client-behaviour.md.
 *
 * @module
 */

import { Backoff } from "./backoff.js";
import { ClientError, Closed, Disconnected, NotConnected } from "./errors.js";
import { Link } from "./link.js";
import { TryAgain, open } from "./opening.js";
import { State } from "./state.js";
import { Deferred, TimedOut, now, sleep, within } from "./time.js";
import { TokenFailed } from "./tokens.js";

const WELCOME_TIME = 10_000;
const USEFUL_TIME = 5000; // ms after which a link counts as a success, so that the backoff starts over
const HANDOVER_TIME = 5000; // ms that a replaced link has to answer what it was asked

export const NORMAL = 1000;
const TOO_BIG = 1009;
const INTERNAL = 1011;
const TOKEN_EXPIRED = 4101;
const PROTOCOL_ERRORS = [1002, 1003, 1007, 1008];

/**
 * What hears from the connection. No method may throw.
 *
 * @typedef {object} Listener
 * @property {(link: Link) => void} linkOpened the welcome of a link came; it is used from now on
 * @property {(link: Link, envelope: import("./message.js").Envelope, size: number) => void} received
 * @property {(link: Link, error: Disconnected, tooBig: boolean) => void} linkEnded after its last envelope
 * @property {(error: ClientError) => void} ended there will be no further link
 */

/** Keeps one link to the bus for as long as the client lives. */
export class Connection {
  state = new State("idle", "not connected yet");
  reconnects = 0;
  /** The one to send on, once it was welcomed. @type {Link | null} */
  link = null;
  /** @type {ClientError | null} */
  end = null;
  /** @type {Deferred<ClientError>} */
  finished = new Deferred();
  #life = new AbortController();
  #wake = new AbortController();
  #options;
  #listener;
  #callbacks;
  #backoff = new Backoff();
  /** There is a link, or there will not be one. @type {Deferred<void>} */
  #ready = new Deferred();
  /** @type {Promise<void> | null} */
  #owner = null;
  /** @type {Set<Link>} */
  #links = new Set();
  #wasOnline = false;
  /** Fulfilled when the page is shown again; null while it is shown. @type {Deferred<void> | null} */
  #frozen = null;

  /**
   * @param {string} url
   * @param {import("./tokens.js").TokenSource} token
   * @param {object} options for the package `ws`
   * @param {Listener} listener
   * @param {import("./callbacks.js").Callbacks} callbacks
   */
  constructor(url, token, options, listener, callbacks) {
    this.url = url;
    this.token = token;
    this.#options = options;
    this.#listener = listener;
    this.#callbacks = callbacks;
  }

  // -- for the client

  /** Begin to connect. */
  start() {
    if (this.#owner || this.end) throw new Error("connect was called before");
    this.change("connecting", `connecting to ${this.url}`);
    this.#owner = this.#own();
  }

  /**
   * The link to send on. Throws the client's end, NotConnected after the deadline, or the signal's reason.
   *
   * @param {number} deadline @param {AbortSignal} [signal]
   * @returns {Promise<Link>}
   */
  async ready(deadline, signal) {
    for (;;) {
      if (signal?.aborted) throw signal.reason;
      if (this.end) throw this.end;
      if (this.link) return this.link;
      if (!this.#owner) throw new NotConnected("the client is not connected; call connect() first");
      try {
        await within(this.#ready.promise, deadline, signal);
      } catch (error) {
        if (!(error instanceof TimedOut)) throw error;
        throw new NotConnected(`no connection to ${this.url} in time: ${this.state.reason}`, this.state.error);
      }
    }
  }

  /** Aborted when the client has ended. */
  get signal() {
    return this.#life.signal;
  }

  /** Wait, or until the client has ended. @param {number} delay milliseconds */
  pause(delay) {
    return sleep(delay, this.#life.signal);
  }

  /** End the connection. @param {ClientError} error */
  async close(error) {
    const { link } = this;
    if (link && !this.end) link.flush();
    this.finish(error);
    await this.#owner;
  }

  /** End the client for good. The first call counts. @param {ClientError} error */
  finish(error) {
    if (this.end) return;
    this.end = error;
    this.link = null;
    this.#ready.resolve();
    this.#listener.ended(error);
    this.change("closed", error.message, error);
    this.#life.abort();
    this.#wake.abort();
    this.#frozen?.resolve();
    for (const link of this.#links) link.close();
    this.finished.resolve(error);
  }

  /**
   * Enter a state, or update its reason.
   *
   * @param {import("./state.js").StateName} name @param {string} reason @param {unknown} [error]
   */
  change(name, reason, error) {
    if (name === this.state.name && reason === this.state.reason) return;
    this.state = new State(name, reason, error);
    this.#callbacks.state(this.state);
  }

  // -- for the page

  /** The network may be another one now: see whether the link works, or try to connect at once. */
  networkChanged() {
    if (this.end) return;
    this.link?.probe(0);
    this.#wake.abort();
    this.#wake = new AbortController();
  }

  /** The page is put aside as it is, which a browser does only without connections. */
  freeze() {
    this.#frozen ??= new Deferred();
    for (const link of this.#links) link.abort("the page was put aside");
  }

  /** The page is shown again. */
  thaw() {
    this.#frozen?.resolve();
    this.#frozen = null;
    this.networkChanged();
  }

  // -- the owner

  async #own() {
    try {
      await this.#stayConnected();
    } catch (error) {
      if (error instanceof ClientError) this.finish(error);
      else if (!this.end) {
        console.error("arqonbus: the client failed:", error);
        this.finish(new Closed(INTERNAL, `the client failed: ${error}`, error));
      }
    } finally {
      this.link = null;
      await Promise.all([...this.#links].map((link) => this.#drop(link)));
    }
  }

  /** One link after the other, until the client has ended. Throws what ends it. */
  async #stayConnected() {
    /** @type {Link | null} */
    let link = null;
    while (!this.end) {
      link ??= await this.#connected();
      if (!link) return;
      const since = now();
      this.#use(link);
      const successor = await this.#untilEnd(link);
      if (this.end) return;
      if (successor) this.#retire(link);
      else {
        if (now() - since >= USEFUL_TIME) this.#backoff.reset();
        this.#lost(link);
        await this.#drop(link);
        await this.#delay(0);
      }
      this.reconnects++;
      link = successor;
    }
  }

  /** A link that was welcomed, however many attempts it takes; null when the client has ended. */
  async #connected() {
    while (!this.end) {
      let after = 0;
      try {
        return await this.#attempt();
      } catch (error) {
        if (this.end) return null;
        if (error instanceof TokenFailed) this.#callbacks.failed(causeOf(error), "token");
        else if (!(error instanceof TryAgain)) throw error;
        else if (error.because === "untrusted" && !this.#wasOnline) throw new NotConnected(error.message, error.cause);
        else if (error.because === "expired" && !this.token.renewable) throw causeOf(error);
        else after = error.after;
        this.change(this.#wasOnline ? "rejoining" : "connecting", error.message, causeOf(error));
      }
      await this.#delay(after);
    }
    return null;
  }

  /** Wait before the next attempt, or until there is a reason to make it now. @param {number} after */
  async #delay(after) {
    await sleep(this.#backoff.next(after), this.#wake.signal);
    while (this.#frozen && !this.end) await this.#frozen.promise;
  }

  /** One attempt: token, upgrade, welcome. */
  async #attempt() {
    const { signal } = this.#life;
    const token = await this.token.fresh(signal);
    /** @param {import("./opening.js").Socket} socket */
    const use = (socket) => new Link(socket, (link, envelope, size) => this.#received(link, envelope, size));
    const link = await open(this.url, token, this.#options, use, signal);
    this.#links.add(link);
    try {
      await within(Promise.race([link.welcomed.promise, link.ended.promise]), now() + WELCOME_TIME, signal);
    } catch (error) {
      link.abort("no welcome came");
      this.#links.delete(link);
      if (!(error instanceof TimedOut)) throw error;
      throw new TryAgain(`the bus did not send its welcome within ${WELCOME_TIME / 1000} s`);
    }
    if (link.welcomed.done) return link;
    this.#links.delete(link);
    this.#throwIfFinal(link);
    throw new TryAgain(`the bus closed the connection at once: ${link.reason} (${link.code})`);
  }

  /** Send on this link from now on. @param {Link} link */
  #use(link) {
    this.#wasOnline = true;
    if (link.over) return;
    this.link = link;
    this.#ready.resolve();
    this.#listener.linkOpened(link);
  }

  /**
   * Wait until the link ended; or, when the bus announced it in time, give a link to replace it.
   *
   * @param {Link} link
   */
  async #untilEnd(link) {
    await Promise.race([link.ended.promise, link.goaway.promise]);
    if (!link.over) {
      await this.#sleepUntilEnd(link, (Math.random() * (await link.goaway.promise)) / 2);
      if (!link.over && !this.end) {
        const successor = await this.#attempt().catch(() => null); // what is wrong shows when the link has ended
        if (successor) return successor;
      }
      await link.ended.promise;
    }
    return null;
  }

  /** @param {Link} link @param {number} delay */
  async #sleepUntilEnd(link, delay) {
    await within(link.ended.promise, now() + delay, this.#life.signal).catch(() => {});
  }

  /** Account for the end of the link in use. Throws what ends the client. @param {Link} link */
  #lost(link) {
    this.link = null;
    if (this.#ready.done) this.#ready = new Deferred();
    const reason = `${link.reason} (${link.code})`;
    const lost = new Disconnected(`the connection ended before the answer came: ${reason}`);
    this.#listener.linkEnded(link, lost, link.code === TOO_BIG);
    this.#throwIfFinal(link);
    this.change("rejoining", `the connection was lost: ${reason}`, lost);
  }

  /** @param {Link} link */
  #throwIfFinal({ code, reason }) {
    if (code === TOKEN_EXPIRED && this.token.renewable) return;
    if (PROTOCOL_ERRORS.includes(code) || (code >= 4100 && code <= 4199)) throw new Closed(code, reason);
  }

  /** Let a replaced link finish what it was asked, then close it. @param {Link} link */
  async #retire(link) {
    await this.#sleepUntilEnd(link, HANDOVER_TIME);
    if (this.end) return;
    link.over = true;
    this.#listener.linkEnded(link, new Disconnected("the connection was replaced before the answer came"), false);
    await this.#drop(link);
  }

  /** Close a link and forget it. @param {Link} link */
  async #drop(link) {
    this.#links.delete(link);
    await link.close();
  }

  /** @param {Link} link @param {import("./message.js").Envelope} envelope @param {number} size */
  #received(link, envelope, size) {
    if (this.end) return;
    if (envelope.kind === "SIGNAL") {
      if (envelope.name === "welcome") link.greet(envelope.payload);
      else if (envelope.name === "goaway") link.goaway.resolve(envelope.payload.reconnect_after_ms ?? 0);
    }
    this.#listener.received(link, envelope, size);
  }
}

/** The error for the program: the answer of the bus, or the transport's error. @param {Error} failure */
function causeOf(failure) {
  return failure.cause instanceof Error ? failure.cause : failure;
}
