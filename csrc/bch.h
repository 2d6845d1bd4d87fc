// Decoding of a feature set k from its parities under a binary BCH code, singly or with soft
// readings.
//
// The code has length 2^m - 1 and corrects t errors. In systematic form bit i of k sits at position
// `parities` + i of the codeword and parity q at position q, so the word that holds the measured
// parities and zeros elsewhere differs from the codeword of k in the |k| positions of k and in the
// wrong parities: bounded-distance decoding finds k whenever |k| + (wrong parities) <= t.
#pragma once

#include <cstdint>

#include "bits.h"
#include "place.h"

namespace spex {

constexpr int kMaxErrors = 10;  // t
constexpr int kMaxField = 20;   // m

struct BchCode {
  int m;
  int t;
  int parities;
  int64_t n;
  const int32_t* exp;  // (2 (2^m - 1)): alpha^i, twice over so that sums of two logs need no modulo
  const int32_t* log;  // (2^m): log[0] is never read
  const int32_t*
      syndromes;  // (parities, t): alpha^((2 j + 1) q), what parity q adds to syndrome 2 j + 1
  const uint64_t* columns;  // (n, words): bit p of row i is entry i of delay p; delay 0 is zero,
                            // delay 1 + q is parity q, any further delays are only readings
  int words;
};

SPEX_HOST_DEVICE inline int32_t gf_mul(const BchCode& code, int32_t a, int32_t b) {
  return a && b ? code.exp[code.log[a] + code.log[b]] : 0;
}

SPEX_HOST_DEVICE inline int32_t gf_div(const BchCode& code, int32_t a, int32_t b) {
  const int32_t order = (int32_t{1} << code.m) - 1;
  return a ? code.exp[code.log[a] + order - code.log[b]] : 0;
}

// A polynomial over GF(2^m) of degree below its capacity, lowest coefficient first.
struct GfPoly {
  int degree;
  int32_t at[2 * kMaxErrors + 2];
};

// The error locator of odd syndromes S_1, S_3, ..., S_{2t-1} as a monic polynomial whose roots are
// alpha^position, by Berlekamp-Massey (every second discrepancy vanishes for a binary code). Degree
// -1: more than t errors.
SPEX_HOST_DEVICE inline GfPoly bch_locator(const BchCode& code, const int32_t* odd) {
  const int t = code.t;
  int32_t s[2 * kMaxErrors + 1];
  for (int j = 0; j < t; ++j) s[2 * j + 1] = odd[j];
  for (int j = 1; j <= t; ++j) s[2 * j] = gf_mul(code, s[j], s[j]);

  GfPoly c{0, {1}},
      b{0, {1}};  // current and last shorter connection polynomial; degrees are lengths
  int32_t last = 1;
  int shift = 1;
  for (int step = 1; step < 2 * t; step += 2, shift += 2) {
    int32_t d = s[step];
    for (int i = 1; i <= c.degree; ++i) d ^= gf_mul(code, c.at[i], s[step - i]);
    if (!d) continue;
    const int32_t factor = gf_div(code, d, last);
    GfPoly next = c;
    if (2 * c.degree < step) {
      next.degree = step - c.degree;
      if (next.degree > t) return GfPoly{-1, {}};
    }
    for (int i = c.degree + 1; i <= next.degree; ++i) next.at[i] = 0;
    for (int i = 0; i <= b.degree && i + shift <= next.degree; ++i)
      next.at[i + shift] ^= gf_mul(code, factor, b.at[i]);
    if (next.degree > c.degree) {
      b = c;
      last = d;
      shift = 0;
    }
    c = next;
  }
  if (c.degree && !c.at[c.degree]) return GfPoly{-1, {}};
  for (int i = 0, j = c.degree; i < j; ++i, --j) {
    const int32_t swap = c.at[i];
    c.at[i] = c.at[j];
    c.at[j] = swap;
  }
  return c;
}

// p mod f, in place; f monic.
SPEX_HOST_DEVICE inline void gf_reduce(const BchCode& code, GfPoly& p, const GfPoly& f) {
  for (int i = p.degree; i >= f.degree; --i) {
    const int32_t lead = p.at[i];
    if (!lead) continue;
    for (int j = 0; j <= f.degree; ++j) p.at[i - f.degree + j] ^= gf_mul(code, lead, f.at[j]);
  }
  if (p.degree >= f.degree) p.degree = f.degree - 1;
  while (p.degree >= 0 && !p.at[p.degree]) --p.degree;
}

// The monic greatest common divisor; degree -1 only if both are zero.
SPEX_HOST_DEVICE inline GfPoly gf_gcd(const BchCode& code, GfPoly a, GfPoly b) {
  while (b.degree >= 0) {
    const int32_t lead = b.at[b.degree];
    for (int i = 0; i <= b.degree; ++i) b.at[i] = gf_div(code, b.at[i], lead);
    gf_reduce(code, a, b);
    const GfPoly swap = a;
    a = b;
    b = swap;
  }
  return a;
}

// a / b for a monic divisor b of a.
SPEX_HOST_DEVICE inline GfPoly gf_quotient(const BchCode& code, GfPoly a, const GfPoly& b) {
  GfPoly q{a.degree - b.degree, {}};
  for (int i = a.degree; i >= b.degree; --i) {
    const int32_t lead = q.at[i - b.degree] = a.at[i];
    for (int j = 0; j <= b.degree; ++j) a.at[i - b.degree + j] ^= gf_mul(code, lead, b.at[j]);
  }
  return q;
}

// The roots of a monic f if it has degree-many distinct ones in GF(2^m), none zero: Berlekamp's
// trace algorithm. x^(2^i) mod f for i < m first shows whether f divides x^(2^m) - x (it does iff f
// splits), then gives the traces Tr(beta x) mod f whose gcds with f pull the roots apart. Returns
// whether f splits.
SPEX_HOST_DEVICE inline bool gf_roots(const BchCode& code, const GfPoly& f, int32_t* roots) {
  const int degree = f.degree, m = code.m;
  if (!f.at[0]) return false;
  if (degree == 1) {
    roots[0] = f.at[0];
    return true;
  }
  int32_t even[kMaxErrors][kMaxErrors];  // x^(2 j) mod f
  {
    int32_t power[kMaxErrors] = {1};
    for (int e = 0; e <= 2 * (degree - 1); ++e) {
      if (e % 2 == 0)
        for (int i = 0; i < degree; ++i) even[e / 2][i] = power[i];
      const int32_t lead = power[degree - 1];
      for (int i = degree - 1; i > 0; --i) power[i] = power[i - 1] ^ gf_mul(code, lead, f.at[i]);
      power[0] = gf_mul(code, lead, f.at[0]);
    }
  }
  int32_t frobenius[kMaxField + 1][kMaxErrors] = {{0, 1}};  // x^(2^i) mod f
  for (int i = 0; i < m; ++i) {
    int32_t* next = frobenius[i + 1];
    for (int k = 0; k < degree; ++k) next[k] = 0;
    for (int j = 0; j < degree; ++j) {
      const int32_t c = frobenius[i][j];
      if (!c) continue;
      const int32_t square = gf_mul(code, c, c);
      if (2 * j < degree) {
        next[2 * j] ^= square;
      } else {
        for (int k = 0; k < degree; ++k) next[k] ^= gf_mul(code, square, even[j][k]);
      }
    }
  }
  for (int k = 0; k < degree; ++k)
    if (frobenius[m][k] != (k == 1)) return false;

  GfPoly factors[kMaxErrors];
  int count = 1;
  factors[0] = f;
  for (int e = 0; e < m && count < degree; ++e) {
    GfPoly trace{degree - 1, {}};  // Tr(alpha^e x) mod f
    int32_t beta = code.exp[e];
    for (int i = 0; i < m; ++i, beta = gf_mul(code, beta, beta))
      for (int k = 0; k < degree; ++k) trace.at[k] ^= gf_mul(code, beta, frobenius[i][k]);
    for (int c = count - 1; c >= 0; --c) {
      if (factors[c].degree == 1) continue;
      GfPoly rest = trace;
      while (rest.degree >= 0 && !rest.at[rest.degree]) --rest.degree;
      gf_reduce(code, rest, factors[c]);
      const GfPoly part = gf_gcd(code, factors[c], rest);
      if (part.degree <= 0 || part.degree == factors[c].degree) continue;
      factors[count++] = gf_quotient(code, factors[c], part);
      factors[c] = part;
    }
  }
  for (int c = 0; c < degree; ++c) roots[c] = factors[c].at[0];
  return true;
}

// The feature set whose parities have these odd syndromes, with up to t - |k| parities wrong:
// ascending features and their number, or -1 if no codeword is within distance t.
SPEX_HOST_DEVICE inline int bch_locate(const BchCode& code, const int32_t* odd, int32_t* features) {
  const GfPoly f = bch_locator(code, odd);
  if (f.degree <= 0) return f.degree;
  int32_t roots[kMaxErrors];
  if (!gf_roots(code, f, roots)) return -1;
  int count = 0;
  for (int i = 0; i < f.degree; ++i) {
    const int64_t feature = int64_t{code.log[roots[i]]} - code.parities;
    if (feature >= code.n) return -1;
    if (feature < 0) continue;  // a parity that was read wrongly
    int at = count++;
    for (; at > 0 && features[at - 1] > feature; --at) features[at] = features[at - 1];
    features[at] = static_cast<int32_t>(feature);
  }
  return count;
}

// Decodes rows of readings, each +-F plus noise: readings (rows, 1 + parities), delay 0 first.
//
// chase = 0 (hard): the parities are the signs of readings 1.. against the sign of reading 0, for
// both signs of reading 0. chase = q > 0 (soft): in addition all 2^q flips of the q parities with
// the smallest |reading| are tried. Of all sets found the one with the largest |sum_p (-1)^<d_p, k>
// reading_p| wins, the first in the order tried on a tie. features (rows, t): ascending, -1 beyond;
// counts (rows): |k|, or -1 where nothing decodes.
void bch_decode_cpu(const BchCode& code, const double* readings, int64_t rows, int chase,
                    int32_t* features, int32_t* counts, int threads);

// What each of the `slices` threads of a row finds: (rows slices) of memory on the device.
struct BchSlots {
  double* scores;
  int32_t* counts;
  int32_t* features;  // t each
};

// The same on a device, where all addresses are, those in `code` too; the same answers. flips: as
// chase, at most the parities. slices: a power of two, at most 2^flips, into which the patterns of
// a row are cut.
void bch_decode_cuda(const BchCode& code, const double* readings, int64_t rows, int flips,
                     int slices, const BchSlots& slots, int32_t* features, int32_t* counts,
                     const Place& place);

}  // namespace spex
