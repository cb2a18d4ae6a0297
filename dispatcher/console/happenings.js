// Events of the fleet as sentences: a list of texts and of names that lead somewhere.

import { el } from "./dom.js";
import { hue, span } from "./format.js";

export function modelLink(name) {
  return el("a", { class: "model", hue: hue(name), href: `#/models/${encodeURIComponent(name)}` }, name);
}

export function workerLink(id) {
  return el("a", { href: `#/workers/${encodeURIComponent(id)}` }, id);
}

export function jobLink(id) {
  return el("a", { class: "id", href: `#/jobs/${encodeURIComponent(id)}`, title: id }, id);
}

const model = (event) => modelLink(event.model);
const worker = (event) => workerLink(event.worker);
const because = (text) => (text ? el("span", { class: "why" }, text) : "");
const by = (event) => (event.by ? ` by ${event.by}` : "");
const where = (event) => (event.worker ? [" on ", workerLink(event.worker)] : [" on every worker"]);
const residents = (event) => (event.residents ? `, it held ${event.residents}` : "");

const SAID = {
  "model.loading": (e) => [worker(e), " loads ", model(e), because(e.reason)],
  "model.resident": (e) => [worker(e), " has ", model(e), ` after ${span(e.load_s)}`, because(e.why)],
  "model.evicted": (e) => [worker(e), " let ", model(e), " go", ...evicted(e)],
  "model.load_failed": (e) => [worker(e), " could not load ", model(e), `: ${e.code}`, because(e.why)],
  "model.pinned": (e) => [model(e), " is pinned", ...where(e), by(e)],
  "model.unpinned": (e) => [model(e), " is not pinned any more", ...where(e), by(e)],
  "order.asked": (e) => ["To ", e.action, " ", model(e), ...(e.worker ? where(e) : []), " was asked for", by(e)],
  "order.ended": (e) => ["The order to ", e.action, " ", model(e), ` is ${e.state}`, because(e.reason)],
  "worker.joined": (e) => [worker(e), ` joined with ${e.gpu}`],
  "worker.left": (e) => [e.worker, " left"],
  "worker.lost": (e) => [e.lost, ` was lost with ${e.jobs} running jobs; `, worker(e), " tidied up"],
  "worker.drain_asked": (e) => [worker(e), " is to take no work", by(e)],
  "worker.drain_ended": (e) => [worker(e), " may take work again", by(e)],
  "worker.draining": (e) => [worker(e), ` takes no new work, by ${e.by === "stop" ? "its stop" : `an ${e.by}`}`],
  "worker.drained": (e) => [worker(e), " is empty", residents(e)],
  "worker.undrained": (e) => [worker(e), " takes work again"],
  "executor.died": (e) => ["The executor of ", worker(e), " died", residents(e), because(e.reason)],
  "job.accepted": () => ["Accepted: the broker has it"],
  "job.started": (e) => ["Started on ", worker(e), `, attempt ${e.attempt}`],
  "job.requeued": (e) => ["Waits again", e.code ? `: ${e.code}` : ""],
  "job.settled": (e) => [`Ended: ${e.state}`, e.code ? ` (${e.code})` : "", e.start ? `, after a ${e.start} start` : ""],
  "job.redriven": (e) => [`Put back from the dead letters, life ${e.life}`],
};

function evicted(event) {
  if (event.room_for) return [" to make room for ", modelLink(event.room_for)];
  return [because(event.reason)];
}

// The sentence of an event, as nodes and texts. What we do not know yet is said by its name.
export function sentence(event) {
  return (SAID[event.kind] ?? ((e) => [e.kind, e.worker ? ` ${e.worker}` : "", e.model ? ` ${e.model}` : ""]))(event);
}

const BAD = new Set(["model.load_failed", "executor.died", "worker.lost"]);

export function isBad(event) {
  return BAD.has(event.kind) || (event.kind === "order.ended" && event.state === "failed");
}
