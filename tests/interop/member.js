// node member.js <schema> <url> <token> <room> <count>
//
// Joins a room over protobuf, publishes, and prints as JSON what it was told: the welcome, the replies and the
// messages. Ends when it has heard `count` messages and all its replies, and with 1 if that takes too long.
import { randomBytes } from "node:crypto";
import Long from "long";
import WebSocket from "ws";
import { fieldsOf, readFrame, schemaOf, writeFrame } from "./envelope.js";

const [schema, url, token, room, count] = process.argv.slice(2);
const { Envelope } = schemaOf(schema);
const PATIENCE_MS = 20_000;
const CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

function ulid() {
  let value = (BigInt(Date.now()) << 80n) | BigInt(`0x${randomBytes(10).toString("hex")}`);
  let text = "";
  for (let i = 0; i < 26; i += 1, value >>= 5n) text = CROCKFORD[Number(value & 31n)] + text;
  return text;
}

const now = () => Long.fromNumber(Date.now()).multiply(1000).add(1);
const command = (name, args) => ({
  id: ulid(), kind: 2, name, time_us: now(), content_type: "application/json",
  payload: Buffer.from(JSON.stringify(args)),
});

const join = command("op.rooms.join", { room });
const published = [
  { id: ulid(), kind: 1, room, time_us: now(), name: "größe", content_type: "application/json",
    payload: Buffer.from('{"price":1.10,"far":1e400}') },
  { id: ulid(), kind: 1, room, time_us: now(), headers: { key: "ключ" },
    clock: { node: Long.fromString("9007199254740993", true), far: Long.MAX_UNSIGNED_VALUE },
    payload: Buffer.from([0, 255, 128]) },
];
const refused = { id: ulid(), kind: 1, room: "no:room", time_us: now() };

const heard = { sent: [], welcome: null, replies: {}, messages: [] };
const socket = new WebSocket(url, ["arqonbus.v1.protobuf"], { headers: { Authorization: `Bearer ${token}` } });
const send = (...envelopes) => socket.send(writeFrame(Envelope, envelopes.map((one) => Envelope.create(one))));
const end = (code, reason) => {
  if (reason) console.error(reason);
  process.exitCode = code;
  clearTimeout(patience);
  socket.close(1000);
};
const patience = setTimeout(() => end(1, `heard too little: ${JSON.stringify(heard)}`), PATIENCE_MS);

socket.on("error", (error) => end(1, String(error)));
socket.on("close", () => console.log(JSON.stringify(heard)));
socket.on("message", (data, isBinary) => {
  if (!isBinary) return end(1, "a text frame on a protobuf connection");
  for (const { envelope } of readFrame(Envelope, data)) {
    const fields = fieldsOf(Envelope, envelope);
    if (envelope.kind === 4 && envelope.name === "welcome") {
      heard.welcome = fields;
      send(join);
    } else if (envelope.kind === 3) {
      heard.replies[envelope.reply_to] = fields;
      if (envelope.reply_to === join.id) {
        send(...published, refused);
        heard.sent = published.map((one) => one.id);
        heard.refused = refused.id;
      }
    } else if (envelope.kind === 1) {
      heard.messages.push(fields);
    }
  }
  const answered = [join, ...published, refused].every((one) => one.id in heard.replies);
  if (answered && heard.messages.length >= Number(count)) end(0);
});
