// Functions for the CPU and for CUDA.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define MEALREC_INLINE __host__ __device__ __forceinline__
#define MEALREC_UNROLL _Pragma("unroll")
#else
#define MEALREC_INLINE inline __attribute__((always_inline))
#define MEALREC_UNROLL _Pragma("GCC unroll 10")
#endif

namespace mealrec {

// To 2 ulp on the GPU, where the exact forms have branches that cost more than the rest of a row's coefficients.
MEALREC_INLINE float root(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return __builtin_sqrtf(x);
#endif
}

MEALREC_INLINE float ratio(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fdividef(a, b);
#else
  return a / b;
#endif
}

}  // namespace mealrec
