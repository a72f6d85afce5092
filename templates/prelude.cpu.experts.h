// The plan of an expert layer: which rows each expert has, and which token each row belongs to.
//
// One row of i32: [0] active experts A; [1 + 3a …] expert, first row and rows of the a-th, experts in increasing order;
// [1 + 3E + row] slot t · k + j of a sorted row. Every expert's first row is a multiple of 16.
#pragma once

#include "prelude.cpu.h"

namespace ingot {

struct ExpertRows {
  int64_t expert, begin, count;
};

template <int64_t kExperts>
struct ExpertPlan {
  const int32_t* numbers;

  int64_t active() const { return numbers[0]; }
  ExpertRows rows_of(int64_t a) const {
    const int32_t* rows = numbers + 1 + 3 * a;
    return {rows[0], rows[1], rows[2]};
  }
  int64_t slot(int64_t row) const { return numbers[1 + 3 * kExperts + row]; }
};

}  // namespace ingot
