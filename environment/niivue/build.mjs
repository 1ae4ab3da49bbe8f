// Writes mtnet/results/page/niivue.js and the licences of all that is in it. Run by `make niivue`.
import { build } from "esbuild"
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs"

const out = "../../mtnet/results/page"

// The gradients of a volume light its 3D rendering, which the page has none of; they would take most of the time until
// the first slice is drawn, and twice the volume's memory on the graphics card.
const withoutGradients = {
  name: "without-gradients",
  setup(built) {
    built.onLoad({ filter: /@niivue[/\\]niivue[/\\]build[/\\]niivue[/\\]index\.js$/ }, ({ path }) => {
      const source = readFileSync(path, "utf8")
      const parts = source.split("function gradientGL(params) {")
      if (parts.length !== 2) throw new Error("NiiVue's gradientGL is not where it was; see what took its place.")
      return { contents: parts.join("function gradientGL(params) { return params.gradientTexture;"), loader: "js" }
    })
  },
}
const result = await build({
  entryPoints: ["entry.js"],
  outfile: `${out}/niivue.js`,
  plugins: [withoutGradients],
  alias: { zarrita: "./no_zarr.js" },
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  charset: "ascii",
  legalComments: "none",
  metafile: true,
})

const names = new Set()
for (const output of Object.values(result.metafile.outputs)) {
  for (const [path, { bytesInOutput }] of Object.entries(output.inputs)) {
    const found = path.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)\//)
    if (found && bytesInOutput > 0) names.add(found[1])
  }
}

const texts = [...names].sort().map((name) => {
  const folder = `node_modules/${name}`
  const { version, license } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"))
  const own = readdirSync(folder).find((file) => /^licen[cs]e/i.test(file))
  // The published package of NiiVue has no licence file; its text is that of the repository.
  const path = own ? `${folder}/${own}` : `licenses/${name.split("/").pop()}.txt`
  if (!existsSync(path)) throw new Error(`${name} has no licence text; put it into ${path}.`)
  return `${name} ${version} (${license})\n\n${readFileSync(path, "utf8").trim()}\n`
})
// Parts of NiiVue that came from elsewhere carry their terms in its sources.
const inside = readFileSync("node_modules/@niivue/niivue/src/nvimage/utils.ts", "utf8").match(/\/\*\s*(Copyright[\s\S]*?)\*\//)
if (!inside) throw new Error("The terms inside NiiVue's nvimage/utils.ts are gone; see what took their place.")
texts.push(`In NiiVue: code of RII-UTHSCSA (BSD)\n\n${inside[1].trim()}\n`)
texts.push("In NiiVue: the typeface Roboto (Apache-2.0, Copyright Google), as a picture of its letters\n")
writeFileSync(`${out}/niivue.LICENSES.txt`, texts.join(`\n${"-".repeat(80)}\n\n`))
