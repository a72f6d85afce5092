/**
 * What each line of the golden CUDA kernels asks of memory: 32-byte sectors a request of global memory, wavefronts a request of shared
 * memory. None grows beyond test/golden/cuda/accesses.json; UPDATE=1 writes the file anew and keeps its reasons.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { type GoldenKernel, goldenKernels } from "../../support/cuda-golden.ts";

/** Units a request of one line, the ideal of lanes whose bytes lie side by side, and why it is more than 1.5 times that. */
interface Entry {
  readonly units: number;
  readonly ideal: number;
  readonly why?: string;
}
/** Lines of a kernel by what they say: `read global: sum += widen(x[i]);`. */
type Lines = Readonly<Record<string, Entry>>;

const file = fileURLToPath(new URL("../../golden/cuda/accesses.json", import.meta.url));
const isUpdate = process.env.UPDATE === "1";
const baseline = (existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : {}) as Readonly<Record<string, Lines>>;
const found: Record<string, Lines> = {};

/** The counts of a kernel's lines; of lines that say the same, the worst. */
function countLines({ count }: GoldenKernel): Record<string, Entry> {
  const { source, accesses } = count();
  const text = source.split("\n");
  const lines: Record<string, Entry> = {};
  for (const { line, kind, space, perRequest, ideal } of accesses) {
    const key = `${kind} ${space}: ${text[line - 1]!.trim()}`;
    const entry = { units: round(perRequest), ideal: round(ideal) };
    const known = lines[key];
    if (!known || known.units / known.ideal < entry.units / entry.ideal) lines[key] = entry;
  }
  return lines;
}

const round = (n: number): number => Math.round(n * 100) / 100;
/** Beyond this a reason is owed. */
const isFar = ({ units, ideal }: Entry): boolean => units > 1.5 * ideal;

/** Which line an access is counted at, and in how many pieces, is the host compiler's: these are g++'s. */
const isOtherCompiler = !/(^|\/)g\+\+(-\d+)?$/.test(process.env.CXX ?? "g++");

describe.skipIf(isOtherCompiler)("memory accesses of", () => {
  it.each(goldenKernels)("$name are as many as they were", (kernel) => {
    const lines = countLines(kernel);
    expect(Object.keys(lines).length).toBeGreaterThan(0);
    const known = baseline[kernel.name] ?? {};
    const kept = Object.entries(lines).map(([line, entry]) => {
      const why = known[line]?.why;
      return [line, isFar(entry) ? { ...entry, why: why ?? "" } : entry] as const;
    });
    found[kernel.name] = Object.fromEntries(kept);
    if (isUpdate) return;
    for (const [line, { units }] of Object.entries(lines)) {
      expect(known[line], `${line}\nis not in accesses.json: UPDATE=1 adds it`).toBeDefined();
      expect(units, `${line}\nunits a request`).toBeLessThanOrEqual(known[line]!.units);
    }
    expect(Object.keys(known).sort(), "lines of accesses.json: UPDATE=1 takes out those that are gone").toEqual(
      Object.keys(lines).sort(),
    );
  });

  it("no line are more than 1.5 times the ideal without a reason", () => {
    const owed = Object.entries(isUpdate ? found : baseline).flatMap(([kernel, lines]) =>
      Object.entries(lines).flatMap(([line, entry]) => (isFar(entry) && !entry.why ? [`${kernel}: ${line}`] : [])),
    );
    expect(owed).toEqual([]);
  });
});

afterAll(() => {
  if (!isUpdate) return;
  const line = ([text, entry]: readonly [string, Entry]) => `    ${JSON.stringify(text)}: ${JSON.stringify(entry)}`;
  const kernels = Object.entries(found).map(([name, lines]) => {
    return `  ${JSON.stringify(name)}: {\n${Object.entries(lines).map(line).join(",\n")}\n  }`;
  });
  writeFileSync(file, `{\n${kernels.join(",\n")}\n}\n`);
});
