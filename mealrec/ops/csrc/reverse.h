// The coefficients of one reverse step, for the CPU and for CUDA: out = x0hat * a + x * b + noise * c.
#pragma once

#include "arithmetic.h"

namespace mealrec {

struct Reverse {
  float x0hat, x, noise;
};

// With fewer steps than T, a := abar / prev and b := 1 - a, as (prev - abar) / prev: for small b the quotient's
// rounding would be most of 1 - a. [DDPM] eq. 7, [DDIM] eq. 12.
MEALREC_INLINE Reverse reverse(float abar, float prev, bool last, bool ddpm, float eta) {
  if (last) return {1.0f, 0.0f, 0.0f};
  const float alpha = ratio(abar, prev), beta = ratio(prev - abar, prev), rest = 1.0f - abar;
  const float deviation = root(ratio(beta * (1.0f - prev), rest));
  if (ddpm) return {ratio(beta * root(prev), rest), ratio((1.0f - prev) * root(alpha), rest), deviation};
  const float sigma = eta * deviation;
  const float direction = root(ratio(fmaxf(1.0f - prev - sigma * sigma, 0.0f), rest));
  return {root(prev) - direction * root(abar), direction, sigma};
}

}  // namespace mealrec
