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

export const key = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

async function send(path, { method = "GET", body, headers = {}, signal } = {}) {
  const all = { ...headers };
  if (key.get()) all.Authorization = `Bearer ${key.get()}`;
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
  if (response.status === 401) document.dispatchEvent(new CustomEvent("unauthorized"));
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
