// Ties the page together: what is asked for lies in the URL, and whatever changes it asks again.

import * as answers from "./answer.js";
import * as api from "./api.js";
import * as controls from "./controls.js";
import * as dialogs from "./dialogs.js";
import { byId } from "./dom.js";
import * as filters from "./filters.js";
import * as indexes from "./indexes.js";
import * as panel from "./index_panel.js";
import * as state from "./state.js";

let index = null;
let position = null; // up to which writes the page has shown
let running = new AbortController();

/** Reads the URL, shows it in the form, and asks what it says. */
async function follow() {
  const asked = state.read(location.hash);
  controls.show(asked);
  filters.show(asked.filter, submit);
  document.title = asked.q ? `${asked.q} – Shoal` : "Shoal";
  running.abort();
  running = new AbortController();
  countValues(asked, running.signal);
  if (!asked.q) {
    answers.clear();
    return;
  }
  if (!byId("answer").hasChildNodes()) openIndex(false);
  await search(asked, running.signal);
}

/** Puts what the form says into the URL; asks again, too, where it says the same. */
function submit() {
  const hash = state.write({ ...state.nothing(), ...controls.take(), filter: filters.take() });
  if (hash !== location.hash && !(hash === "#" && !location.hash)) history.pushState(null, "", hash);
  follow();
}

async function search(asked, signal) {
  const body = state.body(asked);
  answers.wait();
  try {
    const answer = await api.search({ ...body, explain: true, highlight: true }, signal);
    const both = answers.show(answer, { copy: () => dialogs.showCode(body), without: Object.keys(asked.filter).length ? unfilter : null });
    if (answer.explain) controls.suggest(answer.explain.plan);
    if (answer.index_version !== index?.version) await look();
    else if ((answer.position ?? null) !== position) await lookAtWrites(answer.position);
    panel.showShards(answer.explain?.shards);
    if (both?.nameless.length) both.name((await api.fetchPassages(both.nameless, signal)).passages);
  } catch (failure) {
    if (!(failure instanceof api.Failure)) {
      if (failure.name !== "AbortError") throw failure;
    } else if (!signal.aborted && document.body.hasAttribute("aria-busy")) {
      answers.fail(failure, { key: askKey, again: follow });
    }
  }
}

/** Counts the values that the filter may choose from, while its inputs are open. */
async function countValues(asked, signal) {
  const facets = filters.facets();
  if (byId("filter").hidden || !facets.length) return;
  const cheap = { top_k: 1, top_n: 1, rerank: false, include: [], ...(index.modes.includes("lexical") ? { mode: "lexical" } : {}) };
  try {
    filters.count((await api.search({ query: asked.q || "values", filter: asked.filter, facets, ...cheap }, signal)).facets);
  } catch (failure) {
    // A filter can be typed without its values; what is wrong with it, the search itself says.
    if (!(failure instanceof api.Failure) && failure.name !== "AbortError") throw failure;
  }
}

function unfilter() {
  filters.show({}, submit);
  submit();
  byId("query").focus();
}

/** Looks what the server serves now, and offers what that allows. */
async function look() {
  try {
    index = await api.describeIndex();
  } catch (failure) {
    if (!(failure instanceof api.Failure)) throw failure;
    index = null;
    panel.fail(failure);
    if (failure.status === 404) await indexes.offer(true);
    return failure;
  }
  position = index.live?.position ?? position;
  if (!byId("indexes").options.length) indexes.offer(false);
  controls.offer(index);
  filters.offer(index.fields, submit);
  panel.show(index, { change: changeVersion, pick });
  return null;
}

/** Looks at what was written since the index was described; the rest of it stays as it is shown. */
async function lookAtWrites(seen) {
  position = seen ?? null;
  try {
    panel.showContent(await api.describeIndex());
  } catch (failure) {
    // The answer is there; what is wrong, the next look says.
    if (!(failure instanceof api.Failure)) throw failure;
  }
}

function pick(recall) {
  const asked = { ...state.read(location.hash), recall };
  controls.show(asked);
  if (asked.q) submit();
}

function changeVersion(version) {
  const goal = version ?? index.previous;
  const sentences = [`The server answers from ${goal} instead of ${index.version}, for everyone who asks it. Searches go on meanwhile.`];
  dialogs.confirm(version ? "Serve another version?" : "Roll back?", sentences, version ? "Serve it" : "Roll back", async () => {
    const told = () => byId("change-status");
    told().textContent = `${goal} is being loaded…`;
    try {
      await (version ? api.activate(version) : api.rollback());
      await look();
      told().textContent = `${index.version} is served now.`;
      if (byId("query").value) await again();
    } catch (failure) {
      if (!(failure instanceof api.Failure)) throw failure;
      const request = failure.requestId ? ` (request ${failure.requestId})` : "";
      told().textContent = `Nothing has changed: ${failure.message}${request}`;
    }
  });
}

/** Asks again what is asked, without closing the index. */
async function again() {
  const asked = state.read(location.hash);
  running.abort();
  running = new AbortController();
  countValues(asked, running.signal);
  await search(asked, running.signal);
}

function askKey() {
  dialogs.askKey(async () => {
    await look();
    follow();
  });
}

function openIndex(opens) {
  byId("index").hidden = !opens;
  byId("index-toggle").setAttribute("aria-expanded", String(opens));
}

function toggle(button, panelName) {
  const opens = byId(panelName).hidden;
  byId(panelName).hidden = !opens;
  button.setAttribute("aria-expanded", String(opens));
}

function keyboard(event) {
  const typing = event.target.closest("input:not([type=checkbox]), select, textarea");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !byId("dialog").open) {
    event.preventDefault();
    byId("query").focus();
    byId("query").select();
  } else if (event.key === "ArrowDown" && event.target === byId("query")) {
    const first = document.querySelector(".stage.two button[data-id]");
    if (!first) return;
    event.preventDefault();
    first.focus();
  }
}

function listen() {
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  for (const name of ["mode", "depth", "count", "rerank", "recall"]) {
    byId(name).addEventListener("change", () => byId("query").value.trim() && submit());
  }
  byId("index-toggle").addEventListener("click", (event) => toggle(event.currentTarget, "index"));
  byId("filter-toggle").addEventListener("click", (event) => {
    toggle(event.currentTarget, "filter");
    countValues(state.read(location.hash), running.signal);
  });
  byId("key-open").addEventListener("click", askKey);
  addEventListener("popstate", follow);
  document.addEventListener("keydown", keyboard);
}

listen();
const failure = await look();
if (failure?.status === 401 && !location.hash) answers.fail(failure, { key: askKey, again: follow });
else await follow();
