// Compare and repair: counts first, then a repair that somebody agreed to. The job runs in the service; closing the
// dialog does not end it.

import { h, fill, dot, say, aloud } from "/page/dom.js";
import { get, post, mayAct, doing } from "/page/api.js";
import { number, count, percent, short, sentence } from "/page/words.js";
import { open } from "/page/dialog.js";

const LOOK = 350;
const SHOWN = 200; // tables with differences; more are counted

// `tables` empty means all. `repair` leads on to the repair when something differs.
export async function compare(tables, { repair = false } = {}) {
  const what =
    tables.length === 0 ? "all tables" : tables.length === 1 ? short(tables[0]) : count(tables.length, "table");
  const body = h("div", { class: "compare", "aria-live": "polite" });
  let closed = false;
  const dialog = open(`${repair ? "Sync" : "Verify"} ${what}`, body, {
    wide: true,
    onclose: () => {
      closed = true;
    },
  });
  const close = h("button", { type: "button", onclick: () => dialog.close() }, "Close");
  fill(dialog.foot, close);

  const follow = async (path, wish, title) => {
    let job;
    try {
      job = (await post(path, wish)).job;
    } catch (refused) {
      return fill(body, h("p", { class: "bad" }, sentence(refused.message)));
    }
    for (;;) {
      let view;
      try {
        view = await get(`/api/jobs/${encodeURIComponent(job)}`);
      } catch (refused) {
        if (refused.status === 404)
          return fill(body, h("p", { class: "bad" }, "The run is not known any more: Lockstep was restarted."));
        view = null; // it comes back
      }
      if (view && (view.state === "done" || view.state === "failed")) return view;
      if (closed) {
        watch(job, title, what);
        return null;
      }
      fill(body, working(view, title));
      await new Promise((resolve) => setTimeout(resolve, LOOK));
    }
  };

  const look = await follow("/api/sync", { tables, dry_run: true }, "Comparing both sides");
  if (!look || !look.reports || closed) return;
  fill(body, outcome(look, false));
  const found = look.reports.filter((report) => report.verdict === "different");
  if (found.length === 0 || !mayAct()) return;
  const rows = found.reduce((sum, report) => sum + report.missing + report.different + report.surplus, 0);
  const go = h(
    "button",
    {
      type: "button",
      class: "primary",
      onclick: () =>
        doing(go, async () => {
          const wanted = found.map((report) => name(report.table));
          const end = await follow("/api/sync", { tables: wanted, dry_run: false }, "Repairing");
          go.remove();
          if (end && end.reports) fill(body, outcome(end, true));
        }),
    },
    `Repair ${count(rows, "row")}`,
  );
  fill(dialog.foot, close, go);
  if (repair) go.focus();
}

// The dialog was closed while the job ran: its end is told all the same.
async function watch(job, title, what) {
  for (let tries = 0; tries < 3600; tries += 1) {
    await new Promise((resolve) => setTimeout(resolve, 1500));
    let view;
    try {
      view = await get(`/api/jobs/${encodeURIComponent(job)}`);
    } catch {
      continue;
    }
    if (view.state === "failed") return say(`${title}, ${what}: ${view.why}`, true);
    if (view.state !== "done") continue;
    const differ = view.reports.filter((report) => report.verdict !== "equal").length;
    return say(
      differ ? `${title}, ${what}: ${count(differ, "table")} not equal` : `${title}, ${what}: both sides are equal`,
    );
  }
}

export const name = (table) => (typeof table === "string" ? table : `${table.schema}.${table.name}`);

function working(view, title) {
  if (!view || view.state === "queued")
    return [h("p", null, h("b", null, title)), h("p", { class: "soft" }, "Waiting for its turn")];
  const progress = view.progress;
  const many = progress ? progress.tables : view.tables.length;
  const done = progress ? progress.tables_done : view.reports.length;
  const part = progress && progress.rows_estimated ? Math.min(1, progress.rows_done / progress.rows_estimated) : 0;
  return [
    h("p", null, h("b", null, title)),
    bar((done + part) / Math.max(1, many), title),
    h(
      "p",
      { class: "soft" },
      progress
        ? `${short(name(progress.table))}: ${number(progress.rows_done)} rows${many > 1 ? `, table ${Math.min(done + 1, many)} of ${number(many)}` : ""}`
        : "Beginning",
    ),
  ];
}

