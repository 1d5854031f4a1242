// Rows times their entry of a table: the gradient of q_sample.
#include "launch.h"
#include "rows.cuh"

namespace mealrec::cuda {
namespace {

template <class T, bool ALIGNED>
__global__ void __launch_bounds__(BLOCK) scale_rows_kernel(const ScaleRows a, const Mapping mapping) {
  const Thread thread(mapping.lanes_log2);
  if (thread.row >= a.shape.rows) return;
  T* out = row_of<T>(a.out, a.shape, thread.row);
  if (a.mask && !a.mask[thread.row]) {
    clear_row<T, ALIGNED>(out, thread, mapping.vectors, a.shape.columns);
    return;
  }
  const float scale = __ldg(a.scale + __ldg(a.t + thread.row) + 1);
  const T* in = row_of<T>(a.x, thread.row);
  Vector<T, ALIGNED> x[UNROLL];
  for_each_vector(
      thread, mapping.vectors, [&](int i, int vector) { x[i].load(in, vector, a.shape.columns); },
      [&](int i, int vector) {
        float value[WIDTH<T>];
        x[i].unpack(value);
#pragma unroll
        for (float& v : value) v *= scale;
        x[i].pack(value);
        x[i].store(out, vector, a.shape.columns);
      });
}

struct Launch {
  const ScaleRows& a;
  cudaStream_t stream;
  template <class T, bool ALIGNED>
  void operator()(const Mapping& mapping) const {
    scale_rows_kernel<T, ALIGNED><<<mapping.blocks, BLOCK, 0, stream>>>(a, mapping);
  }
};

}  // namespace

int scale_rows(const ScaleRows& a, void* stream) {
  const size_t element = element_size(a.shape);
  const bool fits = aligned(a.x, element) && aligned(a.out, a.shape, element);
  return launch_rows(a.shape, fits, Launch{a, static_cast<cudaStream_t>(stream)});
}

}  // namespace mealrec::cuda
