// Server-sent events by fetch: EventSource cannot show a key.

import { Away, Problem, send } from "./api.js";

const SILENCE_MS = 40000; // The server says something every 15 s.
const LONGEST_REST_MS = 10000;

// Takes the text of a stream in pieces, however they are cut, and tells its events: {id, kind, data}.
export class Parser {
  #rest = "";
  #event = { id: "", kind: "message", lines: [] };
  #tell;
  retryMs = 2000;
  lastId = "";

  constructor(tell) {
    this.#tell = tell;
  }

  feed(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) this.#take(line);
  }

  #take(line) {
    if (line === "") {
      const { id, kind, lines } = this.#event;
      this.#event = { id: "", kind: "message", lines: [] };
      if (id) this.lastId = id;
      if (lines.length) this.#tell({ id, kind, data: lines.join("\n") });
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#event.lines.push(value);
    else if (name === "event") this.#event.kind = value;
    else if (name === "id") this.#event.id = value;
    else if (name === "retry" && /^\d+$/.test(value)) this.retryMs = Number(value);
  }
}

// Follow a path for good: told(kind, fields) for each event, ended(error) each time the stream breaks (null: it came to
// an end). The answer is a function that stops it. It goes on after the last event it has seen.
export function follow(path, { after = "", told, opened = () => {}, ended = () => {} }) {
  const stopping = new AbortController();
  run(path, after, told, opened, ended, stopping.signal);
  return () => stopping.abort();
}

async function run(path, after, told, opened, ended, stopped) {
  let lastId = after;
  let rest = 0;
  while (!stopped.aborted) {
    const parser = new Parser(({ kind, data }) => {
      if (!stopped.aborted) told(kind, JSON.parse(data));
    });
    parser.lastId = lastId;
    let error = null;
    try {
      const over = await read(path, parser, opened, stopped);
      if (over) return;
      rest = 0;
    } catch (raised) {
      error = raised;
    }
    lastId = parser.lastId;
    if (stopped.aborted) return;
    ended(error);
    if (error instanceof Problem && [403, 404, 422].includes(error.status)) return;
    rest = Math.min(LONGEST_REST_MS, rest * 1.6 || parser.retryMs / 2);
    // Not all at once, where a thousand pages lost the same dispatcher.
    await sleep(rest * (0.75 + Math.random() / 2), stopped);
  }
}

// True once there is no more to come.
async function read(path, parser, opened, stopped) {
  const silent = new AbortController();
  const signal = AbortSignal.any([stopped, silent.signal]);
  let timer = 0;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silent.abort(new Away("nothing comes any more")), SILENCE_MS);
  };
  heard();
  try {
    const headers = { Accept: "text/event-stream", ...(parser.lastId ? { "Last-Event-ID": parser.lastId } : {}) };
    const answer = await send("GET", path, { headers, signal });
    if (answer.status === 204) return true;
    opened();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return parser.lastId.endsWith(".end");
      heard();
      parser.feed(value);
    }
  } finally {
    clearTimeout(timer);
  }
}

function sleep(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
