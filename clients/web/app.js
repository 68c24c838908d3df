// The page put together: a source, a session, its live socket, and the conversation about it.

import { Api, keepKey, takeKey } from "./api.js";
import { canShareScreen, canUseCamera, openCamera, openClip, openFile, openScreen, sendFrames } from "./capture.js";
import { HealthView } from "./health.js";
import { LiveSocket } from "./live.js";
import { Talk } from "./talk.js";

const CLIP = "sample.mp4";
const CREATE_PAUSE = 2000;
const STATES = {
  idle: "not streaming",
  connecting: "connecting…",
  live: "live",
  reconnecting: "reconnecting…",
  ended: "stream has ended",
  failed: "not connected",
};

const $ = (id) => document.getElementById(id);
const video = $("preview");
const talk = new Talk($("log"));
const health = new HealthView($("health"));
let api = null;
let stream = null; // { source, socket, abort } while something is streamed

function show(state) {
  $("state").dataset.state = state;
  $("state").textContent = STATES[state];
  const asking = state === "live" || state === "reconnecting" || state === "ended";
  $("question").disabled = !asking;
  $("send").disabled = !asking;
}

// --- the stream ---

async function start(open) {
  $("hint").textContent = "";
  let source;
  try {
    source = await open();
  } catch (error) {
    if (error.name !== "AbortError") $("hint").textContent = readable(error);
    return;
  }
  stream = { source, socket: null, abort: new AbortController(), ended: false };
  video.hidden = false;
  $("sources").hidden = true;
  $("stop").hidden = false;
  source.ended.then(sourceEnded);
  await connect(stream);
}

async function connect(mine) {
  show("connecting");
  const session = await createSession(mine);
  if (!session || mine !== stream) return;
  $("model").textContent = session.model;
  mine.socket = new LiveSocket(api, session, {
    state: (name) => show(mine.ended && name === "live" ? "ended" : name),
    message: (message) => take(mine, message),
    lost: (why) => lost(mine, why),
  });
  if (mine.sending) return;
  mine.sending = true;
  const send = (jpeg, microseconds) => mine.ended || mine.socket.sendFrame(jpeg, microseconds);
  await sendFrames(video, session.settings.fps, send, mine.abort.signal);
}

// A session, however long the server takes to have room for it; null when the wait was given up.
async function createSession(mine) {
  let told = "";
  while (mine === stream) {
    try {
      return await api.createSession();
    } catch (error) {
      if (error.status === 401) {
        stop();
        askForKey("The server does not take this key.");
        return null;
      }
      if (![0, 429, 503].includes(error.status)) {
        stop();
        $("hint").textContent = error.message;
        return null;
      }
      if (told !== error.message) talk.notice((told = error.message));
    }
    await new Promise((resolve) => setTimeout(resolve, CREATE_PAUSE));
  }
  return null;
}

function take(mine, message) {
  switch (message.type) {
    case "session.ready":
      for (const request of talk.unaccepted()) mine.socket.say(request);
      break;
    case "session.health":
      health.show(message, mine.socket.skipped);
      break;
    case "notice":
      talk.notice(message.message || message.code);
      break;
    case "error":
      if (!talk.take({ ...message, id: message.id ?? message.error.param })) talk.notice(message.error.message, "bad");
      break;
    default:
      talk.take(message);
  }
}

function lost(mine, why) {
  if (mine !== stream) return;
  if (why === "gone" && !mine.ended) {
    talk.failAll("The server lost this session.");
    talk.notice("The session is gone; a new one begins here.");
    connect(mine);
  } else if (why === "refused") {
    stop();
    askForKey("The server no longer takes this key.");
  } else {
    stop();
    if (why === "replaced") talk.notice("Another page has taken over this session.", "bad");
  }
}

function sourceEnded() {
  if (!stream || stream.ended) return;
  stream.ended = true;
  stream.socket?.say({ type: "media.end" });
  if ($("state").dataset.state === "live") show("ended");
}

function stop() {
  if (!stream) return;
  const { source, socket, abort } = stream;
  stream = null;
  abort.abort();
  socket?.close();
  source.stop();
  talk.failAll("The stream was stopped.");
  video.hidden = true;
  $("sources").hidden = false;
  $("stop").hidden = true;
  show("idle");
}

// --- what the person does ---

const OPENERS = {
  camera: () => start(() => openCamera(video)),
  screen: () => start(() => openScreen(video)),
  clip: () => start(() => openClip(video, CLIP)),
  file: () => $("file").click(),
};

for (const button of document.querySelectorAll("[data-source]")) {
  button.addEventListener("click", () => (api ? OPENERS[button.dataset.source]() : askForKey()));
}

$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (file) start(() => openFile(video, file));
});

$("stop").addEventListener("click", stop);

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || !stream?.socket) return;
  const { request, cancel } = talk.ask(question, new FormData($("ask")).get("mode"));
  cancel.addEventListener("click", () => stream?.socket?.say({ type: "question.cancel", id: request.id }));
  stream.socket.say(request);
  $("question").value = "";
});

$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});

addEventListener("pagehide", stop);

// --- the key ---

function askForKey(why) {
  if (why) $("keys-why").textContent = why;
  if (!$("keys").open) $("keys").showModal();
}

$("keys").addEventListener("close", () => {
  const key = $("key").value.trim();
  if (key) begin(key);
});

async function begin(key) {
  keepKey(key);
  api = new Api(key);
  try {
    const models = await api.models();
    $("model").textContent = models.map((model) => model.id).join(", ");
  } catch (error) {
    if (error.status === 401) askForKey("The server does not take this key.");
  }
}

function readable(error) {
  if (error.name === "NotAllowedError") return "The browser was not allowed to use that source.";
  if (error.name === "NotFoundError") return "No camera was found.";
  return error.message;
}

function prepare() {
  document.querySelector("[data-source=camera]").disabled = !canUseCamera;
  document.querySelector("[data-source=screen]").disabled = !canShareScreen;
  if (!canUseCamera) $("hint").textContent = "Camera and screen need an https address, or localhost.";
  const key = takeKey();
  if (key) begin(key);
  else askForKey();
}

prepare();
