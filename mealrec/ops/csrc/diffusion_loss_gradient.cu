// The gradient of diffusion_loss in the prediction, times that of the loss: two reads and one write per column.
#include "launch.h"
#include "rows.cuh"

namespace mealrec::cuda {
namespace {

template <class T, bool ALIGNED, bool PACKED>
__global__ void __launch_bounds__(BLOCK)
    diffusion_loss_gradient_kernel(const DiffusionLossGradient a, const Mapping mapping) {
  const float slope = 2.0f * __fdividef(1.0f, float(int(a.shape.columns))), grad = __ldg(a.grad);
  struct Row {
    const T *prediction, *target;
  };
  Vector<T, ALIGNED> prediction[UNROLL], target[UNROLL];
  for_each_vector<PACKED>(
      a.shape, mapping, a.mask,
      [&](int64_t r, int) {
        return Row{row_of<T>(a.prediction, r), row_of<T>(a.target, r)};
      },
      [&](const Row& row, int i, int vector) {
        prediction[i].load(row.prediction, vector, a.shape.columns);
        target[i].load(row.target, vector, a.shape.columns);
      },
      [&](const Row& row, int i, int64_t r, int vector) {
        float value[WIDTH<T>], part[WIDTH<T>];
        prediction[i].unpack(value);
        target[i].unpack(part);
#pragma unroll
        for (int c = 0; c < WIDTH<T>; ++c) value[c] = slope * (value[c] - part[c]) * grad;
        prediction[i].pack(value);
        prediction[i].store(row_of<T>(a.out, a.shape, r), vector, a.shape.columns);
      },
      Clear<T, ALIGNED>{a.out, a.shape});
}

struct Launch {
  const DiffusionLossGradient& a;
  cudaStream_t stream;
  template <class T, bool ALIGNED, bool PACKED>
  void operator()(const Mapping& mapping) const {
    diffusion_loss_gradient_kernel<T, ALIGNED, PACKED><<<mapping.blocks, BLOCK, 0, stream>>>(a, mapping);
  }
};

}  // namespace

int diffusion_loss_gradient(const DiffusionLossGradient& a, void* stream) {
  const size_t element = element_size(a.shape);
  const bool fits = aligned(a.prediction, element) && aligned(a.target, element) && aligned(a.out, a.shape, element);
  return launch_rows(a.shape, fits, Launch{a, static_cast<cudaStream_t>(stream)});
}

}  // namespace mealrec::cuda
