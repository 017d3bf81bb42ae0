/** Messages of one room in order, across reconnects: without loss and without repetition, or with an error. @module */

import { ClientError, MessagesLost } from "./errors.js";
import { Message, Position } from "./message.js";
import { Deferred } from "./time.js";

/**
 * @typedef {object} SubscribeOptions
 * @property {string} [channel] this channel only; default: the whole room
 * @property {Position | {epoch: string, sequence: bigint | number | string} | null} [since] go on behind this place
 * @property {boolean} [presence] signals of who joins and leaves go to `onSignal`
 * @property {(loss: MessagesLost) => unknown} [onLost] is called when messages are lost, and the iteration goes on;
 *   without it the iteration throws MessagesLost
 * @property {"pause" | "drop_oldest" | "raise"} [policy] what happens when the buffer is full; default: pause
 * @property {number} [maxMessages] that wait unread; default: 10 000
 * @property {number} [maxBytes] that wait unread; default: 16 MiB
 * @property {boolean} [manualAck] the position moves with `confirm`, not with what is given out
 * @property {AbortSignal} [signal] ends the subscription
 */

/** @typedef {{message: Message, position: Position, size: number}} Waiting a message that waits to be read */

/**
 * The interface that a subscription uses of the client.
 *
 * @typedef {object} Owner
 * @property {(callback: (loss: MessagesLost) => unknown, loss: MessagesLost) => void} loss call the program's callback
 * @property {(subscription: Subscription) => void} demandChanged it was paused, resumed or failed
 * @property {(subscription: Subscription) => Promise<void>} release it was closed by the program
 */

/**
 * Iterate over it with `for await`. Leaving the loop, or `close`, ends it and leaves the room.
 *
 * @implements {AsyncIterableIterator<Message>}
 */
export class Subscription {
  /** Messages that the policy `drop_oldest` dropped. */
  dropped = 0;
  /** The last message that the program was given, or, with `manualAck`, confirmed. @type {Position | null} */
  position;
  /** Fulfilled when the room was joined. @type {Promise<void>} */
  ready = Promise.resolve();

  // For the client:
  /** The buffer is full, and nothing is taken until it is half empty. */
  paused = false;
  /** Joined: what comes is delivered. */
  live = false;
  /** Its missed messages are being read from the room's history. */
  catchingUp = false;
  /** Nothing more is taken. */
  over = false;
  /** The last message that was taken from the bus. @type {Position | null} */
  buffered;

  #owner;
  #onLost;
  #policy;
  #maxMessages;
  #maxBytes;
  #manualAck;
  /** @type {Waiting[]} */
  #buffer = [];
  #bytes = 0;
  #dropping = false; // within one run of drops
  /** Something waits, or it is over. @type {Deferred<void>} */
  #some = new Deferred();
  /** The buffer is half empty, or it is over. @type {Deferred<void>} */
  #space = new Deferred();
  /** @type {unknown} */
  #error;

  /** @param {Owner} owner @param {string} room @param {SubscribeOptions} options */
  constructor(owner, room, options) {
    const { channel = "", since, presence = false, onLost, policy = "pause", manualAck = false } = options;
    const { maxMessages = 10_000, maxBytes = 16 * 2 ** 20 } = options;
    if (!["pause", "drop_oldest", "raise"].includes(policy)) {
      throw new TypeError(`unknown policy ${policy}`);
    }
    if (!(maxMessages >= 1 && maxBytes >= 1)) throw new RangeError("maxMessages or maxBytes is below 1");
    this.room = room;
    this.channel = channel;
    this.presence = presence;
    this.position = this.buffered = since ? new Position(since.epoch, since.sequence) : null;
    this.#owner = owner;
    this.#onLost = onLost;
    this.#policy = policy;
    this.#maxMessages = maxMessages;
    this.#maxBytes = maxBytes;
    this.#manualAck = manualAck;
  }

  // -- for the program

  /** Messages that wait to be read. */
  get pending() {
    return this.#buffer.length;
  }

  /** With `manualAck`: the message is done, and everything before it. @param {Message} message */
  confirm(message) {
    this.position = message.position;
  }

