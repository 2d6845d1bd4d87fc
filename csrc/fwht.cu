// A block transforms a tile of 2**kLogTile values that lie in the registers of its threads. Bits of
// a value's place in the tile, from the lowest: place in a vector of 16 bytes, lane, vector of the
// thread, warp. So the stages come in the order of the CPU's kernel, with its bits: within a
// vector, by shuffles, across the vectors of a thread, and, once the tile has gone through shared
// memory, across warps. That exchange swizzles which thread holds a value, not where shared memory
// has it: in the layout that writes as in the one that reads, the lanes are the lowest bits of a
// place above those of a vector, so the lanes of an access lie side by side and no two meet in a
// bank. The usual swizzle, an XOR of addresses, is for exchanges where the lanes of one side are
// higher bits. The tests compute the bank of every lane.
#include <algorithm>

#include "bits.h"
#include "fwht.h"
#include "launch.cuh"

namespace spex {
namespace {

constexpr int kLogLanes = 5;
constexpr int kLeastTile = 12;

// Stages [skip, end) of an array. Whole rows, one after another: skip = 0. Columns: the array is
// (outer, 2^rows, 2^log_stride), and a tile has all of its middle axis for 2^skip neighbours.
struct FwhtTiles {
  int64_t size;
  int skip, end, rows, log_stride;
};

template <typename T, int kLog>
struct alignas(sizeof(T) << kLog) Pack {
  T at[1 << kLog];
};

template <int kLog, typename T>
__device__ void load(const T* from, bool inside, T* x) {
  Pack<T, kLog> pack{};
  if (inside) {
    note_access(from, sizeof(pack));
    pack = *reinterpret_cast<const Pack<T, kLog>*>(from);
  }
#pragma unroll
  for (int i = 0; i < 1 << kLog; ++i) x[i] = pack.at[i];
}

template <int kLog, typename T>
__device__ void store(T* to, bool inside, const T* x) {
  Pack<T, kLog> pack;
#pragma unroll
  for (int i = 0; i < 1 << kLog; ++i) pack.at[i] = x[i];
  if (inside) {
    note_access(to, sizeof(pack));
    *reinterpret_cast<Pack<T, kLog>*>(to) = pack;
  }
}

template <typename T, int kValues>
__device__ void register_stage(T (&x)[kValues], int h) {
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    if (i & h) continue;
    const T a = x[i], b = x[i + h];
    x[i] = a + b;
    x[i + h] = a - b;
  }
}

// Times +-1 is exact: one rounding, fused or not.
template <typename T, int kValues>
__device__ void lane_stage(T (&x)[kValues], int lane, int h) {
  const T sign = lane & h ? T(-1) : T(1);
#pragma unroll
  for (int i = 0; i < kValues; ++i) x[i] = x[i] * sign + __shfl_xor_sync(0xFFFFFFFFu, x[i], h);
}

// in may be out. Shared memory: the tile, where end > kLogTile - kLogWarps.
template <typename T, int kLogTile, int kLogWarps, bool kColumns>
__global__ void __launch_bounds__(1 << (kLogLanes + kLogWarps))
    fwht_tile(const T* in, T* out, FwhtTiles tiles) {
  constexpr int kLogPack = sizeof(T) == 4 ? 2 : 1;
  constexpr int kInWarp = kLogTile - kLogWarps;
  constexpr int kLogValues = kInWarp - kLogLanes;
  constexpr int kLogVectors = kLogValues - kLogPack;
  constexpr int kLogBeside = kLogValues - kLogWarps;  // values side by side after the exchange
  static_assert(kLogVectors >= 0 && kLogBeside >= 0, "a thread has too few values");
  SPEX_DYNAMIC_SHARED(T, shared);

  int64_t first = int64_t{blockIdx.x} << kLogTile;  // where the tile begins
  if constexpr (kColumns) {
    const int across = tiles.log_stride - tiles.skip;  // log2 of the tiles side by side
    const int64_t column = (blockIdx.x & ((int64_t{1} << across) - 1)) << tiles.skip;
    first = (int64_t{blockIdx.x} >> across << (tiles.log_stride + tiles.rows)) + column;
  }
  in += first;
  out += first;
  // Only the smallest tile holds several rows, or is the last one, only in part filled.
  constexpr bool kOneRow = !kColumns && kLogTile > kLeastTile;
  const auto inside = [&](int at) { return kColumns || kOneRow || first + at < tiles.size; };
  const auto makes = [&](int stage) {
    return kOneRow || (stage >= tiles.skip && stage < tiles.end);
  };
  const auto offset = [&](int at) {  // of a place in the tile
    if constexpr (!kColumns) return at;
    return (at >> tiles.skip << tiles.log_stride) + (at & ((1 << tiles.skip) - 1));
  };

  const int lane = threadIdx.x % 32;
  const int place = static_cast<int>(threadIdx.x / 32) << kInWarp | lane << kLogPack;
  const auto at = [&](int vector) { return place | vector << (kLogPack + kLogLanes); };
  T x[1 << kLogValues];
#pragma unroll
  for (int v = 0; v < 1 << kLogVectors; ++v)
    load<kLogPack>(in + offset(at(v)), inside(at(v)), x + (v << kLogPack));
#pragma unroll
  for (int s = 0; s < kLogPack; ++s)
    if (makes(s)) register_stage(x, 1 << s);
#pragma unroll
  for (int s = 0; s < kLogLanes; ++s)
    if (makes(kLogPack + s)) lane_stage(x, lane, 1 << s);
#pragma unroll
  for (int s = 0; s < kLogVectors; ++s)
    if (makes(kLogPack + kLogLanes + s)) register_stage(x, 1 << (kLogPack + s));

  if (!kOneRow && tiles.end <= kInWarp) {
#pragma unroll
    for (int v = 0; v < 1 << kLogVectors; ++v)
      store<kLogPack>(out + offset(at(v)), inside(at(v)), x + (v << kLogPack));
    return;
  }
#pragma unroll
  for (int v = 0; v < 1 << kLogVectors; ++v)
    store<kLogPack>(shared + at(v), true, x + (v << kLogPack));
  __syncthreads();
  const auto after = [&](int w) {
    return static_cast<int>(threadIdx.x) << kLogBeside | w << kInWarp;
  };
#pragma unroll
  for (int w = 0; w < 1 << kLogWarps; ++w)
    load<kLogBeside>(shared + after(w), true, x + (w << kLogBeside));
#pragma unroll
  for (int s = 0; s < kLogWarps; ++s)
    if (makes(kInWarp + s)) register_stage(x, 1 << (kLogBeside + s));
#pragma unroll
  for (int w = 0; w < 1 << kLogWarps; ++w)
    store<kLogBeside>(out + offset(after(w)), inside(after(w)), x + (w << kLogBeside));
}

constexpr int kColumnBytes = 64;  // side by side, at least, in a tile of the second pass
constexpr int kMostRows = 10;     // log2 of the rows of such a tile, at most
constexpr int64_t kGroupBytes = int64_t{32} << 20;  // of rows: the second pass finds them in L2

template <int kLogTile, int kLogWarps, bool kColumns, typename T>
void pass(const T* in, T* out, const FwhtTiles& tiles, const Place& place) {
  const bool exchanges = tiles.end > kLogTile - kLogWarps;
  launch(fwht_tile<T, kLogTile, kLogWarps, kColumns>, ceil_div(tiles.size, 1 << kLogTile),
         1 << (kLogLanes + kLogWarps), exchanges ? static_cast<int>(sizeof(T) << kLogTile) : 0,
         place, in, out, tiles);
}

// Transforms `size` values in rows of 2^b.
template <typename T>
void pass_rows(const T* in, T* out, int64_t size, int b, const Place& place) {
  const FwhtTiles tiles{size, 0, b, 0, 0};
  if (b <= 12) return pass<12, 3, false>(in, out, tiles, place);
  if (b == 13) return pass<13, 4, false>(in, out, tiles, place);
  if (b == 14) return pass<14, 4, false>(in, out, tiles, place);
  if constexpr (sizeof(T) == 4) pass<15, 5, false>(in, out, tiles, place);
}

// Transforms the middle axis of (outer, 2^rows, 2^low), `size` values, in place.
template <typename T>
void pass_columns(T* x, int64_t size, int rows, int low, const Place& place) {
  constexpr int kLogColumns = kColumnBytes / sizeof(T) == 16 ? 4 : 3;
  const int log_tile = std::max(kLeastTile, rows + kLogColumns);
  const FwhtTiles tiles{size, log_tile - rows, log_tile, rows, low};
  if (log_tile == 12) return pass<12, 3, true, T>(x, x, tiles, place);
  if (log_tile == 13) return pass<13, 4, true, T>(x, x, tiles, place);
  if constexpr (sizeof(T) == 4) pass<14, 4, true, T>(x, x, tiles, place);
}

template <typename T>
void transform(const T* in, T* out, int64_t rows, int b, const Place& place) {
  if (rows == 0) return;
  int one_pass = sizeof(T) == 4 ? 14 : 13;  // which takes 64 KiB of shared memory
  if (b == one_pass + 1 && shared_limit(place) >= 128 << 10) ++one_pass;
  if (b <= one_pass) return pass_rows(in, out, rows << b, b, place);
  const int high = std::min(b - kLeastTile, kMostRows), low = b - high;
  const int64_t step = std::max<int64_t>(1, kGroupBytes / sizeof(T) >> b);
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t size = std::min(step, rows - row) << b;
    pass_rows(in + (row << b), out + (row << b), size, low, place);
    pass_columns(out + (row << b), size, high, low, place);
  }
}

}  // namespace

void fwht_cuda(const float* in, float* out, int64_t rows, int log_n, const Place& place) {
  transform(in, out, rows, log_n, place);
}

void fwht_cuda(const double* in, double* out, int64_t rows, int log_n, const Place& place) {
  transform(in, out, rows, log_n, place);
}

}  // namespace spex
