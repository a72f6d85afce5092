// sample_151936: draws one token from each row of logits.
//
//   l = logits + bias;  l = l > 0 ? l / r : l · r for tokens seen;  l −= frequency · count + presence · [count > 0]
//   temperature < 1e-5: argmax l, the first of equals
//   else e = exp((l − max l) / temperature), kept where e ≥ min_p, then among the top_k largest l, then among the largest l
//   whose mass before them is below top_p of what is left; draws i with probability e_i / Σ e. Equal logits share one fate.
//   logprob = l − log Σ exp l: the model's own distribution, before temperature and cuts.
//
// Masses are whole numbers, e · 2³⁰, so that their sums do not depend on an order. Cuts are found digit by digit of the logits' bits.
//
// Grid: a block of 1024 threads is one row of logits (151936), which it overwrites, and owns its row of every output.
// A row with a NaN or +∞, or with every token banned, gives id −1.
#include "prelude.cuda.h"

namespace ingot {
namespace {

constexpr int kThreads = 1024;
constexpr int kVocab = 151936;
constexpr int kSegment = 1024;  // tokens whose mass is summed by one warp
constexpr int kSegments = (kVocab + kSegment - 1) / kSegment;
constexpr int kDigits = 256;
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

// Floats in the order of whole numbers.
INGOT_DEVICE uint32_t key_of(float x) {
  const uint32_t bits = bits_of(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// What a token weighs: nothing below the cuts that were made.
struct Masses {
  const float* row;
  float largest, scale, floor;
  uint32_t cut;  // the smallest key that is kept

  INGOT_DEVICE uint32_t at(int token) const {
    const float l = row[token];
    const float e = exp((l - largest) * scale);
    return key_of(l) >= cut && e >= floor ? uint32_t(e * 1073741824.0f + 0.5f) : 0u;
  }
};

// The smallest key that is kept when keys are taken from the largest down until their weights reach `target`.
template <class Weight>
INGOT_DEVICE uint32_t cutoff(const float* row, uint64_t target, uint64_t* histogram, const Weight& weight) {
  INGOT_SHARED(uint64_t, sums, 1);  // of keys above those that share the digits chosen so far
  INGOT_SHARED(uint32_t, digits, 1);
  uint32_t chosen = 0, mask = 0;
  uint64_t above = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = thread_id(); i < kDigits; i += kThreads) histogram[i] = 0;
    sync_block();
    for (int i = thread_id(); i < kVocab; i += kThreads) {
      const uint32_t key = key_of(row[i]);
      const uint32_t w = (key & mask) == chosen ? weight(i) : 0;
      if (w > 0) atomic_add(&histogram[key >> shift & 255], w);
    }
    sync_block();
    if (thread_id() == 0) {
      int digit = kDigits - 1, last = -1;
      uint64_t sum = above;
      for (; digit >= 0 && sum + histogram[digit] < target; --digit) {
        if (histogram[digit] > 0) last = digit;
        sum += histogram[digit];
      }
      if (digit < 0) {  // less is left than asked for: everything is kept
        digit = max_of(last, 0);
        sum -= histogram[digit];
      }
      sums[0] = sum;
      digits[0] = digit;
    }
    sync_block();
    above = sums[0];
    chosen |= digits[0] << shift;
    mask |= 255u << shift;
  }
  return chosen;
}

// Sums of the segments' masses in `segments`; all of it is returned.
INGOT_DEVICE uint64_t sum_segments(const Masses& masses, uint64_t* segments) {
  for (int segment = warp_id(); segment < kSegments; segment += kThreads / 32) {
    uint32_t low = 0, high = 0;  // thirty-two lanes' sums of 2³⁰ and less: in halves of sixteen bits
    for (int i = segment * kSegment + lane_id(); i < min_of((segment + 1) * kSegment, kVocab); i += 32) {
      const uint32_t mass = masses.at(i);
      low += mass & 0xffffu;
      high += mass >> 16;
    }
    INGOT_UNROLL for (int offset = 16; offset > 0; offset /= 2) {
      low += uint32_t(shuffle_xor(int(low), offset));
      high += uint32_t(shuffle_xor(int(high), offset));
    }
    if (lane_id() == 0) segments[segment] = low + (uint64_t(high) << 16);
  }
  sync_block();
  uint64_t total = 0;
  for (int segment = 0; segment < kSegments; ++segment) total += segments[segment];
  return total;
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

// The token at which the running sum of masses passes `target`, which is below all of it. Called by one thread.
INGOT_DEVICE int pick(const Masses& masses, const uint64_t* segments, uint64_t target) {
  int segment = 0;
  uint64_t below = 0;
  while (segment + 1 < kSegments && below + segments[segment] <= target) below += segments[segment++];
  int chosen = -1;
  for (int i = segment * kSegment; i < min_of((segment + 1) * kSegment, kVocab) && (chosen < 0 || below <= target); ++i) {
    const uint32_t mass = masses.at(i);
    if (mass > 0) chosen = i;
    below += mass;
  }
  return chosen;
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
  INGOT_SHARED(uint64_t, histogram, kDigits);
  INGOT_SHARED(uint64_t, segments, kSegments);
  INGOT_SHARED(int, chosen, 1);
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
  for (int i = thread_id(); i < kVocab; i += kThreads) {
    const float l = row[i];
    if (l != l || l == infinity()) bad = 1.0f;
    best.take(l, i);
  }
  best = best_of_block(best);
  const bool is_usable = block_max<kThreads>(bad) == 0.0f && best.logit > -infinity();
  const float temperature = floats[kTemperature];
  if (is_usable && temperature >= 1e-5f) {
    Masses masses = {row, best.logit, 1.0f / temperature, floats[kMinP], 0};
    if (ints[kTopK] > 0 && ints[kTopK] < kVocab) {
      masses.cut = cutoff(row, uint64_t(ints[kTopK]), histogram, [&](int i) { return row[i] > -infinity() ? 1u : 0u; });
    }
    uint64_t total = sum_segments(masses, segments);
    if (floats[kTopP] < 1.0f) {
      const double wanted = double(floats[kTopP]) * double(total);
      const uint64_t target = uint64_t(wanted) + (double(uint64_t(wanted)) < wanted ? 1 : 0);
      masses.cut = cutoff(row, target, histogram, [&](int i) { return masses.at(i); });
      total = sum_segments(masses, segments);
    }
    if (thread_id() == 0) {
      const double u = uniform(uint32_t(ints[kSeedLow]), uint32_t(ints[kSeedHigh]), uint32_t(ints[kCounter]));
      chosen[0] = pick(masses, segments, uint64_t(u * double(total)));
    }
    sync_block();
    best.token = chosen[0];
  }
  if (thread_id() == 0) {
    sampled_ids[s] = is_usable ? best.token : -1;
    sampled_logprobs[s] = float_of(0x7fc00000u);
  }
  if (!is_usable || ints[kNumLogprobs] < 1) return;

  float sum = 0.0f;
  for (int i = thread_id(); i < kVocab; i += kThreads) sum += exp(row[i] - best.logit);
  const float log_sum = log(block_sum<kThreads>(sum)) + best.logit;
  if (thread_id() == 0) sampled_logprobs[s] = row[best.token] - log_sum;
  Best last = {infinity(), -1};
  for (int n = 0; n < min_of(ints[kNumLogprobs] - 1, kMaxLogprobs); ++n) {
    Best next = {-infinity(), kVocab};
    for (int i = thread_id(); i < kVocab; i += kThreads) {
      if (row[i] < last.logit || (row[i] == last.logit && i > last.token)) next.take(row[i], i);
    }
    last = best_of_block(next);
    if (last.logit == -infinity()) return;
    if (thread_id() == 0) {
      top_ids[s * kMaxLogprobs + n] = last.token;
      top_logprobs[s * kMaxLogprobs + n] = last.logit - log_sum;
    }
  }
}

}  // namespace ingot
