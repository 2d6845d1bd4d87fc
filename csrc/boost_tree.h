// One tree of a boosted forest on a device.
#pragma once

#include <cstdint>

#include "boost_samples.h"
#include "place.h"
#include "team.h"

namespace spex {

// A leaf of the tree that is being grown; sums are over the samples that it is fitted to.
struct BoostLeaf {
  int32_t node;  // in the forest
  int32_t depth;
  int32_t sum, count;  // of residuals as whole numbers; of samples
  int32_t slot;        // of its histogram
  int32_t feature;     // the best split
  double gain;         // of that split, 0 where there is none
};

// All addresses are on the device.
struct BoostTree {
  const uint64_t* masks;  // (rows, words): the samples, then rows that are only predicted
  int64_t samples, rows, n, words;
  const uint8_t* inside;   // (samples): whether the tree is fitted to it
  const uint8_t* allowed;  // (n): whether the tree may ask for it
  int32_t depth, leaves, min_leaf;
  double rate, l2;

  double* residual;  // (rows): what is left of the values; the tree's predictions are subtracted

  // Memory to work in.
  double* pieces;      // (kTeamPieces)
  BoostLeaf* leaf;     // (leaves)
  int32_t* histogram;  // (leaves, 2, n): sums, then counts
  int32_t* lanes;      // (samples): residuals as whole numbers
  int32_t* list;       // (samples)
  int32_t* leaf_of;    // (rows)
  double* scores;      // (2 ceil(n / 64))
  int32_t* places;     // (2 ceil(n / 64))

  // The forest: its nodes from *nodes on are written, and *nodes and *root.
  int32_t *feature, *absent, *present;
  double* value;
  int32_t *nodes, *root;
};

// Grows one tree by the rules of boost.h and with its bits. Does not wait for the kernel.
void boost_tree_cuda(const BoostTree& tree, const Place& place);

}  // namespace spex
