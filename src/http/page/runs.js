// The runs of workflows, the newest first, a page at a time: a million of them cost what fifty do.

import { h, fill, dot, say, show, text } from "/page/dom.js";
import { get, post, mayAct, doing } from "/page/api.js";
import { moment, ahead, short, count, sentence } from "/page/words.js";
import { open, confirm } from "/page/dialog.js";
import { STATES } from "/page/workflows.js";
import { wire } from "/page/builder.js";

const PAGE = 50;
const AGAIN = 2000;
// More rows than anybody scrolls through: from there on the filter serves better.
const MOST = 2000;

export function runs(root, act, { query }) {
  let workflow = query.get("workflow") || "";
  let state = query.get("state") || "";
  let rows = [];
  let next = null;
  const chosen = new Set();
  const which = h(
    "select",
    {
      "aria-label": "Workflow",
      onchange: () => {
        workflow = which.value;
        load();
      },
    },
    h("option", { value: "" }, "All workflows"),
  );
  const states = h(
    "select",
    {
      "aria-label": "State",
      onchange: () => {
        state = states.value;
        load();
      },
    },
    h("option", { value: "" }, "Any state"),
    Object.entries(STATES).map(([key, [, words]]) => h("option", { value: key }, words)),
  );
  states.value = state;
  const replay = h("button", {
    type: "button",
    hidden: true,
    onclick: () =>
      doing(replay, async () => {
        await again({ ids: [...chosen] });
        chosen.clear();
        draw();
      }),
  });
  const all = h(
    "button",
    {
      type: "button",
      hidden: true,
      onclick: async () => {
        if (
          await confirm(
            "Deliver again?",
            "Every run of this workflow that was given up is delivered again, in its order.",
            "Deliver all again",
            { danger: false },
          )
        )
          await doing(all, () => again({ workflow, state: "dead" }));
      },
    },
    "Deliver all given up again",
  );
  const body = h("tbody");
  const grid = h(
    "section",
    { class: "card sheet" },
    h(
      "table",
      { class: "grid fold runs", "aria-label": "Runs" },
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          [
            ["Choose", "pick"],
            ["When", "time"],
            ["Workflow", ""],
            ["Change", ""],
            ["State", ""],
            ["Answer", "answer"],
          ].map(([words, kind]) =>
            h("th", { scope: "col", class: kind }, words === "Choose" ? h("span", { class: "unseen" }, words) : words),
          ),
        ),
      ),
      body,
    ),
  );
  const none = h("section", { class: "card none" }, h("p", null, "Reading the runs"));
  const more = h(
    "button",
    { type: "button", hidden: true, onclick: () => doing(more, () => load(true)) },
    "Load older",
  );
  fill(
    root,
    h(
      "div",
      { class: "title" },
      h("h1", null, "Workflow runs"),
      h("a", { class: "button", href: "#/workflows" }, "Workflows"),
    ),
    h("div", { class: "tools" }, which, states, h("span", { class: "end presses" }, replay, all)),
    none,
    grid,
    h("p", { class: "after" }, more),
  );
  show(grid, false);

  let gone = false;
  let asked = 0;
  const load = async (older = false) => {
    const mine = (asked += 1);
    const wish = new URLSearchParams({ limit: PAGE });
    if (workflow) wish.set("workflow", workflow);
    if (state) wish.set("state", state);
    if (older && next != null) wish.set("before", next);
    try {
      const page = await get(`/api/workflow-runs?${wish}`);
      if (gone || mine !== asked) return;
      rows = older ? [...rows, ...page.runs] : page.runs;
      next = page.next;
      draw();
    } catch (refused) {
      if (gone || mine !== asked) return;
      fill(none, h("h2", null, "The runs cannot be read now"), h("p", null, sentence(refused.message)));
      show(none, true);
      show(grid, false);
    }
  };
  const again = async (wish) => {
    const answer = await post("/api/workflow-runs/replay", wish);
    say(
      typeof answer.replayed === "number"
        ? `${count(answer.replayed, "run")} delivered again`
        : "They are delivered again",
    );
    await load();
  };
  let drawn = "";
  const draw = () => {
    show(replay, mayAct() && chosen.size > 0);
    text(replay, `Deliver ${count(chosen.size, "run")} again`);
    show(all, mayAct() && workflow && (state === "dead" || rows.some((run) => run.state === "dead")));
    show(more, next != null && rows.length < MOST);
    const key = JSON.stringify([rows, [...chosen]]);
    if (key === drawn) return;
    drawn = key;
    show(grid, rows.length);
    show(none, !rows.length);
    if (!rows.length)
      fill(
        none,
        h("h2", null, workflow || state ? "No run fits" : "No runs yet"),
        h(
          "p",
          null,
          workflow || state
            ? "Choose another workflow or state."
            : "A run appears as soon as a change fits a workflow.",
        ),
      );
    const focus = document.activeElement && document.activeElement.dataset.focus;
    fill(body, rows.map(line));
    const back = focus && body.querySelector(`[data-focus="${CSS.escape(focus)}"]`);
    if (back) back.focus({ preventScroll: true });
  };
  const line = (run) => {
    const id = String(run.id);
    const [tone, words] = STATES[run.state] || ["off", run.state];
    const pick = h("input", {
      type: "checkbox",
      checked: chosen.has(id),
      "data-focus": `pick ${id}`,
      "aria-label": `Choose run ${id}`,
      onchange: () => {
        if (pick.checked) chosen.add(id);
        else chosen.delete(id);
        draw();
      },
    });
    const answer = run.status_code
      ? `${run.status_code}${run.latency_ms != null ? ` in ${run.latency_ms} ms` : ""}`
      : run.error
        ? run.error
        : run.state === "waiting" && run.next_at
          ? `next try ${ahead(run.next_at)}`
          : "–";
    const key = Array.isArray(run.key)
      ? run.key.join(", ")
      : run.key == null
        ? ""
        : typeof run.key === "object"
          ? Object.values(run.key).join(", ")
          : String(run.key);
    return h(
      "tr",
      null,
      h("td", { class: "pick" }, mayAct() && pick),
      h(
        "td",
        null,
        h(
          "button",
          { type: "button", class: "link", "data-focus": `run ${id}`, onclick: () => details(run.id) },
          moment(run.created_at),
        ),
      ),
      h("td", { class: "wide" }, run.workflow_name, run.test && h("span", { class: "soft" }, " test")),
      h("td", { class: "wide soft" }, `${run.event} ${short(run.table)} ${key}`),
      h(
        "td",
        null,
        h(
          "span",
          { class: "state" },
          dot(tone),
          h("span", { class: `tone-${tone}` }, words),
          run.attempts > 1 && h("span", { class: "soft small" }, count(run.attempts, "try", "tries")),
        ),
      ),
      h("td", { class: "wide", title: run.error || null }, answer),
    );
  };
  get("/api/workflows")
    .then(({ workflows }) => {
      if (gone) return;
      which.append(...workflows.map((one) => h("option", { value: one.id }, one.workflow_name)));
      which.value = workflow;
    })
    .catch(() => {
      /* the list says so */
    });
  load();
  const timer = setInterval(() => {
    if (!document.hidden && rows.length <= PAGE) load();
  }, AGAIN);
  return () => {
    gone = true;
    clearInterval(timer);
  };
}

