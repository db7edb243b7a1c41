"use strict";
// Line charts of one or two series over time, drawn as SVG by hand; a missing value (null) is a gap in the line.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 46, right: 10, top: 8, bottom: 22 };

function svg(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// Round numbers, at most about `count` of them, that cover [low, high].
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough - 1e-12);
  const values = [];
  for (let v = Math.floor(low / step + 1e-9) * step; v < high + step * 0.999; v += step) values.push(+v.toPrecision(12));
  return values;
}

function elapsed(seconds) {
  const s = Math.round(seconds);
  const pad = (n) => String(n).padStart(2, "0");
  return s >= 3600 ? `${Math.floor(s / 3600)}:${pad(Math.floor(s / 60) % 60)}:${pad(s % 60)}` : `${Math.floor(s / 60)}:${pad(s % 60)}`;
}

// Steps a reader knows from a clock, so that axis labels are 0:10, 0:20, ... and never 0:17.
function timeStep(span, count) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
  return steps.find((s) => span / s <= count) || 7200;
}

const isThere = (value) => value !== null && value !== undefined;

function path(times, values, x, y) {
  let d = "";
  let pen = "M";
  values.forEach((value, i) => {
    if (!isThere(value)) { pen = "M"; return; }
    d += `${pen}${x(times[i]).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
  });
  return d;
}

// Points between two gaps: no line reaches them, so they are drawn as dots.
function lonely(values) {
  return values.map((_, i) => i).filter((i) => isThere(values[i]) && !isThere(values[i - 1]) && !isThere(values[i + 1]));
}

// Labels of an axis, all with one unit and one number of digits: as few as tell its ticks apart.
function labels(values) {
  const largest = Math.max(...values.map(Math.abs));
  const [unit, suffix] = [[1e9, "B"], [1e6, "M"], [1e3, "K"]].find(([u]) => largest >= Math.max(u, 1e5)) || [1, ""];
  const near = Math.abs(values[1] - values[0]) / unit / 1000;
  const digits = [0, 1, 2, 3, 4, 5].find((n) => values.every((v) => Math.abs(v / unit - +(v / unit).toFixed(n)) < near)) ?? 6;
  const format = new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return values.map((v) => format.format(v / unit) + (v ? suffix : ""));
}

function latest(values) {
  for (let i = values.length - 1; i >= 0; i--) if (isThere(values[i])) return values[i];
  return null;
}

class LineChart {
  // series: [{name, kind: "one" | "two"}]; format: value -> text of the legend; zero: whether the y axis starts at 0.
  constructor(figure, label, series, format, zero) {
    Object.assign(this, { label, series, format, zero, times: [], values: [] });
    this.legend = document.createElement("div");
    this.legend.className = "legend";
    this.figures = series.map((s) => {
      const item = document.createElement("span");
      const figureText = document.createElement("b");
      const stroke = document.createElement("i");
      stroke.className = s.kind;
      item.append(stroke, s.name, figureText);
      this.legend.append(item);
      return figureText;
    });
    this.svg = svg("svg", { role: "img" });
    figure.append(this.legend, this.svg);
    this.svg.addEventListener("pointermove", (event) => { this.pointer = event.offsetX; this.draw(); });
    this.svg.addEventListener("pointerleave", () => { this.pointer = undefined; this.draw(); });
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  update(times, values) {
    this.times = times;
    this.values = values;
    this.draw();
  }

  range() {
    const all = this.values.flat().filter(isThere);
    if (!all.length) return [0, 1];
    const high = Math.max(...all);
    const low = this.zero ? 0 : Math.min(...all);
    return high > low ? [low, high] : [this.zero ? 0 : low - 0.01, high + (this.zero ? 1 : 0.01)];
  }

  draw() {
    const width = this.svg.clientWidth || 480;
    const height = this.svg.clientHeight || 190;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren();
    const yTicks = ticks(...this.range(), 4);
    const [low, high] = [yTicks[0], yTicks[yTicks.length - 1]];
    const start = this.times.length ? this.times[0] : 0;
    const span = Math.max(this.times.length ? this.times[this.times.length - 1] - start : 0, 10);
    const x = (t) => MARGIN.left + ((t - start) / span) * (width - MARGIN.left - MARGIN.right);
    const y = (v) => height - MARGIN.bottom - ((v - low) / (high - low)) * (height - MARGIN.top - MARGIN.bottom);
    this.axes(width, height, start, span, yTicks, x, y);
    this.values.forEach((values, i) => {
      const d = path(this.times, values, x, y);
      const kind = this.series[i].kind;
      if (d) this.svg.append(svg("path", { d, class: kind }));
      for (const p of lonely(values)) this.svg.append(svg("circle", { cx: x(this.times[p]), cy: y(values[p]), r: 2.5, class: `${kind} dot` }));
    });
    this.describe(height, x, y);
  }

  axes(width, height, start, span, yTicks, x, y) {
    const texts = labels(yTicks);
    for (const [i, v] of yTicks.entries()) {
      const line = { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(v), y2: y(v), class: v === yTicks[0] ? "axis" : "grid" };
      this.svg.append(svg("line", line), svg("text", { x: MARGIN.left - 8, y: y(v) + 4, "text-anchor": "end" }, texts[i]));
    }
    const step = timeStep(span, Math.max(2, Math.floor(width / 90)));
    for (let t = Math.ceil(start / step) * step; t <= start + span; t += step) {
      const anchor = x(t) > width - 24 ? "end" : "middle";
      this.svg.append(svg("text", { x: x(t), y: height - 5, "text-anchor": anchor }, elapsed(t)));
    }
    if (!this.values.flat().some(isThere)) {
      this.svg.append(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "nothing yet"));
    }
  }

  // The legend shows the value under the pointer, or else the latest; a screen reader hears the latest.
  describe(height, x, y) {
    const at = this.pointer === undefined ? -1 : this.nearest(x);
    if (at >= 0) {
      const cx = x(this.times[at]);
      this.svg.append(svg("line", { x1: cx, x2: cx, y1: MARGIN.top, y2: height - MARGIN.bottom, class: "cursor" }));
      this.svg.append(svg("text", { x: cx, y: MARGIN.top + 2, "text-anchor": "middle" }, elapsed(this.times[at])));
    }
    const spoken = this.series.map((s, i) => {
      const values = this.values[i] || [];
      const value = at >= 0 ? values[at] : latest(values);
      const text = isThere(value) ? this.format(value) : "–";
      this.figures[i].textContent = text;
      if (at >= 0 && text !== "–") this.svg.append(svg("circle", { cx: x(this.times[at]), cy: y(value), r: 4, class: s.kind }));
      return `${s.name} ${text}`;
    });
    this.svg.setAttribute("aria-label", `${this.label} over time; latest: ${spoken.join(", ")}`);
  }

  nearest(x) {
    let best = -1;
    this.times.forEach((t, i) => {
      if (best < 0 || Math.abs(x(t) - this.pointer) < Math.abs(x(this.times[best]) - this.pointer)) best = i;
    });
    return best;
  }
}
