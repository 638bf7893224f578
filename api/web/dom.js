// Elements without HTML strings, and numbers as people read them.

export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "disabled" || name === "open" || name === "selected") element[name] = value;
    else element.setAttribute(name === "cls" ? "class" : name, value === true ? "" : String(value));
  }
  const shown = children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false && c !== "");
  element.append(...shown.map((c) => (c instanceof Node ? c : String(c))));
  return element;
}

export const empty = (text) => h("p", { cls: "hint" }, text);

export function table(caption, head, rows) {
  return h("div", { cls: "scroll", role: "region", "aria-label": caption, tabindex: "0" },
    h("table", null,
      h("caption", null, caption),
      h("thead", null, h("tr", null, head.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", null, rows)));
}

export const row = (cells, props) => h("tr", props, cells.map((cell, i) => (i ? h("td", null, cell) : h("th", { scope: "row" }, cell))));

export const json = (value) => h("pre", null, JSON.stringify(value, null, 2));

export function pairs(entries) {
  return h("dl", { cls: "pairs" }, entries.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));
}

export function number(value) {
  return typeof value === "number" ? value.toLocaleString("en", { maximumSignificantDigits: 6 }) : "–";
}

export function size(bytes) {
  if (typeof bytes !== "number") return "–";
  for (const [unit, scale] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (bytes >= scale) return `${(bytes / scale).toPrecision(3)} ${unit}`;
  }
  return `${bytes} B`;
}

export function share(value) {
  return typeof value === "number" ? `${Number((100 * value).toFixed(2))} %` : "–";
}

// An error is {value, low, high, n}, or a bare number.
export function estimate(value) {
  if (typeof value === "number") return share(value);
  if (!value || typeof value.value !== "number") return "–";
  const form = (v) => (100 * v).toFixed(1);
  const span = typeof value.low === "number" && typeof value.high === "number" ? ` [${form(value.low)}, ${form(value.high)}]` : "";
  return `${form(value.value)} %${span}`;
}

export function duration(seconds) {
  if (typeof seconds !== "number" || seconds < 0) return "";
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return minutes < 1440 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
}

export function time(iso) {
  if (!iso) return null;
  const date = new Date(iso);
  if (Number.isNaN(date.getTime())) return String(iso);
  const ago = (Date.now() - date) / 1000;
  const text = Math.abs(ago) < 5 ? "just now" : ago < 0 ? `in ${duration(-ago)}` : ago < 86400 ? `${duration(ago)} ago` : date.toLocaleDateString();
  return h("time", { datetime: iso, title: date.toLocaleString() }, text);
}

export function method(value) {
  if (Array.isArray(value)) return value.map(method).join(", ");
  if (!value) return "default";
  if (typeof value === "string") return value;
  const params = Object.entries(value.params || {}).map(([name, v]) => `${name}=${typeof v === "object" ? JSON.stringify(v) : v}`);
  return params.length ? `${value.name} (${params.join(", ")})` : String(value.name);
}

export const reference = (value) => (value ? value.id || value.builtin || (value.architecture ? `${value.architecture}, trained first` : "–") : "–");

// The names of networks that were pruned elsewhere, as a job that judges them lists them.
export const judged = (spec) => spec.pruned.map((one, index) => one.name || `pruned-${index + 1}`).join(", ");

// The members of a family in words: "depths 1, 2 × widths 8, 16 × images 25 %, 100 % × 2 seeds"
export function grid(spec) {
  const { depths = [], widths = [], fractions = [], seeds = [] } = spec.members || {};
  return [depths.length ? `depths ${depths.join(", ")}` : "", widths.length ? `widths ${widths.join(", ")}` : "",
    fractions.length ? `images ${fractions.map(share).join(", ")}` : "", seeds.length > 1 ? `${seeds.length} seeds` : ""].filter(Boolean).join(" × ");
}
