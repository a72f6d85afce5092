// sample_32000: draws one token from each row of logits.
//
//   l = logits + bias;  l = l > 0 ? l / r : l · r for tokens seen;  l −= frequency · count + presence · [count > 0]
//   temperature < 1e-5: argmax l, the first of equals
//   else e = exp((l − max l) / temperature), kept where e ≥ min_p, then among the top_k largest l, then among the largest l
//   whose mass before them is below top_p of what is left; draws i with probability e_i / Σ e. Equal logits share one fate.
//   logprob = l − log Σ exp l: the model's own distribution, before temperature and cuts.
//
// Grid: one unit per sampled row (S); a unit owns its row of logits, which it overwrites, and its row of every output.
// A row with a NaN or +∞, or with every token banned, gives id −1.
//
// args: logits f32 (S, 32000), sample_floats f32 (S, 8), sample_ints i32 (S, 12), sample_tokens i32 (n, 2),
//       sampled_ids i32 (S), sampled_logprobs f32 (S), top_ids i32 (S, 20), top_logprobs f32 (S, 20)
// scratch: 12 · padded + 8 · ⌈padded / 1024⌉ + 4 · ⌈32000 / 64⌉ bytes, where padded is 32000 rounded up to 16
#include "prelude.cpu.vectors.h"

using namespace ingot::vectors;

namespace {
namespace sampling {

enum : int64_t {
  kVocab = 32000,
  kPadded = (kVocab + 15) / 16 * 16,
  kBlock = 1024,  // tokens of one partial sum, and of one round of binning
  kNumBlocks = (kPadded + kBlock - 1) / kBlock,
  kGroup = 64,  // tokens of one partial maximum
  kNumGroups = (kVocab + kGroup - 1) / kGroup,
  kBins = 1024,
  kFew = 32,  // so few candidates are sorted rather than binned
  kMaxLogprobs = 20,
};

// Columns of sample_floats and sample_ints; see runtime/batch.ts.
enum { kTemperature, kTopP, kMinP, kRepetition, kPresence, kFrequency, kFloats = 8 };
enum { kTopK, kSeedLow, kSeedHigh, kCounter, kNumLogprobs, kTokensBegin, kTokensEnd, kBiasBegin, kBiasEnd, kInts = 12 };

// One thread's memory: kPadded floats three times, group maxima, block sums.
struct Scratch {
  float* e;        // (kPadded) unnormalized probabilities, 0 beyond the vocabulary
  float* values;   // (kPadded) candidates' logits
  float* weights;  // (kPadded) candidates' e
  float* maxima;   // (kNumGroups) largest logit of each group
  double* sums;    // (kNumBlocks) sum of e of each block
};

// Largest logit of the row and of each group of 64; false if the row holds a NaN or +∞ or nothing above −∞.
bool find_maxima(const float* row, float* maxima, float* largest) {
  i32v bad = {};
  float best = -INFINITY;
  for (int64_t g = 0; g < kNumGroups; ++g) {
    f32v m = splat(-INFINITY);
    const int64_t begin = g * kGroup;
    const int64_t end = begin + kGroup < kVocab ? begin + kGroup : (int64_t)kVocab;
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      const f32v v = load(row + i);
      bad |= unusable(v);
      m = max_by_lane(v, m);
    }
    if (i < end) {
      const f32v v = load_tail(row + i, end - i, -INFINITY);
      bad |= unusable(v);
      m = max_by_lane(v, m);
    }
    maxima[g] = max_of(m);
    best = maxima[g] > best ? maxima[g] : best;
  }
  *largest = best;
  int32_t any = 0;
  for (int i = 0; i < kLanes; ++i) any |= bad[i];
  return any == 0 && best > -INFINITY;
}

// First token whose logit is `largest`.
int32_t first_of(const float* row, const float* maxima, float largest) {
  int64_t g = 0;
  while (maxima[g] != largest) ++g;
  int64_t i = g * kGroup;
  while (row[i] != largest) ++i;
  return (int32_t)i;
}

// e = exp((l − largest) / temperature), 0 below `floor`; returns Σ e.
double exponentials(const float* row, float largest, float temperature, float floor, const Scratch& s) {
  const float scale = 1.0f / temperature;
  double total = 0;
  for (int64_t b = 0; b < kNumBlocks; ++b) {
    const int64_t begin = b * kBlock;
    const int64_t end = begin + kBlock < kPadded ? begin + kBlock : (int64_t)kPadded;
    f32v sum = {};
    for (int64_t i = begin; i < end; i += kLanes) {
      const f32v l = i + kLanes <= kVocab ? load(row + i) : load_tail(row + i, kVocab - i, -INFINITY);
      f32v e = exp_of((l - largest) * scale);
      e = e >= floor ? e : f32v{};
      store(s.e + i, e);
      sum += e;
    }
    s.sums[b] = sum_of(sum);
    total += s.sums[b];
  }
  return total;
}

// Drops tokens whose logit is below `threshold`; returns the Σ e that is left.
double keep_above(const float* row, float threshold, const Scratch& s) {
  double total = 0;
  for (int64_t b = 0; b < kNumBlocks; ++b) {
    const int64_t begin = b * kBlock;
    const int64_t end = begin + kBlock < kPadded ? begin + kBlock : (int64_t)kPadded;
    f32v sum = {};
    for (int64_t i = begin; i < end; i += kLanes) {
      const f32v l = i + kLanes <= kVocab ? load(row + i) : load_tail(row + i, kVocab - i, -INFINITY);
      const f32v e = l >= threshold ? load(s.e + i) : f32v{};
      store(s.e + i, e);
      sum += e;
    }
    s.sums[b] = sum_of(sum);
    total += s.sums[b];
  }
  return total;
}

// Bins of up to kBlock values by their distance from `high`. One compiled loop for histogram and selection, so that a value
// on a bin's edge falls the same way in both.
__attribute__((noinline)) void bins_of(const float* values, int64_t n, float high, float scale, int32_t* bins) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const f32v v = i + kLanes <= n ? load(values + i) : load_tail(values + i, n - i, high);
    f32v x = (high * 0.5f - v * 0.5f) * scale;
    x = x < (float)(kBins - 1) ? x : splat((float)(kBins - 1));
    const i32v bin = __builtin_convertvector(x, i32v);
    memcpy(bins + i, &bin, sizeof bin);
  }
}

