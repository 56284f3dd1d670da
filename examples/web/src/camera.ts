// The camera: a viewfinder in the page, or the phone's own camera application where the browser gives none.

const REASONS: Record<string, string> = {
  NotAllowedError: "The camera was not allowed. Allow it in the browser's settings, or choose an image.",
  NotFoundError: "There is no camera. Choose an image instead.",
  NotReadableError: "Another application holds the camera. Close it, or choose an image.",
};

/**
 * Opens the viewfinder on a click of `button`.
 *
 * Browsers give the camera's stream to pages of localhost and https only; elsewhere `capture`, a file input, opens the
 * phone's camera application.
 */
export function connectCamera(
  button: HTMLButtonElement,
  viewfinder: HTMLDialogElement,
  capture: HTMLInputElement,
  taken: (picture: Blob) => void,
  failed: (message: string) => void,
): void {
  const video = viewfinder.querySelector("video")!;
  let stream: MediaStream | null = null;

  async function open(): Promise<void> {
    if (navigator.mediaDevices === undefined) return capture.click();
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      video.srcObject = stream;
      await video.play();
      viewfinder.showModal();
    } catch (error) {
      stop();
      failed(REASONS[(error as Error).name] ?? `The camera cannot be used: ${(error as Error).message}`);
    }
  }

  function stop(): void {
    stream?.getTracks().forEach((track) => track.stop());
    stream = null;
    video.srcObject = null;
  }

  function take(): void {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d")?.drawImage(video, 0, 0);
    canvas.toBlob((picture) => (picture === null ? failed("The camera gave no picture.") : taken(picture)));
    viewfinder.close();
  }

  button.addEventListener("click", () => void open());
  viewfinder.querySelector("[data-action=take]")!.addEventListener("click", take);
  viewfinder.querySelector("[data-action=close]")!.addEventListener("click", () => viewfinder.close());
  viewfinder.addEventListener("close", stop); // Escape comes here, too
  capture.addEventListener("change", () => {
    if (capture.files?.[0] !== undefined) taken(capture.files[0]);
    capture.value = "";
  });
}
