// An answer, or why there is none: the sentence above it, what it lacks, its times, and both stages.

import { byId, fill, h } from "./dom.js";
import { stages } from "./stages.js";
import { answerInWords, coverageInWords, milliseconds, remedy, sentence } from "./words.js";

const PARTS = ["queue", "encode", "retrieve", "merge", "fetch", "rerank"];
const SHARDS = /^\d+ of \d+ shards (is|are) missing/;
const LEAST_SHARE = 0.004;

/** Says what is going on, in the line that screen readers read out; seen: whether eyes need it, too. */
function say(text, { seen = true } = {}) {
  byId("status").textContent = text;
  byId("status").classList.toggle("unseen", !seen);
}

/** Shows that an answer is being waited for; what was there stays readable. */
export function wait() {
  document.body.setAttribute("aria-busy", "true");
  say("Searching…");
}

/** Shows that nothing was asked yet. */
export function clear() {
  done();
  say("");
  fill(byId("answer"));
}

/**
 * Shows an answer.
 * copy: called to copy the request. without: the filter is taken away by it, null where there is none.
 * Returns what `stages` does, null for an answer without results.
 */
export function show(answer, { copy, without }) {
  done();
  if (answer.results.length) say(answerInWords(answer));
  else say("No passage was found.", { seen: false });
  const lacks = coverageInWords(answer.coverage);
  const both = answer.results.length ? stages(answer) : null;
  fill(byId("answer"),
    (lacks.length || answer.degraded) && incomplete(answer, lacks),
    answer.warnings?.length > 0 && notice("Note", answer.warnings.map(sentence)),
    h("div", { class: "under" }, times(answer.timings_ms), h("button", { type: "button", class: "plain", onclick: copy }, "Copy as code")),
    both ? both.element : none(answer, without));
  return both;
}

/** Shows why there is no answer. key: asks for an API key; again: asks once more. */
export function fail(failure, { key, again }) {
  done();
  say(`There is no answer: ${failure.message}`, { seen: false });
  const help = remedy(failure);
  const facts = [failure.code, failure.status && `status ${failure.status}`, failure.param && `field ${failure.param}`, failure.requestId && `request ${failure.requestId}`];
  fill(byId("answer"), h("div", { class: "notice failure" },
    h("h2", {}, "There is no answer"),
    h("p", {}, sentence(failure.message)),
    help && h("p", {}, help),
    h("p", { class: "meta" }, facts.filter(Boolean).map((fact) => h("span", { class: "id" }, fact))),
    [401, 403].includes(failure.status)
      ? h("button", { type: "button", onclick: key }, "Give an API key")
      : h("button", { type: "button", onclick: again }, "Try again")));
}

function done() {
  document.body.removeAttribute("aria-busy");
}

function incomplete(answer, lacks) {
  const shards = (answer.explain?.shards ?? []).map((shard) =>
    h("i", { class: shard.missing ? "missing" : null, title: `shard ${shard.shard}${shard.missing ? `: ${shard.missing}` : ""}` }));
  // That shards are missing, `lacks` has said already, and in plainer words.
  const parts = (answer.degraded ?? "").split("; ").filter((part) => part && !(lacks.length && SHARDS.test(part)));
  const told = parts.map(sentence);
  return notice(lacks.length ? "This answer is incomplete" : "This answer is less than was asked for", [...lacks, ...told],
    lacks.length > 0 && h("div", { class: "cells", "aria-hidden": "true" }, shards));
}

function notice(title, sentences, more) {
  return h("div", { class: "notice" }, h("h2", {}, title), sentences.map((sentence) => h("p", {}, sentence)), more);
}

/** One bar for the whole time, cut into what each part took. */
function times(timings) {
  const total = Math.max(timings.total, 0.001);
  const parts = PARTS.map((name) => [name, timings[name] ?? 0]).filter(([, ms]) => ms / total > LEAST_SHARE);
  const segments = parts.map(([name, ms]) => {
    const segment = h("i", { class: name });
    segment.style.setProperty("--share", String(ms / total));
    return segment;
  });
  const words = parts.map(([name, ms]) => h("li", { class: name }, h("span", {}, name), ` ${milliseconds(ms)}`));
  return h("div", { class: "times" }, h("div", { class: "track", "aria-hidden": "true" }, segments), h("ul", { "aria-label": "Time of each part" }, words));
}

function none(answer, without) {
  return h("div", { class: "none" },
    h("h2", {}, "Nothing found"),
    h("p", {}, without ? "No passage that fulfils the filter was found." : "No passage of the index answers this. Ask in other words, or in another mode."),
    without && h("button", { type: "button", onclick: without }, "Search without the filter"));
}
