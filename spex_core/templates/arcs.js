"use strict";

const MOST_ARCS = 24;

/** Draws interactions over the features: an arc between two, a star of lines for three or more. */
function drawArcs(svg, cells, rows, most) {
  const origin = svg.parentElement.getBoundingClientRect();
  const place = (feature) => {
    const { x, y, half } = middle(cells[feature]);
    return { x: x - origin.left, y: y - origin.top, half };
  };
  const picture = cells.length > 0 && cells[0].tagName === "path";
  const drawn = rows.slice(0, MOST_ARCS).map((row) => {
    const points = row.set.map(place);
    const look = {
      class: row.value < 0 ? "arc negative" : "arc positive",
      "stroke-width": (1.25 + (4 * Math.abs(row.value)) / most).toFixed(2),
    };
    return makeSvg("path", { ...look, d: points.length === 2 ? arc(...points, picture) : star(points) });
  });
  svg.replaceChildren(...drawn);
}

/** From one word to another: over the line that both are on, or from line to line. */
function arc(a, b, straight) {
  if (straight) return curve(a, b, { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 - 12 });
  if (Math.abs(a.y - b.y) < 4) {
    const top = a.y - Math.max(a.half, b.half) + 2;
    const rise = Math.min(10 + 0.12 * Math.abs(a.x - b.x), 34);
    return curve({ x: a.x, y: top }, { x: b.x, y: top }, { x: (a.x + b.x) / 2, y: top - 2 * rise });
  }
  const [upper, lower] = a.y < b.y ? [a, b] : [b, a];
  const [from, to] = [upper.y + upper.half - 2, lower.y - lower.half + 2];
  const bend = Math.max((to - from) / 2, 14);
  return (
    `M${round(upper.x)} ${round(from)}` +
    `C${round(upper.x)} ${round(from + bend)} ${round(lower.x)} ${round(to - bend)} ` +
    `${round(lower.x)} ${round(to)}`
  );
}

function curve(a, b, control) {
  return `M${round(a.x)} ${round(a.y)}Q${round(control.x)} ${round(control.y)} ${round(b.x)} ${round(b.y)}`;
}

/** A line from each point to their mean. */
function star(points) {
  const mean = (axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length;
  const hub = `${round(mean("x"))} ${round(mean("y") - 14)}`;
  return points.map((point) => `M${round(point.x)} ${round(point.y - point.half + 2)}L${hub}`).join("");
}

function round(value) {
  return value.toFixed(1);
}