// One run with its request and its answer.
async function details(id) {
  const body = h("div", null, h("p", { class: "soft" }, "Reading"));
  open("Run", body, { wide: true });
  try {
    const run = await get(`/api/workflow-runs/${encodeURIComponent(id)}`);
    const [tone, words] = STATES[run.state] || ["off", run.state];
    const { request, answer } = run;
    fill(
      body,
      h(
        "dl",
        null,
        [
          ["State", h("span", { class: "outcome" }, dot(tone), words)],
          ["Workflow", run.workflow_name],
          ["Change", `${run.event} ${short(run.table)}`],
          ["Recorded", moment(run.created_at)],
          run.finished_at && ["Finished", moment(run.finished_at)],
          ["Tries", run.attempts],
          run.next_at && run.state === "waiting" && ["Next try", ahead(run.next_at)],
          run.status_code && [
            "Answer",
            `${run.status_code}${run.latency_ms != null ? ` in ${run.latency_ms} ms` : ""}`,
          ],
          run.error && ["Error", run.error],
          ["Id", h("code", null, String(run.id))],
        ]
          .filter(Boolean)
          .map(([term, value]) => [h("dt", null, term), h("dd", null, value)]),
      ),
      request && [
        h("h3", null, "Request"),
        h("pre", { tabindex: "0", "aria-label": "Request" }, typeof request === "string" ? request : wire(request)),
      ],
      answer && [
        h("h3", null, "Answer"),
        h("pre", { tabindex: "0", "aria-label": "Answer" }, typeof answer === "string" ? answer : wire(answer)),
      ],
    );
  } catch (refused) {
    fill(body, h("p", { class: "bad" }, sentence(refused.message)));
  }
}
