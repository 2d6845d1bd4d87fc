"use strict";

/** What is on the page, and what happens when it is used. */
function main() {
  const get = (id) => document.getElementById(id);
  const data = JSON.parse(get("data").textContent);
  const names = data.features;
  const cells = makeFeatures(get("stage"), data);
  const list = get("features");
  const arcs = get("arcs");
  const table = new Table(names, (row) => pointAtRow(row));
  const state = { index: data.index, order: data.order, kept: null, active: null, lit: [] };
  let shown;

  // ---- What is shown ----

  function update() {
    const weights = data.weights[state.index];
    const order = Math.min(state.order, weights.length);
    shown = view(data.terms, weights[order - 1], state.index === "Influence", names.length);
    for (const radio of get("order").querySelectorAll("input")) {
      radio.disabled = Number(radio.value) > weights.length;
      radio.checked = Number(radio.value) === order;
    }
    get("meaning").textContent = `${data.about[state.index]}. Baseline ${signed(shown.baseline)}.`;
    get("least").textContent = signed(-shown.mostEffect);
    get("most").textContent = signed(shown.mostEffect);
    paintFeatures(cells, names, shown);
    table.show(shown, state.index);
    activate(state.kept);
  }

  /** Shows the interactions of a feature; the largest of all where it is null. */
  function activate(feature) {
    state.active = feature;
    if (feature === null) {
      light([], null);
      tell("Largest", "single features and interactions", shown.rows, shown.most, (set) => set);
      return;
    }
    const rows = shown.joint[feature];
    const count = rows.length === 1 ? "1 interaction" : `${rows.length} interactions`;
    const effect = `main effect ${signed(shown.effects[feature])}, ${count}`;
    light(rows, feature);
    tell(names[feature], effect, rows, shown.mostJoint, (set) => set.filter((j) => j !== feature));
  }

  /** What stands beside the features. */
  function tell(title, effect, rows, most, partners) {
    get("detail-title").textContent = title;
    get("detail-effect").textContent = effect;
    const lines = rows.slice(0, 10).map((row) => item(row, named(partners(row.set), names), most));
    get("detail-list").replaceChildren(...lines);
  }

  function item(row, label, most) {
    const line = make("li");
    const bar = make("span", row.value < 0 ? "bar negative" : "bar positive");
    bar.style.setProperty("--share", Math.abs(row.value) / most);
    line.append(make("span", "name", label), make("span", "value", signed(row.value)), bar);
    return line;
  }

  /** Marks the features of these rows and draws their arcs. */
  function light(rows, feature) {
    for (const cell of state.lit) cell.classList.remove("active", "partner");
    const partners = new Set(rows.slice(0, MOST_ARCS).flatMap((row) => row.set));
    state.lit = [...partners].map((other) => cells[other]);
    for (const cell of state.lit) cell.classList.add("partner");
    if (feature !== null) {
      cells[feature].classList.replace("partner", "active") || cells[feature].classList.add("active");
      state.lit.push(cells[feature]);
    }
    get("stage").classList.toggle("lit", state.lit.length > 0);
    drawArcs(arcs, cells, rows, shown.mostJoint);
  }

  function pointAtRow(row) {
    if (row === null) activate(state.kept);
    else light([row], row.set.length === 1 ? row.set[0] : null);
  }

  /** Keeps a feature shown, or lets go of it where it is null. */
  function keep(feature) {
    if (state.kept !== null) cells[state.kept].removeAttribute("aria-selected");
    state.kept = feature;
    if (feature !== null) cells[feature].setAttribute("aria-selected", "true");
    activate(feature);
  }

  // ---- What is done ----

  const featureOf = ({ target }) => {
    const cell = target.closest(".feature");
    return cell && list.contains(cell) ? Number(cell.dataset.feature) : null;
  };

  list.addEventListener("pointerover", (event) => {
    const feature = featureOf(event);
    if (feature !== null) activate(feature);
  });
  list.addEventListener("pointerleave", () => activate(state.kept));
  list.addEventListener("click", (event) => {
    const feature = featureOf(event);
    if (feature !== null) keep(feature === state.kept ? null : feature);
  });
  list.addEventListener("focusin", (event) => {
    const feature = featureOf(event);
    if (feature === null) return;
    list.querySelector("[tabindex='0']").setAttribute("tabindex", "-1");
    cells[feature].setAttribute("tabindex", "0");
    activate(feature);
  });
  list.addEventListener("focusout", () => activate(state.kept));
  list.addEventListener("keydown", (event) => {
    const feature = featureOf(event);
    const next = neighbour(cells, feature, event.key);
    if (next !== undefined) cells[next].focus();
    else if (event.key === "Enter" || event.key === " ") keep(feature === state.kept ? null : feature);
    else if (event.key === "Escape") keep(null);
    else return;
    event.preventDefault();
  });
  get("index").addEventListener("change", (event) => {
    state.index = event.target.value;
    update();
  });
  get("order").addEventListener("change", (event) => {
    state.order = Number(event.target.value);
    update();
  });
  get("theme").addEventListener("change", (event) => {
    document.documentElement.style.colorScheme = event.target.value;
  });
  new ResizeObserver(() => shown && activate(state.active)).observe(get("stage"));

  // ---- What stays ----

  for (const index of Object.keys(data.weights)) {
    get("index").append(new Option(index, index, false, index === state.index));
  }
  const orders = Math.max(...Object.values(data.weights).map((weights) => weights.length));
  for (let order = 1; order <= orders; order++) {
    const label = make("label", "", order === 1 ? "1 feature" : `${order}`);
    const radio = make("input");
    Object.assign(radio, { type: "radio", name: "order", value: order });
    label.prepend(radio);
    get("order").append(label);
  }
  get("summary").textContent = summary(data.report, data.all);
  get("left-out").textContent = leftOut(data);
  get("warnings").append(...data.report.warnings.map((text) => make("p", "warning", text)));
  get("report").append(...makeReport(data.report));
  update();
}

main();
