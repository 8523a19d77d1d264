// The dialog that tells Lockstep where the Supabase project is: address and key, tested on the spot as a checklist. The
// key goes one way only; nothing here can show it.

import { h, fill, field, copyable, say, dot } from "/page/dom.js";
import { get, ask, post, doing } from "/page/api.js";
import { count, sentence } from "/page/words.js";
import { open } from "/page/dialog.js";

// What is looked at, while the answer is awaited.
const AWAITED = [
  "Address",
  "Name",
  "Connection",
  "Kind of key",
  "Role",
  "Exposed schema",
  "Our SQL",
  "Version",
  "Rights",
  "Tables",
];
const TONE = { ok: "good", warn: "warn", fail: "bad", skipped: "off" };
const WORDS = { ok: "well", warn: "with a warning", fail: "failed", skipped: "not looked at" };

export async function configure() {
  let settings;
  try {
    settings = await get("/api/settings");
  } catch (refused) {
    say(refused.status === 404 ? "This Lockstep takes its settings from .env only" : refused.message, true);
    return;
  }
  const url = field(
    "Project URL",
    h("input", {
      type: "url",
      autocomplete: "url",
      spellcheck: "false",
      required: true,
      placeholder: "https://PROJECT.supabase.co",
      value: settings.supabase_url || "",
    }),
    "Supabase: Project Settings, Data API.",
  );
  const key = field(
    "Secret key",
    h("input", {
      type: "password",
      autocomplete: "off",
      spellcheck: "false",
      placeholder: settings.key_set ? "a key is set; leave empty to keep it" : "sb_secret_…",
    }),
    "Supabase: Project Settings, API Keys. A secret key, or the older service_role key. It is written to .env and never shown again.",
  );
  const result = h("div", { class: "checks", role: "status" });
  const test = h("button", { type: "submit" }, "Test connection");
  const save = h("button", { type: "button", class: "primary" }, "Save");
  const form = h("form", { novalidate: true, id: "configure" }, url, key);
  test.setAttribute("form", "configure");
  const dialog = open("Configure Supabase", [form, result], { wide: true, buttons: [test, save] });
  if (!settings.supabase_url) url.control.focus();

  const wish = () => {
    const body = { supabase_url: url.control.value.trim() };
    if (key.control.value.trim()) body.supabase_key = key.control.value.trim();
    return body;
  };
  const wrong = (refused) => {
    url.wrong(refused.field === "supabase_url" ? sentence(refused.message) : "");
    key.wrong(refused.field === "supabase_key" ? sentence(refused.message) : "");
    const at = { supabase_url: url, supabase_key: key }[refused.field];
    if (at) at.control.focus();
    else fill(result, h("p", { class: "bad" }, sentence(refused.message)));
  };

  let tested = 0;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const mine = (tested += 1);
    wrong({});
    fill(
      result,
      h(
        "ul",
        null,
        AWAITED.map((title) =>
          h("li", null, dot("busy"), h("b", null, title), h("span", { class: "soft" }, "looking")),
        ),
      ),
    );
    doing(test, async () => {
      try {
        const { checks } = await post("/api/settings/test", wish());
        if (mine === tested) fill(result, verdict(checks), h("ul", null, checks.map(line)));
      } catch (refused) {
        if (mine !== tested) return;
        fill(result);
        wrong(refused);
      }
    });
  });
  save.addEventListener("click", () =>
    doing(save, async () => {
      wrong({});
      try {
        await ask("PUT", "/api/settings", wish());
        dialog.close();
        say(`Saved to ${settings.env_file || ".env"}; Lockstep goes on with it now`);
        dispatchEvent(new Event("settings"));
      } catch (refused) {
        wrong(refused);
      }
    }),
  );
}

function verdict(checks) {
  const failed = checks.filter((check) => check.state === "fail").length;
  const warned = checks.filter((check) => check.state === "warn").length;
  const [tone, words] = failed
    ? ["bad", `${count(failed, "thing")} to mend`]
    : warned
      ? ["warn", `It works, with ${count(warned, "warning")}`]
      : ["good", "All is well: save it"];
  return h("p", { class: "outcome" }, dot(tone), h("b", null, words));
}

function line({ title, state, line: words, fix, sql }) {
  const more = [fix && h("p", null, h("b", null, "What to do: "), sentence(fix)), sql && script(sql, title)].filter(
    Boolean,
  );
  return h(
    "li",
    { class: state },
    dot(TONE[state]),
    h("b", null, title, h("span", { class: "unseen" }, ` ${WORDS[state]}`)),
    h("div", null, h("p", { class: state === "skipped" || state === "ok" ? "soft" : "" }, sentence(words)), more),
  );
}

// SQL to paste. Long scripts are folded: copying is what they are for.
function script(sql, title) {
  const lines = sql.split("\n").length;
  const body = copyable(sql, `SQL for ${title}`);
  return lines > 12
    ? h("details", null, h("summary", null, `SQL to paste into Supabase's SQL editor, ${count(lines, "line")}`), body)
    : body;
}
