// The REST half: the key, and the few calls that the page needs.

export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class Api {
  constructor(key) {
    this.key = key;
  }

  async call(method, path, body) {
    const headers = { Authorization: `Bearer ${this.key}` };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const request = { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(15_000) };
    let response;
    try {
      response = await fetch(path, request);
    } catch {
      throw new ApiError(0, "unreachable", "The server cannot be reached.");
    }
    if (response.status === 204) return {};
    const reply = await response.json().catch(() => ({}));
    if (response.ok) return reply;
    const error = reply.error ?? {};
    throw new ApiError(response.status, error.code ?? "internal", error.message ?? `HTTP ${response.status}`);
  }

  models() {
    return this.call("GET", "/v1/models").then((reply) => reply.data ?? []);
  }

  createSession() {
    return this.call("POST", "/v1/sessions", { ingest: "live" });
  }

  connectToken(session) {
    return this.call("POST", `/v1/sessions/${session}/connect`).then((reply) => reply.connect_token);
  }
}

// The key comes in the address's fragment, which no server ever sees, and leaves it at once: it stays in this tab only.
export function takeKey() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given) {
    sessionStorage.setItem("key", given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem("key");
}

export function keepKey(key) {
  sessionStorage.setItem("key", key);
}
