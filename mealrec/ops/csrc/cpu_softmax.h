// The terms of many softmaxes on the CPU: a column of logits for each, so that sums run over rows.
#pragma once

#include <limits>

#include "cpu_tiles.h"

namespace mealrec::cpu {

// exp(x) of x <= 0, to 1e-7 relative. Results below 2^-126.5 are 0; not a number stays so.
MEALREC_INLINE float exponential(float x) {
  x = x < -88.0f ? -88.0f : x;
  // x = whole ln 2 + r: added to 1.5 * 2^23, the nearest whole number stands in the last bits. Of the two parts of
  // ln 2 the first has few bits, so that its product is exact.
  const float shifted = x * 1.44269504f + 12582912.0f;
  const float whole = shifted - 12582912.0f;
  const float r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  // exp(r) = 1 + r + r^2 P(r): P by least maximum relative error on +-ln(2)/2, 4e-9.
  float p = 1.38145394e-3f;
  p = p * r + 8.36874545e-3f;
  p = p * r + 4.1668389e-2f;
  p = p * r + 0.166665211f;
  p = p * r + 0.49999994f;
  p = p * (r * r) + r;
  // -127, the least, makes the power of two 0.
  return (p + 1.0f) * as_float((as_bits(shifted) + 127) << 23);
}

// The largest of each column, logits and bias added.
inline void softmax_maxima(const SoftmaxTerms& a, const Tile& tile, float* maxima) {
  float highest[TILE_COLUMNS];
  for (int64_t c = 0; c < tile.columns; ++c) highest[c] = -std::numeric_limits<float>::infinity();
  over_groups(tile.begin, tile.end, [&](int64_t r, auto rows) {
    const float* const logits = a.logits + r * a.columns + tile.column;
    float bias[rows];
    for (int i = 0; i < rows; ++i) bias[i] = a.bias ? a.bias[r + i] : 0.0f;
    over_columns(tile.columns, [&](int64_t c) __attribute__((always_inline)) {
      float most = highest[c];
      MEALREC_UNROLL
      for (int i = 0; i < rows; ++i) {
        const float logit = logits[i * a.columns + c] + bias[i];
        most = logit > most ? logit : most;
      }
      highest[c] = most;
    });
  });
  std::memcpy(maxima, highest, size_t(tile.columns) * sizeof(float));
}

// exp(logit + bias - highest) in the logits' place, and the sum of each column.
inline void softmax_exponentials(const SoftmaxTerms& a, const Tile& tile, float* sums) {
  float sum[TILE_COLUMNS]{};
  const float* const highest = a.highest + tile.column;
  over_groups(tile.begin, tile.end, [&](int64_t r, auto rows) {
    float* const logits = a.logits + r * a.columns + tile.column;
    float bias[rows];
    for (int i = 0; i < rows; ++i) bias[i] = a.bias ? a.bias[r + i] : 0.0f;
    over_columns(tile.columns, [&](int64_t c) __attribute__((always_inline)) {
      float total = sum[c];
      const float most = highest[c];
      MEALREC_UNROLL
      for (int i = 0; i < rows; ++i) {
        float& logit = logits[i * a.columns + c];
        logit = exponential(logit + bias[i] - most);
        total += logit;
      }
      sum[c] = total;
    });
  });
  std::memcpy(sums, sum, size_t(tile.columns) * sizeof(float));
}

}  // namespace mealrec::cpu
