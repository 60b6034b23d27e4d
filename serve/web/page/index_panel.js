// The index that is served: what it is, what its manifest says of recall and time, what was
// written since, its versions and its shards.

import { bar, byId, fill, h, s } from "./dom.js";
import * as versions from "./versions.js";
import { ago, bytes, milliseconds, moment, several, whole } from "./words.js";

const PLOT = { width: 300, height: 132, left: 40, right: 12, top: 14, bottom: 26 };

/**
 * Shows the index.
 * change: called with a version to serve, or null for the one before. pick: called with a recall of the curve.
 */
export function show(index, { change, pick }) {
  fill(byId("index"),
    h("h2", { id: "index-title" }, "Index"),
    index.problem && h("div", { class: "notice" }, h("h3", {}, "Something is wrong"), h("p", {}, index.problem)),
    h("div", { class: "columns" },
      h("div", {}, h("div", { id: "facts" }), h("div", { id: "live" })),
      h("div", { class: "measured" }, recall(index, pick)),
      h("div", { class: "versions" }, versions.section(index, change), h("div", { id: "shards" }))));
  showContent(index);
}

/** Shows what there is now, and what of it was written since the version was built. */
export function showContent(index) {
  const { live, version } = index;
  byId("index-toggle").textContent = `${whole(index.passages)} passages`;
  if (!byId("facts")) return;
  fill(byId("facts"), list(facts(index)));
  if (live) fill(byId("live"), h("h3", {}, "Written since"), list([
    ["visible", `all writes up to ${whole(live.position)}`],
    ["built in", `all writes up to ${whole(live.complete_to)}, by version ${version}`],
    ["waiting", live.oldest_s === null ? "nothing" : `${several(live.rows, "passage")}, ${bytes(live.bytes)}, the first ${ago(live.oldest_s)}`],
    ["gone", several(live.dead, "passage")],
  ]));
}

/** Says that the index cannot be described, and why. */
export function fail(failure) {
  byId("index-toggle").textContent = "Index";
  fill(byId("index"), h("h2", { id: "index-title" }, "Index"), h("p", { class: "faint" }, failure.message));
}

/** Shows what each shard did for an answer. */
export function showShards(shards) {
  const place = byId("shards");
  if (!place || !shards?.length) return;
  const most = Math.max(...shards.map(({ ms }) => ms ?? 0), 0.001);
  const row = ({ shard, ms, hits, matches, missing }) => h("tr", { class: missing ? "missing" : null },
    h("th", { scope: "row" }, shard),
    missing ? h("td", { colspan: 3 }, missing) : [
      h("td", { class: "time" }, bar(ms / most, "dense"), h("span", {}, milliseconds(ms))),
      h("td", {}, whole(hits)),
      h("td", {}, matches === undefined ? "–" : whole(matches))]);
  fill(place, h("h3", {}, "Shards in the last answer"), h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Shards" }, h("table", {},
    h("thead", {}, h("tr", {}, ["shard", "time", "hits", "pass filter"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, shards.map(row)))));
}

function list(pairs) {
  return h("dl", { class: "facts" }, pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function facts(index) {
  const { models } = index;
  return [
    ["version", h("span", { class: "id" }, index.version)],
    ["built", moment(index.created_at)],
    ["holds", `${several(index.passages, "passage")} in ${several(index.shards, "shard")}`],
    ["vectors", `${whole(index.dim)} dimensions, ${index.metric}`],
    ["kind", index.search ? `${index.kind}, ${index.search}` : index.kind],
    ["modes", index.modes.join(", ")],
    ["encoder", models.encoder],
    ["reranker", models.reranker ?? "none"],
    ["token vectors", index.late_interaction === "stored" ? "stored" : "none"],
  ].filter(([, value]) => value);
}

function recall(index, pick) {
  const title = h("h3", {}, "Recall and time");
  if (index.curve.length < 2) return [title, h("p", { class: "faint" }, recallInWords(index))];
  return [title, plot(index, pick), h("p", { class: "faint" }, recallInWords(index))];
}

function recallInWords(index) {
  if (index.kind === "flat") return "Search by vectors is exact: every vector is compared.";
  if (index.recall_at_10 === null) return "Recall was not measured when this version was built (--verify-queries).";
  const found = `As tuned, ${(100 * index.recall_at_10).toFixed(1)} % of the exact ten nearest are found.`;
  return index.curve.length > 1 ? `${found} A point is what other parameters find; choose one to search with it.` : found;
}

/** Recall over the time of one shard, a point for each of the parameters that were measured. */
function plot(index, pick) {
  const { width, height, left, right, top, bottom } = PLOT;
  const slowest = Math.max(...index.curve.map((point) => point.latency_ms));
  const lowest = Math.min(...index.curve.map((point) => point.recall));
  const floor = Math.min(Math.floor(lowest * 20) / 20, 0.95);
  const x = (ms) => left + ((width - left - right) * ms) / slowest;
  const y = (share) => top + ((height - top - bottom) * (1 - share)) / (1 - floor);
  const path = index.curve.map((point, number) => `${number ? "L" : "M"}${x(point.latency_ms).toFixed(1)} ${y(point.recall).toFixed(1)}`).join("");
  const level = (share) => [
    s("line", { class: "grid", x1: left, x2: width - right, y1: y(share), y2: y(share) }),
    s("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, share.toFixed(2))];
  const point = (each) => {
    const words = `${each.search}: recall ${each.recall.toFixed(3)}, ${each.latency_ms.toFixed(2)} ms`;
    const choose = () => pick(each.recall);
    const press = (event) => (event.key === "Enter" || event.key === " ") && (event.preventDefault(), choose());
    return s("g", { class: each.search === index.search ? "point tuned" : "point", role: "button", tabindex: 0, "aria-label": words, onclick: choose, onkeydown: press },
      s("title", {}, words),
      s("circle", { class: "reach", cx: x(each.latency_ms), cy: y(each.recall), r: 12 }),
      s("circle", { cx: x(each.latency_ms), cy: y(each.recall), r: 4 }));
  };
  return s("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Recall over time of a search in one shard" },
    level(1), level(floor),
    s("text", { x: left, y: height - 8 }, "0"),
    s("text", { x: width - right, y: height - 8, "text-anchor": "end" }, `${slowest.toFixed(2)} ms`),
    s("path", { class: "curve", d: path }),
    index.curve.map(point));
}
