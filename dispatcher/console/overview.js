// The first page: is it well, who holds what, what is loading and why, what waits, what ran.

import { activity } from "./activity.js";
import { el, setText } from "./dom.js";
import { count, percent, share, span } from "./format.js";
import { gpus } from "./gpus.js";
import { jobs } from "./jobs.js";
import { models } from "./models.js";

export function overview(page) {
  const parts = [figures(page), gpus(page), activity(page), models(page), jobs(page)];
  const root = el("div", { class: "overview" }, ...parts.map((part) => part.root));
  return { root, title: "", paint: () => parts.forEach((part) => part.paint()) };
}

const FIGURES = {
  gpus: "GPUs",
  vram: "VRAM used",
  waiting: "jobs waiting",
  oldest: "oldest wait",
  ended: "jobs a second",
  warm: "warm starts",
};

function figures({ fleet }) {
  const shown = {};
  const list = el("dl", { class: "figures" });
  for (const [name, label] of Object.entries(FIGURES)) {
    shown[name] = { value: el("dd"), more: el("dd", { class: "more" }) };
    list.append(el("div", {}, el("dt", {}, label), shown[name].value, shown[name].more));
  }
  const title = el("h1", { tabindex: "-1", class: "unseen" }, "Overview");
  const root = el("section", { class: "summary", "aria-label": "Summary" }, title, list);
  const set = (name, value, more = "") => {
    setText(shown[name].value, value);
    setText(shown[name].more, more);
  };
  return { root, paint: () => paintFigures(fleet, set) };
}

function paintFigures(fleet, set) {
  if (fleet.seen.workers) {
    const total = sum(fleet.workers, (worker) => worker.gpu.total_bytes);
    const used = sum(fleet.workers, (worker) => worker.gpu.used_bytes);
    const draining = fleet.workers.filter((worker) => worker.draining).length;
    const busy = fleet.workers.filter((worker) => worker.busy).length;
    set("gpus", count(fleet.workers.length), `${count(busy)} busy${draining ? `, ${count(draining)} draining` : ""}`);
    set("vram", total ? percent(used / total) : "–", total ? share(used, total) : "");
  }
  if (fleet.seen.models) {
    const waiting = fleet.models.filter((model) => model.queued > 0);
    const oldest = waiting.reduce((most, model) => Math.max(most, model.oldest_wait_s ?? 0), 0);
    set("waiting", count(sum(waiting, (model) => model.queued)), `for ${count(waiting.length)} of ${count(fleet.models.length)} models`);
    set("oldest", waiting.length ? span(oldest) : "–", waiting.length ? "" : "nothing waits");
  }
  const lately = fleet.rates.lately();
  const known = fleet.follows || lately.ended > 0;
  set("ended", known ? lately.endedPerS.toFixed(lately.endedPerS < 10 ? 1 : 0) : "–", known ? `last minute${lately.failed ? `, ${count(lately.failed)} failed` : ""}` : "");
  const starts = lately.warm + lately.cold;
  set("warm", starts ? percent(lately.warm / starts) : "–", starts ? `of ${count(starts)} last minute` : "");
}

function sum(list, of) {
  return list.reduce((total, one) => total + of(one), 0);
}
