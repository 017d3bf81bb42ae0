/**
 * Rooms that the client is in: each is joined once for all its subscriptions, and left after the last.
 *
 * Each room has one piece of work that brings what the bus holds in line with what the subscriptions want, whatever
 * changed meanwhile. So no order of subscribing, cancelling, closing, pausing and reconnecting needs code of its own.
 *
 * @module
 */

import { Backoff } from "./backoff.js";
import { catchUp } from "./history.js";
import { ClientError, Disconnected, Rejected } from "./errors.js";
import { EVERY_CHANNEL, Membership } from "./membership.js";
import { Position } from "./message.js";
import { command } from "./outgoing.js";
import { Deferred, TimedOut, now, within } from "./time.js";

const JOINS_AT_ONCE = 64;

/**
 * @typedef {import("./link.js").Link} Link
 * @typedef {import("./message.js").Envelope} Envelope
 * @typedef {import("./subscription.js").Subscription} Subscription
 */

/** All rooms of a client. Also what subscriptions ask of it. */
export class Memberships {
  #connection;
  #requests;
  #callbacks;
  /** @type {Map<string, Membership>} */
  #rooms = new Map();
  /** How `subscribe` ends. @type {Map<Subscription, Deferred<void>>} */
  #subscribing = new Map();
  #joining = 0;
  /** @type {(() => void)[]} */
  #queue = [];

  /**
   * @param {import("./connection.js").Connection} connection
   * @param {import("./requests.js").Requests} requests
   * @param {import("./callbacks.js").Callbacks} callbacks
   */
  constructor(connection, requests, callbacks) {
    this.#connection = connection;
    this.#requests = requests;
    this.#callbacks = callbacks;
  }

  // -- for the client

