// The first look: are both sides in step, and if not, why, and what to press.

import { h, text, show, fill, dot, setTone, copyable } from "/page/dom.js";
import { live, onLive } from "/page/live.js";
import { mayAct } from "/page/api.js";
import { curve } from "/page/chart.js";
import { newest } from "/page/activity.js";
import {
  VERDICT,
  standing,
  RANK,
  span,
  size,
  ago,
  lasting,
  ahead,
  moment,
  number,
  count,
  sentence,
  short,
  percent,
} from "/page/words.js";

// [tone, headline, why] of all of it; the pill and the title say the same.
export function verdict({ link, view, heard }) {
  if (link === "lost") {
    const last = heard ? ` It last answered ${ago(new Date(heard).toISOString())}.` : "";
    return ["lost", ...VERDICT.lost, `This page tries again by itself every second.${last}`];
  }
  if (!view) return ["connecting", ...VERDICT.connecting, "One moment."];
  if (view.state === "not_configured") {
    const names = { SUPABASE_URL: "the address", SUPABASE_KEY: "a key", DATABASE_URL: "the source's address" };
    const missing = (view.missing || []).map((name) => names[name] || name);
    return [
      "setup",
      ...VERDICT.setup,
      `Tell Lockstep where your Supabase project is: ${missing.join(" and ") || "address and key"} ${missing.length === 1 ? "is" : "are"} missing.`,
    ];
  }
  const [tone, headline] = VERDICT[view.verdict] || VERDICT.unknown;
  const later = view.lag.seconds ? ` ${span(view.lag.seconds)} later` : "";
  const why = view.verdict === "in_step" ? `Every commit is in Supabase${later}.` : sentence(view.why);
  return [view.verdict, tone, headline, why];
}

// What to press, most useful first: [words, where or what].
function advice(view, doer) {
  const presses = [];
  const act = mayAct() && doer;
  if (act && view.state === "not_configured") return [["Configure Supabase", act.configure]];
  if (act && (view.state === "stopped" || (view.state === "waiting" && !view.target.connected)))
    presses.push(["Check the connection", act.configure]);
  const some = (fits) => [...live.tables.values()].some(fits);
  if (some((row) => row.state === "parked" || row.parked)) presses.push(["See what is parked", "#/parked"]);
  if (some((row) => row.differs) && view.state !== "stopped" && act) {
    const differing = () => [...live.tables.values()].filter((row) => row.differs).map((row) => row.name);
    presses.push(["Review and repair", () => act.compare(differing())]);
  }
  return presses;
}

export function overview(root, act) {
  const lamp = h("span", { class: "lamp", "aria-hidden": "true" });
  const headline = h("h1");
  const why = h("p", { class: "soft" });
  const presses = h("div", { class: "presses" });
  const hero = h(
    "section",
    { class: "card hero", "aria-label": "Are both sides in step" },
    lamp,
    h("div", null, headline, why),
    presses,
  );
  const source = end("Your database");
  const target = end("Supabase");
  const route = h("div", { class: "wire", "aria-hidden": "true" }, h("span"));
  const ends = h("section", { class: "ends", "aria-label": "Both ends" }, source.box, route, target.box);
  const trouble = h("section", { class: "card trouble", "aria-label": "What is wrong", hidden: true });
  const progress = h("section", { class: "card", "aria-label": "What is being done", hidden: true });
  const lag = figure("Lag", curve("Lag over the last minutes"));
  const rate = figure("Throughput", curve("Rows per second over the last minutes"));
  const check = figure("Last compared", null);
  const next = figure("Next compare and repair", null);
  const facts = h("section", { class: "facts", "aria-label": "Figures" }, lag.box, rate.box, check.box, next.box);
  const attention = h("section", { class: "card list", "aria-label": "Tables" });
  const recent = h("section", { class: "card list", "aria-label": "Recent activity", hidden: true });
  fill(root, hero, ends, trouble, progress, facts, h("div", { class: "halves" }, attention, recent));

  let pressed = null;
  let troubled = null;
  let listed = null;
  const draw = () => {
    const { view } = live;
    const [, , words, reason] = verdict(live);
    text(headline, words);
    text(why, reason);
    for (const part of [ends, facts, attention]) part.classList.toggle("stale", live.link === "lost");
    if (!view) return;
    const wanted = live.link === "live" ? advice(view, act) : [];
    if (pressed !== (pressed = wanted.map(([label]) => label).join())) {
      fill(
        presses,
        wanted.map(([label, go], at) =>
          typeof go === "string"
            ? h("a", { class: at ? "button" : "button primary", href: go }, label)
            : h("button", { type: "button", class: at ? "" : "primary", onclick: go }, label),
        ),
      );
    }
    const known = live.link === "live";
    drawEnd(source, view.source, view, known);
    drawEnd(target, view.target, view, known);
    ends.dataset.flow = known && view.source.connected && view.target.connected ? "yes" : "no";
    const told = wrong(view);
    const key = told && `${told.past}|${told.cause}|${told.fix}`; // not its age, which goes on
    show(trouble, told);
    if (told && key !== troubled) fill(trouble, tell(told));
    if (told) text(trouble.querySelector("h2"), told.title);
    troubled = key;
    work(progress, view);
    figures(view, { lag, rate, check, next });
    const [rows, line] = needing(view);
    const list = JSON.stringify([rows, line]);
    if (list !== listed)
      fill(
        attention,
        h("p", { class: "outcome" }, h("h2", null, "Tables"), h("a", { href: "#/tables" }, "All tables")),
        h("p", { class: "outcome line" }, dot(line[0]), line[1]),
        rows.map(drawRow),
      );
    listed = list;
  };
  draw();
  let gone = false;
  const recall = async () => {
    // Without a project there is no history yet, nor anybody who would keep one.
    if (document.hidden || live.link !== "live" || !live.view || live.view.state === "not_configured") return;
    const lines = await newest(6);
    if (gone) return;
    show(recent, lines.length);
    const all = h("a", { href: "#/activity" }, "All activity");
    fill(recent, h("p", { class: "outcome" }, h("h2", null, "Recent"), all), h("ol", { class: "time" }, lines));
  };
  const stop = onLive(draw);
  const first = setTimeout(recall, 400);
  const timer = setInterval(recall, 5000);
  return () => {
    gone = true;
    stop();
    clearTimeout(first);
    clearInterval(timer);
  };
}

