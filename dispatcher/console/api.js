// Asking the dispatcher. A key is asked for when it wants one, once for all that is being asked meanwhile, and kept for
// as long as this tab is open, at most.

const STORED = "affinity.key";
const WITHIN_MS = 15000;

// The dispatcher answered, and not with what was asked for.
export class Problem extends Error {
  constructor(status, found) {
    super(found.detail || `it answered ${status}`);
    this.status = status;
    this.code = found.code || "";
  }
}

// Nobody answered.
export class Away extends Error {}

let key = stored();
let wanted = null; // While a key is asked for: {promise, give}.
let askForKey = () => {};

export function whenKeyIsWanted(ask) {
  askForKey = ask;
}

export function hasKey() {
  return key !== "";
}

export function giveKey(given) {
  key = given.trim();
  try {
    if (key) sessionStorage.setItem(STORED, key);
    else sessionStorage.removeItem(STORED);
  } catch {
    // A browser may keep nothing at all: then it is asked for again after a reload.
  }
  const open = wanted;
  wanted = null;
  open?.give();
}

// The JSON of an answer. Raises Problem or Away.
export async function ask(method, path, body) {
  const answer = await send(method, path, {
    body: body === undefined ? undefined : JSON.stringify(body),
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    signal: AbortSignal.timeout(WITHIN_MS),
  });
  try {
    return await answer.json();
  } catch (error) {
    throw new Away(error.message);
  }
}

// The answer, its body unread, once it is a good one. Raises Problem or Away.
export async function send(method, path, options) {
  for (;;) {
    if (wanted && !path.startsWith("/health")) await wanted.promise;
    const shown = key;
    const headers = { ...options.headers, ...(shown ? { Authorization: `Bearer ${shown}` } : {}) };
    let answer;
    try {
      answer = await fetch(path, { cache: "no-store", credentials: "omit", ...options, method, headers });
    } catch (error) {
      if (options.signal?.aborted && options.signal.reason?.name === "AbortError") throw options.signal.reason;
      throw new Away(error.message);
    }
    if (answer.ok) return answer;
    if (answer.status !== 401) throw new Problem(answer.status, await problemIn(answer));
    if (shown === key) wantKey(shown !== "");
  }
}

function wantKey(refused) {
  if (wanted) return;
  let give;
  const promise = new Promise((resolve) => {
    give = resolve;
  });
  wanted = { promise, give };
  askForKey(refused);
}

async function problemIn(answer) {
  try {
    return (await answer.json()) ?? {};
  } catch {
    return {};
  }
}

function stored() {
  try {
    return sessionStorage.getItem(STORED) ?? "";
  } catch {
    return "";
  }
}
