// What an application does with the types that openapi-typescript makes of Shoal's OpenAPI document.
import type { components, paths } from "./schema";

type Search = paths["/v1/search"]["post"];
type SearchRequest = Search["requestBody"]["content"]["application/json"];
type SearchAnswer = components["schemas"]["SearchResponse"];
type Failure = Search["responses"][400]["content"]["application/json"];

// A request names what it wants to say, and nothing else.
const shortest: SearchRequest = { query: "how do fish sleep" };
const longer: SearchRequest = {
  query: "how do fish sleep",
  top_k: 25,
  top_n: 5,
  mode: "hybrid",
  filter: { year: { $gte: 2020 }, $or: [{ lang: "en" }, { tags: { $in: ["reef"] } }] },
  include: ["text", "metadata"],
  rerank: false,
};

// @ts-expect-error: a mode that there is not
const wrongMode: SearchRequest = { query: "how do fish sleep", mode: "fuzzy" };
// @ts-expect-error: a field that there is not
const wrongField: SearchRequest = { query: "how do fish sleep", number: 5 };

// What an answer always holds needs no check.
function best(answer: SearchAnswer): string[] {
  const complete: boolean = answer.coverage.fraction === 1 && answer.degraded === null;
  return answer.results.map((result) => `${complete} ${result.id} ${result.score.toFixed(3)} ${result.text ?? ""}`);
}

export async function search(url: string, key: string, request: SearchRequest): Promise<string[]> {
  const response = await fetch(`${url}/v1/search`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
    body: JSON.stringify(request),
  });
  if (!response.ok) {
    const failure = (await response.json()) as Failure;
    throw new Error(`${failure.error.code}: ${failure.error.message}`);
  }
  return best((await response.json()) as SearchAnswer);
}

type Passages = paths["/v1/passages"]["post"]["requestBody"]["content"]["application/json"];
const written: Passages = {
  passages: [{ id: "fish-7", text: "Most fish rest with open eyes.", metadata: { year: 2020 } }],
};

type Embed = paths["/v1/embed"]["post"]["requestBody"]["content"]["application/json"];
const embedded: Embed = { inputs: ["how do fish sleep"], input_type: "query" };

// @ts-expect-error: texts are a query or passages
const wrongType: Embed = { inputs: ["how do fish sleep"], input_type: "question" };

export const requests = [shortest, longer, wrongMode, wrongField, written, embedded, wrongType];
