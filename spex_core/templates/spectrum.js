"use strict";

/**
 * An interaction index of the Fourier terms, as spex_core/indices.py has it: the value of a set is
 * the sum of w(|set|, |term|) times the coefficient, over the terms that contain the set.
 *
 * terms: [[coefficient, ...features], ...]. weights: w[size][term size], of this index and order.
 * Returns {baseline, rows}: rows of {set, value}, largest |value| first, without rounding errors.
 */
function interactions(terms, weights, squared) {
  const sums = new Map();
  let baseline = 0;
  for (const [coefficient, ...features] of terms) {
    const value = squared ? coefficient * coefficient : coefficient;
    baseline += weights[0][features.length] * value;
    for (let size = 1; size < weights.length; size++) {
      const weight = weights[size][features.length];
      if (weight) eachSubset(features, size, (set) => add(sums, set, weight * value));
    }
  }
  const rows = [...sums.values()];
  const largest = rows.reduce((most, row) => Math.max(most, Math.abs(row.value)), 0);
  return {
    baseline,
    rows: rows
      .filter((row) => Math.abs(row.value) > 1e-12 * largest)
      .sort((a, b) => Math.abs(b.value) - Math.abs(a.value)),
  };
}

function add(sums, set, value) {
  const key = set.join();
  const row = sums.get(key);
  if (row) row.value += value;
  else sums.set(key, { set, value });
}

/** Calls visit(subset) for each subset of `size` features, in lexicographic order. */
function eachSubset(features, size, visit, from = 0, chosen = []) {
  if (chosen.length === size) return visit(chosen);
  for (let i = from; i <= features.length - size + chosen.length; i++) {
    eachSubset(features, size, visit, i + 1, [...chosen, features[i]]);
  }
}

/** What is shown of an index: its rows, the main effects, and the rows of two or more by feature. */
function view(terms, weights, squared, count) {
  const { baseline, rows } = interactions(terms, weights, squared);
  const effects = new Float64Array(count);
  const joint = Array.from({ length: count }, () => []);
  for (const row of rows) {
    if (row.set.length === 1) effects[row.set[0]] = row.value;
    else for (const feature of row.set) joint[feature].push(row);
  }
  const largest = (sizes) => sizes.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
  const joined = rows.filter((row) => row.set.length > 1).map((row) => row.value);
  return {
    ...{ baseline, rows, effects, joint },
    ...{ mostEffect: largest(effects), mostJoint: largest(joined) },
    most: largest(rows.map((row) => row.value)),
  };
}

/** A number for people: four digits, with its sign. */
function signed(value) {
  return (value < 0 ? "−" : value > 0 ? "+" : "") + number(Math.abs(value));
}

const fourDigits = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

function number(value) {
  if (value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-4)) {
    return value.toExponential(2).replace("-", "−");
  }
  return fourDigits.format(value).replace("-", "−");
}
