# %% [markdown]
# # Two-stage retrieval for RAG, with Pinecone's SDK against Shoal
#
# Stage one finds 25 candidates by their vectors, fast. Stage two, a reranker, reads question and candidates together
# and keeps the best 3. Those go to a language model.
#
# The code is written for Pinecone's Python SDK 10.2 and runs unchanged on a Shoal server, which does it all on your
# machine: `docs/from-pinecone.md` tells how to start one, and what differs with other versions of the SDK.
#
# ```
# pip install 'shoal[cpu]' 'pinecone>=10.2'
# shoal index create --index ./rerankers
# shoal serve --local --index ./rerankers \
#     --model-alias multilingual-e5-large=all-MiniLM-L6-v2,bge-reranker-v2-m3=late_interaction
# export PINECONE_CONTROLLER_HOST=http://127.0.0.1:8000
# ```
#
# The aliases let this run without a model hub. With one, `--encoder multilingual-e5-large` of `shoal index create` and
# `--reranker bge-reranker-v2-m3` of `shoal serve` are the models themselves, and no alias is needed.

# %%
import json
import os
import time
from pathlib import Path

from pinecone import Pinecone, ServerlessSpec
from pinecone.exceptions import PineconeApiException

# %% [markdown]
# ## The passages
#
# Sixty short chunks of twelve invented papers, one JSON object each. An id names one chunk of one paper.

# %%
data_file = next(path for path in (Path("papers.jsonl"), Path("examples/papers.jsonl")) if path.exists())
records = [
    {
        "id": f"{record['id']}#{record['chunk-id']}",
        "text": record["chunk"],
        "metadata": {"title": record["title"], "source": record["source"], "category": record["primary_category"]},
    }
    for record in map(json.loads, data_file.read_text("utf-8").splitlines())
]
print(len(records), "chunks; the first:", json.dumps(records[0], indent=2))

# %% [markdown]
# ## Vectors
#
# At most 96 texts go into one request. A server that has too much to do says so: wait, each time twice as long, and
# ask again.

# %%
pc = Pinecone(api_key=os.environ.get("PINECONE_API_KEY", "this-server-asks-for-no-key"))
ENCODER, RERANKER = "multilingual-e5-large", "bge-reranker-v2-m3"
BATCH_SIZE = 96
ATTEMPTS = 5


def embed(texts, input_type):
    """Return the vectors of up to 96 texts, which are of the type passage or query."""
    for attempt in range(ATTEMPTS):
        try:
            made = pc.inference.embed(
                model=ENCODER, inputs=texts, parameters={"input_type": input_type, "truncate": "END"}
            )
            return [embedding.values for embedding in made.data]
        except PineconeApiException as error:
            status = getattr(error, "status_code", getattr(error, "status", None))  # of SDK 10; of those before
            if attempt + 1 == ATTEMPTS or (status != 429 and status < 500):
                raise
            time.sleep(2**attempt)


dimension = len(embed(["How many dimensions have the vectors?"], "query")[0])
print("vectors of", dimension, "dimensions")

# %% [markdown]
# ## The index
#
# It is created unless it is there. One that `shoal index create` has made is there already; a server with `--catalog`
# creates it.

# %%
INDEX = "rerankers"
if INDEX not in pc.list_indexes().names():
    pc.create_index(
        name=INDEX, dimension=dimension, metric="cosine", spec=ServerlessSpec(cloud="aws", region="us-east-1")
    )
while not pc.describe_index(INDEX).status["ready"]:
    time.sleep(1)
index = pc.Index(INDEX)
print(index.describe_index_stats())

# %% [markdown]
# Embed and upsert batch by batch. The text goes into the metadata, where the reranker will find it. What was written
# is seen by searches within about a second.

# %%
for start in range(0, len(records), BATCH_SIZE):
    batch = records[start : start + BATCH_SIZE]
    vectors = embed([record["text"] for record in batch], "passage")
    index.upsert(
        vectors=[
            (record["id"], vector, {**record["metadata"], "text": record["text"]})
            for record, vector in zip(batch, vectors, strict=True)
        ]
    )
while index.describe_index_stats().total_vector_count < len(records):
    time.sleep(0.1)
print(index.describe_index_stats().total_vector_count, "passages in the index")

# %% [markdown]
# ## Stage one: retrieve
#
# Many candidates, in the order of their vectors' cosine with that of the question.


# %%
def retrieve(question, top_k=25):
    """Return the top_k passages that are nearest to the question."""
    [vector] = embed([question], "query")
    matches = index.query(vector=vector, top_k=top_k, include_metadata=True).matches
    return [{"id": match.id, "score": match.score, **match.metadata} for match in matches]


question = "why would we train a model with feedback from people?"
candidates = retrieve(question)
for place, candidate in enumerate(candidates[:5], start=1):
    print(f"{place}. {candidate['score']:.3f}  {candidate['text']}")

# %% [markdown]
# ## Stage two: rerank
#
# The reranker scores each candidate for the question. What it returns names candidates by their places.


# %%
def rerank(question, candidates, top_n=3):
    """Return the top_n best candidates, each with its place in stage one and what the reranker makes of it."""
    documents = [{"id": candidate["id"], "text": candidate["text"]} for candidate in candidates]
    ranked = pc.inference.rerank(
        model=RERANKER, query=question, documents=documents, top_n=top_n, return_documents=True
    )
    return [
        {**candidates[result.index], "before": result.index + 1, "relevance": result.score} for result in ranked.data
    ]


def compare(question, top_k=25, top_n=3):
    """Print both orders as a table: the best after stage two, and below them what stage one had in their place."""
    candidates = retrieve(question, top_k)
    best = rerank(question, candidates, top_n)
    print(f"{question}\n\nafter  before  relevance  cosine  passage")
    for after, passage in enumerate(best, start=1):
        row = f"{after:5}  {passage['before']:6}  {passage['relevance']:9.3f}  {passage['score']:6.3f}"
        print(f"{row}  {passage['id']} {passage['text'][:80]}")
    kept = {passage["id"] for passage in best}
    for before, passage in enumerate(candidates[:top_n], start=1):
        if passage["id"] not in kept:
            print(f"    -  {before:6}          -  {passage['score']:6.3f}  {passage['id']} {passage['text'][:80]}")
    print()


for question in (
    "why would we train a model with feedback from people?",
    "what should I measure before I trust a vector index?",
    "in which order should passages be put into a prompt?",
):
    compare(question)

# %% [markdown]
# ## What the language model reads
#
# The best three, with numbers that an answer can cite. Shoal ends here: send the prompt to any language model.

# %%
best = rerank(question, retrieve(question))
sources = "\n".join(f"[{number}] {passage['title']}: {passage['text']}" for number, passage in enumerate(best, start=1))
print(f"Answer from these passages and cite their numbers. Say so if they hold no answer.\n\n{sources}\n\n{question}")
