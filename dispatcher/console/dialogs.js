// What is asked of the person: a key, and whether it is meant.

import { el } from "./dom.js";

function open(title, parts, accept, give, refused = () => {}) {
  const dialog = document.getElementById("dialog");
  const form = el("form", { method: "dialog" });
  let given = false;
  form.append(
    el("h2", { id: "dialog-title" }, title),
    ...parts,
    el(
      "div",
      { class: "buttons" },
      el("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel"),
      el("button", { type: "submit", class: "strong" }, accept),
    ),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    given = true;
    dialog.close();
    give();
  });
  dialog.onclose = () => {
    if (!given) refused();
  };
  dialog.replaceChildren(form);
  if (!dialog.open) dialog.showModal();
}

// refused: the key that was shown is none.
export function askForKey(refused, give) {
  const input = el("input", { id: "api-key", type: "password", autocomplete: "off", required: true, autofocus: true });
  const parts = [
    el("p", {}, refused ? "That key is not known here." : "This dispatcher wants an API key."),
    el("label", { for: "api-key" }, "API key"),
    input,
    el("p", { class: "note" }, "It is kept in this tab only, until you close it."),
  ];
  open("A key is needed", parts, "Use this key", () => give(input.value));
}

// give is called if it is meant.
export function confirm(title, text, accept, give) {
  open(title, [el("p", {}, text)], accept, give);
}
