// Filters, made of the fields of an index: an input by its type for each, and a chip for each that is in use.

import { byId, fill, h } from "./dom.js";
import { whole } from "./words.js";

const DAY_ENDS = "T23:59:59.999999Z";
const FIELD_TYPES = { string: values, list: values, integer: span, number: span, timestamp: days, boolean: choice };

const MOST_FIELDS = 16;
const MOST_VALUES = 12;

let controls = new Map();
let beyond = {};

/** Makes an input for each field; `changed` is called when one of them has been. */
export function offer(fields, changed) {
  const now = take();
  controls = new Map();
  const rows = Object.entries(fields).map(([name, type]) => row(name, type, changed));
  fill(byId("filter"), rows);
  byId("filter-toggle").hidden = rows.length === 0;
  show(now, changed);
}

/** Shows a filter: in its inputs as far as they can say it, and in chips. */
export function show(filter, changed) {
  beyond = {};
  for (const control of controls.values()) control.set(undefined);
  for (const [name, condition] of Object.entries(filter)) {
    if (!controls.get(name)?.set(condition)) beyond[name] = condition;
  }
  chips(changed);
}

/** Reads the filter: what the inputs say, and what none of them can. */
export function take() {
  const said = [...controls].map(([name, control]) => [name, control.get()]);
  return { ...beyond, ...Object.fromEntries(said.filter(([, condition]) => condition !== undefined)) };
}

/** The fields whose values are worth counting, as a search asks for them. */
export function facets() {
  const names = [...controls].filter(([, control]) => control.count).map(([name]) => name);
  return names.slice(0, MOST_FIELDS).map((field) => ({ field, limit: MOST_VALUES }));
}

/** Shows the values of fields with their counts, as an answer has them. */
export function count(counted) {
  for (const [name, values] of Object.entries(counted)) controls.get(name)?.count?.(values);
}

function chips(changed) {
  const remove = (name) => {
    delete beyond[name];
    controls.get(name)?.set(undefined);
    chips(changed);
    changed();
    byId("query").focus();
  };
  const chip = ([name, condition]) =>
    h("li", {}, h("button", { type: "button", class: "chip", onclick: () => remove(name), title: "Remove this filter" },
      h("b", {}, name), ` ${inWords(condition)} `, h("span", { "aria-hidden": "true" }, "×"),
      h("span", { class: "unseen" }, ", remove")));
  fill(byId("chips"), Object.entries(take()).map(chip));
}

function row(name, type, changed) {
  const control = FIELD_TYPES[type]?.(name, () => {
    chips(changed);
    changed();
  });
  if (control) controls.set(name, control);
  const inputs = control?.element ?? h("span", { class: "faint" }, "holds values of several types: no filter");
  return h("div", { class: "field", role: "group", "aria-label": name },
    h("span", { class: "name" }, name, h("small", {}, type)), inputs);
}

function values(name, changed) {
  const input = h("input", { type: "text", "aria-label": `${name} is one of`, placeholder: "any; several with commas", onchange: changed });
  const list = h("ul", { class: "values", "aria-label": `Values of ${name}` });
  const counts = new Map();
  const draw = () => {
    const chosen = split(input.value);
    const known = [...new Set([...counts.keys(), ...chosen])];
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.value : null;
    const buttons = known.map((value) => h("button", { type: "button", "data-value": value, "aria-pressed": String(chosen.includes(value)), onclick: () => press(value) },
      value, h("small", {}, counts.get(value) ?? "")));
    fill(list, buttons.map((button) => h("li", {}, button)));
    buttons.find((button) => button.dataset.value === focused)?.focus();
  };
  const press = (value) => {
    const chosen = split(input.value);
    const next = chosen.includes(value) ? chosen.filter((each) => each !== value) : [...chosen, value];
    input.value = next.map(quoted).join(", ");
    draw();
    changed();
  };
  return {
    element: h("span", { class: "of" }, input, list),
    get: () => {
      const texts = split(input.value);
      return texts.length > 1 ? { $in: texts } : texts[0];
    },
    count: (values) => {
      // Where the field itself is filtered, values seen before stay on offer, without a number.
      if (split(input.value).length) for (const value of counts.keys()) counts.set(value, null);
      else counts.clear();
      for (const { value, count: number } of values) counts.set(String(value), whole(number));
      draw();
    },
    set: (condition) => {
      const texts = typeof condition === "string" ? [condition] : only(condition, ["$in"]) ? condition.$in : [];
      if (!Array.isArray(texts) || !texts.every((text) => typeof text === "string")) return false;
      input.value = texts.map(quoted).join(", ");
      draw();
      return texts.length > 0;
    },
  };
}

