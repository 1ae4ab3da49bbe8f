// What report.html needs of NiiVue: its slices, held until all is in place, and a word when they were drawn, so that
// boxes can be drawn over them.
import { Niivue, NVImage } from "@niivue/niivue"

class Slices extends Niivue {
  held = true

  release() {
    this.held = false
    this.updateGLVolume()
  }

  updateGLVolume() {
    if (!this.held) super.updateGLVolume()
  }

  drawScene() {
    if (this.held) return undefined
    const told = super.drawScene()
    this.onDrawn?.()
    return told
  }
}

globalThis.mtnetSlices = { Slices, NVImage }
