// node corpus.js <schema> <frames in> <frames out>
//
// Reads the golden corpus from a JSON file, case by case {frame, envelopes, unknown}; compares each field of
// each envelope, encodes what it read, and compares again. Then writes every case from the manifest's fields
// alone, for others to read. Says what is different on stderr and ends with 1.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { fieldsOf, messageOf, readFrame, schemaOf, writeFrame } from "./envelope.js";

const [schema, input, output] = process.argv.slice(2);
const { Envelope } = schemaOf(schema);
const cases = JSON.parse(readFileSync(input, "utf-8"));
const written = {};
let envelopes = 0;

for (const [name, golden] of Object.entries(cases)) {
  const bytes = Buffer.from(golden.frame, "hex");
  const read = readFrame(Envelope, bytes);
  assert.deepEqual(read.map(({ envelope }) => fieldsOf(Envelope, envelope)), golden.envelopes, name);

  const again = readFrame(Envelope, writeFrame(Envelope, read.map(({ envelope }) => envelope)));
  assert.deepEqual(again.map(({ envelope }) => fieldsOf(Envelope, envelope)), golden.envelopes, `${name}, encoded`);

  written[name] = writeFrame(Envelope, golden.envelopes.map((fields) => messageOf(Envelope, fields))).toString("hex");
  envelopes += read.length;
}
writeFileSync(output, JSON.stringify(written));
console.log(JSON.stringify({ cases: Object.keys(cases).length, envelopes }));
