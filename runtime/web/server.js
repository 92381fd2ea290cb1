// The server's figures: charts of the last two minutes, a card a model, and the report of the chosen one.

import { Chart } from "/web/charts.js";
import { getJson } from "/web/api.js";
import { element } from "/web/markdown.js";

const $ = (id) => document.getElementById(id);
const whole = (value) => Math.round(value).toLocaleString("en");
const percent = (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`;

export class ServerView {
  constructor() {
    this.previous = null;
    this.requests = new Chart({ title: "Requests", series: ["running", "waiting"], least: 4, format: whole });
    this.cache = new Chart({ title: "KV cache", series: ["in use"], max: 1, format: percent });
    this.rate = new Chart({ title: "Tokens a second", series: ["generated", "prompt"], least: 10, format: whole });
    $("charts").append(this.requests.node, this.cache.node, this.rate.node);
  }

  take(stats) {
    const sum = (name) => stats.models.reduce((total, model) => total + model[name], 0);
    const now = { time: stats.time, generated: sum("generation_tokens"), prompt: sum("prompt_tokens") };
    const before = this.previous ?? now;
    this.previous = now;
    const passed = now.time - before.time;
    // A counter that fell belongs to an engine that was started again.
    const rate = (name) => (passed > 0 ? Math.max(0, now[name] - before[name]) / passed : 0);
    this.requests.add(now.time, [sum("running"), sum("waiting")]);
    this.cache.add(now.time, [Math.max(0, ...stats.models.map((model) => model.kv_cache_usage))]);
    this.rate.add(now.time, [rate("generated"), rate("prompt")]);
    const num = stats.models.length;
    $("server-summary").textContent =
      `pagedc ${stats.version}, ${num} model${num === 1 ? "" : "s"}, up ${duration(stats.uptime)}, ` +
      `${stats.connections} connection${stats.connections === 1 ? "" : "s"}`;
    $("models").replaceChildren(...stats.models.map(card));
  }
}

function card(model) {
  const hits = model.prefix_cache_queries ? percent(model.prefix_cache_hits / model.prefix_cache_queries) : "–";
  const rows = [
    ["Running", whole(model.running)],
    ["Waiting", whole(model.waiting)],
    ["KV cache", percent(model.kv_cache_usage)],
    ["Prefix-cache hits", hits],
    ["Tokens generated", whole(model.generation_tokens)],
    ["Preemptions", whole(model.preemptions)],
    ["Restarts", whole(model.restarts)],
    ["Context", `${whole(model.max_model_len)} tokens`],
  ];
  return element(
    "article",
    { className: "card" },
    element("h4", {}, model.names.join(", "), element("span", { className: `state ${model.status}`, textContent: model.status })),
    element("dl", {}, ...rows.map(([name, value]) => row(name, value))),
  );
}

const row = (name, value) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }));

function duration(value) {
  if (value < 90) return `${Math.round(value)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  return value < 172800 ? `${(value / 3600).toFixed(1)} h` : `${Math.round(value / 86400)} days`;
}

export async function showReport(name) {
  const frame = $("report-frame");
  frame.hidden = true;
  $("report-note").textContent = "Loading…";
  try {
    const report = await getJson(`/web/report?model=${encodeURIComponent(name)}`);
    $("facts").replaceChildren(...report.facts.map(({ label, value }) => row(label, value)));
    $("report-note").textContent = report.url
      ? `How ${name} was compiled, as its package tells.`
      : `The package of ${name} holds no report.`;
    if (report.url) {
      frame.src = report.url;
      frame.hidden = false;
    }
  } catch (error) {
    $("facts").replaceChildren();
    $("report-note").textContent = error.message;
  }
}
