import { Command } from "commander";
import { afterEach, describe, expect, it } from "vitest";
import { addJsonFlag, addLoadFlags } from "../../compiler/cli/options.ts";

/** What the flags say on a command line with these arguments and variables. */
function said(args: readonly string[], variables: Readonly<Record<string, string>> = {}): Record<string, unknown> {
  Object.assign(process.env, variables);
  return addJsonFlag(addLoadFlags(new Command()))
    .parse([...args], { from: "user" })
    .opts();
}

describe("a flag for each way", () => {
  const name = "INGOT_ENABLE_PREFIX_CACHING";
  afterEach(() => {
    delete process.env[name];
    delete process.env.INGOT_JSON;
  });

  it("is on the one side or the other, the last one on the command line counts", () => {
    expect(said(["--enable-prefix-caching"]).enablePrefixCaching).toBe(true);
    expect(said(["--no-enable-prefix-caching"]).enablePrefixCaching).toBe(false);
    expect(said(["--no-enable-prefix-caching", "--enable-prefix-caching"]).enablePrefixCaching).toBe(true);
    expect(said([]).enablePrefixCaching ?? true).toBe(true);
  });

  it("is turned by its variable, and the command line has the last word", () => {
    expect(said([], { [name]: "0" }).enablePrefixCaching).toBe(false);
    expect(said(["--enable-prefix-caching"], { [name]: "0" }).enablePrefixCaching).toBe(true);
    expect(said([], { [name]: "1" }).enablePrefixCaching).toBe(true);
    expect(said(["--no-enable-prefix-caching"], { [name]: "1" }).enablePrefixCaching).toBe(false);
  });

  it("leaves a flag of one way to its own variable", () => {
    expect(said([], { INGOT_JSON: "1" }).json).toBe(true);
    expect(said([], { INGOT_JSON: "0" }).json).not.toBe(true);
    expect(said(["--json"], { INGOT_JSON: "0" }).json).toBe(true);
  });
});
