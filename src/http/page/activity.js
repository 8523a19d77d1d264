// One time line: what people did, what runs of comparison found, what the service met.

import { h, fill, dot, show } from "/page/dom.js";
import { get, Refused } from "/page/api.js";
import { dayOf, ago, number, count, short, sentence } from "/page/words.js";

const PAGE = 100;
const RUNS = 300;
const time = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

// By kind: what it is called, and its tone.
const KINDS = {
  "": "Everything",
  job: "Compare and repair",
  table: "Tables",
  parked: "Parked rows",
  workflow: "Workflows",
  route: "The route",
  recovery: "Recoveries",
  service: "The service",
  settings: "Settings",
  session: "Logins",
};

export function activity(root, act, { query }) {
  let kind = query.get("kind") || "";
  let entries = [];
  let next = null;
  let runs = [];
  const select = h("select", {
    "aria-label": "Kind",
    onchange: () => {
      kind = select.value;
      load();
    },
  });
  const filter = h("input", {
    type: "search",
    placeholder: "Filter by any word",
    "aria-label": "Filter the time line",
    oninput: () => draw(),
  });
  const body = h("div");
  const more = h("button", { type: "button", hidden: true, onclick: () => load(true) }, "Load older");
  fill(
    root,
    h("div", { class: "title" }, h("h1", null, "Activity")),
    h("div", { class: "tools" }, select, filter),
    body,
    h("p", { class: "after" }, more),
  );
  let kinds = Object.keys(KINDS);
  const options = () =>
    fill(
      select,
      kinds.map((name) => h("option", { value: name }, KINDS[name] || name)),
    );
  options();
  select.value = kind;

  let gone = false;
  let asked = 0;
  const load = async (older = false) => {
    const mine = (asked += 1);
    try {
      const page = await listing(kind, older ? next : null);
      const history = older ? { runs } : await past(page.entries, kind);
      if (gone || mine !== asked) return;
      entries = older ? [...entries, ...page.entries] : page.entries;
      next = page.next || null;
      runs = history.runs;
      const strange = entries.map((entry) => entry.kind).filter((name) => name && !kinds.includes(name));
      if (strange.length) {
        kinds = [...kinds, ...new Set(strange)];
        options();
        select.value = kind;
      }
      draw();
    } catch (refused) {
      if (!(refused instanceof Refused)) throw refused;
      if (!gone)
        fill(
          body,
          h(
            "section",
            { class: "card none" },
            h("h2", null, "The time line cannot be read now"),
            h("p", null, sentence(refused.message)),
          ),
        );
    }
  };

  const draw = () => {
    const word = filter.value.trim().toLowerCase();
    const oldest = next && entries.length ? entries[entries.length - 1].at : "";
    // Runs that are older than the oldest entry come with the entries of their time.
    const lines = [...entries.map(line), ...jobs(runs).filter((run) => run.at >= oldest)]
      .filter((one) => !word || `${one.what} ${one.more} ${one.who} ${one.kind}`.toLowerCase().includes(word))
      .sort((a, b) => (a.at < b.at ? 1 : -1));
    show(more, next);
    if (lines.length === 0) {
      fill(
        body,
        h(
          "section",
          { class: "card none" },
          h("h2", null, word || kind ? "Nothing fits" : "Nothing has happened yet"),
          h(
            "p",
            null,
            word || kind
              ? "Change the filter to see other entries."
              : "What people and the schedule do is listed here, with who and when.",
          ),
        ),
      );
      return;
    }
    const days = new Map();
    for (const one of lines) {
      const name = dayOf(one.at);
      days.set(name, [...(days.get(name) || []), one]);
    }
    fill(
      body,
      [...days].map(([name, those]) =>
        h(
          "section",
          { class: "card", "aria-label": name },
          h("h2", null, name),
          h(
            "ol",
            { class: "time" },
            those.map((one) => item(one)),
          ),
        ),
      ),
    );
  };
  load();
  const timer = setInterval(() => {
    if (!document.hidden && entries.length <= PAGE) load();
  }, 5000);
  return () => {
    gone = true;
    clearInterval(timer);
  };
}

