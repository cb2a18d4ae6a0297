// One worker: its GPU's memory, each resident with what can be done about it, draining.

import { drainButtons, modelButtons } from "./actions.js";
import { el, keyed, setAttribute, setText } from "./dom.js";
import { now } from "./clock.js";
import { age, instant, percent, share, size } from "./format.js";
import { describe, memoryBar } from "./gpus.js";
import { modelLink, sentence } from "./happenings.js";

const FACTS = ["GPU", "Node", "VRAM", "Free", "Other programs", "Utilisation", "Last report", "In host memory"];

export function workerPage(page, id) {
  const { fleet } = page;
  const bar = memoryBar();
  const tag = el("span", { class: "tag" });
  const { drain, undrain } = drainButtons(page, id);
  const buttons = el("div", { class: "buttons" }, drain, undrain);
  const values = Object.fromEntries(FACTS.map((name) => [name, el("dd")]));
  const list = el("dl", { class: "facts" }, ...FACTS.map((name) => el("div", {}, el("dt", {}, name), values[name])));
  const rows = el("tbody");
  const past = el("ul", { class: "past" });
  const none = el("p", { class: "empty" });
  const heads = ["Model", "Memory", "Used", ""].map((name) => el("th", { scope: "col", class: name === "Used" && "wide" }, name || el("span", { class: "unseen" }, "What can be done")));
  const table = el("table", { "aria-label": "Residents" }, el("thead", {}, el("tr", {}, ...heads)), rows);
  const section = (heading, ...inside) => el("section", { "aria-label": heading }, el("h2", { tabindex: "-1" }, heading), ...inside);
  const body = el("div", { class: "columns" }, section("Memory", bar.root, list), section("Residents", table), section("What happened here", past));
  const root = el("article", { class: "detail" }, el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "Worker ", el("span", { class: "id" }, id)), tag, buttons), none, body);
  const paint = () => {
    const worker = fleet.worker(id);
    setText(none, worker ? "" : fleet.seen.workers ? "No live worker has that id." : "Asking for the workers …");
    body.hidden = !worker;
    buttons.hidden = fleet.tenant;
    keyed(past, fleet.happenings.filter((event) => event.worker === id).slice(0, 15), (event) => event.id, makePast, updatePast);
    if (worker) paintWorker(page, worker, { bar, tag, drain, undrain, values, rows });
  };
  return { root, title: `Worker ${id}`, paint };
}

function paintWorker(page, worker, { bar, tag, drain, undrain, values, rows }) {
  const { gpu } = worker;
  bar.update(worker);
  setText(tag, worker.draining ? "draining" : worker.busy ? "busy" : "idle");
  setAttribute(tag, "data-kind", worker.draining ? "warn" : worker.busy ? "busy" : null);
  // The one that is of use comes first and is shown alone; if it has the focus, the focus goes to the other.
  swap(worker.draining ? drain : undrain, worker.draining ? undrain : drain);
  setText(values.GPU, `${gpu.name}, number ${gpu.index}`);
  setText(values.Node, worker.node);
  setText(values.VRAM, `${share(gpu.used_bytes, gpu.total_bytes)} used`);
  setText(values.Free, size(gpu.free_bytes));
  setText(values["Other programs"], gpu.foreign_bytes ? size(gpu.foreign_bytes) : "none");
  setText(values.Utilisation, gpu.utilization === null ? "not known" : percent(gpu.utilization));
  setText(values["Last report"], age(now() - instant(worker.as_of)));
  setText(values["In host memory"], worker.cached.join(", ") || "nothing");
  keyed(rows, worker.residents, (resident) => resident.model, (resident) => makeResident(page, worker.id, resident), updateResident);
}

function swap(gone, shown) {
  const focused = gone === document.activeElement;
  gone.hidden = true;
  shown.hidden = false;
  if (focused) shown.focus();
}

function makeResident(page, worker, resident) {
  const memory = el("td");
  const used = el("td", { class: "wide" });
  const [, unload, pin, unpin] = modelButtons(page, resident.model, () => worker);
  const buttons = el("div", { class: "buttons" }, ...(page.fleet.tenant ? [] : [unload, pin, unpin]));
  const node = el("tr", {}, el("th", { scope: "row" }, modelLink(resident.model)), memory, used, el("td", {}, buttons));
  made.set(node, { memory, used, pin, unpin });
  return node;
}

const made = new WeakMap();

function updateResident(node, resident) {
  const { memory, used, pin, unpin } = made.get(node);
  setText(memory, describe(resident));
  setText(used, age(now() - instant(resident.last_used_at)));
  swap(resident.pinned ? pin : unpin, resident.pinned ? unpin : pin);
}

function makePast(event) {
  const when = el("time", { datetime: event.at, title: event.at });
  const node = el("li", {}, el("span", { class: "what" }, ...sentence(event)), when);
  made.set(node, { when });
  return node;
}

function updatePast(node, event) {
  setText(made.get(node).when, age(now() - instant(event.at)));
}
