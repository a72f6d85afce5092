import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { FAMILIES } from "../../models/families.ts";
import { PRESET_NAMES } from "../../models/presets.ts";

const path = join(import.meta.dirname, "../../README.md");
const rewrite = "npx vitest run --config test/vitest.config.ts test/models/readme.test.ts -u";

it(`README lists the families and presets there are; "${rewrite}" rewrites it`, async () => {
  const rows = FAMILIES.map(({ architecture, models, features }) => `| \`${architecture.name}\` | ${models} | ${features} |`);
  const made = [
    `<!-- models: made from models/families.ts and models/presets.ts by ${rewrite} -->`,
    "| `architectures` | models | what sets it apart |",
    "|---|---|---|",
    ...rows,
    "",
    `Presets: ${PRESET_NAMES.map((name) => `\`${name}\``).join(" ")}.`,
    "<!-- /models -->",
  ];
  const section = /<!-- models.*?<!-- \/models -->/s;
  const readme = readFileSync(path, "utf8");
  expect(readme).toMatch(section);
  await expect(readme.replace(section, () => made.join("\n"))).toMatchFileSnapshot(path);
});
