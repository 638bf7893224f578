// One job: where it is, what can be done to it, what it found.

import { call, get, key, list, local, save } from "/assets/api.js";
import { duration, empty, estimate, grid, h, json, judged, method, number, pairs, reference, row, share, size, table, time } from "/assets/dom.js";
import { answers, isFamily, isParent, link, memberFacts, memberTable } from "/assets/family.js";
import { badge, poll, progress } from "/assets/jobs.js";

const ACTIONS = {
  pause: ["running"],
  resume: ["paused"],
  retry: ["failed", "cancelled"],
  cancel: ["queued", "running", "pausing", "paused"],
};
const FORMATS = { html: "report.html", md: "report.md", json: "report.json", junit: "junit.xml" };
const SHOWN_EVENTS = 500;

// Without a key the browser fetches by itself; with one, the bytes come through fetch and are saved.
function download(page, path, name, text, opens) {
  if (!key.get()) {
    return h("a", opens ? { href: path, target: "_blank", rel: "noopener" } : { href: path, download: name }, text);
  }
  const button = h("button", { type: "button", cls: "link" }, opens ? `${text} (save)` : text);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await save(path, name);
    } catch (error) {
      page.fail(error);
    } finally {
      button.disabled = false;
    }
  });
  return button;
}

function facts(job) {
  const spec = job.spec || {};
  const { done, total } = job.progress || {};
  const ran = job.started_at && job.finished_at ? duration((new Date(job.finished_at) - new Date(job.started_at)) / 1000) : null;
  return pairs([
    ["Stage", job.stage], ["Work done", total ? share(Math.floor((100 * done) / total) / 100) : null],
    ["Attempt", job.attempt], ["Model", reference(spec.model)], ["Dataset", reference(spec.dataset)],
    ...memberFacts(job), ...(spec.pruned ? [["Pruned elsewhere", judged(spec)]] : isFamily(job) ? [["Members", grid(spec)], ["Method", spec.method || "imp"]]
      : [["Criterion", method(spec.criterion)], ["Sparsities", ((spec.targets || {}).sparsity || []).map(share).join(", ")], ["Replicates", isParent(job) ? number(spec.replicates) : null]]),
    ["Created", time(job.created_at)], ["Started", time(job.started_at)], ["Finished", time(job.finished_at)], ["Ran for", ran],
  ]);
}

function failure(error) {
  if (!error) return null;
  return h("section", { cls: "message bad", "aria-label": "Error" },
    h("p", null, h("strong", null, error.code || "error"), " ", error.message || ""),
    h("p", { cls: "hint" }, [error.stage ? `stage ${error.stage}` : "", error.attempt ? `attempt ${error.attempt}` : "",
      error.retryable === undefined ? "" : error.retryable ? "a retry may help" : "a retry will not help"].filter(Boolean).join(", ")));
}

const COSTS = { flops: "FLOPs", parameters: "parameters", size_bytes: "bytes" };

// A budget as it was asked for: a share of what the dense network has, or a number; or a limit on the error.
function budget(asked) {
  if (asked.quantity === "max_error_increase") return `at most ${+(100 * asked.value).toFixed(4)} pp worse`;
  const noun = COSTS[asked.quantity];
  return asked.value < 1 ? `${share(asked.value)} of the ${noun}` : `${asked.value.toLocaleString("en")} ${noun}`;
}

// Only a checkpoint that the test images prove is recommended in green; a family of an earlier version has no verdict.
function tag(advice) {
  const ships = advice.verdict ? advice.verdict === "ship" : advice.job;
  return h("span", { cls: `badge ${ships ? "succeeded" : "paused"}` }, ships ? "recommended" : "chosen on validation");
}

function checkpoints(page, id, results) {
  const found = results.checkpoints || [];
  const advice = results.recommendation || {};
  const chosen = (c) => c.id === advice.checkpoint && (!advice.job || !c.job || c.job === advice.job);
  if (!found.length) return empty("No checkpoint was finished.");
  return table("Checkpoints", ["Checkpoint", "Asked", "Sparsity", "Test error", "Downloads"], found.map((c) => {
    const links = c.links || {};
    const base = `/v1/jobs/${encodeURIComponent(c.job || id)}`;
    const formats = Array.isArray(c.formats) ? c.formats : Object.keys(c.formats || links);
    const files = formats.map((format) => {
      const bytes = typeof c.size_bytes === "object" && c.size_bytes ? c.size_bytes[format] : format === "sparse" ? c.size_bytes : undefined;
      const path = links[format] ? local(links[format]) : `${base}/checkpoints/${encodeURIComponent(c.id)}?format=${encodeURIComponent(format)}`;
      const text = typeof bytes === "number" ? `${format} ${size(bytes)}` : format;
      const ending = { arch: "json", compressed: "xz", huggingface: "zip", onnx: "onnx", pth: "pth" }[format] || "safetensors";
      return h("span", { cls: "file" }, download(page, path, `${c.job && c.job !== id ? `${c.job}-` : ""}${c.id}-${format}.${ending}`, text, false));
    });
    return row([
      [h("code", null, c.id), chosen(c) ? tag(advice) : null,
        c.partial ? h("span", { cls: "badge paused" }, "partial") : null, c.criterion ? h("span", { cls: "under" }, c.criterion.name === "uploaded" ? (c.criterion.params || {}).model : method(c.criterion)) : null,
        c.job && c.job !== id ? h("span", { cls: "under" }, link(c.job)) : null],
      c.requested ? budget(c.requested) : share(c.requested_sparsity),
      share(c.sparsity), estimate(c.error), files,
    ]);
  }));
}

