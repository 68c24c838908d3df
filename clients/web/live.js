// The live socket: frames and questions out, events back, and a way back in after every loss.

const VERSION = 1;
const JPEG = 1;
const HEADER_BYTES = 16;
const FULL_BYTES = 1 << 20; // more than this unsent: the uplink is too slow, and an old picture helps nobody
const PAUSES = [400, 800, 1500, 3000];
const BEFORE_ALL = "0-0"; // replays everything: what was said during an outage must not be missed
const FINAL = { 1000: "gone", 4404: "gone", 4410: "gone", 4409: "replaced", 4401: "refused" };

export class LiveSocket {
  // `handlers`: state(name), message(object), lost(why) once it is final: gone, refused or replaced.
  constructor(api, session, handlers) {
    this.api = api;
    this.session = session.id;
    this.token = session.connect_token;
    this.handlers = handlers;
    this.lastEventId = null;
    this.sequence = 0;
    this.skipped = 0;
    this.tries = 0;
    this.closed = false;
    this.socket = null;
    this.timer = null;
    this.retryNow = () => { if (this.timer !== null) this.#connect(); };
    addEventListener("online", this.retryNow);
    this.#connect();
  }

  get ready() {
    return this.socket?.readyState === WebSocket.OPEN && this.greeted;
  }

  say(message) {
    if (this.ready) this.socket.send(JSON.stringify(message));
    return this.ready;
  }

  sendFrame(jpeg, microseconds) {
    if (!this.ready || this.socket.bufferedAmount > FULL_BYTES) {
      if (this.sequence) this.skipped += 1;
      return;
    }
    const message = new Uint8Array(HEADER_BYTES + jpeg.byteLength);
    const header = new DataView(message.buffer);
    header.setUint8(0, VERSION);
    header.setUint8(1, JPEG);
    header.setUint16(2, 0);
    header.setUint32(4, this.sequence++);
    header.setBigInt64(8, BigInt(microseconds));
    message.set(new Uint8Array(jpeg), HEADER_BYTES);
    this.socket.send(message);
  }

  close() {
    this.say({ type: "session.close" });
    this.#end();
    this.socket?.close(1000);
  }

  #end() {
    this.closed = true;
    clearTimeout(this.timer);
    removeEventListener("online", this.retryNow);
  }

  async #connect() {
    clearTimeout(this.timer);
    this.timer = null;
    this.handlers.state(this.lastEventId ? "reconnecting" : "connecting");
    try {
      const token = this.token ?? (await this.api.connectToken(this.session));
      this.token = null; // good for one try
      if (!this.closed) this.#open(token);
    } catch (error) {
      if (error.status === 404 || error.status === 410) this.#lost("gone");
      else if (error.status === 401) this.#lost("refused");
      else this.#retry();
    }
  }

  #open(token) {
    const address = new URL("/v1/live", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    address.searchParams.set("session", this.session);
    address.searchParams.set("token", token);
    if (this.lastEventId) address.searchParams.set("last_event_id", this.lastEventId);
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.greeted = false;
    socket.onmessage = (event) => this.#take(JSON.parse(event.data));
    socket.onclose = (event) => {
      if (this.closed || socket !== this.socket) return;
      if (FINAL[event.code]) this.#lost(FINAL[event.code]);
      else this.#retry();
    };
  }

  #take(message) {
    if (message.event_id) this.lastEventId = message.event_id;
    if (message.type === "resume_token") this.token = message.token;
    if (message.type === "session.ready") {
      this.token = message.resume_token ?? null;
      this.greeted = true;
      this.tries = 0;
      this.handlers.state("live");
    }
    this.handlers.message(message);
  }

  #retry() {
    if (this.closed) return;
    if (this.greeted) this.lastEventId ??= BEFORE_ALL;
    this.handlers.state("reconnecting");
    const pause = PAUSES[Math.min(this.tries++, PAUSES.length - 1)];
    this.timer = setTimeout(() => this.#connect(), pause * (0.75 + Math.random() / 2));
  }

  #lost(why) {
    this.#end();
    this.handlers.lost(why);
  }
}
