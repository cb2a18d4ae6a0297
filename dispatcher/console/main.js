// Where the page comes together: what it knows, what it shows, and when that is painted.

import { giveKey, hasKey, whenKeyIsWanted } from "./api.js";
import { now } from "./clock.js";
import { askForKey } from "./dialogs.js";
import { fill, setAttribute, setText } from "./dom.js";
import { Fleet } from "./fleet.js";
import { age } from "./format.js";
import { deadLetters } from "./dead_letters.js";
import { jobPage } from "./job_page.js";
import { modelPage } from "./model_page.js";
import { overview } from "./overview.js";
import { workerPage } from "./worker_page.js";

const PAINT_EVERY_MS = 500; // What changes by itself. What a person does is painted at once.
const HIDDEN_MS = 20000;

const byId = (id) => document.getElementById(id);
const views = { "": overview, jobs: jobPage, models: modelPage, workers: workerPage, "dead-letters": deadLetters };
const fleet = new Fleet(() => {
  changed = true;
});
const page = { fleet, paint: () => requestPaint(), say };

let view = null;
let changed = true;
let paused = false;
let painting = false;

function show() {
  const [, name = "", ...rest] = location.hash.slice(1).split("/");
  const make = views[name] ?? overview;
  view?.leave?.();
  view = make(page, decoded(rest.join("/")));
  byId("main").replaceChildren(view.root);
  document.title = view.title ? `${view.title} · Affinity` : "Affinity";
  for (const link of document.querySelectorAll("nav a")) {
    setAttribute(link, "aria-current", link.hash === `#/${name}` ? "page" : null);
  }
  paint();
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function requestPaint() {
  if (painting) return;
  painting = true;
  requestAnimationFrame(() => {
    painting = false;
    paint();
  });
}

function paint() {
  changed = false;
  paintLink();
  view.paint();
}

function paintLink() {
  const bad = fleet.away || fleet.trouble;
  const since = fleet.goodAt === null ? "" : ` What you see is from ${age(now() - fleet.goodAt)}.`;
  const alarm = byId("alarm");
  // An alert is read out whenever its text changes: the age that counts on is beside it, and not for the ears.
  if (!bad) fill(alarm);
  else if (alarm.dataset.said !== bad) alarm.replaceChildren(...alarmParts(bad));
  alarm.dataset.said = bad;
  if (bad) setText(alarm.querySelector(".since"), since);
  setAttribute(byId("main"), "data-stale", bad ? "" : null);
  setAttribute(byId("link"), "data-state", bad ? "bad" : fleet.warnings.length ? "warn" : fleet.goodAt ? "good" : "new");
  setText(byId("link-text"), linkText(bad));
  setAttribute(byId("link"), "title", fleet.warnings.join("\n") || null);
  setText(byId("key"), hasKey() ? "Forget key" : "Key");
}

function alarmParts(bad) {
  const said = document.createElement("strong");
  said.textContent = bad;
  const since = document.createElement("span");
  since.className = "since";
  since.setAttribute("aria-hidden", "true");
  const again = document.createElement("span");
  again.textContent = " It is asked again and again; this page mends itself.";
  return [said, since, again];
}

function linkText(bad) {
  if (bad) return "no connection";
  if (paused) return "paused";
  if (fleet.goodAt === null) return "connecting";
  if (fleet.warnings.length) return `live, ${fleet.warnings.length} warning${fleet.warnings.length > 1 ? "s" : ""}`;
  return fleet.follows ? "live" : "asking";
}

// For the ears too, once: the result of what somebody did, and that all is well again.
function say(text) {
  byId("said").textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => {
    byId("said").textContent = "";
  }, 8000);
}

function everyTick() {
  const bad = Boolean(fleet.away || fleet.trouble);
  if (everyTick.bad && !bad) say("Connected again.");
  const turned = everyTick.bad !== bad;
  everyTick.bad = bad;
  everyTick.count = (everyTick.count ?? 0) + 1;
  // Ages go on though nothing has changed: once a second is enough.
  if (turned || (!paused && (changed || everyTick.count % 2 === 0))) requestPaint();
}

function pause() {
  paused = !paused;
  setAttribute(byId("pause"), "aria-pressed", String(paused));
  setText(byId("pause"), paused ? "Go on" : "Pause");
  requestPaint();
}

// A page that nobody sees holds one of the few connections that a browser gives to a server, and asks for nothing.
function attend() {
  clearTimeout(attend.timer);
  if (document.hidden) attend.timer = setTimeout(() => fleet.stop(), HIDDEN_MS);
  else fleet.start();
}

byId("pause").addEventListener("click", pause);
byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // The fragment is the route.
  byId("main").focus();
});
byId("key").addEventListener("click", () => {
  if (hasKey()) {
    giveKey("");
    location.reload();
  } else {
    askForKey(false, (key) => {
      giveKey(key);
      location.reload();
    });
  }
});
whenKeyIsWanted((refused) => askForKey(refused, giveKey));
document.addEventListener("visibilitychange", attend);
window.addEventListener("hashchange", () => {
  show();
  const heading = byId("main").querySelector("h1");
  window.scrollTo(0, 0);
  heading?.focus({ preventScroll: true });
});
show();
fleet.start();
setInterval(everyTick, PAINT_EVERY_MS);
