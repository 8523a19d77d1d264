// Shows what /api/events sends. Whether both sides are in step is decided by the service; this file only draws it.
"use strict";

const $ = (id) => document.getElementById(id);
const plain = new Intl.NumberFormat("en");
let skew = 0; // the service's clock minus this browser's
let rates = []; // rows per second, the last two minutes
let rowsByName = new Map();
let heard = 0;

const HEADLINE = { in_step: "In step", behind: "Catching up", broken: "Not in step", unknown: "Not known" };
const COLOUR = { in_step: "#1a9e5c", behind: "#d9920a", broken: "#d0342c", unknown: "#808580" };

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function span(seconds) {
  if (seconds < 0.0095) return `${Math.max(0, seconds * 1000).toFixed(1)} ms`;
  if (seconds < 1) return `${(seconds * 1000).toFixed(0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

function age(text) {
  const seconds = Math.max(0, (Date.now() + skew - Date.parse(text)) / 1000);
  return seconds < 1.5 ? "now" : span(Math.round(seconds)).replace(".0 s", " s");
}

function ago(text) {
  const since = age(text);
  return since === "now" ? "just now" : `${since} ago`;
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${unit ? bytes.toFixed(1) : bytes} ${units[unit]}`;
}

function drawEnd(id, end) {
  const box = $(id);
  set(box.querySelector(".address"), end.address || "not set");
  const line = box.querySelector(".connection");
  line.className = `connection ${end.connected ? "yes" : end.since ? "no" : ""}`;
  const what = end.connected ? "connected" : end.since ? "not connected" : "not tried yet";
  set(line, end.since ? `${what} for ${age(end.since).replace("now", "a moment")}` : what);
}

function drawTrouble(view) {
  const stopped = view.state === "stopped" || view.state === "waiting";
  const shown = stopped ? { cause: view.cause, fix: view.fix } : view.last_error;
  // The headline says the cause already; once is enough.
  const said = stopped && view.why === view.cause;
  $("trouble").hidden = !shown || (said && !shown.fix);
  if ($("trouble").hidden) return;
  $("trouble").classList.toggle("past", !stopped);
  const title = view.state === "stopped" ? "Stopped; looked at again every minute"
    : view.state === "waiting" ? "Waiting; tried again by itself" : `Last error, ${ago(view.last_error.at)}`;
  set($("trouble-title"), title);
  $("cause").hidden = said;
  set($("cause"), shown.cause);
  $("remedy").hidden = !shown.fix;
  set($("fix"), shown.fix || "");
}

function drawFigures(view) {
  set($("lag"), view.lag.seconds == null ? "–" : span(view.lag.seconds));
  set($("lag-bytes"), view.lag.bytes == null ? "not known yet" : `${size(view.lag.bytes)} of WAL`);
  set($("rate"), `${plain.format(Math.round(view.rows_per_second))}/s`);
  rates = [...rates, view.rows_per_second].slice(-120);
  const top = Math.max(1, ...rates);
  const points = rates.map((rate, at) => `${120 - (rates.length - 1 - at)},${(23 - 22 * (rate / top)).toFixed(1)}`);
  $("spark").firstElementChild.setAttribute("points", points.join(" "));
  set($("rows"), plain.format(view.tables.reduce((sum, table) => sum + table.rows, 0)));
  set($("since"), `since the start ${ago(view.started_at)}`);
  set($("checkpoint"), view.checkpoint || "–");
  $("checkpoint").title = view.checkpoint || "";
  set($("way"), view.way ? `apply: ${view.way}` : "");
  set($("received"), view.received ? `received ${view.received}` : "nothing received yet");
}

function words(table) {
  if (table.state === "copying") {
    const of = table.estimated ? ` of about ${plain.format(table.estimated)}` : "";
    return `copying ${plain.format(table.copied)}${of}`;
  }
  return table.state === "parked" ? `parked: ${table.cause}` : table.state;
}

function newRow(name) {
  const row = document.createElement("tr");
  for (const kind of ["", "", "number", "when"]) row.insertCell().className = kind;
  const dot = name.indexOf(".");
  const schema = document.createElement("span");
  schema.className = "schema";
  schema.textContent = name.slice(0, dot + 1);
  row.cells[0].append(schema, name.slice(dot + 1));
  row.cells[1].append(document.createElement("span"), document.createElement("div"));
  row.cells[1].lastChild.append(document.createElement("span"));
  row.cells[1].lastChild.className = "progress";
  return row;
}

