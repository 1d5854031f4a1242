// Philox4x32-10 [Salmon et al. 2011, Random123], for the CPU and for CUDA.
#pragma once

#include "arithmetic.h"

namespace mealrec {

struct Words {
  uint32_t x, y, z, w;
};

// Counter (column / 4, row, sample_id, global_step), key (seed, stream): the words of four columns.
MEALREC_INLINE Words philox(uint32_t quad, uint32_t row, uint32_t sample, uint32_t step, uint32_t seed,
                            uint32_t stream) {
  uint32_t c0 = quad, c1 = row, c2 = sample, c3 = step, k0 = seed, k1 = stream;
  MEALREC_UNROLL
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
    c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c1 = uint32_t(p1);
    c3 = uint32_t(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {c0, c1, c2, c3};
}

// A number uniform on 0..bound-1.
MEALREC_INLINE int64_t below(uint32_t word, uint32_t bound) { return int64_t(uint64_t{word} * bound >> 32); }

}  // namespace mealrec
