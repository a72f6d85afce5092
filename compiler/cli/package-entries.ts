/**
 * The entries of this package that an architecture's file imports, as package.json exports them.
 */
export interface PackageEntry {
  /** The module that declares it, relative to the package, without its ending. */
  readonly module: string;
  /** The entry as this program has it. */
  readonly load: () => Promise<unknown>;
}

export const PACKAGE_ENTRIES: Readonly<Record<string, PackageEntry>> = {
  ingot: { module: "compiler/cli/library", load: () => import("./library.ts") },
  "ingot/compiler": { module: "compiler/cli/compiler-library", load: () => import("./compiler-library.ts") },
  "ingot/models": { module: "models/library", load: () => import("../../models/library.ts") },
};