// Sorts `n` few pairs, largest value first.
void sort_few(float* values, float* weights, int64_t n) {
  for (int64_t i = 1; i < n; ++i) {
    const float v = values[i];
    const float w = weights[i];
    int64_t k = i;
    for (; k > 0 && values[k - 1] < v; --k) {
      values[k] = values[k - 1];
      weights[k] = weights[k - 1];
    }
    values[k] = v;
    weights[k] = w;
  }
}

// The smallest value that is kept when values are taken from the largest down until their weights reach `target`:
// min { v : Σ weights of values > v  <  target }. Narrows [low, high] bin by bin, never sorts more than kFew.
// The candidates are overwritten.
float cutoff(float* values, float* weights, int64_t n, double target) {
  double hist[kBins];
  int32_t bins[kBlock];
  double above = 0;  // weights of values larger than all candidates
  for (;;) {
    if (n <= kFew) {
      sort_few(values, weights, n);
      float kept = values[0];
      for (int64_t i = 0; i < n && above < target; ++i) {
        kept = values[i];
        above += weights[i];
      }
      return kept;
    }
    float high = values[0];
    float low = values[0];
    for (int64_t i = 1; i < n; ++i) {
      high = values[i] > high ? values[i] : high;
      low = values[i] < low ? values[i] : low;
    }
    const float scale = (float)kBins / (high * 0.5f - low * 0.5f);
    if (!(scale < 1e30f)) return low;  // all equal, or too close to tell apart
    memset(hist, 0, sizeof hist);
    for (int64_t begin = 0; begin < n; begin += kBlock) {
      const int64_t count = n - begin < kBlock ? n - begin : (int64_t)kBlock;
      bins_of(values + begin, count, high, scale, bins);
      for (int64_t i = 0; i < count; ++i) hist[bins[i]] += weights[begin + i];
    }
    int32_t chosen = 0;
    int32_t last = 0;
    for (; chosen < kBins && above + hist[chosen] < target; ++chosen) {
      if (hist[chosen] > 0) last = chosen;
      above += hist[chosen];
    }
    if (chosen == kBins) {  // rounding left the total below the target: everything is kept
      chosen = last;
      above -= hist[last];
    }
    int64_t kept = 0;
    for (int64_t begin = 0; begin < n; begin += kBlock) {
      const int64_t count = n - begin < kBlock ? n - begin : (int64_t)kBlock;
      bins_of(values + begin, count, high, scale, bins);
      for (int64_t i = 0; i < count; ++i) {
        const float v = values[begin + i];
        const float w = weights[begin + i];
        values[kept] = v;
        weights[kept] = w;
        kept += bins[i] == chosen;
      }
    }
    n = kept;
  }
}