  /**
   * Return when the subscription is live. Throws Rejected, Disconnected after the timeout, or the signal's reason.
   *
   * @param {Subscription} subscription @param {AbortSignal} [signal]
   */
  async subscribe(subscription, signal) {
    const { room } = subscription;
    const deadline = now() + this.#requests.timeout;
    /** @type {Deferred<void>} */
    const live = new Deferred();
    try {
      await this.#connection.ready(deadline, signal);
      if (subscription.over) return;
      const membership = this.#rooms.get(room) ?? new Membership(room);
      this.#rooms.set(room, membership);
      membership.subscriptions.push(subscription);
      this.#subscribing.set(subscription, live);
      this.#work(membership);
      await within(live.promise, deadline, signal);
    } catch (error) {
      const reason = `room ${room} could not be joined in time`;
      const thrown = error instanceof TimedOut ? new Disconnected(reason, this.#connection.state.error) : error;
      this.#remove(subscription, thrown);
      throw thrown;
    } finally {
      this.#subscribing.delete(subscription);
    }
  }

  /** Join every room on a new link; the work that does. @param {Link} link */
  rejoin(link) {
    const memberships = [...this.#rooms.values()];
    for (const membership of memberships) {
      if (membership.link !== link) membership.forgetLink();
      this.#work(membership);
    }
    return memberships.flatMap(({ work }) => (work ? [work] : []));
  }

  /** Forget the state of this link. @param {Link} link */
  linkEnded(link) {
    for (const membership of this.#rooms.values()) if (membership.link === link) membership.forgetLink();
  }

  /** A message of a room came. @param {Envelope} envelope @param {number} size */
  deliver(envelope, size) {
    this.#rooms.get(envelope.room)?.deliver(envelope, size);
  }

  /** Messages of a room are gone. @param {string} room @param {string} reason */
  lost(room, reason) {
    for (const sub of [...(this.#rooms.get(room)?.subscriptions ?? [])]) if (sub.live) sub.lost(reason);
  }

  /** The bus took the client out of a room. @param {string} room */
  left(room) {
    const membership = this.#rooms.get(room);
    if (!membership) return;
    membership.forgetLink();
    for (const sub of membership.subscriptions) sub.live = false;
    this.#work(membership);
  }

  /** The client has ended. @param {ClientError} error @param {boolean} failed whether subscriptions throw the error */
  end(error, failed) {
    for (const membership of this.#rooms.values()) {
      for (const sub of [...membership.subscriptions]) {
        this.#subscribing.get(sub)?.reject(error);
        sub.finish(failed ? error : undefined);
      }
    }
    this.#rooms.clear();
  }

  // -- for subscriptions

  /**
   * @param {(loss: import("./errors.js").MessagesLost) => unknown} callback
   * @param {import("./errors.js").MessagesLost} loss
   */
  loss(callback, loss) {
    this.#callbacks.call("onLost", callback, loss);
  }

  /** @param {Subscription} subscription */
  demandChanged({ room }) {
    const membership = this.#rooms.get(room);
    if (membership) this.#work(membership);
  }

  /** @param {Subscription} subscription */
  async release(subscription) {
    const membership = this.#rooms.get(subscription.room);
    this.#remove(subscription);
    if (membership?.work && this.#connection.link) {
      await within(membership.work, now() + this.#requests.timeout).catch(() => {});
    }
  }

  /** @param {Subscription} subscription @param {unknown} [error] */
  #remove(subscription, error) {
    subscription.finish(error);
    this.#subscribing.get(subscription)?.resolve();
    const membership = this.#rooms.get(subscription.room);
    if (membership?.subscriptions.includes(subscription)) {
      membership.subscriptions = membership.subscriptions.filter((sub) => sub !== subscription);
      this.#work(membership);
    }
  }

  // -- the work

  /** Have what the bus holds brought in line. @param {Membership} membership */
  #work(membership) {
    membership.work ??= this.#bringInLine(membership);
  }

  /** @param {Membership} membership */
  async #bringInLine(membership) {
    await null; // the caller goes on first
    const backoff = new Backoff();
    try {
      for (;;) {
        membership.subscriptions = membership.subscriptions.filter((sub) => !sub.over);
        const { link } = this.#connection;
        if (!link || membership.settled(link)) return;
        try {
          await this.#oneOfFew(() => this.#step(membership, link));
        } catch (error) {
          if (this.#connection.end) return;
          if (error instanceof Rejected) await this.#onRefusal(membership, link, error, backoff);
          else if (!(error instanceof Disconnected)) throw error;
          else if (this.#connection.link === link) await this.#connection.pause(backoff.next());
        }
      }
    } catch (error) {
      this.#callbacks.failed(error, `room ${membership.room}`);
      this.#refused(membership, new Disconnected(`room ${membership.room} could not be joined: ${error}`, error));
    } finally {
      membership.work = null;
      if (!membership.subscriptions.length && this.#rooms.get(membership.room) === membership) {
        this.#rooms.delete(membership.room);
      }
    }
  }

  /** Run a step while at most JOINS_AT_ONCE of them run. @param {() => Promise<void>} step */
  async #oneOfFew(step) {
    if (this.#joining < JOINS_AT_ONCE) this.#joining++;
    else await new Promise((resolve) => this.#queue.push(() => resolve(null)));
    try {
      await step();
    } finally {
      const next = this.#queue.shift();
      if (next) next();
      else this.#joining--;
    }
  }

  /** @param {Membership} membership @param {Link} link @param {Rejected} refused @param {Backoff} backoff */
  async #onRefusal(membership, link, refused, backoff) {
    const { retryAfter } = refused.status;
    if (retryAfter) await this.#connection.pause(backoff.next(retryAfter));
    else if (refused.code === "CONFLICT" && !membership.channels.size) {
      // The answer to an earlier join was not waited for: the bus has the client in the room already.
      await this.#connection.pause(backoff.next());
      await this.#leave(membership, link, membership.wanted()).catch(() => {});
    } else this.#refused(membership, refused);
  }

  /**
   * One thing that brings the room nearer to what is wanted. Throws Rejected or Disconnected.
   *
   * @param {Membership} membership @param {Link} link
   */
  async #step(membership, link) {
    if (membership.link !== link) membership.forgetLink();
    const { channels } = membership;
    const wanted = membership.wanted();
    const late = membership.late();
    const rewinding = late.some((sub) => sub.buffered);
    const surplus = new Set([...channels].filter((channel) => !wanted.has(channel)));
    if (channels.size && (rewinding || surplus.size)) {
      const everything = rewinding || wanted.has(EVERY_CHANNEL);
      await this.#leave(membership, link, everything ? channels : surplus);
      return;
    }
    const missing = [...wanted].filter((channel) => !channels.has(channel));
    const { position } = membership;
    if (!missing.length && position) {
      for (const sub of late) {
        sub.attach(position);
        this.#subscribing.get(sub)?.resolve();
      }
    }
    const watch = membership.watched();
    const joins = missing.length || !watch || membership.watching ? missing : wanted;
    for (const channel of joins) await this.#join(membership, link, channel, watch);
  }

  /** @param {Membership} membership @param {Link} link @param {Set<string>} channels */
  async #leave(membership, link, channels) {
    for (const channel of [...channels]) {
      try {
        await this.#command(link, "op.rooms.leave", { room: membership.room, channel });
      } catch (error) {
        if (!(error instanceof Rejected)) throw error; // not a member of it: that is what was wanted
      }
      membership.channels.delete(channel);
    }
    if (!membership.channels.size) membership.forgetLink();
  }

  /**
   * Join one channel, from the earliest position that a subscription needs. The reply takes effect at once.
   *
   * @param {Membership} membership @param {Link} link @param {string} channel @param {boolean} watch
   */
  async #join(membership, link, channel, watch) {
    const isNew = !membership.channels.has(channel);
    const since = earliest(membership.subscriptions.filter((sub) => sub.takes && covers(channel, sub)));
    const args = {
      room: membership.room,
      ...(channel && { channel }),
      ...(watch && { presence: true }),
      ...(since && isNew && { since: { epoch: since.epoch, sequence: since.sequence } }),
    };
    await this.#command(link, "op.rooms.join", args, (reply) => {
      if (reply.status.code !== "OK" || this.#connection.link !== link) return;
      const { position, recovered = true } = reply.payload;
      if (isNew) {
        membership.joined(link, channel, new Position(position.epoch, position.sequence), watch);
        this.#joined(membership, channel, recovered, since);
      } else membership.watching = watch;
    });
  }

  /**
   * Make the subscriptions of a channel live, as far as what they missed is on its way.
   *
   * @param {Membership} membership @param {string} channel @param {boolean} recovered
   * @param {Position | null} since
   */
  #joined(membership, channel, recovered, since) {
    const position = /** @type {Position} */ (membership.position);
    for (const sub of [...membership.subscriptions]) {
      const { buffered } = sub;
      if (!sub.takes || !covers(channel, sub)) continue;
      // It was resumed after this join was sent: its own position is tried next.
      if (buffered && (!since || buffered.before(since))) sub.live = false;
      else if (!recovered && buffered && !buffered.equals(position) && !buffered.equals(since)) sub.live = false;
      else if (!recovered && buffered?.epoch === position.epoch && buffered.before(position)) this.#catchUp(sub);
      else {
        sub.joined(position, recovered);
        this.#subscribing.get(sub)?.resolve();
      }
    }
  }

  /** Read what it missed from the history of the room, as fast as it is read; then it joins again. @param {Subscription} sub */
  async #catchUp(sub) {
    sub.live = false;
    sub.catchingUp = true;
    this.#subscribing.get(sub)?.resolve(); // it can be read from now on
    try {
      await catchUp(sub, this.#requests);
    } catch (error) {
      if (error instanceof Rejected) sub.startOver(`what was published meanwhile cannot be read: ${error.message}`);
      else if (!(error instanceof ClientError)) this.#callbacks.failed(error, `room ${sub.room}`);
    } finally {
      sub.catchingUp = false;
      this.demandChanged(sub);
    }
  }

  /**
   * @param {Link} link @param {string} operation @param {Record<string, unknown>} args
   * @param {(reply: Envelope) => void} [onReply]
   */
  async #command(link, operation, args, onReply) {
    await this.#requests.askOnce(link, command(operation, args), { onReply });
  }

  /**
   * Fail the subscriptions that wait for a room that the bus refused for good; keep the live ones.
   *
   * @param {Membership} membership @param {ClientError} error
   */
  #refused(membership, error) {
    const late = membership.late();
    const concerned = late.length ? late : membership.subscriptions;
    const watchers = concerned.filter((sub) => sub.presence);
    for (const sub of watchers.length ? watchers : concerned) {
      this.#subscribing.get(sub)?.reject(error);
      sub.finish(error);
    }
  }
}

/** @param {string} channel @param {Subscription} sub */
function covers(channel, sub) {
  return channel === EVERY_CHANNEL || channel === sub.channel;
}

/** The earliest position that a subscription needs. @param {Subscription[]} subscriptions */
function earliest(subscriptions) {
  const positions = subscriptions.flatMap(({ buffered }) => (buffered ? [buffered] : []));
  return positions.length ? positions.reduce((a, b) => (b.before(a) ? b : a)) : null;
}
