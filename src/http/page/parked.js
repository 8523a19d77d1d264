// The rows that Supabase refused: what was to be written beside what is there, why it was refused, and what to do.

import { h, fill, say, show, dot } from "/page/dom.js";
import { live, onLive } from "/page/live.js";
import { get, post, mayAct, doing } from "/page/api.js";
import { number, count, ago, ahead, short, sentence } from "/page/words.js";
import { confirm } from "/page/dialog.js";

const LIMIT = 100;
const AGAIN = 4000;

export function parked(root, act, { query }) {
  const only = query.get("table");
  const body = h("div");
  const retry = h(
    "button",
    { type: "button", hidden: true, onclick: () => doing(retry, () => press("retry", {})) },
    "Try all again",
  );
  const discard = h(
    "button",
    { type: "button", class: "danger", hidden: true, onclick: () => drop({ all: true }, "every parked row") },
    "Discard all",
  );
  fill(
    root,
    h("div", { class: "title" }, h("h1", null, "Parked"), retry, discard),
    h(
      "p",
      { class: "soft lead" },
      "Rows that Supabase refused. Each waits here with its reason while everything else goes on, and is tried again by itself.",
    ),
    body,
  );

  let drawn = "";
  let gone = false;
  const load = async () => {
    let listing;
    try {
      listing = await get(`/api/parked?limit=${LIMIT}${only ? `&table=${encodeURIComponent(only)}` : ""}`);
    } catch (refused) {
      if (gone) return;
      drawn = "";
      show(retry, false);
      show(discard, false);
      return fill(
        body,
        h(
          "section",
          { class: "card none" },
          h("h2", null, "The parked rows cannot be read now"),
          h("p", null, sentence(refused.message)),
          h("p", null, "They lie in Supabase; this page looks again by itself."),
        ),
      );
    }
    if (gone) return;
    const key = JSON.stringify(listing);
    if (key === drawn) return;
    // Somebody may have opened something, or be on a button: the list changes under nobody's hand.
    drawn = key;
    const total = listing.parked.reduce((sum, table) => sum + table.rows, 0);
    show(retry, mayAct() && total > 0);
    show(discard, mayAct() && total > 0);
    fill(
      body,
      listing.tables.map(table),
      listing.rows.map(row),
      total > listing.rows.length &&
        h("p", { class: "soft" }, `The oldest ${count(listing.rows.length, "row")} of ${number(total)} are shown.`),
      total + listing.tables.length === 0 &&
        h(
          "section",
          { class: "card none" },
          h("h2", null, "Nothing is parked"),
          h("p", null, "Supabase took every row it was sent."),
        ),
    );
  };

  const press = async (action, chosen) => {
    const answer = await post(`/api/parked/${action}`, chosen);
    const rows = answer.rows == null ? answer.discarded : answer.rows;
    say(
      action === "discard"
        ? "Discarded"
        : `Read from the source again and tried${typeof rows === "number" ? `: ${count(rows, "row")}` : ""}`,
    );
    for (const wait of [300, 1200, 2500]) setTimeout(load, wait);
  };
  const drop = async (chosen, what) => {
    const yes = await confirm(
      `Discard ${what}?`,
      "What the source holds is not written to Supabase: both sides stay different there until the row changes again or is compared and repaired. This cannot be taken back.",
      "Discard",
    );
    if (yes) await doing(null, () => press("discard", chosen));
  };

  const table = (entry) => {
    const name = `${entry.schema}.${entry.table}`;
    const again = h(
      "button",
      {
        type: "button",
        class: "primary",
        onclick: () =>
          doing(again, async () => {
            await post(`/api/tables/${encodeURIComponent(name)}/resync`);
            say(`${short(name)} is compared and tried again`);
            setTimeout(load, 1500);
          }),
      },
      "Try again",
    );
    return h(
      "section",
      { class: "card" },
      h(
        "div",
        { class: "parked-head" },
        dot("bad"),
        h("h2", null, `The whole table ${short(name)}`),
        mayAct() && again,
      ),
      h("p", null, sentence(entry.reason)),
      h(
        "p",
        { class: "small soft" },
        "Its changes are skipped. Once the reason is mended, it is compared and repaired, and streams again.",
      ),
    );
  };

  const row = (entry) => {
    const name = `${entry.schema}.${entry.table}`;
    const chosen = { table: name, key: entry.key };
    const again = h(
      "button",
      { type: "button", class: "small primary", onclick: () => doing(again, () => press("reread", chosen)) },
      "Re-read and try again",
    );
    const away = h(
      "button",
      { type: "button", class: "small danger", onclick: () => drop(chosen, `this row of ${short(name)}`) },
      "Discard",
    );
    const keys = entry.key_names.map((column, at) => `${column} ${entry.key[at]}`).join(", ");
    return h(
      "section",
      { class: "card", "aria-label": `${short(name)}, ${keys}` },
      h(
        "div",
        { class: "parked-head" },
        dot("bad"),
        h("h2", null, short(name)),
        h("code", null, keys),
        mayAct() && [again, away],
      ),
      h("p", { class: "cause", title: entry.reason }, sentence(entry.reason.split("; Failing row contains")[0])),
      h(
        "p",
        { class: "small soft" },
        `${WHAT[entry.operation] || entry.operation} refused with SQLSTATE ${entry.sqlstate}, first ${ago(entry.first_parked_at)}; tried ${count(entry.attempts, "time")}, next ${ahead(entry.next_at)}.`,
      ),
      images(entry),
    );
  };

  load();
  const timer = setInterval(() => {
    if (live.link === "live" && !document.hidden) load();
  }, AGAIN);
  let known = null;
  const stop = onLive(() => {
    // News of parked rows come with the stream.
    let now = 0;
    for (const row of live.tables.values()) now += (row.parked || 0) + (row.state === "parked" ? 1 : 0);
    body.classList.toggle("stale", live.link === "lost");
    if (known !== null && known !== now) load();
    known = now;
  });
  return () => {
    gone = true;
    clearInterval(timer);
    stop();
  };
}

