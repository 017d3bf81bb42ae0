/** A room's history as an iteration: the bus is asked for one page after the other. @module */

import { rejected } from "./errors.js";
import { Message } from "./message.js";
import { command } from "./outgoing.js";

const PAGE = 1000;

/**
 * @typedef {object} HistoryOptions
 * @property {string} [channel]
 * @property {Date} [begin] messages stored at this time or later
 * @property {Date} [end] messages stored before this time
 * @property {boolean} [newestFirst]
 * @property {boolean} [strictSequence] oldest first only: refuse numbers that are missing, repeated or going back
 * @property {number} [page] how many are asked for at once, 1 to 1000
 * @property {AbortSignal} [signal]
 */

/**
 * The messages of a room. Throws Rejected: POSITION_LOST when what follows was trimmed or a new log began.
 *
 * @param {import("./requests.js").Requests} requests @param {string} room @param {HistoryOptions} options
 * @returns {AsyncGenerator<Message, void, undefined>}
 */
export async function* history(requests, room, { channel, begin, end, newestFirst, strictSequence, page = PAGE, signal }) {
  const args = {
    room,
    limit: page,
    ...(channel && { channel }),
    ...(begin && { from: begin.toISOString() }),
    ...(end && { to: end.toISOString() }),
    ...(strictSequence && { strict_sequence: true }),
  };
  const operation = newestFirst ? "op.history.get" : "op.history.replay";
  for (let cursor; cursor !== null; ) {
    const outgoing = command(operation, cursor ? { ...args, cursor } : args);
    const { payload } = await requests.ask(outgoing, { again: true, signal });
    for (const envelope of payload.messages) yield new Message(envelope);
    cursor = payload.cursor ?? null;
  }
}

/**
 * Fill a subscription's buffer from its last message to the end of the room's log, as fast as it is read. Throws
 * Rejected when the log no longer holds what was missed or the token does not grant `history`, and Disconnected when
 * no answer came.
 *
 * @param {import("./subscription.js").Subscription} sub @param {import("./requests.js").Requests} requests
 */
export async function catchUp(sub, requests) {
  const begin = sub.buffered;
  for (let cursor = cursorOf(begin); cursor; ) {
    const limit = Math.min(PAGE, await sub.halfEmpty());
    if (sub.over) return;
    const args = { room: sub.room, cursor, limit, strict_sequence: true };
    const { payload } = await requests.ask(command("op.history.replay", args), { again: true });
    const size = JSON.stringify(payload.messages).length / payload.messages.length;
    for (const envelope of payload.messages) sub.take(envelope, Math.ceil(size));
    cursor = sub.paused ? cursorOf(sub.buffered) : payload.cursor; // the rest of the page was not taken
  }
  if (sub.buffered === begin) throw rejected("POSITION_LOST", "the history has nothing behind the position");
}

/** @param {import("./message.js").Position | null} position */
function cursorOf(position) {
  return position ? `${position.epoch}:${position.sequence}` : "";
}
