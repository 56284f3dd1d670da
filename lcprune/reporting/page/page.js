"use strict";
(() => {
  const block = document.getElementById("explorer-data");
  if (!block) return;
  const data = JSON.parse(block.textContent);
  const byId = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  const main = data.names.length - 1;
  const correct = bytes(data.correct); // a row of bits for every exit
  const stride = Math.ceil(data.samples / 8);
  const isRight = (exit, row) => (correct[exit * stride + (row >> 3)] >> (row & 7)) & 1;
  for (const setting of data.settings) setting.scores = new Float32Array(bytes(setting.scores).buffer);

  // An image leaves at the first kept exit whose score is at least its threshold, compared in float32.
  function simulate(setting, thresholds) {
    const kept = setting.kept, limits = thresholds.map(Math.fround), counts = new Array(kept.length + 1).fill(0);
    let right = 0;
    for (let row = 0; row < data.samples; row++) {
      let place = 0;
      while (place < kept.length && !(setting.scores[place * data.samples + row] >= limits[place])) place++;
      counts[place]++;
      right += isRight(place < kept.length ? kept[place] : main, row);
    }
    const total = counts.reduce((sum, count, place) => sum + count * setting.exitMacs[place], 0);
    return { accuracy: (100 * right) / data.samples, macs: total / data.samples, counts };
  }

  const number = (value, digits) => value.toFixed(digits);
  const percent = (value) => number(value, 2) + " %";
  const valueOf = (slider) => Number(slider.value) / data.steps;

  let setting = data.settings[0];
  let thresholds = [...setting.thresholds];
  let isCommon = true;

  function showPoint(result) {
    const chart = byId("frontier-chart"), point = byId("now-point");
    for (const [axis, value] of [["x", result.macs / data.unit], ["y", result.accuracy]]) {
      const [low, high, start, end] = chart.dataset[axis].split(" ").map(Number);
      point.setAttribute("c" + axis, start + ((value - low) / (high - low)) * (end - start));
    }
  }

  function showExit(exit, result) {
    const place = exit === main ? setting.kept.length : setting.kept.indexOf(exit);
    const share = place < 0 ? 0 : result.counts[place] / data.samples;
    document.querySelector(`[data-share="${exit}"]`).textContent = place < 0 ? "–" : percent(100 * share);
    byId("now-bar").children[exit].style.width = 100 * share + "%";
    if (exit === main) return;
    const slider = document.querySelector(`[data-exit="${exit}"]`);
    slider.disabled = place < 0;
    slider.value = place < 0 ? slider.max : Math.round(data.steps * thresholds[place]);
    const words = place < 0 ? "left out" : thresholds[place] > 1 ? "never" : number(thresholds[place], 3);
    slider.setAttribute("aria-valuetext", words);
    document.querySelector(`[data-threshold="${exit}"]`).textContent = words;
  }

  function show() {
    const result = simulate(setting, thresholds);
    byId("now-accuracy").textContent = percent(result.accuracy);
    byId("now-macs").textContent = number(result.macs / data.unit, 3);
    byId("now-ratio").textContent = percent(100 * (result.macs / data.mainMacs));
    byId("now-threshold").textContent = isCommon ? number(valueOf(byId("threshold")), 3) : "one for each";
    data.names.forEach((_, exit) => showExit(exit, result));
    const words = data.names.map((name, exit) => name + " " + document.querySelector(`[data-share="${exit}"]`).textContent);
    byId("now-bar").setAttribute("aria-label", words.join(", "));
    all("[data-setting]").forEach((button) =>
      button.setAttribute("aria-pressed", String(data.settings[button.dataset.setting] === setting)));
    const said = byId("now-threshold").textContent + ": accuracy " + byId("now-accuracy").textContent + ", " + byId("now-ratio").textContent + " of main";
    byId("threshold").setAttribute("aria-valuetext", said);
    showPoint(result);
  }

  function choose(index) {
    setting = data.settings[index];
    isCommon = index === 0;
    thresholds = isCommon ? setting.kept.map(() => valueOf(byId("threshold"))) : [...setting.thresholds];
    show();
  }

  byId("threshold").addEventListener("input", () => choose(0));
  all("[data-setting]").forEach((button) => button.addEventListener("click", () => choose(Number(button.dataset.setting))));
  all("[data-exit]").forEach((slider) => slider.addEventListener("input", () => {
    thresholds[setting.kept.indexOf(Number(slider.dataset.exit))] = valueOf(slider);
    isCommon = false;
    show();
  }));
  all("#explorer [hidden]").forEach((element) => { element.hidden = false; });
  show();
})();
