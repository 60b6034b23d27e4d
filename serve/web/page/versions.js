// The versions of the index: which is served, and which may be served instead by whoever has a key of the scope admin.

import * as api from "./api.js";
import { fill, h } from "./dom.js";
import { moment, sentence, several } from "./words.js";

const STATES = { previous: "before", refused: "refused" };

/**
 * The part of the page about versions; the list of them follows, where the key is good for it.
 * change: called with a version to serve, or null for the one before.
 */
export function section(index, change) {
  const list = h("div", { id: "version-list" }, inUse(index));
  load(list, index, change);
  const name = h("input", { id: "version", type: "text", spellcheck: "false", autocomplete: "off", required: true, placeholder: "name of a version" });
  const submit = (event) => {
    event.preventDefault();
    if (name.value.trim()) change(name.value.trim());
  };
  return [
    h("h3", {}, "Versions"),
    list,
    index.previous && h("button", { type: "button", id: "rollback", onclick: () => change(null) }, "Roll back to the version before"),
    h("form", { class: "activate", onsubmit: submit }, h("label", { for: "version" }, "Serve another version"), h("span", {}, name, h("button", { type: "submit" }, "Serve"))),
    h("p", { id: "change-status", class: "faint", role: "status", "aria-live": "polite" })];
}

/** What every key may know. */
function inUse(index) {
  return h("dl", { class: "facts" },
    h("div", {}, h("dt", {}, "served"), h("dd", { class: "id" }, index.version)),
    h("div", {}, h("dt", {}, "before"), h("dd", { class: "id" }, index.previous ?? "none")));
}

async function load(place, index, change) {
  let listed;
  try {
    listed = (await api.listVersions()).versions;
  } catch (failure) {
    if (!(failure instanceof api.Failure)) throw failure;
    const isKey = failure.status === 401 || failure.status === 403;
    const why = isKey ? "An API key of the scope admin lists the versions and serves another one." : failure.message;
    fill(place, inUse(index), h("p", { class: "faint" }, why));
    return;
  }
  fill(place, table(listed, index, change));
}

function table(listed, index, change) {
  const head = ["version", "state"].map((name) => h("th", { scope: "col" }, name));
  return h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Versions" }, h("table", {},
    h("thead", {}, h("tr", {}, head)),
    h("tbody", {}, listed.map((each) => row(each, index, change)))));
}

function row({ version, state, created_at, passages, problem }, index, change) {
  const isServed = version === index.version;
  const built = created_at !== null && `${moment(created_at)}, ${several(passages, "passage")}`;
  const name = h("th", { scope: "row" },
    h("span", { class: "id" }, version),
    built && h("span", { class: "built" }, built),
    problem && h("span", { class: "problem" }, sentence(problem)));
  return h("tr", { class: isServed ? "served" : null },
    name,
    h("td", {},
      isServed ? "served" : STATES[state],
      !isServed && created_at !== null && h("button", { type: "button", "aria-label": `Serve ${version}`, onclick: () => change(version) }, "Serve")));
}
