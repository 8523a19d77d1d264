// The condition of a workflow as a few lines to fill in: all or any of some tests. What is nested deeper is edited as the
// JSON that it is.

import { h, fill, choice, show } from "/page/dom.js";

const OPS = [
  ["eq", "is"],
  ["ne", "is not"],
  ["gt", ">"],
  ["ge", "≥"],
  ["lt", "<"],
  ["le", "≤"],
  ["in", "is one of"],
  ["not_in", "is none of"],
  ["contains", "contains"],
  ["starts_with", "starts with"],
  ["is_null", "is null"],
  ["not_null", "is not null"],
  ["changed", "changed"],
];
const ALONE = ["is_null", "not_null", "changed"];

// A node with `read()`, which gives the condition or throws what is wrong with it.
export function conditions(given) {
  const plain = simple(given);
  let tests = plain ? plain.tests : [];
  let together = plain ? plain.together : "all";
  let raw = !plain;
  const lines = h("div");
  const json = h("textarea", { rows: "6", spellcheck: "false", "aria-label": "Condition as JSON" });
  const how = h("div");
  const add = h(
    "button",
    {
      type: "button",
      class: "small",
      onclick: () => {
        tests.push({ field: "new.", op: "eq", value: "" });
        draw();
        lines.lastChild.querySelector("input").focus();
      },
    },
    "Add a condition",
  );
  const turn = h(
    "button",
    {
      type: "button",
      class: "small",
      onclick: () => {
        if (raw) {
          let parsed;
          try {
            parsed = parse(json.value);
          } catch (error) {
            return wrong(error.message);
          }
          const found = simple(parsed);
          if (!found) return wrong("This condition is nested; it stays JSON.");
          ({ tests, together } = found);
        } else {
          const now = build();
          json.value = now ? JSON.stringify(now, null, 2) : "";
        }
        raw = !raw;
        wrong("");
        draw();
      },
    },
    "",
  );
  const note = h("p", { class: "hint" });
  const wrong = (words) => {
    note.className = words ? "hint wrong" : "hint";
    note.textContent = words;
  };
  const box = h(
    "fieldset",
    { class: "field" },
    h("legend", null, "Only if"),
    how,
    lines,
    json,
    h("div", { class: "presses" }, add, turn),
    note,
  );
  if (raw) json.value = JSON.stringify(given, null, 2);

  const draw = () => {
    show(json, raw);
    show(lines, !raw);
    show(add, !raw);
    show(how, !raw && tests.length > 1);
    turn.textContent = raw ? "As a form" : "As JSON";
    fill(
      how,
      choice(
        "Which of them must hold",
        "together",
        [
          ["all", "All of them"],
          ["any", "Any of them"],
        ],
        together,
        (value) => {
          together = value;
        },
      ),
    );
    fill(lines, tests.map(line));
  };
  const line = (test, at) => {
    const [side, ...name] = test.field.split(".");
    const value = h("input", {
      value: written(test),
      placeholder: "value",
      "aria-label": "Value",
      spellcheck: "false",
      oninput: () => {
        test.value = read(test.op, value.value);
      },
    });
    value.hidden = ALONE.includes(test.op);
    const op = h(
      "select",
      {
        "aria-label": "Comparison",
        onchange: () => {
          test.op = op.value;
          test.value = read(test.op, value.value);
          value.hidden = ALONE.includes(test.op);
        },
      },
      OPS.map(([key, words]) => h("option", { value: key }, words)),
    );
    op.value = test.op;
    const column = h("input", {
      value: name.join("."),
      placeholder: "column",
      "aria-label": "Column",
      spellcheck: "false",
      oninput: () => {
        test.field = `${row.value}.${column.value.trim()}`;
      },
    });
    const row = h(
      "select",
      {
        "aria-label": "New or old value",
        onchange: () => {
          test.field = `${row.value}.${column.value.trim()}`;
        },
      },
      h("option", { value: "new" }, "new"),
      h("option", { value: "old" }, "old"),
    );
    row.value = side === "old" ? "old" : "new";
    return h(
      "div",
      { class: "test" },
      row,
      column,
      op,
      value,
      h(
        "button",
        {
          type: "button",
          class: "icon",
          "aria-label": "Remove this condition",
          onclick: () => {
            tests.splice(at, 1);
            draw();
          },
        },
        "×",
      ),
    );
  };
  const build = () => {
    const parts = tests
      .filter((test) => test.field.length > 4)
      .map(({ field, op, value }) => (ALONE.includes(op) ? { field, op } : { field, op, value }));
    return parts.length === 0 ? null : parts.length === 1 ? parts[0] : { [together]: parts };
  };
  box.read = () => (raw ? parse(json.value) : build());
  box.wrong = wrong;
  draw();
  return box;
}

function parse(text) {
  if (!text.trim()) return null;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`The condition is not JSON: ${error.message}`);
  }
}

// As a form shows it, or nothing where it cannot.
function simple(given) {
  if (!given) return { tests: [], together: "all" };
  const test = (part) =>
    part && typeof part.field === "string" && typeof part.op === "string" && !(part.value && part.value.field);
  if (test(given)) return { tests: [{ ...given }], together: "all" };
  for (const together of ["all", "any"]) {
    if (Array.isArray(given[together]) && given[together].every(test))
      return { tests: given[together].map((part) => ({ ...part })), together };
  }
  return null;
}

const written = (test) =>
  test.value === undefined
    ? ""
    : Array.isArray(test.value)
      ? test.value.join(", ")
      : typeof test.value === "string"
        ? test.value
        : JSON.stringify(test.value);

// Numbers, true, false and null are meant as such; quotes make them texts.
function read(op, words) {
  if (op === "in" || op === "not_in")
    return words
      .split(",")
      .map((word) => read("eq", word.trim()))
      .filter((word) => word !== "");
  const plain = words.trim();
  if (/^(-?(0|[1-9]\d{0,14})(\.\d+)?|true|false|null|".*")$/.test(plain)) {
    try {
      return JSON.parse(plain);
    } catch {
      return words;
    }
  }
  return words;
}
