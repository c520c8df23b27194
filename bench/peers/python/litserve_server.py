"""The LitServe server: litserve_server.py PORT. Its requests are JSON, so bytes travel as base64."""

import base64
import sys

import litserve
import work


class Work(litserve.LitAPI):
    """One process."""

    def setup(self, _device):
        work.weights()

    def decode_request(self, request):
        return base64.b64decode(request["x"])

    def predict(self, x):
        return work.handle(x)

    def encode_response(self, output):
        return {"y": base64.b64encode(output).decode()}


if __name__ == "__main__":
    litserve.LitServer(Work(), accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
