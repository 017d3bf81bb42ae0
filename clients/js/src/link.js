/**
 * One WebSocket connection to a bus: envelopes out, envelopes in, and a watch over its life. Never reconnects.
 *
 * What is sent in one turn of the event loop leaves in one WebSocket message, up to the limits of the bus.
 *
 * @module
 */

import { Disconnected, rejected } from "./errors.js";
import { parse } from "./json.js";
import { command } from "./outgoing.js";
import { Deferred, now, within } from "./time.js";

const MAX_BATCH_BYTES = 256 * 1024;
const MAX_BATCH = 1024;
const UNREADABLE = 1007;
const BROKEN = 1006;
const MIN_MARGIN = 1000;
const MAX_MARGIN = 10_000;
const DEFAULT_PING_INTERVAL = 30_000;
const CLOSE_TIME = 2000; // ms that the other end has to take part in the closing handshake

/** An open connection. */
export class Link {
  /** @type {Record<string, any>} */
  welcome = {};
  /** Nothing that is sent would be answered. */
  over = false;
  /** Fulfilled when it has ended, after its last envelope. @type {Deferred<void>} */
  ended = new Deferred();
  /** @type {Deferred<void>} */
  welcomed = new Deferred();
  /** Fulfilled with the milliseconds until the bus closes it, once that says so. @type {Deferred<number>} */
  goaway = new Deferred();
  code = BROKEN;
  reason = "the connection broke";
  #socket;
  #receive;
  /** @type {import("./outgoing.js").Outgoing[]} */
  #outbox = [];
  #maxFrame = MAX_BATCH_BYTES;
  #maxPayload = Infinity;
  #heard = now();
  #interval = 0;
  #margin = 0;
  #grace = 0;
  #probedAt = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {import("./opening.js").Socket} socket an open one
   * @param {(link: Link, envelope: import("./message.js").Envelope, size: number) => void} receive
   */
  constructor(socket, receive) {
    this.#socket = socket;
    this.#receive = receive;
    socket.onmessage = (event) => this.#read(event.data);
    socket.onerror = null;
    socket.onclose = (event) => this.#end(event.code, event.reason || this.reason);
    for (const event of ["ping", "pong"]) socket.on?.(event, () => this.#hear());
  }

  /** Keep the bus's limits, and begin to watch for silence. @param {Record<string, any>} welcome */
  greet(welcome) {
    this.welcome = welcome;
    this.#maxFrame = welcome.limits?.max_frame_bytes || MAX_BATCH_BYTES;
    this.#maxPayload = welcome.limits?.max_payload_bytes || Infinity;
    this.#interval = welcome.ping_interval_ms || DEFAULT_PING_INTERVAL;
    this.#margin = Math.max(MIN_MARGIN, Math.min(MAX_MARGIN, this.#interval / 2));
    this.#look();
    this.welcomed.resolve();
  }

  // -- sending

  /**
   * Queue one envelope. Throws Rejected (TOO_LARGE) when the bus would not take it, Disconnected when over.
   *
   * @param {import("./outgoing.js").Outgoing} outgoing
   */
  send(outgoing) {
    const { bytes, payloadBytes } = outgoing;
    if (this.over) throw new Disconnected("the connection has ended");
    if (bytes > this.#maxFrame) {
      throw rejected("TOO_LARGE", `the message has ${bytes} bytes on the wire; the bus accepts ${this.#maxFrame}`);
    }
    if (payloadBytes > this.#maxPayload) {
      throw rejected("TOO_LARGE", `the payload has ${payloadBytes} bytes; the bus accepts ${this.#maxPayload}`);
    }
    if (this.#outbox.push(outgoing) === 1) queueMicrotask(() => this.flush());
  }

  /** Give what was sent to the socket. */
  flush() {
    const outbox = this.#outbox;
    this.#outbox = [];
    const most = Math.min(MAX_BATCH_BYTES, this.#maxFrame);
    for (let begin = 0, end = 0; begin < outbox.length; begin = end) {
      let size = outbox[end++].bytes;
      while (end < outbox.length && end - begin < MAX_BATCH && size + 1 + outbox[end].bytes <= most) {
        size += 1 + outbox[end++].bytes;
      }
      const lines = outbox.slice(begin, end).map((outgoing) => outgoing.line);
      if (this.#socket.readyState === 1) this.#socket.send(lines.join("\n"));
    }
  }

  // -- receiving

  /** @param {unknown} data */
  #read(data) {
    this.#hear();
    let envelopes;
    try {
      if (typeof data !== "string") throw new TypeError("a binary frame");
      envelopes = data.split("\n").filter((line) => line.trim()).map((line) => parse(line));
      if (!envelopes.every((envelope) => typeof envelope?.kind === "string")) throw new TypeError("not an envelope");
    } catch (error) {
      this.#fail(UNREADABLE, `the bus sent data that cannot be read: ${error}`);
      return;
    }
    const size = Math.ceil(data.length / envelopes.length);
    try {
      for (const envelope of envelopes) this.#receive(this, envelope, size);
    } catch (error) {
      console.error("arqonbus: an envelope could not be handled:", error);
      this.abort(`an envelope could not be handled: ${error}`);
    }
  }

  // -- liveness

  #hear() {
    this.#heard = now();
  }

  /**
   * Ask for a sign of life now; without one in time the link ends.
   *
   * @param {number} [time] milliseconds, at most the margin
   */
  probe(time = MAX_MARGIN) {
    if (!this.#interval || this.#probedAt || this.over) return;
    clearTimeout(this.#timer);
    this.#probedAt = now();
    this.#grace = Math.max(MIN_MARGIN, Math.min(this.#margin, time));
    if (this.#socket.ping) this.#socket.ping();
    else this.send(command("op.ping", {})); // a page can send no ping of WebSocket
    this.#timer = setTimeout(() => this.#judge(), this.#grace);
  }

  /** Probe if it was silent for an interval, else look again when that could be so. */
  #look() {
    const due = this.#heard + this.#interval - now();
    if (due <= 0) this.probe();
    else this.#timer = setTimeout(() => this.#look(), due);
  }

  #judge() {
    const probedAt = this.#probedAt;
    this.#probedAt = 0;
    if (this.#heard > probedAt) this.#look();
    else if (now() - probedAt > 1.5 * this.#grace) this.probe(); // this program stood still: the probe had no fair chance
    else this.abort(`nothing was heard from the bus for ${((now() - this.#heard) / 1000).toFixed(1)} s`);
  }

  // -- the end

  /** End it without a closing handshake. @param {string} reason */
  abort(reason) {
    this.#fail(BROKEN, reason);
  }

  /** @param {number} code @param {string} reason */
  #fail(code, reason) {
    this.#socket.onmessage = null;
    this.#end(code, reason);
    if (this.#socket.terminate) this.#socket.terminate();
    else this.#socket.close();
  }

  /** The first end counts. @param {number} code @param {string} reason */
  #end(code, reason) {
    if (this.ended.done) return;
    this.code = code;
    this.reason = reason;
    this.over = true;
    this.#rest();
    this.ended.resolve();
  }

  #rest() {
    clearTimeout(this.#timer);
    this.#interval = 0;
  }

  /** Close it, with a closing handshake if the other end takes part. */
  async close() {
    this.flush();
    this.#rest();
    this.#socket.close(1000);
    await within(this.ended.promise, now() + CLOSE_TIME).catch(() => {});
    this.abort("the connection was closed");
  }
}
