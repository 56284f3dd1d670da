import { defineConfig } from "vite";

// What the built page may load: its own files, and nothing from anywhere else. Not while developing, where Vite puts
// styles into the page.
const POLICY = [
  "default-src 'self'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "img-src 'self' blob:",
  "media-src 'self' blob:",
  "object-src 'none'",
  "base-uri 'none'",
  "form-action 'none'",
].join("; ");

const policy = {
  name: "content-security-policy",
  apply: "build",
  transformIndexHtml: () => [
    { tag: "meta", attrs: { "http-equiv": "Content-Security-Policy", content: POLICY }, injectTo: "head-prepend" },
  ],
};

export default defineConfig({
  base: "./", // the page works in any folder of any server
  appType: "mpa", // a file that is not there is a 404, not index.html
  plugins: [policy],
  optimizeDeps: { exclude: ["onnxruntime-web"] }, // it looks for its .wasm file beside itself
  build: { target: "es2022", modulePreload: { polyfill: false } },
});
