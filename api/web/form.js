// The form of a simple pruning job; errors of the service stand next to the field they concern.

import { Problem, call, get, list } from "/assets/api.js";
import { duration, h, number, pairs, size } from "/assets/dom.js";

const HIDDEN = ["units", "warnings", "valid", "recipe"];
const MODES = { fine_tune: "fine-tune", lr_rewind: "rewind the learning rate", weight_rewind: "rewind the weights", none: "none" };

function field(id, label, control, pointers, hint) {
  const note = h("p", { cls: "error", id: `${id}-error`, hidden: true });
  control.id = id;
  control.setAttribute("aria-describedby", hint ? `${id}-error ${id}-hint` : `${id}-error`);
  const help = hint ? h("p", { cls: "hint", id: `${id}-hint` }, hint) : null;
  return { control, note, pointers, node: h("div", { cls: "field" }, h("label", { for: id }, label), control, help, note) };
}

const option = (value, text) => h("option", { value }, text);
const group = (label, options) => (options.length ? h("optgroup", { label }, options) : null);
const clean = (pointer) => String(pointer || "").replace(/^#/, "").replace(/^\/body/, "");
const network = (m) => JSON.stringify([m.architecture, Object.entries(m.kwargs || {}).sort(([a], [b]) => (a < b ? -1 : 1))]);
const named = (m) => [m.name, m.architecture, m.id].filter(Boolean).join(" · ");
export const token = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

function sparsities(text) {
  return text.split(/[\s,;]+/).filter(Boolean).map((word) => {
    const value = word.endsWith("%") ? Number(word.slice(0, -1)) / 100 : Number(word);
    if (!(value > 0 && value < 1)) {
      const message = `${word} is no sparsity between 0 and 1`;
      throw new Problem(422, { detail: "The job was not sent.", errors: [{ pointer: "/targets/sparsity", message }] });
    }
    return value;
  });
}

function sentence(value, name) {
  if (typeof value !== "number") return typeof value === "object" ? JSON.stringify(value) : String(value);
  if (name.endsWith("_s")) return duration(value);
  if (name.endsWith("bytes")) return size(value);
  return number(value);
}

export function estimated(found) {
  const body = found.estimate || found;
  const entries = Object.entries(body).filter(([name, value]) => value !== null && !HIDDEN.includes(name));
  return [h("h2", null, "Estimate"), pairs(entries.map(([name, value]) => [name.replace(/_(s|bytes)$/, "").replaceAll("_", " "), sentence(value, name)])),
    h("ul", null, (body.warnings || []).map((text) => h("li", null, text)))];
}

export async function newJob(page) {
  const [catalogue, models, datasets] = await Promise.all([
    get("/v1/methods", page.signal), list("/v1/models?limit=100", page.signal), list("/v1/datasets?limit=100", page.signal)]);
  const names = (kind) => (catalogue[kind] || []).map((item) => (typeof item === "string" ? { name: item } : item));
  const builtins = names("datasets").length ? names("datasets") : [{ name: "digits" }];

  const model = field("model", "Model", h("select", null,
    group("Uploaded", models.data.filter((m) => !m.has_arch).map((m) => option(`id:${m.id}`, named(m)))),
    group("Train first", names("architectures").map((a) => option(`architecture:${a.name}`, a.name)))), ["/model"]);
  const train = field("train", "Epochs of dense training", h("input", { type: "number", min: 1, max: 10000, value: "10" }), ["/model/train"]);
  const dataset = field("dataset", "Dataset", h("select", null,
    group("Built in", builtins.map((d) => option(`builtin:${d.name}`, d.name))),
    group("Uploaded", datasets.data.map((d) => option(`id:${d.id}`, [d.name, d.id].filter(Boolean).join(" · "))))), ["/dataset"]);
  const targets = field("targets", "Sparsities", h("input", { type: "text", value: "0.5, 0.8, 0.9, 0.95", autocomplete: "off" }), ["/targets"],
    "Fractions of the prunable weights to prune; 80% works too.");
  const criterion = field("criterion", "Criteria", h("select", { multiple: true, size: 6, required: true },
    names("criteria").map((c) => option(c.name, c.name))), ["/criterion"], " ");
  for (const each of criterion.control.options) each.selected = each.value === "magnitude";
  const chosen = () => Array.from(criterion.control.selectedOptions, (each) => ({ name: each.value }));
  const mode = field("mode", "Retraining", h("select", null, Object.entries(MODES).map(([value, text]) => option(value, text))), ["/retrain"]);
  const rewind = field("rewind", "Weights to rewind to", h("select"), ["/retrain/rewind"],
    "An uploaded model of the same network, such as an early checkpoint of its training.");
  const epochs = field("epochs", "Epochs after each round", h("input", { type: "number", min: 1, max: 10000, value: "1" }), ["/retrain/epochs"]);
  const seed = field("seed", "Seed", h("input", { type: "number", min: 0, value: "0" }), ["/seed"]);
  const fields = [model, train, dataset, targets, criterion, mode, rewind, epochs, seed];
  const rest = h("ul", { cls: "plain error" });
  const answer = h("div", { role: "status" });
  const submit = h("button", { type: "submit" }, "Submit");
  const estimate = h("button", { type: "button", cls: "quiet" }, "Estimate");
  const summary = criterion.node.querySelector(".hint");
  const about = new Map(names("criteria").map((c) => [c.name, c.summary || ""]));
  let idempotency = token();
  let asked = new AbortController();
  page.signal.addEventListener("abort", () => asked.abort());

  // The uploaded models of the same network, the model itself last: its weights as uploaded serve too.
  function origins(uploaded) {
    const same = models.data.filter((m) => m !== uploaded && network(m) === network(uploaded));
    const before = rewind.control.value;
    rewind.control.replaceChildren(...same.map((m) => option(m.id, named(m))), option(uploaded.id, "the model itself, as uploaded"));
    if (same.some((m) => m.id === before)) rewind.control.value = before;
  }

  function tidy() {
    const trains = model.control.value.startsWith("architecture:");
    const uploaded = models.data.find((m) => `id:${m.id}` === model.control.value);
    train.node.hidden = !trains;
    rewind.node.hidden = !uploaded || mode.control.value !== "weight_rewind";
    if (uploaded && rewind.control.dataset.of !== uploaded.id) {
      rewind.control.dataset.of = uploaded.id;
      origins(uploaded);
    }
    epochs.node.hidden = mode.control.value === "none" || (trains && mode.control.value !== "fine_tune");
    summary.textContent = chosen().length > 1 ? `${chosen().length} criteria, compared in one job.`
      : about.get(criterion.control.value) || "";
    idempotency = token();
    answer.replaceChildren();
    asked.abort();
    asked = new AbortController();
  }

  function spec() {
    const [kind, ...parts] = model.control.value.split(":");
    const trains = kind === "architecture";
    const [source, ...name] = dataset.control.value.split(":");
    const retrain = { mode: mode.control.value };
    if (!rewind.node.hidden) retrain.rewind = { model: { id: rewind.control.value } };
    if (!epochs.node.hidden) retrain.epochs = Number(epochs.control.value);
    return {
      type: "prune",
      model: { [kind]: parts.join(":"), ...(trains ? { train: { epochs: Number(train.control.value) } } : {}) },
      dataset: { [source]: name.join(":") },
      targets: { sparsity: sparsities(targets.control.value) },
      criterion: chosen().length === 1 ? chosen()[0] : chosen(),
      retrain,
      seed: Number(seed.control.value),
    };
  }

  function explain(error) {
    for (const f of fields) {
      f.note.hidden = true;
      f.note.textContent = "";
      f.control.removeAttribute("aria-invalid");
    }
    rest.replaceChildren();
    if (!error) return;
    const unplaced = [];
    for (const item of error.errors || []) {
      const pointer = clean(item.pointer);
      const fits = fields.flatMap((f) => f.pointers.map((p) => [p, f])).filter(([p, f]) => !f.node.hidden && (pointer === p || pointer.startsWith(`${p}/`)));
      const best = fits.sort((a, b) => b[0].length - a[0].length)[0];
      if (!best) {
        unplaced.push(pointer ? `${pointer}: ${item.message}` : item.message);
        continue;
      }
      const { note, control } = best[1];
      note.textContent = [note.textContent, item.message].filter(Boolean).join("; ");
      note.hidden = false;
      control.setAttribute("aria-invalid", "true");
    }
    rest.replaceChildren(...unplaced.map((text) => h("li", null, text)));
    const first = fields.find((f) => !f.note.hidden);
    if (first) first.control.focus();
  }

  async function send(path, headers, signal, done) {
    submit.disabled = estimate.disabled = true;
    page.say("");
    try {
      explain(null);
      done(await call(path, { method: "POST", body: spec(), headers, signal }));
    } catch (error) {
      if (error instanceof Problem) explain(error);
      page.fail(error);
    } finally {
      submit.disabled = estimate.disabled = false;
    }
  }

  const form = h("form", { cls: "panel form", novalidate: true, oninput: tidy, onsubmit: (event) => {
    event.preventDefault();
    send("/v1/jobs", { "Idempotency-Key": idempotency }, page.signal, (job) => { location.hash = `#/jobs/${encodeURIComponent(job.id)}`; });
  } }, fields.map((f) => f.node), rest, h("div", { cls: "actions" }, submit, estimate), answer);
  // An input ends the estimate under way: its answer would be about another job.
  estimate.addEventListener("click", () => send("/v1/jobs?validate_only=true", {}, asked.signal, (found) => answer.replaceChildren(...estimated(found))));
  page.show(h("h1", null, "New job"),
    h("p", null, "A family of networks, or anything else that this form has no field for: ", h("a", { href: "#/new/json" }, "write the job as JSON"), "."),
    model.control.childElementCount ? form : h("p", null, "There is neither a model nor an architecture to train. Upload a model with POST /v1/models first."));
  tidy();
}