function end(title) {
  const address = h("p", { class: "address" });
  const mark = dot("off");
  const state = h("span");
  const more = h("p", { class: "small soft" });
  return {
    box: h(
      "article",
      { class: "card end" },
      h("h2", null, title),
      address,
      h("p", { class: "connection" }, mark, state),
      more,
    ),
    address,
    mark,
    state,
    more,
  };
}

function drawEnd(parts, end, view, known) {
  text(parts.address, end.address || "not set");
  setTone(parts.mark, !known ? "off" : end.connected ? "good" : end.since ? "bad" : "off");
  const was = known ? "" : ", as last known";
  const words = end.connected ? "Connected" : end.since ? "Not connected" : "Not tried yet";
  text(parts.state, end.since ? `${words} for ${lasting(end.since)}${was}` : words);
  const way = { rpc: "exactly once, through Lockstep's functions", tables: "at least once, by plain requests" }[
    view.way
  ];
  const here = end === view.target;
  text(parts.more, here ? (way ? `Written ${way}` : "") : view.received ? `Read up to ${view.received}` : "");
}

function figure(title, drawing) {
  const value = h("p", { class: "figure" }, "–");
  const more = h("p", { class: "small soft" });
  return {
    box: h("article", { class: "card fact" }, h("h2", null, title), value, more, drawing),
    value,
    more,
    drawing,
  };
}

function figures(view, { lag, rate, check, next }) {
  text(lag.value, view.lag.seconds == null ? "–" : span(view.lag.seconds));
  text(lag.more, view.lag.bytes == null ? "not known" : `${size(view.lag.bytes)} of WAL to go`);
  lag.drawing.draw(live.lags, 150, 0.1);
  text(rate.value, `${number(Math.round(view.rows_per_second))} rows/s`);
  const rows = view.counts ? view.counts.rows : [...live.tables.values()].reduce((sum, row) => sum + row.rows, 0);
  text(rate.more, `${count(rows, "row")} in ${lasting(view.started_at)}`);
  rate.drawing.draw(live.rates, 150, 10);
  const { last_success_at: last, next_at: due, queued } = view.jobs || {};
  const compared = [...live.tables.values()].filter((row) => row.verified);
  const newest = compared.reduce((at, row) => (row.verified.at > at ? row.verified.at : at), last || "");
  const equal = compared.filter((row) => !row.differs && row.verified.result !== "unknown").length;
  text(check.value, newest ? ago(newest) : "never");
  const found = compared.length ? `${number(equal)} of ${count(live.tables.size, "table")} found equal` : "and equal";
  text(check.more, newest ? found : "nothing was compared yet");
  text(next.value, due ? ahead(due) : "none");
  text(next.more, due ? moment(due) : queued ? `${count(queued, "run")} waiting` : "nothing is scheduled");
}

