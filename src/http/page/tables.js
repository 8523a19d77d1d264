// Every table: where it stands, and what can be done about it. Only the rows in sight are in the document, so that two
// thousand tables cost as little as twenty.

import { h, text, show, fill, dot, setTone, say } from "/page/dom.js";
import { live, onLive } from "/page/live.js";
import { post, mayAct, doing } from "/page/api.js";
import { standing, RANK, span, ago, moment, number, count, split, short, sentence } from "/page/words.js";
import { compare } from "/page/compare.js";
import { open, confirm } from "/page/dialog.js";

const MORE = 8; // rows kept above and below those in sight
const FOLD = matchMedia("(max-width: 52rem)"); // as in views.css

// What a column shows, and what it is sorted by.
const COLUMNS = [
  ["Table", 19, (row) => short(row.name)],
  ["Status", 18, (row) => RANK[row.at[0]]],
  ["Direction", 10, null],
  ["Last sync", 10, (row) => -Date.parse(row.synced || 0)],
  ["Records", 8, (row) => -records(row), "number"],
  ["Lag", 6, (row) => -(row.at[0] === "good" ? 0 : 1), "number"],
  ["Last verify", 14, (row) => (row.verified ? -Date.parse(row.verified.at) : 0)],
  ["Actions", 19, null, "acts"],
];

const SHOWS = {
  all: ["All", () => true],
  trouble: ["Need attention", (row) => ["bad", "warn"].includes(row.at[0])],
  busy: ["Busy", (row) => row.at[0] === "busy"],
  paused: ["Paused", (row) => row.state === "paused"],
};

const records = (row) => (row.records == null ? row.rows : row.records);

