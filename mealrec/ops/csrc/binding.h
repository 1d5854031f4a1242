// From tensors to the arguments of an operation, with checks of what would crash a kernel. PyTorch's stable ABI: few
// headers, and a library that works with later PyTorch releases too.
#pragma once

#include <optional>
#include <tuple>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "arguments.h"

namespace mealrec {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline Shape shape_of(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 2, "expected [rows, columns]");
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16, "expected float32 or bfloat16");
  return {x.size(0), x.size(1), type == ScalarType::Float ? Dtype::float32 : Dtype::bfloat16};
}

inline Rows any_rows_of(const Tensor& x, const Tensor& like) {
  STD_TORCH_CHECK(x.dim() == 2 && x.size(1) == like.size(1), "widths differ");
  STD_TORCH_CHECK(x.scalar_type() == like.scalar_type(), "dtypes differ");
  STD_TORCH_CHECK(x.get_device() == like.get_device() && x.is_cuda() == like.is_cuda(), "devices differ");
  STD_TORCH_CHECK(x.size(1) <= 1 || x.stride(1) == 1, "the last dimension is not contiguous");
  return {x.data_ptr(), x.stride(0)};
}

inline Rows rows_of(const Tensor& x, const Tensor& like) {
  STD_TORCH_CHECK(x.size(0) == like.size(0), "numbers of rows differ");
  return any_rows_of(x, like);
}

inline Rows rows_of(const OptionalTensor& x, const Tensor& like) { return x ? rows_of(*x, like) : Rows{nullptr, 0}; }

template <class T>
inline const T* dense(const Tensor& x, ScalarType type, int64_t size, const Tensor& like) {
  STD_TORCH_CHECK(x.scalar_type() == type, "a field has the wrong dtype");
  STD_TORCH_CHECK(x.numel() == size && x.is_contiguous(), "a field has the wrong size or is not contiguous");
  STD_TORCH_CHECK(x.get_device() == like.get_device() && x.is_cuda() == like.is_cuda(), "devices differ");
  return static_cast<const T*>(x.data_ptr());
}

inline IndexedRows rows_of(const Tensor& x, const OptionalTensor& row, const Tensor& like) {
  if (!row) return {rows_of(x, like), nullptr, x.size(0)};
  return {any_rows_of(x, like), dense<int64_t>(*row, ScalarType::Long, like.size(0), like), x.size(0)};
}

inline const int64_t* steps_of(const Tensor& t, const Tensor& like) {
  return dense<int64_t>(t, ScalarType::Long, like.size(0), like);
}

inline const float* table_of(const Tensor& table, const Tensor& like) {
  return dense<float>(table, ScalarType::Float, table.numel(), like);
}

inline const bool* mask_of(const OptionalTensor& mask, const Tensor& like) {
  return mask ? dense<bool>(*mask, ScalarType::Bool, like.size(0), like) : nullptr;
}

inline Counters counters_of(const Tensor& seed, const Tensor& step, const Tensor& sample_id, const Tensor& row, int64_t stream) {
  return {dense<int64_t>(seed, ScalarType::Long, 1, row), dense<int64_t>(step, ScalarType::Long, 1, row),
          dense<int64_t>(sample_id, ScalarType::Long, row.numel(), row),
          dense<int64_t>(row, ScalarType::Long, row.numel(), row), uint32_t(stream)};
}

inline Tensor empty_rows(const Tensor& like) {
  return torch::stable::new_empty(like, {like.size(0), like.size(1)});
}

inline Tensor empty_rows(const Tensor& x, const OptionalTensor& row) {
  STD_TORCH_CHECK(x.dim() == 2, "expected [rows, columns]");
  return torch::stable::new_empty(x, {row ? row->numel() : x.size(0), x.size(1)});
}

inline QSample q_sample_arguments(const Tensor& x0, const OptionalTensor& x0_row, const Tensor& signal, const Tensor& noise,
                                  const OptionalTensor& mask, const Counters& counters, Tensor& out) {
  QSample a{};
  a.shape = shape_of(out);
  a.x0 = rows_of(x0, x0_row, out);
  a.out = out.data_ptr();
  a.signal = table_of(signal, out);
  a.noise = table_of(noise, out);
  a.steps = uint32_t(signal.numel() - 1);
  a.group = 1;
  a.mask = mask_of(mask, out);
  a.counters = counters;
  return a;
}

// The operations, once, over a backend that has a static member function for each.
template <class Backend>
struct Operations {
  static Tensor q_sample(Tensor x0, OptionalTensor x0_row, Tensor t, Tensor signal, Tensor noise, OptionalTensor mask,
                         Tensor seed, Tensor step, Tensor sample_id, Tensor row, int64_t stream) {
    Tensor out = empty_rows(x0, x0_row);
    QSample a = q_sample_arguments(x0, x0_row, signal, noise, mask, counters_of(seed, step, sample_id, row, stream), out);
    a.t = steps_of(t, out);
    Backend::q_sample(a, out);
    return out;
  }

