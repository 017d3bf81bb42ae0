/** What usually servers do: work in consumer groups, and answer requests. @module */

export { Group } from "./group.js";
export { Job } from "./job.js";
export { GroupLost, Retry } from "./group_errors.js";
export { Service, serve } from "./service.js";

/**
 * @typedef {import("./group.js").GroupOptions} GroupOptions
 * @typedef {import("./service.js").Handler} Handler
 */
