// How much was taken and ended in the last minute: counts by second, on the server's clock.

import { now } from "./clock.js";

const WINDOW_S = 60;

export class Rates {
  #seconds = new Map(); // Second -> {accepted, ended, warm, cold, failed}
  #since = null;

  accepted(at) {
    this.#second(at).accepted += 1;
  }

  settled(at, { start, state }) {
    const second = this.#second(at);
    second.ended += 1;
    if (start) second[start] += 1;
    if (state === "failed") second.failed += 1;
  }

  // Sums over the last minute, and per second.
  lately() {
    const until = now();
    const sums = { accepted: 0, ended: 0, warm: 0, cold: 0, failed: 0 };
    for (const [second, counts] of this.#seconds) {
      if (second < until - WINDOW_S) this.#seconds.delete(second);
      else for (const name of Object.keys(sums)) sums[name] += counts[name];
    }
    const overS = Math.max(1, Math.min(WINDOW_S, until - (this.#since ?? until)));
    return { ...sums, acceptedPerS: sums.accepted / overS, endedPerS: sums.ended / overS };
  }

  #second(at) {
    const second = Math.floor(at);
    this.#since ??= at;
    let counts = this.#seconds.get(second);
    if (!counts) this.#seconds.set(second, (counts = { accepted: 0, ended: 0, warm: 0, cold: 0, failed: 0 }));
    return counts;
  }
}
