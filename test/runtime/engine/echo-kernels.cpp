// A "model" of four kernels that makes every path through an engine visible: arena rows, tiles, weights, KV cache, arrays.
#include <stdint.h>
#include <string.h>

struct IngotLaunch {
  void* const* args;
  const int32_t* dims;
  void* scratch;
};

enum { kCols = 40, kBlockSize = 16, kBlockBytes = 4096 };

extern "C" {

extern const uint32_t ingot_abi;
const uint32_t ingot_abi = 1;

// token_ids, table (weights, f32 (100, 40)), hidden (T, 40) f32: rows of the table.
void embedding(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const int32_t* ids = (const int32_t*)launch->args[0];
  const float* table = (const float*)launch->args[1];
  float* out = (float*)launch->args[2];
  for (int64_t t = begin; t < end; ++t) memcpy(out + t * kCols, table + ids[t] * kCols, kCols * sizeof(float));
}

// hidden (T, 40), out tile16x32 bf16 of (T, 40): the truncated values.
void to_tiles(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const float* x = (const float*)launch->args[0];
  uint16_t* out = (uint16_t*)launch->args[1];
  for (int64_t t = begin; t < end; ++t) {
    for (int64_t c = 0; c < 64; ++c) {
      uint32_t bits = 0;
      if (c < kCols) memcpy(&bits, x + t * kCols + c, 4);
      out[(((t / 16) * 2 + c / 32) * 16 + t % 16) * 32 + c % 32] = (uint16_t)(bits >> 16);
    }
  }
}

// token_ids, kv (one layer), positions, seq_ids, block_tables, seen (T, 40) f32: stores the id in the token's slot, then gives
// the sum of the ids of its sequence up to its position, read back from the cache, in every column.
void attend(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const int32_t* ids = (const int32_t*)launch->args[0];
  char* kv = (char*)launch->args[1];
  const int32_t* positions = (const int32_t*)launch->args[2];
  const int32_t* seqs = (const int32_t*)launch->args[3];
  const int32_t* tables = (const int32_t*)launch->args[4];
  float* out = (float*)launch->args[5];
  const int32_t p = launch->dims[3];
  for (int64_t t = begin; t < end; ++t) {
    float sum = 0;
    for (int32_t i = 0; i <= positions[t]; ++i) {
      int32_t* slots = (int32_t*)(kv + (int64_t)tables[seqs[t] * p + i / kBlockSize] * kBlockBytes);
      if (i == positions[t]) slots[i % kBlockSize] = ids[t];
      sum += (float)slots[i % kBlockSize];
    }
    for (int c = 0; c < kCols; ++c) out[t * kCols + c] = sum;
  }
}

// seen, sample_rows, sample_floats, sampled_ids, sampled_logprobs, top_ids, top_logprobs.
void pick(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const float* seen = (const float*)launch->args[0];
  const int32_t* rows = (const int32_t*)launch->args[1];
  const float* floats = (const float*)launch->args[2];
  for (int64_t s = begin; s < end; ++s) {
    ((int32_t*)launch->args[3])[s] = (int32_t)seen[rows[s] * kCols];
    ((float*)launch->args[4])[s] = floats[s * 8];
    for (int k = 0; k < 20; ++k) {
      ((int32_t*)launch->args[5])[s * 20 + k] = (int32_t)s * 100 + k;
      ((float*)launch->args[6])[s * 20 + k] = -(float)k;
    }
  }
}

}
