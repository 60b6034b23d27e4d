"""`shoal serve` on Ray with several indexes: each answers by its name, and changes its version alone."""

import signal
from pathlib import Path

import httpx

from shoal.index_root import versions
from shoal.index_root.storage import Storage
from shoal.serving import keys
from tests.support.indexes import passages, publish
from tests.support.servers import replicas, running, wait

KEY, BOUND = keys.make(), keys.make()


def test_two_indexes_answer_by_their_names_and_one_changes_without_the_other(tmp_path: Path) -> None:
    for name in ("articles", "birds"):
        publish(tmp_path / name, "v1", passages(30, marker=f"of-{name}"), shards=1)
    publish(tmp_path / "birds", "v2", passages(30, marker="of-later"), shards=1, activate=False)
    publish(tmp_path / "birds", "v3", passages(30, marker="of-other"), encoder="hashing:32", shards=2, activate=False)
    lines = [keys.line(KEY, "all", "admin"), keys.line(BOUND, "birds", "admin", indexes=["birds"])]
    (tmp_path / "keys").write_text("\n".join(lines))
    options = (
        *(f"--index={tmp_path / 'birds'}", f"--api-keys-file={tmp_path / 'keys'}"),
        *("--reranker=none", "--watch-s=0.2", "--proxy=ray"),
    )
    with running(tmp_path, tmp_path / "articles", *options) as server:
        server.wait_ready()
        assert replicas(server, "shard-00000", "shoal-birds-1")
        client = httpx.Client(base_url=server.url, timeout=60, headers={"authorization": f"Bearer {KEY}"})
        bound = {"authorization": f"Bearer {BOUND}"}

        def answer(prefix: str) -> tuple[str, str]:
            response = client.post(f"{prefix}/search", json={"query": "the black otter n8"})
            assert response.status_code == 200, response.text
            found = response.json()
            return found["index_version"], found["results"][0]["text"].rpartition(" ")[2]

        assert answer("/v1") == answer("/v1/indexes/articles") == ("v1", "of-articles")
        assert answer("/v1/indexes/birds") == ("v1", "of-birds")
        states = {each["name"]: each["state"] for each in client.get("/v1/indexes").json()}
        assert states == {"articles": "ready", "birds": "ready"}

        asked = {"query": "otter"}
        hidden = client.post("/v1/indexes/articles/search", json=asked, headers=bound)
        absent = client.post("/v1/indexes/nothing/search", json=asked, headers=bound)
        assert (hidden.status_code, absent.status_code) == (404, 404)
        assert hidden.json()["message"].replace("articles", "nothing") == absent.json()["message"]
        assert client.post("/v1/search", json=asked, headers=bound).status_code == 404
        assert client.post("/v1/indexes/birds/search", json=asked, headers=bound).status_code == 200
        assert [each["name"] for each in client.get("/v1/indexes", headers=bound).json()] == ["birds"]
        refused = client.post("/v1/indexes/articles/index/activate", json={"version": "v1"}, headers=bound)
        assert refused.status_code == 404

        activated = client.post("/v1/indexes/birds/index/activate", json={"version": "v2"}, headers=bound)
        assert activated.status_code == 200, activated.text
        assert answer("/v1/indexes/birds") == ("v2", "of-later")
        assert answer("/v1") == ("v1", "of-articles")
        versions.activate(Storage(str(tmp_path / "birds")), "v3")  # which needs replicas of its own
        wait(lambda: answer("/v1/indexes/birds") == ("v3", "of-other"))
        assert answer("/v1") == ("v1", "of-articles")
        client.close()
        server.process.send_signal(signal.SIGINT)
        server.process.wait(timeout=60)
        server.assert_nothing_is_left(within_s=30)
