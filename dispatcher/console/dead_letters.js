// What gave up, and putting it back.

import { button, redrive } from "./actions.js";
import { Away, Problem, ask } from "./api.js";
import { now } from "./clock.js";
import { el, keyed, setText } from "./dom.js";
import { age, count, instant } from "./format.js";
import { jobLink, modelLink } from "./happenings.js";

const ASK_AGAIN_MS = 5000;
const COLUMNS = [["", ""], ["Job", ""], ["Model", "wide"], ["Why", ""], ["Attempts", "number wide"], ["When", "number wide"], ["", "wide"]];

export function deadLetters(page) {
  const asked = { code: "", model: "", chosen: new Set(), letters: [], cursor: null, said: "Asking …" };
  const rows = el("tbody");
  const none = el("p", { class: "empty" });
  const forbidden = () => page.fleet.tenant;
  const { look, more, stop } = live(page, asked);
  const back = (label, which, options) => button(page, label, () => redrive(which()).finally(look), options);
  const chosen = back("Put back the chosen", () => ({ ids: [...asked.chosen] }));
  const all = back("Put back all that are shown here and like them", () => whichOf(asked), {
    sure: { title: "Put all of these back?", text: "All dead letters that fit the filter, those on later pages too, 100 a second.", accept: "Put back" },
  });
  const next = el("button", { type: "button", class: "quiet", onclick: more }, "More");
  const title = el("h1", { tabindex: "-1", id: "dead" }, "Dead letters");
  const heads = COLUMNS.map(([label, kind], i) => el("th", { scope: "col", class: kind }, label || el("span", { class: "unseen" }, i ? "What can be done" : "Chosen")));
  const table = el("table", { "aria-labelledby": "dead" }, el("thead", {}, el("tr", {}, ...heads)), rows);
  const root = el("section", { class: "detail letters" }, el("div", { class: "head" }, title, ...filters(asked, look), el("div", { class: "buttons" }, chosen, all)), table, none, el("div", { class: "pager" }, next));
  const paint = () => {
    setText(none, forbidden() ? "These are for operators." : asked.letters.length ? "" : asked.said);
    const make = (letter) => makeRow(letter, asked, page, back);
    keyed(rows, asked.letters, (letter) => `${letter.id}\n${letter.life}`, make, updateRow);
    for (const id of asked.chosen) if (!asked.letters.some((letter) => letter.id === id)) asked.chosen.delete(id);
    setText(chosen, asked.chosen.size ? `Put back ${count(asked.chosen.size)} chosen` : "Put back the chosen");
    chosen.hidden = asked.chosen.size === 0;
    all.hidden = asked.letters.length === 0;
    setText(all, asked.code || asked.model ? "Put back all of these" : "Put back all");
    next.hidden = asked.cursor === null;
  };
  return { root, title: "Dead letters", paint, leave: stop };
}

function whichOf({ code, model }) {
  return code || model ? { ...(code && { code }), ...(model && { model }) } : { all: true };
}

function filters(asked, look) {
  return [["code", "Code"], ["model", "Model"]].map(([name, label]) => {
    const input = el("input", { type: "search", "aria-label": `Filter by ${name}`, placeholder: label, spellcheck: "false", autocomplete: "off" });
    input.addEventListener("change", () => {
      asked[name] = input.value.trim();
      look();
    });
    return input;
  });
}

function live(page, asked) {
  let timer = 0;
  let gone = false;
  let turn = 0;
  const read = async (cursor) => {
    clearTimeout(timer);
    turn += 1;
    const mine = turn;
    const filter = new URLSearchParams({ limit: "50", ...whichOf(asked) });
    filter.delete("all");
    if (cursor) filter.set("cursor", cursor);
    try {
      const found = await ask("GET", `/dead-letters?${filter}`);
      if (gone || mine !== turn) return;
      asked.letters = cursor ? [...asked.letters, ...found.dead_letters] : found.dead_letters;
      asked.cursor = found.cursor;
      asked.said = "Nothing gave up.";
    } catch (error) {
      if (!(error instanceof Away || error instanceof Problem)) throw error;
      if (gone || mine !== turn) return;
      asked.said = error.message;
      if (error.status === 422) Object.assign(asked, { letters: [], cursor: null });
    }
    page.paint();
    // Not under somebody who has turned pages: that would take back what was asked for.
    if (asked.letters.length <= 50) timer = setTimeout(() => read(null), ASK_AGAIN_MS);
  };
  read(null);
  const stop = () => {
    gone = true;
    clearTimeout(timer);
  };
  return { look: () => read(null), more: () => read(asked.cursor), stop };
}

function makeRow(letter, asked, page, back) {
  const name = `Choose ${letter.id}`;
  const box = el("input", { type: "checkbox", "aria-label": name });
  box.checked = asked.chosen.has(letter.id);
  box.addEventListener("change", () => {
    if (box.checked) asked.chosen.add(letter.id);
    else asked.chosen.delete(letter.id);
    page.paint();
  });
  const when = el("time", { datetime: letter.died_at, title: letter.died_at });
  const node = el(
    "tr",
    {},
    el("td", {}, box),
    el("th", { scope: "row" }, letter.kind === "job" ? jobLink(letter.id) : el("span", { class: "id" }, letter.id)),
    el("td", { class: "wide" }, letter.model ? modelLink(letter.model) : "–"),
    el("td", {}, el("span", { class: "tag", "data-kind": "bad" }, letter.code), el("span", { class: "why" }, letter.error.message)),
    el("td", { class: "number wide" }, count(letter.attempts)),
    el("td", { class: "number wide" }, when),
    el("td", { class: "wide" }, back("Put back", () => ({ ids: [letter.id] }), { name: `Put back ${letter.id}` })),
  );
  made.set(node, { when, letter });
  return node;
}

const made = new WeakMap();

function updateRow(node) {
  const { when, letter } = made.get(node);
  setText(when, age(now() - instant(letter.died_at)));
}
