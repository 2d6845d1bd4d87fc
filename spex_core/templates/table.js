"use strict";

const FIRST_ROWS = 25;
const MORE_ROWS = 200;

const COLUMNS = {
  name: { first: "ascending", compare: (a, b) => compareNames(a.name, b.name) },
  size: { first: "ascending", compare: (a, b) => a.set.length - b.set.length },
  value: { first: "descending", compare: (a, b) => a.value - b.value },
  strength: { first: "descending", compare: (a, b) => Math.abs(a.value) - Math.abs(b.value) },
};

const compareNames = new Intl.Collator(undefined, { numeric: true }).compare;

/**
 * The table of interactions: sorts by the buttons in its head, filters by name, shows some rows and on
 * demand more. One row is in the tab order, arrow keys lead to the others. point(row) is called when
 * a row is pointed at or in focus, with null when it is no more.
 */
class Table {
  constructor(names, point) {
    this.names = names;
    this.point = point;
    this.element = document.getElementById("table");
    this.body = this.element.querySelector("tbody");
    this.further = document.getElementById("further");
    this.filter = document.getElementById("filter");
    this.column = "strength";
    this.direction = "descending";
    for (const head of this.element.querySelectorAll("thead th")) {
      head.firstElementChild.addEventListener("click", () => this.sortBy(head.dataset.column));
    }
    this.filter.addEventListener("input", () => this.render());
    this.further.addEventListener("click", () => this.showMore(MORE_ROWS));
    this.body.addEventListener("keydown", (event) => this.move(event));
    for (const event of ["pointerover", "focusin"]) {
      this.body.addEventListener(event, ({ target }) => this.point(this.rowOf(target)));
    }
    for (const event of ["pointerleave", "focusout"]) {
      this.body.addEventListener(event, () => this.point(null));
    }
  }

  rowOf(target) {
    const line = target.closest("tr");
    return line ? this.rows[line.rowIndex - 1] : null;
  }

  show(shown, index) {
    this.index = index;
    this.most = shown.most;
    this.all = shown.rows.map((row) => ({ ...row, name: named(row.set, this.names) }));
    this.render();
  }

  sortBy(column) {
    const other = this.direction === "ascending" ? "descending" : "ascending";
    this.direction = column === this.column ? other : COLUMNS[column].first;
    this.column = column;
    this.render();
  }

  render() {
    const wanted = this.filter.value.trim().toLowerCase();
    const sign = this.direction === "ascending" ? 1 : -1;
    const { compare } = COLUMNS[this.column];
    this.rows = this.all
      .filter((row) => row.name.toLowerCase().includes(wanted))
      .sort((a, b) => sign * compare(a, b));
    for (const head of this.element.querySelectorAll("thead th")) {
      if (head.dataset.column === this.column) head.setAttribute("aria-sort", this.direction);
      else head.removeAttribute("aria-sort");
    }
    this.body.replaceChildren();
    this.showMore(FIRST_ROWS);
  }

  showMore(count) {
    const from = this.body.rows.length;
    this.body.append(...this.rows.slice(from, from + count).map((row) => this.line(row)));
    if (!from && this.rows.length) this.body.rows[0].cells[0].tabIndex = 0;
    const there = this.body.rows.length;
    const some = there < this.rows.length ? `, the first ${there.toLocaleString("en")} shown` : "";
    document.getElementById("caption").textContent =
      `${this.index}: ${this.rows.length.toLocaleString("en")} interactions${some}`;
    this.further.hidden = !some;
  }

  /** The arrow keys, from row to row. */
  move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const from = event.target.closest("tr");
    const next = step && this.body.rows[from.rowIndex - 1 + step];
    if (!next) return;
    from.cells[0].tabIndex = -1;
    next.cells[0].tabIndex = 0;
    next.cells[0].focus();
    event.preventDefault();
  }

  line(row) {
    const line = make("tr");
    const name = make("th");
    name.scope = "row";
    name.tabIndex = -1;
    name.textContent = row.name;
    const bar = make("td");
    const fill = make("span", row.value < 0 ? "bar negative" : "bar positive");
    fill.style.setProperty("--share", Math.abs(row.value) / this.most);
    bar.append(fill);
    bar.setAttribute("aria-label", `${((100 * Math.abs(row.value)) / this.most).toFixed(0)} %`);
    line.append(name, make("td", "number", row.set.length), make("td", "number", signed(row.value)), bar);
    return line;
  }
}
