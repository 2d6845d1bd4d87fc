// All threads of a resident kernel as one team. They run the same code on the same data, share out
// loops, and wait for one another after each: so what is between two loops reads as plain code.
#pragma once

#include "bits.h"
#include "launch.cuh"
#include "team.h"

namespace spex {

class Team {
 public:
  // pieces (kTeamPieces).
  __device__ explicit Team(double* pieces)
      : rank_(int64_t{blockIdx.x} * blockDim.x + threadIdx.x),
        size_(int64_t{gridDim.x} * blockDim.x),
        pieces_(pieces) {}

  __device__ bool first() const { return rank_ == 0; }
  __device__ void wait() const { grid_sync(); }

  // body(i) for each i < count, in any order and at once.
  template <typename Body>
  __device__ void share(int64_t count, const Body& body) const {
    for (int64_t i = rank_; i < count; i += size_) body(i);
  }
  template <typename Body>
  __device__ void each(int64_t count, const Body& body) const {
    share(count, body);
    wait();
  }

  // value(0) + ... + value(count - 1), each called once: in pieces, then the pieces in order. So
  // the bits depend on count alone.
  template <typename Value>
  __device__ double sum(int64_t count, const Value& value) const {
    const int64_t piece = piece_of(count), many = ceil_div(count, piece);
    each(many, [&](int64_t k) {
      double sum = 0;
      for (int64_t i = k * piece; i < (k + 1) * piece && i < count; ++i) sum += value(i);
      pieces_[k] = sum;
    });
    if (first()) {
      double sum = 0;
      for (int64_t k = 0; k < many; ++k) sum += pieces_[k];
      pieces_[kTeamPieces - 1] = sum;
    }
    wait();
    return pieces_[kTeamPieces - 1];
  }

  // The largest of value(0), ..., value(count - 1), or 0 if that is larger.
  template <typename Value>
  __device__ double largest(int64_t count, const Value& value) const {
    const int64_t piece = piece_of(count), many = ceil_div(count, piece);
    each(many, [&](int64_t k) {
      double most = 0;
      for (int64_t i = k * piece; i < (k + 1) * piece && i < count; ++i)
        most = value(i) > most ? value(i) : most;
      pieces_[k] = most;
    });
    if (first()) {
      double most = 0;
      for (int64_t k = 0; k < many; ++k) most = pieces_[k] > most ? pieces_[k] : most;
      pieces_[kTeamPieces - 1] = most;
    }
    wait();
    return pieces_[kTeamPieces - 1];
  }

  // emit(i, place) for each i < count with keep(i), place counting them upwards; returns how many
  // there are. emit must change nothing that keep reads.
  template <typename Keep, typename Emit>
  __device__ int64_t select(int64_t count, const Keep& keep, const Emit& emit) const {
    return scan(
        count, [&](int64_t i) { return int64_t{keep(i)}; },
        [&](int64_t i, int64_t place) {
          if (keep(i)) emit(i, place);
        });
  }

  // emit(i, value(0) + ... + value(i - 1)) for each i < count; returns the sum of all.
  template <typename Value, typename Emit>
  __device__ int64_t scan(int64_t count, const Value& value, const Emit& emit) const {
    int64_t* pieces = reinterpret_cast<int64_t*>(pieces_);
    const int64_t piece = piece_of(count), many = ceil_div(count, piece);
    each(many, [&](int64_t k) {
      int64_t sum = 0;
      for (int64_t i = k * piece; i < (k + 1) * piece && i < count; ++i) sum += value(i);
      pieces[k] = sum;
    });
    if (first()) {
      int64_t sum = 0;
      for (int64_t k = 0; k < many; ++k) {
        const int64_t own = pieces[k];
        pieces[k] = sum;
        sum += own;
      }
      pieces[kTeamPieces - 1] = sum;
    }
    wait();
    const int64_t total = pieces[kTeamPieces - 1];
    each(many, [&](int64_t k) {
      int64_t sum = pieces[k];
      for (int64_t i = k * piece; i < (k + 1) * piece && i < count; ++i) {
        const int64_t own = value(i);
        emit(i, sum);
        sum += own;
      }
    });
    return total;
  }

 private:
  // A power of two near the square root of count.
  static __device__ int64_t piece_of(int64_t count) {
    int64_t piece = 1;
    while (piece * piece < count) piece *= 2;
    return piece;
  }

  const int64_t rank_, size_;
  double* const pieces_;
};

}  // namespace spex
