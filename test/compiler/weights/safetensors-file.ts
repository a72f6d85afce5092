/**
 * Writes safetensors files as tests want them: right, or wrong on purpose.
 */

export interface TensorToStore {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

/** The header's object for tensors stored one after another. */
export function headerOf(tensors: readonly TensorToStore[]): Record<string, unknown> {
  let end = 0;
  return Object.fromEntries(
    tensors.map(({ name, dtype, shape, data }) => {
      const begin = end;
      end += data.length;
      return [name, { dtype, shape, data_offsets: [begin, end] }];
    }),
  );
}

/** A whole file; `header` is text or an object, and by default tells the truth. */
export function safetensorsFile(
  tensors: readonly TensorToStore[],
  header: unknown = headerOf(tensors),
  length?: bigint,
): Uint8Array {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const prefix = new Uint8Array(8);
  new DataView(prefix.buffer).setBigUint64(0, length ?? BigInt(text.length), true);
  return Buffer.concat([prefix, text, ...tensors.map((t) => t.data)]);
}

/** A tensor of zeros. */
export function zeros(name: string, dtype: "F32" | "F16" | "BF16" | "I32", shape: readonly number[]): TensorToStore {
  const bytes = { F32: 4, F16: 2, BF16: 2, I32: 4 }[dtype];
  return { name, dtype, shape, data: new Uint8Array(shape.reduce((a, b) => a * b, bytes)) };
}
