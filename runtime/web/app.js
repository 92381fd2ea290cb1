// Wires the page: tabs, theme, settings, the list of models and the clock of the figures.

import { ApiError, apiKey, getJson, setApiKey } from "/web/api.js";
import { Chat } from "/web/chat.js";
import { element } from "/web/markdown.js";
import { ServerView, showReport } from "/web/server.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = ["top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];
const PERIOD = 1000; // milliseconds between two readings of the figures
const VIEWS = ["chat", "server", "report"];

let temperature = null; // null = the model's default

function sampling() {
  const fields = temperature === null ? {} : { temperature };
  for (const id of NUMBERS) if ($(id).value !== "" && $(id).validity.valid) fields[id] = Number($(id).value);
  return fields;
}

function setTemperature(value) {
  temperature = value;
  $("temperature-value").textContent = value === null ? "default" : value.toFixed(2);
  if (value === null) $("temperature").value = "1";
}

$("temperature").addEventListener("input", () => setTemperature(Number($("temperature").value)));
$("reset-sampling").addEventListener("click", () => {
  setTemperature(null);
  for (const id of NUMBERS) $(id).value = "";
});
$("settings-form").addEventListener("submit", (event) => event.preventDefault());

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function openSettings(isOpen, focus = null) {
  $("settings").hidden = !isOpen;
  $("toggle-settings").setAttribute("aria-expanded", String(isOpen));
  if (isOpen) (focus ?? $("temperature")).focus();
  else $("toggle-settings").focus();
}

$("toggle-settings").addEventListener("click", () => openSettings($("settings").hidden));
$("close-settings").addEventListener("click", () => openSettings(false));
$("settings").addEventListener("keydown", (event) => {
  if (event.key === "Escape") openSettings(false);
});

function askForKey() {
  notice(apiKey() ? "The server does not take this API key." : "The server asks for an API key: enter it in the settings.");
  openSettings(true, $("key"));
}

$("key").value = apiKey();
$("key").addEventListener("change", () => {
  setApiKey($("key").value.trim());
  isLocked = false;
  loadModels();
});

// Theme

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
const showTheme = () => $("toggle-theme").setAttribute("aria-pressed", String(isDark()));
$("toggle-theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("pagedc-theme", theme);
  } catch {
    // storage is switched off: it lasts as long as the page
  }
  showTheme();
});
dark.addEventListener("change", showTheme);
showTheme();

// Tabs

function show(view) {
  for (const name of VIEWS) {
    const isShown = name === view;
    $(`view-${name}`).hidden = !isShown;
    $(`tab-${name}`).setAttribute("aria-selected", String(isShown));
    $(`tab-${name}`).tabIndex = isShown ? 0 : -1;
  }
  if (view === "report") showReport($("model").value);
  if (view === "server") readFigures();
}

for (const name of VIEWS) $(`tab-${name}`).addEventListener("click", () => show(name));
document.querySelector(".tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const current = VIEWS.findIndex((name) => $(`tab-${name}`).getAttribute("aria-selected") === "true");
  const next = VIEWS[(current + step + VIEWS.length) % VIEWS.length];
  show(next);
  $(`tab-${next}`).focus();
});

// Models and figures

let isLocked = false; // the server wants another key: ask nothing until it is given

function refused(error) {
  if (error instanceof ApiError && error.status === 401) {
    isLocked = true;
    askForKey();
  } else {
    notice(error.message);
  }
}

async function loadModels() {
  try {
    const { data } = await getJson("/v1/models");
    const chosen = $("model").value;
    $("model").replaceChildren(...data.map(({ id }) => element("option", { value: id, textContent: id })));
    if (data.some(({ id }) => id === chosen)) $("model").value = chosen;
    notice("");
    showModel();
    await readFigures();
  } catch (error) {
    $("welcome-model").textContent = "";
    refused(error);
  }
}

function showModel() {
  $("welcome-model").textContent = `${$("model").value} answers, on this server.`;
  document.title = `${$("model").value} – pagedc`;
}

$("model").addEventListener("change", () => {
  showModel();
  if (!$("view-report").hidden) showReport($("model").value);
});

const server = new ServerView();
let names = "";
let isReading = false;

async function readFigures() {
  if (isReading || isLocked || document.hidden) return;
  isReading = true;
  try {
    const stats = await getJson("/web/stats");
    server.take(stats);
    if (!$("notice").hidden) notice("");
    const now = stats.models.map((model) => model.names.join()).join();
    if (names && names !== now) loadModels(); // one was loaded or unloaded
    names = now;
  } catch (error) {
    refused(error);
  } finally {
    isReading = false;
  }
}

new Chat({
  model: () => $("model").value,
  sampling,
  system: () => $("system").value.trim(),
  onUnauthorized: askForKey,
});
await loadModels();
setInterval(readFigures, PERIOD);
if (!isLocked && matchMedia("(min-width: 900px)").matches) $("message").focus();
