// The workflows: when what happens, and how their runs went. The builder is another file.

import { h, fill, dot, say } from "/page/dom.js";
import { get, ask, post, mayAct, doing } from "/page/api.js";
import { number, ago, short, sentence } from "/page/words.js";
import { confirm } from "/page/dialog.js";
import { builder } from "/page/builder.js";

const AGAIN = 3000;
export const SIDES = { source: "your database", target: "Supabase" };

export function workflows(root, act, { rest: [id] }) {
  if (id) return builder(root, id === "new" ? null : id);
  const body = h("div", null, h("section", { class: "card none" }, h("p", null, "Reading the workflows")));
  fill(
    root,
    h(
      "div",
      { class: "title" },
      h("h1", null, "Workflows"),
      h("a", { class: "button", href: "#/runs" }, "All runs"),
      mayAct() && h("a", { class: "button primary", href: "#/workflows/new" }, "New workflow"),
    ),
    h(
      "p",
      { class: "soft lead" },
      "A workflow does something when a row changes: it gives a task to an agent, calls a webhook, or notifies a channel.",
    ),
    body,
  );
  let gone = false;
  let drawn = "";
  const load = async () => {
    try {
      const { workflows: list } = await get("/api/workflows");
      if (gone) return;
      // Ages go on, so it is drawn again when they would read otherwise, too.
      const key = JSON.stringify([list, list.map((one) => one.last_run && ago(one.last_run.created_at))]);
      if (key === drawn || (body.contains(document.activeElement) && drawn && key.length === drawn.length)) return;
      const focus = document.activeElement && document.activeElement.dataset.focus;
      drawn = key;
      fill(body, list.length === 0 ? none() : list.map((one) => card(one, load)));
      const again = focus && body.querySelector(`[data-focus="${CSS.escape(focus)}"]`);
      if (again) again.focus({ preventScroll: true });
    } catch (refused) {
      if (gone) return;
      drawn = "";
      fill(
        body,
        h(
          "section",
          { class: "card none" },
          h("h2", null, "The workflows cannot be read now"),
          h("p", null, sentence(refused.message)),
        ),
      );
    }
  };
  load();
  const timer = setInterval(() => {
    if (!document.hidden) load();
  }, AGAIN);
  return () => {
    gone = true;
    clearInterval(timer);
  };
}

function none() {
  return h(
    "section",
    { class: "card none" },
    h("h2", null, "No workflow yet"),
    h(
      "p",
      null,
      "For example: when a row is inserted into agents, have the central orchestrator onboard the new agent.",
    ),
    mayAct() && h("a", { class: "button primary", href: "#/workflows/new" }, "Make the first one"),
  );
}

