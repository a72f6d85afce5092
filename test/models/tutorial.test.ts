/**
 * The tutorial is what it says: its tables are read off the code (`vitest -u` writes them anew), its excerpts stand in the worked
 * example, and that example, as a file of a user's own, gives what transformers recorded.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type JSDocableNode, Node, Project, SyntaxKind } from "ts-morph";
import { expect, it } from "vitest";
import { commandLine, root } from "../support/ingot-command.ts";

const { run, scratch } = commandLine("tutorial");
const file = join(root, "models", "TUTORIAL.md");
const tutorial = readFileSync(file, "utf8");
const [ownBuild = ""] = /^function build\(.*?(?=^```)/ms.exec(tutorial) ?? [];
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
  const all = withTable(ops, "parts", "from `ingot/models` | what it is", sharedParts());
  await expect(all).toMatchFileSnapshot(file);
});

it("quotes the worked example as it is", () => {
  const blocks = [...tutorial.matchAll(/^```ts\n(.*?)^```/gms)].map(([, block]) => block as string);
  const quoted = blocks.filter((block) => !block.includes('"ingot/') && block !== ownBuild);
  expect(quoted).toHaveLength(2);
  for (const block of quoted) for (const part of block.split(/^ *…\n/m)) expect(example).toContain(part);
});

/** The names of what a file of one's own imports instead of the example's neighbours. */
const imported = (from: "compiler" | "models"): string => {
  const [, names = ""] = new RegExp(`^import \\{ (.*) \\} from "ingot/${from}";`, "m").exec(tutorial) ?? [];
  return names;
};

it.each([
  ["that runs as a file of one's own", false],
  ["whose builder is written by hand", true],
])("has a worked example %s and gives what transformers gives", async (_, byHand) => {
  const body = example.slice(example.indexOf("const fields"));
  const more = "type DecoderLayer, linear, type Naming, reachablePositions, readWindows, rmsNorm, ropeFrequencies, windowFields";
  const own = [
    `import { ${imported("compiler")} } from "ingot/compiler";`,
    `import { ${imported("models")}, ${more} } from "ingot/models";`,
    'import { z } from "zod";',
    byHand ? body.replace("build: buildDecoder,", "build,") : body,
    byHand ? ownBuild : "",
  ];
  const architecture = join(scratch, "smollm3.ts");
  writeFileSync(architecture, own.join("\n"));
  const folder = join(root, "test", "models", "smollm3");
  const { code, stdout, stderr } = await run(["verify", folder, "--dtype", "float32", "--json", "--arch", architecture]);
  expect(code, stderr).toBe(0);
  const { ok, rows } = JSON.parse(stdout) as { ok: boolean; rows: { error: number }[] };
  expect(ok).toBe(true);
  expect(rows).toHaveLength(3 * (2 * 6 + 2));
  expect(Math.max(...rows.map((row) => row.error))).toBeLessThan(1e-5);
});
