// The settings as they are in use, the dialog for the two that are asked for, and who is logged in.

import { h, fill, dot } from "/page/dom.js";
import { get, session, onSession, mayAct } from "/page/api.js";
import { sentence, moment } from "/page/words.js";
import { logout } from "/page/main.js";

export function settings(root, act) {
  const body = h("div", null, h("section", { class: "card none" }, h("p", null, "Reading the settings")));
  fill(root, h("div", { class: "title" }, h("h1", null, "Settings")), body);
  let gone = false;
  const load = async () => {
    let known;
    try {
      known = await get("/api/settings");
    } catch (refused) {
      if (!gone)
        fill(
          body,
          h(
            "section",
            { class: "card none" },
            h("h2", null, "The settings cannot be read now"),
            h("p", null, sentence(refused.message)),
          ),
          person(),
        );
      return;
    }
    if (gone) return;
    fill(body, project(known, act), rest(known), person());
  };
  load();
  addEventListener("settings", load);
  const stop = onSession(load);
  return () => {
    gone = true;
    removeEventListener("settings", load);
    stop();
  };
}

function project(known, act) {
  const set = known.supabase_url && known.key_set;
  return h(
    "section",
    { class: "card", "aria-label": "Supabase" },
    h(
      "div",
      { class: "parked-head" },
      dot(set ? "good" : "warn"),
      h("h2", null, "Supabase project"),
      mayAct() && h("button", { type: "button", class: "primary", onclick: act.configure }, "Configure"),
    ),
    list([
      ["Project URL", known.supabase_url ? h("code", null, known.supabase_url) : "not set"],
      ["Key", known.key_set ? `set, ${KINDS[known.key_kind] || known.key_kind}; it cannot be shown` : "not set"],
      known.key_expires_at && ["Key expires", moment(known.key_expires_at)],
      ["Kept in", h("code", null, known.env_file || ".env")],
      known.set_by_environment &&
        known.set_by_environment.length > 0 && [
          "Set by the environment",
          `${known.set_by_environment.join(" and ")}: it wins over the file, and is changed there`,
        ],
    ]),
  );
}

const KINDS = { secret: "a secret key (sb_secret_…)", service_role: "a service_role key" };

function rest(known) {
  const schedule = known.schedule || {};
  const tables = [
    known.schemas && `schemas ${known.schemas.join(", ")}`,
    known.include && known.include.length && `only ${known.include.join(", ")}`,
    known.exclude && known.exclude.length && `not ${known.exclude.join(", ")}`,
  ]
    .filter(Boolean)
    .join("; ");
  return h(
    "section",
    { class: "card", "aria-label": "In use" },
    h("h2", null, "In use"),
    list([
      known.source && ["Your database", h("code", null, known.source)],
      known.slot && ["Slot, publication", h("code", null, `${known.slot}, ${known.publication}`)],
      tables && ["Tables", tables],
      known.apply && [
        "Rows are written",
        {
          rpc: "exactly once, through Lockstep's functions",
          tables: "by plain requests",
          auto: "as it can be done (auto)",
        }[known.apply] || known.apply,
      ],
      known.on_refusal && [
        "A refused row",
        known.on_refusal === "park" ? "is parked while the rest goes on" : "stops the route",
      ],
      [
        "Compare and repair",
        schedule.reconcile && schedule.reconcile.length
          ? h(
              "span",
              null,
              schedule.reconcile.map((cron, at) => [at ? " and " : "", h("code", null, cron)]),
              ` (${schedule.timezone})`,
            )
          : "never by itself",
      ],
      known.state_table && ["Sync states", h("code", null, known.state_table)],
      known.listen && [
        "This page",
        h("span", null, h("code", null, known.listen), known.token_set ? ", with a token" : ", without a token"),
      ],
    ]),
    h(
      "p",
      { class: "small soft" },
      "These are changed in lockstep.toml and in the environment; they take effect with the next start.",
    ),
  );
}

function person() {
  return h(
    "section",
    { class: "card", "aria-label": "You" },
    h("h2", null, "You"),
    list([
      ["Role", mayAct() ? "operate: you may change things" : "read: you may look"],
      session.who && ["Known as", session.who],
    ]),
    session.csrf && h("button", { type: "button", onclick: logout }, "Log out"),
  );
}

function list(lines) {
  return h(
    "dl",
    null,
    lines.filter(Boolean).map(([term, value]) => [h("dt", null, term), h("dd", null, value)]),
  );
}
