// Numbers, times and states in words. Pure: everything it needs comes as an argument, but for the service's clock.

const plain = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short" });

let skew = 0; // the service's clock minus this browser's
export function setClock(now) {
  skew = Date.parse(now) - Date.now();
}
export const now = () => Date.now() + skew;

export const number = (value) => plain.format(value);

export function count(value, one, many) {
  return `${plain.format(value)} ${value === 1 ? one : many || `${one}s`}`;
}

export function span(seconds) {
  if (seconds < 0.0005) return "0 ms";
  if (seconds < 0.0095) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 1) return `${(seconds * 1000).toFixed(0)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

const since = (time) => (now() - Date.parse(time)) / 1000;

export function ago(time) {
  const seconds = since(time);
  if (seconds < 1.9) return "just now";
  return seconds < 10 ? `${Math.floor(seconds)} s ago` : `${span(seconds)} ago`;
}

export function lasting(time) {
  const seconds = since(time);
  return seconds < 1.9 ? "a moment" : seconds < 10 ? `${Math.floor(seconds)} s` : span(seconds);
}

export function ahead(time) {
  const seconds = -since(time);
  return seconds < 1 ? "now" : `in ${span(seconds)}`;
}

export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${unit ? bytes.toFixed(1) : bytes} ${units[unit]}`;
}

// The time of day, and the day when it is another one.
export function moment(time) {
  const at = new Date(time);
  const today = at.toDateString() === new Date().toDateString();
  return today ? clock.format(at) : `${day.format(at)}, ${clock.format(at)}`;
}

export const dayOf = (time) => {
  const at = new Date(time);
  return at.toDateString() === new Date().toDateString() ? "Today" : day.format(at);
};

export function sentence(words) {
  const trimmed = (words || "").trim();
  if (!trimmed || /^\S+:\/\/\S+$/.test(trimmed)) return trimmed;
  const head = /^[a-z]+([ ,']|: )/.test(trimmed) ? trimmed[0].toUpperCase() : trimmed[0]; // names stay as they are
  return head + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? "" : ".");
}

// `public` goes without saying.
export function split(name) {
  const at = name.indexOf(".");
  const schema = at > 0 ? name.slice(0, at + 1) : "";
  return [schema === "public." ? "" : schema, name.slice(at + 1)];
}

export const short = (name) => split(name).join("");

export const VERDICT = {
  in_step: ["good", "In step"],
  behind: ["busy", "Catching up"],
  broken: ["bad", "Not in step"],
  unknown: ["off", "Not known"],
  lost: ["off", "Not connected to Lockstep"],
  setup: ["warn", "Not set up yet"],
  connecting: ["off", "Connecting"],
};

// Where one table stands: [tone, words, more]. Green only when all of it is known.
export function standing(row, view, link) {
  if (link !== "live") return ["off", "Not known", "This page has lost Lockstep"];
  const running = view.jobs && view.jobs.running;
  if (running && running.table === row.name) {
    const progress = running.progress;
    const done = progress && progress.rows_estimated ? ` ${percent(progress.rows_done, progress.rows_estimated)}` : "";
    return ["busy", progress && progress.phase === "repairing" ? "Repairing" : `Comparing${done}`, ""];
  }
  if (row.state === "parked") return ["bad", "Parked", row.cause];
  if (row.parked) return ["bad", `${count(row.parked, "row")} parked`, "refused by Supabase"];
  if (row.state === "paused") return ["off", "Paused", "Its changes are skipped until it is resumed"];
  if (view.state === "stopped") return ["bad", "Stopped", view.cause];
  if (row.state === "copying") {
    const of = row.estimated ? ` of about ${number(row.estimated)}` : "";
    return ["busy", `Copying ${number(row.copied)}${of}`, ""];
  }
  if (row.state === "pending") return ["busy", "Waiting for its first copy", ""];
  if (row.differs === 0) return ["busy", "Not compared yet", "Copied over what was there"];
  if (row.differs)
    return ["warn", row.differs === 1 ? "1 row differs" : `${number(row.differs)} rows differ`, "Sync repairs it"];
  const up = view.source.connected && view.target.connected && ["copying", "streaming"].includes(view.state);
  if (!up) return ["off", "Interrupted", "Changes wait at the source"];
  if (view.lag.seconds == null) return ["off", "Not known", "The lag is not known yet"];
  if (view.lag.seconds > (view.in_step_within || 10)) return ["warn", "Behind", `${span(view.lag.seconds)} behind`];
  return ["good", "In step", ""];
}

export const percent = (part, whole) => `${Math.min(100, Math.floor((100 * part) / Math.max(1, whole)))} %`;

// Trouble first.
export const RANK = { bad: 0, warn: 1, busy: 2, off: 3, good: 4 };
