"use strict";

/** The features as a listbox: words in a line, or regions of an image. Returns their elements. */
function makeFeatures(stage, data) {
  const list = data.picture ? makePicture(data.picture) : makeText(data.features);
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Features, coloured by main effect");
  list.setAttribute("aria-describedby", "features-hint");
  list.id = "features";
  stage.prepend(list);
  const cells = [...list.querySelectorAll(".feature")];
  cells.forEach((cell, feature) => {
    cell.setAttribute("role", "option");
    cell.setAttribute("tabindex", feature ? "-1" : "0");
    cell.dataset.feature = feature;
  });
  return cells;
}

function makeText(names) {
  const list = make("div", names.length <= 60 ? "text few" : "text");
  for (const name of names) list.append(make("span", "feature", name.trim() || "␣"), " ");
  return list;
}

function makePicture({ width, height, image, regions }) {
  const svg = makeSvg("svg", { viewBox: `0 0 ${width} ${height}`, class: "picture" });
  svg.append(makeSvg("image", { href: image, width, height, "aria-hidden": "true" }));
  for (const path of regions) svg.append(makeSvg("path", { d: path, class: "feature" }));
  return svg;
}

/** Colours the features by main effect and says it in their labels. */
function paintFeatures(cells, names, shown) {
  cells.forEach((cell, feature) => {
    const effect = shown.effects[feature];
    cell.style.setProperty("--strength", Math.abs(effect) / shown.mostEffect);
    cell.dataset.sign = Math.sign(effect);
    cell.setAttribute("aria-label", described(feature, names, shown));
  });
}

/** "not: main effect +0.1; 3 interactions, bad +2.5, ..." */
function described(feature, names, shown) {
  const joint = shown.joint[feature];
  const largest = joint
    .slice(0, 3)
    .map((row) => `${named(row.set.filter((j) => j !== feature), names)} ${signed(row.value)}`);
  const count = joint.length === 1 ? "1 interaction" : `${joint.length} interactions`;
  const effect = signed(shown.effects[feature]);
  return `${names[feature]}: main effect ${effect}; ${[count, ...largest].join(", ")}`;
}

function named(set, names) {
  return set.map((feature) => names[feature]).join(" × ");
}

/** The feature that an arrow key leads to from the one in focus. */
function neighbour(cells, feature, key) {
  switch (key) {
    case "Home":
      return 0;
    case "End":
      return cells.length - 1;
    case "ArrowLeft":
      return Math.max(feature - 1, 0);
    case "ArrowRight":
      return Math.min(feature + 1, cells.length - 1);
    case "ArrowUp":
      return onNextLine(cells, feature, -1);
    case "ArrowDown":
      return onNextLine(cells, feature, 1);
  }
}

/** The nearest feature on the line below (step 1) or above (step -1). */
function onNextLine(cells, feature, step) {
  const from = middle(cells[feature]);
  let best = feature;
  let bestAway = Infinity;
  let line = null;
  for (let i = feature + step; cells[i]; i += step) {
    const at = middle(cells[i]);
    if (Math.abs(at.y - from.y) < 4) continue;
    line ??= at.y;
    if (Math.abs(at.y - line) >= 4) break;
    const away = Math.abs(at.x - from.x);
    if (away < bestAway) [best, bestAway] = [i, away];
  }
  return best;
}

function middle(cell) {
  const box = cell.getBoundingClientRect();
  return { x: box.left + box.width / 2, y: box.top + box.height / 2, half: box.height / 2 };
}

// ---- Elements -----------------------------------------------------------------------------------

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.textContent = text;
  return element;
}

function makeSvg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
