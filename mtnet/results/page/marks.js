// Outlines of masks, along the edges of pixels, and boxes with numbers, over any picture of report.html.
"use strict";
const mtnetMarks = (data, shown) => {
  const [columns, rows] = data.shape;
  const css = (rgb, alpha = 1) => `rgba(${rgb[0]}, ${rgb[1]}, ${rgb[2]}, ${alpha})`;
  const byCode = new Map(data.legend.map((entry) => [entry.code, entry]));
  // For the planes of a volume: the axis that is looked along, and those to the right and up.
  const PLANES = [{ along: 2, right: 0, up: 1 }, { along: 1, right: 0, up: 2 }, { along: 0, right: 1, up: 2 }];
  const STRIDES = [1, columns, columns * rows];
  const outlinesOf = (codes, plane, index) => {
    const width = data.shape[plane.right], height = data.shape[plane.up];
    const [du, dv] = [STRIDES[plane.right], STRIDES[plane.up]];
    const first = index * STRIDES[plane.along];
    const paths = new Map();
    const edge = (code, u0, v0, u1, v1) => {
      if (!byCode.has(code)) return;
      if (!paths.has(code)) paths.set(code, new Path2D());
      const path = paths.get(code);
      path.moveTo(u0, v0);
      path.lineTo(u1, v1);
    };
    for (let v = 0; v < height; v++) {
      for (let u = 0; u < width; u++) {
        const at = first + u * du + v * dv, own = codes[at];
        const before = u ? codes[at - du] : 0, below = v ? codes[at - dv] : 0;
        if (own !== before) {
          edge(own, u - 0.5, v - 0.5, u - 0.5, v + 0.5);
          edge(before, u - 0.5, v - 0.5, u - 0.5, v + 0.5);
        }
        if (own !== below) {
          edge(own, u - 0.5, v - 0.5, u + 0.5, v - 0.5);
          edge(below, u - 0.5, v - 0.5, u + 0.5, v - 0.5);
        }
        if (own && u === width - 1) edge(own, u + 0.5, v - 0.5, u + 0.5, v + 0.5);
        if (own && v === height - 1) edge(own, u - 0.5, v + 0.5, u + 0.5, v + 0.5);
      }
    }
    return paths;
  };
  const cache = new Map();
  const outlines = (codes, plane, index) => {
    if (!codes) return new Map();
    const held = cache.get(plane);
    if (held && held.index === index) return held.paths;
    const paths = outlinesOf(codes, plane, index);
    cache.set(plane, { index, paths });
    return paths;
  };

  // Draws over one picture. `place` maps (right, up) in voxels to pixels of the canvas: x = ax * right + bx, same for y.
  const drawMarks = (pen, codes, plane, index, place, clip) => {
    const matrix = new DOMMatrix([place.ax, 0, 0, place.ay, place.bx, place.by]);
    const scale = window.devicePixelRatio || 1;
    pen.save();
    pen.beginPath();
    pen.rect(...clip);
    pen.clip();
    for (const [code, path] of outlines(codes, plane, index)) {
      const entry = byCode.get(code);
      if (!(entry.lesion ? shown.lesions : shown.classes)) continue;
      const moved = new Path2D();
      moved.addPath(path, matrix);
      pen.lineWidth = (entry.lesion ? 2 : 1) * scale;
      pen.strokeStyle = css(entry.rgb, entry.lesion ? 1 : 0.7);
      pen.stroke(moved);
    }
    if (shown.boxes) {
      for (const lesion of data.lesions) {
        const low = lesion.box.slice(0, 3), high = lesion.box.slice(3);
        if (index < low[plane.along] || index > high[plane.along] || lesion.shown === false) continue;
        const x0 = place.ax * low[plane.right] + place.bx, x1 = place.ax * high[plane.right] + place.bx;
        const y0 = place.ay * low[plane.up] + place.by, y1 = place.ay * high[plane.up] + place.by;
        drawBox(pen, lesion, Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1), scale, clip);
      }
    }
    pen.restore();
  };
  const drawBox = (pen, lesion, x0, y0, x1, y1, scale, clip) => {
    const air = 3 * scale;
    // In the middle of pixels, where a line is sharp.
    const left = Math.round(x0 - air) + 0.5, top = Math.round(y0 - air) + 0.5;
    const width = Math.round(x1 - x0 + 2 * air), height = Math.round(y1 - y0 + 2 * air);
    pen.lineWidth = 3.5 * scale;
    pen.strokeStyle = "rgba(0, 0, 0, 0.75)";
    pen.strokeRect(left, top, width, height);
    pen.lineWidth = 1.5 * scale;
    pen.strokeStyle = css(lesion.rgb);
    pen.strokeRect(left, top, width, height);
    pen.font = `700 ${14 * scale}px system-ui, sans-serif`;
    pen.textBaseline = "top";
    const name = String(lesion.number), wide = pen.measureText(name).width;
    const x = left + width + 4 * scale + wide > clip[0] + clip[2] ? left - wide - 4 * scale : left + width + 4 * scale;
    pen.lineWidth = 3 * scale;
    pen.strokeStyle = "#000";
    pen.strokeText(name, x, top);
    pen.fillStyle = css(lesion.rgb);
    pen.fillText(name, x, top);
  };
  return { PLANES, drawMarks };
};