export function tables(root, act, { query }) {
  let sort = 1;
  let down = false;
  let kept = "all";
  const filter = h("input", {
    type: "search",
    placeholder: "Filter by name",
    "aria-label": "Filter tables by name",
    value: query.get("filter") || "",
    oninput: () => draw(),
  });
  const segments = h("div", { class: "segments", role: "group", "aria-label": "Which tables" });
  const all = h(
    "button",
    { type: "button", class: "primary", onclick: () => compare([], { repair: true }) },
    "Sync all tables",
  );
  const verify = h("button", { type: "button", onclick: () => compare([]) }, "Verify all");
  const summary = h("p", { class: "soft", role: "status" });
  const heads = COLUMNS.map(([words, width, by, kind], at) => {
    const head = h(
      "th",
      { scope: "col", class: kind },
      by
        ? h(
            "button",
            {
              type: "button",
              onclick: () => {
                down = sort === at ? !down : false;
                sort = at;
                draw();
              },
            },
            words,
          )
        : words,
    );
    head.style.width = `${width}%`;
    return head;
  });
  const body = h("tbody");
  const above = h("tr", { class: "gap", "aria-hidden": "true" }, h("td", { colspan: COLUMNS.length }));
  const below = above.cloneNode(true);
  const grid = h("table", { class: "grid fold", "aria-label": "Tables" }, h("thead", null, h("tr", null, heads)), body);
  const sheet = h("section", { class: "card sheet", "aria-label": "Tables" }, grid);
  const none = h("section", { class: "card none" });
  fill(
    root,
    h("div", { class: "title" }, h("h1", null, "Tables"), verify, all),
    h("div", { class: "tools" }, filter, segments, summary),
    none,
    sheet,
  );

  const made = new Map();
  let list = [];
  const draw = () => {
    const { view } = live;
    sheet.classList.toggle("stale", live.link === "lost");
    all.disabled = verify.disabled = !view || live.tables.size === 0 || live.link !== "live";
    all.hidden = verify.hidden = !mayAct();
    if (!view) return blank("Asking Lockstep", "One moment.");
    const word = filter.value.trim().toLowerCase();
    const judged = [];
    const counts = { all: 0, trouble: 0, busy: 0, paused: 0 };
    for (const row of live.tables.values()) {
      row.at = standing(row, view, live.link);
      row.synced = row.at[0] === "good" ? view.synced_at || view.now : row.synced_at || row.changed_at;
      for (const kind of Object.keys(counts)) if (SHOWS[kind][1](row)) counts[kind] += 1;
      if (SHOWS[kept][1](row) && (!word || row.name.toLowerCase().includes(word))) judged.push(row);
    }
    const by = COLUMNS[sort][2];
    const sign = down ? -1 : 1;
    judged.sort((a, b) => {
      const [left, right] = [by(a), by(b)];
      return sign * (left < right ? -1 : left > right ? 1 : 0) || (a.name < b.name ? -1 : 1);
    });
    list = judged;
    heads.forEach((head, at) => {
      const way = at === sort ? (down ? "descending" : "ascending") : null;
      if (way) head.setAttribute("aria-sort", way);
      else head.removeAttribute("aria-sort");
    });
    const key = JSON.stringify([counts, kept]);
    if (segments.dataset.key !== key) {
      const focused = document.activeElement && document.activeElement.value;
      segments.dataset.key = key;
      fill(
        segments,
        Object.entries(SHOWS).map(([name, [words]]) =>
          h(
            "label",
            null,
            h("input", {
              type: "radio",
              name: "shows",
              value: name,
              checked: kept === name,
              onchange: () => {
                kept = name;
                draw();
              },
            }),
            h("span", null, `${words} ${number(counts[name])}`),
          ),
        ),
      );
      const again = segments.querySelector(`input[value="${CSS.escape(String(focused || ""))}"]`);
      if (again) again.focus({ preventScroll: true });
    }
    text(summary, list.length === counts.all ? "" : `${number(list.length)} of ${count(counts.all, "table")}`);
    if (counts.all === 0)
      return blank(
        "No tables yet",
        view.state === "not_configured"
          ? "They appear once Lockstep knows your Supabase project."
          : "They appear once the source was read.",
      );
    if (list.length === 0) return blank("No table fits", "Change the filter to see others.");
    show(none, false);
    show(sheet, true);
    place();
  };
  const blank = (title, words) => {
    fill(none, h("h2", null, title), h("p", null, words));
    show(none, true);
    show(sheet, false);
  };

  // Puts the rows in sight into the document, between two gaps that stand for the others.
  let height = FOLD.matches ? 120 : 45;
  const place = () => {
    if (sheet.hidden) return;
    const top = body.getBoundingClientRect().top;
    const first = Math.max(0, Math.min(list.length - 1, Math.floor(-top / height) - MORE));
    const last = Math.min(list.length, Math.ceil((innerHeight - top) / height) + MORE);
    const wanted = list.slice(first, Math.max(first + 1, last));
    const rows = wanted.map((row, at) => drawRow(row, first + at));
    above.firstChild.style.height = `${first * height}px`;
    below.firstChild.style.height = `${(list.length - first - wanted.length) * height}px`;
    const nodes = [above, ...rows, below];
    nodes.forEach((node, at) => {
      if (body.children[at] !== node) body.insertBefore(node, body.children[at] || null);
    });
    while (body.children.length > nodes.length) body.lastChild.remove();
    for (const [name, row] of made) if (!row.isConnected) made.delete(name);
    grid.setAttribute("aria-rowcount", list.length + 1);
    const real = rows[0].getBoundingClientRect().height;
    if (real > 10 && Math.abs(real - height) > 0.5) {
      height = real;
      requestAnimationFrame(place);
    }
  };

  const drawRow = (row, at) => {
    let line = made.get(row.name);
    if (!line) made.set(row.name, (line = newRow(row.name)));
    line.setAttribute("aria-rowindex", at + 2);
    paint(line, row);
    return line;
  };
  draw();
  const stops = [onLive(draw)];
  let due = false;
  const moved = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      if (root.isConnected) place();
    });
  };
  addEventListener("scroll", moved, { passive: true });
  addEventListener("resize", moved);
  stops.push(
    () => removeEventListener("scroll", moved),
    () => removeEventListener("resize", moved),
  );
  return () => stops.forEach((stop) => stop());
}

function newRow(name) {
  const [schema, bare] = split(name);
  const cells = COLUMNS.map(([words, , , kind]) =>
    h("td", { class: kind, "data-label": ["Last sync", "Records", "Last verify"].includes(words) ? words : null }),
  );
  const line = h("tr", null, cells);
  cells[0].append(
    h(
      "button",
      { type: "button", class: "link", title: name, onclick: () => details(name) },
      schema && h("span", { class: "soft" }, schema),
      bare,
    ),
  );
  const state = h("span", { class: "clip" });
  const mark = dot("off");
  cells[1].append(h("span", { class: "state" }, mark, state));
  cells[1].className = "wide";
  cells[2].classList.add("away");
  cells[5].classList.add("away");
  text(cells[2], "→ Supabase");
  const verify = h("button", { type: "button", class: "small", onclick: () => compare([name]) }, "Verify");
  const sync = h(
    "button",
    { type: "button", class: "small", onclick: () => compare([name], { repair: true }) },
    "Sync",
  );
  const pause = h("button", { type: "button", class: "small", onclick: () => turn(pause, name) }, "Pause");
  for (const [button, words] of [
    [verify, "Verify"],
    [sync, "Sync"],
  ])
    button.setAttribute("aria-label", `${words} ${name}`);
  cells[7].append(sync, verify, pause);
  Object.assign(line, { cells7: [sync, verify, pause], mark, state, parts: cells });
  return line;
}

