/**
 * The tutorial is what it says: its tables are read off the code (`vitest -u` writes them anew), and the files it prints, as files of
 * a user's own, give what transformers recorded.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type JSDocableNode, Node, Project, SyntaxKind } from "ts-morph";
import { expect, it } from "vitest";
import { commandLine, root } from "../support/ingot-command.ts";

const { run, scratch } = commandLine("tutorial");
const file = join(root, "models", "TUTORIAL.md");
const tutorial = readFileSync(file, "utf8");
/** The architectures it prints, each a whole file. */
const files = [...tutorial.matchAll(/^```ts\n(.*?)^```/gms)].map(([, file]) => file as string);
const example = readFileSync(join(root, "models", "smollm3.ts"), "utf8");

const project = new Project({ skipAddingFilesFromTsConfig: true, compilerOptions: { allowImportingTsExtensions: true } });
const source = (path: string) => project.addSourceFileAtPath(join(root, path));
const cell = (text: string) => text.replace(/\s+/g, " ").trim().replaceAll("|", "\\|");

/** `rmsNorm(x, gain, eps: number)` and what the op table says of its op. */
function graphMethods(): string[] {
  const ops = source("compiler/ir/ops.ts").getInterfaceOrThrow("OpTable").getProperties();
  let described = "";
  const meanings = new Map(
    ops.map((op) => {
      described =
        op
          .getJsDocs()
          .map((doc) => doc.getDescription())
          .join(" ") || described; // one comment may stand over several
      return [op.getName(), described];
    }),
  );
  return source("compiler/ir/graph.ts")
    .getClassOrThrow("Graph")
    .getMethods()
    .flatMap((method) => {
      const [, op] = /^NodeOf<"(\w+)">$/.exec(method.getReturnTypeNode()?.getText() ?? "") ?? [];
      if (op === undefined) return [];
      const parameters = method.getParameters().map((p) => p.getText().replace(/: (readonly )?Node(\[\])?$/, "$2"));
      return [`| \`${cell(`${method.getName()}(${parameters.join(", ")})`)}\` | ${cell(meanings.get(op) as string)} |`];
    });
}

/** The facts that a config holds, whatever else an architecture adds. */
function modelConfig(): string {
  const facts = source("runtime/manifest.ts").getInterfaceOrThrow("ModelFacts").getProperties();
  return `| \`ModelConfig\` of \`ingot/compiler\`: ${facts.map((p) => p.getName()).join(" ")} | What every model states; \`architecture\` and \`numParameters\` are filled in. |`;
}

/** What `ingot/models` exports: functions with their parameters, the fields of options, and what the code says of each. */
function sharedParts(): string[] {
  return [...source("models/library.ts").getExportedDeclarations()].map(([name, [declaration]]) => {
    const typed = (text: string) => text.replace(/: (Graph|Node)$/, "");
    if (Node.isFunctionDeclaration(declaration)) {
      const parameters = declaration
        .getParameters()
        .map((p) => typed([p.getName(), p.getTypeNode()?.getText()].filter((part) => part).join(": ")));
      return `| \`${cell(`${name}(${parameters.join(", ")})`)}\` | ${described(declaration)} |`;
    }
    if (Node.isInterfaceDeclaration(declaration)) {
      return `| \`${name}\`: ${declaration
        .getProperties()
        .map((p) => p.getName())
        .join(" ")} | ${described(declaration)} |`;
    }
    const commented = declaration?.getFirstAncestorByKind(SyntaxKind.VariableStatement) ?? declaration;
    return `| \`${name}\` | ${Node.isJSDocable(commented) ? described(commented) : ""} |`;
  });
}

const described = (node: JSDocableNode): string =>
  cell(
    node
      .getJsDocs()
      .map((doc) => doc.getDescription())
      .join(" "),
  );

const rewrite = "npx vitest run --config test/vitest.config.ts test/models/tutorial.test.ts -u";

function withTable(text: string, name: string, head: string, rows: readonly string[]): string {
  const section = new RegExp(`<!-- ${name}.*?<!-- /${name} -->`, "s");
  expect(text).toMatch(section);
  const table = [`<!-- ${name}: made by ${rewrite} -->`, `| ${head} |`, "|---|---|", ...rows, `<!-- /${name} -->`];
  return text.replace(section, () => table.join("\n"));
}

it("lists the graph builder's methods and the shared parts as they are", async () => {
  const ops = withTable(tutorial, "ops", "method of `g` | what it is", graphMethods());
  const all = withTable(ops, "parts", "from `ingot/models` | what it is", [modelConfig(), ...sharedParts()]);
  await expect(all).toMatchFileSnapshot(file);
});

it("prints the family's own file, but for what it imports", () => {
  const body = (text: string) => text.slice(text.indexOf("const fields"));
  expect(body(files[0] ?? "")).toBe(body(example));
});

it.each([
  ["as data", 0],
  ["down to the ops", 1],
])("prints a file that is compiled as it stands, written %s, and gives what transformers gives", async (_, index) => {
  const architecture = join(scratch, "smollm3.ts");
  writeFileSync(architecture, files[index] as string);
  const folder = join(root, "test", "models", "smollm3");
  const { code, stdout, stderr } = await run(["verify", folder, "--dtype", "float32", "--json", "--arch", architecture]);
  expect(code, stderr).toBe(0);
  const { ok, rows } = JSON.parse(stdout) as { ok: boolean; rows: { error: number }[] };
  expect(ok).toBe(true);
  expect(rows).toHaveLength(3 * (2 * 6 + 2));
  expect(Math.max(...rows.map((row) => row.error))).toBeLessThan(1e-5);
});

/** What the tutorial says was changed in its second file, and how it is. */
const mistakes: Readonly<Record<string, readonly [from: string, to: string]>> = {
  "g.lineal": ["g.linear(last", "g.lineal(last"],
  "the shape of what attention gives": ["[g.T, numHeads * headDim]", "[g.T, 2 * numHeads * headDim]"],
  "the name of a norm": ['"post_attention_layernorm"', '"post_layernorm"'],
  "a norm left out": ['rmsNorm(g, attended, "post_attention_layernorm", eps, naming)', "attended"],
  "readConfig throws": [
    "    const facts =",
    '    if (read.no_rope_layers.length > 2) throw new Error("lists are not read yet");\n    const facts =',
  ],
};
const [errors = ""] = /^```console\n\$ ingot compile.*?^```/ms.exec(tutorial) ?? [];
const told = [...errors.matchAll(/^\$ ingot .* # (.*)\n(ingot: .*)$/gm)].map(
  ([, what, said]) => [what, said] as [string, string],
);

it("shows what every mistake is told", () => expect(told.map(([what]) => what)).toEqual(Object.keys(mistakes)));

it.each(told)("shows the error of a mistake as it is: %s", async (what, said) => {
  const folder = join(scratch, "tut");
  mkdirSync(folder, { recursive: true });
  const [from, to] = mistakes[what] ?? ["", ""];
  expect(files[1]).toContain(from);
  writeFileSync(
    join(folder, "smollm3.ts"),
    (files[1] as string).replace(from, () => to),
  );
  const tiny = join(root, "test", "models", "smollm3");
  const { stderr } = await run(["compile", tiny, "--arch", "smollm3.ts"], { cwd: folder });
  const [line] = stderr.match(/^ingot: .*$/m) ?? [];
  const shown = line?.replace(tiny, "…/tiny");
  if (said.endsWith(" …")) expect(shown?.slice(0, said.length - 1)).toBe(said.slice(0, -1));
  else expect(shown).toBe(said);
});
