// x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, with t given or drawn: one read and one write per column.
#include "launch.h"
#include "random.cuh"
#include "rows.cuh"

namespace mealrec::cuda {
namespace {

template <class T, bool ALIGNED, bool PACKED>
__global__ void __launch_bounds__(BLOCK, 4) q_sample_kernel(const QSample a, const Mapping mapping) {
  const Key key(a.counters);
  struct Row {
    Source source;
    float signal, scale;
    const T* x0;
  };
  Vector<T, ALIGNED> x[UNROLL];
  for_each_vector<PACKED>(
      a.shape, mapping, a.mask,
      [&](int64_t r, int lane) {
        const Source source(a.counters, r);
        int64_t t;
        if (a.t) {
          t = __ldg(a.t + r);
        } else {
          const uint32_t first = source.row - source.row % a.group;
          t = below(philox(0, first, source.sample, key.step, key.seed, a.step_stream).x, a.steps);
          if (lane == 0) a.drawn[r] = t;
        }
        const float signal = __ldg(a.signal + t + 1), scale = scale_of(__ldg(a.noise + t + 1));
        return Row{source, signal, scale, row_of<T>(a.x0, r)};
      },
      [&](const Row& row, int i, int vector) { x[i].load(row.x0, vector, a.shape.columns); },
      [&](const Row& row, int i, int64_t r, int vector) {
        float value[WIDTH<T>];
        x[i].unpack(value);
#pragma unroll
        for (float& v : value) v *= row.signal;
        add_normals(key, row.source, vector, row.scale, value);
        x[i].pack(value);
        x[i].store(row_of<T>(a.out, a.shape, r), vector, a.shape.columns);
      },
      Clear<T, ALIGNED>{a.out, a.shape});
}

struct Launch {
  const QSample& a;
  cudaStream_t stream;
  template <class T, bool ALIGNED, bool PACKED>
  void operator()(const Mapping& mapping) const {
    q_sample_kernel<T, ALIGNED, PACKED><<<mapping.blocks, BLOCK, 0, stream>>>(a, mapping);
  }
};

}  // namespace

int q_sample(const QSample& a, void* stream) {
  const size_t element = element_size(a.shape);
  const bool fits = aligned(a.x0, element) && aligned(a.out, a.shape, element);
  return launch_rows(a.shape, fits, Launch{a, static_cast<cudaStream_t>(stream)});
}

}  // namespace mealrec::cuda
