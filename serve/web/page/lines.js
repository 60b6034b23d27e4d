// Lines that join the old and the new place of a passage.

import { fill, s } from "./dom.js";

/**
 * Draws lines over a box.
 * pairs: {from, to}, two elements inside the box, with `rise`, by how many places the passage went up, and `id`.
 */
export function draw(svg, box, pairs) {
  const frame = box.getBoundingClientRect();
  svg.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
  const middle = (element) => {
    const place = element.getBoundingClientRect();
    return { left: place.left - frame.left, right: place.right - frame.left, y: place.top - frame.top + place.height / 2 };
  };
  const most = Math.max(1, ...pairs.map(({ rise }) => Math.abs(rise)));
  fill(svg, pairs.map(({ from, to, rise, id }) => {
    const [old, now] = [middle(from), middle(to)];
    const [start, end] = [old.right + 4, now.left - 6];
    const bend = (end - start) / 2;
    return s("path", {
      class: rise > 0 ? "up" : rise < 0 ? "down" : "same",
      d: `M${start} ${old.y}C${start + bend} ${old.y} ${end - bend} ${now.y} ${end} ${now.y}`,
      "data-id": id,
      "stroke-width": (1 + (1.5 * Math.max(0, rise)) / most).toFixed(2),
    });
  }));
}
