// What the service says of itself, as it changes: /api/events sends the whole once, then what is new. Silence is a loss
// that no error tells, so it is timed: what was true a moment ago must not look true now.

import { setClock } from "/page/words.js";
import { learn } from "/page/api.js";

// The service speaks every second.
const SILENCE = 2400;
const AGAIN = 1000;
// A page that nobody looks at gives its connection back: a browser has six of them for one host.
const UNSEEN = 60000;
const SAMPLES = 150;

export const live = {
  link: "connecting", // connecting, live, lost
  view: null,
  tables: new Map(),
  // One sample a second, for the curves.
  lags: [],
  rates: [],
  heard: 0,
};

const listeners = new Set();
export function onLive(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

let told = false;
// Once a frame, however much has come.
function tell() {
  if (told) return;
  told = true;
  requestAnimationFrame(() => {
    told = false;
    listeners.forEach((listener) => listener(live));
  });
}

function take(view) {
  if (live.link === "lost") learn(); // somebody may have logged in again
  live.heard = Date.now();
  live.link = "live";
  setClock(view.now);
  if (!view.partial) live.tables = new Map();
  for (const row of view.tables) live.tables.set(row.name, row);
  for (const name of view.gone || []) live.tables.delete(name);
  if (!view.partial && !view.counts) old(view);
  live.view = view;
  sample();
  tell();
}

// A service that tells the rows of a table, what differs and what is parked in lists of their own.
function old(view) {
  for (const parked of view.parked || []) {
    const row = live.tables.get(`${parked.schema}.${parked.table}`);
    if (row) row.parked = parked.rows;
  }
  for (const [name, rows] of Object.entries((view.jobs || {}).different || {})) {
    const row = live.tables.get(name);
    if (row) row.differs = rows;
  }
}

let sampled = 0;
function sample() {
  if (live.heard - sampled < 900) return;
  sampled = live.heard;
  live.lags = [...live.lags, live.view.lag.seconds].slice(-SAMPLES);
  live.rates = [...live.rates, live.view.rows_per_second].slice(-SAMPLES);
}

let events = null;
let next = 0;
function listen() {
  clearTimeout(next);
  if (events) events.close();
  opened = Date.now();
  events = new EventSource("/api/events");
  events.onmessage = (event) => take(JSON.parse(event.data));
  events.onerror = lost;
}

function lost() {
  if (events) events.close();
  events = null;
  if (live.link !== "lost") {
    live.link = "lost";
    tell();
    learn(); // the login may have ended
  }
  clearTimeout(next);
  if (!document.hidden) next = setTimeout(listen, AGAIN);
}

export function begin() {
  listen();
  setInterval(() => {
    if (events && Date.now() - Math.max(live.heard, opened) > SILENCE) lost();
    else if (live.link === "lost") tell(); // how long ago it was goes on
  }, 400);
  let unseen = 0;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(unseen);
    if (document.hidden) unseen = setTimeout(lost, UNSEEN);
    else if (!events) listen();
  });
}

let opened = Date.now();
