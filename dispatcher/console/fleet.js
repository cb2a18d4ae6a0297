// What the page knows: the fleet, the catalogue, recent jobs, what happened. It is asked for (poll.js) and told
// (stream.js); whoever shows it is told by onChange that something has changed, however often that is.

import { Away, ask } from "./api.js";
import { heard, now } from "./clock.js";
import { instant } from "./format.js";
import { Poll } from "./poll.js";
import { Rates } from "./rates.js";
import { follow } from "./stream.js";

const JOBS_KEPT = 400;
const HAPPENINGS_KEPT = 60;
const PAST_S = 60; // Read from the stream at the start, for the reasons of what is going on.
const TERMINAL = new Set(["succeeded", "failed", "cancelled", "expired"]);

export class Fleet {
  workers = [];
  models = [];
  model = new Map(); // By name.
  jobs = new Map(); // By id.
  happenings = []; // Events of models, workers and orders, newest first.
  loads = new Map(); // What is being loaded, by worker and model: the event that told of it.
  rates = new Rates();
  seen = { workers: false, models: false, jobs: false };
  goodAt = null; // When all was well last.
  away = ""; // Why the dispatcher does not answer.
  trouble = ""; // Why it answers, and cannot say what is asked.
  warnings = [];
  follows = false; // Events come.
  tenant = false; // The key is a tenant's: there are no events of the fleet.

  #onChange;
  #polls;
  #stop = null;
  #lastId = "";

