// Asking for the same thing again and again: as often as it is of use, never more often than the server can bear.

import { Away, Problem, ask } from "./api.js";

// Asks at the latest everyMs after the last answer; poke() has it ask sooner, but never within leastMs, nor within four
// times as long as the last answer took to come.
export class Poll {
  #path;
  #everyMs;
  #leastMs;
  #take;
  #failed;
  #wake = () => {};
  #poked = false;
  #running = false;
  #turn = 0;
  wanted = () => true;

  constructor(path, { everyMs, leastMs, take, failed }) {
    this.#path = path;
    this.#everyMs = everyMs;
    this.#leastMs = leastMs;
    this.#take = take;
    this.#failed = failed;
  }

  start() {
    if (this.#running) return;
    this.#running = true;
    this.#turn += 1;
    this.#run(this.#turn);
  }

  stop() {
    this.#running = false;
    this.#wake();
  }

  poke() {
    this.#poked = true;
    this.#wake();
  }

  // A loop that was stopped may still wait for its last answer when the next one has begun: only the newest goes on.
  async #run(turn) {
    while (this.#running && this.#turn === turn) {
      const sent = performance.now();
      this.#poked = false;
      if (this.wanted()) await this.#askOnce(sent);
      const tookMs = performance.now() - sent;
      await this.#rest(Math.max(this.#leastMs, Math.min(4 * tookMs, 20000)), false);
      await this.#rest(this.#everyMs, true);
    }
  }

  async #askOnce(sent) {
    try {
      const found = await ask("GET", this.#path);
      if (this.#running) this.#take(found, sent, performance.now());
    } catch (error) {
      if (!(error instanceof Away || error instanceof Problem)) throw error;
      if (this.#running) this.#failed(error);
    }
  }

  #rest(ms, untilPoked) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, untilPoked && this.#poked ? 0 : ms);
      this.#wake = () => {
        if (this.#running && !untilPoked) return;
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
