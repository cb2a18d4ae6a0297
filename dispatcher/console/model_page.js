// One model: who holds it, what waits for it and what the plan does about it, what an operator can do.

import { modelButtons } from "./actions.js";
import { Away, Problem, ask } from "./api.js";
import { el, keyed, setText } from "./dom.js";
import { explained, facts } from "./explained.js";
import { count, size, span } from "./format.js";
import { modelLink, workerLink } from "./happenings.js";
import { jobs } from "./jobs.js";

const EXPLAIN_EVERY_MS = 4000;

export function modelPage(page, name) {
  const { fleet } = page;
  const where = el("select", { id: "where" });
  const title = el("h1", { tabindex: "-1" }, "Model ", modelLink(name));
  title.querySelector("a").removeAttribute("href");
  const none = el("p", { class: "empty" });
  const about = el("div");
  const plan = el("div", { class: "explain" });
  const orders = el("ul", { class: "orders" });
  const buttons = el("div", { class: "buttons" }, el("label", { for: "where" }, "On"), where, ...modelButtons(page, name, () => where.value));
  const section = (heading, ...inside) => el("section", { "aria-label": heading }, el("h2", { tabindex: "-1" }, heading), ...inside);
  const ofModel = jobs(page, name);
  const body = el("div", { class: "columns" }, section("Holding and demand", about, orders), section("The plan for those that wait", plan), ofModel.root);
  const root = el("article", { class: "detail" }, el("div", { class: "head" }, title, buttons), none, body);
  const stop = explainNewest(name, plan);
  fetchJobs(page, name);
  const paint = () => {
    const model = fleet.model.get(name);
    setText(none, model ? "" : fleet.seen.models ? "The catalogue has no model of that name." : "Asking for the catalogue …");
    body.hidden = buttons.hidden = !model;
    if (!model) return;
    keyed(where, ["", ...fleet.workers.map((worker) => worker.id)], (id) => id, (id) => el("option", { value: id }, id || "any worker"), () => {});
    buttons.hidden = fleet.tenant;
    paintModel(model, about, orders);
    ofModel.paint();
  };
  return { root, title: name, paint, leave: stop };
}

async function fetchJobs(page, name) {
  try {
    const found = await ask("GET", `/jobs?limit=20&model=${encodeURIComponent(name)}`);
    page.fleet.merge(found);
  } catch (error) {
    if (!(error instanceof Away || error instanceof Problem)) throw error;
  }
}

// The plan is the same for all that wait for a model: any one of them can be asked about.
function explainNewest(name, plan) {
  let timer = 0;
  let gone = false;
  const look = async () => {
    let parts = [el("p", { class: "empty" }, "No job waits for it.")];
    try {
      const { jobs: queued } = await ask("GET", `/jobs?state=queued&limit=1&model=${encodeURIComponent(name)}`);
      if (queued.length) parts = explained(await ask("GET", `/jobs/${encodeURIComponent(queued[0].id)}/explain`));
    } catch (error) {
      if (!(error instanceof Away || error instanceof Problem)) throw error;
      parts = null;
    }
    if (gone) return;
    if (parts && !plan.contains(document.activeElement)) plan.replaceChildren(...parts);
    timer = setTimeout(look, EXPLAIN_EVERY_MS);
  };
  look();
  return () => {
    gone = true;
    clearTimeout(timer);
  };
}

function paintModel(model, about, orders) {
  const holders = model.holders.flatMap((id, i) => (i ? [", ", workerLink(id)] : [workerLink(id)]));
  const rows = [
    ["Held by", ...(holders.length ? holders : ["nobody"])],
    ["Waiting", `${count(model.queued)}${model.queued ? `, the oldest for ${span(model.oldest_wait_s)}` : ""}`],
    ["Pinned", model.pinned ? `on every worker, by ${model.pinned_by === "hand" ? "hand" : "the catalogue"}` : model.pinned_on.length ? `on ${model.pinned_on.join(", ")}` : "no"],
    ["Runtime", `${model.runtime}, up to ${model.max_batch} at once`],
    ["Declared size", model.declared_bytes === null ? "–" : size(model.declared_bytes)],
    ...model.measured.map((one) => [`On ${one.gpu}`, `${size(one.footprint_bytes)}, loads in ${span(one.load_s)}, a batch runs ${span(one.exec_s)}`]),
  ];
  const shown = JSON.stringify([model.holders, model.measured, rows.map((row) => row.filter((cell) => typeof cell === "string"))]);
  // Anew only if it reads differently, and never while a link in it has the focus.
  if (about.dataset.shown !== shown && !about.contains(document.activeElement)) {
    about.replaceChildren(facts(rows));
    about.dataset.shown = shown;
  }
  keyed(orders, model.orders, (order) => order.id, (order) => el("li", {}, `Order to ${order.action}${order.worker ? ` on ${order.worker}` : ""}: waiting, asked by ${order.asked_by}`), () => {});
}
