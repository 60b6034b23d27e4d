// Numbers and sentences, as people read them.

const REASONS = {
  deadline: "did not answer in time",
  overloaded: "had too many queries waiting",
  unreachable: "could not be reached",
  suspended: "has been silent, so nobody waits for it",
  error: "failed",
};
const MODES = { dense: "by meaning", lexical: "by words", hybrid: "by meaning and words", sparse: "by learned terms" };
const SHOWN = 6;
const SIZES = ["bytes", "KiB", "MiB", "GiB", "TiB"];
const PERIODS = [[86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]];

/** 12345 as 12,345. */
export const whole = (number) => Number(number).toLocaleString("en");

/** A number of things: `1 shard`, `2 shards`. */
export const several = (number, noun) => `${whole(number)} ${noun}${number === 1 ? "" : "s"}`;

/** Milliseconds with as many digits as matter. */
export const milliseconds = (ms) => `${ms >= 100 ? whole(Math.round(ms)) : ms.toFixed(ms >= 10 ? 0 : 1)} ms`;

/** A size in bytes, in the unit that suits it. */
export function bytes(count) {
  const step = Math.min(SIZES.length - 1, Math.floor(Math.log2(Math.max(1, count)) / 10));
  const value = count / 1024 ** step;
  return `${step && value < 10 ? value.toFixed(1) : whole(Math.round(value))} ${SIZES[step]}`;
}

/** Seconds that have gone by, in the unit that suits them. */
export function ago(seconds) {
  const [size, noun] = PERIODS.find(([least]) => seconds >= least) ?? PERIODS.at(-1);
  return `${several(Math.floor(seconds / size), noun)} ago`;
}

/** A score with as many digits as matter, with a true minus sign. */
export function score(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 3).replace("-", "−");
}

/** Words of the server as a sentence. */
export function sentence(text) {
  const [first = "", ...rest] = text.trim();
  const begun = /^[a-z]+(_|\[|\.\w)/.test(text) ? first : first.toUpperCase();
  return begun + rest.join("") + (/[.?!]$/.test(text.trim()) ? "" : ".");
}

/** How stage one searched. */
export const modeInWords = (mode) => MODES[mode] ?? mode;

/** A share of one in percent; what is not everything never becomes 100 %. */
export function percent(share) {
  const value = share < 1 ? Math.min(share * 100, 99.9) : 100;
  return `${Number.isInteger(value) || value < 99.5 ? Math.round(value) : value.toFixed(1)} %`;
}

/** A point in time as the reader's day and minute. */
export function moment(text) {
  const time = new Date(text);
  if (Number.isNaN(time.valueOf())) return text;
  return time.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

/** What an answer is, in one sentence. */
export function answerInWords(answer) {
  const candidates = answer.explain?.candidates.length ?? answer.results.length;
  const among = candidates > answer.results.length ? ` of ${whole(candidates)} candidates` : "";
  const order = answer.reranked ? `, reranked by ${answer.reranker}` : ", not reranked";
  const shown = `${several(answer.results.length, "passage")}${among}`;
  return `${shown}, found ${modeInWords(answer.mode)}${order}, in ${milliseconds(answer.timings_ms.total)}.`;
}

/** Which part of the index an incomplete answer lacks, in sentences; none for a whole one. */
export function coverageInWords({ shards, answered, fraction, missing }) {
  if (!missing.length) return [];
  const named = missing.slice(0, SHOWN).map(({ shard, reason }) => `Shard ${shard} ${REASONS[reason] ?? reason}.`);
  if (missing.length > SHOWN) named.push(`So it is with ${several(missing.length - SHOWN, "more shard")}.`);
  const searched = `${percent(fraction)} of the passages were searched`;
  return [`${whole(answered)} of ${several(shards, "shard")} answered: ${searched}.`, ...named];
}

/** What to do after a failure, where the server's own words do not say it. */
export function remedy(failure) {
  if (failure.status === 401) return "Give this page an API key; it keeps it for this tab only.";
  if (failure.status === 403) return "Use an API key of the scope admin.";
  if (failure.status === 429 || failure.status === 503) {
    return failure.retryAfter ? `Try again in ${failure.retryAfter} s.` : "Try again in a moment.";
  }
  return "";
}
