// Every GPU as a bar of its memory: residents, what is ours besides, other programs', free.

import { el, keyed, setAttribute, setStyle, setText } from "./dom.js";
import { hue, percent, share, shortName, size } from "./format.js";

const SILENT_S = 8;
const MANY = 24; // From here on each gets less room.

export function gpus({ fleet }) {
  const list = el("ul", { class: "gpus" });
  const none = el("p", { class: "empty" });
  const title = el("h2", { id: "gpus", tabindex: "-1" }, "GPUs");
  const key = el(
    "p",
    { class: "legend", "aria-hidden": "true" },
    el("span", { class: "swatch ready" }), "resident",
    el("span", { class: "swatch loading" }), "loading",
    el("span", { class: "swatch draining" }), "leaving",
    el("span", { class: "swatch foreign" }), "other programs",
    el("span", { class: "swatch free" }), "free",
  );
  const root = el("section", { class: "fleet", "aria-labelledby": "gpus" }, el("div", { class: "head" }, title, key), none, list);
  const paint = () => {
    setText(none, fleet.workers.length ? "" : fleet.seen.workers ? "No worker is up." : "Asking for the workers …");
    setAttribute(list, "data-many", fleet.workers.length > MANY ? "" : null);
    keyed(list, fleet.workers, (worker) => worker.id, makeGpu, updateGpu);
  };
  return { root, paint };
}

function makeGpu(worker) {
  const name = el("a", { class: "name", href: `#/workers/${encodeURIComponent(worker.id)}` }, worker.id);
  const parts = { tag: el("span", { class: "tag" }), use: el("span", { class: "use" }), memory: memoryBar(), kind: el("span", { class: "kind" }), cached: el("p", { class: "cached" }) };
  const node = el("li", { class: "gpu" }, el("div", { class: "line" }, name, parts.tag, parts.kind, parts.use), parts.memory.root, parts.cached);
  made.set(node, parts);
  return node;
}

const made = new WeakMap();

function updateGpu(node, worker) {
  const { tag, use, memory, kind, cached } = made.get(node);
  const { gpu } = worker;
  setText(tag, worker.draining ? "draining" : worker.lease_age_s > SILENT_S ? "silent" : "");
  setAttribute(tag, "data-kind", worker.draining ? "warn" : "bad");
  const busy = gpu.utilization === null ? "" : `${percent(gpu.utilization)} · `;
  setText(kind, `${busy}${gpu.name.replace(/^NVIDIA /, "")}`);
  setText(use, share(gpu.used_bytes, gpu.total_bytes));
  memory.update(worker);
  setText(cached, worker.cached.length ? `in host memory: ${worker.cached.map(shortName).join(", ")}` : "");
  setAttribute(cached, "title", worker.cached.join("\n") || null);
}

// A bar that is one picture to who cannot see it, described in words.
export function memoryBar() {
  const root = el("div", { class: "bar", role: "img" });
  return { root, update: (worker) => updateBar(root, worker) };
}

function updateBar(root, worker) {
  const parts = partsOf(worker);
  const whole = Math.max(worker.gpu.total_bytes, parts.reduce((sum, part) => sum + part.bytes, 0));
  setAttribute(root, "aria-label", `${worker.id}: ${worker.gpu.name}, ${spoken(worker, parts)}`);
  keyed(root, parts, (part) => part.key, makePart, (node, part) => {
    setStyle(node, "width", `${((100 * part.bytes) / whole).toFixed(2)}%`);
    setAttribute(node, "data-state", part.state);
    setAttribute(node, "data-running", part.running ? "" : null);
    setAttribute(node, "title", `${part.label}: ${part.text}`);
  });
}

function makePart(part) {
  const model = part.key.startsWith("=") ? part.label : null;
  return el("span", { class: "part", hue: model === null ? undefined : hue(model) }, el("span", { class: "label" }, shortName(part.label)));
}

function partsOf({ gpu, residents }) {
  const parts = residents.map((resident) => ({
    key: `=${resident.model}`,
    label: resident.model,
    bytes: resident.bytes,
    state: resident.state,
    running: resident.running,
    text: describe(resident),
  }));
  const held = residents.filter((r) => r.state !== "loading").reduce((sum, r) => sum + r.bytes, 0);
  const rest = gpu.used_bytes - gpu.foreign_bytes - held;
  // Contexts and allocators take a little besides the weights; a load that is under way is in its model's part.
  if (rest > gpu.total_bytes / 200 && !residents.some((r) => r.state === "loading")) {
    parts.push({ key: "rest", label: "overhead", bytes: rest, state: "rest", text: size(rest) });
  }
  if (gpu.foreign_bytes > 0) {
    parts.push({ key: "foreign", label: "other programs", bytes: gpu.foreign_bytes, state: "foreign", text: size(gpu.foreign_bytes) });
  }
  return parts;
}

export function describe(resident) {
  const state = { loading: "loading", ready: "ready", draining: "leaving" }[resident.state];
  const runs = resident.running ? `, ${resident.running} running` : "";
  return `${size(resident.bytes)}, ${state}${runs}${resident.pinned ? ", pinned" : ""}`;
}

function spoken(worker, parts) {
  const used = `${share(worker.gpu.used_bytes, worker.gpu.total_bytes)} used`;
  const each = parts.map((part) => `${part.label} ${part.text}`);
  return [used, ...each, `free ${size(worker.gpu.free_bytes)}`].join("; ");
}
