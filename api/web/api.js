// Requests to the service, problem+json as exceptions, and the API key of this tab.

const KEY = "secateur-key";

export class Problem extends Error {
  constructor(status, body, retryAfter) {
    super(body.detail || body.title || `the service answered ${status}`);
    this.status = status;
    this.code = body.code || "";
    this.errors = Array.isArray(body.errors) ? body.errors : [];
    this.requestId = body.request_id || "";
    this.retryAfter = Number(retryAfter) || 0;
    this.body = body;
  }
}

// A header takes printable ASCII only: with anything else fetch throws before it asks.
export const keyFits = (value) => /^[!-~]+$/.test(value);

export const key = {
  get: () => {
    const value = sessionStorage.getItem(KEY) || "";
    return keyFits(value) ? value : "";
  },
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

async function send(path, { method = "GET", body, headers = {}, signal } = {}) {
  const all = { ...headers };
  const secret = key.get();
  if (secret) all.Authorization = `Bearer ${secret}`;
  if (body !== undefined) all["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers: all, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { code: "unreachable", detail: "the service cannot be reached" });
  }
  if (response.ok) return response;
  const text = await response.text();
  let problem = {};
  try {
    problem = JSON.parse(text) || {};
  } catch {
    problem = { detail: text.slice(0, 200) };
  }
  const refused = { 401: "unauthorized", 403: "forbidden" }[response.status];
  if (refused && secret === key.get()) document.dispatchEvent(new CustomEvent(refused));
  throw new Problem(response.status, problem, response.headers.get("Retry-After"));
}

export async function call(path, options) {
  const response = await send(path, options);
  if (response.status === 204) return null;
  return response.json();
}

export const get = (path, signal) => call(path, { signal });

// A list is {data, has_more, next_cursor}; an array is taken too.
export async function list(path, signal) {
  const body = await get(path, signal);
  return Array.isArray(body) ? { data: body, has_more: false, next_cursor: null } : body;
}

// Only path and query of a link are used, so that a proxy's host name cannot lead elsewhere.
export function local(link) {
  const url = new URL(link, location.origin);
  return url.pathname + url.search;
}

export async function save(path, name) {
  const blob = await (await send(path)).blob();
  const anchor = document.createElement("a");
  anchor.href = URL.createObjectURL(blob);
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(anchor.href), 60_000);
}
