// The least server that fans out with Node's ws: no auth, no validation, no order, no history.
const { WebSocketServer } = require("ws");

const rooms = new Map();
const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]), perMessageDeflate: false });

server.on("connection", (socket, request) => {
  const [, role, room] = request.url.split("/");
  if (!rooms.has(room)) rooms.set(room, new Set());
  const members = rooms.get(room);
  if (role === "member") members.add(socket);
  socket.on("message", (data) => {
    for (const member of members) member.send(data, { binary: true });
  });
  socket.on("close", () => members.delete(socket));
  socket.send("ready");
});
