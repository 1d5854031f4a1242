// The arguments of each operation: plain pointers and numbers, for the CPU and for CUDA.
//
// Rows are `columns` long and `stride` elements apart; outputs are dense. Tables have T + 1 entries, entry
// t + 1 belonging to step t, so that step -1 is entry 0.
#pragma once

#include <cstdint>

namespace mealrec {

enum class Dtype { float32, bfloat16 };

struct Rows {
  const void* data;  // null where an optional input is missing
  int64_t stride;
};

// Row r is the row `row[r]` of `count` rows, or the row r where `row` is null.
struct IndexedRows : Rows {
  const int64_t* row;
  int64_t count;
};

struct Shape {
  int64_t rows, columns;
  Dtype dtype;
};

// Key and counters of random numbers. Seed and step are read on the device, so that a captured graph follows them.
struct Counters {
  const int64_t* seed;
  const int64_t* step;
  const int64_t* sample_id;  // [rows]
  const int64_t* row;        // [rows]
  uint32_t stream;
};

struct QSample {
  Shape shape;
  IndexedRows x0;
  void* out;
  const int64_t* t;     // [rows], or null: drawn at the first row of each `group`
  int64_t* drawn;       // [rows], where drawn steps are written
  uint32_t step_stream, steps, group;
  const float* signal;  // sqrt(abar)
  const float* noise;   // sqrt(1 - abar)
  const bool* mask;     // [rows] or null; rows that are off become zero
  Counters counters;
};

struct ScaleRows {
  Shape shape;
  Rows x;
  void* out;
  const int64_t* t;    // [rows]
  const float* scale;  // a table
  const bool* mask;
};

struct ReverseStep {
  Shape shape;
  Rows x, x0hat, null;
  void* out;
  const int64_t* t;       // [rows]
  const int64_t* t_prev;  // [rows], -1 ends the chain
  const float* abar;
  float guidance, eta;
  bool ddpm;
  const bool* mask;
  Counters counters;
};

struct DiffusionLoss {
  Shape shape;
  Rows prediction;
  IndexedRows target;
  float* loss;
  float* partial;    // one per block
  const bool* mask;  // or null
};

struct DiffusionLossGradient {
  Shape shape;
  Rows prediction;
  IndexedRows target;
  void* out;
  const float* grad;  // of the loss
  const bool* mask;
};

struct Dropout {
  Shape shape;
  Rows x, residual;
  void* out;
  uint32_t threshold;  // words below it are dropped
  float scale;
  Counters counters;
};

struct SoftmaxTerms {
  int64_t rows, columns;
  float* logits;         // [rows, columns], becomes exp(logit + bias - highest)
  const float* score;    // [columns], the logit that is in no row
  const int64_t* own;    // [columns], the row that is left out, negative where none is
  const float* bias;     // [rows] or null
  float* highest;        // [columns]
  float* rest;           // [columns], the sums
  float* partial;        // [blocks of rows, columns]
};

struct CountAbove {
  int64_t rows, columns;
  const float* score;  // [rows, columns]
  const float* own;    // [columns]
  int32_t* partial;    // [2, blocks of rows, columns]: above, equal
};

struct Draw {
  int64_t rows, columns;
  int64_t* words;  // [rows, columns], or null where normals are drawn
  float* normals;  // [rows, columns], or null where words are
  Counters counters;
};

}  // namespace mealrec
