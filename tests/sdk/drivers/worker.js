/** The driver in a worker of a browser: commands, answers and events travel over a WebSocket to the runner. */

import { Program } from "./program.js";

console.error = console.warn = () => {};

const control = new WebSocket(`ws://${self.location.host}/control/${self.name}`);
const write = (said) => control.send(JSON.stringify(said));
const program = new Program(write);
control.onopen = () => write({ event: "ready" });
control.onmessage = ({ data }) => program.run(JSON.parse(data));
control.onclose = () => self.close();
