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

const registered = new Map<string, Architecture>();

/**
 * Makes an architecture known to everything in this process that reads a model folder; it goes before one that comes with Ingot.
 * Throws `CompileError` when another one was registered under its name.
 */
export function registerArchitecture(architecture: Architecture): void {
  const other = registered.get(architecture.name);
  if (other && other !== architecture) {
    throw new CompileError(
      `${architecture.name} is registered already, as another architecture: give one of the two another name`,
    );
  }
  registered.set(architecture.name, architecture);
}

/**
 * The architecture a config.json names: one that was registered, else one that comes with Ingot.
 * Throws `UnsupportedError` saying why when it is one that is known and not done, or listing the known ones when it is none of them.
 */
export function findArchitecture(configJson: unknown): Architecture {
  const known = [...registered.values(), ...ARCHITECTURES];
  const knownNames = [...new Set(known.map((a) => a.name))].join(", ");
  const { names, modelType } = readNames(configJson);
  if (names.length === 0) {
    const hint = modelType ? ` (model_type is ${describe(modelType)})` : "";
    throw new CompileError(`config.json: architectures: expected a list naming one of ${knownNames}; found none${hint}`);
  }
  const found = firstNamed(names, known);
  if (found) return found;
  const reasons = names.flatMap((name) => (Object.hasOwn(NOT_DONE, name) ? [`${describe(name)}: ${NOT_DONE[name]}`] : []));
  if (reasons.length > 0) throw new UnsupportedError(`config.json: architectures: ${reasons.join("; ")}.`);
  throw new UnsupportedError(
    `config.json: architectures: ${names.map(describe).join(", ")} is not known. Known: ${knownNames}. ` +
      "To add one, describe it with defineArchitecture in a file of your own and give that with --arch (see models/TUTORIAL.md).",
  );
}

/** The architecture of the first of `names` that is known. */
export function firstNamed(names: readonly string[], known: readonly Architecture[]): Architecture | undefined {
  for (const name of names) {
    const found = known.find((a) => a.name === name);
    if (found) return found;
  }
  return undefined;
}

/** The names under `architectures` of a config.json. Throws `CompileError` where there is something else. */
export const architectureNames = (configJson: unknown): readonly string[] => readNames(configJson).names;

function readNames(configJson: unknown) {
  const fields = z.object({ architectures: z.array(z.string()).nullish(), model_type: z.string().nullish() });
  const { architectures, model_type: modelType } = readFields(configJson, fields);
  return { names: architectures ?? [], modelType };
}
