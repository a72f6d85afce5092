/**
 * What makes an engine folder an npm package: package.json, and the typed module that programs import.
 *
 * The module is written once, as TypeScript, and compiled to the two files that Node and type checkers read: no step is left for
 * where it is installed, and `as const` makes the facts' types as literal as their values.
 */
import { join } from "node:path";
import type { WriterFunction } from "ts-morph";
import type { Manifest } from "../../runtime/manifest.ts";
import { writeWhole } from "./contents.ts";
import { printJson } from "./manifest.ts";

/** Its text is its owner's: a name and a version to publish under. */
export const PACKAGE_FILE = "package.json";

/** What an engine's module says of it. */
export type ModuleFacts = Pick<Manifest, "name" | "model" | "target" | "limits">;

/** Writes index.js and index.d.ts: the facts as constants of literal types, and `load()`. */
export async function writeModule(folder: string, facts: ModuleFacts): Promise<void> {
  // Loaded when an engine is made: it brings a TypeScript compiler.
  const { Project, ScriptTarget, ModuleKind, VariableDeclarationKind, Writers } = await import("ts-morph");
  const project = new Project({
    useInMemoryFileSystem: true,
    // No type here is the standard library's; reading its declarations would take a second.
    compilerOptions: { target: ScriptTarget.ES2022, module: ModuleKind.ESNext, declaration: true, noLib: true },
  });
  const module = project.createSourceFile("index.ts", { statements: [`/** ${summary(facts)}. */`] });
  module.addImportDeclaration({ moduleSpecifier: "ingot", namedImports: ["LLM", { name: "LLMOptions", isTypeOnly: true }] });
  const constant = (name: string, value: WriterFunction | string, doc: string) =>
    module.addVariableStatement({
      isExported: true,
      declarationKind: VariableDeclarationKind.Const,
      declarations: [{ name, initializer: Writers.assertion(value, "const") }],
      docs: [doc],
    });
  const fields = (of: object) =>
    Writers.object(Object.fromEntries(Object.entries(of).map(([name, value]) => [name, JSON.stringify(value)])));
  constant("name", JSON.stringify(facts.name), "The engine's name.");
  constant("target", JSON.stringify(facts.target), "What its kernels were generated for.");
  constant("model", fields(facts.model), "Facts of the model, in the words of its config.json.");
  constant("limits", fields(facts.limits), "The largest step, and the longest sequence; `load` can lower them.");
  module.addFunction({
    isExported: true,
    name: "load",
    parameters: [{ name: "options", type: "LLMOptions", hasQuestionToken: true }],
    returnType: "Promise<LLM>",
    statements: ["return LLM.load(import.meta.dirname, options);"],
    docs: ["Loads the engine. Rejects with what to do when its kernels are not built, or not for this machine."],
  });
  for (const { filePath, text } of project.emitToMemory().getFiles()) await writeWhole(join(folder, filePath), text);
}

/** Writes package.json: what `npm pack` takes along (not the library, which is one machine's), and the step that builds it. */
export async function writePackage(folder: string, manifest: Manifest): Promise<void> {
  const [version] = /\d+\.\d+\.\d+[\w.-]*/.exec(manifest.provenance.compiler) ?? [];
  const entries = ["manifest.json", manifest.weights.file, ...Object.keys(manifest.files)];
  const description = {
    name: `ingot-engine-${manifest.name.toLowerCase()}`,
    version: "1.0.0",
    description: summary(manifest),
    type: "module",
    exports: { types: "./index.d.ts", default: "./index.js" },
    files: [...new Set(entries.map((path) => path.replace(/\/.*/, "")))].sort(),
    // After `install`, with which ingot builds its own native part.
    scripts: { postinstall: "ingot build ." },
    peerDependencies: { ingot: version ? `^${version}` : "*" },
  };
  await writeWhole(join(folder, PACKAGE_FILE), `${printJson(description, "")}\n`);
}

const summary = ({ name, model, target }: ModuleFacts): string =>
  `${name} (${model.architecture}) compiled by ingot for ${target}`;
