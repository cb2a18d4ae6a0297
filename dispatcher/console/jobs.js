// Recent jobs, newest first: asked for once, then told by events.

import { now } from "./clock.js";
import { el, fill, keyed, setAttribute, setText } from "./dom.js";
import { age, instant, span } from "./format.js";
import { jobLink, modelLink, workerLink } from "./happenings.js";

const SHOWN = 20;
const STATES = ["queued", "running", "succeeded", "failed", "cancelled", "expired"];
const COLUMNS = [["Job", ""], ["Model", ""], ["State", "line"], ["Worker", "wide"], ["Waited", "number wide"], ["Ran", "number wide"], ["Sent", "number"]];

export function jobs(page, model = "") {
  const { fleet } = page;
  let state = "";
  const rows = el("tbody");
  const none = el("p", { class: "empty" });
  const title = el("h2", { id: "jobs", tabindex: "-1" }, "Recent jobs");
  const which = el("select", { "aria-label": "Which jobs" }, el("option", { value: "" }, "All states"), ...STATES.map((name) => el("option", { value: name }, name)));
  which.addEventListener("change", () => {
    state = which.value;
    page.paint();
    fleet.jobsIn(state).catch((error) => page.say(error.message));
  });
  const heads = COLUMNS.map(([label, kind]) => el("th", { scope: "col", class: kind }, label));
  const table = el("table", { "aria-labelledby": "jobs" }, el("thead", {}, el("tr", {}, ...heads)), rows);
  const root = el("section", { class: "jobs", "aria-labelledby": "jobs" }, el("div", { class: "head" }, title, opener(), which), table, none);
  const paint = () => {
    const found = recent(fleet.jobs, state, model);
    keyed(rows, found, (job) => job.id, makeRow, updateRow);
    setText(none, found.length ? "" : fleet.seen.jobs ? "No job is like that." : "Asking for the jobs …");
  };
  return { root, paint };
}

function recent(all, state, model) {
  const wanted = [...all.values()].filter((job) => (!state || job.state === state) && (!model || job.model === model));
  return wanted.sort((a, b) => (a.created_at < b.created_at ? 1 : a.created_at > b.created_at ? -1 : 0)).slice(0, SHOWN);
}

// Any job, by its id.
function opener() {
  const id = el("input", { type: "search", "aria-label": "Id of a job", placeholder: "Job id", spellcheck: "false", autocomplete: "off" });
  const form = el("form", { class: "opener", role: "search", "aria-label": "Jobs by id" }, id, el("button", { type: "submit", class: "quiet" }, "Open"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (id.value.trim()) location.hash = `#/jobs/${encodeURIComponent(id.value.trim())}`;
  });
  return form;
}

function makeRow(job) {
  const cells = COLUMNS.map(([, kind], i) => el(i === 0 ? "th" : "td", { class: kind, scope: i === 0 ? "row" : undefined }));
  cells[0].append(jobLink(job.id));
  cells[1].append(modelLink(job.model));
  const state = stateTag();
  cells[2].append(state.root);
  const sent = el("time", { datetime: job.created_at, title: job.created_at });
  cells[6].append(sent);
  const node = el("tr", {}, ...cells);
  made.set(node, { cells, state, sent, worker: "" });
  return node;
}

const made = new WeakMap();

function updateRow(node, job) {
  const parts = made.get(node);
  const [, , , worker, waited, ran] = parts.cells;
  parts.state.update(job);
  if (parts.worker !== job.worker) fill(worker, job.worker ? workerLink(job.worker) : "–");
  parts.worker = job.worker;
  const [sent, started, ended] = [job.created_at, job.started_at, job.finished_at].map(instant);
  setText(waited, span(started === null ? (job.state === "queued" ? now() - sent : null) : started - sent));
  setText(ran, span(started === null ? null : (ended ?? now()) - started));
  setText(parts.sent, age(now() - sent));
}

// A job's state as a word; how it started beside it.
export function stateTag() {
  const word = el("span", { class: "state" });
  const start = el("span", { class: "start" });
  const root = el("span", { class: "states" }, word, start);
  const update = (job) => {
    setText(word, job.state);
    setAttribute(word, "data-state", job.state);
    setText(start, job.start ?? (job.state === "failed" && job.code ? job.code : ""));
    setAttribute(start, "data-start", job.start ?? null);
  };
  return { root, update };
}
