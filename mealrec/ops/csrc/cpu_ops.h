// The operations on the CPU over a range of rows. Arithmetic is float32 whatever the storage.
#pragma once

#include "cpu_lanes.h"
#include "reverse.h"

namespace mealrec::cpu {

struct bfloat16 {
  uint16_t bits;
};

MEALREC_INLINE float load(const float& x) { return x; }
MEALREC_INLINE float load(const bfloat16& x) { return as_float(uint32_t{x.bits} << 16); }
MEALREC_INLINE void store(float& out, float value) { out = value; }
MEALREC_INLINE void store(bfloat16& out, float value) {  // to the nearest, ties to even
  const uint32_t bits = as_bits(value);
  const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  out.bits = uint16_t((bits & 0x7FFFFFFF) > 0x7F800000 ? bits >> 16 | 0x40 : rounded);
}

template <class T>
inline const T* row_of(const Rows& rows, int64_t r) {
  return static_cast<const T*>(rows.data) + r * rows.stride;
}

template <class T>
inline const T* row_of(const IndexedRows& rows, int64_t r) {
  return row_of<T>(static_cast<const Rows&>(rows), rows.row ? rows.row[r] : r);
}

template <class T>
inline T* row_of(void* out, const Shape& shape, int64_t r) {
  return static_cast<T*>(out) + r * shape.columns;
}

template <class T>
inline void clear_masked(void* out, const Shape& shape, const bool* mask, int64_t begin, int64_t end) {
  if (!mask) return;
  for (int64_t r = begin; r < end; ++r)
    if (!mask[r]) std::memset(row_of<T>(out, shape, r), 0, size_t(shape.columns) * sizeof(T));
}

template <class T>
void q_sample(const QSample& a, int64_t begin, int64_t end) {
  const uint32_t seed = uint32_t(*a.counters.seed), step = uint32_t(*a.counters.step);
  const int64_t* t = a.t;
  if (!t) {
    for (int64_t r = begin; r < end; ++r) {
      const uint32_t row = uint32_t(a.counters.row[r]);
      const Words words = philox(0, row - row % a.group, uint32_t(a.counters.sample_id[r]), step, seed, a.step_stream);
      a.drawn[r] = below(words.x, a.steps);
    }
    t = a.drawn;
  }
  clear_masked<T>(a.out, a.shape, a.mask, begin, end);
  for_each_lanes(a.counters, begin, end, a.shape.columns, a.mask, [&](const Lanes& lanes, const Segment* segments, int count) {
    alignas(64) float normals[4 * LANES];
    draw_normals(lanes, step, seed, a.counters.stream, normals);
    for (int i = 0; i < count; ++i) {
      const Segment& part = segments[i];
      const float signal = a.signal[t[part.row] + 1], noise = a.noise[t[part.row] + 1];
      const T* x = row_of<T>(a.x0, part.row) + part.column;
      T* out = row_of<T>(a.out, a.shape, part.row) + part.column;
      const float* eps = normals + 4 * part.lane;
#pragma omp simd
      for (int c = 0; c < part.columns; ++c) store(out[c], signal * load(x[c]) + noise * eps[c]);
    }
  });
}

template <class T>
void scale_rows(const ScaleRows& a, int64_t begin, int64_t end) {
  clear_masked<T>(a.out, a.shape, a.mask, begin, end);
  for (int64_t r = begin; r < end; ++r) {
    if (a.mask && !a.mask[r]) continue;
    const float scale = a.scale[a.t[r] + 1];
    const T* x = row_of<T>(a.x, r);
    T* out = row_of<T>(a.out, a.shape, r);
#pragma omp simd
    for (int64_t c = 0; c < a.shape.columns; ++c) store(out[c], scale * load(x[c]));
  }
}

// The part of a reverse step without noise: a guided prediction has the weights 1 + w and -w.
template <class T>
inline void reverse_mean(const ReverseStep& a, const Reverse& k, int64_t r, int64_t column, int64_t columns,
                         const float* eps) {
  const T* x = row_of<T>(a.x, r) + column;
  const T* x0 = row_of<T>(a.x0hat, r) + column;
  T* out = row_of<T>(a.out, a.shape, r) + column;
  const float own = a.null.data ? k.x0hat * (1.0f + a.guidance) : k.x0hat, other = -k.x0hat * a.guidance;
  const T* null = a.null.data ? row_of<T>(a.null, r) + column : x0;
  if (!a.null.data && !eps) {
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) store(out[c], own * load(x0[c]) + k.x * load(x[c]));
  } else if (!eps) {
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c)
      store(out[c], own * load(x0[c]) + other * load(null[c]) + k.x * load(x[c]));
  } else {
    const float share = a.null.data ? other : 0.0f;
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c)
      store(out[c], own * load(x0[c]) + share * load(null[c]) + k.x * load(x[c]) + k.noise * eps[c]);
  }
}

