// The camera as a query: each frame is answered, then the next is taken.

import * as api from "./api.js";
import { colour } from "./support.js";
import { Stage } from "./stage.js";

export class Camera {
  constructor(support, queries) {
    this.support = support;
    this.queries = queries;
    this.dialog = document.getElementById("camera-dialog");
    this.video = document.getElementById("video");
    this.stage = new Stage(document.getElementById("camera-stage"));
    this.stream = null;
    document.getElementById("camera").addEventListener("click", () => this.open());
    document.getElementById("camera-close").addEventListener("click", () => this.dialog.close());
    document.getElementById("camera-take").addEventListener("click", () => this.#take());
    this.dialog.addEventListener("close", () => this.#stop());
  }

  async open() {
    const hint = document.getElementById("camera-hint");
    this.dialog.showModal();
    try {
      // Browsers give cameras to secure pages only: https, or this machine.
      if (!navigator.mediaDevices) throw new Error("Browsers allow the camera only over https or on localhost.");
      this.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 960 } } });
    } catch (error) {
      hint.textContent = `The camera cannot be used: ${error.message}`;
      return;
    }
    this.video.srcObject = this.stream;
    await this.video.play();
    this.stage.resize(this.video.videoWidth, this.video.videoHeight);
    hint.textContent = this.support.ready(this.queries.modality)
      ? "Keypoints follow the picture. Nothing is stored."
      : "Make an example in step 1 first: then keypoints follow the picture.";
    this.#follow();
  }

  #frame() {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [this.video.videoWidth, this.video.videoHeight];
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
  }

  async #follow() {
    const { support, queries, stage } = this;
    while (this.stream) {
      if (!support.ready(queries.modality)) {
        await new Promise((resolve) => setTimeout(resolve, 300));
        continue;
      }
      try {
        const answer = await api.estimate({
          image: await this.#frame(), support: support.message(queries.modality),
          supportImage: support.imageBlob(queries.modality), boxes: [], model: queries.model, maps: false,
        });
        if (!this.stream) return;
        stage.clear();
        for (const { keypoints } of answer.instances) {
          const seen = keypoints.map((keypoint) => keypoint.located && keypoint.score >= queries.threshold);
          for (const [a, b] of support.edges) if (seen[a] && seen[b]) stage.edge(keypoints[a], keypoints[b]);
          keypoints.forEach((keypoint, index) => { if (seen[index]) stage.point(keypoint, colour(index), keypoint.name); });
        }
      } catch (error) {
        document.getElementById("camera-hint").textContent = error.message;
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    }
  }

  async #take() {
    const blob = await this.#frame();
    this.dialog.close();
    await this.queries.add([new File([blob], "camera.jpg", { type: "image/jpeg" })]);
  }

  #stop() {
    for (const track of this.stream?.getTracks() || []) track.stop();
    this.stream = null;
    this.stage.clear();
  }
}