// What stands in the way now, or the last thing that did.
function wrong(view) {
  if (view.state === "stopped")
    return { title: "Stopped, and looked at again every minute", cause: view.cause, fix: view.fix };
  if (view.state === "waiting") return { title: "Interrupted, and tried again by itself", cause: view.cause };
  const last = view.last_error;
  return last && { title: `Last error, ${ago(last.at)}`, cause: last.cause, fix: last.fix, past: true };
}

function tell({ title, cause, fix, past }) {
  const said = [
    h("p", { class: "cause" }, sentence(cause)),
    fix && h("h3", null, "What to do"),
    fix && copyable(fix, "The fix"),
  ];
  return past
    ? h("details", null, h("summary", null, h("h2", null, title)), said)
    : [h("h2", { class: "bad" }, title), said];
}

// First copies and runs.
function work(box, view) {
  const parts = [];
  const copying = [...live.tables.values()].filter((row) => row.state === "copying" || row.state === "pending");
  if (copying.length && ["copying", "streaming"].includes(view.state)) {
    const total = live.tables.size;
    const done = copying.reduce((sum, row) => sum + (row.copied || 0), 0);
    const of = copying.reduce((sum, row) => sum + Math.max(row.estimated || 0, row.copied || 0), 0);
    const finished = total - copying.length;
    const part = (finished + (of ? done / of : 0) * copying.length) / Math.max(1, total);
    parts.push([
      "First copy",
      part,
      `${count(finished, "table")} of ${total} done, ${number(done)} of about ${number(of)} rows of the rest`,
    ]);
  }
  const running = view.jobs && view.jobs.running;
  if (running) {
    const { progress } = running;
    const inner = progress && progress.rows_estimated ? progress.rows_done / progress.rows_estimated : 0;
    const part = (running.tables_done + Math.min(1, inner)) / Math.max(1, running.tables);
    const rows = progress ? `, ${number(progress.rows_done)} rows` : "";
    parts.push([
      running.repair ? "Compare and repair" : "Compare",
      part,
      `${running.why}: ${short(running.table || "")}${rows}, table ${Math.min(running.tables_done + 1, running.tables)} of ${running.tables}`,
    ]);
  }
  show(box, parts.length);
  while (box.children.length > parts.length) box.lastChild.remove();
  parts.forEach(([title, part, words], at) => {
    const line =
      box.children[at] ||
      box.appendChild(
        h(
          "div",
          { class: "work" },
          h("h2"),
          h("span", { class: "small" }),
          h(
            "div",
            {
              class: "progress",
              role: "progressbar",
              "aria-label": title,
              "aria-valuemin": "0",
              "aria-valuemax": "100",
            },
            h("span"),
          ),
          h("p", { class: "small soft" }),
        ),
      );
    text(line.children[0], title);
    text(line.children[1], percent(part * 1000, 1000));
    line.children[2].firstChild.style.width = `${(100 * Math.min(1, part)).toFixed(1)}%`;
    line.children[2].setAttribute("aria-valuenow", Math.round(100 * Math.min(1, part)));
    text(line.children[3], words);
  });
}

const SHOWN = 6;
// The tables that need somebody, worst first, and one line about all of them.
function needing(view) {
  const judged = [...live.tables.values()].map((row) => [row.name, ...standing(row, view, live.link)]);
  const good = judged.filter(([, tone]) => tone === "good").length;
  const rest = judged
    .filter(([, tone]) => tone !== "good")
    .sort((a, b) => RANK[a[1]] - RANK[b[1]] || a[0].localeCompare(b[0]));
  const total = judged.length;
  const line =
    total === 0
      ? ["off", "No tables are known yet."]
      : rest.length === 0
        ? ["good", total === 1 ? "The one table is in step." : `All ${number(total)} tables are in step.`]
        : [rest[0][1], `${number(good)} of ${count(total, "table")} in step.`];
  const shown = live.link === "live" ? rest.slice(0, SHOWN) : [];
  return [shown, line];
}

function drawRow([name, tone, words, more]) {
  return h(
    "p",
    { class: "row" },
    dot(tone),
    h("a", { href: `#/tables?filter=${encodeURIComponent(short(name))}` }, short(name)),
    h("b", null, words),
    h("span", { class: "soft clip" }, more || ""),
  );
}
