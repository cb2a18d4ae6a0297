// The few things we need of a framework: making elements, changing only what differs, lists that keep their nodes.
// Text from the server only ever becomes text: there is no markup from strings anywhere.

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "hue") node.style.setProperty("--hue", value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

export function setStyle(node, name, value) {
  if (node.style.getPropertyValue(name) !== value) node.style.setProperty(name, value);
}

// Give parent these children and no others; nodes that are there already are not touched.
export function fill(parent, ...children) {
  const wanted = children.filter((child) => child !== null && child !== undefined && child !== false);
  const there = [...parent.childNodes];
  if (wanted.length === there.length && wanted.every((child, i) => same(child, there[i]))) return;
  parent.replaceChildren(...wanted);
}

function same(child, node) {
  return typeof child === "string" ? node.nodeType === Node.TEXT_NODE && node.data === child : child === node;
}

const lists = new WeakMap();

// One child of parent for each item, by key: made once, updated after that. The child that has the focus is never
// moved, since a browser takes the focus away from what is moved; the others are put around it.
export function keyed(parent, items, keyOf, make, update) {
  const known = lists.get(parent) ?? new Map();
  lists.set(parent, known);
  const wanted = [];
  const keys = new Set();
  for (const item of items) {
    const key = keyOf(item);
    if (keys.has(key)) continue;
    keys.add(key);
    let node = known.get(key);
    if (!node) known.set(key, (node = make(item)));
    update(node, item);
    wanted.push(node);
  }
  for (const [key, node] of known) {
    if (keys.has(key)) continue;
    if (node.contains(document.activeElement)) refuge(parent);
    node.remove();
    known.delete(key);
  }
  arrange(parent, wanted);
}

function arrange(parent, wanted) {
  const focused = wanted.findIndex((node) => node.isConnected && node.contains(document.activeElement));
  for (let i = focused - 1; i >= 0; i -= 1) {
    if (wanted[i].nextElementSibling !== wanted[i + 1]) wanted[i + 1].before(wanted[i]);
  }
  for (let i = focused + 1; i < wanted.length; i += 1) {
    const before = i === 0 ? null : wanted[i - 1];
    if (wanted[i].parentNode === parent && wanted[i].previousElementSibling === before) continue;
    if (before) before.after(wanted[i]);
    else parent.prepend(wanted[i]);
  }
}

// What had the focus is going: its section's heading is the nearest place that stays.
function refuge(node) {
  node.closest("section")?.querySelector("h1, h2")?.focus({ preventScroll: true });
}
