/** One room: what its subscriptions want, and what the bus holds for it on the current link. @module */

import { Message, Position } from "./message.js";

export const EVERY_CHANNEL = "";

/** @typedef {import("./subscription.js").Subscription} Subscription */

export class Membership {
  /** @type {Subscription[]} */
  subscriptions = [];
  /** On which `channels` are joined. @type {import("./link.js").Link | null} */
  link = null;
  /** @type {Set<string>} */
  channels = new Set();
  /** Presence signals were asked for. */
  watching = false;
  /** Brings what the bus holds in line. @type {Promise<void> | null} */
  work = null;
  /** @type {Position | null} */
  #joinedAt = null;
  /** @type {import("./message.js").Envelope | null} */
  #last = null;

  /** @param {string} room */
  constructor(room) {
    this.room = room;
  }

  /** Position of the membership on this link, where a subscription can attach. */
  get position() {
    if (!this.#last) return this.#joinedAt;
    const { position } = new Message(this.#last);
    // What was missed before the place of the join is still on its way.
    return this.#joinedAt && !this.#joinedAt.before(position) ? this.#joinedAt : position;
  }

  /**
   * The bus has taken the client into a channel of the room, at this position.
   *
   * @param {import("./link.js").Link} link @param {string} channel @param {Position} position
   * @param {boolean} watching
   */
  joined(link, channel, position, watching) {
    this.link = link;
    this.channels.add(channel);
    this.watching ||= watching;
    this.#joinedAt = position;
    this.#last = null;
  }

  /** The channels to be joined now; {""} for the whole room. */
  wanted() {
    const channels = new Set(this.subscriptions.filter((sub) => sub.takes).map((sub) => sub.channel));
    return channels.has(EVERY_CHANNEL) ? new Set([EVERY_CHANNEL]) : channels;
  }

  /** True if a subscription wants presence signals. */
  watched() {
    return this.subscriptions.some((sub) => sub.takes && sub.presence);
  }

  /** Subscriptions that want messages and get none yet. */
  late() {
    return this.subscriptions.filter((sub) => sub.takes && !sub.live);
  }

  /** True if nothing is left to do on this link. @param {import("./link.js").Link} link */
  settled(link) {
    const wanted = this.wanted();
    if (this.link !== link) return wanted.size === 0;
    const same = wanted.size === this.channels.size && [...wanted].every((channel) => this.channels.has(channel));
    return same && !this.late().length && (this.watching || !this.watched());
  }

  /** A message of the room. @param {import("./message.js").Envelope} envelope @param {number} size */
  deliver(envelope, size) {
    for (const sub of this.subscriptions) {
      if (sub.live && (!sub.channel || sub.channel === envelope.channel)) sub.deliver(envelope, size);
    }
    this.#last = envelope;
  }

  /** The bus holds nothing for the room any more. */
  forgetLink() {
    this.link = null;
    this.channels = new Set();
    this.watching = false;
    this.#joinedAt = this.#last = null;
  }
}
