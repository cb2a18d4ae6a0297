// An explanation as GET /jobs/{id}/explain gives it, for people.

import { el } from "./dom.js";
import { span } from "./format.js";
import { modelLink, workerLink } from "./happenings.js";

const KINDS = { serve: "Serve", load: "Load", unload: "Unload", give_up: "Give up", wait: "Wait" };

export function explained(found) {
  if (!found) return [el("p", { class: "empty" }, "Asking …")];
  const parts = [el("p", { class: "lead" }, `${found.summary.slice(0, 1).toUpperCase()}${found.summary.slice(1)}.`)];
  if (found.waiting) parts.push(...waiting(found.waiting));
  if (found.ran) parts.push(...ran(found.ran));
  return parts;
}

function waiting({ position, queued, decision, candidates, eta, no_eta }) {
  const what = [KINDS[decision.kind] ?? decision.kind, ...(decision.worker ? [" on ", workerLink(decision.worker)] : [])];
  for (const [i, victim] of decision.victims.entries()) what.push(i ? ", " : ", evicting ", modelLink(victim));
  const rows = candidates.map(({ worker, standing, reason }) =>
    el("tr", { "data-standing": standing }, el("th", { scope: "row" }, workerLink(worker)), el("td", {}, el("span", { class: "tag" }, standing.replaceAll("_", " "))), el("td", {}, reason)),
  );
  const start = eta ? `in about ${span(eta.start_in_s)} (${span(eta.low_s)} to ${span(eta.high_s)})` : no_eta;
  return [
    facts([["Position", `${position} of ${queued}`], ["The plan", ...what], ["Because", decision.reason], ["May start", start]]),
    eta?.assuming.length ? el("p", { class: "note" }, `Assuming that ${eta.assuming.join("; ")}.`) : "",
    el("h3", { id: "candidates" }, "Every worker's standing"),
    el("div", { class: "scrolls", tabindex: "0", role: "region", "aria-labelledby": "candidates" }, el("table", { "aria-labelledby": "candidates" }, el("thead", {}, el("tr", {}, ...["Worker", "Standing", "Reason"].map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, ...rows))),
  ].filter(Boolean);
}

function ran(found) {
  const rows = [
    ["Worker", found.worker ? workerLink(found.worker) : "–"],
    ["Start", found.start ?? "–"],
    ["Waited in the queue", span(found.wait_in_queue_s)],
    ["Waited for a load", span(found.wait_for_load_s)],
    ["Ran", span(found.exec_s)],
    ["In all", span(found.total_s)],
  ];
  if (found.evicted?.length) rows.push(["Evicted for it", ...found.evicted.flatMap((name, i) => (i ? [", ", modelLink(name)] : [modelLink(name)]))]);
  return [facts(rows)];
}

export function facts(rows) {
  return el("dl", { class: "facts" }, ...rows.map(([name, ...value]) => el("div", {}, el("dt", {}, name), el("dd", {}, ...value))));
}
