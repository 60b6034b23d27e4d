// What is asked for: kept in the part of the URL behind #, so that a link leads to the same answer.

const MODES = ["dense", "lexical", "hybrid", "sparse"];
const RERANKERS = ["off", "late"];

/** What is asked for where nothing was chosen: all is left to the server. */
export const nothing = () => ({ q: "", mode: "", depth: null, count: null, rerank: "", recall: null, filter: {} });

/** Reads what is asked for from the part of a URL behind #; what makes no sense is left out. */
export function read(hash) {
  const values = new URLSearchParams(hash.replace(/^#/, ""));
  const state = nothing();
  state.q = values.get("q") ?? "";
  state.mode = oneOf(MODES, values.get("mode"));
  state.rerank = oneOf(RERANKERS, values.get("rerank"));
  state.depth = count(values.get("depth"));
  state.count = count(values.get("results"));
  const recall = Number(values.get("recall"));
  state.recall = recall > 0 && recall <= 1 ? recall : null;
  state.filter = object(values.get("filter"));
  return state;
}

/** Writes what is asked for as the part of a URL behind #. */
export function write(state) {
  const values = new URLSearchParams();
  if (state.q) values.set("q", state.q);
  if (state.mode) values.set("mode", state.mode);
  if (state.depth) values.set("depth", state.depth);
  if (state.count) values.set("results", state.count);
  if (state.rerank) values.set("rerank", state.rerank);
  if (state.recall) values.set("recall", state.recall);
  if (Object.keys(state.filter).length) values.set("filter", JSON.stringify(state.filter));
  return `#${values}`;
}

/** The body of the search, as a program would send it; the page itself adds `explain` and `highlight`. */
export function body(state) {
  const asked = { query: state.q };
  if (state.mode) asked.mode = state.mode;
  if (state.depth) asked.top_k = state.depth;
  if (state.count) asked.top_n = state.count;
  if (state.rerank) asked.rerank = state.rerank === "late" ? "late" : false;
  if (state.recall) asked.recall = state.recall;
  if (Object.keys(state.filter).length) asked.filter = state.filter;
  return asked;
}

function oneOf(choices, value) {
  return choices.includes(value) ? value : "";
}

function count(text) {
  return /^[0-9]{1,7}$/.test(text ?? "") && Number(text) > 0 ? Number(text) : null;
}

function object(text) {
  try {
    const value = JSON.parse(text ?? "{}");
    return value && typeof value === "object" && !Array.isArray(value) ? value : {};
  } catch {
    return {};
  }
}
