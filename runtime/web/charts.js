// A line chart of the last two minutes as SVG, with its newest values in words beside it.

import { element } from "/web/markdown.js";

const SVG = "http://www.w3.org/2000/svg";
const SECONDS = 120;
const WIDTH = 600;
const HEIGHT = 150;
const TOP = 8;

function svg(name, attributes = {}) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

export class Chart {
  // `series`: [{ name, format }]; the scale begins at 0 and ends at `max`, or grows with the values.
  constructor({ title, series, max = null, least = 1, format = String }) {
    this.max = max;
    this.least = least;
    this.format = format;
    this.points = []; // [seconds, value of each series]
    this.lines = series.map((_, i) => svg("path", { class: `line s${i}` }));
    this.areas = series.map((_, i) => svg("path", { class: `area s${i}` }));
    this.values = series.map(() => element("b", { textContent: "–" }));
    this.top = element("span", { className: "scale" });
    const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    for (const part of [0, 0.5, 1]) {
      const y = TOP + (HEIGHT - TOP - 1) * part;
      drawing.append(svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }));
    }
    drawing.append(...this.areas, ...this.lines);
    const legend = series.map((name, i) =>
      element("span", { className: `key s${i}` }, element("i"), `${name} `, this.values[i]),
    );
    this.node = element(
      "figure",
      { className: "chart" },
      element("figcaption", {}, element("h3", { textContent: title }), element("div", { className: "legend" }, ...legend)),
      element("div", { className: "plot" }, this.top, drawing),
      element("div", { className: "axis" }, element("span", { textContent: "2 min ago" }), element("span", { textContent: "now" })),
    );
  }

  add(time, values) {
    this.points.push([time, ...values]);
    while (this.points.length && this.points[0][0] < time - SECONDS) this.points.shift();
    const top = this.max ?? niceCeiling(Math.max(this.least, ...this.points.flatMap((point) => point.slice(1))));
    this.top.textContent = this.format(top);
    values.forEach((value, i) => {
      this.values[i].textContent = this.format(value);
      const steps = this.points.map((point) => {
        const x = WIDTH * (1 - (time - point[0]) / SECONDS);
        const y = HEIGHT - 1 - (HEIGHT - TOP - 1) * Math.min(point[i + 1] / top, 1);
        return `${x.toFixed(1)},${y.toFixed(1)}`;
      });
      this.lines[i].setAttribute("d", `M${steps.join("L")}`);
      const first = steps[0].split(",")[0];
      this.areas[i].setAttribute("d", `M${first},${HEIGHT}L${steps.join("L")}L${WIDTH},${HEIGHT}Z`);
    });
  }
}

function niceCeiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((digit) => digit * power).find((step) => step >= value);
}
