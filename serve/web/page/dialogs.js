// Questions and texts in front of the page: a key, a confirmation, a request as code.

import { keepKey, key, base, server } from "./api.js";
import { byId, fill, h } from "./dom.js";

/** Asks for an API key; `changed` is called once it was given or forgotten. */
export function askKey(changed) {
  const input = h("input", { id: "key", type: "password", autocomplete: "off", spellcheck: "false", value: key() });
  const keep = (text) => {
    keepKey(text.trim());
    close();
    changed();
  };
  const submit = (event) => {
    event.preventDefault();
    keep(input.value);
  };
  open("API key",
    h("form", { onsubmit: submit },
      h("label", { for: "key" }, "Key of this server"), input,
      h("p", { class: "faint" }, "It stays in this tab and goes with it. Anyone who makes keys does so with shoal keys."),
      buttons(key() && h("button", { type: "button", onclick: () => keep("") }, "Forget it"), h("button", { type: "submit", class: "main" }, "Use it"))));
}

/** Asks before something is done that others notice. */
export function confirm(title, sentences, word, act) {
  const go = () => {
    close();
    act();
  };
  open(title, sentences.map((sentence) => h("p", {}, sentence)), buttons(h("button", { type: "button", class: "main", onclick: go }, word)));
}

/** Shows a request as a program would send it. The key itself is in none of it. */
export function showCode(body) {
  const codes = [["curl", curl(body)], ["Python", python(body)]];
  const blocks = codes.map(([name, code]) => {
    const text = h("pre", { tabindex: 0, "aria-label": `The request as ${name}` }, code);
    const told = h("span", { class: "faint", role: "status" });
    const copy = () => navigator.clipboard?.writeText(code).then(() => (told.textContent = "copied"), () => select(text, told)) ?? select(text, told);
    return h("section", {}, h("h3", {}, name), text, buttons(told, h("button", { type: "button", onclick: copy }, `Copy ${name}`)));
  });
  open("This search as code", blocks);
}

/** Marks a text where a browser does not let the page copy it, as without TLS. */
function select(text, told) {
  getSelection().selectAllChildren(text);
  told.textContent = "selected; copy it with the keyboard";
}

export function curl(body) {
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const login = key() ? ' \\\n  -H "authorization: Bearer $SHOAL_API_KEY"' : "";
  return `curl -s ${quote(`${server}/${base}/search`)} -H 'content-type: application/json'${login} \\\n  -d ${quote(JSON.stringify(body))}`;
}

export function python(body) {
  const { query, ...options } = body;
  const lines = [literal(query), ...Object.entries(options).map(([name, value]) => `${name}=${literal(value)}`)];
  const asked = lines.map((line) => `        ${line},\n`).join("");
  const login = key() ? "  # the API key comes from the variable SHOAL_API_KEY" : "";
  return `from shoal import Client\n\nwith Client(${literal(server)}) as client:${login}\n    answer = client.search(\n${asked}    )\n    for result in answer.results:\n        print(result.score, result.text)\n`;
}

/** A value as Python writes it. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, each]) => `${literal(name)}: ${literal(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}

function buttons(...these) {
  return h("div", { class: "buttons" }, these);
}

function open(title, ...children) {
  fill(byId("dialog"),
    h("header", {}, h("h2", { id: "dialog-title" }, title), h("button", { type: "button", class: "plain", "aria-label": "Close", onclick: close }, "×")),
    children);
  byId("dialog").showModal();
}

function close() {
  byId("dialog").close();
}
