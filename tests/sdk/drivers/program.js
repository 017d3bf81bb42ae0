/**
 * The program of a scenario, with the JavaScript SDK, wherever that runs. The commands are the methods named as those
 * of tests/sdk/python_driver.py; that is also where they are described.
 */

import { Client, ClientError, RequestFailed } from "../../../clients/js/src/index.js";
import { Group, Retry, serve } from "../../../clients/js/src/workers.js";

const SPECIAL = { NaN: NaN, Infinity: Infinity, LARGE: "x".repeat(10_000) };
const SUBSCRIBING = { max_messages: "maxMessages", max_bytes: "maxBytes", manual_ack: "manualAck" };
const SECONDS = { lease: "lease", wait: "wait", grace: "grace", retry_delay: "retryDelay" };
const PYTHON_NAMES = { onSignal: "on_signal", onDirect: "on_direct", onState: "on_state", onLost: "on_lost" };
const VALUE_ERRORS = ["TypeError", "RangeError", "SyntaxError"];
const CAUSES = { ECONNREFUSED: "ConnectionRefusedError", ENOTFOUND: "gaierror", EAI_AGAIN: "gaierror" };

export class Program {
  #emit;
  #authority;
  #client;
  #subscriptions = new Map();
  #groups = new Map();
  #jobs = new Map();
  #calls = new Map();

  /** `authority` reads a file of certificates, where that is possible. */
  constructor(emit, authority = undefined) {
    this.#emit = emit;
    this.#authority = authority;
  }

  /** Run the command of a line, and say how it ended. */
  async run({ id, call, label, arguments: args }) {
    const controller = new AbortController();
    const done = this[call]({ ...args, signal: controller.signal });
    if (label) this.#calls.set(label, { controller, done });
    try {
      this.#emit({ id, result: (await done) ?? null });
    } catch (error) {
      this.#emit({ id, error: controller.signal.aborted ? { type: "Cancelled", text: "cancelled" } : described(error) });
    }
  }

  // -- life

