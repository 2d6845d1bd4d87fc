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

void PeelBins::measure(int64_t bin) { energy_[bin] = sum_of_squares(readings(bin), q_.shifts); }

double PeelBins::total_energy() const {
  double sum = 0;
  for (const double energy : energy_) sum += energy;
  return sum;
}

Term PeelBins::place(const int32_t* features, int count) const {
  Term term;
  term.key[0] = count;
  std::copy_n(features, count, term.key.begin() + 1);
  place_set(q_, features, count, term.bin.data(), term.bits.data());
  return term;
}

double PeelBins::noise() const {
  std::vector<double> sorted = energy_;
  const auto quarter = sorted.begin() + static_cast<int64_t>(sorted.size() / 4);
  std::nth_element(sorted.begin(), quarter, sorted.end());
  return noise_of(q_, *quarter);
}

double PeelBins::estimate(const Term& term, uint32_t groups) const {
  return spex::estimate(q_, residual(), term.bin.data(), term.bits.data(), groups);
}

double PeelBins::ratio(const Term& term, double c, uint32_t groups) const {
  return log_ratio(q_, residual(), term.bin.data(), term.bits.data(), c, groups);
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
