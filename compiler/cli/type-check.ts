/**
 * Checks an architecture's TypeScript against this package's declarations, so that mistakes are named by line before anything runs.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { CompileError } from "../errors.ts";
import { PACKAGE_ENTRIES } from "./package-entries.ts";
import { packageRoot } from "./package-root.ts";
import { shortPath } from "./places.ts";

/** An architecture needs nothing of Node; what it uses of it is not checked, and types of Node need not be installed. */
const NODE = `declare module "node:*";
declare const process: any;
declare const console: Record<"log" | "info" | "warn" | "error" | "debug" | "table", (...values: unknown[]) => void>;`;

/**
 * The files that were checked: `file` and what it imports of its own, types included.
 * Throws `CompileError` with every type error in them: `my-arch.ts:12:5: message`.
 */
export async function typeCheck(file: string): Promise<readonly string[]> {
  const { Project, ts } = await import("ts-morph");
  const project = new Project({
    skipAddingFilesFromTsConfig: true,
    skipFileDependencyResolution: true,
    compilerOptions: {
      strict: true,
      noEmit: true,
      allowJs: true,
      skipLibCheck: true,
      isolatedModules: true,
      resolveJsonModule: true,
      allowImportingTsExtensions: true,
      target: ts.ScriptTarget.ES2022,
      lib: ["lib.es2023.d.ts"],
      module: ts.ModuleKind.ESNext,
      moduleResolution: ts.ModuleResolutionKind.Bundler,
      types: [],
      paths: { ...declarations(), ...zodFor(file) },
    },
  });
  project.createSourceFile(join(dirname(file), "ingot-node.d.ts"), NODE);
  project.addSourceFileAtPath(file);
  const program = project.getProgram().compilerObject;
  const own = program.getSourceFiles().filter((f) => !f.isDeclarationFile && isOwn(f.fileName));
  const lines = own.flatMap((source) =>
    [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)].map(({ start = 0, messageText }) => {
      const { line, character } = source.getLineAndCharacterOfPosition(start);
      return `${shortPath(source.fileName)}:${line + 1}:${character + 1}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`;
    }),
  );
  if (lines.length > 0) throw new CompileError(lines.join("\n"));
  return own.map((source) => source.fileName);
}

/** The entries' declarations; in a clone that has none built, the sources. */
function declarations(): Record<string, string[]> {
  const built = join(packageRoot(), "dist", "types");
  const place = existsSync(built)
    ? (path: string) => join(built, `${path}.d.ts`)
    : (path: string) => join(packageRoot(), `${path}.ts`);
  return Object.fromEntries(Object.entries(PACKAGE_ENTRIES).map(([entry, { module }]) => [entry, [place(module)]]));
}

/** This package's own zod, where the file's folder has none. */
function zodFor(file: string): Record<string, string[]> {
  try {
    createRequire(file).resolve("zod");
    return {};
  } catch {
    const folder = dirname(createRequire(import.meta.url).resolve("zod/package.json"));
    return { zod: [folder], "zod/*": [join(folder, "*")] };
  }
}

const isOwn = (file: string): boolean =>
  !file.includes("/node_modules/") &&
  !["compiler", "models", "runtime"].some((room) => file.startsWith(join(packageRoot(), room, "/")));
