// The part of CUDA that the kernels use, on the CPU. machine.cpp runs the threads.
//
// What a GPU would refuse or leave undefined is a fault: a vector that is not aligned, a warp operation whose mask
// names a lane that never comes, a barrier that some threads do not reach, a grid that is too large.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // one block runs at a time

struct Dim3 {
  unsigned x;
};
extern Dim3 threadIdx, blockIdx, gridDim;

namespace machine {

enum class Collective { shuffle_down, reduce_or };

void launch(uint64_t blocks, unsigned threads, const std::function<void()>& kernel);
void block_barrier();
uint32_t collective(Collective kind, uint32_t mask, uint32_t value, unsigned offset);
void check_alignment(const void* address, size_t size);
void trap();

// The exact value, or one that is off by the given bounds, in either direction.
float approximate(double exact, double absolute, double relative);

// Approximations of the special function unit; results and arguments below 2^-126 are flushed to zero. Bounds: the
// PTX manual's for sqrt.approx and lg2.approx, the CUDA programming guide's for the others.
inline float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
inline float sqrt_approx(float x) { return flushed(approximate(std::sqrt(double(flushed(x))), 0, 0x1p-23)); }
inline float lg2_approx(float x) {
  const bool near_one = x > 0.5f && x < 2.0f;
  return flushed(approximate(std::log2(double(flushed(x))), near_one ? 0x1p-22 : 0, near_one ? 0 : 0x1p-22));
}

}  // namespace machine

inline float __cosf(float x) { return machine::approximate(std::cos(double(x)), 0x1.c0d3p-22, 0); }  // 2^-21.19
inline float __sinf(float x) { return machine::approximate(std::sin(double(x)), 0x1.8158p-22, 0); }  // 2^-21.41
inline float __fdividef(float a, float b) {
  if (std::fabs(b) > 0x1p126f && std::isfinite(b)) return 0.0f;
  return machine::flushed(machine::approximate(double(a) / double(b), 0, 0x1p-22));
}

inline void __trap() { machine::trap(); }
inline void __syncthreads() { machine::block_barrier(); }
inline uint32_t __reduce_or_sync(uint32_t mask, uint32_t value) {
  return machine::collective(machine::Collective::reduce_or, mask, value, 0);
}

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float __uint2float_rn(uint32_t x) { return float(x); }
inline float __shfl_down_sync(uint32_t mask, float value, unsigned offset) {
  const uint32_t bits = __float_as_uint(value);
  return __uint_as_float(machine::collective(machine::Collective::shuffle_down, mask, bits, offset));
}

// Sixteen bytes that move at once.
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
  uint4() = default;
  uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) : x(x), y(y), z(z), w(w) {}
  uint4(const uint4&) = default;
  uint4& operator=(const uint4& other) {
    machine::check_alignment(this, sizeof(uint4));
    std::memcpy(static_cast<void*>(this), &other, sizeof(uint4));
    return *this;
  }
};
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

template <class T>
inline T __ldg(const T* address) {
  machine::check_alignment(address, sizeof(T));
  return *address;
}

using cudaStream_t = struct CUstream_st*;
using cudaError_t = int;
int cudaGetLastError();
const char* cudaGetErrorString(cudaError_t);
inline int cudaMemsetAsync(void* address, int value, size_t size, cudaStream_t) {
  std::memset(address, value, size);
  return 0;
}
