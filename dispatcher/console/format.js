// Numbers, times and colours as people read them. Pure: what it needs of the present is an argument.

const GIB = 1024 ** 3;
const whole = new Intl.NumberFormat("en");

export function count(n) {
  return whole.format(n);
}

// Bytes; in GiB wherever that says something.
export function size(bytes) {
  if (bytes >= 1000 * GIB) return `${(bytes / GIB / 1024).toFixed(2)} TiB`;
  if (bytes >= 0.95 * GIB) return `${(bytes / GIB).toFixed(1)} GiB`;
  return `${Math.round(bytes / 1024 ** 2)} MiB`;
}

// "18.2 of 24 GiB"
export function share(part, of) {
  const [amount, unit] = size(of).split(" ");
  const divisor = unit === "TiB" ? 1024 * GIB : unit === "GiB" ? GIB : 1024 ** 2;
  const digits = unit === "MiB" ? 0 : unit === "TiB" ? 2 : 1;
  return `${(part / divisor).toFixed(digits)} of ${amount.replace(/\.0+$/, "")} ${unit}`;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  if (seconds < 0) seconds = 0;
  if (seconds < 0.0995) return `${(seconds * 1000).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  const total = Math.round(seconds);
  if (total < 3600) return `${Math.floor(total / 60)} min ${total % 60} s`;
  if (total < 86400) return `${Math.floor(total / 3600)} h ${Math.floor((total % 3600) / 60)} min`;
  return `${Math.floor(total / 86400)} d ${Math.floor((total % 86400) / 3600)} h`;
}

// Of what was a moment ago: whole seconds are enough, and do not flicker.
export function age(seconds) {
  if (seconds < 1.5) return "now";
  return `${seconds < 59.5 ? `${Math.round(seconds)} s` : span(seconds)} ago`;
}

export function percent(ratio) {
  return `${Math.round(ratio * 100)} %`;
}

// Epoch seconds of an RFC 3339 instant, or null.
export function instant(text) {
  const ms = text ? Date.parse(text) : NaN;
  return Number.isNaN(ms) ? null : ms / 1000;
}

export function clockTime(text) {
  const at = instant(text);
  return at === null ? "–" : new Date(at * 1000).toLocaleTimeString([], { hour12: false });
}

// Of "organisation/family/name" the last part: there is little room in a bar.
export function shortName(model) {
  return model.slice(model.lastIndexOf("/") + 1) || model;
}

// The same model has the same hue, today and in every browser. (FNV-1a, stirred: names often differ in one letter.)
export function hue(name) {
  let hash = 0x811c9dc5;
  for (let i = 0; i < name.length; i += 1) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  hash = Math.imul(hash ^ (hash >>> 12), 0x297a2d39);
  return ((hash ^ (hash >>> 15)) >>> 0) % 360;
}