// The k-th largest logit. When there are at least k groups, the k-th largest group maximum is a lower bound of it, and only
// groups that reach the bound are looked at.
float top_k_threshold(const float* row, int64_t k, const Scratch& s) {
  float bound = -INFINITY;
  if (k < kNumGroups) {
    int64_t n = 0;
    for (int64_t g = 0; g < kNumGroups; ++g) {
      s.values[n] = s.maxima[g];
      s.weights[n] = 1.0f;
      n += s.maxima[g] > -INFINITY;
    }
    if (n >= k) bound = cutoff(s.values, s.weights, n, (double)k);
  }
  int64_t n = 0;
  for (int64_t g = 0; g < kNumGroups; ++g) {
    if (s.maxima[g] < bound) continue;
    const int64_t end = (g + 1) * kGroup < kVocab ? (g + 1) * kGroup : (int64_t)kVocab;
    for (int64_t i = g * kGroup; i < end; ++i) {
      s.values[n] = row[i];
      s.weights[n] = 1.0f;
      n += row[i] >= bound && row[i] > -INFINITY;
    }
  }
  return n <= k ? bound : cutoff(s.values, s.weights, n, (double)k);
}

// The smallest logit of the nucleus. Tokens so light that all of them together could not fill the part outside it are left
// out before the search.
float top_p_threshold(const float* row, float top_p, double total, const Scratch& s) {
  const float light = (float)((1.0 - (double)top_p) * total / (double)kVocab);
  int64_t n = 0;
  for (int64_t i = 0; i < kVocab; ++i) {
    s.values[n] = row[i];
    s.weights[n] = s.e[i];
    n += s.e[i] > light;
  }
  return cutoff(s.values, s.weights, n, (double)top_p * total);
}

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): a number in [0, 1) with 53 bits that
// depends on seed and counter alone.
double uniform(uint32_t seed_low, uint32_t seed_high, uint32_t counter) {
  uint32_t c[4] = {counter, 0, 0, 0};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = (uint64_t)0xD2511F53u * c[0];
    const uint64_t b = (uint64_t)0xCD9E8D57u * c[2];
    const uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ seed_low, (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ seed_high, (uint32_t)a};
    memcpy(c, next, sizeof c);
    seed_low += 0x9E3779B9u;
    seed_high += 0xBB67AE85u;
  }
  return ((double)(c[0] >> 5) * 67108864.0 + (double)(c[1] >> 6)) / 9007199254740992.0;
}

// The token at which the running sum of e passes `target`, a block at a time.
int32_t pick(double target, const Scratch& s) {
  int64_t b = 0;
  double below = 0;
  while (b + 1 < kNumBlocks && below + s.sums[b] <= target) below += s.sums[b++];
  while (b > 0 && s.sums[b] == 0) --b;  // rounding carried the target past the last token with a chance
  const int64_t end = (b + 1) * kBlock < kVocab ? (b + 1) * kBlock : (int64_t)kVocab;
  int64_t chosen = -1;
  for (int64_t i = b * kBlock; i < end && (chosen < 0 || below <= target); ++i) {
    if (s.e[i] > 0) chosen = i;
    below += s.e[i];
  }
  return (int32_t)chosen;
}

void apply_penalties(float* row, const float* floats, const int32_t* ints, const int32_t* tokens) {
  for (int32_t t = ints[kBiasBegin]; t < ints[kBiasEnd]; ++t) {
    float bias;
    memcpy(&bias, tokens + 2 * t + 1, sizeof bias);
    row[tokens[2 * t]] += bias;
  }
  const float r = floats[kRepetition];
  for (int32_t t = ints[kTokensBegin]; t < ints[kTokensEnd]; ++t) {
    const float count = (float)tokens[2 * t + 1];
    float& l = row[tokens[2 * t]];
    if (r != 1.0f) l = l > 0 ? l / r : l * r;
    l -= floats[kFrequency] * count + (count > 0 ? floats[kPresence] : 0.0f);
  }
}

