// sample_151936: draws one token from each row of logits.
//
//   l = logits + bias;  l = l > 0 ? l / r : l · r for tokens seen;  l −= frequency · count + presence · [count > 0]
//   temperature < 1e-5: argmax l, the first of equals
//   else e = exp((l − max l) / temperature), kept where e ≥ min_p, then among the top_k largest l, then among the largest l
//   whose mass before them is below top_p of what is left; draws i with probability e_i / Σ e. Equal logits share one fate.
//   logprob = l − log Σ exp l: the model's own distribution, before temperature and cuts.
//
// Masses are whole numbers, e · 2³⁰, so that their sums do not depend on an order. Cuts are found digit by digit, by sums of masses over
// 1024 digits: of a logit's distance to the largest first, over which rows of any scale spread, then of its bits.
//
// Grid: a block of 1024 threads is one row of logits (151936), which it overwrites, and owns its row of every output. A row is read once for
// its largest, once for the draw, and for each of two cuts twice where logits differ, five times at most. Expected of 256 rows of 152,000,
// two after another on a multiprocessor: 70 µs, and 220 µs with both cuts, at 4.3 TB/s; a pass adds to 1,024 sums without meeting on few.
// A row with a NaN or +∞, or with every token banned, gives id −1.
#include "prelude.cuda.h"

namespace ingot {
namespace {

constexpr int kThreads = 1024;
constexpr int kVocab = 151936;
constexpr int kSegment = kThreads;  // tokens whose mass is summed by one warp
constexpr int kSegments = (kVocab + kSegment - 1) / kSegment;
static_assert(kSegments <= kThreads, "a thread chooses among segments");
constexpr int kDigits = kThreads;
constexpr int kFraction = 6;  // bits of a distance's significand in its digit
constexpr int kBatch = 8;     // logits that a thread has on their way
constexpr int kMaxLogprobs = 20;

// Columns of sample_floats and sample_ints; see runtime/batch.ts.
enum { kTemperature, kTopP, kMinP, kRepetition, kPresence, kFrequency, kFloats = 8 };
enum { kTopK, kSeedLow, kSeedHigh, kCounter, kNumLogprobs, kTokensBegin, kTokensEnd, kBiasBegin, kBiasEnd, kInts = 12 };

// A logit and its token; the larger logit is better, of equals the lower token.
struct Best {
  float logit;
  int token;