const OUTCOMES = { passed: ["good", "✓ passed"], failed: ["bad", "✗ failed"], undecided: ["open", "? undecided"] };

function gates(results) {
  const found = results.gates || [];
  return found.length ? h("ul", { cls: "plain" }, found.map((gate) => {
    const [cls, text] = OUTCOMES[gate.outcome] || OUTCOMES[gate.passed ? "passed" : "failed"];
    return h("li", null, h("strong", { cls }, text), " ", h("code", null, gate.name), " ", gate.message || "");
  })) : null;
}

function outcome(page, id, results) {
  const base = `/v1/jobs/${encodeURIComponent(id)}/report?format=`;
  const reason = (results.recommendation || {}).reason;
  return [
    h("h2", null, "Results"),
    results.joint ? h("p", null, h("strong", null, results.joint.sentence)) : null,
    reason ? h("p", null, reason) : null,
    gates(results),
    results.report === null ? null : h("p", { cls: "files" }, "Report: ", Object.entries(FORMATS).map(([format, name]) =>
      h("span", { cls: "file" }, download(page, base + format, `${id}-${name}`, name, format === "html")))),
    isFamily(results.job || {}) ? answers(results) : null,
    checkpoints(page, id, results),
  ].filter(Boolean);
}

export async function jobPage(page, id) {
  const base = `/v1/jobs/${encodeURIComponent(id)}`;
  const head = h("div");
  const results = h("section", { "aria-label": "Results" });
  const rows = h("tbody");
  const events = table("Events, newest first", ["Event", "When", "Data"], []);
  events.querySelector("tbody").replaceWith(rows);
  const spec = h("details", null, h("summary", null, "Spec"));
  const above = h("p", null, h("a", { href: "#/jobs" }, "All jobs"));
  const members = h("div");
  let family = null;
  let last = 0;
  let shown = "";
  let finished = false;
  const buttons = Object.fromEntries(Object.keys(ACTIONS).map((action) => [action,
    h("button", { type: "button", cls: action === "cancel" ? "danger" : "", onclick: () => act(action) }, action[0].toUpperCase() + action.slice(1))]));

  async function act(action) {
    Object.values(buttons).forEach((button) => { button.disabled = true; });
    try {
      await call(`${base}/${action}`, { method: "POST" });
      page.say(`${action}: asked`);
      if (action === "retry") finished = false;
      await refresh();
      if (action === "retry") watch();
    } catch (error) {
      page.fail(error);
    } finally {
      Object.values(buttons).forEach((button) => { button.disabled = false; });
    }
  }

  function draw(job) {
    const text = JSON.stringify(job);
    if (text === shown) return false;
    shown = text;
    for (const [action, states] of Object.entries(ACTIONS)) buttons[action].hidden = !states.includes(job.status);
    head.replaceChildren(...[progress(job), failure(job.error), facts(job)].filter(Boolean));
    status.replaceChildren(badge(job.status));
    if (spec.childElementCount === 1) spec.append(json(job.spec));
    if (job.parent && above.childElementCount === 1) above.append(" · part of ", link(job.parent));
    if (isParent(job) && !family) {
      family = memberTable(page, id);
      members.replaceChildren(family.node);
    }
    document.title = `${job.status} · ${job.id} · Secateur`;
    return true;
  }

  async function follow() {
    let more = true;
    let news = false;
    while (more) {
      const found = await list(`${base}/events?after=${last}`, page.signal);
      const fresh = found.data.filter((event) => event.seq > last);
      for (const event of fresh) {
        last = event.seq;
        const data = event.data && Object.keys(event.data).length ? h("code", null, JSON.stringify(event.data)) : "";
        rows.prepend(row([[h("code", null, event.type), " ", h("span", { cls: "hint" }, `#${event.seq}`)], time(event.at), data]));
      }
      while (rows.childElementCount > SHOWN_EVENTS) rows.lastChild.remove();
      news = news || fresh.length > 0;
      more = Boolean(found.has_more) && fresh.length > 0;
    }
    return news;
  }

  async function refresh() {
    const job = await get(base, page.signal);
    const drawn = draw(job);
    const moved = (family ? await family.refresh() : false) || drawn;
    const news = await follow();
    if (job.terminal && !finished) {
      finished = true;
      try {
        results.replaceChildren(...outcome(page, id, await get(`${base}/results`, page.signal)));
      } catch (error) {
        results.replaceChildren(h("h2", null, "Results"), empty(error.message));
      }
    }
    if (!job.terminal) results.replaceChildren();
    return job.terminal ? "done" : moved || news ? "moved" : "still";
  }

  const watch = () => poll(page, refresh);
  const status = h("span");
  page.signal.addEventListener("abort", () => { document.title = "Secateur"; });
  draw(await get(base, page.signal));
  page.show(
    above,
    h("div", { cls: "bar" }, h("h1", null, h("code", null, id)), status, h("span", { cls: "actions" }, Object.values(buttons))),
    head, results, members, h("h2", null, "Events"), events, spec);
  if ((await refresh()) !== "done") watch();
}
