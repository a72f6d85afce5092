/**
 * Copies of the sample model, with something wrong in them.
 */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pebble } from "./ingot-command.ts";

/** A header entry of a safetensors file. */
export interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

/** What may be changed: the parsed config.json, and header and data of the weights. */
export interface Changes {
  readonly config?: (config: Record<string, unknown>) => unknown;
  readonly header?: (header: Record<string, Entry>) => void;
  /** After the header was changed. */
  readonly data?: (data: Buffer) => Buffer;
  /** The whole weights file; null leaves it out. */
  readonly weights?: ((file: Buffer) => Buffer) | null;
  /** Further files, or others in the place of the model's. */
  readonly files?: Readonly<Record<string, string>>;
}

/** Writes the sample model with `changes` into `folder` and returns it. */
export function changedModel(folder: string, changes: Changes): string {
  mkdirSync(folder, { recursive: true });
  for (const name of ["generation_config.json", "tokenizer.json", "tokenizer_config.json"]) {
    cpSync(join(pebble, name), join(folder, name));
  }
  const config: unknown = JSON.parse(readFileSync(join(pebble, "config.json"), "utf8"));
  const changed = changes.config ? changes.config(config as Record<string, unknown>) : config;
  writeFileSync(join(folder, "config.json"), typeof changed === "string" ? changed : JSON.stringify(changed));
  if (changes.weights !== null) {
    const file = changedWeights(readFileSync(join(pebble, "model.safetensors")), changes);
    writeFileSync(join(folder, "model.safetensors"), changes.weights ? changes.weights(file) : file);
  }
  for (const [name, text] of Object.entries(changes.files ?? {})) writeFileSync(join(folder, name), text);
  return folder;
}

function changedWeights(file: Buffer, { header: change, data }: Changes): Buffer {
  if (!change && !data) return file;
  const length = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, 8 + length).toString()) as Record<string, Entry>;
  change?.(header);
  const text = Buffer.from(JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(text.length));
  const rest = file.subarray(8 + length);
  return Buffer.concat([prefix, text, data ? data(rest) : rest]);
}
