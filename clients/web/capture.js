// Where pictures come from: a camera, a screen, or a video file; and how they become JPEG frames.

const LONGEST_SIDE = 640;
const JPEG_QUALITY = 0.85;

export const canShareScreen = Boolean(navigator.mediaDevices?.getDisplayMedia);
export const canUseCamera = Boolean(navigator.mediaDevices?.getUserMedia);

export async function openCamera(video) {
  const wish = { width: { ideal: 1280 }, height: { ideal: 720 }, facingMode: { ideal: "environment" } };
  return play(video, { stream: await navigator.mediaDevices.getUserMedia({ video: wish, audio: false }) });
}

export async function openScreen(video) {
  return play(video, { stream: await navigator.mediaDevices.getDisplayMedia({ video: true, audio: false }) });
}

export async function openFile(video, file) {
  return play(video, { address: URL.createObjectURL(file) });
}

export async function openClip(video, address) {
  return play(video, { address });
}

// Resolves to a source: { ended: Promise, stop() }. The video element shows what is sent.
async function play(video, { stream = null, address = "" }) {
  if (stream) video.srcObject = stream;
  else video.src = address;
  const ended = new Promise((resolve) => {
    video.addEventListener("ended", resolve, { once: true });
    stream?.getVideoTracks()[0].addEventListener("ended", resolve, { once: true });
  });
  const stop = () => {
    stream?.getTracks().forEach((track) => track.stop());
    video.pause();
    video.srcObject = null;
    video.removeAttribute("src");
    video.load();
    if (address.startsWith("blob:")) URL.revokeObjectURL(address);
  };
  try {
    await video.play();
  } catch (error) {
    stop();
    throw new Error(error.name === "NotSupportedError" ? "This browser cannot play that file." : error.message);
  }
  return { ended, stop };
}

// Calls `send(jpeg, microseconds)` with the shown picture, `fps` times a second, until the signal aborts.
export async function sendFrames(video, fps, send, signal) {
  const canvas = document.createElement("canvas");
  const period = 1000 / fps;
  let due = performance.now();
  while (!signal.aborted) {
    const captured = performance.now();
    const picture = await snapshot(video, canvas);
    if (picture && !signal.aborted) send(picture, Math.round(captured * 1000));
    due = Math.max(due + period, performance.now() - period);
    await pause(due - performance.now(), signal);
  }
}

async function snapshot(video, canvas) {
  if (!video.videoWidth) return null;
  const scale = Math.min(1, LONGEST_SIDE / Math.max(video.videoWidth, video.videoHeight));
  canvas.width = Math.round(video.videoWidth * scale);
  canvas.height = Math.round(video.videoHeight * scale);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", JPEG_QUALITY));
  return blob && blob.arrayBuffer();
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, Math.max(0, milliseconds));
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
