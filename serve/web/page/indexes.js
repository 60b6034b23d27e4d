// Which of several indexes is asked: its name stands in the URL, behind ?, so that a link leads to the same one.

import * as api from "./api.js";
import { byId, fill, h } from "./dom.js";

/** The address of this page for another index, with the same question. */
function addressOf(name) {
  const address = new URL(location.href);
  address.searchParams.set("index", name);
  return address.href;
}

/**
 * Offers the indexes that may be asked, where there are several.
 * isLost: the one that the URL names, or the default one, is not there; then the first is asked instead.
 */
export async function offer(isLost) {
  let listed;
  try {
    listed = (await api.listIndexes()).map(({ name }) => name);
  } catch (failure) {
    if (!(failure instanceof api.Failure)) throw failure;
    return; // what is wrong, the description of the index says
  }
  if (isLost && listed.length && !listed.includes(api.indexName)) {
    location.replace(addressOf(listed[0]));
    return;
  }
  const choice = byId("indexes");
  byId("indexes-label").hidden = listed.length < 2;
  fill(choice, listed.map((name) => h("option", { value: name }, name)));
  choice.value = api.indexName || listed[0];
  choice.onchange = () => location.assign(addressOf(choice.value));
}
