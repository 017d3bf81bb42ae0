/** Messages and acks as a program sees them. @module */

import { fromBase64, parse, stringify } from "./json.js";

/**
 * An envelope as it is on the wire; see docs/reference/protocol.md.
 *
 * @typedef {Record<string, any>} Envelope
 */

/** A place in a room's log. Epochs are ULIDs, so an older one is smaller. */
export class Position {
  /** @param {string} epoch @param {bigint | number | string} sequence */
  constructor(epoch, sequence) {
    this.epoch = epoch;
    this.sequence = BigInt(sequence);
  }

  /** Whether this place is before another. @param {Position} other */
  before(other) {
    return this.epoch === other.epoch ? this.sequence < other.sequence : this.epoch < other.epoch;
  }

  /** Whether both are the same place. @param {Position | null} other */
  equals(other) {
    return other !== null && this.epoch === other.epoch && this.sequence === other.sequence;
  }

  /** Can be stored as JSON, and given to `subscribe` again. */
  toJSON() {
    return { epoch: this.epoch, sequence: String(this.sequence) };
  }
}

/** One message as it was delivered. */
export class Message {
  /** @param {Envelope} envelope */
  constructor(envelope) {
    /** @readonly */
    this.envelope = envelope;
  }

  /** @returns {string} */
  get id() {
    return this.envelope.id;
  }

  /** Empty for a direct message. @returns {string} */
  get room() {
    return this.envelope.room ?? "";
  }

  /** @returns {string} */
  get channel() {
    return this.envelope.channel ?? "";
  }

  /** The event type that its producer gave it. @returns {string} */
  get name() {
    return this.envelope.name ?? "";
  }

  /** The client id of its producer, which changes with each connection. @returns {string} */
  get sender() {
    return this.envelope.sender ?? "";
  }

  /** Place in the room's log; 0 for a direct message. */
  get sequence() {
    return BigInt(this.envelope.sequence ?? 0);
  }

  /** @returns {string} */
  get epoch() {
    return this.envelope.epoch ?? "";
  }

  /** Epoch and sequence. */
  get position() {
    return new Position(this.epoch, this.sequence);
  }

  /** The producer's clock when it was made. */
  get time() {
    return new Date(this.envelope.time);
  }

  /** The bus's clock when it was stored, or null if the bus does not say. */
  get serverTime() {
    return this.envelope.server_time ? new Date(this.envelope.server_time) : null;
  }

  /** The id of the message that led to this one, or empty. @returns {string} */
  get cause() {
    return this.envelope.cause ?? "";
  }

  /** @returns {string} */
  get contentType() {
    return this.envelope.content_type ?? "";
  }

  /** @returns {Record<string, string>} */
  get headers() {
    return this.envelope.headers ?? {};
  }

  /** The vector clock: counters by actor. @returns {Record<string, bigint>} */
  get clock() {
    const counts = Object.entries(this.envelope.clock ?? {});
    return Object.fromEntries(counts.map(([actor, count]) => [actor, BigInt(count)]));
  }

  /** The payload as a JSON value; an integer beyond 2⁵³−1 is a BigInt. Throws SyntaxError when it is not JSON. */
  json() {
    return "payload" in this.envelope ? this.envelope.payload : parse(this.text());
  }

  /** The payload as text. A JSON payload is encoded again, without spaces. @returns {string} */
  text() {
    return "payload" in this.envelope ? stringify(this.envelope.payload) : new TextDecoder().decode(this.bytes());
  }

  /** The payload as bytes. A JSON payload is encoded again, without spaces. @returns {Uint8Array} */
  bytes() {
    if ("payload" in this.envelope) return new TextEncoder().encode(this.text());
    return fromBase64(this.envelope.payload_b64 ?? "");
  }
}

/** The bus has the message. */
export class Ack {
  /** @param {Envelope} reply @param {string} room */
  constructor(reply, room) {
    /** @type {string} */
    this.id = reply.reply_to;
    this.room = room;
    /** 0 for a direct message, and for a duplicate whose place is no longer known. */
    this.sequence = BigInt(reply.sequence ?? 0);
    /** @type {string} */
    this.epoch = reply.epoch ?? "";
    /** @type {"memory" | "hot" | "durable"} */
    this.durability = reply.durability ?? "";
    /** Its id was stored before. */
    this.duplicate = reply.duplicate === true;
  }

  toJSON() {
    return { ...this, sequence: String(this.sequence) };
  }
}

/**
 * One client in a room: its client id, when it joined, where it is connected.
 *
 * @typedef {{client: string, subject: string, node: string, since: Date}} Member
 */