function paint(line, row) {
  const { view } = live;
  const [tone, words, more] = row.at;
  setTone(line.mark, tone);
  text(line.state, more && tone === "bad" ? `${words}: ${more}` : words);
  const hint = more ? `${words}: ${more}` : words;
  if (line.state.title !== hint) line.state.title = hint;
  if (line.state.className !== `clip tone-${tone}`) line.state.className = `clip tone-${tone}`;
  const [, , , synced, recorded, lag, verified] = line.parts;
  text(synced, row.synced ? ago(row.synced) : "never");
  text(recorded, number(records(row)));
  text(lag, tone === "good" ? span(view.lag.seconds) : "–");
  text(verified, row.verified ? `${ago(row.verified.at)}, ${result(row)}` : "never");
  const [sync, verify, pause] = line.cells7;
  const lost = live.link !== "live";
  sync.disabled = lost || row.state === "paused" || row.state === "parked";
  verify.disabled = sync.disabled;
  pause.disabled = lost;
  show(sync, mayAct());
  show(verify, mayAct());
  show(pause, mayAct());
  text(pause, row.state === "paused" ? "Resume" : row.state === "parked" ? "Try again" : "Pause");
  const label = `${pause.textContent} ${row.name}`;
  if (pause.getAttribute("aria-label") !== label) pause.setAttribute("aria-label", label);
}

const result = (row) =>
  row.differs
    ? "differs"
    : { equal: "equal", repaired: "repaired", different: "differs", unknown: "not known" }[row.verified.result] ||
      row.verified.result;

// Pause asks first: the changes that are skipped come back only by comparing.
async function turn(button, name) {
  const row = live.tables.get(name);
  if (!row) return;
  const what = row.state === "paused" ? "resume" : row.state === "parked" ? "resync" : "pause";
  if (
    what === "pause" &&
    !(await confirm(
      `Pause ${short(name)}?`,
      "Its changes are skipped until you resume it. Then both sides are compared and what differs is repaired.",
      "Pause",
      { danger: false },
    ))
  )
    return;
  await doing(button, async () => {
    await post(`/api/tables/${encodeURIComponent(name)}/${what}`);
    say(
      {
        pause: `${short(name)} is paused`,
        resume: `${short(name)} takes part again: it is compared first`,
        resync: `${short(name)} is compared and tried again`,
      }[what],
    );
  });
}

// All that is known of one table.
function details(name) {
  const list = h("dl");
  const draw = () => {
    const row = live.tables.get(name);
    if (!row || !live.view) return;
    const [tone, words, more] = standing(row, live.view, live.link);
    const facts = [
      ["Status", h("span", { class: "outcome" }, dot(tone), words)],
      more && ["Why", sentence(more)],
      ["Direction", "from your database to Supabase"],
      row.status && ["Sync state", row.error ? `${row.status}: ${row.error}` : row.status],
      row.records != null && ["Records synced", number(row.records)],
      ["Rows written", `${number(row.rows)} since the start`],
      ["Last change", row.changed_at ? `${ago(row.changed_at)}, ${moment(row.changed_at)}` : "none since the start"],
      ["Last verify", row.verified ? `${ago(row.verified.at)}, ${result(row)}, ${moment(row.verified.at)}` : "never"],
    ];
    fill(
      list,
      facts.filter(Boolean).map(([term, value]) => [h("dt", null, term), h("dd", null, value)]),
    );
  };
  const stop = onLive(draw);
  const again = async () => {
    if (
      !(await confirm(
        `Copy ${short(name)} afresh?`,
        "Nothing of it is taken for granted: it is compared from its first row and repaired, as after a first start. Changes keep flowing.",
        "Compare from the start",
        { danger: false },
      ))
    )
      return;
    await doing(null, async () => {
      await post(`/api/tables/${encodeURIComponent(name)}/resync`);
      say(`${short(name)} is compared from the start`);
      dialog.close();
    });
  };
  const button = (words, act, kind) => {
    const pressed = () => {
      if (act !== again) dialog.close();
      act();
    };
    return h("button", { type: "button", class: kind, onclick: pressed }, words);
  };
  const dialog = open(name, list, {
    onclose: stop,
    buttons: mayAct() && [
      button("Compare from the start", again),
      button("Verify", () => compare([name])),
      button("Sync", () => compare([name], { repair: true }), "primary"),
    ],
  });
  draw();
}
