/**
 * The architectures that come with Ingot, by the name that config.json uses.
 */
import { z } from "zod";
import type { Architecture } from "../compiler/architecture.ts";
import { CompileError, UnsupportedError } from "../compiler/errors.ts";
import { describe, readFields } from "./config.ts";
import { glm4Moe } from "./glm4-moe.ts";
import { gptOss } from "./gpt-oss.ts";
import { llama } from "./llama.ts";
import { mistral } from "./mistral.ts";
import { qwen2 } from "./qwen2.ts";
import { qwen2Moe } from "./qwen2-moe.ts";
import { qwen3 } from "./qwen3.ts";
import { qwen3Moe } from "./qwen3-moe.ts";

/** Every architecture this version compiles. */
export const ARCHITECTURES: readonly Architecture[] = [llama, mistral, qwen2, qwen3, qwen2Moe, qwen3Moe, glm4Moe, gptOss];

/**
 * The architecture a config.json names. Throws `UnsupportedError` listing the known ones when it is none of them.
 * `extra` are looked at first.
 */
export function findArchitecture(configJson: unknown, extra: readonly Architecture[] = []): Architecture {
  const known = [...extra, ...ARCHITECTURES];
  const fields = z.object({ architectures: z.array(z.string()).max(16).nullish(), model_type: z.string().nullish() });
  const { architectures, model_type: modelType } = readFields(configJson, fields);
  if (!architectures?.length) {
    const hint = modelType ? ` (model_type is ${describe(modelType)})` : "";
    throw new CompileError(
      `config.json: architectures: expected a list naming one of ${known.map((a) => a.name).join(", ")}; found ${describe(architectures)}${hint}`,
    );
  }
  const found = known.find((a) => architectures.includes(a.name));
  if (found) return found;
  throw new UnsupportedError(
    `config.json: architectures: ${architectures.map(describe).join(", ")} is not known. Known: ${known.map((a) => a.name).join(", ")}. ` +
      "To add one, describe it with defineArchitecture (see models/README.md) and pass it to the compiler.",
  );
}
