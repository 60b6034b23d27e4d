// What the page asks the server, with the API key of this tab if there is one.

const KEY = "shoal.key";

/** The URL of the server, without a slash at its end. */
export const server = new URL(".", document.baseURI).href.replace(/\/$/, "");

/** The index that the page asks, by the name in its URL; "" for the server's default one. */
export const indexName = /^[a-z0-9][a-z0-9-]{0,62}$/.exec(new URLSearchParams(location.search).get("index") ?? "")?.[0] ?? "";

/** Where that index is asked, below the server. */
export const base = indexName ? `v1/indexes/${indexName}` : "v1";

/** The API key that was typed into this tab, or "". It is gone with the tab. */
export const key = () => sessionStorage.getItem(KEY) ?? "";

/** Keeps an API key for this tab; "" forgets it. */
export function keepKey(text) {
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

/** A failure, in the server's words where it has some. */
export class Failure extends Error {
  constructor(message, { status = 0, code = "", param = null, requestId = "", retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, requestId, retryAfter });
  }
}

export const listIndexes = (signal) => ask("v1/indexes", undefined, signal);
export const describeIndex = (signal) => ask(`${base}/index`, undefined, signal);
export const search = (body, signal) => ask(`${base}/search`, body, signal);
export const fetchPassages = (ids, signal) => ask(`${base}/passages/fetch`, { ids, include: ["text"] }, signal);
export const listVersions = () => ask(`${base}/index/versions`);
export const activate = (version) => ask(`${base}/index/activate`, { version });
export const rollback = () => ask(`${base}/index/rollback`, {});

async function ask(path, body, signal) {
  const headers = {};
  if (key()) headers.authorization = `Bearer ${key()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const request = { method: body === undefined ? "GET" : "POST", headers, signal, cache: "no-store" };
  if (body !== undefined) request.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(`${server}/${path}`, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(`Nothing answers at ${server}. See whether the server still runs, then try again.`);
  }
  return await read(response);
}

async function read(response) {
  const requestId = response.headers.get("x-request-id") ?? "";
  let answer = null;
  try {
    answer = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (response.ok && answer !== null) return answer;
  const { message, code, param } = answer?.error ?? {};
  throw new Failure(message ?? `The server answered with status ${response.status} and no reason.`, {
    status: response.status,
    code,
    param,
    requestId,
    retryAfter: response.headers.get("retry-after"),
  });
}
