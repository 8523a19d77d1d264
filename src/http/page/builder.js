// The form that makes a workflow: when, only if, what. A dry run shows what it would have done with a change that was, and
// sends nothing.

import { h, fill, field, choice, dot, say, show, text } from "/page/dom.js";
import { get, ask, post, doing } from "/page/api.js";
import { live } from "/page/live.js";
import { sentence, short } from "/page/words.js";
import { conditions } from "/page/condition.js";
import { test } from "/page/workflows.js";

const TYPES = [
  ["trigger_agent_task", "Task for an agent"],
  ["webhook", "Webhook"],
  ["notify", "Notification"],
];
const TEMPLATES =
  "Templates: {{new.column}}, {{old.column}}, {{event}}, {{table}}, {{key}}, {{workflow}}, {{run_id}}, {{committed_at}}.";

// By type: [key, label, kind, hint].
const FIELDS = {
  trigger_agent_task: [
    ["agent_id", "Agent", "text", "Who does it, such as central_orchestrator."],
    ["action", "Action", "text", "What is to be done, such as onboard_new_agent."],
    ["payload", "Payload", "json", `JSON sent beside the change. May stay empty. ${TEMPLATES}`],
  ],
  webhook: [
    ["url", "URL", "url", "Templates may stand behind the host."],
    ["method", "Method", "method", ""],
    ["headers", "Headers", "json", "A JSON object of names and texts. May stay empty."],
    ["body", "Body", "json", `JSON. Empty sends the whole change. ${TEMPLATES}`],
  ],
  notify: [
    ["channel", "Channel", "text", "Listened to in your database: listen CHANNEL."],
    ["payload", "Payload", "json", `JSON or a text in quotes, up to 7,999 bytes. Empty names the row. ${TEMPLATES}`],
  ],
};

export function builder(root, id) {
  let stopped = false;
  if (!id)
    form(root, null, {
      workflow_name: "",
      trigger_table: "",
      trigger_event: "INSERT",
      side: "source",
      watched_columns: [],
      condition: null,
      enabled: true,
      action_config: { type: "trigger_agent_task" },
    });
  else
    get("/api/workflows")
      .then(({ workflows }) => {
        const known = workflows.find((one) => String(one.id) === id);
        if (stopped) return;
        if (known) form(root, id, known);
        else
          fill(
            root,
            h(
              "section",
              { class: "card none" },
              h("h2", null, "There is no such workflow"),
              h("a", { class: "button", href: "#/workflows" }, "All workflows"),
            ),
          );
      })
      .catch((refused) => {
        if (!stopped)
          fill(
            root,
            h(
              "section",
              { class: "card none" },
              h("h2", null, "The workflow cannot be read now"),
              h("p", null, sentence(refused.message)),
            ),
          );
      });
  return () => {
    stopped = true;
  };
}

