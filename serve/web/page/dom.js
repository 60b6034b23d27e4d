// Elements made of text: whatever comes from the server or from a person goes in as a text node, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Finds an element of the page by its id. */
export const byId = (id) => document.getElementById(id);

/**
 * Makes an element.
 * properties: attributes by name; `on…` listens, `class` and `data-…` are attributes as any other; null, undefined and
 * false leave one out.
 * children: elements and texts, in any depth of lists; null, undefined and false are left out.
 */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** Makes an element of SVG, with the arguments of `h`. */
export function s(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

/** Replaces what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...present(children));
  return element;
}

/** A bar of a share from 0 to 1 of its track; what it shows stands beside it as a number. */
export function bar(share, name = "") {
  const inner = h("i");
  inner.style.setProperty("--share", String(Math.max(0, Math.min(1, share))));
  return h("span", { class: `bar ${name}`, "aria-hidden": "true" }, inner);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...present(children));
  return element;
}

function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}
