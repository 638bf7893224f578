// The dashboard: routes between pages, the state of the service, the key box.

import { get, key, keyFits, list } from "/assets/api.js";
import { empty, h, json, number, row, size, table, time } from "/assets/dom.js";
import { newJob } from "/assets/form.js";
import { jobPage } from "/assets/job.js";
import { jobsPage } from "/assets/jobs.js";
import { newSpec } from "/assets/spec.js";

const main = document.getElementById("main");
const state = document.getElementById("state");
const [keyForm, keyValue, keyError, keyHint, keyOpen, keyForget] = ["key", "key-value", "key-error", "key-hint", "key-open", "key-forget"]
  .map((id) => document.getElementById(id));
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
  [/^\/jobs\/([^/]+)$/, jobPage], [/^\/jobs$/, jobsPage], [/^\/new$/, newJob], [/^\/new\/json$/, newSpec],
  [/^\/models$/, modelsPage], [/^\/datasets$/, datasetsPage], [/^\/methods$/, methodsPage],
];

const notFound = (page, text) => page.show(h("h1", null, "Not found"), h("p", null, text), h("p", null, h("a", { href: "#/jobs" }, "Back to the jobs")));

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
  let shown = false;
  const page = {
    signal,
    say,
    show: (...nodes) => {
      if (signal.aborted) return;
      shown = true;
      main.replaceChildren(...nodes.flat(Infinity));
    },
    fail: (error) => {
      if (signal.aborted || error.name === "AbortError") return;
      say(error.requestId ? `${error.message} (request ${error.requestId})` : error.message, "bad");
    },
  };
  const found = PAGES.map(([pattern, render]) => [pattern.exec(path), render]).find(([match]) => match);
  if (!found) return notFound(page, "There is no such page.");
  main.setAttribute("aria-busy", "true");
  try {
    await found[1](page, ...found[0].slice(1).map(decodeURIComponent));
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof URIError) return notFound(page, "There is no such page.");
    if (error.status === 404) return notFound(page, error.message);
    if (!shown) page.show();
    page.fail(error);
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

function refuse(text) {
  keyError.hidden = !text;
  keyError.textContent = text;
  if (text) keyValue.setAttribute("aria-invalid", "true");
  else keyValue.removeAttribute("aria-invalid");
}

function keyBox(open, hint = "") {
  keyOpen.hidden = false;
  keyOpen.setAttribute("aria-expanded", String(open));
  keyForget.hidden = !key.get();
  if (hint) keyHint.textContent = hint;
  if (open === !keyForm.hidden) return;
  keyForm.hidden = !open;
  keyValue.value = "";
  refuse("");
  if (open) keyValue.focus();
}

function useKey(value) {
  key.set(value);
  keyBox(false);
  keyOpen.focus();
  route();
}

document.addEventListener("unauthorized", () => keyBox(true, key.get() ? "The service refused this key. Try another one."
  : "The service asks for a key. It stays in this tab until you close it."));
document.addEventListener("forbidden", () => keyBox(!keyForm.hidden));
keyOpen.addEventListener("click", () => keyBox(keyForm.hidden, key.get() ? "This tab uses a key. Another one takes its place."
  : "This tab uses no key. A key stays in this tab until you close it."));
keyForget.addEventListener("click", () => useKey(""));
keyValue.addEventListener("input", () => refuse(""));
keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  const value = keyValue.value.trim();
  if (keyFits(value)) return useKey(value);
  refuse(value ? "A key holds printable ASCII characters only, and no spaces." : "Type or paste a key.");
  keyValue.focus();
});
if (key.get()) keyBox(false);

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", () => route().then(() => keyForm.contains(document.activeElement) || main.focus({ preventScroll: true })));
watchState();
route();
