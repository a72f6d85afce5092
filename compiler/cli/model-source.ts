/**
 * Resolves what a user names as `<model>`: an engine folder, a Hugging Face folder, or a built-in preset.
 */
import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { PRESET_NAMES, presetConfig } from "../../models/presets.ts";
import { CompileError, UnsupportedError } from "../errors.ts";
import { UsageError } from "./exit.ts";

export type ModelSource =
  | { readonly kind: "engine"; readonly folder: string }
  | {
      readonly kind: "checkpoint";
      readonly folder: string;
      readonly name: string;
      readonly config: unknown;
      readonly generationConfig: unknown;
    }
  | { readonly kind: "preset"; readonly name: string; readonly config: unknown };

/**
 * Says what `model` is. `weights` is "checkpoint" or "random"; a preset needs random ones.
 * Throws `UsageError` for a path that is not there, `UnsupportedError` for forms of a model this version does not read.
 */
export function modelSource(model: string, weights: string): ModelSource {
  if (weights !== "checkpoint" && weights !== "random") {
    throw new UsageError(`--weights is "${weights}"; expected checkpoint or random`);
  }
  if (existsSync(model)) {
    const folder = resolve(model);
    if (statSync(folder).isFile()) throw new UnsupportedError(fileRefusal(model));
    if (existsSync(join(folder, "manifest.json"))) return { kind: "engine", folder };
    if (!existsSync(join(folder, "config.json"))) {
      throw new UsageError(`${model} holds neither manifest.json (an engine) nor config.json (a Hugging Face model)`);
    }
    const generation = join(folder, "generation_config.json");
    return {
      kind: "checkpoint",
      folder,
      name: basename(folder).toLowerCase(),
      config: readJson(join(folder, "config.json")),
      generationConfig: existsSync(generation) ? readJson(generation) : {},
    };
  }
  if (PRESET_NAMES.includes(model.toLowerCase())) {
    if (weights !== "random") {
      throw new UsageError(
        `${model} is a built-in preset without weights: add --weights random, or name a downloaded model folder`,
      );
    }
    return { kind: "preset", name: model.toLowerCase(), config: presetConfig(model.toLowerCase()) };
  }
  if (/^\w[\w.-]*\/[\w.-]+$/.test(model)) {
    throw new UnsupportedError(
      `${model} is not a folder here, and downloading from a hub is not supported yet: name a downloaded folder`,
    );
  }
  throw new UsageError(`${model} is neither a folder nor a preset; presets: ${PRESET_NAMES.join(", ")} (with --weights random)`);
}

function fileRefusal(model: string): string {
  if (model.endsWith(".gguf"))
    return `${model}: GGUF files are not supported yet; name a Hugging Face folder (config.json and safetensors)`;
  if (/\.[mc]?[tj]s$/.test(model))
    return `${model}: an architecture of your own is given with a model folder: ingot compile MODEL --arch ${model}`;
  return `${model} is a file; expected a model or engine folder, or a preset's name`;
}

/** The content of a JSON file. Throws `CompileError` naming the file when it is no JSON. */
export function readJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw new CompileError(`${file} is not valid JSON: ${(error as Error).message}`);
  }
}
