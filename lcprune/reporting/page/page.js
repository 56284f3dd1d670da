"use strict";
(() => {
  const block = document.getElementById("explorer-data");
  if (!block) return;
  const data = JSON.parse(block.textContent);
  const byId = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  function codesOf(text) {
    const raw = bytes(text);
    const codes = new Uint16Array(raw.length / 2);
    for (let i = 0; i < codes.length; i++) codes[i] = raw[2 * i] | (raw[2 * i + 1] << 8);
    return codes;
  }

  const main = data.names.length - 1;
  const correct = bytes(data.correct); // a row of bits for every exit
  const stride = Math.ceil(data.samples / 8);
  const isRight = (exit, row) => (correct[exit * stride + (row >> 3)] >> (row & 7)) & 1;
  for (const setting of data.settings) setting.codes = codesOf(setting.codes);

  // An image leaves at the first kept exit whose code is above the index of its threshold on the grid.
  function simulate(setting, at) {
    const kept = setting.kept, counts = new Array(kept.length + 1).fill(0);
    let right = 0;
    for (let row = 0; row < data.samples; row++) {
      let place = 0;
      while (place < kept.length && setting.codes[place * data.samples + row] <= at[place]) place++;
      counts[place]++;
      right += isRight(place < kept.length ? kept[place] : main, row);
    }
    const total = counts.reduce((sum, count, place) => sum + count * setting.exitMacs[place], 0);
    return { accuracy: (100 * right) / data.samples, macs: total / data.samples, counts };
  }

  const number = (value, digits) => value.toFixed(digits);
  const percent = (value) => number(value, 2) + " %";

  let setting = data.settings[0];
  let at = [...setting.at];
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
    slider.max = setting.grid.length;
    slider.value = place < 0 ? slider.max : at[place];
    const value = setting.grid[at[place]];
    const words = place < 0 ? "left out" : value === undefined ? "never" : number(value, 3);
    slider.setAttribute("aria-valuetext", words);
    document.querySelector(`[data-threshold="${exit}"]`).textContent = words;
  }

  function show() {
    const result = simulate(setting, at);
    byId("now-accuracy").textContent = percent(result.accuracy);
    byId("now-macs").textContent = number(result.macs / data.unit, 3);
    byId("now-ratio").textContent = percent(100 * (result.macs / data.mainMacs));
    byId("now-threshold").textContent = isCommon ? number(byId("threshold").value / 1000, 3) : "one for each";
    data.names.forEach((_, exit) => showExit(exit, result));
    const words = data.names.map((name, exit) => name + " " + document.querySelector(`[data-share="${exit}"]`).textContent);
    byId("now-bar").setAttribute("aria-label", words.join(", "));
    all("[data-setting]").forEach((button) =>
      button.setAttribute("aria-pressed", String(data.settings[button.dataset.setting] === setting)));
    const said = byId("now-threshold").textContent + ": accuracy " + byId("now-accuracy").textContent + ", " + byId("now-ratio").textContent + " of main";
    byId("threshold").setAttribute("aria-valuetext", said);
    showPoint(result);
  }

  // The first setting's grid is the slider's own: its places are the indices.
  function takeCommon() {
    setting = data.settings[0];
    at = setting.kept.map(() => Number(byId("threshold").value));
    isCommon = true;
    show();
  }

  byId("threshold").addEventListener("input", takeCommon);
  all("[data-setting]").forEach((button) => button.addEventListener("click", () => {
    if (button.dataset.setting === "0") return takeCommon();
    setting = data.settings[button.dataset.setting];
    at = [...setting.at];
    isCommon = false;
    show();
  }));
  all("[data-exit]").forEach((slider) => slider.addEventListener("input", () => {
    at[setting.kept.indexOf(Number(slider.dataset.exit))] = Number(slider.value);
    isCommon = false;
    show();
  }));
  all("#explorer [hidden]").forEach((element) => { element.hidden = false; });
  show();
})();
