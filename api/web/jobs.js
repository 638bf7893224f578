// The list of jobs, live while any of them moves.

import { get, list } from "/assets/api.js";
import { duration, empty, grid, h, judged, method, reference, share, table, time } from "/assets/dom.js";

const STATUSES = ["queued", "running", "pausing", "paused", "cancelling", "succeeded", "failed", "cancelled"];
const FASTEST_MS = 2_000;
const SLOWEST_MS = 30_000;

// Calls `step` again and again until the page is left: every 2 s while things move, slower when they do not or when it fails.
// `step` answers "moved", "still" or "done".
export function poll({ signal, fail, say }, step) {
  let wait = FASTEST_MS;
  let failed = false;
  async function turn() {
    if (signal.aborted) return;
    if (document.hidden) return later(FASTEST_MS);
    try {
      const news = await step();
      if (failed) say("");
      failed = false;
      if (news === "done") return;
      wait = news === "moved" ? FASTEST_MS : Math.min(wait * 1.25, SLOWEST_MS / 3);
    } catch (error) {
      if (signal.aborted) return;
      failed = true;
      if (error.status === 404) return fail(error);
      wait = Math.max(Math.min(wait * 2, SLOWEST_MS), 1000 * (error.retryAfter || 0));
      fail(error);
    }
    later(wait);
  }
  const later = (ms) => {
    const timer = setTimeout(turn, ms);
    signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  };
  later(wait);
}

export const badge = (status) => h("span", { cls: `badge ${STATUSES.includes(status) ? status : ""}` }, status);

export function progress(job) {
  const { done, total, eta_s: eta, members } = job.progress || {};
  const family = members && members.total ? `${members.ended} of ${members.total} members ended${members.paused ? `, ${members.paused} paused` : ""}` : "";
  if (job.terminal || !total) return h("span", { cls: "hint" }, job.terminal ? family : job.stage || "waiting");
  const left = duration(eta);
  return h("div", { cls: "progress" },
    h("progress", { max: total, value: done, "aria-label": `Progress of ${job.id}` }),
    h("span", { cls: "hint" }, `${job.stage || "waiting"}, ${share(Math.floor((100 * done) / total) / 100)}${left ? `, about ${left} left` : ""}${family ? `, ${family}` : ""}`));
}

function jobRow(job) {
  const spec = job.spec || {};
  const sparsity = ((spec.targets || {}).sparsity || []).map(share).join(", ");
  const labels = Object.entries(spec.labels || {}).map(([name, value]) => `${name}=${value}`).join(", ");
  return h("tr", { "data-id": job.id },
    h("th", { scope: "row" }, h("a", { href: `#/jobs/${encodeURIComponent(job.id)}` }, h("code", null, job.id)),
      ["family", "evaluate"].includes(spec.type) ? h("span", { cls: "badge" }, spec.type) : null,
      spec.replicates > 1 ? h("span", { cls: "badge" }, `${spec.replicates} replicates`) : null,
      labels ? h("span", { cls: "under" }, labels) : null),
    h("td", null, badge(job.status), job.error ? h("span", { cls: "under" }, job.error.code) : null),
    h("td", null, progress(job)),
    h("td", null, reference(spec.model), h("span", { cls: "under" }, reference(spec.dataset))),
    spec.pruned ? h("td", null, "pruned elsewhere", h("span", { cls: "under" }, judged(spec))) : spec.type === "family" ? h("td", null, spec.method || "imp", h("span", { cls: "under" }, grid(spec)))
      : h("td", null, method(spec.criterion), sparsity ? h("span", { cls: "under" }, sparsity) : null),
    h("td", null, time(job.created_at)));
}

export async function jobsPage(page) {
  let cursor = null;
  let turn = 0;
  const jobs = new Map();
  const frame = table("Jobs, newest first", ["Job", "Status", "Progress", "Model and data", "Criterion and sparsities", "Created"], []);
  const body = frame.querySelector("tbody");
  const note = h("div");
  const more = h("button", { type: "button", hidden: true, onclick: () => load().catch(page.fail) }, "Load more");
  const filter = h("select", { id: "status", onchange: () => reset().catch(page.fail) },
    h("option", { value: "" }, "all"), STATUSES.map((status) => h("option", { value: status }, status)));

  const query = (extra) => new URLSearchParams({ limit: "25", parent: "none", ...(filter.value ? { status: filter.value } : {}), ...extra });

  function put(job, where = "end") {
    const known = jobs.get(job.id);
    jobs.set(job.id, job);
    const fresh = jobRow(job);
    const old = [...body.children].find((element) => element.dataset.id === job.id);
    if (!old) return where === "start" ? body.prepend(fresh) : body.append(fresh);
    if (JSON.stringify(known) === JSON.stringify(job)) return undefined;
    const focused = old.contains(document.activeElement);
    old.replaceWith(fresh);
    if (focused) fresh.querySelector("a").focus();
    return undefined;
  }

  async function load() {
    const mine = turn;
    const found = await list(`/v1/jobs?${query(cursor ? { cursor } : {})}`, page.signal);
    if (mine !== turn) return;
    found.data.forEach((job) => put(job));
    cursor = found.next_cursor;
    more.hidden = !(found.has_more && cursor);
    note.replaceChildren(jobs.size ? "" : filter.value ? empty("No such job.")
      : h("p", null, "No job yet. ", h("a", { href: "#/new" }, "Submit one"), "."));
  }

  async function reset() {
    turn += 1;
    cursor = null;
    jobs.clear();
    body.replaceChildren();
    await load();
  }

  async function refresh() {
    const mine = turn;
    const before = JSON.stringify([...jobs.values()]);
    const head = await list(`/v1/jobs?${query({})}`, page.signal);
    const seen = new Set(head.data.map((job) => job.id));
    const others = [...jobs.values()].filter((job) => !job.terminal && !seen.has(job.id)).slice(0, 20);
    const singles = await Promise.all(others.map((job) => get(`/v1/jobs/${encodeURIComponent(job.id)}`, page.signal)));
    if (mine !== turn) return "moved";
    [...head.data].reverse().forEach((job) => put(job, "start"));
    singles.forEach((job) => put(job));
    if (jobs.size) note.replaceChildren();
    return JSON.stringify([...jobs.values()]) === before ? "still" : "moved";
  }

  page.show(h("div", { cls: "bar" }, h("h1", null, "Jobs"), h("span", null, h("label", { for: "status" }, "Status "), filter),
    h("a", { cls: "button", href: "#/new" }, "New job")), frame, note, more);
  await load();
  poll(page, refresh);
}