function span(name, changed) {
  const [least, most] = ["at least", "at most"].map((words) =>
    h("input", { type: "number", step: "any", "aria-label": `${name} ${words}`, placeholder: words, onchange: changed }));
  return {
    element: h("span", { class: "span" }, least, most),
    get: () => bounds(least.value, most.value, Number),
    set: (condition) => {
      const pair = typeof condition === "number" ? { $gte: condition, $lte: condition } : condition;
      const fits = only(pair, ["$gte", "$lte"]) && Object.values(pair).every((value) => typeof value === "number");
      [least.value, most.value] = fits ? [pair.$gte ?? "", pair.$lte ?? ""] : ["", ""];
      return fits;
    },
  };
}

function days(name, changed) {
  const [first, last] = ["from", "to"].map((word) =>
    h("input", { type: "date", "aria-label": `${name} ${word}`, onchange: changed }));
  const day = (text, ending) => (typeof text === "string" && text.endsWith(ending) ? text.slice(0, 10) : text);
  return {
    element: h("span", { class: "span" }, first, last),
    get: () => bounds(first.value, last.value && last.value + DAY_ENDS, String),
    set: (condition) => {
      [first.value, last.value] = ["", ""];
      if (!only(condition, ["$gte", "$lte"])) return false;
      const [from, to] = [condition.$gte ?? "", day(condition.$lte ?? "", DAY_ENDS)];
      if (![from, to].every((text) => /^(\d{4}-\d{2}-\d{2})?$/.test(text))) return false;
      [first.value, last.value] = [from, to];
      return true;
    },
  };
}

function choice(name, changed) {
  const pairs = [["", "any"], ["true", "true"], ["false", "false"]];
  const select = h("select", { "aria-label": name, onchange: changed },
    pairs.map(([value, text]) => h("option", { value }, text)));
  return {
    element: select,
    get: () => ({ true: true, false: false })[select.value],
    set: (condition) => {
      select.value = typeof condition === "boolean" ? String(condition) : "";
      return typeof condition === "boolean";
    },
  };
}

function bounds(least, most, convert) {
  const pair = {};
  if (least !== "") pair.$gte = convert(least);
  if (most !== "") pair.$lte = convert(most);
  return Object.keys(pair).length ? pair : undefined;
}

function only(condition, operators) {
  if (!condition || typeof condition !== "object") return false;
  const names = Object.keys(condition);
  return names.length > 0 && names.every((name) => operators.includes(name));
}

/** Texts between commas; one with a comma in it stands in double quotes. */
function split(text) {
  const parts = text.match(/"[^"]*"|[^,]+/g) ?? [];
  return parts.map((part) => part.trim().replace(/^"(.*)"$/, "$1")).filter(Boolean);
}

function quoted(text) {
  return text.includes(",") ? `"${text}"` : text;
}

function inWords(condition) {
  if (typeof condition === "string") return condition;
  if (only(condition, ["$in"]) && Array.isArray(condition.$in)) return condition.$in.join(" or ");
  if (only(condition, ["$gte", "$lte"])) {
    const [least, most] = [condition.$gte, condition.$lte].map((value) => String(value ?? "").replace(DAY_ENDS, ""));
    if (least === most) return least;
    return least && most ? `${least} – ${most}` : least ? `≥ ${least}` : `≤ ${most}`;
  }
  return JSON.stringify(condition);
}