template <class T>
void reverse_step(const ReverseStep& a, int64_t begin, int64_t end) {
  const auto coefficients = [&](int64_t r) {
    const int64_t prev = a.t_prev[r];
    return reverse(a.abar[a.t[r] + 1], a.abar[prev + 1], prev < 0, a.ddpm, a.eta);
  };
  clear_masked<T>(a.out, a.shape, a.mask, begin, end);
  if (!a.ddpm && a.eta == 0.0f) {
    for (int64_t r = begin; r < end; ++r)
      if (!a.mask || a.mask[r]) reverse_mean<T>(a, coefficients(r), r, 0, a.shape.columns, nullptr);
    return;
  }
  const uint32_t seed = uint32_t(*a.counters.seed), step = uint32_t(*a.counters.step);
  for_each_lanes(a.counters, begin, end, a.shape.columns, a.mask, [&](const Lanes& lanes, const Segment* segments, int count) {
    alignas(64) float normals[4 * LANES];
    draw_normals(lanes, step, seed, a.counters.stream, normals);
    for (int i = 0; i < count; ++i) {
      const Segment& part = segments[i];
      reverse_mean<T>(a, coefficients(part.row), part.row, part.column, part.columns, normals + 4 * part.lane);
    }
  });
}

// One block of rows into its own partial sum, so that the sum does not depend on the number of threads.
template <class T>
void diffusion_loss(const DiffusionLoss& a, int64_t begin, int64_t end, float& partial) {
  double total = 0.0;
  for (int64_t r = begin; r < end; ++r) {
    if (a.mask && !a.mask[r]) continue;
    const float per_column = 1.0f / float(a.shape.columns);
    const T* prediction = row_of<T>(a.prediction, r);
    const T* target = row_of<T>(a.target, r);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < a.shape.columns; ++c) {
      const float error = load(prediction[c]) - load(target[c]);
      sum += error * error;
    }
    total += double(per_column) * sum;
  }
  partial = float(total);
}

template <class T>
void diffusion_loss_gradient(const DiffusionLossGradient& a, int64_t begin, int64_t end) {
  clear_masked<T>(a.out, a.shape, a.mask, begin, end);
  const float slope = 2.0f * (1.0f / float(a.shape.columns)), grad = *a.grad;
  for (int64_t r = begin; r < end; ++r) {
    if (a.mask && !a.mask[r]) continue;
    const T* prediction = row_of<T>(a.prediction, r);
    const T* target = row_of<T>(a.target, r);
    T* out = row_of<T>(a.out, a.shape, r);
#pragma omp simd
    for (int64_t c = 0; c < a.shape.columns; ++c)
      store(out[c], slope * (load(prediction[c]) - load(target[c])) * grad);
  }
}

template <class T>
void dropout(const Dropout& a, int64_t begin, int64_t end) {
  const uint32_t seed = uint32_t(*a.counters.seed), step = uint32_t(*a.counters.step);
  for_each_lanes(a.counters, begin, end, a.shape.columns, nullptr, [&](const Lanes& lanes, const Segment* segments, int count) {
    alignas(64) float factor[4 * LANES];
    draw_factors(lanes, step, seed, a.counters.stream, a.threshold, a.scale, factor);
    for (int i = 0; i < count; ++i) {
      const Segment& part = segments[i];
      const float* keep = factor + 4 * part.lane;
      const T* x = row_of<T>(a.x, part.row) + part.column;
      T* out = row_of<T>(a.out, a.shape, part.row) + part.column;
      if (!a.residual.data) {
#pragma omp simd
        for (int c = 0; c < part.columns; ++c) store(out[c], load(x[c]) * keep[c]);
      } else {
        const T* residual = row_of<T>(a.residual, part.row) + part.column;
#pragma omp simd
        for (int c = 0; c < part.columns; ++c) store(out[c], load(residual[c]) + load(x[c]) * keep[c]);
      }
    }
  });
}

inline void draw(const Draw& a, int64_t begin, int64_t end) {
  const uint32_t seed = uint32_t(*a.counters.seed), step = uint32_t(*a.counters.step);
  for_each_lanes(a.counters, begin, end, a.columns, nullptr, [&](const Lanes& lanes, const Segment* segments, int count) {
    alignas(64) float normals[4 * LANES];
    LaneWords words;
    if (a.normals)
      draw_normals(lanes, step, seed, a.counters.stream, normals);
    else
      draw_words(lanes, step, seed, a.counters.stream, words);
    for (int i = 0; i < count; ++i) {
      const Segment& part = segments[i];
      const int64_t first = part.row * a.columns + part.column;
      for (int c = 0; c < part.columns; ++c) {
        const int lane = part.lane + c / 4;
        if (a.normals)
          a.normals[first + c] = normals[4 * part.lane + c];
        else
          a.words[first + c] = (c % 4 == 0 ? words.x : c % 4 == 1 ? words.y : c % 4 == 2 ? words.z : words.w)[lane];
      }
    }
  });
}

}  // namespace mealrec::cpu