export function bar(part, label) {
  const inner = h("span");
  inner.style.width = percent(part * 1000, 1000).replace(" ", "");
  return h(
    "div",
    {
      class: "progress",
      role: "progressbar",
      "aria-label": label,
      "aria-valuemin": "0",
      "aria-valuemax": "100",
      "aria-valuenow": Math.round(Math.min(1, part) * 100),
    },
    inner,
  );
}

function outcome(view, repaired) {
  const rows = view.reports.reduce((sum, report) => sum + report.rows, 0);
  const open = view.reports.filter((report) => report.verdict !== "equal");
  const changed = view.reports.filter((report) => report.inserted + report.updated + report.deleted > 0);
  const headline =
    view.state === "failed"
      ? ["bad", `It did not come to its end: ${view.why}`]
      : open.length === 0 && repaired
        ? ["good", `Repaired: both sides are equal. ${count(rows, "row")} compared.`]
        : open.length === 0
          ? [
              "good",
              `Both sides are equal. ${count(rows, "row")} compared${view.reports.length > 1 ? ` in ${count(view.reports.length, "table")}` : ""}.`,
            ]
          : open.some((report) => report.verdict === "different")
            ? ["warn", differing(open)]
            : ["off", "It could not be told whether both sides are equal."];
  aloud(headline[1]);
  const told = repaired ? [...open, ...changed.filter((report) => report.verdict === "equal")] : open;
  return [
    h("p", { class: "outcome" }, dot(headline[0]), h("b", null, headline[1])),
    told.slice(0, SHOWN).map((report) => story(report, view.reports.length > 1)),
    told.length > SHOWN && h("p", { class: "soft" }, `and ${count(told.length - SHOWN, "more table")}`),
  ];
}

function differing(reports) {
  const different = reports.filter((report) => report.verdict === "different");
  const rows = different.reduce((sum, report) => sum + report.missing + report.different + report.surplus, 0);
  return `${rows === 1 ? "1 row differs" : `${number(rows)} rows differ`}${different.length > 1 ? ` in ${count(different.length, "table")}` : ""}.`;
}

const KIND = { missing: "missing in Supabase", different: "other values in Supabase", surplus: "only in Supabase" };
const REMEDY = { missing: "will be inserted", different: "will be updated", surplus: "will be deleted" };

// What was found in one table, and what a repair does about it.
function story(report, named) {
  const lines = [];
  const repaired = report.inserted + report.updated + report.deleted > 0;
  const done = {
    missing: `inserted ${number(report.inserted)}`,
    different: `updated ${number(report.updated)}`,
    surplus: `deleted ${number(report.deleted)}`,
  };
  for (const kind of ["missing", "different", "surplus"]) {
    if (report[kind])
      lines.push(
        h(
          "tr",
          null,
          h("td", { class: "number" }, number(report[kind])),
          h("td", null, KIND[kind]),
          h("td", { class: "soft" }, repaired ? done[kind] : REMEDY[kind]),
        ),
      );
  }
  return h(
    "section",
    { class: "found" },
    named && h("h3", null, short(name(report.table))),
    report.verdict === "unknown" && h("p", { class: "soft" }, sentence(report.why)),
    lines.length > 0 && h("table", { class: "plain" }, h("tbody", null, lines)),
    report.unsettled > 0 &&
      h("p", { class: "soft" }, `${count(report.unsettled, "row")} changed too often to be judged.`),
    report.keys.length > 0 &&
      h(
        "details",
        { open: report.keys.length <= 10 && !named },
        h("summary", null, report.keys.length === 1 ? "Its key" : `The first ${number(report.keys.length)} keys`),
        h(
          "ul",
          { class: "keys" },
          report.keys.map(({ key, kind }) => h("li", null, h("code", null, key.join(", ")), ` ${KIND[kind]}`)),
        ),
      ),
  );
}
