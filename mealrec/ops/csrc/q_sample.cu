// x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, with t given or drawn: one read and one write per column.
#include "launch.h"
#include "random.cuh"
#include "rows.cuh"

namespace mealrec::cuda {
namespace {

template <class T, bool ALIGNED>
__global__ void __launch_bounds__(BLOCK, 4) q_sample_kernel(const QSample a, const Mapping mapping) {
  const Thread thread(mapping.lanes_log2);
  if (thread.row >= a.shape.rows) return;
  const Source source(a.counters, thread.row);
  int64_t t;
  if (a.t) {
    t = __ldg(a.t + thread.row);
  } else {
    const uint32_t first = source.row - source.row % a.group;
    t = below(philox(0, first, source.sample, source.step, source.seed, a.step_stream).x, a.steps);
    if (thread.lane == 0) a.drawn[thread.row] = t;
  }
  T* out = row_of<T>(a.out, a.shape, thread.row);
  if (a.mask && !a.mask[thread.row]) {
    clear_row<T, ALIGNED>(out, thread, mapping.vectors, a.shape.columns);
    return;
  }
  const float signal = __ldg(a.signal + t + 1), scale = scale_of(__ldg(a.noise + t + 1));
  const T* x0 = row_of<T>(a.x0, thread.row);
  Vector<T, ALIGNED> x[UNROLL];
  for_each_vector(
      thread, mapping.vectors, [&](int i, int vector) { x[i].load(x0, vector, a.shape.columns); },
      [&](int i, int vector) {
        float value[WIDTH<T>];
        x[i].unpack(value);
#pragma unroll
        for (float& v : value) v *= signal;
        add_normals(source, vector, scale, value);
        x[i].pack(value);
        x[i].store(out, vector, a.shape.columns);
      });
}

struct Launch {
  const QSample& a;
  cudaStream_t stream;
  template <class T, bool ALIGNED>
  void operator()(const Mapping& mapping) const {
    q_sample_kernel<T, ALIGNED><<<mapping.blocks, BLOCK, 0, stream>>>(a, mapping);
  }
};

}  // namespace

int q_sample(const QSample& a, void* stream) {
  const size_t element = element_size(a.shape);
  const bool fits = aligned(a.x0, element) && aligned(a.out, a.shape, element);
  return launch_rows(a.shape, fits, Launch{a, static_cast<cudaStream_t>(stream)});
}

}  // namespace mealrec::cuda
