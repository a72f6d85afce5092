/**
 * What codegen makes, whatever the target: texts of kernels and the files they include.
 */

/** One rendered kernel: the exported symbol, its text, and what each thread of a CPU must lend it. */
export interface RenderedKernel {
  readonly name: string;
  readonly source: string;
  readonly scratchBytes: number;
}

/** A file that belongs beside the kernels. */
export interface SourceFile {
  readonly name: string;
  readonly text: string;
}
