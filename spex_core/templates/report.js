"use strict";

/** The line under the title. */
function summary(report, all) {
  const algorithm = { proxyspex: "ProxySPEX", spex: "SPEX", gpspex: "GPSPEX" }[report.algorithm] ?? report.algorithm;
  const count = (value) => value.toLocaleString("en");
  return (
    `${algorithm} on ${count(all.features)} features, from ${count(report.unique)} masks: ` +
    `${count(all.terms)} Fourier terms, R² ${report.r2.toFixed(4)}`
  );
}

/** What the page leaves out, or nothing. */
function leftOut(data) {
  const { all, features, terms } = data;
  if (features.length === all.features && terms.length === all.terms) return "";
  return (
    `This page has ${features.length.toLocaleString("en")} of ${all.features.toLocaleString("en")} ` +
    `features and ${terms.length.toLocaleString("en")} of ${all.terms.toLocaleString("en")} terms, ` +
    `those with the most variance: ${(100 * all.kept).toFixed(2)} % of it.`
  );
}

/** The report of the run: charts of what is a share, a list of all else. */
function makeReport(report) {
  const seen = report.left_out
    ? `on ${report.left_out.toLocaleString("en")} masks left out`
    : "on every mask there is";
  const scores = [
    ["this explanation", report.r2],
    ["the whole process", report.r2_process],
    ["a linear fit", report.r2_linear],
  ];
  const known = scores.filter(([, score]) => score !== null);
  const r2 = chart(`R² ${seen}`, known.map(([name, score]) => [name, score, score.toFixed(4)]));
  const energy = Object.entries(report.energy_by_order).map(([order, share]) => [
    `order ${order}`,
    share,
    `${(100 * share).toFixed(1)} %`,
  ]);
  const total = Object.values(report.seconds).reduce((sum, took) => sum + took, 0) || 1;
  const seconds = Object.entries(report.seconds).map(([stage, took]) => [
    stage,
    took / total,
    `${took.toFixed(2)} s`,
  ]);
  const charts = make("div", "charts");
  charts.append(r2, chart("Variance by order", energy), chart("Time", seconds));
  const variant = report.decoder ? `${report.decoder} decoding` : `preset ${report.preset}`;
  const rates = Object.entries(report.hierarchy).map(([name, rate]) => `${name} ${rate.toFixed(2)}`);
  return [
    charts,
    facts([
      ["Algorithm", `${report.algorithm}, ${variant}, degree ${report.degree}, seed ${report.seed}`],
      ["Ran on", `${report.backend} backend, ${report.device}`],
      ["Budget", `${report.budget.toLocaleString("en")} asked, ${report.used.toLocaleString("en")} used`],
      ["Masks", report.plan],
      ["Terms", `${report.terms.toLocaleString("en")}, effectively ${report.effective_terms.toFixed(1)}`],
      ["Hierarchy", rates.join(", ")],
    ]),
  ];
}

/** rows of [name, share of the whole bar, value in words]. */
function chart(title, rows) {
  const figure = make("figure");
  const list = make("dl", "chart");
  for (const [name, share, value] of rows) {
    const bar = make("span", "bar");
    bar.style.setProperty("--share", Math.min(Math.max(share, 0), 1));
    const cell = make("dd", "", "");
    cell.append(bar, make("span", "value", value));
    list.append(make("dt", "", name), cell);
  }
  figure.append(make("figcaption", "", title), list);
  return figure;
}

function facts(rows) {
  const list = make("dl", "facts");
  for (const [name, value] of rows) list.append(make("dt", "", name), make("dd", "", value));
  return list;
}