const WHAT = { write: "Insert or update", update: "Update", delete: "Delete" };

// Both images of the row, column by column. A column that travels in neither is not named by either.
function images(entry) {
  if (!entry.old && !entry.new) return h("p", { class: "soft" }, "Nothing more is known of the row.");
  const was = entry.old || {};
  const is = entry.new || {};
  const columns = [...new Set([...Object.keys(is), ...Object.keys(was)])];
  const differs = (column) => column in was && column in is && shown(was[column]) !== shown(is[column]);
  columns.sort((a, b) => differs(b) - differs(a));
  const lines = columns.map((column) => {
    const changed = differs(column) || (entry.operation === "write" && !entry.old);
    return h(
      "tr",
      { class: differs(column) ? "changed" : "" },
      h("th", { scope: "row" }, column),
      cell(was, column, entry.old, differs(column)),
      cell(is, column, entry.new, changed && differs(column)),
    );
  });
  const absent = (side, words) => (side ? words : `${words}: no such row`);
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": "Both images of the row" },
    h(
      "table",
      { class: "images" },
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          h("th", { scope: "col" }, "Column"),
          h("th", { scope: "col" }, absent(entry.old, "In Supabase")),
          h("th", { scope: "col" }, entry.operation === "delete" ? "To be deleted" : "Refused"),
        ),
      ),
      h("tbody", null, lines),
    ),
  );
}

function cell(side, column, there, mark) {
  if (!there || !(column in side)) return h("td", { class: "soft" }, "");
  const value = side[column];
  const words =
    value === null ? h("span", { class: "soft" }, "null") : mark ? h("mark", null, shown(value)) : shown(value);
  return h("td", null, words);
}

// The sides spell one value differently where one is text and the other JSON: both are shown as text.
function shown(value) {
  const words = value === null ? "null" : typeof value === "object" ? JSON.stringify(value) : String(value);
  return words.length > 600 ? `${words.slice(0, 600)}… (${number(words.length)} characters)` : words;
}
