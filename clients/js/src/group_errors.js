/** Errors of consumer groups. @module */

import { ClientError } from "./errors.js";

/** The consumer group was deleted while this worker used it. */
export class GroupLost extends ClientError {
  name = "GroupLost";
  /** @param {string} room @param {string} group */
  constructor(room, group) {
    super(`the consumer group ${group} of room ${room} no longer exists; pass recreate: true to create it again`);
    this.room = room;
    this.group = group;
  }
}

/** Throw it in a handler of a group: the job is given back, and handed out again after `delay` milliseconds. */
export class Retry extends Error {
  name = "Retry";
  /** @param {number} delay milliseconds @param {string} [reason] at most 500 characters are kept */
  constructor(delay, reason) {
    super(reason || `the handler asked for a retry in ${delay} ms`);
    this.delay = delay;
  }
}
