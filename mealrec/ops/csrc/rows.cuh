// Which threads work on which rows, and how they read and write them.
//
// A power of two of threads, `lanes`, works on one row; each thread takes UNROLL vectors of a pass, `lanes` vectors
// apart, so that a warp touches consecutive memory and has UNROLL loads in flight. A vector is 16 bytes where
// the rows allow it (ALIGNED), else the same columns one by one.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "arguments.h"

namespace mealrec::cuda {

constexpr int BLOCK = 256;
constexpr int UNROLL = 4;

template <class T>
constexpr int WIDTH = 16 / sizeof(T);  // columns of a vector

struct Mapping {
  int lanes_log2;  // threads per row
  int vectors;     // vectors per row
  unsigned blocks;
};

inline Mapping map_rows(int64_t rows, int64_t columns, int width) {
  Mapping mapping{0, int((columns + width - 1) / width), 0};
  while ((UNROLL << mapping.lanes_log2) < mapping.vectors && (1 << mapping.lanes_log2) < BLOCK) ++mapping.lanes_log2;
  const int64_t rows_per_block = BLOCK >> mapping.lanes_log2;
  mapping.blocks = unsigned((rows + rows_per_block - 1) / rows_per_block);
  return mapping;
}

inline bool aligned(const Rows& rows, size_t element) {
  return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.stride * element % 16 == 0;
}

inline bool aligned(const void* out, const Shape& shape, size_t element) { return aligned({out, shape.columns}, element); }

// What a thread works on.
struct Thread {
  int64_t row;
  int lane, lanes;

  __device__ explicit Thread(int lanes_log2)
      : row(int64_t(blockIdx.x) * (BLOCK >> lanes_log2) + (threadIdx.x >> lanes_log2)),
        lane(threadIdx.x & ((1 << lanes_log2) - 1)),
        lanes(1 << lanes_log2) {}
};

template <class T>
__device__ __forceinline__ const T* row_of(const Rows& rows, int64_t r) {
  return static_cast<const T*>(rows.data) + r * rows.stride;
}

// A row that is not there ends the kernel with an error: the host does not wait to look for it.
template <class T>
__device__ __forceinline__ const T* row_of(const IndexedRows& rows, int64_t r) {
  if (rows.row) {
    r = __ldg(rows.row + r);
    if (uint64_t(r) >= uint64_t(rows.count)) __trap();
  }
  return row_of<T>(static_cast<const Rows&>(rows), r);
}

template <class T>
__device__ __forceinline__ T* row_of(void* out, const Shape& shape, int64_t r) {
  return static_cast<T*>(out) + r * shape.columns;
}

// The columns of one vector of a row, as read and as written.
template <class T, bool ALIGNED>
struct Vector {
  uint4 raw;

  __device__ __forceinline__ void load(const T* row, int vector, int64_t columns) {
    if constexpr (ALIGNED) {
      raw = __ldg(reinterpret_cast<const uint4*>(row) + vector);
    } else {
      T* part = reinterpret_cast<T*>(&raw);
#pragma unroll
      for (int i = 0; i < WIDTH<T>; ++i) {
        const int64_t column = int64_t(vector) * WIDTH<T> + i;
        part[i] = column < columns ? row[column] : T(0.0f);
      }
    }
  }

  __device__ __forceinline__ void store(T* row, int vector, int64_t columns) const {
    if constexpr (ALIGNED) {
      reinterpret_cast<uint4*>(row)[vector] = raw;
    } else {
      const T* part = reinterpret_cast<const T*>(&raw);
#pragma unroll
      for (int i = 0; i < WIDTH<T>; ++i) {
        const int64_t column = int64_t(vector) * WIDTH<T> + i;
        if (column < columns) row[column] = part[i];
      }
    }
  }

  __device__ __forceinline__ void unpack(float (&out)[WIDTH<T>]) const {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (sizeof(T) == 4) {
        out[i] = __uint_as_float(words[i]);
      } else {
        out[2 * i] = __uint_as_float(words[i] << 16);
        out[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
      }
    }
  }

  __device__ __forceinline__ void pack(const float (&in)[WIDTH<T>]) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (sizeof(T) == 4) {
        words[i] = __float_as_uint(in[i]);
      } else {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(in[2 * i], in[2 * i + 1]);
        words[i] = reinterpret_cast<const uint32_t&>(pair);
      }
    }
    raw = make_uint4(words[0], words[1], words[2], words[3]);
  }
};

// Visits the vectors of a thread's row, UNROLL at a time: load(i, vector) for all of a pass, then use(i, vector).
template <class Load, class Use>
__device__ __forceinline__ void for_each_vector(const Thread& thread, int vectors, Load load, Use use) {
  for (int first = thread.lane; first < vectors; first += thread.lanes * UNROLL) {
#pragma unroll
    for (int i = 0; i < UNROLL; ++i)
      if (first + i * thread.lanes < vectors) load(i, first + i * thread.lanes);
#pragma unroll
    for (int i = 0; i < UNROLL; ++i)
      if (first + i * thread.lanes < vectors) use(i, first + i * thread.lanes);
  }
}

template <class T, bool ALIGNED>
__device__ __forceinline__ void clear_row(T* row, const Thread& thread, int vectors, int64_t columns) {
  Vector<T, ALIGNED> zero;
  zero.raw = make_uint4(0, 0, 0, 0);
  for (int vector = thread.lane; vector < vectors; vector += thread.lanes) zero.store(row, vector, columns);
}

// Calls launch<T, ALIGNED>(mapping) for the rows' dtype and `vectors`, whether all of them are aligned, the dense
// output too; the CUDA error code of the launch. Rows without columns are visited as well: a step is drawn for each.
template <class Launch>
inline int launch_rows(const Shape& shape, bool vectors, Launch launch) {
  if (shape.rows == 0) return 0;
  const int width = shape.dtype == Dtype::float32 ? WIDTH<float> : WIDTH<__nv_bfloat16>;
  const Mapping mapping = map_rows(shape.rows, shape.columns, width);
  if (shape.dtype == Dtype::float32)
    vectors ? launch.template operator()<float, true>(mapping) : launch.template operator()<float, false>(mapping);
  else
    vectors ? launch.template operator()<__nv_bfloat16, true>(mapping)
            : launch.template operator()<__nv_bfloat16, false>(mapping);
  return int(cudaGetLastError());
}

inline size_t element_size(const Shape& shape) { return shape.dtype == Dtype::float32 ? 4 : 2; }

}  // namespace mealrec::cuda
