// Which threads work on which rows, and how they read and write them.
//
// A thread takes UNROLL vectors at a time and has as many loads in flight. A vector is 16 bytes where the rows allow it
// (ALIGNED), else the same columns one by one. A row has a power of two of threads, `lanes`, whose vectors are `lanes`
// apart. Where that would leave more than a quarter of the vectors of a pass empty, or touch 16 bytes here and there,
// rows are PACKED: vector after vector, whatever the row, over all threads of a block and all that each can take. No
// lane idles and a warp touches consecutive memory, but a thread looks up a row for each of its vectors.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "arguments.h"

namespace mealrec::cuda {

constexpr int BLOCK = 256;
constexpr int UNROLL = 4;
constexpr int MOST_PACKED = 64;  // vectors of a row; so far a division by `inverse` is exact

template <class T>
constexpr int WIDTH = 16 / sizeof(T);  // columns of a vector

struct Mapping {
  int vectors;       // vectors per row
  int lanes_log2;    // threads per row
  uint32_t inverse;  // of `vectors`, 2^16 / vectors rounded up, where rows are packed, else 0
  int rows;          // rows per block
  unsigned blocks;
};

inline Mapping map_rows(int64_t rows, int64_t columns, int width) {
  const int vectors = int((columns + width - 1) / width);
  Mapping mapping{vectors, 0, 0, 0, 0};
  while ((UNROLL << mapping.lanes_log2) < vectors && (1 << mapping.lanes_log2) < BLOCK) ++mapping.lanes_log2;
  const bool idle = mapping.lanes_log2 == 0 || 4 * vectors < (3 * UNROLL) << mapping.lanes_log2;
  if (idle && vectors > 0 && vectors <= MOST_PACKED) mapping.inverse = (65536 + vectors - 1) / vectors;
  mapping.rows = mapping.inverse ? BLOCK * UNROLL / vectors : BLOCK >> mapping.lanes_log2;
  mapping.blocks = unsigned((rows + mapping.rows - 1) / mapping.rows);
  return mapping;
}

inline bool aligned(const Rows& rows, size_t element) {
  return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.stride * element % 16 == 0;
}

inline bool aligned(const void* out, const Shape& shape, size_t element) { return aligned({out, shape.columns}, element); }

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

// Visits a thread's vectors. row = prepare(r, lane) is what the work on the row r needs, made once for each row of a
// thread, by one of them with lane 0; then load(row, i, vector) for UNROLL vectors, then use(row, i, r, vector) for
// each.
// Vectors of rows that `mask` leaves out become clear(r, vector) instead.
template <bool PACKED, class Prepare, class Load, class Use, class Clear>
__device__ __forceinline__ void for_each_vector(const Shape& shape, const Mapping& mapping, const bool* mask, Prepare prepare,
                                                Load load, Use use, Clear clear) {
  const int64_t first_row = int64_t(blockIdx.x) * mapping.rows;
  if constexpr (PACKED) {
    decltype(prepare(int64_t(), int())) row[UNROLL];
    bool there[UNROLL], on[UNROLL];
    int local[UNROLL], vector[UNROLL];
#pragma unroll
    for (int i = 0; i < UNROLL; ++i) {
      const int index = int(threadIdx.x) + i * BLOCK;
      local[i] = int(uint32_t(index) * mapping.inverse >> 16);  // index / vectors
      vector[i] = index - local[i] * mapping.vectors;
      there[i] = local[i] < mapping.rows && first_row + local[i] < shape.rows;
      if (!there[i]) continue;
      row[i] = prepare(first_row + local[i], vector[i]);
      on[i] = !mask || mask[first_row + local[i]];
      if (on[i]) load(row[i], i, vector[i]);
    }
#pragma unroll
    for (int i = 0; i < UNROLL; ++i) {
      if (!there[i]) continue;
      if (on[i])
        use(row[i], i, first_row + local[i], vector[i]);
      else
        clear(first_row + local[i], vector[i]);
    }
  } else {
    const int64_t r = first_row + (threadIdx.x >> mapping.lanes_log2);
    const int lanes = 1 << mapping.lanes_log2, lane = threadIdx.x & (lanes - 1), vectors = mapping.vectors;
    if (r >= shape.rows) return;
    const auto row = prepare(r, lane);
    if (mask && !mask[r]) {
      for (int vector = lane; vector < vectors; vector += lanes) clear(r, vector);
      return;
    }
    for (int first = lane; first < vectors; first += lanes * UNROLL) {
#pragma unroll
      for (int i = 0; i < UNROLL; ++i)
        if (first + i * lanes < vectors) load(row, i, first + i * lanes);
#pragma unroll
      for (int i = 0; i < UNROLL; ++i)
        if (first + i * lanes < vectors) use(row, i, r, first + i * lanes);
    }
  }
}

// Clears vectors of the dense output.
template <class T, bool ALIGNED>
struct Clear {
  void* out;
  const Shape& shape;

  __device__ __forceinline__ void operator()(int64_t r, int vector) const {
    Vector<T, ALIGNED> zero;
    zero.raw = make_uint4(0, 0, 0, 0);
    zero.store(row_of<T>(out, shape, r), vector, shape.columns);
  }
};

// Calls launch<T, ALIGNED, PACKED>(mapping) for the rows' dtype, for `vectors`, whether all of them are aligned, the
// dense output too, and for their width; the CUDA error code of the launch. Rows without columns are visited as well:
// a step is drawn for each.
template <class Launch>
inline int launch_rows(const Shape& shape, bool vectors, Launch launch) {
  if (shape.rows == 0) return 0;
  const int width = shape.dtype == Dtype::float32 ? WIDTH<float> : WIDTH<__nv_bfloat16>;
  const Mapping mapping = map_rows(shape.rows, shape.columns, width);
  const auto of_width = [&](auto zero, auto is_aligned) {
    using T = decltype(zero);
    constexpr bool ALIGNED = decltype(is_aligned)::value;
    mapping.inverse ? launch.template operator()<T, ALIGNED, true>(mapping)
                    : launch.template operator()<T, ALIGNED, false>(mapping);
  };
  const auto of_alignment = [&](auto zero) {
    vectors ? of_width(zero, std::true_type()) : of_width(zero, std::false_type());
  };
  shape.dtype == Dtype::float32 ? of_alignment(0.0f) : of_alignment(__nv_bfloat16());
  return int(cudaGetLastError());
}

inline size_t element_size(const Shape& shape) { return shape.dtype == Dtype::float32 ? 4 : 2; }

}  // namespace mealrec::cuda
