// Registers the operations for CPU tensors and spreads their rows over PyTorch's threads.
#include <algorithm>

#include "binding.h"
#include "cpu_count.h"
#include "cpu_ops.h"
#include "cpu_softmax.h"

namespace mealrec {
namespace {

constexpr int64_t GRAIN = 1 << 14;  // elements that are worth a thread

template <class Body>
void over_rows(int64_t rows, int64_t columns, const Body& body) {
  torch::stable::parallel_for(0, rows, columns > GRAIN ? 1 : GRAIN / (columns > 0 ? columns : 1), body);
}

template <class Arguments>
using Kernel = void (*)(const Arguments&, int64_t, int64_t);

template <class Arguments>
void over_rows(const Arguments& a, Kernel<Arguments> of_float, Kernel<Arguments> of_bfloat16) {
  const Kernel<Arguments> kernel = a.shape.dtype == Dtype::float32 ? of_float : of_bfloat16;
  over_rows(a.shape.rows, a.shape.columns, [&](int64_t begin, int64_t end) { kernel(a, begin, end); });
}

struct Cpu {
  static void q_sample(const QSample& a, const Tensor&) {
    over_rows<QSample>(a, cpu::q_sample<float>, cpu::q_sample<cpu::bfloat16>);
  }
  static void scale_rows(const ScaleRows& a, const Tensor&) {
    over_rows<ScaleRows>(a, cpu::scale_rows<float>, cpu::scale_rows<cpu::bfloat16>);
  }
  static void reverse_step(const ReverseStep& a, const Tensor&) {
    over_rows<ReverseStep>(a, cpu::reverse_step<float>, cpu::reverse_step<cpu::bfloat16>);
  }
  static void diffusion_loss_gradient(const DiffusionLossGradient& a, const Tensor&) {
    over_rows<DiffusionLossGradient>(a, cpu::diffusion_loss_gradient<float>, cpu::diffusion_loss_gradient<cpu::bfloat16>);
  }
  static void dropout(const Dropout& a, const Tensor&) {
    over_rows<Dropout>(a, cpu::dropout<float>, cpu::dropout<cpu::bfloat16>);
  }
  static void draw(const Draw& a, const Tensor&) {
    over_rows(a.rows, a.columns, [&](int64_t begin, int64_t end) { cpu::draw(a, begin, end); });
  }

  static int64_t loss_block(const Shape& shape) { return shape.columns > GRAIN ? 1 : GRAIN / (shape.columns + 1) + 1; }
  static int64_t loss_blocks(const Shape& shape) { return (shape.rows + loss_block(shape) - 1) / loss_block(shape); }
  static void diffusion_loss(const DiffusionLoss& a, const Tensor&) {
    const int64_t rows = a.shape.rows, size = loss_block(a.shape), blocks = loss_blocks(a.shape);
    const auto kernel = a.shape.dtype == Dtype::float32 ? cpu::diffusion_loss<float> : cpu::diffusion_loss<cpu::bfloat16>;
    torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) kernel(a, b * size, b * size + size < rows ? b * size + size : rows, a.partial[b]);
    });
    double total = 0.0;
    for (int64_t b = 0; b < blocks; ++b) total += a.partial[b];
    *a.loss = float(total);
  }
};

int64_t blocks_of(int64_t rows) { return (rows + cpu::TILE_ROWS - 1) / cpu::TILE_ROWS; }

// Tiles of a fixed size into their own partial results, so that these do not depend on the number of threads.
// body(tile, where its partial results are in [blocks of rows, columns]).
template <class Body>
void over_tiles(int64_t rows, int64_t columns, const Body& body) {
  const int64_t wide = (columns + cpu::TILE_COLUMNS - 1) / cpu::TILE_COLUMNS;
  torch::stable::parallel_for(0, blocks_of(rows) * wide, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t block = i / wide, begin = block * cpu::TILE_ROWS, column = i % wide * cpu::TILE_COLUMNS;
      const cpu::Tile tile{begin, std::min(begin + cpu::TILE_ROWS, rows), column,
                           std::min(cpu::TILE_COLUMNS, columns - column)};
      body(tile, block * columns + column);
    }
  });
}

