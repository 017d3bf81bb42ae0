// The schema as protobufjs reads it, and frames of several envelopes. Integers of 64 bits are Long.
import Long from "long";
import protobuf from "protobufjs";

protobuf.util.Long = Long;
protobuf.configure();

export function schemaOf(path) {
  const root = new protobuf.Root().loadSync(path, { keepCase: true });
  return { Envelope: root.lookupType("arqonbus.v1.Envelope"), Status: root.lookupType("arqonbus.v1.Status") };
}

export function readFrame(Envelope, bytes) {
  const reader = protobuf.Reader.create(bytes);
  const found = [];
  while (reader.pos < reader.len) {
    const raw = reader.bytes();
    found.push({ raw, envelope: Envelope.decode(raw) });
  }
  return found;
}

export function writeFrame(Envelope, envelopes) {
  const writer = protobuf.Writer.create();
  for (const envelope of envelopes) writer.bytes(Envelope.encode(envelope).finish());
  return Buffer.from(writer.finish());
}

// What is set, in the form of the golden corpus: 64-bit integers as decimal text, bytes in hexadecimal.
export function fieldsOf(type, message) {
  const fields = {};
  for (const field of type.fieldsArray) {
    field.resolve();
    const value = message[field.name];
    if (field.map) {
      const keys = Object.keys(value).sort();
      if (keys.length) fields[field.name] = Object.fromEntries(keys.map((key) => [key, String(value[key])]));
    } else if (field.resolvedType instanceof protobuf.Type) {
      if (value) fields[field.name] = fieldsOf(field.resolvedType, value);
    } else if (Long.isLong(value)) {
      if (!value.isZero()) fields[field.name] = value.toString();
    } else if (field.type === "bytes") {
      if (value.length) fields[field.name] = Buffer.from(value).toString("hex");
    } else if (value) {
      fields[field.name] = value;
    }
  }
  return fields;
}

// The other way round: an envelope from the form of the golden corpus.
export function messageOf(type, fields) {
  const message = type.create();
  for (const [name, value] of Object.entries(fields)) {
    const field = type.fields[name];
    if (!field) throw new Error(`the schema has no field ${name}`);
    field.resolve();
    if (field.map) {
      message[name] = Object.fromEntries(
        Object.entries(value).map(([key, one]) => [key, field.type === "uint64" ? Long.fromString(one, true) : one]),
      );
    } else if (field.resolvedType instanceof protobuf.Type) {
      message[name] = messageOf(field.resolvedType, value);
    } else if (field.type === "int64" || field.type === "uint64") {
      message[name] = Long.fromString(value, field.type === "uint64");
    } else if (field.type === "bytes") {
      message[name] = Buffer.from(value, "hex");
    } else {
      message[name] = value;
    }
  }
  return message;
}
