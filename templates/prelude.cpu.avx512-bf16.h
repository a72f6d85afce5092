// The device vocabulary on AVX-512 with BF16: the same lanes, and products of bf16 pairs.
#pragma once

#include "prelude.cpu.avx512.h"
#include "prelude.cpu.pairs.h"
