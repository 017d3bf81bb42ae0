/** Requests: a request is a message in a room, its answer a direct message to the sender. @module */

import { DeadlineExceeded, Disconnected, RequestFailed } from "./errors.js";
import { message } from "./outgoing.js";
import { Deferred, TimedOut, now, within } from "./time.js";

export const KIND = "rpc";
export const DEADLINE = "rpc.deadline";
export const FAILED = "INTERNAL_ERROR";

/**
 * @typedef {import("./message.js").Message} Message
 * @typedef {{timeout?: number, signal?: AbortSignal, channel?: string, name?: string, contentType?: string,
 *   headers?: Record<string, string>}} RequestOptions `timeout` in milliseconds; default: the client's
 */

/**
 * The answer of a service. Throws DeadlineExceeded, RequestFailed, Rejected, or Disconnected.
 *
 * @param {import("./engine.js").Engine} engine @param {string} room @param {import("./outgoing.js").Payload} payload
 * @param {RequestOptions} options
 */
export async function request(engine, room, payload, { timeout = engine.requests.timeout, signal, ...options }) {
  const deadline = now() + timeout;
  const headers = { ...options.headers, [KIND]: "request", [DEADLINE]: `${Math.round((Date.now() + timeout) * 1000)}` };
  const outgoing = message({ room }, payload, { ...options, headers });
  const link = await engine.connection.ready(deadline, signal);
  /** @type {Deferred<Message>} */
  const answer = new Deferred();
  engine.answers.set(outgoing.id, { link, answer });
  try {
    await within(engine.requests.askOnce(link, outgoing, { deadline, signal }), deadline, signal);
    const reply = await within(answer.promise, deadline, signal);
    if (reply.headers[KIND] === "error") throw failureOf(reply);
    return reply;
  } catch (error) {
    const late = error instanceof TimedOut || (error instanceof Disconnected && now() >= deadline);
    throw late ? new DeadlineExceeded(`no service answered in room ${room} within ${timeout / 1000} s`) : error;
  } finally {
    engine.answers.delete(outgoing.id);
  }
}

/** @param {Message} reply */
function failureOf(reply) {
  try {
    const { code, message } = reply.json();
    return new RequestFailed(String(code), String(message));
  } catch {
    return new RequestFailed(FAILED, "an unreadable error");
  }
}