function form(root, id, draft) {
  const name = field(
    "Name",
    h("input", { value: draft.workflow_name, maxlength: "255", required: true, placeholder: "Process New Agents" }),
  );
  const tables = h(
    "datalist",
    { id: "known-tables" },
    [...live.tables.keys()].map((table) => h("option", { value: short(table) })),
  );
  const table = field(
    "Table",
    h("input", {
      value: short(draft.trigger_table),
      required: true,
      list: "known-tables",
      placeholder: "agents",
      spellcheck: "false",
      autocomplete: "off",
    }),
  );
  let event = draft.trigger_event;
  let side = draft.side || "source";
  const columns = field(
    "Watched columns",
    h("input", { value: (draft.watched_columns || []).join(", "), placeholder: "any", spellcheck: "false" }),
    "Only an update that changes one of them counts. Separated by commas; empty: any.",
  );
  const updates = () => show(columns, event === "UPDATE");
  const when = [
    choice(
      "Event",
      "event",
      [
        ["INSERT", "Insert"],
        ["UPDATE", "Update"],
        ["DELETE", "Delete"],
      ],
      event,
      (value) => {
        event = value;
        updates();
      },
    ),
    choice(
      "Where it happens",
      "side",
      [
        ["source", "Your database"],
        ["target", "Supabase"],
      ],
      side,
      (value) => {
        side = value;
      },
    ),
  ];
  updates();
  const only = conditions(draft.condition);
  const act = action(draft.action_config || {});
  const out = h(
    "div",
    { class: "preview", role: "status" },
    h(
      "p",
      { class: "soft" },
      "A dry run takes a recent change of the table, and shows whether it fits and what would be sent. Nothing is sent.",
    ),
  );
  const wrong = h("p", { class: "bad", role: "alert" });

  const boxes = { workflow_name: name, trigger_table: table, watched_columns: columns, condition: only };
  const clear = () => {
    Object.values(boxes).forEach((box) => box.wrong(""));
    act.wrong(null);
    text(wrong, "");
  };
  const blame = (refused) => {
    const place = String(refused.field || "");
    const [first, ...rest] = place.split(/[.[]/);
    if (first === "action_config" && act.wrong(rest[0], sentence(refused.message))) return;
    if (boxes[first]) {
      boxes[first].wrong(sentence(refused.message));
      const control = boxes[first].control;
      if (control) control.focus();
      return;
    }
    text(wrong, sentence(place && !refused.message.includes(place) ? `${place}: ${refused.message}` : refused.message));
  };
  const read = () => ({
    workflow_name: name.control.value.trim(),
    trigger_table: table.control.value.trim(),
    trigger_event: event,
    side,
    watched_columns:
      event === "UPDATE"
        ? columns.control.value
            .split(",")
            .map((word) => word.trim())
            .filter(Boolean)
        : [],
    condition: only.read(),
    action_config: act.read(),
    enabled: draft.enabled !== false,
  });
  const attempt = (button, work) =>
    doing(button, async () => {
      clear();
      let wanted;
      try {
        wanted = read();
      } catch (error) {
        blame({ message: error.message, field: error.field });
        return;
      }
      try {
        await work(wanted);
      } catch (refused) {
        if (refused.status === undefined) throw refused;
        blame(refused);
      }
    });

  const dry = h(
    "button",
    {
      type: "button",
      onclick: () => attempt(dry, async (wanted) => fill(out, outcome(await post("/api/workflows/dry-run", wanted)))),
    },
    "Dry run",
  );
  const save = h("button", { type: "submit", class: "primary" }, id ? "Save" : "Create workflow");
  const trial = id && h("button", { type: "button", onclick: () => doing(trial, () => test(id)) }, "Send test");
  const sheet = h(
    "form",
    {
      novalidate: true,
      class: "builder",
      onsubmit: (submitted) => {
        submitted.preventDefault();
        attempt(save, async (wanted) => {
          await (id ? ask("PUT", `/api/workflows/${encodeURIComponent(id)}`, wanted) : post("/api/workflows", wanted));
          say(
            id
              ? "Saved; it holds from the next change on"
              : `${wanted.workflow_name} is made; it acts from the next change on`,
          );
          location.hash = "#/workflows";
        });
      },
    },
    h(
      "div",
      null,
      h(
        "section",
        { class: "card", "aria-label": "When" },
        name,
        h("h2", { class: "step" }, "When"),
        h("div", { class: "pair" }, table, tables, h("div", null, when[0])),
        when[1],
        columns,
        only,
      ),
      h("section", { class: "card", "aria-label": "Do" }, h("h2", { class: "step" }, "Do"), act.node),
      wrong,
      h("div", { class: "presses" }, save, dry, trial, h("a", { class: "button", href: "#/workflows" }, "Cancel")),
    ),
    h("section", { class: "card side", "aria-label": "Dry run" }, h("h2", null, "Dry run"), out),
  );
  fill(root, h("div", { class: "title" }, h("h1", null, id ? draft.workflow_name : "New workflow")), sheet);
  if (!id) name.control.focus({ preventScroll: true });
}

// The action: fields by its type, or all of it as JSON.
function action(given) {
  let config = { ...given };
  let raw = !FIELDS[config.type];
  let boxes = {};
  const area = h("div");
  const json = field("Action as JSON", h("textarea", { rows: "10", spellcheck: "false" }), TEMPLATES);
  const turn = h("button", {
    type: "button",
    class: "small",
    onclick: () => {
      try {
        config = read();
      } catch (error) {
        return blame(error.field, error.message);
      }
      if (raw && !FIELDS[config.type]) return json.wrong("The type must be trigger_agent_task, webhook or notify.");
      raw = !raw;
      draw();
    },
  });
  const node = h("div", null, area, turn);
  const draw = () => {
    turn.textContent = raw ? "As a form" : "As JSON";
    boxes = {};
    if (raw) {
      json.control.value = JSON.stringify(config, null, 2);
      json.wrong("");
      return fill(area, json);
    }
    for (const [key, label, kind, hint] of FIELDS[config.type])
      boxes[key] = field(label, control(kind, config[key]), hint);
    fill(
      area,
      choice("Action", "type", TYPES, config.type, (type) => {
        const before = config;
        config = { ...keep(before, type), type };
        draw();
      }),
      Object.values(boxes),
    );
  };
  const read = () => {
    if (raw) return parsed(json.control.value, null);
    const out = { ...config };
    for (const [key, , kind] of FIELDS[config.type]) {
      const value = boxes[key].control.value;
      if (kind === "json" ? !value.trim() : value === "" || (kind === "method" && value === "POST" && !config.method))
        delete out[key];
      else out[key] = kind === "json" ? parsed(value, key) : value.trim();
    }
    return out;
  };
  const blame = (key, words) => {
    if (key === null) {
      [...Object.values(boxes), json].forEach((box) => box.wrong(""));
      return true;
    }
    const box = boxes[key] || (raw ? json : null);
    if (box) {
      box.wrong(words);
      box.control.focus();
    }
    return Boolean(box);
  };
  draw();
  return { node, read, wrong: blame };
}

// What both types know stays when the type changes.
const keep = (config, type) =>
  Object.fromEntries(
    FIELDS[type]
      .map(([key]) => key)
      .filter((key) => key in config)
      .map((key) => [key, config[key]]),
  );

function control(kind, value) {
  if (kind === "method") {
    const select = h(
      "select",
      null,
      ["POST", "PUT", "PATCH", "DELETE"].map((name) => h("option", { value: name }, name)),
    );
    select.value = value || "POST";
    return select;
  }
  if (kind === "json") {
    const area = h("textarea", { rows: "4", spellcheck: "false" });
    area.value = value === undefined ? "" : JSON.stringify(value, null, 2);
    return area;
  }
  return h("input", { value: value || "", type: kind, spellcheck: "false" });
}

function parsed(words, key) {
  try {
    return JSON.parse(words);
  } catch (error) {
    const where = /position (\d+)/.exec(error.message);
    const line = where ? ` (line ${words.slice(0, Number(where[1])).split("\n").length})` : "";
    throw Object.assign(
      new Error(`This is not JSON${line}: ${error.message.replace(/ in JSON at position.*| \(line.*/, "")}`),
      { field: key ? `action_config.${key}` : "action_config." },
    );
  }
}

function outcome({ change, matches, why, request }) {
  const parts = [];
  if (!change) parts.push(h("p", { class: "outcome" }, dot("off"), h("b", null, "No change to look at")));
  else
    parts.push(
      h(
        "p",
        { class: "outcome" },
        dot(matches ? "good" : "off"),
        h("b", null, matches ? "It would run" : "It would not run"),
      ),
    );
  if (why) parts.push(h("p", { class: "soft" }, sentence(why)));
  if (request)
    parts.push(h("h3", null, "Request"), h("pre", { tabindex: "0", "aria-label": "The request" }, wire(request)));
  if (change)
    parts.push(
      h(
        "details",
        null,
        h("summary", null, "The change it looked at"),
        h("pre", { tabindex: "0", "aria-label": "The change" }, JSON.stringify(change, null, 2)),
      ),
    );
  return parts;
}

// A request or an answer as it travels.
export function wire({ method, url, headers, body }) {
  const lines = Object.entries(headers || {}).map(([key, value]) => `${key}: ${value}`);
  let words = typeof body === "string" ? body : body == null ? "" : JSON.stringify(body, null, 2);
  if (typeof body === "string")
    try {
      words = JSON.stringify(JSON.parse(body), null, 2);
    } catch {
      /* not JSON: as it is */
    }
  return [[method, url].filter(Boolean).join(" "), ...lines, "", words].join("\n").trim();
}
