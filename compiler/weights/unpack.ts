/**
 * Reads tensors back out of an engine's weights.bin: the inverse of the layouts, for verification.
 */
import { closeSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import type { Manifest, TensorEntry } from "../../runtime/manifest.ts";
import { CompileError } from "../errors.ts";
import { dtypeBytes } from "../ir/tensor-type.ts";
import { converter } from "./convert.ts";
import { LANES, panelBytes, unpackPanel } from "./panel.ts";
import { elementsOf, type WeightDType } from "./source.ts";

/** The tensors of an engine folder by their names in it. */
export class PackedWeightsReader {
  private readonly entries: ReadonlyMap<string, TensorEntry>;

  constructor(
    private readonly folder: string,
    private readonly manifest: Manifest,
  ) {
    this.entries = new Map(manifest.weights.tensors.map((t) => [t.name, t]));
  }

  /** One tensor in f32, row-major. Throws `CompileError` when the engine has none of that name. */
  read(name: string): Float32Array {
    const entry = this.entries.get(name);
    if (!entry) throw new CompileError(`${this.folder} holds no tensor ${name}: is its config.json of this engine?`);
    return unpackTensor(this.bytesOf(entry), entry);
  }

  private bytesOf(entry: TensorEntry): Uint8Array {
    const bytes = new Uint8Array(entry.bytes);
    const fd = openSync(join(this.folder, this.manifest.weights.file), "r");
    try {
      for (let done = 0; done < bytes.length; ) {
        const read = readSync(fd, bytes, done, Math.min(2 ** 30, bytes.length - done), entry.offset + done);
        if (read === 0)
          throw new CompileError(`${this.folder}: weights end before tensor ${entry.name}: compile the model again`);
        done += read;
      }
    } finally {
      closeSync(fd);
    }
    return bytes;
  }
}

/** A packed tensor's values in f32, row-major. */
function unpackTensor(bytes: Uint8Array, entry: TensorEntry): Float32Array {
  const dtype = entry.dtype as WeightDType;
  const count = elementsOf(entry.shape);
  const size = dtypeBytes[dtype];
  let rows = bytes;
  if (entry.layout === "panel16") {
    const [k, total, matrices = 1] = entry.shape.toReversed() as [number, number, number?];
    const n = total / entry.ways;
    rows = new Uint8Array(count * size);
    const panel = new Uint8Array(LANES * k * size);
    let at = 0;
    for (let matrix = 0; matrix < matrices; matrix++) {
      for (let first = 0; first < n; first += LANES) {
        for (let way = 0; way < entry.ways; way++, at += panelBytes(dtype, k)) {
          unpackPanel(dtype, k, bytes, at, panel, 0);
          const lanes = Math.min(LANES, n - first);
          rows.set(panel.subarray(0, lanes * k * size), (matrix * total + way * n + first) * k * size);
        }
      }
    }
  }
  const values = new Float32Array(count);
  converter(dtype, "f32")(rows, new Uint8Array(values.buffer), count);
  return values;
}