  /** Leave the room; the iteration ends, or throws the reason if there is one. @param {unknown} [reason] */
  async close(reason) {
    this.finish(reason);
    this.#buffer = [];
    this.#bytes = 0;
    await this.#owner.release(this);
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** @returns {Promise<IteratorResult<Message, undefined>>} */
  async next() {
    while (!this.#buffer.length) {
      if (this.over) {
        if (this.#error === undefined) return { done: true, value: undefined };
        throw this.#error;
      }
      if (this.#some.done) this.#some = new Deferred();
      await this.#some.promise;
    }
    const { message, position, size } = /** @type {Waiting} */ (this.#buffer.shift());
    this.#bytes -= size;
    if (!this.#manualAck) this.position = position;
    if (!this.#space.done && this.#isHalfEmpty()) {
      this.#space.resolve();
      if (this.paused) {
        this.paused = false;
        this.#owner.demandChanged(this);
      }
    }
    return { done: false, value: message };
  }

  /** Called when a `for await` is left. @returns {Promise<IteratorResult<Message, undefined>>} */
  async return() {
    await this.close();
    return { done: true, value: undefined };
  }

  // -- for the client

  /** True if it wants messages from the room now. */
  get takes() {
    return !(this.paused || this.catchingUp || this.over);
  }

  /** The bus answered a join that covers this subscription. @param {Position} position @param {boolean} recovered */
  joined(position, recovered) {
    if (!this.buffered) this.#start(position);
    else if (!recovered && !this.buffered.equals(position)) {
      this.#start(position);
      this.lost("the bus cannot prove what was published while the client was disconnected");
    }
    this.live = !this.over;
  }

  /** Accept the loss and continue with the next message. @param {string} reason */
  startOver(reason) {
    this.buffered = null;
    this.lost(reason);
  }

  /** Take part in a membership that stands at this position, from now on. @param {Position} position */
  attach(position) {
    this.#start(position);
    this.live = true;
  }

  /** @param {Position} position */
  #start(position) {
    this.buffered = position;
    if (!this.#buffer.length) this.position = position;
  }

  /**
   * Deliver a message of the room's history, or pass over one of another channel.
   *
   * @param {import("./message.js").Envelope} envelope @param {number} size
   */
  take(envelope, size) {
    if (!this.channel || envelope.channel === this.channel) this.deliver(envelope, size);
    else if (!this.paused) this.buffered = new Message(envelope).position;
  }

  /**
   * Buffer a message that is newer than the last one. Never waits.
   *
   * @param {import("./message.js").Envelope} envelope @param {number} size about how many bytes it has
   */
  deliver(envelope, size) {
    const message = new Message(envelope);
    const { position } = message;
    const last = this.buffered;
    if (last && position.epoch === last.epoch && position.sequence <= last.sequence) return;
    if (this.paused || this.over) return;
    if (this.#buffer.length >= this.#maxMessages || this.#bytes + size > this.#maxBytes) {
      if (!this.#makeRoom(size)) return;
    } else this.#dropping = false;
    this.buffered = position;
    this.#buffer.push({ message, position, size });
    this.#bytes += size;
    this.#some.resolve();
  }

  /** Apply the policy to a full buffer. Whether the message is taken. @param {number} size */
  #makeRoom(size) {
    if (!this.#buffer.length) return true; // one message that is larger than the whole buffer
    if (this.#policy === "pause") {
      this.paused = true;
      this.live = false;
      if (this.#space.done) this.#space = new Deferred();
      this.#owner.demandChanged(this);
      return false;
    }
    if (this.#policy === "raise") {
      this.fail(new MessagesLost(this.room, `${this.#buffer.length} messages waited and were not read in time`));
      return false;
    }
    while (this.#buffer.length && (this.#buffer.length >= this.#maxMessages || this.#bytes + size > this.#maxBytes)) {
      this.#bytes -= this.#buffer[0].size;
      this.#buffer.shift();
      this.dropped++;
    }
    if (!this.#dropping && this.#onLost) {
      const reason = "the oldest messages were dropped, as they were not read in time";
      this.#owner.loss(this.#onLost, new MessagesLost(this.room, reason));
    }
    this.#dropping = true;
    return true;
  }

  /** Wait until the buffer is at most half full, or it is over; how many messages it has room for. */
  async halfEmpty() {
    while (!this.#isHalfEmpty() && !this.over) {
      if (this.#space.done) this.#space = new Deferred();
      await this.#space.promise;
    }
    return Math.max(1, this.#maxMessages - this.#buffer.length);
  }

  #isHalfEmpty() {
    return this.#buffer.length * 2 <= this.#maxMessages && this.#bytes * 2 <= this.#maxBytes;
  }

  /** Messages are gone. @param {string} reason */
  lost(reason) {
    const loss = new MessagesLost(this.room, reason);
    if (this.#onLost) this.#owner.loss(this.#onLost, loss);
    else this.fail(loss);
  }

  /** End the iteration with an error, behind what is buffered. @param {ClientError} error */
  fail(error) {
    if (this.finish(error)) this.#owner.demandChanged(this);
  }

  /** End the iteration behind what is buffered. False if it was over before. @param {unknown} [error] */
  finish(error) {
    if (this.over) return false;
    this.over = true;
    this.#error = error;
    this.live = this.paused = false;
    this.#some.resolve();
    this.#space.resolve();
    return true;
  }
}
