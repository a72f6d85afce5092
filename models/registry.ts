/**
 * Finds an architecture by the name that config.json uses.
 */
import { z } from "zod";
import type { Architecture } from "../compiler/architecture.ts";
import { CompileError, UnsupportedError } from "../compiler/errors.ts";
import { describe, readFields } from "./config.ts";
import { FAMILIES, NOT_DONE } from "./families.ts";

/** Every architecture this version compiles. */
export const ARCHITECTURES: readonly Architecture[] = FAMILIES.map(({ architecture }) => architecture);

/**
 * The architecture a config.json names. Throws `UnsupportedError` saying why when it is one that is known and not done, or listing the
 * known ones when it is none of them. `extra` are looked at first.
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
  const reasons = architectures.flatMap((name) =>
    Object.hasOwn(NOT_DONE, name) ? [`${describe(name)}: ${NOT_DONE[name]}`] : [],
  );
  if (reasons.length > 0) throw new UnsupportedError(`config.json: architectures: ${reasons.join("; ")}.`);
  throw new UnsupportedError(
    `config.json: architectures: ${architectures.map(describe).join(", ")} is not known. Known: ${known.map((a) => a.name).join(", ")}. ` +
      "To add one, describe it with defineArchitecture (see models/README.md) and pass it to the compiler.",
  );
}
