// How many scores of a column are above one score, and how many equal it, on the CPU.
#pragma once

#include "cpu_tiles.h"

namespace mealrec::cpu {

inline void count_above(const CountAbove& a, const Tile& tile, int32_t* above, int32_t* equal) {
  int32_t more[TILE_COLUMNS]{}, same[TILE_COLUMNS]{};
  const float* const own = a.own + tile.column;
  over_groups(tile.begin, tile.end, [&](int64_t r, auto rows) {
    const float* const score = a.score + r * a.columns + tile.column;
    over_columns(tile.columns, [&](int64_t c) __attribute__((always_inline)) {
      const float limit = own[c];
      int32_t counted_more = more[c], counted_same = same[c];
      MEALREC_UNROLL
      for (int i = 0; i < rows; ++i) {
        counted_more += score[i * a.columns + c] > limit;
        counted_same += score[i * a.columns + c] == limit;
      }
      more[c] = counted_more;
      same[c] = counted_same;
    });
  });
  std::memcpy(above, more, size_t(tile.columns) * sizeof(int32_t));
  std::memcpy(equal, same, size_t(tile.columns) * sizeof(int32_t));
}

}  // namespace mealrec::cpu
