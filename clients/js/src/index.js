/** The public names of the SDK. @module */

export { Client } from "./client.js";
export {
  ClientError,
  Closed,
  ConnectionRefused,
  DeadlineExceeded,
  Disconnected,
  MessagesLost,
  NotConnected,
  PublishFailed,
  Rejected,
  RequestFailed,
} from "./errors.js";
export { Ack, Message, Position } from "./message.js";
export { State } from "./state.js";
export { Subscription } from "./subscription.js";

/**
 * @typedef {import("./client.js").ClientOptions} ClientOptions
 * @typedef {import("./history.js").HistoryOptions} HistoryOptions
 * @typedef {import("./message.js").Envelope} Envelope
 * @typedef {import("./message.js").Member} Member
 * @typedef {import("./outgoing.js").MessageOptions} MessageOptions
 * @typedef {import("./outgoing.js").Payload} Payload
 * @typedef {import("./subscription.js").SubscribeOptions} SubscribeOptions
 * @typedef {import("./tokens.js").Token} Token
 */