// Where no time line is kept, the history of runs is one.
async function past(entries, kind) {
  if (entries.length || (kind && kind !== "job")) return { runs: [] };
  return get(`/api/runs?limit=${RUNS}`).catch(() => ({ runs: [] }));
}

async function listing(kind, before) {
  const wish = new URLSearchParams({ limit: PAGE });
  if (kind) wish.set("kind", kind);
  if (before != null) wish.set("before", before);
  try {
    return await get(`/api/activity?${wish}`);
  } catch (refused) {
    if (refused.status === 404) return { entries: [], next: null };
    throw refused;
  }
}

// The newest lines, for the overview.
export async function newest(limit) {
  const page = await listing("", null).catch(() => ({ entries: [] }));
  const history = await past(page.entries, "");
  const lines = [...page.entries.map(line), ...jobs(history.runs)].sort((a, b) => (a.at < b.at ? 1 : -1));
  return lines.slice(0, limit).map((one) => item(one, ago));
}

const BAD = /^(refused|failed)|stopped|interrupted|parked|set aside|lost|could not be told|[1-9]\d* rows differed, 0 /i;

export function line({ at, kind, who, what, table, detail }) {
  const own = who === "lockstep"; // what the service tells of itself, beside what people did
  const words = what.charAt(0).toUpperCase() + what.slice(1);
  const title = !table ? words : own ? `${short(table)}: ${what}` : `${words} ${short(table)}`;
  const well = /^(streaming|compared|no row is parked|takes part)/.test(what);
  const bad = BAD.test(detail || "") || (own && !well && BAD.test(what));
  const more = detail === "done" ? "" : (detail || "").replace(/ \(job \w+\)$/, "");
  return { at, kind, who: who || "", what: title, more, tone: bad ? "warn" : well ? "good" : "off" };
}

// The history has a row for each table of a run; here a run is one line.
export function jobs(rows) {
  const byJob = new Map();
  for (const row of rows) byJob.set(row.job, [...(byJob.get(row.job) || []), row]);
  return [...byJob.values()].map((tables) => {
    const [first] = tables;
    const sum = (name) => tables.reduce((total, row) => total + row[name], 0);
    const bad = tables.filter((row) => ["failed", "unknown"].includes(row.result));
    const different = tables.filter((row) => row.result === "different");
    const running = tables.some((row) => row.result === "running");
    const repaired = sum("inserted") + sum("updated") + sum("deleted");
    const found = different.reduce((total, row) => total + row.missing + row.different + row.surplus, 0);
    const came = running
      ? "is running"
      : bad.length
        ? `did not end well: ${bad[0].message || bad[0].result}`
        : different.length
          ? `found ${found === 1 ? "1 row that differs" : `${number(found)} rows that differ`}`
          : repaired
            ? `repaired ${count(repaired, "row")}`
            : "found both sides equal";
    const names = tables.length === 1 ? short(first.table_name) : count(tables.length, "table");
    return {
      at: first.started_at,
      kind: "run",
      who: first.why,
      tone: running ? "busy" : bad.length ? "bad" : different.length ? "warn" : "good",
      what: `${first.repair ? "Compare and repair" : "Compare"} of ${names} ${came}`,
      more: running ? "" : `${count(sum("rows_compared"), "row")} compared`,
    };
  });
}

function item(one, told = (at) => time.format(new Date(at))) {
  return h(
    "li",
    null,
    h("time", { datetime: one.at }, told(one.at)),
    dot(one.tone),
    h("span", null, h("b", null, one.what), one.more && h("span", { class: "soft" }, ` ${one.more}`)),
    h("span", { class: "soft who" }, one.who),
  );
}
