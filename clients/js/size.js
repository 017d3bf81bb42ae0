/** The bytes that a page loads: the SDK as one file, minified, compressed with gzip, without what is for Node only. */

import { gzipSync } from "node:zlib";

import { build } from "esbuild";

const { outputFiles } = await build({
  absWorkingDir: import.meta.dirname,
  entryPoints: ["src/index.js"],
  bundle: true,
  minify: true,
  format: "esm",
  external: ["./opening_node.js"],
  write: false,
});
console.log(gzipSync(outputFiles[0].contents, { level: 9 }).length);
