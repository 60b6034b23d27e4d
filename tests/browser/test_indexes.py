"""Several indexes on the page: which one is asked, and what a link holds of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Tab
from tests.support.indexes import passages, publish
from tests.support.local_server import serving_locally

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
expect = playwright.expect


@pytest.fixture(scope="module")
def url(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("indexes")
    for name in ("articles", "catalog/birds", "catalog/fish"):
        publish(folder / name, "v1", passages(12, f"of-{Path(name).name}"), shards=1)
    with serving_locally(folder / "articles", catalog=str(folder / "catalog"), reranker="overlap") as served_url:
        yield served_url


def test_another_index_is_chosen_and_stands_in_the_url(tab: Tab, url: str) -> None:
    page = tab.page
    page.goto(f"{url}/#q=black otter")
    expect(page.locator(".two p.text").first).to_contain_text("of-articles")
    choice = page.locator("#indexes")
    expect(choice).to_have_value("articles")
    choice.select_option("fish")
    expect(page.locator(".two p.text").first).to_contain_text("of-fish")
    assert page.url.startswith(f"{url}/?index=fish#q=black")
    expect(choice).to_have_value("fish")
    page.goto(f"{url}/?index=never#q=black otter")
    expect(page.locator(".two p.text").first).to_contain_text("of-articles")
    page.goto(f"{url}/?index=../../birds#q=black otter")
    expect(page.locator(".two p.text").first).to_contain_text("of-articles")
