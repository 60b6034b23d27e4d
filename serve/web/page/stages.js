// Both stages side by side: every candidate of stage one, every result of stage two, and lines between them.

import { bar, fill, h, s } from "./dom.js";
import { draw } from "./lines.js";
import { milliseconds, modeInWords, score, several } from "./words.js";

const NAME_LETTERS = 90;
const LEAD_LETTERS = 100;
const RETRIEVERS = { dense: "meaning", lexical: "words" };

/**
 * Makes both stages of an answer.
 * Returns the element, the ids of candidates that are `nameless`, since only results come with texts, and `name`, which
 * gives them theirs. The lines follow by themselves when sizes change.
 */
export function stages(answer) {
  const candidates = answer.explain?.candidates ?? answer.results.map(fromResult);
  const rows = new Map(candidates.map((candidate) => [candidate.id, candidateRow(candidate, candidates)]));
  const results = new Map(answer.results.map((result, place) => [result.id, resultRow(result, place + 1, answer, candidates)]));
  for (const { id, title, text } of answer.results) if (rows.has(id)) rename(rows.get(id), title, text);
  const svg = s("svg", { class: "lines", "aria-hidden": "true" });
  const element = h("div", { class: "stages" },
    svg,
    h("section", { class: "stage one", "aria-labelledby": "stage-one" }, headOfOne(answer, candidates), h("ol", {}, [...rows.values()])),
    h("section", { class: "stage two", "aria-labelledby": "stage-two" }, headOfTwo(answer), h("ol", {}, [...results.values()])));
  const pairs = answer.results.filter(({ id }) => rows.has(id)).map((result, place) => ({
    id: result.id,
    from: rows.get(result.id).querySelector("button"),
    to: results.get(result.id).querySelector(".rank"),
    rise: result.retrieval_rank - place - 1,
  }));
  const light = lighter(element, rows, results, svg);
  new ResizeObserver(() => {
    draw(svg, element, pairs);
    light.again();
  }).observe(element);
  listen(element, rows, results, light);
  return {
    element,
    nameless: candidates.map(({ id }) => id).filter((id) => !results.has(id)),
    name: (passages) => passages.forEach(({ id, title, text }) => rows.has(id) && rename(rows.get(id), title, text)),
  };
}

function fromResult(result) {
  return { id: result.id, rank: result.retrieval_rank, score: result.retrieval_score, rerank_score: result.rerank_score };
}

function headOfOne(answer, candidates) {
  const { queue, encode, retrieve, merge, fetch } = answer.timings_ms;
  const used = Object.keys(RETRIEVERS).filter((name) => candidates.some((each) => each[`${name}_score`] !== null && each[`${name}_score`] !== undefined));
  const key = used.length > 1 && used.map((name) => h("span", { class: `key ${name}` }, RETRIEVERS[name]));
  return h("header", {},
    h("h2", { id: "stage-one" }, "Stage one"),
    h("p", {}, `${several(candidates.length, "candidate")}, ${modeInWords(answer.mode)}, ${milliseconds(queue + encode + retrieve + merge + fetch)}`),
    h("p", { class: "keys" }, key));
}

function headOfTwo(answer) {
  const words = answer.reranked
    ? `${answer.reranker}, ${several(answer.usage.pairs, "pair")} read, ${milliseconds(answer.timings_ms.rerank)}`
    : "not reranked: the order of stage one";
  return h("header", {}, h("h2", { id: "stage-two" }, "Stage two"), h("p", {}, words));
}

function candidateRow(candidate, candidates) {
  const bars = Object.keys(RETRIEVERS)
    .filter((name) => candidate[`${name}_score`] !== null && candidate[`${name}_score`] !== undefined)
    .map((name) => bar(share(candidate, candidates, `${name}_score`), name));
  const open = h("button", { type: "button", tabindex: candidate.rank === 1 ? 0 : -1, "data-id": candidate.id },
    h("span", { class: "rank" }, candidate.rank),
    h("span", { class: "name id" }, candidate.id),
    h("span", { class: "bars" }, bars.length ? bars : bar(share(candidate, candidates, "score"), "dense")),
    h("span", { class: "value", title: "Score of stage one" }, score(candidate.score)));
  return h("li", { class: "candidate", "data-id": candidate.id }, open, h("p", { class: "text", hidden: true }));
}

/** Gives a candidate its title, or else the beginning of its text. */
function rename(row, title, text) {
  const name = title || (text ?? "").slice(0, NAME_LETTERS).replace(/\s+/g, " ");
  if (name.trim()) {
    const label = row.querySelector(".name");
    label.classList.remove("id");
    label.textContent = name;
    label.title = name;
  }
  row.querySelector(".text").textContent = text ?? "";
}

function resultRow(result, place, answer, candidates) {
  const rise = result.retrieval_rank - place;
  const move = rise > 0 ? `▲ ${rise}` : rise < 0 ? `▼ ${-rise}` : "";
  const more = h("div", { class: "more", hidden: true, id: `more-${place}` }, details(result, candidates));
  const title = h("button", { type: "button", "data-id": result.id, "aria-expanded": "false", "aria-controls": more.id }, result.title || result.id);
  return h("li", { class: "result", "data-id": result.id },
    h("div", { class: "place" },
      h("span", { class: "rank" }, place),
      h("span", { class: `move ${rise > 0 ? "up" : "down"}`, "aria-hidden": "true" }, move),
      h("span", { class: "unseen" }, `, place ${result.retrieval_rank} in stage one`)),
    h("div", { class: "passage" },
      h("h3", { class: result.title ? null : "id" }, title),
      h("p", { class: "text" }, textOf(result)),
      h("p", { class: "meta" }, metadata(result).map(([name, value]) => h("span", {}, h("span", { class: "faint" }, `${name.replace(/^_/, "")} `), value)),
        result.title && h("span", { class: "id" }, result.id)),
      more),
    h("dl", { class: "scores" },
      answer.reranked && scoreRow("rerank", result.rerank_score, shareOf(result.rerank_score, candidates.map((each) => each.rerank_score)), "rerank"),
      scoreRow("stage one", result.retrieval_score, shareOf(result.retrieval_score, candidates.map((each) => each.score)), "dense")));
}

