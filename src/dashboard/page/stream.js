// Server-sent events, read with fetch: an EventSource cannot send the token.

const TOKEN_KEY = "sigmad-token";
/** The server sends an event every second; after this silence the page reconnects. */
const SILENCE_MS = 5_000;
const RETRY_MS_MAX = 10_000;
/** A hidden page closes its connection: a browser has six per server. */
const HIDDEN_MS = 30_000;

const readToken = () => sessionStorage.getItem(TOKEN_KEY);

/** Requests a path, with the token if there is one. */
function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (readToken()) headers.set("Authorization", `Bearer ${readToken()}`);
  return fetch(path, { ...options, headers, cache: "no-store" });
}

/** The JSON of a path; null without an answer, or with one that is no success. */
async function askJson(path) {
  const answer = await ask(path).catch(() => null);
  return answer?.ok ? answer.json().catch(() => null) : null;
}

/** A function of which one call runs at a time: others meanwhile do nothing. */
function single(work) {
  let isRunning = false;
  return async (...given) => {
    if (isRunning) return;
    isRunning = true;
    await work(...given).finally(() => (isRunning = false));
  };
}

class Stream {
  /** `on.event(name, data, id)`, `on.state(state, why)` with live, lost, locked, waiting or paused, `on.denied(status)`. */
  constructor(on) {
    this.on = on;
    this.path = null;
    this.lastEventId = "";
    this.receivedAt = 0;
    this.retryMs = 1_000;
    this.failures = 0;
    this.attempt = null;
    setInterval(() => this.watch(), 500);
    document.addEventListener("visibilitychange", () => this.visibilityChanged());
    addEventListener("online", () => this.resume());
    addEventListener("pageshow", () => this.resume());
  }

  /** Changes to another stream. */
  open(path) {
    this.path = path;
    this.lastEventId = "";
    this.failures = 0;
    this.connect();
  }

  connect() {
    this.attempt?.abort();
    clearTimeout(this.timer);
    this.attempt = new AbortController();
    this.receivedAt = Date.now();
    this.read(this.attempt);
  }

  async read(attempt) {
    let why = "the server ended the stream";
    try {
      const headers = { Accept: "text/event-stream" };
      if (this.lastEventId) headers["Last-Event-ID"] = this.lastEventId;
      const answer = await ask(this.path, { headers, signal: attempt.signal });
      if (answer.status === 401 || answer.status === 403) {
        this.on.state("locked");
        this.path = null;
        return this.on.denied(answer.status);
      }
      if (!answer.ok) throw new Error(`the server responded ${answer.status}`);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        this.receivedAt = Date.now();
        this.failures = 0;
        text += value;
        const blocks = text.split("\n\n");
        text = blocks.pop();
        blocks.forEach((block) => this.dispatch(block));
      }
    } catch (error) {
      if (error instanceof TypeError) why = "cannot reach the server";
      else if (error.name !== "AbortError") why = error.message;
    }
    if (attempt !== this.attempt || this.path === null) return;
    this.on.state("lost", why);
    // Exponential backoff with jitter.
    const wait = Math.min(this.retryMs * 2 ** this.failures, RETRY_MS_MAX) * (0.7 + 0.6 * Math.random());
    this.failures += 1;
    this.timer = setTimeout(() => this.connect(), wait);
  }

  dispatch(block) {
    let name = "message";
    let id = null;
    const data = [];
    for (const line of block.split("\n")) {
      const at = line.indexOf(":");
      const field = line.slice(0, at);
      const value = line.slice(at + 1).replace(/^ /, "");
      if (field === "event") name = value;
      else if (field === "data") data.push(value);
      else if (field === "id") id = value;
      else if (field === "retry") this.retryMs = Number(value) || this.retryMs;
    }
    if (!data.length) return;
    this.on.state("live");
    this.on.event(name, JSON.parse(data.join("\n")), id);
    if (id) this.lastEventId = id;
  }

  /** Detects silence, also after the computer slept. */
  watch() {
    if (this.path && this.attempt && !document.hidden && Date.now() - this.receivedAt > SILENCE_MS) {
      this.on.state("lost", "no event from the server");
      this.connect();
    }
  }

  resume() {
    if (this.path && Date.now() - this.receivedAt > 2_000) this.connect();
  }

  visibilityChanged() {
    clearTimeout(this.pauseTimer);
    if (!document.hidden) return this.resume();
    this.pauseTimer = setTimeout(() => {
      this.on.state("paused");
      clearTimeout(this.timer);
      const attempt = this.attempt;
      this.attempt = null;
      attempt?.abort();
      this.receivedAt = 0;
    }, HIDDEN_MS);
  }
}