function card(one, load) {
  const place = `/api/workflows/${encodeURIComponent(one.id)}`;
  const runs = one.runs || { delivered: 0, waiting: 0, dead: 0 };
  const last = one.last_run;
  const [tone, words] = one.problem
    ? ["bad", "Cannot run"]
    : !one.enabled
      ? ["off", "Off"]
      : runs.dead
        ? ["warn", "Some runs were given up"]
        : ["good", "On"];
  const turn = h("input", {
    type: "checkbox",
    role: "switch",
    checked: one.enabled,
    disabled: !mayAct(),
    "data-focus": `turn ${one.id}`,
    "aria-label": `${one.workflow_name} is on`,
    onchange: () =>
      doing(turn, async () => {
        try {
          await post(`${place}/${turn.checked ? "enable" : "disable"}`);
          say(`${one.workflow_name} is ${turn.checked ? "on" : "off"}`);
        } catch (refused) {
          turn.checked = !turn.checked;
          throw refused;
        } finally {
          load();
        }
      }),
  });
  const trial = h(
    "button",
    {
      type: "button",
      class: "small",
      "data-focus": `test ${one.id}`,
      onclick: () =>
        doing(trial, async () => {
          await test(one.id);
          load();
        }),
    },
    "Send test",
  );
  const away = h(
    "button",
    {
      type: "button",
      class: "small danger",
      onclick: async () => {
        if (
          !(await confirm(
            `Delete ${one.workflow_name}?`,
            "It acts on nothing from now on. Its runs stay in the history for as long as others do.",
            "Delete",
          ))
        )
          return;
        await doing(away, async () => {
          await ask("DELETE", place);
          say(`${one.workflow_name} is deleted`);
          load();
        });
      },
    },
    "Delete",
  );
  const counts = [
    ["delivered", "delivered", "good"],
    ["waiting", "waiting", "busy"],
    ["dead", "given up", "bad"],
  ];
  return h(
    "section",
    { class: "card workflow", "aria-label": one.workflow_name },
    h(
      "div",
      { class: "parked-head" },
      dot(tone),
      h(
        "h2",
        null,
        mayAct() ? h("a", { href: `#/workflows/${encodeURIComponent(one.id)}` }, one.workflow_name) : one.workflow_name,
      ),
      h("span", { class: `small tone-${tone}` }, words),
      h("label", { class: "switch" }, turn),
    ),
    h(
      "p",
      null,
      "When ",
      h("b", null, one.trigger_event),
      " on ",
      h("b", null, short(one.trigger_table)),
      ` in ${SIDES[one.side] || one.side}`,
      one.watched_columns && one.watched_columns.length > 0 && ` changes ${one.watched_columns.join(" or ")}`,
      one.condition && [" and ", h("code", null, condition(one.condition))],
      `, ${deed(one.action_config || {})}.`,
    ),
    one.problem && h("p", { class: "bad" }, sentence(one.problem)),
    h(
      "div",
      { class: "foot" },
      h(
        "span",
        { class: "small soft" },
        counts
          .filter(([key]) => runs[key])
          .map(([key, label, tone], at) => [
            at ? ", " : "",
            h(
              "a",
              { href: `#/runs?workflow=${encodeURIComponent(one.id)}&state=${key}`, class: `tone-${tone}` },
              `${number(runs[key])} ${label}`,
            ),
          ]),
        runs.delivered + runs.waiting + runs.dead === 0 && "No runs yet",
      ),
      last &&
        h(
          "span",
          { class: "small soft" },
          `last ${ago(last.created_at || last.finished_at)}: ${STATES[last.state] ? STATES[last.state][1].toLowerCase() : last.state}`,
        ),
      h(
        "span",
        { class: "presses" },
        h("a", { class: "button small", href: `#/runs?workflow=${encodeURIComponent(one.id)}` }, "Runs"),
        mayAct() && [trial, away],
      ),
    ),
  );
}

export const STATES = {
  waiting: ["busy", "Waiting"],
  delivering: ["busy", "Delivering"],
  delivered: ["good", "Delivered"],
  dead: ["bad", "Given up"],
};

// Sends a test, and says what it was answered with: the run is delivered like any other, a moment later.
export async function test(id) {
  const { run } = await post(`/api/workflows/${encodeURIComponent(id)}/test`);
  for (let tries = 0; tries < 40; tries += 1) {
    await new Promise((resolve) => setTimeout(resolve, 300));
    const {
      state,
      attempts,
      status_code: code,
      latency_ms: latency,
      error,
    } = await get(`/api/workflow-runs/${encodeURIComponent(run)}`);
    if (state === "delivered") return say(`The test was taken${code ? `: ${code} in ${latency} ms` : ""}`);
    if (attempts > 0 && (error || state === "dead")) return say(`The test failed: ${error || code}`, true);
  }
  return say("The test is on its way; its run tells the answer");
}

export function deed(config) {
  if (config.type === "trigger_agent_task") return `agent ${config.agent_id} does ${config.action}`;
  if (config.type === "webhook") return `${config.method || "POST"} to ${config.url}`;
  if (config.type === "notify") return `notify channel ${config.channel}`;
  return config.type ? `do ${config.type}` : "nothing is done";
}

const OPS = {
  eq: "=",
  ne: "≠",
  gt: ">",
  ge: "≥",
  lt: "<",
  le: "≤",
  in: "is one of",
  not_in: "is none of",
  contains: "contains",
  starts_with: "starts with",
  is_null: "is null",
  not_null: "is not null",
  changed: "changed",
};

// A condition as people say it.
export function condition(part) {
  if (!part || typeof part !== "object") return "";
  for (const [key, word] of [
    ["all", " and "],
    ["any", " or "],
  ])
    if (Array.isArray(part[key]))
      return part[key].map((one) => (one.all || one.any ? `(${condition(one)})` : condition(one))).join(word);
  if (part.not) return `not (${condition(part.not)})`;
  const value =
    part.value === undefined
      ? ""
      : ` ${typeof part.value === "object" && part.value && part.value.field ? part.value.field : JSON.stringify(part.value)}`;
  return `${part.field} ${OPS[part.op] || part.op}${value}`;
}
