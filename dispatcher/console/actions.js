// What an operator can do here. Each asks first where something ends by it, says what came of it, and looks at the
// fleet again.

import { Away, Problem, ask } from "./api.js";
import { confirm } from "./dialogs.js";
import { el } from "./dom.js";

const path = (text) => text.split("/").map(encodeURIComponent).join("/");

// A button; doing() asks the dispatcher, and gives a sentence about what came of it. sure: {title, text, accept}.
export function button(page, label, doing, { sure = null, name = null, kind = "" } = {}) {
  const node = el("button", { type: "button", class: kind, "aria-label": name }, label);
  const act = async () => {
    node.setAttribute("aria-busy", "true");
    try {
      page.say(await doing());
    } catch (error) {
      if (!(error instanceof Away || error instanceof Problem)) throw error;
      page.say(error instanceof Away ? "The dispatcher does not answer: nothing is known to have been done." : error.message);
    } finally {
      node.removeAttribute("aria-busy");
      page.fleet.look();
    }
  };
  node.addEventListener("click", () => {
    if (node.getAttribute("aria-busy")) return;
    if (sure) confirm(sure.title, sure.text, sure.accept, act);
    else act();
  });
  return node;
}

// The four verbs of a model; worker() is where, "" for any.
export function modelButtons(page, model, worker) {
  const told = (verb) => async () => {
    const on = worker();
    const found = await ask("POST", `/models/${path(model)}/${verb}`, on ? { worker: on } : {});
    return found.detail ?? pinned(found);
  };
  const about = `Unload ${model}?`;
  const text = "It leaves once none of its jobs runs there. A job that comes for it has it loaded again.";
  return [
    button(page, "Load", told("load"), { name: `Load ${model}` }),
    button(page, "Unload", told("unload"), {
      name: `Unload ${model}`,
      sure: { title: about, text, accept: "Unload" },
    }),
    button(page, "Pin", told("pin"), { name: `Pin ${model}` }),
    button(page, "Unpin", told("unpin"), { name: `Unpin ${model}` }),
  ];
}

function pinned(found) {
  if (found.pinned) return `${found.model} is pinned on every worker.`;
  if (found.pinned_on.length) return `${found.model} is pinned on ${found.pinned_on.join(", ")}.`;
  return `${found.model} is not pinned.`;
}

export function drainButtons(page, worker) {
  const told = (verb) => async () => (await ask("POST", `/workers/${path(worker)}/${verb}`, {})).detail;
  const text = "It takes no more work, also after a restart. What runs ends; then its GPU is empty.";
  return {
    drain: button(page, "Drain", told("drain"), {
      name: `Drain ${worker}`,
      sure: { title: `Drain ${worker}?`, text, accept: "Drain" },
    }),
    undrain: button(page, "Undrain", told("undrain"), { name: `Undrain ${worker}` }),
  };
}

export function cancelButton(page, job, done) {
  const cancel = async () => {
    const found = await ask("DELETE", `/jobs/${encodeURIComponent(job)}`);
    done();
    return `Job ${found.id} is ${found.state}.`;
  };
  const text = "If it is queued, it never runs. If it runs, it is stopped, and nothing it computes is kept.";
  return button(page, "Cancel this job", cancel, { sure: { title: "Cancel this job?", text, accept: "Cancel the job" } });
}

// which: a body of POST /dead-letters/redrive.
export async function redrive(which) {
  const { scheduled, unknown } = await ask("POST", "/dead-letters/redrive", which);
  const gone = unknown.length ? `; ${unknown.length} are no dead letters any more` : "";
  return `${scheduled} ${scheduled === 1 ? "is" : "are"} put back${gone}.`;
}