  INGOT_DEVICE void take(float other, int other_token) {
    if (other > logit || (other == logit && other_token < token)) {
      logit = other;
      token = other_token;
    }
  }
};

// The best of a block's, known to all of its threads.
INGOT_DEVICE Best best_of_block(Best best) {
  INGOT_SHARED(float, logits, 32);
  INGOT_SHARED(int, tokens, 32);
  INGOT_UNROLL for (int offset = 16; offset > 0; offset /= 2) {
    const float logit = shuffle_xor(best.logit, offset);
    best.take(logit, shuffle_xor(best.token, offset));
  }
  sync_block();  // both may still be read from the call before
  if (lane_id() == 0) {
    logits[warp_id()] = best.logit;
    tokens[warp_id()] = best.token;
  }
  sync_block();
  best = {logits[0], tokens[0]};
  for (int warp = 1; warp < kThreads / 32; ++warp) best.take(logits[warp], tokens[warp]);
  return best;
}

// Calls each(token, logit) for a thread's tokens, in order.
template <class Each>
INGOT_DEVICE void for_each_logit(const float* row, const Each& each) {
  for (int first = thread_id(); first < kVocab; first += kBatch * kThreads) {
    float batch[kBatch];
    INGOT_UNROLL for (int i = 0; i < kBatch; ++i) {
      const int token = first + i * kThreads;
      batch[i] = token < kVocab ? row[token] : 0.0f;
    }
    INGOT_UNROLL for (int i = 0; i < kBatch; ++i) {
      const int token = first + i * kThreads;
      if (token < kVocab) each(token, batch[i]);
    }
  }
}

// The sum of kThreads numbers, and of those before a thread's own.
struct RunningSum {
  uint64_t before, own, total;
};
INGOT_DEVICE RunningSum running_sum(const uint64_t* numbers) {
  INGOT_SHARED(uint64_t, sums, kThreads / 32);
  RunningSum sum = {0, numbers[thread_id()], 0};
  uint64_t of_warp = 0;
  INGOT_UNROLL_BY(8) for (int lane = 0; lane < 32; ++lane) {
    const uint64_t number = numbers[warp_id() * 32 + lane];
    of_warp += number;
    if (lane < lane_id()) sum.before += number;
  }
  if (lane_id() == 0) sums[warp_id()] = of_warp;
  sync_block();
  INGOT_UNROLL_BY(8) for (int warp = 0; warp < kThreads / 32; ++warp) {
    sum.total += sums[warp];
    if (warp < warp_id()) sum.before += sums[warp];
  }
  return sum;
}

// The number at which the running sum comes to `target`, from 1 to the total: where it stands, the sum before it, and itself.
struct Place {
  int index;
  uint64_t before, own;
};
INGOT_DEVICE Place place_of(uint64_t target, const RunningSum& sum) {
  INGOT_SHARED(int, index, 1);
  INGOT_SHARED(uint64_t, before, 1);
  INGOT_SHARED(uint64_t, own, 1);
  if (sum.before < target && target <= sum.before + sum.own) {
    index[0] = thread_id();
    before[0] = sum.before;
    own[0] = sum.own;
  }
  sync_block();
  return {index[0], before[0], own[0]};
}

// Floats in the order of whole numbers, and back; −0 is 0.
INGOT_DEVICE uint32_t key_of(float x) {
  const uint32_t bits = bits_of(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
INGOT_DEVICE float logit_of(uint32_t key) { return float_of(key & 0x80000000u ? key ^ 0x80000000u : ~key); }

// The digit of a logit's distance to the largest: its exponent from 2⁻⁶ to 2⁹ and the first bits of its significand; what is nearer is the
// first digit's, what is farther the last's.
INGOT_DEVICE int digit_of(float distance) {
  const int digit = int(bits_of(absolute(distance)) >> (23 - kFraction)) - ((127 - 6) << kFraction);  // −0 is 0
  return min_of(max_of(digit, 0), kDigits - 1);
}

// The smallest key of a logit whose digit is `digit` or less; one more than the largest's of −1.
INGOT_DEVICE uint32_t smallest_key(float largest, int digit) {
  uint32_t low = key_of(-infinity()), high = key_of(largest) + 1;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (digit_of(largest - logit_of(middle)) <= digit) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// What a token weighs: nothing below the cuts that were made.
struct Masses {
  float largest, scale, floor;
  uint32_t cut;  // the smallest key that is kept

  INGOT_DEVICE uint32_t of(float l) const {
    const float e = exp((l - largest) * scale);
    return key_of(l) >= cut && e >= floor ? uint32_t(e * 1073741824.0f + 0.5f) : 0u;
  }
};

// The key from which on logits are kept that are taken from the largest down until their weights reach target(all weights), or to the last
// of them. Of two logits the larger weighs as much at least; `numbers` are kDigits.
template <class Weight, class Target>
INGOT_DEVICE uint32_t cutoff(const float* row, float largest, uint64_t* numbers, const Weight& weight, const Target& target) {
  INGOT_SHARED(uint32_t, bounds, 2);
  uint32_t low = key_of(-infinity()), high = key_of(largest);  // what is left to choose from
  uint64_t wanted = 0;                                         // of that
  // Larger logits have smaller digits.
  const auto choose = [&](bool is_first, const auto& digit) {
    numbers[thread_id()] = 0;
    sync_block();
    for_each_logit(row, [&](int, float l) {
      const uint32_t key = key_of(l);
      const uint32_t w = low <= key && key <= high ? weight(l) : 0;
      if (w > 0) atomic_add(&numbers[digit(l, key)], w);
    });
    sync_block();
    const RunningSum sum = running_sum(numbers);
    if (is_first) {
      wanted = target(sum.total);
      if (wanted > sum.total) wanted = sum.total;
    }
    const Place place = place_of(wanted, sum);
    wanted -= place.before;
    return place;
  };
  Place place = choose(true, [&](float l, uint32_t) { return digit_of(largest - l); });
  if (thread_id() < 2) bounds[thread_id()] = smallest_key(largest, place.index - thread_id());
  sync_block();
  low = bounds[0];
  high = bounds[1] - 1;
  // Until it is one key, or a logit alone: two would weigh twice the least, within what exponentials are rounded by.
  while (low < high && 2 * place.own >= 3 * uint64_t(weight(logit_of(low)))) {
    int shift = 0;
    while ((high - low) >> shift >= kDigits) ++shift;
    place = choose(false, [&](float, uint32_t key) { return int((high - key) >> shift); });
    high -= uint32_t(place.index) << shift;
    const uint32_t last = (1u << shift) - 1;
    if (high - low > last) low = high - last;
  }
  return low;
}

// The masses of the segments, in the first of kThreads numbers; zeros behind them.
INGOT_DEVICE void sum_segments(const float* row, const Masses& masses, uint64_t* numbers) {
  if (thread_id() >= kSegments) numbers[thread_id()] = 0;
  for (int segment = warp_id(); segment < kSegments; segment += kThreads / 32) {
    uint32_t low = 0, high = 0;  // thirty-two lanes' sums of 2³⁰ and less: in halves of sixteen bits
    INGOT_UNROLL_BY(8) for (int i = segment * kSegment + lane_id(); i < min_of((segment + 1) * kSegment, kVocab); i += 32) {
      const uint32_t mass = masses.of(row[i]);
      low += mass & 0xffffu;
      high += mass >> 16;
    }
    INGOT_UNROLL for (int offset = 16; offset > 0; offset /= 2) {
      low += uint32_t(shuffle_xor(int(low), offset));
      high += uint32_t(shuffle_xor(int(high), offset));
    }
    if (lane_id() == 0) numbers[segment] = low + (uint64_t(high) << 16);
  }
  sync_block();
}

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): a number in [0, 1) with 53 bits that
// depends on seed and counter alone.
INGOT_DEVICE double uniform(uint32_t seed_low, uint32_t seed_high, uint32_t counter) {
  uint32_t c0 = counter, c1 = 0, c2 = 0, c3 = 0;
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t(0xD2511F53u) * c0;
    const uint64_t b = uint64_t(0xCD9E8D57u) * c2;
    c0 = uint32_t(b >> 32) ^ c1 ^ seed_low;
    c1 = uint32_t(b);
    c2 = uint32_t(a >> 32) ^ c3 ^ seed_high;
    c3 = uint32_t(a);
    seed_low += 0x9E3779B9u;
    seed_high += 0xBB67AE85u;
  }
  return (double(c0 >> 5) * 67108864.0 + double(c1 >> 6)) / 9007199254740992.0;
}

// The token at which the running sum of masses passes a share `u` of all of it, below 1.
INGOT_DEVICE int pick(const float* row, const Masses& masses, uint64_t* numbers, double u) {
  sum_segments(row, masses, numbers);
  const RunningSum of_segments = running_sum(numbers);
  const uint64_t target = uint64_t(u * double(of_segments.total)) + 1;
  const Place segment = place_of(target, of_segments);
  const int token = segment.index * kSegment + thread_id();
  numbers[thread_id()] = token < kVocab ? masses.of(row[token]) : 0;
  sync_block();
  return segment.index * kSegment + place_of(target - segment.before, running_sum(numbers)).index;
}

INGOT_DEVICE void apply_penalties(float* row, const float* floats, const int32_t* ints, const int32_t* tokens) {
  for (int t = ints[kBiasBegin] + thread_id(); t < ints[kBiasEnd]; t += kThreads) row[tokens[2 * t]] += float_of(uint32_t(tokens[2 * t + 1]));
  sync_block();
  const float r = floats[kRepetition];
  for (int t = ints[kTokensBegin] + thread_id(); t < ints[kTokensEnd]; t += kThreads) {
    const float count = float(tokens[2 * t + 1]);
    float l = row[tokens[2 * t]];
    if (r != 1.0f) l = l > 0.0f ? l / r : l * r;
    row[tokens[2 * t]] = l - (floats[kFrequency] * count + (count > 0.0f ? floats[kPresence] : 0.0f));
  }
  sync_block();
}

}  // namespace

INGOT_KERNEL(1024, 1) sample_151936(
    float* logits,  // (rows, 151936) f32
    const float* sample_floats,  // (S, 8)
    const int32_t* sample_ints,  // (S, 12)
    const int32_t* sample_tokens,  // (n, 2)
    int32_t* sampled_ids,  // (S)
    float* sampled_logprobs,  // (S)
    int32_t* top_ids,  // (S, 20)
    float* top_logprobs,  // (S, 20)
    const int32_t* num_rows  // rows of this step
) {
  INGOT_SHARED(uint64_t, numbers, kThreads);
  wait_for_inputs();
  const int s = block_id();
  if (s >= *num_rows) return;
  float* row = logits + int64_t(s) * kVocab;
  const float* floats = sample_floats + s * kFloats;
  const int32_t* ints = sample_ints + s * kInts;
  for (int i = thread_id(); i < kMaxLogprobs; i += kThreads) {
    top_ids[s * kMaxLogprobs + i] = -1;
    top_logprobs[s * kMaxLogprobs + i] = float_of(0x7fc00000u);
  }
  apply_penalties(row, floats, ints, sample_tokens);

  Best best = {-infinity(), kVocab};
  float bad = 0.0f;
  for_each_logit(row, [&](int token, float l) {
    if (l != l || l == infinity()) bad = 1.0f;
    best.take(l, token);
  });
  best = best_of_block(best);
  const bool is_usable = block_max<kThreads>(bad) == 0.0f && best.logit > -infinity();
  const float temperature = floats[kTemperature];
  if (is_usable && temperature >= 1e-5f) {
    Masses masses = {best.logit, 1.0f / temperature, floats[kMinP], 0};
    if (ints[kTopK] > 0 && ints[kTopK] < kVocab) {
      const auto weight = [](float l) { return l > -infinity() ? 1u : 0u; };
      masses.cut = cutoff(row, best.logit, numbers, weight, [&](uint64_t) { return uint64_t(ints[kTopK]); });
    }
    if (floats[kTopP] < 1.0f) {
      const auto target = [&](uint64_t total) {
        const double wanted = double(floats[kTopP]) * double(total);
        return uint64_t(wanted) + (double(uint64_t(wanted)) < wanted ? 1 : 0);
      };
      masses.cut = cutoff(row, best.logit, numbers, [&](float l) { return masses.of(l); }, target);
    }
    best.token = pick(row, masses, numbers, uniform(uint32_t(ints[kSeedLow]), uint32_t(ints[kSeedHigh]), uint32_t(ints[kCounter])));
  }
  if (thread_id() == 0) {
    sampled_ids[s] = is_usable ? best.token : -1;
    sampled_logprobs[s] = float_of(0x7fc00000u);
  }
  if (!is_usable || ints[kNumLogprobs] < 1) return;

  float sum = 0.0f;
  for_each_logit(row, [&](int, float l) { sum += exp(l - best.logit); });
  const float log_sum = log(block_sum<kThreads>(sum)) + best.logit;
  if (thread_id() == 0) sampled_logprobs[s] = row[best.token] - log_sum;
  Best last = {infinity(), -1};
  for (int n = 0; n < min_of(ints[kNumLogprobs] - 1, kMaxLogprobs); ++n) {
    Best next = {-infinity(), kVocab};
    for_each_logit(row, [&](int token, float l) {
      if (l < last.logit || (l == last.logit && token > last.token)) next.take(l, token);
    });
    last = best_of_block(next);
    if (last.logit == -infinity()) return;
    if (thread_id() == 0) {
      top_ids[s * kMaxLogprobs + n] = last.token;
      top_logprobs[s * kMaxLogprobs + n] = last.logit - log_sum;
    }
  }
}

}  // namespace ingot
