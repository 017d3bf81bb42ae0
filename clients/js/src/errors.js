/** Errors of the client, one class per kind of failure. @module */

/**
 * What the bus said about a refused request.
 *
 * @typedef {object} Status
 * @property {string} code a stable code, such as `VALIDATION_ERROR`
 * @property {string} message one sentence for people
 * @property {number} retryAfter milliseconds to wait before another try; 0 without a hint
 * @property {Record<string, string>} details facts by name, such as `field`
 */

/** Base of every error that the client throws about the bus or the connection. */
export class ClientError extends Error {
  name = "ClientError";
  /** @param {string} message @param {unknown} [cause] */
  constructor(message, cause) {
    super(message, cause === undefined ? undefined : { cause });
  }
}

/** The bus refused the upgrade, and trying again would not help. `code` is the bus's error code, `status` HTTP's. */
export class ConnectionRefused extends ClientError {
  name = "ConnectionRefused";
  /** @param {number} status @param {string} code @param {string} message */
  constructor(status, code, message) {
    super(code ? `${message} (${code}, HTTP ${status})` : `${message} (HTTP ${status})`);
    this.status = status;
    this.code = code;
  }
}

/** The connection ended before the answer came: whether the request was carried out is not known. */
export class Disconnected extends ClientError {
  name = "Disconnected";
}

/** No connection could be made, so nothing was sent. `cause` is the last failure. */
export class NotConnected extends Disconnected {
  name = "NotConnected";
}

/** The client has ended: `close` was called (1000), or the bus ended the connection for good. */
export class Closed extends ClientError {
  name = "Closed";
  /** @param {number} code of WebSocket @param {string} reason @param {unknown} [cause] */
  constructor(code, reason, cause) {
    super(`${reason} (${code})`, cause);
    this.code = code;
    this.reason = reason;
  }
}

/** The request was answered with an error, or is one that the bus would refuse. */
export class Rejected extends ClientError {
  name = "Rejected";
  /** @param {Status} status */
  constructor(status) {
    super(`${status.message} (${status.code})`);
    this.code = status.code;
    this.status = status;
  }
}

/** Some messages of a `publishMany` were not acked. `results` has an Ack or a ClientError for each message. */
export class PublishFailed extends ClientError {
  name = "PublishFailed";
  /** @param {(import("./message.js").Ack | ClientError)[]} results */
  constructor(results) {
    const errors = results.filter((result) => result instanceof ClientError);
    super(`${errors.length} of ${results.length} messages were not acked; the first: ${errors[0]}`);
    this.results = results;
  }
}

/** Messages of a subscription are gone: dropped, trimmed, or not provably complete. */
export class MessagesLost extends ClientError {
  name = "MessagesLost";
  /** @param {string} room @param {string} reason */
  constructor(room, reason) {
    super(`messages of room ${room} were lost: ${reason}`);
    this.room = room;
    this.reason = reason;
  }
}

/** No service answered a request before its deadline. */
export class DeadlineExceeded extends ClientError {
  name = "DeadlineExceeded";
}

/** A service answered a request with an error. Throw it in a handler to send one. */
export class RequestFailed extends ClientError {
  name = "RequestFailed";
  /** @param {string} code @param {string} reason */
  constructor(code, reason) {
    super(`${reason} (${code})`);
    this.code = code;
    this.reason = reason;
  }
}

/** @param {string} code @param {string} message @param {Record<string, string>} [details] */
export function rejected(code, message, details = {}) {
  return new Rejected({ code, message, retryAfter: 0, details });
}

/** @param {string} field @param {string} message */
export function invalid(field, message) {
  return rejected("VALIDATION_ERROR", message, { field });
}
