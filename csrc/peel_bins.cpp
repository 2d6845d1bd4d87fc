#include "peel_bins.h"

#include <algorithm>

namespace spex {

PeelBins::PeelBins(const PeelProblem& problem)
    : q_(problem),
      target_((int64_t{problem.groups} << problem.b) * problem.shifts),
      energy_(int64_t{problem.groups} << problem.b) {
  const int64_t width = int64_t{1} << q_.b;
  for (int64_t g = 0; g < q_.groups; ++g)
    for (int64_t p = 0; p < q_.shifts; ++p)
      for (int64_t j = 0; j < width; ++j)
        target_[(g * width + j) * q_.shifts + p] = q_.bins[(g * q_.shifts + p) * width + j];
  residual_ = target_;
  for (int64_t bin = 0; bin < size(); ++bin) measure(bin);
}

void PeelBins::measure(int64_t bin) {
  double sum = 0;
  for (int p = 0; p < q_.shifts; ++p) sum += readings(bin)[p] * readings(bin)[p];
  energy_[bin] = sum;
}

double PeelBins::total_energy() const {
  double sum = 0;
  for (const double energy : energy_) sum += energy;
  return sum;
}

Term PeelBins::place(const int32_t* features, int count) const {
  Term term;
  term.key[0] = count;
  std::copy_n(features, count, term.key.begin() + 1);
  for (int g = 0; g < q_.groups; ++g)
    for (int i = 0; i < count; ++i) term.bin[g] ^= q_.hash[g * q_.code.n + features[i]];
  delay_bits(q_.code, features, count, term.bits.data());
  return term;
}

double PeelBins::noise() const {
  std::vector<double> sorted = energy_;
  const auto quarter = sorted.begin() + static_cast<int64_t>(sorted.size() / 4);
  std::nth_element(sorted.begin(), quarter, sorted.end());
  const double below_mean = 0.674 * std::sqrt(2.0 / q_.shifts);  // of a chi-squared lower quartile
  const double variance = *quarter / q_.shifts / std::max(0.1, 1 - below_mean);
  return std::max(variance, q_.floor * q_.floor);
}

PeelBins::Fit PeelBins::fit(const Term& term, int64_t bin) const {
  const double mean = signed_sum(term.bits.data(), readings(bin), q_.shifts) / q_.shifts;
  const double rest = std::max(0.0, energy_[bin] - mean * mean * q_.shifts);
  return {mean, rest / (q_.shifts - 1) + q_.floor * q_.floor};
}

double PeelBins::estimate(const Term& term, uint32_t groups) const {
  double weight = 0, sum = 0;
  for (int g = 0; g < q_.groups; ++g) {
    if (!(groups >> g & 1)) continue;
    const Fit f = fit(term, bin_of(term, g));
    weight += 1 / f.variance;
    sum += f.mean / f.variance;
  }
  return sum / weight;
}

double PeelBins::ratio(const Term& term, double c, uint32_t groups) const {
  double sum = 0;
  for (int g = 0; g < q_.groups; ++g) {
    if (!(groups >> g & 1)) continue;
    const Fit f = fit(term, bin_of(term, g));
    sum += q_.shifts * (2 * f.mean * c - c * c) / (2 * f.variance);
  }
  return sum;
}

void PeelBins::subtract(const Term& term) {
  for (int g = 0; g < q_.groups; ++g) {
    const int64_t bin = bin_of(term, g);
    double* r = residual_.data() + bin * q_.shifts;
    for (int p = 0; p < q_.shifts; ++p)
      r[p] -= bit_at(term.bits.data(), p) ? -term.coef : term.coef;
    measure(bin);
  }
}

double PeelBins::least_squares(std::vector<Term>& terms) {
  const size_t count = terms.size();
  const int shifts = q_.shifts;
  using Vector = std::vector<double>;

  Vector signs(count * shifts);
  for (size_t s = 0; s < count; ++s) fill_signs(terms[s], shifts, signs.data() + s * shifts);
  const auto spread = [&](const Vector& x, Vector& bins) {
    std::fill(bins.begin(), bins.end(), 0.0);
    for (size_t s = 0; s < count; ++s)
      for (int g = 0; g < q_.groups; ++g) {
        double* to = bins.data() + bin_of(terms[s], g) * shifts;
        for (int p = 0; p < shifts; ++p) to[p] += x[s] * signs[s * shifts + p];
      }
  };
  const auto gather = [&](const Vector& bins, Vector& x) {
    for (size_t s = 0; s < count; ++s) {
      x[s] = 0;
      for (int g = 0; g < q_.groups; ++g) {
        const double* from = bins.data() + bin_of(terms[s], g) * shifts;
        for (int p = 0; p < shifts; ++p) x[s] += from[p] * signs[s * shifts + p];
      }
    }
  };
  const auto dot = [](const Vector& a, const Vector& b) {
    double sum = 0;
    for (size_t s = 0; s < a.size(); ++s) sum += a[s] * b[s];
    return sum;
  };

  const double meets =
      double(q_.groups) * shifts;  // readings a term is in: the normal matrix's diagonal
  Vector x(count), step(count), slope(count), image(target_.size()), turned(count);
  for (size_t s = 0; s < count; ++s) x[s] = terms[s].coef;
  const auto residual = [&] {
    spread(x, image);
    for (size_t i = 0; i < target_.size(); ++i) residual_[i] = target_[i] - image[i];
  };
  residual();
  gather(residual_, slope);
  step = slope;
  double size = dot(slope, slope);
  const double goal = 1e-31 * meets * meets * dot(x, x);
  for (int iteration = 0; iteration < 100 && size > goal; ++iteration) {
    spread(step, image);
    gather(image, turned);
    const double length = size / dot(step, turned);
    for (size_t s = 0; s < count; ++s) {
      x[s] += length * step[s];
      slope[s] -= length * turned[s];
    }
    const double next = dot(slope, slope);
    for (size_t s = 0; s < count; ++s) step[s] = slope[s] + next / size * step[s];
    size = next;
  }
  residual();
  for (size_t s = 0; s < count; ++s) terms[s].coef = x[s];

  for (int64_t bin = 0; bin < this->size(); ++bin) measure(bin);
  const double spare = std::max(1.0, double(target_.size()) - double(count));
  return std::sqrt(total_energy() / spare / meets) + q_.floor;
}

}  // namespace spex