int32_t sample(const float* row, float largest, const float* floats, const int32_t* ints, const Scratch& s) {
  const float temperature = floats[kTemperature];
  if (!(temperature >= 1e-5f)) return first_of(row, s.maxima, largest);
  double total = exponentials(row, largest, temperature, floats[kMinP], s);
  const int64_t k = ints[kTopK];
  if (k > 0 && k < kVocab) total = keep_above(row, top_k_threshold(row, k, s), s);
  if (floats[kTopP] < 1.0f) total = keep_above(row, top_p_threshold(row, floats[kTopP], total, s), s);
  return pick(uniform((uint32_t)ints[kSeedLow], (uint32_t)ints[kSeedHigh], (uint32_t)ints[kCounter]) * total, s);
}

// Log-probabilities of the sampled token and of the `wanted` best; equal logits in the order of their ids.
void log_probabilities(const float* row, float largest, int32_t id, int64_t wanted, const Scratch& s, float* logprob, int32_t* top_ids,
                       float* top_logprobs) {
  const double lse = (double)largest + log(exponentials(row, largest, 1.0f, 0.0f, s));
  *logprob = (float)((double)row[id] - lse);
  float best[kMaxLogprobs];
  int64_t n = 0;
  for (int64_t g = 0; g < kNumGroups && wanted > 0; ++g) {
    if (n == wanted && !(s.maxima[g] > best[n - 1])) continue;
    const int64_t end = (g + 1) * kGroup < kVocab ? (g + 1) * kGroup : (int64_t)kVocab;
    for (int64_t i = g * kGroup; i < end; ++i) {
      if (!(row[i] > (n == wanted ? best[n - 1] : -INFINITY))) continue;
      int64_t at = n < wanted ? n++ : n - 1;
      for (; at > 0 && best[at - 1] < row[i]; --at) {
        best[at] = best[at - 1];
        top_ids[at] = top_ids[at - 1];
      }
      best[at] = row[i];
      top_ids[at] = (int32_t)i;
    }
  }
  for (int64_t i = 0; i < n; ++i) top_logprobs[i] = (float)((double)best[i] - lse);
}

}  // namespace sampling
}  // namespace

extern "C" __attribute__((visibility("default"))) void sample_32000(const IngotLaunch* launch, int64_t begin, int64_t end) {
  using namespace sampling;
  float* logits = (float*)launch->args[0];
  const float* all_floats = (const float*)launch->args[1];
  const int32_t* all_ints = (const int32_t*)launch->args[2];
  const int32_t* tokens = (const int32_t*)launch->args[3];
  int32_t* ids = (int32_t*)launch->args[4];
  float* logprobs = (float*)launch->args[5];
  int32_t* top_ids = (int32_t*)launch->args[6];
  float* top_logprobs = (float*)launch->args[7];

  Scratch s;
  s.e = (float*)launch->scratch;
  s.values = s.e + kPadded;
  s.weights = s.values + kPadded;
  s.sums = (double*)(s.weights + kPadded);
  s.maxima = (float*)(s.sums + kNumBlocks);

  for (int64_t i = begin; i < end; ++i) {
    float* row = logits + i * kVocab;
    const float* floats = all_floats + i * kFloats;
    const int32_t* ints = all_ints + i * kInts;
    logprobs[i] = NAN;
    for (int64_t n = i * kMaxLogprobs; n < (i + 1) * kMaxLogprobs; ++n) {
      top_ids[n] = -1;
      top_logprobs[n] = NAN;
    }
    apply_penalties(row, floats, ints, tokens);
    float largest;
    ids[i] = -1;
    if (!find_maxima(row, s.maxima, &largest)) continue;
    ids[i] = sample(row, largest, floats, ints, s);
    const int64_t wanted = ints[kNumLogprobs] - 1;
    if (wanted < 0) continue;
    log_probabilities(row, largest, ids[i], wanted < kMaxLogprobs ? wanted : (int64_t)kMaxLogprobs, s, logprobs + i,
                      top_ids + i * kMaxLogprobs, top_logprobs + i * kMaxLogprobs);
  }
}
