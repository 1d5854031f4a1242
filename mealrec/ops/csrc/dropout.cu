// residual + x * keep / (1 - p), the coins in registers.
#include "launch.h"
#include "random.cuh"
#include "rows.cuh"

namespace mealrec::cuda {
namespace {

template <class T, bool ALIGNED, bool PACKED>
__global__ void __launch_bounds__(BLOCK, ALIGNED && !PACKED ? 4 : 3) dropout_kernel(const Dropout a, const Mapping mapping) {
  const Key key(a.counters);
  struct Row {
    Source source;
    const T *x, *residual;
  };
  Vector<T, ALIGNED> x[UNROLL], residual[UNROLL];
  for_each_vector<PACKED>(
      a.shape, mapping, nullptr,
      [&](int64_t r, int) {
        const T* residual = a.residual.data ? row_of<T>(a.residual, r) : nullptr;
        return Row{Source(a.counters, r), row_of<T>(a.x, r), residual};
      },
      [&](const Row& row, int i, int vector) {
        x[i].load(row.x, vector, a.shape.columns);
        residual[i].raw = make_uint4(0, 0, 0, 0);
        if (a.residual.data) residual[i].load(row.residual, vector, a.shape.columns);
      },
      [&](const Row& row, int i, int64_t r, int vector) {
        float value[WIDTH<T>], sum[WIDTH<T>];
        x[i].unpack(value);
        residual[i].unpack(sum);
#pragma unroll
        for (int quad = 0; quad < WIDTH<T> / 4; ++quad) {
          const Words words = row.source.words(key, uint32_t(vector) * (WIDTH<T> / 4) + quad);
          const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
          for (int c = 0; c < 4; ++c)
            sum[4 * quad + c] = fmaf(value[4 * quad + c], word[c] >= a.threshold ? a.scale : 0.0f, sum[4 * quad + c]);
        }
        x[i].pack(sum);
        x[i].store(row_of<T>(a.out, a.shape, r), vector, a.shape.columns);
      },
      Clear<T, ALIGNED>{a.out, a.shape});
}

struct Launch {
  const Dropout& a;
  cudaStream_t stream;
  template <class T, bool ALIGNED, bool PACKED>
  void operator()(const Mapping& mapping) const {
    dropout_kernel<T, ALIGNED, PACKED><<<mapping.blocks, BLOCK, 0, stream>>>(a, mapping);
  }
};

}  // namespace

int dropout(const Dropout& a, void* stream) {
  const size_t element = element_size(a.shape);
  const bool fits = aligned(a.x, element) && (!a.residual.data || aligned(a.residual, element)) &&
                    aligned(a.out, a.shape, element);
  return launch_rows(a.shape, fits, Launch{a, static_cast<cudaStream_t>(stream)});
}

}  // namespace mealrec::cuda
