// The least server that fans out with Socket.IO: rooms as the library has them, no auth, no history.
const { Server } = require("socket.io");

const io = new Server(Number(process.argv[2]), { transports: ["websocket"], perMessageDeflate: false });

io.on("connection", (socket) => {
  let target = "";
  socket.on("member", (room) => {
    socket.join(room);
    socket.emit("ready");
  });
  socket.on("publisher", (room) => {
    target = room;
    socket.emit("ready");
  });
  socket.on("publish", (payload) => io.to(target).emit("message", payload));
});
