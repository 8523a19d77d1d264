// Dialogs, by the browser's own <dialog>: focus stays inside, Escape closes, and goes back to where it came from.

import { h } from "/page/dom.js";

export function open(title, body, { wide = false, onclose = null, buttons = [] } = {}) {
  const dialog = h("dialog", { class: wide ? "wide" : "", "aria-label": title });
  const close = () => dialog.close();
  const foot = h("div", { class: "buttons" }, buttons || []);
  dialog.append(
    h(
      "div",
      { class: "head" },
      h("h2", null, title),
      h("button", { type: "button", class: "icon", "aria-label": "Close", onclick: close }, "×"),
    ),
    h("div", { class: "body" }, body),
    foot,
  );
  dialog.foot = foot;
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (onclose) onclose();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

// Asks before something that cannot be taken back. True when it was confirmed.
export function confirm(title, words, action, { danger = true } = {}) {
  return new Promise((resolve) => {
    let yes = false;
    const dialog = open(title, h("p", null, words), { onclose: () => resolve(yes) });
    dialog.foot.append(
      h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
      h(
        "button",
        {
          type: "button",
          class: danger ? "danger" : "primary",
          onclick: () => {
            yes = true;
            dialog.close();
          },
        },
        action,
      ),
    );
    dialog.foot.firstChild.focus();
  });
}