function drawRow(row, table) {
  const [state, progress] = row.cells[1].children;
  state.className = `state-${table.state}`;
  set(state, words(table));
  progress.hidden = table.state !== "copying" || !table.estimated;
  const part = table.estimated ? Math.min(1, table.copied / table.estimated) : 0;
  progress.firstChild.style.width = `${(part * 100).toFixed(1)}%`;
  set(row.cells[2], plain.format(table.rows));
  set(row.cells[3], table.changed_at ? ago(table.changed_at) : "–");
}

function drawTables(tables) {
  // Trouble first, then what is on its way, then the rest; the service's order within.
  const rank = { parked: 0, copying: 1, pending: 2, paused: 3, streaming: 4 };
  const sorted = tables.map((table, at) => [rank[table.state], at, table]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const word = $("filter").value.trim().toLowerCase();
  const kept = new Map();
  let place = $("list").firstElementChild;
  for (const [, , table] of sorted) {
    const row = rowsByName.get(table.name) || newRow(table.name);
    kept.set(table.name, row);
    drawRow(row, table);
    row.hidden = word !== "" && !table.name.toLowerCase().includes(word);
    if (row === place) place = place.nextElementSibling;
    else $("list").insertBefore(row, place);
  }
  for (const [name, row] of rowsByName) if (!kept.has(name)) row.remove();
  rowsByName = kept;
  const streaming = tables.filter((table) => table.state === "streaming").length;
  set($("count"), tables.length ? `${streaming} of ${tables.length} streaming` : "");
  $("empty").hidden = tables.length > 0;
  $("filter").hidden = tables.length < 15 && word === "";
}

function verdict(name, headline, why) {
  document.body.dataset.verdict = name;
  set($("headline"), headline);
  set($("why"), why);
  document.title = `${headline} · Lockstep`;
  const colour = COLOUR[name] || COLOUR.unknown;
  const bars = `<rect x="6" y="4" width="8" height="24" rx="3"/><rect x="18" y="4" width="8" height="24" rx="3"/>`;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" fill="${colour}">${bars}</svg>`;
  const icon = `data:image/svg+xml,${encodeURIComponent(svg)}`;
  if ($("icon").href !== icon) $("icon").href = icon;
}

function draw(view) {
  heard = Date.now();
  skew = Date.parse(view.now) - heard;
  document.body.classList.remove("stale");
  set($("link"), "live");
  $("link").classList.remove("lost");
  const later = view.lag.seconds == null ? "" : ` ${span(view.lag.seconds)} later`;
  const why = view.verdict === "in_step" ? `Every commit is in Supabase${later}.` : sentence(view.why);
  verdict(view.verdict, HEADLINE[view.verdict] || "Not known", why);
  set($("route"), view.route.replaceAll("_", " "));
  drawEnd("source", view.source);
  drawEnd("target", view.target);
  const both = view.source.connected && view.target.connected;
  document.body.dataset.flow = both && ["copying", "streaming"].includes(view.state) ? "yes" : "no";
  drawTrouble(view);
  drawFigures(view);
  drawTables(view.tables);
  set($("version"), `Lockstep ${view.version}`);
}

function sentence(text) {
  const trimmed = (text || "").trim();
  const head = /^[a-z]+[ ,:]/.test(trimmed) ? trimmed.slice(0, 1).toUpperCase() : trimmed.slice(0, 1); // names stay
  return trimmed ? head + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? "" : ".") : "";
}

// What was true a moment ago must not look true now.
function lost() {
  document.body.classList.add("stale");
  document.body.dataset.flow = "no";
  set($("link"), "no connection to the service");
  $("link").classList.add("lost");
  const was = heard ? `It last answered ${age(new Date(heard + skew).toISOString()).replace("now", "a moment")} ago.` : "";
  verdict("unknown", "Not known", `This page has lost the service and tries again by itself. ${was}`);
}

let last = null;
function listen() {
  const events = new EventSource("/api/events");
  events.onmessage = (event) => { last = JSON.parse(event.data); draw(last); };
  events.onerror = () => {
    lost();
    // The browser tries again by itself, except after an answer that is not a stream.
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  };
}

// The service speaks at least every five seconds; silence is a loss that no error tells.
setInterval(() => { if (heard && Date.now() - heard > 12000) lost(); }, 1000);
$("filter").addEventListener("input", () => { if (last) drawTables(last.tables); });
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("fix").textContent);
    set($("copy"), "Copied");
  } catch {
    getSelection().selectAllChildren($("fix")); // no clipboard without TLS: select it, the keyboard does the rest
    set($("copy"), "Selected");
  }
  setTimeout(() => set($("copy"), "Copy"), 1500);
});
listen();
