// The page's few tools for building elements. Values go in as text only: nothing here reads a string as HTML.

const SVG = "http://www.w3.org/2000/svg";

// h("button", { class: "small", onclick: act }, "Sync", icon): attributes by name, handlers by on…, children as text or
// nodes; nothing for null, undefined and false.
export function h(tag, attributes, ...children) {
  const svg = ["svg", "path", "circle", "line"].includes(tag);
  const element = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter((child) => child != null && child !== false));
  return element;
}

// Writes only what changed, so that selections, screen readers and the renderer are left in peace.
export function text(element, value) {
  const wanted = value == null ? "" : String(value);
  if (element.textContent !== wanted) element.textContent = wanted;
}

export function show(element, shown) {
  if (element.hidden === Boolean(shown)) element.hidden = !shown;
}

export function fill(element, ...children) {
  element.replaceChildren(...children.flat(9).filter((child) => child != null && child !== false));
}

export const $ = (id) => document.getElementById(id);

// What it means in a colour and in a shape; the words stand beside it.
export function dot(tone) {
  return h("span", { class: `dot ${tone}`, "aria-hidden": "true" });
}

export function setTone(element, tone) {
  if (element.className !== `dot ${tone}`) element.className = `dot ${tone}`;
}

let said = 0;
// The outcome of what somebody did, shown for a while and read aloud.
export function say(words, bad = false) {
  const toast = $("said");
  toast.className = bad ? "toast shown bad" : "toast shown";
  text(toast, words);
  toast.hidePopover();
  toast.showPopover(); // above whatever dialog is open
  clearTimeout(said);
  said = setTimeout(
    () => {
      toast.className = "toast";
    },
    bad ? 9000 : 4500,
  );
}

// For screen readers alone: a change that others see by colour.
export function aloud(words) {
  text($("aloud"), words);
}

// SQL or a command to be taken elsewhere.
export function copyable(code, label) {
  const pre = h("pre", { tabindex: "0", "aria-label": label }, h("code", null, code));
  const button = h(
    "button",
    {
      type: "button",
      class: "small",
      onclick: async () => {
        try {
          await navigator.clipboard.writeText(code);
          text(button, "Copied");
        } catch {
          getSelection().selectAllChildren(pre); // no clipboard without TLS: selected, the keyboard does the rest
          text(button, "Selected");
        }
        setTimeout(() => text(button, "Copy"), 1500);
      },
    },
    "Copy",
  );
  return h("div", { class: "copyable" }, pre, button);
}

let ids = 0;
// A label above a control, with a hint or what is wrong below it.
export function field(label, control, hint) {
  control.id ||= `f${(ids += 1)}`;
  const note = h("p", { class: "hint", id: `${control.id}-note` }, hint || "");
  control.setAttribute("aria-describedby", note.id);
  const box = h("div", { class: "field" }, h("label", { for: control.id }, label), control, note);
  box.control = control;
  box.wrong = (words) => {
    note.className = words ? "hint wrong" : "hint";
    if (words) control.setAttribute("aria-invalid", "true");
    else control.removeAttribute("aria-invalid");
    text(note, words || hint || "");
  };
  return box;
}

// One of a few, as buttons that stand side by side.
export function choice(label, name, options, value, onchange) {
  const group = `${name}${(ids += 1)}`;
  return h(
    "fieldset",
    { class: "choice" },
    h("legend", null, label),
    h(
      "div",
      { class: "segments" },
      options.map(([key, words]) =>
        h(
          "label",
          null,
          h("input", { type: "radio", name: group, value: key, checked: key === value, onchange: () => onchange(key) }),
          h("span", null, words),
        ),
      ),
    ),
  );
}
