/**
 * `ingot build`: an engine's sources become a library for this machine; what an engine package's install step runs.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { familyOf } from "../../../runtime/devices/device.ts";
import { hashFile } from "../../../runtime/file-hash.ts";
import type { Manifest } from "../../../runtime/manifest.ts";
import { loadNative } from "../../../runtime/native.ts";
import { writeManifest } from "../../engine/contents.ts";
import { buildLibrary } from "../../engine/library.ts";
import { readManifest } from "../load.ts";
import { ensureAddon } from "../native-addon.ts";
import { addJsonFlag } from "../options.ts";
import { kernelCache } from "../places.ts";
import { withProgress } from "../progress.ts";
import { engineFolder } from "./engines.ts";

export function buildCommand(): Command {
  const command = new Command("build")
    .description("build an engine's generated sources for this machine")
    .argument("<engine>", "an engine folder or an id from `ingot list`")
    .action(build);
  return addJsonFlag(command);
}

async function build(engine: string, flags: { json?: boolean }): Promise<void> {
  const folder = engineFolder(engine);
  const manifest = readManifest(folder);
  const family = familyOf(manifest.target);
  if (!family.buildsAnywhere) {
    ensureAddon();
    family.check(manifest, loadNative(), {});
  }
  const before = await libraryHash(folder, manifest);
  const library = await withProgress("building kernels", (onBuild) =>
    buildLibrary(folder, { target: manifest.target, cache: kernelCache(), kernels: manifest.kernels, onProgress: onBuild }),
  );
  const changed = before !== library.sha256 || manifest.library?.sha256 !== library.sha256;
  if (manifest.library?.sha256 !== library.sha256) await writeManifest(folder, { ...manifest, library });
  if (flags.json) return console.log(JSON.stringify({ folder, target: manifest.target, library, changed }, null, 2));
  console.log(`${join(folder, library.file)} (${manifest.target})${changed ? "" : " was up to date"}`);
}

/** sha256 of the library that is there; null when there is none. */
async function libraryHash(folder: string, { library }: Manifest): Promise<string | null> {
  const file = library && join(folder, library.file);
  return file && existsSync(file) ? hashFile(file) : null;
}
