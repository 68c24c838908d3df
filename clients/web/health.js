// The health of the stream, as the server tells it about once a second.

import { clock } from "./talk.js";

export class HealthView {
  constructor(root) {
    this.parts = Object.fromEntries([...root.querySelectorAll("[id]")].map((element) => [element.id, element]));
  }

  show(health, skipped) {
    const { time, age, fps, dropped, memory, used, share } = this.parts;
    time.textContent = known(health.session_time_ms, clock);
    age.textContent = known(health.last_frame_age_ms, (ms) => `${(ms / 1000).toFixed(1)} s ago`);
    fps.textContent = `${rate(health.fps_out)} of ${rate(health.fps_in)} fps`;
    const reasons = Object.entries(health.dropped ?? {});
    if (skipped) reasons.push(["connection lost or slow", skipped]);
    dropped.textContent = String(reasons.reduce((sum, [, count]) => sum + count, 0));
    dropped.title = reasons.map(([reason, count]) => `${reason}: ${count}`).join("\n");
    const { kv_bytes: held = 0, kv_budget_bytes: budget = 0 } = health.memory ?? {};
    const percent = budget ? Math.round((100 * held) / budget) : 0;
    used.style.width = `${percent}%`;
    memory.setAttribute("aria-valuenow", percent);
    memory.title = `${bytes(held)} of ${bytes(budget)}`;
    share.textContent = budget ? `${percent} %` : "";
  }
}

function known(value, format) {
  return value === null || value === undefined || value < 0 ? "–" : format(value);
}

function rate(value) {
  return (value ?? 0).toFixed(1);
}

function bytes(count) {
  return count < 1 << 20 ? `${Math.round(count / 1024)} KB` : `${(count / (1 << 20)).toFixed(1)} MB`;
}
