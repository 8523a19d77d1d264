// Where the page begins: which view is shown, and what every view has above it.

import { $, h, text, show, fill, setTone, say, aloud } from "/page/dom.js";
import { live, onLive, begin } from "/page/live.js";
import { learn, onSession, session, mayAct, ask } from "/page/api.js";
import { overview, verdict } from "/page/overview.js";
import { compare } from "/page/compare.js";

const act = {
  compare: (tables) => compare(tables, { repair: true }),
  configure: async () => (await import("/page/configure.js")).configure(),
};

// By the first word of the address's fragment. All but the first come when they are asked for.
const VIEWS = {
  "": ["Overview", async () => overview],
  tables: ["Tables", async () => (await import("/page/tables.js")).tables],
  workflows: ["Workflows", async () => (await import("/page/workflows.js")).workflows],
  runs: ["Workflow runs", async () => (await import("/page/runs.js")).runs],
  parked: ["Parked", async () => (await import("/page/parked.js")).parked],
  activity: ["Activity", async () => (await import("/page/activity.js")).activity],
  settings: ["Settings", async () => (await import("/page/settings.js")).settings],
};

let leave = null;
let title = "Overview";
let asked = 0;

async function go(first) {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/").map(decodeURIComponent);
  const [words, load] = VIEWS[name] || VIEWS[""];
  const mine = (asked += 1);
  let view;
  try {
    view = await load();
  } catch {
    say("Lockstep does not answer: this view could not be loaded", true);
    return;
  }
  if (mine !== asked) return; // somebody was quicker
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  if (leave) leave();
  title = words;
  const place = h("div", { id: "view" });
  $("view").replaceWith(place);
  leave = view(place, act, { rest, query: new URLSearchParams(query || "") }) || null;
  const group = name === "runs" ? "workflows" : VIEWS[name] ? name : "";
  for (const link of $("nav").children) {
    if (link.getAttribute("href") === `#/${group}`) {
      link.setAttribute("aria-current", "page");
      $("nav").scrollLeft = link.offsetLeft - 60; // in sight on a narrow screen
    } else link.removeAttribute("aria-current");
  }
  head();
  if (first) return;
  scrollTo(0, 0);
  $("main").focus({ preventScroll: true });
  aloud(title);
}

const COLOUR = { good: "#1a9e5c", busy: "#2f6bd8", warn: "#c98a00", bad: "#d0342c", off: "#808580" };
let spoken = null;

// Pill, icon, title and the number of parked rows: what stands above every view.
function head() {
  const [word, tone, headline, why] = verdict(live);
  document.body.dataset.tone = tone;
  setTone($("pill-dot"), tone);
  text($("pill-text"), headline);
  const page = `${headline} · ${title} · Lockstep`;
  if (document.title !== page) document.title = page;
  const bars = `<rect x="6" y="4" width="8" height="24" rx="3"/><rect x="18" y="4" width="8" height="24" rx="3"/>`;
  const icon = `data:image/svg+xml,${encodeURIComponent(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" fill="${COLOUR[tone]}">${bars}</svg>`)}`;
  if ($("icon").href !== icon) $("icon").href = icon;
  if (spoken !== null && spoken !== word) aloud(`${headline}. ${why}`);
  spoken = word;
  let parked = 0;
  for (const row of live.tables.values()) parked += (row.parked || 0) + (row.state === "parked" ? 1 : 0);
  show($("parked-count"), parked);
  text($("parked-count"), parked > 999 ? "999+" : parked);
  if (live.view) text($("version"), `Lockstep ${live.view.version}`);
  banner();
}

// What holds for the whole page: a login that ended, a role that only looks, a service that is gone.
function banner() {
  const kind = session.expired ? "login" : live.link === "lost" ? "lost" : mayAct() ? "" : "read";
  const box = $("banner");
  if (box.dataset.kind === kind) return;
  box.dataset.kind = kind;
  show(box, kind);
  if (kind === "login")
    fill(box, "Your login has ended. ", h("a", { class: "button small primary", href: "/login" }, "Log in again"));
  if (kind === "lost")
    fill(
      box,
      h("b", null, "Not connected to Lockstep."),
      " What is shown is what was last known. This page tries again by itself every second.",
    );
  if (kind === "read")
    fill(
      box,
      `You are logged in${session.who ? ` as ${session.who}` : ""} to look. To change something, log in with a token that may operate. `,
      h("button", { type: "button", class: "small", onclick: logout }, "Log in"),
    );
}

export async function logout() {
  try {
    await ask("DELETE", "/api/session");
  } catch {
    /* it had ended already */
  }
  location.assign("/login");
}

let offered = false;
// A service without settings asks for them, once.
function offer() {
  if (offered || !live.view || live.view.state !== "not_configured" || !session.known) return;
  offered = true;
  if (mayAct()) act.configure();
}

$("skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("main").focus();
});
addEventListener("hashchange", () => go(false));
onLive(() => {
  head();
  offer();
});
onSession(() => {
  document.body.dataset.role = session.role;
  head();
  offer();
});
go(true);
begin();
learn();
