// The viewer of report.html: slices through NiiVue where there is WebGL 2, else on a plain canvas; frames always so.
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const element = (id) => document.getElementById(id);
  const stage = element("stage"), marks = element("marks");
  const [columns, rows, count] = data.shape;
  const volume = data.kind === "volume";
  const steps = data.spacing || [1, 1, 1];
  const lesions = new Map(data.lesions.map((lesion) => [lesion.number, lesion]));
  const shown = { lesions: true, boxes: true, classes: true };
  const HEADER = 352;
  const { PLANES, drawMarks } = mtnetMarks(data, shown);

  const unpacked = async (id) => {
    const holder = element(`blob-${id}`);
    if (!holder) return null;
    const text = atob(holder.textContent);
    const bytes = new Uint8Array(text.length);
    for (let n = 0; n < text.length; n++) bytes[n] = text.charCodeAt(n);
    holder.textContent = "";
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  };

  const fit = (canvas) => {
    const scale = window.devicePixelRatio || 1;
    const width = Math.max(Math.round(stage.clientWidth * scale), 1);
    const height = Math.max(Math.round(stage.clientHeight * scale), 1);
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
  };

  // ---- One plane on a plain canvas: frames, and volumes where there is no WebGL 2 -----------------------------------

  class PlainView {
    constructor(canvas, base, codes) {
      Object.assign(this, { canvas, base, codes, index: Math.floor(count / 2), focus: null, factor: 1 });
      const sized = new ResizeObserver(() => this.draw());
      sized.observe(stage);
      canvas.addEventListener("wheel", (event) => {
        event.preventDefault();
        moveTo(this.index + Math.sign(event.deltaY) * (volume ? -1 : 1));
      }, { passive: false });
    }
    async show(index) {
      this.index = index;
      await this.draw();
    }
    async goTo(lesion) {
      this.focus = lesion.centre;
      await this.show(Math.round(lesion.centre[2]));
    }
    async zoom(factor) {
      this.factor = factor;
      await this.draw();
    }
    async draw() {
      const index = this.index;
      const picture = await this.base(index);
      if (index !== this.index) return;
      fit(this.canvas);
      fit(marks);
      const { width, height } = this.canvas;
      const pen = this.canvas.getContext("2d"), over = marks.getContext("2d");
      const scale = this.factor * Math.min(width / (columns * steps[0]), height / (rows * steps[1]));
      // Patients are looked at from their feet, front up: x and y of a volume (left to right, back to front) are turned.
      const sign = volume ? -1 : 1;
      const focus = this.factor > 1 && this.focus ? this.focus : [(columns - 1) / 2, (rows - 1) / 2];
      const ax = sign * scale * steps[0], ay = sign * scale * steps[1];
      const place = { ax, ay, bx: width / 2 - ax * focus[0], by: height / 2 - ay * focus[1] };
      pen.fillStyle = "#000";
      pen.fillRect(0, 0, width, height);
      pen.imageSmoothingQuality = "high";
      pen.setTransform(ax, 0, 0, ay, place.bx - ax * 0.5, place.by - ay * 0.5);
      pen.drawImage(picture, 0, 0, columns, rows);
      pen.setTransform(1, 0, 0, 1, 0, 0);
      over.clearRect(0, 0, width, height);
      drawMarks(over, this.codes, PLANES[0], index, place, [0, 0, width, height]);
      if (volume) drawSides(over, width, height);
    }
    setWindow(window_) {
      this.window = window_;
      this.draw();
    }
  }
  const drawSides = (pen, width, height) => {
    const scale = window.devicePixelRatio || 1, size = 15 * scale;
    pen.font = `600 ${size}px system-ui, sans-serif`;
    pen.textBaseline = "middle";
    for (const [name, x, y, align] of [["R", 8 * scale, height / 2, "left"], ["L", width - 8 * scale, height / 2, "right"],
      ["A", width / 2, size, "center"], ["P", width / 2, height - size, "center"]]) {
      pen.textAlign = align;
      pen.lineWidth = 3 * scale;
      pen.strokeStyle = "#000";
      pen.strokeText(name, x, y);
      pen.fillStyle = "#eee";
      pen.fillText(name, x, y);
    }
    pen.textAlign = "left";
  };

  const framesView = (masks) => {
    const held = new Map();
    const base = async (index) => {
      if (!held.has(index)) {
        const picture = new Image();
        picture.src = data.pictures[index];
        await picture.decode();
        held.set(index, picture);
      }
      return held.get(index);
    };
    return new PlainView(element("image"), base, masks && new Uint8Array(masks, HEADER));
  };

  const plainVolumeView = (canvas, grey, masks) => {
    const values = new Uint8Array(grey, HEADER);
    const sheet = document.createElement("canvas");
    sheet.width = columns;
    sheet.height = rows;
    const pen = sheet.getContext("2d"), picture = pen.createImageData(columns, rows);
    const [low, high] = data.range, step = (high - low) / 255;
    const view = new PlainView(canvas, async (index) => {
      const from = (view.window.low - low) / step, to = (view.window.high - low) / step;
      const first = index * columns * rows;
      for (let n = 0; n < columns * rows; n++) {
        const shade = 255 * (values[first + n] - from) / (to - from);
        picture.data[4 * n] = picture.data[4 * n + 1] = picture.data[4 * n + 2] = shade;
        picture.data[4 * n + 3] = 255;
      }
      pen.putImageData(picture, 0, 0);
      return sheet;
    }, masks && new Uint8Array(masks, HEADER));
    view.window = data.windows[0];
    return view;
  };

  // ---- Three planes through NiiVue ----------------------------------------------------------------------------------

  class VolumeView {
    static async on(canvas, grey, masks) {
      const { Slices, NVImage } = globalThis.mtnetSlices;
      const view = new VolumeView();
      view.codes = masks && new Uint8Array(masks, HEADER);
      view.factor = 1;
      const slices = new Slices({
        isRadiologicalConvention: true, crosshairColor: [0.35, 0.62, 0.95, 0.55], crosshairWidth: 1, crosshairGap: 12,
        dragAndDropEnabled: false, logLevel: "error", loadingText: "", isOrientationTextVisible: true,
        fontColor: [0.85, 0.88, 0.92, 1], viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
        isCornerOrientationText: false, fontMinPx: 13, fontSizeScaling: 0.1, multiplanarShowRender: 0, sagittalNoseLeft: true,
      });
      view.slices = slices;
      await slices.attachToCanvas(canvas, false);
      const { low, high } = data.windows[0];
      slices.addVolume(await NVImage.new(grey, "volume.nii", "gray", 1, null, low, high));
      if (masks) {
        view.layer = await NVImage.new(masks, "masks.nii", "gray", 0.3);
        view.colour();
        slices.addVolume(view.layer);
      }
      slices.onDrawn = () => view.drawOver();
      slices.onLocationChange = () => told(view.index());
      view.arrange();
      return view;
    }
    // Until now nothing was drawn: the first picture is that of the place that was gone to.
    release() {
      this.slices.release();
      new ResizeObserver(() => this.arrange()).observe(stage);
    }
    index() {
      return Math.min(count - 1, Math.max(0, Math.round(this.slices.scene.crosshairPos[2] * count - 0.5)));
    }
    arrange() {
      if (this.size === `${stage.clientWidth} ${stage.clientHeight}`) return;
      this.size = `${stage.clientWidth} ${stage.clientHeight}`;
      const wide = stage.clientWidth > 1.15 * stage.clientHeight;
      const planes = wide
        ? [[0, [0, 0, 0.63, 1]], [1, [0.635, 0, 0.365, 0.497]], [2, [0.635, 0.503, 0.365, 0.497]]]
        : [[0, [0, 0, 1, 0.62]], [1, [0, 0.625, 0.497, 0.375]], [2, [0.503, 0.625, 0.497, 0.375]]];
      this.slices.setCustomLayout(planes.map(([sliceType, position]) => ({ sliceType, position })));
    }
    colour() {
      const codes = [{ code: 0, rgb: [0, 0, 0], alpha: 0 }, ...data.legend.map((entry) => ({
        ...entry, alpha: entry.lesion && shown.lesions ? 255 : 0,
      }))];
      const one = (pick) => codes.map(pick);
      this.layer.setColormapLabel({
        R: one((c) => c.rgb[0]), G: one((c) => c.rgb[1]), B: one((c) => c.rgb[2]), A: one((c) => c.alpha),
        I: one((c) => c.code), labels: one((c) => c.name || ""),
      });
    }
    async show(index) {
      const place = this.slices.scene.crosshairPos;
      this.slices.scene.crosshairPos = [place[0], place[1], (index + 0.5) / count];
      this.centre();
    }
    async goTo(lesion) {
      this.slices.scene.crosshairPos = lesion.centre.map((voxel, axis) => (voxel + 0.5) / data.shape[axis]);
      this.centre();
    }
    async zoom(factor) {
      this.factor = factor;
      this.centre();
    }
    // Puts the crosshair in the middle where the image is zoomed; at its own size the whole image is shown.
    centre() {
      const { slices, factor } = this;
      const middle = slices.frac2mm([0.5, 0.5, 0.5]), at = slices.frac2mm(slices.scene.crosshairPos);
      const pan = [0, 1, 2].map((axis) => (factor === 1 ? 0 : middle[axis] - factor * at[axis]));
      slices.scene.pan2Dxyzmm = [...pan, factor];
      // In voxels, which grow with the zoom.
      slices.setCrosshairWidth(1.5 / factor);
    }
    setWindow({ low, high }) {
      Object.assign(this.slices.volumes[0], { cal_min: low, cal_max: high });
      this.slices.updateGLVolume();
    }
    draw(changed) {
      if (changed !== "lesions" || !this.layer) {
        this.slices.drawScene();
        return;
      }
      this.colour();
      this.slices.updateGLVolume();
    }
    drawOver() {
      fit(marks);
      const pen = marks.getContext("2d");
      pen.clearRect(0, 0, marks.width, marks.height);
      for (const tile of this.slices.screenSlices) {
        const plane = PLANES[tile.axCorSag];
        if (!plane) continue;
        const at = Math.floor(tile.sliceFrac * data.shape[plane.along]);
        const index = Math.min(data.shape[plane.along] - 1, Math.max(0, at));
        drawMarks(pen, this.codes, plane, index, this.placeOn(tile, plane), tile.leftTopWidthHeight);
      }
    }
    // Where voxels of a plane lie on the canvas: NiiVue tells of each tile its corner and its extent in millimetres.
    placeOn(tile, plane) {
      const [left, top, width, height] = tile.leftTopWidthHeight;
      const along = (axis, corner, extent, from, size) => {
        const mm = (voxel) => {
          const frac = [0.5, 0.5, 0.5];
          frac[axis] = (voxel + 0.5) / data.shape[axis];
          return this.slices.frac2mm(frac)[axis];
        };
        const zero = (mm(0) - corner) / extent, one = (mm(1) - corner) / extent;
        return [from + zero * size, (one - zero) * size];
      };
      const [bx, ax] = along(plane.right, tile.leftTopMM[0], tile.fovMM[0], left, width);
      const [by, ay] = along(plane.up, tile.leftTopMM[1], tile.fovMM[1], top + height, -height);
      return { ax, bx, ay, by };
    }
  }

  // ---- What a person does -------------------------------------------------------------------------------------------

  let view = null, current = 0;
  const told = (index) => {
    element("slice").value = index;
    element("slice").setAttribute("aria-valuetext", data.slices[index]);
    element("slice-told").textContent = data.slices[index];
  };
  const moveTo = (index) => {
    const inside = Math.min(count - 1, Math.max(0, index));
    told(inside);
    return view.show(inside);
  };
  const jumpTo = async (number) => {
    const lesion = lesions.get(number);
    if (!lesion || !view) return;
    current = number;
    await view.goTo(lesion);
    const index = Math.round(lesion.centre[2]);
    told(Math.min(count - 1, Math.max(0, index)));
    for (const button of document.querySelectorAll(".jump")) {
      const own = Number(button.dataset.lesion) === number;
      button.toggleAttribute("aria-current", own);
      if (own) button.setAttribute("aria-current", "true");
      button.closest("tr").classList.toggle("shown", own);
    }
    const absent = lesion.shown === false ? " Its own frame is not in this page; the nearest one is shown." : "";
    element("status").textContent =
      `Lesion ${number} of ${data.lesions.length} is shown: ${[lesion.name, data.slices[index]].filter(Boolean).join(", ")}.${absent}`;
  };
  const control = () => {
    element("slice").max = count - 1;
    element("slice").closest("label").hidden = count === 1;
    element("slice").addEventListener("input", (event) => moveTo(Number(event.target.value)));
    const numbers = [...lesions.keys()];
    const turn = (by) => {
      const at = numbers.indexOf(current);
      jumpTo(numbers[at < 0 ? (by > 0 ? 0 : numbers.length - 1) : (at + by + numbers.length) % numbers.length]);
    };
    for (const [id, by] of [["previous", -1], ["next", 1]]) {
      element(id).hidden = numbers.length < 2;
      element(id).addEventListener("click", () => turn(by));
    }
    for (const button of document.querySelectorAll(".jump")) {
      button.disabled = false;
      button.addEventListener("click", () => jumpTo(Number(button.dataset.lesion)));
    }
    element("window-choice").hidden = !volume || data.windows.length < 2;
    (data.windows || []).forEach((one, n) => element("window").add(new Option(one.name, n)));
    element("window").addEventListener("change", (event) => view.setWindow(data.windows[event.target.value]));
    element("zoom").addEventListener("change", (event) => view.zoom(Number(event.target.value)));
    const classes = data.legend.filter((entry) => !entry.lesion).map((entry) => entry.name);
    element("classes-told").textContent = `Outline of ${classes.join(", ")}`;
    element("show-classes").closest("label").hidden = classes.length === 0;
    element("show-lesions").closest("label").hidden = !data.legend.some((entry) => entry.lesion);
    element("show-boxes").closest("label").hidden = numbers.length === 0;
    element("layers").hidden = [...element("layers").querySelectorAll("label")].every((label) => label.hidden);
    for (const name of Object.keys(shown)) {
      element(`show-${name}`).addEventListener("change", (event) => {
        shown[name] = event.target.checked;
        view.draw(name);
      });
    }
    element("image").addEventListener("keydown", (event) => {
      const by = { PageUp: 1, PageDown: -1 }[event.key];
      if (!by) return;
      event.preventDefault();
      moveTo(Number(element("slice").value) + by);
    });
    element("controls").hidden = false;
  };
  const say = (text) => { element("hint").textContent = text; };

  // A canvas that had WebGL cannot be drawn on plainly; a new one takes its place.
  const freshCanvas = () => {
    const canvas = element("image").cloneNode(false);
    canvas.removeAttribute("style");
    element("image").replaceWith(canvas);
    return canvas;
  };
  const start = async () => {
    const [grey, masks] = await Promise.all([unpacked("volume"), unpacked("masks")]);
    if (!volume) {
      view = framesView(masks);
      say(count > 1 ? "Scroll over the image, or use the slider, to go through the frames." : "");
    } else {
      const plainly = (why) => {
        view = plainVolumeView(freshCanvas(), grey, masks);
        document.documentElement.dataset.view = "plain";
        say(`${why} Axial slices are shown plainly; coronal and sagittal ones are left out.`);
      };
      if (!document.createElement("canvas").getContext("webgl2")) {
        plainly("This browser offers no WebGL 2.");
      } else {
        try {
          // NiiVue may change what it is given.
          view = await VolumeView.on(element("image"), grey.slice(0), masks && masks.slice(0));
          document.documentElement.dataset.view = "niivue";
          say("Click an image to move the crosshair, scroll to go through slices, drag with the right button to change the window.");
          element("image").addEventListener("webglcontextlost", () => {
            plainly("The graphics card stopped drawing.");
            moveTo(Number(element("slice").value));
          });
        } catch (error) {
          plainly("The images could not be drawn with WebGL 2.");
        }
      }
    }
    control();
    const first = data.lesions[0];
    if (first) await jumpTo(first.number);
    else await moveTo(Math.floor((count - 1) / 2));
    view.release?.();
    element("waiting").remove();
    document.documentElement.dataset.ready = "yes";
    document.documentElement.dataset.drawnMs = String(Math.round(performance.now()));
  };
  start().catch((error) => {
    element("waiting").textContent = "The images could not be drawn; all findings stand in the tables.";
    document.documentElement.dataset.ready = "failed";
    console.error(error);
  });
})();
