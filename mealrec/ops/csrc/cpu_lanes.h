// Sixteen Philox counters at once, written so that compilers turn every loop over lanes into vector
// instructions, and the normals made from them.
#pragma once

#include <cstring>

#include "arguments.h"
#include "philox.h"

namespace mealrec {

constexpr int LANES = 16;

struct Lanes {
  alignas(64) uint32_t quad[LANES], row[LANES], sample[LANES];
};

struct LaneWords {
  alignas(64) uint32_t x[LANES], y[LANES], z[LANES], w[LANES];
};

inline void draw_words(const Lanes& at, uint32_t step, uint32_t seed, uint32_t stream, LaneWords& out) {
#pragma omp simd
  for (int i = 0; i < LANES; ++i) {
    const Words words = philox(at.quad[i], at.row[i], at.sample[i], step, seed, stream);
    out.x[i] = words.x;
    out.y[i] = words.y;
    out.z[i] = words.z;
    out.w[i] = words.w;
  }
}

MEALREC_INLINE float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

MEALREC_INLINE uint32_t as_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

// sqrt(-2 ln u), u = (word + .5) 2^-32, to about 2e-7 relative. ln u = e ln 2 + log1p(f): where u is close to 1,
// f comes from the word's complement, which keeps all of its digits.
MEALREC_INLINE float radius(uint32_t word) {
  const uint32_t bits = as_bits(float(word) + 0.5f), half_root = 0x3F3504F3;  // sqrt(1/2)
  const int32_t shifted = int32_t(bits - half_root);
  const bool near_one = word >= 0xB504F334;
  const float e = near_one ? 0.0f : float((shifted >> 23) - 32);
  const float f = near_one ? (float(~word) + 0.5f) * -0x1p-32f
                           : as_float((uint32_t(shifted) & 0x7FFFFF) + half_root) - 1.0f;
  // log1p(f) = f - f^2 / 2 + f^3 P(f): P by least maximum relative error on sqrt(1/2)..sqrt(2), 6e-9.
  float p = -0.07635588f;
  p = p * f + 0.127633f;
  p = p * f - 0.13160595f;
  p = p * f + 0.14201558f;
  p = p * f - 0.16623298f;
  p = p * f + 0.20001233f;
  p = p * f - 0.25000823f;
  p = p * f + 0.33333332f;
  const float square = f * f;
  const float log1p = f + (square * f * p - 0.5f * square);
  return root(-2.0f * (log1p + e * 0.693147181f));
}

// cos and sin of 2 pi word 2^-32. The nearest quarter turn is taken off in integers, so that small results keep
// their digits; polynomials by least maximum relative error on +-pi/4, 4e-9.
MEALREC_INLINE void circle(uint32_t word, float& cosine, float& sine) {
  const uint32_t quarter = (word + 0x20000000) >> 30;
  const float a = float(int32_t(word - (quarter << 30))) * 1.4629180792671596e-09f;
  const float square = a * a;
  const float s = a + a * square * ((-1.9517e-04f * square + 8.33218e-03f) * square - 0.16666655f);
  const float c =
      1.0f - 0.5f * square + square * square * ((2.44384497e-05f * square - 1.38873675e-03f) * square + 4.16666469e-02f);
  const bool swap = quarter & 1;
  const uint32_t sign_c = ((quarter + 1) & 2) << 30, sign_s = (quarter & 2) << 30;
  cosine = as_float(as_bits(swap ? s : c) ^ sign_c);
  sine = as_float(as_bits(swap ? c : s) ^ sign_s);
}

// Four values per lane, column after column.
inline void interleave(const float* x, const float* y, const float* z, const float* w, float* out) {
  for (int i = 0; i < LANES; ++i) {
    out[4 * i] = x[i];
    out[4 * i + 1] = y[i];
    out[4 * i + 2] = z[i];
    out[4 * i + 3] = w[i];
  }
}

// Box-Muller: four normals per lane, column after column.
inline void draw_normals(const Lanes& at, uint32_t step, uint32_t seed, uint32_t stream, float* out) {
  LaneWords words;
  draw_words(at, step, seed, stream, words);
  alignas(64) float n0[LANES], n1[LANES], n2[LANES], n3[LANES];
#pragma omp simd
  for (int i = 0; i < LANES; ++i) {
    float c, s;
    const float r = radius(words.x[i]);
    circle(words.y[i], c, s);
    n0[i] = r * c;
    n1[i] = r * s;
  }
#pragma omp simd
  for (int i = 0; i < LANES; ++i) {
    float c, s;
    const float r = radius(words.z[i]);
    circle(words.w[i], c, s);
    n2[i] = r * c;
    n3[i] = r * s;
  }
  interleave(n0, n1, n2, n3, out);
}

// Dropout's factors: `scale` where the word is at least `threshold`, else 0.
inline void draw_factors(const Lanes& at, uint32_t step, uint32_t seed, uint32_t stream, uint32_t threshold, float scale,
                         float* out) {
  LaneWords words;
  draw_words(at, step, seed, stream, words);
  alignas(64) float x[LANES], y[LANES], z[LANES], w[LANES];
#pragma omp simd
  for (int i = 0; i < LANES; ++i) {
    x[i] = words.x[i] >= threshold ? scale : 0.0f;
    y[i] = words.y[i] >= threshold ? scale : 0.0f;
    z[i] = words.z[i] >= threshold ? scale : 0.0f;
    w[i] = words.w[i] >= threshold ? scale : 0.0f;
  }
  interleave(x, y, z, w, out);
}

// Part of a row: columns from `column`, made by the lanes from `lane`.
struct Segment {
  int64_t row, column;
  int lane, columns;
};

// Fills all sixteen lanes with the quads of the rows begin..end that `mask` leaves on, across the ends of rows,
// and visits them: visit(lanes, segments, number of segments).
template <class Visit>
inline void for_each_lanes(const Counters& counters, int64_t begin, int64_t end, int64_t columns, const bool* mask,
                           Visit visit) {
  Lanes lanes{};  // the last visit's spare lanes are drawn and not used
  Segment segments[LANES];
  int filled = 0, count = 0;
  const int64_t quads = (columns + 3) / 4;
  for (int64_t r = begin; r < end; ++r) {
    if (mask && !mask[r]) continue;
    const uint32_t row = uint32_t(counters.row[r]), sample = uint32_t(counters.sample_id[r]);
    for (int64_t quad = 0; quad < quads;) {
      const int take = int(quads - quad < LANES - filled ? quads - quad : LANES - filled);
      for (int i = 0; i < take; ++i) {
        lanes.quad[filled + i] = uint32_t(quad + i);
        lanes.row[filled + i] = row;
        lanes.sample[filled + i] = sample;
      }
      const int64_t left = columns - 4 * quad;
      segments[count++] = {r, 4 * quad, filled, int(left < 4 * take ? left : 4 * take)};
      filled += take;
      quad += take;
      if (filled == LANES) {
        visit(lanes, segments, count);
        filled = count = 0;
      }
    }
  }
  if (count) visit(lanes, segments, count);
}

}  // namespace mealrec
