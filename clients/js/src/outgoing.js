/** What the client sends: messages and commands as lines of JSON, checked as the bus would. @module */

import { Rejected, invalid, rejected } from "./errors.js";
import { isMessageId, newUlid } from "./ids.js";
import { stringify, toBase64 } from "./json.js";

const JSON_CONTENT = "application/json";
const NAME = /^[A-Za-z0-9._-]{1,128}$/;
const PRINTABLE = /^[^\p{C}\p{Zl}\p{Zp}]*$/u;
const encoder = new TextEncoder();

/**
 * A value that can be published: bytes go as they are, anything else as JSON, in which a BigInt is a number.
 *
 * @typedef {Uint8Array | ArrayBuffer | string | number | bigint | boolean | null | object} Payload
 */

/**
 * What a message can have beside its payload.
 *
 * @typedef {object} MessageOptions
 * @property {string} [channel]
 * @property {string} [name] the event type, at most 256 characters
 * @property {string} [contentType] of the payload; default: application/json, or none for bytes
 * @property {Record<string, string>} [headers] at most 32, and 4096 bytes
 * @property {string} [id] a ULID or UUIDv7; a room stores an id once
 * @property {string} [cause] the id of the message that led to this one
 * @property {Record<string, bigint | number | string>} [clock] a vector clock, at most 64 actors
 */

/** An envelope that is ready to be sent. */
export class Outgoing {
  /** @param {string} id @param {string} name @param {string} line @param {number} payloadBytes */
  constructor(id, name, line, payloadBytes) {
    this.id = id;
    this.name = name;
    this.line = line;
    this.payloadBytes = payloadBytes;
    this.bytes = byteLength(line);
  }
}

/**
 * A message to send, to a room or to one client. Throws Rejected (VALIDATION_ERROR, TOO_LARGE).
 *
 * @param {{room?: string, recipient?: string}} place
 * @param {Payload} payload
 * @param {MessageOptions} options
 */
export function message(place, payload, options) {
  const { channel, name, headers, cause, clock } = options;
  const id = options.id || newUlid();
  check({ ...place, ...options, id });
  const value = payload instanceof ArrayBuffer ? new Uint8Array(payload) : payload;
  const binary = value instanceof Uint8Array;
  const type = options.contentType || (binary ? "" : JSON_CONTENT);
  const text = binary ? "" : json(value);
  const bytes = binary ? value : encoder.encode(text);
  const fields = {
    ...place,
    ...(channel && { channel }),
    ...(name && { name }),
    ...(type && { content_type: type }),
    ...(headers && { headers }),
    ...(cause && { cause }),
    ...(clock && { clock: mapped(clock) }),
  };
  const content = binary || !isJson(type) ? `"payload_b64":"${toBase64(bytes)}"` : `"payload":${text}`;
  return new Outgoing(id, "", lineOf("MESSAGE", id, fields, content), bytes.length);
}

/**
 * A command with its arguments. Throws Rejected for arguments that JSON cannot express.
 *
 * @param {string} operation
 * @param {Record<string, unknown>} args
 */
export function command(operation, args) {
  const id = newUlid();
  const fields = { name: operation, content_type: JSON_CONTENT };
  return new Outgoing(id, operation, lineOf("COMMAND", id, fields, `"payload":${json(args)}`), 0);
}

/** @param {string} kind @param {string} id @param {object} fields @param {string} content the payload, as JSON */
function lineOf(kind, id, fields, content) {
  return `${stringify({ kind, id, time: new Date().toISOString(), ...fields }).slice(0, -1)},${content}}`;
}

/**
 * The error in a reply.
 *
 * @param {Outgoing | null} request
 * @param {import("./message.js").Envelope} reply
 */
export function refusal(request, reply) {
  const { code, message, retry_after_ms = 0, details = {} } = reply.status;
  const said = message || `the bus refused ${request?.name || "the message"}`;
  return new Rejected({ code, message: said, retryAfter: retry_after_ms, details });
}

/** @param {string} text */
function byteLength(text) {
  return encoder.encode(text).length;
}

/** @param {unknown} value */
function json(value) {
  try {
    return stringify(value);
  } catch (error) {
    throw invalid("payload", `the payload cannot be written as JSON: ${/** @type {Error} */ (error).message}`);
  }
}

/** Counters as numbers, however large. @param {Record<string, bigint | number | string>} clock */
function mapped(clock) {
  return Object.fromEntries(Object.entries(clock).map(([actor, count]) => [actor, BigInt(count)]));
}

/** @param {string} type */
function isJson(type) {
  const media = type.split(";")[0].trim().toLowerCase();
  return media === JSON_CONTENT || (media.startsWith("application/") && media.endsWith("+json"));
}

/** What the bus would refuse is refused here. @param {MessageOptions & {id: string, room?: string, recipient?: string}} fields */
function check(fields) {
  const { id, room, recipient, channel, contentType = "", headers = {} } = fields;
  if (!isMessageId(id)) throw invalid("id", "id is neither a canonical ULID nor a canonical UUIDv7");
  for (const [field, value] of Object.entries({ room, recipient, channel: channel || undefined })) {
    if (value !== undefined && !NAME.test(value)) throw invalid(field, `${field} is not 1-128 of A-Z a-z 0-9 . _ -`);
  }
  if ([...contentType].length > 256 || !PRINTABLE.test(contentType)) {
    throw invalid("content_type", "content_type is not up to 256 printable characters");
  }
  if (Object.keys(headers).length > 32) throw invalid("headers", "more than 32 headers");
  if (byteLength(Object.entries(headers).flat().join("")) > 4096) {
    throw rejected("TOO_LARGE", "headers are larger than 4096 bytes in all", { field: "headers" });
  }
}
