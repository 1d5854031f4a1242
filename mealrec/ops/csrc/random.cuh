// Philox words and normals in registers, four columns at a time.
//
// Box-Muller by the special function unit. The angle takes 23 bits of its word, put into a float's mantissa
// without a conversion: 2 pi (f - 1.5) is the true angle less pi, which turns both signs. Against float64 the
// normals are within 1e-5 for all but 1 draw in 1,000 and within 1.5e-3 always (small radii, where log2 has few
// digits).
#pragma once

#include "arguments.h"
#include "philox.h"

namespace mealrec::cuda {

// A value that all threads of a warp hold, put where the compiler knows it: the ten round keys then cost nothing,
// as they live on the uniform datapath. Before any thread of the warp ends.
__device__ __forceinline__ uint32_t uniform(uint32_t value) { return __reduce_or_sync(0xFFFFFFFFu, value); }

// What all rows share: the key, and the step of the counter.
struct Key {
  uint32_t seed, step, stream;

  __device__ explicit Key(const Counters& counters)
      : seed(uniform(uint32_t(__ldg(counters.seed)))),
        step(uniform(uint32_t(__ldg(counters.step)))),
        stream(counters.stream) {}
};

// A row's part of the counter.
struct Source {
  uint32_t sample, row;

  Source() = default;
  __device__ Source(const Counters& counters, int64_t r)
      : sample(uint32_t(__ldg(counters.sample_id + r))), row(uint32_t(__ldg(counters.row + r))) {}

  __device__ __forceinline__ Words words(const Key& key, uint32_t quad) const {
    return philox(quad, row, sample, key.step, key.seed, key.stream);
  }
};

__device__ __forceinline__ float log2_approximate(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// `scale` of a standard deviation d: -2 ln(u) d^2 = scale_of(d) * |log2 u|.
__device__ __forceinline__ float scale_of(float deviation) { return deviation * deviation * 1.3862943611198906f; }

__device__ __forceinline__ void add_pair(uint32_t radius_word, uint32_t angle_word, float scale, float& x, float& y) {
  const float u = fmaf(__uint2float_rn(radius_word), 0x1p-32f, 0x1p-33f);
  const float radius = root(fabsf(log2_approximate(u)) * scale);
  const float angle = fmaf(__uint_as_float(0x3F800000u | angle_word >> 9), 6.283185307179586f, -9.42477796076938f);
  x = fmaf(-radius, __cosf(angle), x);
  y = fmaf(-radius, __sinf(angle), y);
}

// Adds normals of variance `scale_of` to the columns of one vector, which starts at column vector * N.
template <int N>
__device__ __forceinline__ void add_normals(const Key& key, const Source& source, int vector, float scale, float (&x)[N]) {
#pragma unroll
  for (int quad = 0; quad < N / 4; ++quad) {
    const Words words = source.words(key, uint32_t(vector) * (N / 4) + quad);
    add_pair(words.x, words.y, scale, x[4 * quad], x[4 * quad + 1]);
    add_pair(words.z, words.w, scale, x[4 * quad + 2], x[4 * quad + 3]);
  }
}

}  // namespace mealrec::cuda
