// One job: where its time went, what happened to it, why it waits or ran where it ran.

import { cancelButton, button, redrive } from "./actions.js";
import { Away, Problem, ask } from "./api.js";
import { now } from "./clock.js";
import { el, fill, keyed, setAttribute, setStyle, setText } from "./dom.js";
import { clockTime, instant, span } from "./format.js";
import { modelLink, sentence, workerLink } from "./happenings.js";
import { explained } from "./explained.js";
import { stateTag } from "./jobs.js";
import { follow } from "./stream.js";

const TERMINAL = new Set(["succeeded", "failed", "cancelled", "expired"]);
const ASK_AGAIN_MS = 2500;
const LONGEST_TEXT = 20000;

export function jobPage(page, id) {
  const story = { id, job: null, explain: null, events: [], missing: "", shown: null };
  const title = el("h1", { tabindex: "-1" }, "Job ", el("span", { class: "id" }, id));
  const parts = { state: stateTag(), buttons: el("div", { class: "buttons" }), facts: el("dl", { class: "facts" }), line: timeLine(), list: el("ol", { class: "story" }), why: el("div", { class: "explain" }), result: el("div") };
  const none = el("p", { class: "empty" });
  const section = (heading, ...inside) => el("section", { "aria-label": heading }, el("h2", { tabindex: "-1" }, heading), ...inside);
  const body = el("div", { class: "columns", hidden: true }, el("div", { class: "stack" }, section("Timeline", parts.line.root, parts.list), section("Outcome", parts.facts, parts.result)), section("Explanation", parts.why));
  const root = el("article", { class: "detail" }, el("div", { class: "head" }, title, parts.state.root, parts.buttons), none, body);
  const stop = live(page, story);
  const paint = () => {
    setText(none, story.missing || (story.job ? "" : "Asking for the job …"));
    body.hidden = !story.job;
    if (story.job) paintJob(page, story, parts);
  };
  return { root, title: `Job ${id}`, paint, leave: stop };
}

// Keeps the story up to date until it is over; the answer stops it.
function live(page, story) {
  let stopFollowing = null;
  let timer = 0;
  let gone = false;
  let asking = false;
  let again = false;
  const look = async () => {
    clearTimeout(timer);
    again = asking;
    if (asking || gone) return;
    asking = true;
    await readAnew(page, story);
    asking = false;
    if (gone) return;
    if (story.job && !stopFollowing) stopFollowing = followJob(page, story, look);
    page.paint();
    if (again) look();
    else if (!story.job || !TERMINAL.has(story.job.state)) timer = setTimeout(look, ASK_AGAIN_MS);
  };
  story.look = look;
  look();
  return () => {
    gone = true;
    clearTimeout(timer);
    stopFollowing?.();
  };
}

async function readAnew(page, story) {
  const path = `/jobs/${encodeURIComponent(story.id)}`;
  try {
    story.job = await ask("GET", path);
    story.explain = await ask("GET", `${path}/explain`);
    story.missing = "";
  } catch (error) {
    if (error instanceof Problem && error.status === 404) story.missing = error.message;
    else if (!(error instanceof Away || error instanceof Problem)) throw error;
  }
}

function followJob(page, story, look) {
  // From just before it was sent, so that its whole story is told, where the stream still has it.
  const after = `${Math.max(1, Math.floor(instant(story.job.created_at) * 1000) - 1000)}-0`;
  const known = new Set();
  return follow(`/jobs/${encodeURIComponent(story.id)}/events`, {
    after,
    told: (kind, fields) => {
      if (fields.id && !known.has(fields.id)) {
        known.add(fields.id);
        story.events.push(fields);
      }
      if (kind.startsWith("job.")) look();
      page.paint();
    },
  });
}