  async connect({ url, token, timeout = 10, callbacks = {}, authority = "" }) {
    const made = { onError: callbacks.on_error === "raise" ? failing("on_error") : (error, where) => this.#failed(error, where) };
    for (const [name, describe] of [
      ["onSignal", ({ name, room = "" }) => ({ name, room })],
      ["onDirect", (message) => ({ payload: message.json() })],
      ["onState", ({ name, reason }) => ({ name, reason })],
    ]) {
      made[name] = this.#callback(PYTHON_NAMES[name], callbacks[PYTHON_NAMES[name]] ?? "record", describe);
    }
    const ws = authority ? { ca: this.#authority(authority) } : {};
    const given = "fixed" in token ? token.fixed : tokenFunction(token.function);
    this.#client = new Client(url, given, { timeout: timeout * 1000, ws, ...made });
    await this.#client.connect();
    return { client: this.#client.welcome.client };
  }

  async close() {
    await this.#client.close();
  }

  async closed() {
    return described(await this.#client.closed);
  }

  async state() {
    const { state, reconnects } = this.#client;
    return { name: state.name, reason: state.reason, reconnects };
  }

  async cancel({ of }) {
    const { controller, done } = this.#calls.get(of);
    controller.abort();
    await done.catch(() => {});
  }

  async block({ seconds }) {
    const end = performance.now() + seconds * 1000;
    while (performance.now() < end);
  }

  // -- messages

  async publish({ room, payload = null, size = 0, id = "", ...options }) {
    const content = size ? new Uint8Array(size).fill(120) : special(payload);
    const ack = await this.#client.publish(room, content, { id: idOf(id), ...options });
    return { duplicate: ack.duplicate, durability: ack.durability, sequence: Number(ack.sequence) };
  }

  async publish_all({ room, count, size = 0, start = 0 }) {
    const acks = await Promise.all(range(count, start).map((n) => this.#client.publish(room, padded(n, size))));
    return acks.map((ack) => Number(ack.sequence));
  }

  async publish_many({ room, payloads }) {
    const acks = await this.#client.publishMany(room, payloads.map(special));
    return acks.map((ack) => Number(ack.sequence));
  }

  async publish_range({ room, count }) {
    return this.publish_many({ room, payloads: range(count) });
  }

  async send({ to, payload }) {
    await this.#client.send(to === "self" ? this.#client.welcome.client : to, payload);
  }

  async command({ operation, arguments: args = {} }) {
    return this.#client.command(operation, args);
  }

  async presence({ room }) {
    return (await this.#client.presence(room)).map(({ subject }) => subject).sort();
  }

  async last_value({ room }) {
    return (await this.#client.lastValue(room))?.json() ?? null;
  }

  // -- subscriptions

  async subscribe({ of, room, losses = "raise", since, ...options }) {
    const given = renamed(options, SUBSCRIBING);
    if (losses !== "raise") given.onLost = this.#callback("on_lost", losses, (loss) => ({ room: loss.room, of }));
    if (since) given.since = { epoch: since[0], sequence: since[1] };
    const subscription = this.#client.subscribe(room, given);
    this.#subscriptions.set(of, subscription);
    await subscription.ready;
  }

  async subscribe_from_start({ room, ...options }) {
    const { epoch } = await this.#client.lastValue(room);
    await this.subscribe({ room, since: [epoch, 0], ...options });
  }

  async subscribe_rooms({ count }) {
    await Promise.all(range(count).map((n) => this.subscribe({ of: `room-${n}`, room: `room-${n}` })));
  }

  async next({ of, count = 1 }) {
    const read = [];
    while (read.length < count) read.push(valueOf(await this.#one(of)));
    return read;
  }

  async end({ of }) {
    for await (const _ of this.#subscriptions.get(of));
    return "end";
  }

  async position_sequence({ of }) {
    return Number(this.#subscriptions.get(of).position.sequence);
  }

  async confirm_next({ of }) {
    const message = await this.#one(of);
    this.#subscriptions.get(of).confirm(message);
    return valueOf(message);
  }

  async pending({ of }) {
    return this.#subscriptions.get(of).pending;
  }

  async dropped({ of }) {
    return this.#subscriptions.get(of).dropped;
  }

  async unsubscribe({ of }) {
    await this.#subscriptions.get(of).close();
  }

  async forward({ of, count, to }) {
    for (let n = 0; n < count; n++) await this.#client.publish(to, valueOf(await this.#one(of)));
    return count;
  }

  async #one(of) {
    const { done, value } = await this.#subscriptions.get(of).next();
    if (done) throw new Error("the iteration has ended");
    return value;
  }

  // -- groups

  async group({ of, room, group, signal: _, ...options }) {
    const given = Object.entries(options).map(([name, value]) =>
      name in SECONDS ? [SECONDS[name], value * 1000] : [name, value],
    );
    this.#groups.set(of, new Group(this.#client, room, group, Object.fromEntries(given)));
  }

  async take({ of, job = "job" }) {
    const { done, value } = await this.#groups.get(of).next();
    if (done) throw new Error("the iteration has ended");
    this.#jobs.set(job, value);
    return valueOf(value.message);
  }

  async ack({ job = "job" }) {
    await this.#jobs.get(job).ack();
  }

  async work({ of, count, fail, pause = 0 }) {
    const group = this.#groups.get(of);
    const done = new Set();
    const handled = [];
    await group.run(async ({ message, deliveries }) => {
      handled.push([valueOf(message), deliveries]);
      if (fail && deliveries === 1) {
        if (typeof fail.first === "object") throw new Retry(fail.first.retry * 1000, "later");
        throw new Error(fail.first);
      }
      await sleep(pause * 1000);
      done.add(message.id);
      if (done.size === count) group.stop();
    });
    return handled;
  }

  async leave_group({ of }) {
    await this.#groups.get(of).close();
  }

  // -- requests and services

  async serve({ room, answer, ...options }) {
    await serve(
      this.#client,
      room,
      async (request) => {
        if (answer?.fail) throw new RequestFailed(answer.fail, "the handler refuses");
        if (answer?.raise) throw Object.assign(new Error(answer.raise), { name: "KeyError" });
        if (answer?.give) return SPECIAL[answer.give];
        if (answer?.after) await sleep(answer.after * 1000);
        return request.json() * 2;
      },
      options,
    );
  }

  async request({ room, payload, timeout }) {
    const options = timeout === undefined ? {} : { timeout: timeout * 1000 };
    return (await this.#client.request(room, payload, options)).json();
  }

  async request_all({ room, count }) {
    const answers = await Promise.all(range(count).map((n) => this.#client.request(room, n)));
    return answers.map((answer) => answer.json());
  }

  // -- callbacks

  #callback(name, mode, describe) {
    const record = (argument) => this.#emit({ event: name, ...describe(argument) });
    return {
      record,
      raise: failing(name, record),
      callback_raises: failing(name, record),
      async: async (argument) => {
        await sleep(0);
        record(argument);
      },
    }[mode];
  }

  #failed(error, where) {
    const { type, text } = described(error);
    this.#emit({ event: "on_error", where: PYTHON_NAMES[where] ?? where, type, text });
  }
}

/** An error as a scenario compares it; those of the language by their names in Python. */
function described(error) {
  const known = error instanceof ClientError || !(error instanceof Error);
  return {
    type: known || !VALUE_ERRORS.includes(error.name) ? error.name : "ValueError",
    code: String(error.code ?? ""),
    text: error.message,
    cause: error.cause instanceof Error ? causeName(error.cause) : "",
  };
}

function causeName(cause) {
  if (/CERT|SIGNATURE|SELF_SIGNED/.test(cause.code)) return "SSLCertVerificationError";
  return CAUSES[cause.code] ?? cause.name;
}

function failing(name, before = () => {}) {
  return (argument) => {
    before(argument);
    throw new Error(`${name} raises`);
  };
}

function tokenFunction(outcomes) {
  const left = [...outcomes];
  return async () => {
    const outcome = left.length > 1 ? left.shift() : left[0];
    if (typeof outcome === "string") return outcome;
    if ("raise" in outcome) throw Object.assign(new Error(outcome.raise), { name: "OSError" });
    if ("value" in outcome) return outcome.value;
    return new Promise(() => {});
  };
}

function renamed(options, names) {
  return Object.fromEntries(Object.entries(options).map(([name, value]) => [names[name] ?? name, value]));
}

function special(payload) {
  return typeof payload === "string" ? (SPECIAL[payload] ?? payload) : payload;
}

function padded(number, size) {
  return size ? String(number).padStart(size) : number;
}

/** A number that was padded reads as a number. */
function valueOf(message) {
  const value = message.json();
  return typeof value === "string" && /^\s*\d+$/.test(value) ? Number(value) : value;
}

/** `~x` stands for a valid id that is the same wherever it is named. */
function idOf(name) {
  if (!name.startsWith("~")) return name;
  return [...name].map((character) => character.charCodeAt(0)).join("").padStart(26, "0").slice(-26);
}

function range(count, start = 0) {
  return Array.from({ length: count }, (_, index) => start + index);
}

function sleep(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
