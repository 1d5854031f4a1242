// Rows times their entry of a table: the gradient of q_sample.
#include "launch.h"
#include "rows.cuh"

namespace mealrec::cuda {
namespace {

template <class T, bool ALIGNED, bool PACKED>
__global__ void __launch_bounds__(BLOCK) scale_rows_kernel(const ScaleRows a, const Mapping mapping) {
  struct Row {
    float scale;
    const T* x;
  };
  Vector<T, ALIGNED> x[UNROLL];
  for_each_vector<PACKED>(
      a.shape, mapping, a.mask,
      [&](int64_t r, int) {
        return Row{__ldg(a.scale + __ldg(a.t + r) + 1), row_of<T>(a.x, r)};
      },
      [&](const Row& row, int i, int vector) { x[i].load(row.x, vector, a.shape.columns); },
      [&](const Row& row, int i, int64_t r, int vector) {
        float value[WIDTH<T>];
        x[i].unpack(value);
#pragma unroll
        for (float& v : value) v *= row.scale;
        x[i].pack(value);
        x[i].store(row_of<T>(a.out, a.shape, r), vector, a.shape.columns);
      },
      Clear<T, ALIGNED>{a.out, a.shape});
}

struct Launch {
  const ScaleRows& a;
  cudaStream_t stream;
  template <class T, bool ALIGNED, bool PACKED>
  void operator()(const Mapping& mapping) const {
    scale_rows_kernel<T, ALIGNED, PACKED><<<mapping.blocks, BLOCK, 0, stream>>>(a, mapping);
  }
};

}  // namespace

int scale_rows(const ScaleRows& a, void* stream) {
  const size_t element = element_size(a.shape);
  const bool fits = aligned(a.x, element) && aligned(a.out, a.shape, element);
  return launch_rows(a.shape, fits, Launch{a, static_cast<cudaStream_t>(stream)});
}

}  // namespace mealrec::cuda
