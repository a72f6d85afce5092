import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { ensureSpace } from "../../../compiler/engine/disk.ts";

it("what is larger than the disk's free space is refused with both numbers, before any folder is made", async () => {
  const target = join(tmpdir(), "not", "yet", "engine");
  await expect(ensureSpace(target, 2 ** 60, "-o")).rejects.toThrow(
    /engine needs 1152921504607 MB, but its disk has [\d.]+ MB left: free some, or choose another place with -o/,
  );
  await ensureSpace(target, 1, "-o");
});