  static std::tuple<Tensor, Tensor> q_sample_drawn(Tensor x0, OptionalTensor x0_row, Tensor signal, Tensor noise,
                                                   OptionalTensor mask, Tensor seed, Tensor step, Tensor sample_id,
                                                   Tensor row, int64_t stream, int64_t step_stream, int64_t group) {
    Tensor out = empty_rows(x0, x0_row), t = torch::stable::new_empty(row, {row.numel()});
    QSample a = q_sample_arguments(x0, x0_row, signal, noise, mask, counters_of(seed, step, sample_id, row, stream), out);
    a.drawn = static_cast<int64_t*>(t.data_ptr());
    a.step_stream = uint32_t(step_stream);
    a.group = uint32_t(group);
    Backend::q_sample(a, out);
    return {out, t};
  }

  static Tensor scale_rows(Tensor x, Tensor t, Tensor scale, OptionalTensor mask) {
    Tensor out = empty_rows(x);
    Backend::scale_rows({shape_of(x), rows_of(x, x), out.data_ptr(), steps_of(t, x), table_of(scale, x), mask_of(mask, x)}, x);
    return out;
  }

  static Tensor reverse_step(Tensor x, Tensor x0hat, OptionalTensor null, Tensor t, Tensor t_prev, Tensor abar,
                             double guidance, double eta, bool ddpm, OptionalTensor mask, Tensor seed, Tensor step,
                             Tensor sample_id, Tensor row, int64_t stream) {
    Tensor out = empty_rows(x);
    Backend::reverse_step({shape_of(x), rows_of(x, x), rows_of(x0hat, x), rows_of(null, x), out.data_ptr(), steps_of(t, x),
                           steps_of(t_prev, x), table_of(abar, x), float(guidance), float(eta), ddpm, mask_of(mask, x),
                           counters_of(seed, step, sample_id, row, stream)},
                          x);
    return out;
  }

  static Tensor diffusion_loss(Tensor prediction, Tensor target, OptionalTensor target_row, OptionalTensor mask) {
    const Shape shape = shape_of(prediction);
    Tensor loss = torch::stable::new_empty(prediction, {}, ScalarType::Float);
    Tensor partial = torch::stable::new_empty(prediction, {Backend::loss_blocks(shape)}, ScalarType::Float);
    Backend::diffusion_loss({shape, rows_of(prediction, prediction), rows_of(target, target_row, prediction),
                             static_cast<float*>(loss.data_ptr()), static_cast<float*>(partial.data_ptr()),
                             mask_of(mask, prediction)},
                            prediction);
    return loss;
  }

  static Tensor diffusion_loss_gradient(Tensor prediction, Tensor target, OptionalTensor target_row, OptionalTensor mask,
                                        Tensor grad) {
    Tensor out = empty_rows(prediction);
    Backend::diffusion_loss_gradient({shape_of(prediction), rows_of(prediction, prediction),
                                      rows_of(target, target_row, prediction), out.data_ptr(),
                                      dense<float>(grad, ScalarType::Float, 1, prediction), mask_of(mask, prediction)},
                                     prediction);
    return out;
  }

  static Tensor dropout(Tensor x, OptionalTensor residual, double p, Tensor seed, Tensor step, Tensor sample_id, Tensor row,
                        int64_t stream) {
    Tensor out = empty_rows(x);
    const uint32_t threshold = uint32_t(p * 4294967296.0 + 0.5);
    Backend::dropout({shape_of(x), rows_of(x, x), rows_of(residual, x), out.data_ptr(), threshold, float(1.0 / (1.0 - p)),
                      counters_of(seed, step, sample_id, row, stream)},
                     x);
    return out;
  }

  static Tensor words(Tensor seed, Tensor step, Tensor sample_id, Tensor row, int64_t columns, int64_t stream) {
    Tensor out = torch::stable::new_empty(row, {row.numel(), columns});
    Backend::draw({row.numel(), columns, static_cast<int64_t*>(out.data_ptr()), nullptr,
                   counters_of(seed, step, sample_id, row, stream)},
                  row);
    return out;
  }

  static Tensor normal(Tensor seed, Tensor step, Tensor sample_id, Tensor row, int64_t columns, int64_t stream) {
    Tensor out = torch::stable::new_empty(row, {row.numel(), columns}, ScalarType::Float);
    Backend::draw({row.numel(), columns, nullptr, static_cast<float*>(out.data_ptr()),
                   counters_of(seed, step, sample_id, row, stream)},
                  row);
    return out;
  }

  template <class Library>
  static void declare(Library& library) {
    library.impl("q_sample", TORCH_BOX(&Operations::q_sample));
    library.impl("q_sample_drawn", TORCH_BOX(&Operations::q_sample_drawn));
    library.impl("scale_rows", TORCH_BOX(&Operations::scale_rows));
    library.impl("reverse_step", TORCH_BOX(&Operations::reverse_step));
    library.impl("diffusion_loss", TORCH_BOX(&Operations::diffusion_loss));
    library.impl("diffusion_loss_gradient", TORCH_BOX(&Operations::diffusion_loss_gradient));
    library.impl("dropout", TORCH_BOX(&Operations::dropout));
    library.impl("words", TORCH_BOX(&Operations::words));
    library.impl("normal", TORCH_BOX(&Operations::normal));
  }
};

}  // namespace mealrec
