// The form's choices: what the index that is served allows, and what was chosen.

import { byId, fill, h } from "./dom.js";

const choices = () => ["mode", "rerank", "recall"].map(byId);

/** Offers what an index allows; what was chosen stays chosen. */
export function offer(index) {
  const chosen = choices().map((select) => select.value);
  options("mode", [["", "default"], ...index.modes.map((mode) => [mode, mode])]);
  const rerankers = [["", index.models.reranker ?? "none"]];
  if (index.models.reranker) rerankers.push(["off", "none"]);
  if (index.late_interaction === "stored") rerankers.push(["late", "late, by stored tokens"]);
  options("rerank", rerankers);
  const tuned = index.recall_at_10 === null ? "as tuned" : `as tuned, ${index.recall_at_10.toFixed(3)}`;
  const points = index.curve.map((point) => [point.recall, `${point.recall.toFixed(3)}, ${point.latency_ms.toFixed(2)} ms`]);
  options("recall", [["", tuned], ...points]);
  byId("recall-label").hidden = points.length === 0;
  choices().forEach((select, number) => choose(select, chosen[number]));
}

/** Shows what is asked for. */
export function show(state) {
  byId("query").value = state.q;
  choose(byId("mode"), state.mode);
  choose(byId("rerank"), state.rerank);
  choose(byId("recall"), state.recall ?? "");
  byId("depth").value = state.depth ?? "";
  byId("count").value = state.count ?? "";
  if (state.recall) byId("recall-label").hidden = false;
}

/** Reads what was chosen, without the filter. */
export function take() {
  const number = (name) => Number.parseInt(byId(name).value, 10) || null;
  return {
    q: byId("query").value.trim(),
    mode: byId("mode").value,
    depth: number("depth"),
    count: number("count"),
    rerank: byId("rerank").value,
    recall: Number(byId("recall").value) || null,
  };
}

/** Shows the sizes that an answer had where none were chosen. */
export function suggest(plan) {
  byId("depth").placeholder = plan.top_k;
  byId("count").placeholder = plan.top_n;
}

function options(name, pairs) {
  fill(byId(name), pairs.map(([value, text]) => h("option", { value }, text)));
}

/** Chooses a value; one that is not offered, as in a link to another index, is offered too. */
function choose(select, value) {
  const text = String(value);
  if (![...select.options].some((option) => option.value === text)) select.append(h("option", { value: text }, text));
  select.value = text;
}