  constructor(onChange) {
    this.#onChange = onChange;
    const failed = (error) => this.#failed(error);
    this.#polls = {
      health: new Poll("/health", { everyMs: 2500, leastMs: 900, take: (...found) => this.#alive(...found), failed }),
      ready: new Poll("/health/ready", { everyMs: 10000, leastMs: 2000, take: (found) => this.#ready(found), failed }),
      workers: new Poll("/workers", { everyMs: 3000, leastMs: 700, take: (found) => this.#fleet(found), failed }),
      models: new Poll("/models", { everyMs: 8000, leastMs: 1500, take: (found) => this.#catalogue(found), failed }),
      jobs: new Poll("/jobs?limit=50", { everyMs: 60000, leastMs: 4000, take: (found) => this.#recent(found), failed }),
    };
    for (const name of ["ready", "workers", "models", "jobs"]) this.#polls[name].wanted = () => !this.away;
  }

  start() {
    for (const poll of Object.values(this.#polls)) poll.start();
    this.#followAll();
  }

  stop() {
    for (const poll of Object.values(this.#polls)) poll.stop();
    this.#stop?.();
    this.#stop = null;
    this.follows = false;
  }

  // Something was asked for by hand: look whether it is so.
  look() {
    this.#polls.workers.poke();
    this.#polls.models.poke();
  }

  worker(id) {
    return this.workers.find((worker) => worker.id === id);
  }

  // A page of jobs, as it was asked for by somebody.
  merge(found) {
    this.#recent(found);
  }

  async jobsIn(state) {
    this.#recent(await ask("GET", `/jobs?limit=50${state ? `&state=${state}` : ""}`));
  }

  #alive(found, sent, got) {
    heard(instant(found.timestamp), sent, got);
    const back = this.away !== "";
    this.away = "";
    if (!this.trouble) this.goodAt = now();
    if (back) for (const name of ["ready", "workers", "models", "jobs"]) this.#polls[name].poke();
    if (!this.#stop) this.#followAll();
    this.#onChange();
  }

  #failed(error) {
    if (error instanceof Away) {
      if (!this.away) this.away = "The dispatcher does not answer.";
    } else {
      this.trouble = error.message;
    }
    this.#onChange();
  }

  #ready(found) {
    this.warnings = found.warnings;
    this.trouble = "";
    this.#onChange();
  }

  #fleet(found) {
    this.workers = found.workers;
    this.seen.workers = true;
    const going = new Set();
    for (const worker of found.workers) {
      for (const resident of worker.residents) if (resident.state === "loading") going.add(pair(worker.id, resident.model));
    }
    for (const [key, load] of this.loads) if (!going.has(key) && now() - instant(load.at) > 5) this.loads.delete(key);
    this.trouble = "";
    this.#onChange();
  }

  #catalogue(found) {
    this.models = found.models;
    this.model = new Map(found.models.map((model) => [model.name, model]));
    this.seen.models = true;
    this.#onChange();
  }

  #recent(found) {
    for (const job of [...found.jobs].reverse()) {
      const known = this.jobs.get(job.id);
      const ended = known && TERMINAL.has(known.state) && !TERMINAL.has(job.state);
      const { id, model, state, created_at, started_at, finished_at, worker, start, error } = job;
      const code = error?.code ?? null;
      if (!ended) this.#keep({ id, model, state, created_at, started_at, finished_at, worker, start, code });
    }
    this.seen.jobs = true;
    this.#onChange();
  }

  #keep(job) {
    this.jobs.set(job.id, job);
    if (this.jobs.size > JOBS_KEPT) this.jobs.delete(this.jobs.keys().next().value);
  }

  #followAll() {
    // From a minute ago on: who opens the page wants to know why what is loading now is loading.
    const after = this.#lastId || `${Math.floor((now() - PAST_S) * 1000)}-0`;
    if (this.goodAt === null || this.tenant) return; // Before the first answer we do not know the server's time.
    let lost = !this.#lastId;
    this.#stop = follow("/events", {
      after,
      told: (kind, fields) => {
        if (fields.id) this.#lastId = fields.id;
        if (kind === "stream.lost" && !lost) this.#polls.jobs.poke();
        if (kind === "stream.lost") lost = false;
        else this.#told(kind, fields);
        this.#onChange();
      },
      opened: () => {
        this.follows = true;
        this.#onChange();
      },
      ended: (error) => {
        this.follows = false;
        this.tenant = error?.status === 403;
        this.#polls.health.poke();
        this.#onChange();
      },
    });
  }

  #told(kind, event) {
    const family = kind.slice(0, kind.indexOf("."));
    if (family === "job") this.#job(kind, event);
    else if (kind === "stream.paused") this.trouble = "The store does not answer.";
    else if (family !== "stream") this.#happened(kind, event);
  }

  #job(kind, event) {
    const known = this.jobs.get(event.job);
    const { job: id, model, at } = event;
    if (kind === "job.accepted" || kind === "job.redriven") {
      this.rates.accepted(instant(at));
      if (!known || kind === "job.redriven") {
        this.jobs.delete(id);
        this.#keep({ id, model, state: "queued", created_at: at, started_at: null, finished_at: null, worker: null });
      }
    } else if (kind === "job.settled") {
      this.rates.settled(instant(at), event);
      if (known) Object.assign(known, { state: event.state, finished_at: at, code: event.code ?? null });
      if (known && event.worker) Object.assign(known, { worker: event.worker, start: event.start ?? null });
    } else if (known && !TERMINAL.has(known.state)) {
      if (kind === "job.started") Object.assign(known, { state: "running", started_at: at, worker: event.worker });
      else if (kind === "job.requeued") Object.assign(known, { state: "queued", code: event.code ?? null });
    }
    this.#polls.models.poke();
  }

  #happened(kind, event) {
    if (kind === "model.loading") this.loads.set(pair(event.worker, event.model), event);
    else if (kind === "model.resident" || kind === "model.load_failed") {
      const load = this.loads.get(pair(event.worker, event.model));
      if (load) event.why = load.reason;
      this.loads.delete(pair(event.worker, event.model));
    }
    this.happenings.unshift(event);
    if (this.happenings.length > HAPPENINGS_KEPT) this.happenings.pop();
    this.look();
  }
}

export function pair(worker, model) {
  return `${worker}\n${model}`;
}