std::tuple<Tensor, Tensor> softmax_terms(Tensor logits, Tensor score, Tensor own, OptionalTensor bias) {
  STD_TORCH_CHECK(logits.dim() == 2, "expected [rows, columns]");
  const int64_t rows = logits.size(0), columns = logits.size(1), blocks = blocks_of(rows);
  Tensor highest = torch::stable::new_empty(score, {columns}), rest = torch::stable::new_empty(score, {columns});
  Tensor partial = torch::stable::new_empty(score, {blocks, columns});
  dense<float>(logits, ScalarType::Float, rows * columns, logits);
  const SoftmaxTerms a{rows,
                       columns,
                       static_cast<float*>(logits.data_ptr()),
                       dense<float>(score, ScalarType::Float, columns, logits),
                       dense<int64_t>(own, ScalarType::Long, columns, logits),
                       bias ? dense<float>(*bias, ScalarType::Float, rows, logits) : nullptr,
                       static_cast<float*>(highest.data_ptr()),
                       static_cast<float*>(rest.data_ptr()),
                       static_cast<float*>(partial.data_ptr())};
  for (int64_t c = 0; c < columns; ++c) {
    STD_TORCH_CHECK(a.own[c] < rows, "a row that is left out is not there");
    if (a.own[c] >= 0) a.logits[a.own[c] * columns + c] = -std::numeric_limits<float>::infinity();
  }
  over_tiles(rows, columns, [&](const cpu::Tile& tile, int64_t at) { cpu::softmax_maxima(a, tile, a.partial + at); });
  for (int64_t c = 0; c < columns; ++c) {
    a.highest[c] = a.score[c];
    for (int64_t b = 0; b < blocks; ++b) a.highest[c] = std::max(a.highest[c], a.partial[b * columns + c]);
  }
  over_tiles(rows, columns, [&](const cpu::Tile& tile, int64_t at) { cpu::softmax_exponentials(a, tile, a.partial + at); });
  for (int64_t c = 0; c < columns; ++c) {
    double total = 0.0;
    for (int64_t b = 0; b < blocks; ++b) total += a.partial[b * columns + c];
    a.rest[c] = float(total);
  }
  return {highest, rest};
}

std::tuple<Tensor, Tensor> count_above(Tensor score, Tensor own) {
  STD_TORCH_CHECK(score.dim() == 2, "expected [rows, columns]");
  const int64_t rows = score.size(0), columns = score.size(1), blocks = blocks_of(rows);
  Tensor partial = torch::stable::new_empty(score, {2, blocks, columns}, ScalarType::Int);
  const CountAbove a{rows, columns, dense<float>(score, ScalarType::Float, rows * columns, score),
                     dense<float>(own, ScalarType::Float, columns, score), static_cast<int32_t*>(partial.data_ptr())};
  int32_t* const equal_partial = a.partial + blocks * columns;
  over_tiles(rows, columns, [&](const cpu::Tile& tile, int64_t at) {
    cpu::count_above(a, tile, a.partial + at, equal_partial + at);
  });
  const auto total = [&](const int32_t* counts) {
    Tensor sums = torch::stable::new_empty(score, {columns}, ScalarType::Long);
    int64_t* const sum = static_cast<int64_t*>(sums.data_ptr());
    std::fill_n(sum, columns, 0);
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t c = 0; c < columns; ++c) sum[c] += counts[b * columns + c];
    return sums;
  };
  return {total(a.partial), total(equal_partial)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mealrec, CPU, library) {
  Operations<Cpu>::declare(library);
  library.impl("softmax_terms_", TORCH_BOX(&softmax_terms));
  library.impl("count_above", TORCH_BOX(&count_above));
}

}  // namespace mealrec
