// The device vocabulary on AVX-512 with AMX: the same lanes, and matrix tiles.
#pragma once

#include "prelude.cpu.avx512.h"
#include "prelude.cpu.tiles.h"
