// A job written as JSON: whatever the service takes. It begins with a family of networks.

import { Problem, call } from "/assets/api.js";
import { h } from "/assets/dom.js";
import { estimated, token } from "/assets/form.js";

const EXAMPLE = `{
  "type": "family",
  "model": {"architecture": "mlp", "train": {"epochs": 20}},
  "dataset": {"builtin": "digits"},
  "members": {"depths": [1, 2, 3], "widths": [8, 16, 32], "fractions": [0.25, 1.0], "seeds": [0]},
  "method": "imp",
  "keep": 0.7,
  "floor_density": 0.02,
  "max_error": [0.1]
}`;

function parsed(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Problem(422, { detail: "The job was not sent: this is not JSON.", errors: [{ message: error.message }] });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new Problem(422, { detail: "The job was not sent.", errors: [{ message: "a job is a JSON object" }] });
  }
  return value;
}

export async function newSpec(page) {
  const text = h("textarea", { id: "spec", rows: 16, spellcheck: "false", autocomplete: "off", "aria-describedby": "spec-hint spec-error", value: EXAMPLE });
  const errors = h("ul", { cls: "plain error", id: "spec-error" });
  const answer = h("div", { role: "status" });
  const submit = h("button", { type: "submit" }, "Submit");
  const estimate = h("button", { type: "button", cls: "quiet" }, "Estimate");
  let idempotency = token();
  let asked = new AbortController();
  page.signal.addEventListener("abort", () => asked.abort());

  function changed() {
    idempotency = token();
    answer.replaceChildren();
    asked.abort();
    asked = new AbortController();
  }

  async function send(path, headers, signal, done) {
    submit.disabled = estimate.disabled = true;
    page.say("");
    errors.replaceChildren();
    text.removeAttribute("aria-invalid");
    try {
      done(await call(path, { method: "POST", body: parsed(text.value), headers, signal }));
    } catch (error) {
      if (error instanceof Problem) {
        errors.replaceChildren(...error.errors.map(({ pointer, message }) => h("li", null, pointer ? h("code", null, pointer) : null, pointer ? " " : null, message)));
        if (error.status === 422) text.setAttribute("aria-invalid", "true");
      }
      page.fail(error);
    } finally {
      submit.disabled = estimate.disabled = false;
    }
  }

  const form = h("form", { cls: "panel form", novalidate: true, oninput: changed, onsubmit: (event) => {
    event.preventDefault();
    send("/v1/jobs", { "Idempotency-Key": idempotency }, page.signal, (job) => { location.hash = `#/jobs/${encodeURIComponent(job.id)}`; });
  } }, h("div", { cls: "field whole" }, h("label", { for: "spec" }, "Job"), text,
    h("p", { cls: "hint", id: "spec-hint" }, "The example trains and prunes a family of networks, fits one law to them all, and trains the network with the fewest parameters at a tolerated error.")),
  errors, h("div", { cls: "actions" }, submit, estimate), answer);
  // An input ends the estimate under way: its answer would be about another job.
  estimate.addEventListener("click", () => send("/v1/jobs?validate_only=true", {}, asked.signal, (found) => answer.replaceChildren(...estimated(found))));
  page.show(h("p", null, h("a", { href: "#/new" }, "The form of a pruning job")), h("h1", null, "New job as JSON"), form);
}
