// The catalogue: what waits for each model, for how long, who holds it. A page at a time, however many there are.

import { el, keyed, setAttribute, setText } from "./dom.js";
import { count, size, span } from "./format.js";
import { modelLink } from "./happenings.js";

const PAGE = 25;
const COLUMNS = [
  ["name", "Model", ""],
  ["queued", "Waiting", "number"],
  ["oldest", "Oldest wait", "number"],
  ["held", "Held by", "wide names"],
  ["size", "Size", "number wide"],
  ["load", "Load", "number wide"],
];
const ORDER = {
  name: (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0),
  queued: (a, b) => b.queued - a.queued || b.holders.length - a.holders.length || ORDER.name(a, b),
  oldest: (a, b) => (b.oldest_wait_s ?? -1) - (a.oldest_wait_s ?? -1) || ORDER.queued(a, b),
  held: (a, b) => b.holders.length - a.holders.length || ORDER.queued(a, b),
  size: (a, b) => bytesOf(b) - bytesOf(a) || ORDER.name(a, b),
  load: (a, b) => loadOf(b) - loadOf(a) || ORDER.name(a, b),
};

export function models(page) {
  const { fleet } = page;
  const asked = { text: "", which: "all", by: "queued", from: 0 };
  const changed = (change) => {
    Object.assign(asked, { from: 0 }, change);
    page.paint();
  };
  const rows = el("tbody");
  const none = el("p", { class: "empty" });
  const heads = COLUMNS.map(([name, label, kind]) => {
    const sort = el("button", { type: "button", class: "sort", onclick: () => changed({ by: name }) }, label);
    return el("th", { scope: "col", class: kind, "data-by": name }, sort);
  });
  const turn = pager(asked, page);
  const title = el("h2", { id: "models", tabindex: "-1" }, "Models");
  const table = el("table", { "aria-labelledby": "models" }, el("thead", {}, el("tr", {}, ...heads)), rows);
  const root = el("section", { class: "catalogue", "aria-labelledby": "models" }, el("div", { class: "head" }, title, ...filters(changed)), table, none, turn.root);
  const paint = () => {
    const found = matching(fleet.models, asked);
    asked.from = Math.min(asked.from, Math.max(0, Math.floor((found.length - 1) / PAGE) * PAGE));
    keyed(rows, found.slice(asked.from, asked.from + PAGE), (model) => model.name, makeRow, updateRow);
    for (const head of heads) setAttribute(head, "aria-sort", head.dataset.by === asked.by ? (asked.by === "name" ? "ascending" : "descending") : null);
    setText(none, found.length ? "" : fleet.seen.models ? "No model is like that." : "Asking for the catalogue …");
    turn.update(found.length);
  };
  return { root, paint };
}

function filters(changed) {
  const text = el("input", { type: "search", "aria-label": "Filter models by name", placeholder: "Filter by name", spellcheck: "false", autocomplete: "off" });
  text.addEventListener("input", () => changed({ text: text.value.toLowerCase() }));
  const which = el("select", { "aria-label": "Which models" });
  for (const [value, label] of [["all", "All"], ["waiting", "Waited for"], ["held", "Held"], ["pinned", "Pinned"]]) which.append(el("option", { value }, label));
  which.addEventListener("change", () => changed({ which: which.value }));
  return [text, which];
}

function matching(all, { text, which, by }) {
  const wanted = { all: () => true, waiting: (m) => m.queued > 0, held: (m) => m.holders.length > 0, pinned: (m) => m.pinned || m.pinned_on.length > 0 }[which];
  return all.filter((model) => wanted(model) && (!text || model.name.toLowerCase().includes(text))).sort(ORDER[by]);
}

function pager(asked, page) {
  const step = (by) => () => {
    asked.from = Math.max(0, asked.from + by);
    page.paint();
  };
  const before = el("button", { type: "button", class: "quiet", onclick: step(-PAGE) }, "Previous");
  const after = el("button", { type: "button", class: "quiet", onclick: step(PAGE) }, "Next");
  const where = el("span", {});
  const root = el("div", { class: "pager" }, before, where, after);
  const update = (total) => {
    root.hidden = total <= PAGE;
    setText(where, `${count(asked.from + 1)}–${count(Math.min(total, asked.from + PAGE))} of ${count(total)}`);
    // Not "disabled": that would take the focus away from who has just pressed it.
    setAttribute(before, "aria-disabled", asked.from === 0 ? "true" : null);
    setAttribute(after, "aria-disabled", asked.from + PAGE >= total ? "true" : null);
  };
  return { root, update };
}

function makeRow(model) {
  const cells = COLUMNS.map(([name, , kind]) => el(name === "name" ? "th" : "td", { class: kind, scope: name === "name" ? "row" : undefined }));
  const pin = el("span", { class: "tag" });
  cells[0].append(modelLink(model.name), pin);
  const node = el("tr", {}, ...cells);
  made.set(node, { cells, pin });
  return node;
}

const made = new WeakMap();

function updateRow(node, model) {
  const { cells, pin } = made.get(node);
  const [, queued, oldest, held, bytes, load] = cells;
  setText(pin, model.pinned ? "pinned" : model.pinned_on.length ? `pinned on ${model.pinned_on.length}` : "");
  setText(queued, model.queued ? count(model.queued) : "–");
  setText(oldest, model.queued ? span(model.oldest_wait_s) : "–");
  setText(held, model.holders.length ? names(model.holders) : model.queued ? "nobody yet" : "–");
  setText(bytes, bytesOf(model) ? size(bytesOf(model)) : "–");
  setText(load, model.measured.length ? span(loadOf(model)) : "–");
  setAttribute(node, "data-waits", model.queued ? "" : null);
}

function names(holders) {
  return holders.length > 3 ? `${holders.slice(0, 2).join(", ")} and ${holders.length - 2} more` : holders.join(", ");
}

function bytesOf(model) {
  return model.measured.reduce((most, one) => Math.max(most, one.footprint_bytes), 0) || model.declared_bytes || 0;
}

function loadOf(model) {
  return model.measured.reduce((most, one) => Math.max(most, one.load_s), 0);
}
