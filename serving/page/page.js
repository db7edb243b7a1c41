"use strict";
// Shows /stats.json once a second; or, in a report, the figures that are embedded in the page as <script id="data">.

const PERIOD_MS = 1000;
const PATIENCE_MS = 4000;

const number = (digits) => new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const digitsOf = (v) => (v === 0 || Math.abs(v) >= 100 ? 0 : Math.abs(v) >= 10 ? 1 : 2);

const FORMATS = {
  text: (v) => String(v),
  plain: (v) => String(Math.round(v)),
  count: (v) => number(0).format(v),
  rate: (v) => `${number(v >= 100 ? 0 : 1).format(v)} /s`,
  ms: (v) => (v >= 10000 ? `${number(1).format(v / 1000)} s` : `${number(digitsOf(v)).format(v)} ms`),
  auc: (v) => number(4).format(v),
  span: (v) => (v < 60000 ? `${number(1).format(v / 1000)} s` : elapsed(v / 1000)),
  signed: (v) => `${v < 0 ? "−" : "+"}${number(4).format(Math.abs(v))}`,
  bytes: (v) => {
    const power = v < 1024 ? 0 : Math.min(4, Math.floor(Math.log2(v) / 10));
    return `${number(power && v / 1024 ** power < 100 ? 1 : 0).format(v / 1024 ** power)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
  },
};

const at = (stats, dotted) => dotted.split(".").reduce((value, key) => (value === null || value === undefined ? value : value[key]), stats);
const isMissing = (value) => value === null || value === undefined;
const short = (v) => number(v && Math.abs(v) < 10 && v % 1 ? (Math.abs(v) < 1 ? 3 : 1) : 0).format(v);

const CHARTS = [
  ["chart-auc", "AUC", ["online", "frozen"], ["online_auc", "frozen_auc"], (v) => number(3).format(v), false],
  ["chart-freshness", "Freshness in milliseconds", ["99th percentile", "median"], ["freshness_p99_ms", "freshness_p50_ms"], short, true],
  ["chart-examples", "Examples per second", ["examples"], ["examples_per_s"], short, true],
  ["chart-requests", "Requests per second", ["requests"], ["requests_per_s"], short, true],
  ["chart-latency", "Request latency in milliseconds", ["99th percentile", "median"], ["request_p99_ms", "request_p50_ms"], short, true],
  ["chart-rows", "Rows", ["serving", "store"], ["replica_rows", "store_rows"], short, true],
].map(([id, label, names, keys, format, zero]) => {
  const series = names.map((name, i) => ({ name, kind: ["one", "two"][i] }));
  return { keys, chart: new LineChart(document.getElementById(id), label, series, format, zero) };
});

function showFigures(stats) {
  for (const node of document.querySelectorAll("[data-figure]")) {
    const value = at(stats, node.dataset.figure);
    node.textContent = isMissing(value) ? "–" : FORMATS[node.dataset.format](value);
    node.dataset.value = isMissing(value) ? "" : value;
  }
  for (const node of document.querySelectorAll("[data-verdict]")) {
    const agrees = at(stats, node.dataset.verdict);
    node.textContent = isMissing(agrees) ? "" : agrees ? "✓ agrees" : "✗ does not agree";
    node.className = `verdict ${isMissing(agrees) ? "" : agrees ? "yes" : "no"}`;
  }
}

// What freshness would be measured from has not come yet: that is not the same as a figure that is missing.
function showFreshness(freshness) {
  document.getElementById("freshness-none").hidden = freshness.actions > 0;
  for (const name of ["freshness-recent", "freshness-run"]) document.getElementById(name).hidden = !freshness.actions;
}

// Only where the server looks at a cluster. A report is read when that may have ended, so it has no link.
function showFlink(flink, live) {
  document.getElementById("flink").hidden = !flink;
  if (!flink) return;
  document.getElementById("flink-state").dataset.state = flink.state;
  document.getElementById("flink-error").textContent = flink.error ?? "";
  document.getElementById("flink-up-note").hidden = flink.state !== "running";
  const link = document.getElementById("flink-link");
  link.hidden = !live;
  link.href = flink.url;
}

function showState(name, text, detail) {
  const node = document.getElementById("state");
  if (node.textContent !== text) node.textContent = text;
  node.dataset.state = name;
  document.getElementById("state-detail").textContent = detail;
  document.body.classList.toggle("stale-page", name === "lost");
}

function show(stats, live) {
  document.title = `monobeam: ${stats.model}`;
  showFigures(stats);
  showFreshness(stats.freshness);
  showFlink(stats.flink, live);
  for (const { keys, chart } of CHARTS) chart.update(stats.series.time_s, keys.map((key) => stats.series[key]));
  const up = elapsed(stats.uptime_s);
  document.getElementById("foot").textContent =
    `As of ${utc(stats.time_us)}, ${up} after the start. ` +
    `Percentiles are over the last ${stats.window_s} s, rates over the last ${stats.rate_window_s} s.`;
}

function utc(timeUs) {
  return `${new Date(timeUs / 1000).toISOString().replace("T", " ").slice(0, 19)} UTC`;
}

let lastAnswer = performance.now();

async function poll() {
  try {
    const answer = await fetch("stats.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const stats = await answer.json();
    lastAnswer = performance.now();
    show(stats, true);
    showState(stats.state.name, stats.state.name, stats.state.detail);
  } catch (error) {
    const seconds = Math.round((performance.now() - lastAnswer) / 1000);
    showState("lost", "connection lost", `no answer for ${seconds} s; trying again`);
  }
  setTimeout(poll, PERIOD_MS);
}

const embedded = document.getElementById("data");
if (embedded) {
  const stats = JSON.parse(embedded.textContent);
  show(stats, false);
  showState("report", "report", `as of ${utc(stats.time_us)}`);
} else {
  poll();
}
