// A curve of the last minutes, in SVG that is made once and given a new path each second.

import { h } from "/page/dom.js";

const WIDTH = 240;
const HEIGHT = 40;

export function curve(label) {
  const area = h("path", { class: "area" });
  const line = h("path", { class: "line" });
  const svg = h(
    "svg",
    {
      class: "curve",
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": label,
    },
    area,
    line,
  );
  // `null` where nothing was known: the line has a gap there. `least` keeps noise near zero from looking like a storm.
  svg.draw = (values, room, least) => {
    const top = Math.max(least, ...values.filter((value) => value != null)) * 1.1;
    const x = (at) => (WIDTH - ((values.length - 1 - at) * WIDTH) / (room - 1)).toFixed(1);
    const y = (value) => (HEIGHT - 1.5 - ((HEIGHT - 4) * value) / top).toFixed(1);
    let path = "";
    let under = "";
    let from = null;
    values.forEach((value, at) => {
      if (value == null) {
        if (from != null) under += `L${x(at - 1)} ${HEIGHT}Z`;
        from = null;
        return;
      }
      path += `${from == null ? "M" : "L"}${x(at)} ${y(value)}`;
      under += from == null ? `M${x(at)} ${HEIGHT}L${x(at)} ${y(value)}` : `L${x(at)} ${y(value)}`;
      from ??= at;
    });
    if (from != null) under += `L${WIDTH} ${HEIGHT}Z`;
    line.setAttribute("d", path);
    area.setAttribute("d", under);
  };
  return svg;
}
