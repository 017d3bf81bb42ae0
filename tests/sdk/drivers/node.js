/** The driver in Node: a line of JSON on stdin is a command, lines on stdout are answers and events. */

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

import "ws"; // loaded before a timeout counts

import { Program } from "./program.js";

console.log = console.error = console.warn = () => {}; // stdout is for the runner

const write = (said) => process.stdout.write(`${JSON.stringify(said)}\n`);
const program = new Program(write, (file) => readFileSync(file));
write({ event: "ready" });
for await (const line of createInterface({ input: process.stdin })) program.run(JSON.parse(line));
process.exit();
