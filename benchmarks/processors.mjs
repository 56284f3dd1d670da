// Logits and exits of exported files in onnxruntime-web, for benchmarks/processors.py:
//   node processors.mjs FOLDER CHANNELS SIZE FILE...
// FOLDER has images.f32 and gets a K.json for the K-th file, with the rows of `logits` and `exits`.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const BATCH = 100
const [folder, channels, size, ...files] = process.argv.slice(2)
const ort = await import(pathToFileURL(createRequire(join(folder, 'x')).resolve('onnxruntime-web')))
ort.env.wasm.numThreads = 1
const bytes = readFileSync(join(folder, 'images.f32'))
const pixels = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
const row = channels * size * size
for (const [k, file] of files.entries()) {
  const session = await ort.InferenceSession.create(readFileSync(file), { executionProviders: ['wasm'] })
  const logits = [], exits = []
  for (let start = 0; start < pixels.length; start += BATCH * row) {
    const part = pixels.subarray(start, start + BATCH * row)
    const dims = [part.length / row, Number(channels), Number(size), Number(size)]
    const found = await session.run({ image: new ort.Tensor('float32', part, dims) })
    const classes = found.logits.dims[1]
    for (let i = 0; i < dims[0]; i++) logits.push([...found.logits.data.subarray(i * classes, (i + 1) * classes)])
    exits.push(...Array.from(found.exit_index.data, Number))
  }
  writeFileSync(join(folder, `${k}.json`), JSON.stringify({ logits, exits }))
}