function paintJob(page, story, parts) {
  const { job } = story;
  parts.state.update({ state: job.state, start: job.start, code: job.error?.code });
  const over = TERMINAL.has(job.state);
  if (story.shown !== job.state) {
    const failed = job.state === "failed" ? button(page, "Put back", () => redrive({ ids: [job.id] }).finally(story.look), { name: "Put this job back" }) : null;
    fill(parts.buttons, over ? failed : cancelButton(page, job.id, story.look));
    story.shown = job.state;
  }
  parts.line.update(job);
  keyed(parts.list, story.events, (event) => event.id, (event) => makeStep(event, job), () => {});
  if (story.explain !== story.explainShown) parts.why.replaceChildren(...explained(story.explain));
  story.explainShown = story.explain;
  if (story.job !== story.jobShown) paintOutcome(job, parts);
  story.jobShown = story.job;
}

function makeStep(event, job) {
  const offset = instant(event.at) - instant(job.created_at);
  return el("li", {}, el("time", { datetime: event.at, title: event.at }, `+${span(Math.max(0, offset))}`), el("span", { class: "what" }, ...sentence(event)), el("span", { class: "clock" }, clockTime(event.at)));
}

const PHASES = [["queue", "in the queue"], ["load", "for its model to load"], ["exec", "running"]];

function timeLine() {
  const bars = {};
  const rows = {};
  const bar = el("div", { class: "phases", "aria-hidden": "true" });
  const legend = el("dl", { class: "spans" });
  for (const [name, label] of PHASES) {
    bar.append((bars[name] = el("span", { "data-phase": name })));
    rows[name] = el("dd");
    legend.append(el("div", { "data-phase": name }, el("dt", {}, label), rows[name]));
  }
  const update = (job) => {
    const spans = phases(job);
    const total = spans.queue + spans.load + spans.exec || 1;
    for (const [name] of PHASES) {
      setStyle(bars[name], "width", `${((100 * spans[name]) / total).toFixed(2)}%`);
      setText(rows[name], span(spans[name]));
    }
    setAttribute(bar, "data-open", TERMINAL.has(job.state) ? null : "");
  };
  return { root: el("div", { class: "timeline" }, bar, legend), update };
}

function phases(job) {
  const [sent, started, ended] = [job.created_at, job.started_at, job.finished_at].map(instant);
  const until = ended ?? now();
  const waited = Math.max(0, (started ?? until) - sent);
  const load = job.start === "cold" || job.load_s ? Math.min(job.load_s ?? 0, waited) : 0;
  return { queue: waited - load, load, exec: started === null ? 0 : Math.max(0, until - started) };
}

function paintOutcome(job, parts) {
  const rows = [
    ["Model", modelLink(job.model)],
    ["Worker", job.worker ? workerLink(job.worker) : "–"],
    ["Sent", clockTime(job.created_at)],
    ["Started", clockTime(job.started_at)],
    ["Ended", clockTime(job.finished_at)],
    ["Attempts", String(job.attempts)],
    ...(job.retry_at ? [["Tried again at", clockTime(job.retry_at)]] : []),
    ...(job.lives?.length ? [["Lives before", job.lives.map((life) => life.error.code).join(", ")]] : []),
  ];
  parts.facts.replaceChildren(...rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  const shown = [];
  if (job.error) shown.push(el("h3", {}, "Error"), el("p", { class: "error" }, `${job.error.code}: ${job.error.message}`));
  if (job.result !== null) shown.push(el("h3", {}, "Result"), el("pre", { tabindex: "0", "aria-label": "Result" }, cut(job.result)));
  if (Object.keys(job.metadata).length) shown.push(el("h3", {}, "Metadata"), el("pre", { tabindex: "0", "aria-label": "Metadata" }, cut(job.metadata)));
  parts.result.replaceChildren(...shown);
}

function cut(value) {
  const text = JSON.stringify(value, null, 2);
  return text.length > LONGEST_TEXT ? `${text.slice(0, LONGEST_TEXT)}\n… (${text.length} characters in all)` : text;
}
