// The dashboard: routes between pages, the state of the service, the key box.

import { get, key, list } from "/assets/api.js";
import { empty, h, json, number, row, size, table, time } from "/assets/dom.js";
import { newJob } from "/assets/form.js";
import { jobPage } from "/assets/job.js";
import { jobsPage } from "/assets/jobs.js";

const main = document.getElementById("main");
const state = document.getElementById("state");
const keyForm = document.getElementById("key");
const keyValue = document.getElementById("key-value");
let leave = new AbortController();

function say(text, tone = "") {
  const message = document.getElementById("message");
  message.hidden = !text;
  message.className = `message ${tone}`;
  message.textContent = text;
}

async function shelf(page, kind, columns, cells, hint) {
  const body = h("tbody");
  const more = h("button", { type: "button", hidden: true }, "Load more");
  const note = h("div");
  let cursor = null;
  async function load() {
    const query = new URLSearchParams({ limit: "50", ...(cursor ? { cursor } : {}) });
    const found = await list(`/v1/${kind}?${query}`, page.signal);
    body.append(...found.data.map((item) => row(cells(item))));
    cursor = found.next_cursor;
    more.hidden = !(found.has_more && cursor);
    if (!body.childElementCount) note.replaceChildren(empty(hint));
  }
  more.addEventListener("click", () => load().catch(page.fail));
  const name = kind[0].toUpperCase() + kind.slice(1);
  const frame = table(name, columns, []);
  frame.querySelector("tbody").replaceWith(body);
  page.show(h("h1", null, name), frame, note, more);
  await load();
}

const modelsPage = (page) => shelf(page, "models", ["Model", "Architecture", "State", "Parameters", "Size", "Uploaded"],
  (m) => [[h("code", null, m.id), m.name ? h("span", { cls: "under" }, m.name) : null], m.architecture || "–",
    m.state || "–", number(m.parameters), size(m.size_bytes), time(m.created_at)],
  "No model yet. Upload a safetensors state dict with POST /v1/models, or train an architecture within a job.");

const datasetsPage = (page) => shelf(page, "datasets", ["Dataset", "State", "Size", "Holds", "Uploaded"],
  (d) => [[h("code", null, d.id), d.name ? h("span", { cls: "under" }, d.name) : null], d.state || "–", size(d.size_bytes), holds(d), time(d.created_at)],
  "No dataset uploaded. Built-in datasets, such as digits, are under Methods.");

function holds(dataset) {
  const classes = Array.isArray(dataset.classes) ? dataset.classes.length : dataset.classes;
  const parts = [...Object.entries(dataset.counts || {}), ["classes", classes]]
    .filter(([, value]) => typeof value === "number").map(([name, value]) => `${number(value)} ${name}`);
  return parts.join(", ") || "–";
}

async function methodsPage(page) {
  const catalogue = await get("/v1/methods", page.signal);
  const groups = Object.entries(catalogue).filter(([, items]) => Array.isArray(items));
  page.show(h("h1", null, "Methods"), groups.map(([group, items]) => h("section", null,
    h("h2", null, `${group[0].toUpperCase()}${group.slice(1)} `, h("span", { cls: "hint" }, items.length)),
    items.length ? items.map(methodEntry) : empty("None."))));
}

function methodEntry(item) {
  if (typeof item === "string") return h("p", null, h("code", null, item));
  const properties = Object.entries((item.params && item.params.properties) || {});
  const title = [h("code", null, item.name), " ", item.summary || ""];
  if (!properties.length) return h("p", { cls: "entry" }, title);
  const type = (p) => p.enum ? p.enum.map((v) => JSON.stringify(v)).join(" | ") : p.const !== undefined ? JSON.stringify(p.const)
    : Array.isArray(p.anyOf) ? p.anyOf.map(type).join(" | ") : p.type || "any";
  return h("details", { cls: "entry" }, h("summary", null, title),
    table(`Parameters of ${item.name}`, ["Parameter", "Type", "Default", ""], properties.map(([name, p]) => row([
      h("code", null, name), type(p), p.default === undefined ? "required" : JSON.stringify(p.default), p.description || ""]))),
    h("details", null, h("summary", null, "JSON Schema"), json(item.params)));
}

const PAGES = [
  [/^\/jobs\/([^/]+)$/, jobPage], [/^\/jobs$/, jobsPage], [/^\/new$/, newJob],
  [/^\/models$/, modelsPage], [/^\/datasets$/, datasetsPage], [/^\/methods$/, methodsPage],
];

async function route() {
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const path = location.hash.replace(/^#/, "").split("?")[0] || "/jobs";
  if (!path.startsWith("/")) return;
  for (const link of document.querySelectorAll("nav a")) {
    const here = path.startsWith(link.getAttribute("href").slice(1));
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  say("");
  const page = {
    signal,
    say,
    show: (...nodes) => signal.aborted || main.replaceChildren(...nodes.flat(Infinity)),
    fail: (error) => {
      if (signal.aborted || error.name === "AbortError") return;
      say(error.requestId ? `${error.message} (request ${error.requestId})` : error.message, "bad");
    },
  };
  const found = PAGES.map(([pattern, render]) => [pattern.exec(path), render]).find(([match]) => match);
  if (!found) return page.show(h("h1", null, "Not found"), h("p", null, h("a", { href: "#/jobs" }, "Back to the jobs")));
  main.setAttribute("aria-busy", "true");
  try {
    await found[1](page, ...found[0].slice(1).map(decodeURIComponent));
  } catch (error) {
    if (!main.childElementCount || !signal.aborted) page.fail(error);
  } finally {
    if (!signal.aborted) main.removeAttribute("aria-busy");
  }
}

async function watchState() {
  let wait = 15_000;
  try {
    const response = await fetch("/readyz", { cache: "no-store" });
    const body = await response.json().catch(() => ({}));
    const reason = body.detail || body.reason || body.title || "";
    state.textContent = response.ok ? "ready" : `not ready${reason ? `: ${reason}` : ""}`;
    state.className = `state ${response.ok ? "good" : "bad"}`;
    if (!response.ok) wait = 5_000;
  } catch {
    state.textContent = "unreachable";
    state.className = "state bad";
    wait = 5_000;
  }
  setTimeout(watchState, wait);
}

document.addEventListener("unauthorized", () => {
  if (key.get()) document.getElementById("key-hint").textContent = "The service refused this key. Try another one.";
  if (keyForm.hidden) {
    keyForm.hidden = false;
    keyValue.focus();
  }
});

keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(keyValue.value.trim());
  keyValue.value = "";
  keyForm.hidden = true;
  route();
});

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", () => route().then(() => main.focus({ preventScroll: true })));
watchState();
route();
