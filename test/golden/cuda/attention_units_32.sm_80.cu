// attention_units_32
// Cuts the attention of a step into units: some tokens of one sequence, beside each other, and some chunks of the positions they see.
// Cuts stand at multiples of 32 tokens and where another sequence begins; in steps of fewer than 32 tokens the chunks of a lone token are
// units of their own. A chunk has 256 positions, or twice as many as often as that leaves more than 32 chunks.
// plan: number of units | of each: first token, tokens, first chunk, chunks, which of the token's units it is, and of how many; in the order of
// tokens.
//
// Grid: one block; its threads take 256 tokens at a time.
#include "prelude.cuda.h"

namespace ingot {
namespace {

constexpr int kThreads = 256;
constexpr int kTileTokens = 32;

// The sum of x over the threads before this one, and over all.
INGOT_DEVICE int sum_before(int x, int* total) {
  INGOT_SHARED(int, parts, kThreads / 32);
  int sum = x;  // of this warp's lanes up to this one
  INGOT_UNROLL for (int offset = 1; offset < 32; offset *= 2) {
    const int other = shuffle(sum, max_of(0, lane_id() - offset));
    if (lane_id() >= offset) sum += other;
  }
  sync_block();  // parts may still be read from the call before
  if (lane_id() == 31) parts[warp_id()] = sum;
  sync_block();
  int before = 0, all = 0;
  INGOT_UNROLL for (int warp = 0; warp < kThreads / 32; ++warp) {
    before += warp < warp_id() ? parts[warp] : 0;
    all += parts[warp];
  }
  *total = all;
  return before + sum - x;
}

}  // namespace

INGOT_KERNEL(256, 1) attention_units_32(
    const int32_t* positions,  // (T)
    const int32_t* seq_ids,  // (T)
    int32_t* plan,  // (n) i32
    const int32_t* num_rows  // rows of this step
) {
  wait_for_inputs();
  const int rows = *num_rows;
  int done = 0;
  for (int token0 = 0; token0 < rows; token0 += kThreads) {
    const int token = token0 + thread_id();
    int units = 0, tokens = 0, first = 0, chunks = 0;
    if (token < rows && (token % kTileTokens == 0 || seq_ids[token] != seq_ids[token - 1])) {
      tokens = 1;
      while (token + tokens < rows && (token + tokens) % kTileTokens != 0 && seq_ids[token + tokens] == seq_ids[token]) ++tokens;
      const int position = positions[token];
      const int begin = 0;
      int size = 256;
      while (size * 32 < position + 1 - begin) size *= 2;
      first = begin / size;
      chunks = position / size + 1 - first;
      units = rows < 32 && tokens == 1 ? chunks : 1;
    }
    int total;
    const int before = done + sum_before(units, &total);
    for (int unit = 0; unit < units; ++unit) {
      int32_t* numbers = plan + 1 + 6 * (before + unit);
      numbers[0] = token;
      numbers[1] = tokens;
      numbers[2] = first + unit;
      numbers[3] = units == 1 ? chunks : 1;
      numbers[4] = unit;
      numbers[5] = units;
    }
    done += total;
  }
  if (thread_id() == 0) plan[0] = done;
}

}  // namespace ingot
