// Reductions of a matrix over its rows, one result for each column: tiles, and loops that become vector instructions.
#pragma once

#include <cstdint>
#include <type_traits>

#include "arguments.h"
#include "cpu_lanes.h"

namespace mealrec::cpu {

// Rows that are reduced in float32 or 32 bits; the results of such blocks are reduced in 64.
constexpr int64_t TILE_ROWS = 128;
// Columns whose results stay in the first-level cache.
constexpr int64_t TILE_COLUMNS = 256;
// Rows at once, so that a result is loaded and stored once for all of them.
constexpr int GROUP = 4;

// The rows begin..end of the columns column..column + columns.
struct Tile {
  int64_t begin, end, column, columns;
};

// body(c) for each column, as vector instructions: those beyond the last sixteen under a mask.
template <class Body>
MEALREC_INLINE void over_columns(int64_t columns, const Body& body) {
  const int64_t whole = columns / LANES * LANES;
#pragma omp simd
  for (int64_t c = 0; c < whole; ++c) body(c);
  if (whole == columns) return;
#pragma omp simd
  for (int i = 0; i < LANES; ++i)
    if (i < columns - whole) body(whole + i);
}

// body(first row, rows as a constant) for the rows begin..end, in groups.
template <class Body>
MEALREC_INLINE void over_groups(int64_t begin, int64_t end, const Body& body) {
  int64_t r = begin;
  for (; r + GROUP <= end; r += GROUP) body(r, std::integral_constant<int, GROUP>());
  for (; r < end; ++r) body(r, std::integral_constant<int, 1>());
}

}  // namespace mealrec::cpu
