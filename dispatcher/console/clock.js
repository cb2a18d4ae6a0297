// The server's clock. Every instant the page shows is the server's, so ages are, too: the browser's clock may be wrong,
// and may be set while the page is open. Only how fast it runs is trusted.

let ahead = null;

// The server said that it was serverAt (epoch seconds) somewhen between sent and got (performance.now()).
export function heard(serverAt, sent, got) {
  ahead = serverAt - (sent + got) / 2000;
}

// Epoch seconds.
export function now() {
  return ahead === null ? Date.now() / 1000 : ahead + performance.now() / 1000;
}
