#pragma once
#include "cuda_runtime.h"

// To the nearest, ties to even, as the hardware converts.
struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  explicit __nv_bfloat16(float value) {
    const uint32_t wide = __float_as_uint(value);
    const bool nan = (wide & 0x7FFFFFFF) > 0x7F800000;
    bits = uint16_t(nan ? wide >> 16 | 0x40 : (wide + 0x7FFF + (wide >> 16 & 1)) >> 16);
  }
};

struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
