// What is being loaded and evicted now, with the plan's reason, and what happened just before.

import { now } from "./clock.js";
import { el, keyed, setAttribute, setStyle, setText } from "./dom.js";
import { pair } from "./fleet.js";
import { age, instant, span } from "./format.js";
import { isBad, modelLink, sentence, workerLink } from "./happenings.js";

const MOVES = 8;
const SHOWN = 10;

export function activity({ fleet }) {
  const title = el("h2", { id: "moves", tabindex: "-1" }, "Loading and evicting");
  const going = el("ul", { class: "going" });
  const more = el("p", { class: "note" });
  const past = el("ul", { class: "past" });
  const none = el("p", { class: "empty" });
  const root = el("section", { class: "moves", "aria-labelledby": "moves" }, el("div", { class: "head" }, title), none, going, more, past);
  const paint = () => {
    const moves = movesOf(fleet);
    setText(none, moves.length ? "" : fleet.seen.workers ? "Nothing is loading or leaving." : "");
    setText(more, moves.length > MOVES ? `and ${moves.length - MOVES} more` : "");
    keyed(going, moves.slice(0, MOVES), (move) => move.key, makeMove, updateMove);
    keyed(past, told(fleet), (event) => event.id, makePast, updatePast);
  };
  return { root, paint };
}

// A load that goes on is above; one that has ended is told of by its end, with the same reason.
function told(fleet) {
  return fleet.happenings.filter((event) => event.kind !== "model.loading").slice(0, SHOWN);
}

// Residents that come or go. A load is known by its event before the next report of its worker tells of it.
function movesOf(fleet) {
  const moves = new Map();
  for (const worker of fleet.workers) {
    for (const resident of worker.residents) {
      if (resident.state === "ready") continue;
      const key = pair(worker.id, resident.model);
      const told = fleet.loads.get(key);
      moves.set(key, {
        key: `${resident.state}${key}`,
        worker: worker.id,
        model: resident.model,
        state: resident.state,
        since: instant(told?.at ?? (resident.state === "loading" ? resident.loaded_at : null)),
        reason: told?.reason ?? (resident.state === "draining" ? whyLeaving(worker) : ""),
        usual: usual(fleet, resident.model, worker.gpu.name),
      });
    }
  }
  for (const [key, told] of fleet.loads) {
    if (moves.has(key)) continue;
    const gpu = fleet.worker(told.worker)?.gpu.name;
    const since = instant(told.at);
    moves.set(key, { key: `loading${key}`, worker: told.worker, model: told.model, state: "loading", since, reason: told.reason, usual: usual(fleet, told.model, gpu) });
  }
  return [...moves.values()].sort((a, b) => (a.state === b.state ? 0 : a.state === "loading" ? -1 : 1));
}

function whyLeaving(worker) {
  if (worker.draining) return "the worker is draining";
  const coming = worker.residents.find((resident) => resident.state === "loading");
  return coming ? `to make room for ${coming.model}` : "";
}

function usual(fleet, model, gpu) {
  return fleet.model.get(model)?.measured.find((measured) => measured.gpu === gpu)?.load_s ?? null;
}

function makeMove(move) {
  const verb = move.state === "loading" ? " loads " : " lets go of ";
  const time = el("span", { class: "time" });
  const done = el("span", { class: "done" });
  const why = el("span", { class: "why" });
  const node = el("li", { class: "move", "data-state": move.state }, el("span", { class: "what" }, workerLink(move.worker), verb, modelLink(move.model)), time, why, el("span", { class: "progress", "aria-hidden": "true" }, done));
  made.set(node, { time, done, why });
  return node;
}

const made = new WeakMap();

function updateMove(node, move) {
  const { time, done, why } = made.get(node);
  const passed = move.since === null ? null : Math.max(0, now() - move.since);
  const of = move.usual && move.state === "loading" ? ` of about ${span(move.usual)}` : "";
  setText(time, passed === null ? "" : `${span(passed)}${of}`);
  setText(why, move.reason ?? "");
  setStyle(done, "width", move.usual && passed !== null ? `${Math.min(100, (100 * passed) / move.usual).toFixed(0)}%` : "0");
}

function makePast(event) {
  const when = el("time", { datetime: event.at, title: event.at });
  const node = el("li", {}, el("span", { class: "what" }, ...sentence(event)), when);
  setAttribute(node, "data-bad", isBad(event) ? "" : null);
  made.set(node, { when });
  return node;
}

function updatePast(node, event) {
  setText(made.get(node).when, age(now() - instant(event.at)));
}
