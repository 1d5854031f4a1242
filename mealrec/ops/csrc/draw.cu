// Random words or normals, written to memory: for what is drawn rarely. A thread makes four columns of a row.
#include "launch.h"
#include "random.cuh"
#include "rows.cuh"

namespace mealrec::cuda {
namespace {

__global__ void __launch_bounds__(BLOCK) draw_kernel(const Draw a, const int64_t quads) {
  const Key key(a.counters);
  const int64_t index = int64_t(blockIdx.x) * BLOCK + threadIdx.x;
  if (index >= a.rows * quads) return;
  const int64_t row = index / quads, quad = index - row * quads;
  const Source source(a.counters, row);
  const Words words = source.words(key, uint32_t(quad));
  const uint32_t word[4] = {words.x, words.y, words.z, words.w};
  float normal[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  if (a.normals) add_normals(key, source, int(quad), scale_of(1.0f), normal);
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const int64_t column = 4 * quad + c;
    if (column >= a.columns) break;
    if (a.normals)
      a.normals[row * a.columns + column] = normal[c];
    else
      a.words[row * a.columns + column] = word[c];
  }
}

}  // namespace

int draw(const Draw& a, void* stream) {
  const int64_t quads = (a.columns + 3) / 4, threads = a.rows * quads;
  if (threads == 0) return 0;
  draw_kernel<<<unsigned((threads + BLOCK - 1) / BLOCK), BLOCK, 0, static_cast<cudaStream_t>(stream)>>>(a, quads);
  return int(cudaGetLastError());
}

const char* error_name(int code) { return cudaGetErrorString(cudaError_t(code)); }

}  // namespace mealrec::cuda
