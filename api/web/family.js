// A family, or a job with replicates: its members while they run, the networks a law chose, and the way from a member back.

import { list } from "/assets/api.js";
import { empty, estimate, h, number, row, share, table } from "/assets/dom.js";
import { badge, progress } from "/assets/jobs.js";

export const link = (id) => h("a", { href: `#/jobs/${encodeURIComponent(id)}` }, h("code", null, id));
export const isFamily = (job) => (job.spec || {}).type === "family";
export const isParent = (job) => isFamily(job) || (job.spec || {}).replicates > 1;

export function memberFacts(job) {
  const m = job.member;
  if (!m) return [];
  if (m.role === "replicate") return [["Replicate of", job.parent ? link(job.parent) : null], ["Seed", number(m.seed)]];
  return [["Family", job.parent ? link(job.parent) : null], ["Role", m.role === "answer" ? `answer, error of at most ${share(m.max_error)}` : "member"],
    ["Depth", number(m.depth)], ["Width", number(m.width)], ["Images", share(m.fraction)], ["Ends at density", share(m.density)]];
}

function memberRow(job) {
  const m = job.member || {};
  const answer = m.role === "answer";
  return row([
    [link(job.id), answer ? h("span", { cls: "under" }, `answer, error of at most ${share(m.max_error)}`) : null],
    [badge(job.status), job.error ? h("span", { cls: "under" }, job.error.code || job.error.message) : null],
    number(m.depth), number(m.width), share(m.fraction), number(m.seed), share(m.density), progress(job),
  ]);
}

// The members' table, and what brings it up to date; it is asked for again only when the family has moved.
export function memberTable(page, id) {
  const node = h("section", { "aria-label": "Members" }, h("h2", null, "Members"));
  const note = h("div", null, empty("No member yet."));
  const body = h("tbody");
  const frame = table("Members and answers, in the order in which they were started", ["Job", "Status", "Depth", "Width", "Images", "Seed", "Ends at density", "Progress"], []);
  frame.querySelector("tbody").replaceWith(body);
  node.append(note, frame);
  let shown = "";

  async function all() {
    const found = [];
    for (let cursor = null, more = true; more;) {
      const query = new URLSearchParams({ parent: id, limit: "100", ...(cursor ? { cursor } : {}) });
      const next = await list(`/v1/jobs?${query}`, page.signal);
      found.push(...next.data);
      cursor = next.next_cursor;
      more = Boolean(next.has_more && cursor);
    }
    return found.reverse();
  }

  async function refresh() {
    const jobs = await all();
    const text = JSON.stringify(jobs);
    if (text === shown) return false;
    shown = text;
    const focused = body.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    body.replaceChildren(...jobs.map(memberRow));
    if (focused) Array.from(body.querySelectorAll("a")).find((a) => a.getAttribute("href") === focused)?.focus();
    const ended = jobs.filter((job) => job.terminal).length;
    note.replaceChildren(jobs.length ? h("p", { cls: "hint" }, `${ended} of ${jobs.length} jobs have ended.`) : empty("No member yet."));
    frame.hidden = !jobs.length;
    return true;
  }

  return { node, refresh };
}

function verdict(answer) {
  if (answer.refused) return ["no network", answer.refused];
  if (!answer.measured) return [answer.status ? `its training: ${answer.status}` : "not trained for real", null];
  const low = typeof answer.measured.low === "number" ? answer.measured.low : answer.measured.value;
  const kept = answer.outcome === "passed" ? "proven to be at most the tolerated error"
    : answer.meets ? "at most the tolerated error, not proven"
    : low <= answer.max_error ? "above the tolerated error, by less than the interval"
    : answer.chosen_on === "test" ? "above the tolerated error" : "proven above the tolerated error";
  return [kept, typeof answer.within_band === "boolean" ? `${answer.within_band ? "inside" : "outside"} the band` : null];
}

function measuredBest(answer) {
  const one = answer.smallest_run;
  const itself = one && one.job === answer.job && one.parameters === answer.measured_parameters;
  return one && !itself ? h("span", { cls: "under" }, `of all that was run: depth ${number(one.depth)}, width ${number(one.width)}, density ${share(one.density)}, `
    + `${number(one.parameters)} parameters, measured ${share(one.error)}, `, link(one.job)) : null;
}

// What the law chose at every tolerated error: predicted beside measured.
export function answers(results) {
  const report = results.report || {};
  const found = report.answers || [];
  if (!found.length) return empty(report.type === "family" ? "No answer: the members have given no joint law." : "No report was written.");
  const chosen = results.recommendation || {};
  return table("Answers: the fewest parameters at each tolerated error", ["Tolerated error", "Network", "Parameters kept", "Predicted error", "Measured error", "Outcome"],
    found.map((a) => {
      const kept = typeof a.measured_parameters === "number" ? a.measured_parameters : typeof a.parameters === "number" ? Math.round(a.parameters) : null;
      const [said, detail] = verdict(a);
      const best = chosen.checkpoint && a.job === chosen.job && a.checkpoint === chosen.checkpoint;
      return row([
        [share(a.max_error), best ? h("span", { cls: "badge succeeded" }, "recommended") : null, a.job ? h("span", { cls: "under" }, link(a.job)) : null],
        typeof a.density === "number" ? `depth ${number(a.depth)}, width ${number(a.width)}, density ${share(a.density)}` : "–",
        kept === null ? "–" : `${number(kept)} of ${number(a.unpruned_parameters)}`,
        estimate(a.predicted), estimate(a.measured),
        [said, detail ? h("span", { cls: "under" }, detail) : null, measuredBest(a), ...(a.notes || []).map((text) => h("span", { cls: "under" }, text))],
      ]);
    }));
}
