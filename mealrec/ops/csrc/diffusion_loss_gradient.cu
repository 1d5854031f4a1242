// The gradient of diffusion_loss in the prediction, times that of the loss: two reads and one write per column.
#include "launch.h"
#include "rows.cuh"

namespace mealrec::cuda {
namespace {

template <class T, bool ALIGNED>
__global__ void __launch_bounds__(BLOCK)
    diffusion_loss_gradient_kernel(const DiffusionLossGradient a, const Mapping mapping) {
  const Thread thread(mapping.lanes_log2);
  if (thread.row >= a.shape.rows) return;
  T* out = row_of<T>(a.out, a.shape, thread.row);
  if (a.mask && !a.mask[thread.row]) {
    clear_row<T, ALIGNED>(out, thread, mapping.vectors, a.shape.columns);
    return;
  }
  const float slope = 2.0f * __fdividef(1.0f, float(int(a.shape.columns))), grad = __ldg(a.grad);
  const T* in_prediction = row_of<T>(a.prediction, thread.row);
  const T* in_target = row_of<T>(a.target, thread.row);
  Vector<T, ALIGNED> prediction[UNROLL], target[UNROLL];
  for_each_vector(
      thread, mapping.vectors,
      [&](int i, int vector) {
        prediction[i].load(in_prediction, vector, a.shape.columns);
        target[i].load(in_target, vector, a.shape.columns);
      },
      [&](int i, int vector) {
        float value[WIDTH<T>], part[WIDTH<T>];
        prediction[i].unpack(value);
        target[i].unpack(part);
#pragma unroll
        for (int c = 0; c < WIDTH<T>; ++c) value[c] = slope * (value[c] - part[c]) * grad;
        prediction[i].pack(value);
        prediction[i].store(out, vector, a.shape.columns);
      });
}

struct Launch {
  const DiffusionLossGradient& a;
  cudaStream_t stream;
  template <class T, bool ALIGNED>
  void operator()(const Mapping& mapping) const {
    diffusion_loss_gradient_kernel<T, ALIGNED><<<mapping.blocks, BLOCK, 0, stream>>>(a, mapping);
  }
};

}  // namespace

int diffusion_loss_gradient(const DiffusionLossGradient& a, void* stream) {
  const size_t element = element_size(a.shape);
  const bool fits = aligned(a.prediction, element) && aligned(a.target, element) && aligned(a.out, a.shape, element);
  return launch_rows(a.shape, fits, Launch{a, static_cast<cudaStream_t>(stream)});
}

}  // namespace mealrec::cuda
