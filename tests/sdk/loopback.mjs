// Loaded before Portkey's gateway, which would listen on every interface: here it listens on loopback
// only, on a port of the kernel's choice, and says on which.
import net from "node:net";

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function () {
  this.once("listening", () => console.log(`listening on ${this.address().port}`));
  return listen.call(this, 0, "127.0.0.1");
};
