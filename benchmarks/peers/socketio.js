// The least server that fans out with Socket.IO: rooms as the library has them, no auth, no history.
const { Server } = require("socket.io");

const io = new Server(Number(process.argv[2]), { transports: ["websocket"], perMessageDeflate: false });

io.on("connection", (socket) => {
  const { role, room } = socket.handshake.query;
  if (role === "member") socket.join(room);
  socket.on("publish", (payload) => io.to(room).emit("message", payload));
  socket.emit("ready");
});