/** The text of a result with its best sentence marked; a closed result begins there where much stands before it. */
function textOf({ text = "", highlight }) {
  if (!highlight) return text;
  const letters = Array.from(text); // offsets count characters, not what JavaScript's strings are made of
  const before = letters.slice(0, highlight.start).join("");
  const isLong = highlight.start > LEAD_LETTERS || before.includes("\n"); // a closed result shows two lines
  return [
    h("span", { class: isLong ? "lead long" : "lead" }, before),
    h("mark", {}, letters.slice(highlight.start, highlight.end).join("")),
    letters.slice(highlight.end).join("")];
}

function scoreRow(name, value, part, kind) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, h("span", {}, score(value)), bar(part, kind)));
}

function metadata(result) {
  const texts = Object.entries(result.metadata ?? {}).map(([name, value]) => [name, Array.isArray(value) ? value.join(", ") : String(value)]);
  return texts.filter(([, text]) => text !== "");
}

/** All that is known of a result: its metadata in full, and what every retriever said of it. */
function details(result, candidates) {
  const candidate = candidates.find(({ id }) => id === result.id) ?? {};
  const said = Object.keys(RETRIEVERS).filter((name) => candidate[`${name}_rank`]).map((name) =>
    [`by ${RETRIEVERS[name]}`, `place ${candidate[`${name}_rank`]}, score ${score(candidate[`${name}_score`])}`]);
  const places = [["id", result.id], ["stage one", `place ${result.retrieval_rank}, score ${score(result.retrieval_score)}`], ...said];
  if (result.rerank_score !== null) places.push(["stage two", `score ${score(result.rerank_score)}`]);
  return h("dl", { class: "facts" }, [...places, ...metadata(result)].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function share(candidate, candidates, name) {
  return shareOf(candidate[name], candidates.map((each) => each[name]));
}

/** Where a score lies between the least and the greatest of an answer; the least still shows. */
function shareOf(value, values) {
  const known = values.filter((each) => each !== null && each !== undefined);
  if (value === null || value === undefined || !known.length) return 0;
  const [least, most] = [Math.min(...known), Math.max(...known)];
  return most > least ? 0.06 + (0.94 * (value - least)) / (most - least) : 1;
}

/** Makes what shows one passage in both stages, with its line: `show` by its id, undefined for none; `again` after drawing. */
function lighter(element, rows, results, svg) {
  let lit;
  const again = () => {
    for (const each of element.querySelectorAll(".lit")) each.classList.remove("lit");
    const line = [...svg.children].find((path) => path.dataset.id === lit);
    for (const each of [rows.get(lit), results.get(lit), line]) each?.classList.add("lit");
    element.classList.toggle("choosing", Boolean(line));
  };
  const show = (id) => {
    lit = id;
    again();
  };
  return { show, again };
}

function listen(element, rows, results, light) {
  const idOf = (event) => event.target.closest?.("li[data-id]")?.dataset.id;
  element.addEventListener("pointerover", (event) => light.show(idOf(event)));
  element.addEventListener("pointerleave", () => light.show(undefined));
  element.addEventListener("focusin", (event) => light.show(idOf(event)));
  element.addEventListener("focusout", () => light.show(undefined));
  element.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-id]");
    if (!button) return;
    const { id } = button.dataset;
    if (button.closest(".two")) toggle(results.get(id));
    else if (results.has(id)) results.get(id).querySelector("button").focus();
    else {
      const text = rows.get(id).querySelector(".text");
      text.hidden = !text.hidden;
    }
  });
  element.addEventListener("keydown", (event) => move(event, element));
}

function toggle(row, open) {
  const button = row.querySelector("button");
  const opens = open ?? button.getAttribute("aria-expanded") !== "true";
  button.setAttribute("aria-expanded", String(opens));
  row.classList.toggle("open", opens);
  row.querySelector(".more").hidden = !opens;
  return opens;
}

/** Arrow keys go up and down a stage and between the two; Escape closes a passage, and then goes back to the query. */
function move(event, element) {
  const button = event.target.closest("button[data-id]");
  if (!button || event.altKey || event.ctrlKey || event.metaKey) return;
  const own = [...button.closest("ol").querySelectorAll("button[data-id]")];
  const place = own.indexOf(button);
  const across = (stage) => [...element.querySelectorAll(`.${stage} button[data-id]`)].find((each) => each.dataset.id === button.dataset.id);
  const goals = {
    ArrowDown: () => own[place + 1],
    ArrowUp: () => own[place - 1] ?? document.getElementById("query"),
    Home: () => own[0],
    End: () => own.at(-1),
    ArrowLeft: () => across("one"),
    ArrowRight: () => across("two"),
    Escape: () => escape(button),
  };
  const goal = goals[event.key]?.();
  if (!goal) return;
  event.preventDefault();
  goal.focus();
}

function escape(button) {
  const open = button.closest(".result.open");
  if (!open) return document.getElementById("query");
  toggle(open, false);
  return button;
}
