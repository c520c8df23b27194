package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const protocols = `
pools:
  vectors: {command: ["${PYTHON}", "${ROOT}/e2e/testdata/vectors.py"], concurrency: 4}
  echo: {builtin: echo, concurrency: 16}
`

// The clients that others wrote for each protocol work as they are, against a real server with real workers.
func TestClientsOfOthers(t *testing.T) {
	s := serve(t, protocols, "vectors", "echo")
	app := exec.Command(python, filepath.Join(root, "e2e", "testdata", "protocols_app.py"))
	app.Env = s.command().Env
	out, err := app.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "all good") {
		t.Errorf("%v (the clients come with `make py`)\n%s", err, out)
	}
}

// What curl can do: plain HTTP, bytes behind JSON, compression, lines over HTTP/2.
func TestCurl(t *testing.T) {
	s := serve(t, protocols, "vectors", "echo")
	for _, version := range []string{"--http1.1", "--http2-prior-knowledge"} {
		if out := s.curl(t, "/v2/models/vectors/ready", version); out != "{\"ready\":true}\n200" {
			t.Errorf("%s: %s", version, out)
		}
		if out := s.curl(t, "/v2/models/none/infer", version, "-d", "{}"); !strings.HasPrefix(out, `{"error":"NOT_FOUND/unknown_pool: `) || !strings.HasSuffix(out, "404") {
			t.Errorf("%s: %s", version, out)
		}
		if out := s.curl(t, "/v2/models/vectors/infer", version, "-d", `{"inputs":[{"name":"x","datatype":"FP16","shape":[2,1],"data":[[1],[2.5]]},{"name":"t","datatype":"BYTES","shape":[1],"data":["hi"]}],"outputs":[{"name":"t"},{"name":"x"}]}`); out != `{"model_name":"vectors","model_version":"1","parameters":{"seen":1},"outputs":[{"name":"t","datatype":"BYTES","shape":[1],"data":["hi"]},{"name":"x","datatype":"FP16","shape":[2,1],"data":[2,5]}]}200` {
			t.Errorf("%s: %s", version, out)
		}
		document := `{"inputs":[{"name":"x","datatype":"INT16","shape":[2],"parameters":{"binary_data_size":4}}],"parameters":{"binary_data_output":true,"action":"echo"}}`
		if out := s.curl(t, "/v2/models/echo/infer", version, "-H", fmt.Sprintf("Inference-Header-Content-Length: %d", len(document)), "--data-binary", document+"abcd"); !strings.HasSuffix(out, `"parameters":{"binary_data_size":4}}]}abcd200`) {
			t.Errorf("%s: %s", version, out)
		}
		text := strings.Repeat("x", 1<<16)
		if out := s.curl(t, "/rpc", version, "--compressed", "--write-out", "%{size_download} ", "-d", fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"echo.echo","params":%q}`, text)); !strings.Contains(out, text) || len(out) < len(text) {
			t.Errorf("%s, compressed: %d bytes", version, len(out))
		}
		out := s.curl(t, "/rpc", version, "-H", "Content-Type: application/x-ndjson", "--data-binary", `{"jsonrpc":"2.0","id":1,"method":"vectors.count"}`+"\n"+`{"jsonrpc":"2.0","id":2,"method":"echo.echo","params":7}`+"\n")
		if lines := strings.Split(strings.TrimSuffix(out, "200"), "\n"); len(lines) != 6 || strings.Count(out, `"method":"rpc.chunk"`) != 3 || !strings.Contains(out, `"result":7,"id":2`) || !json.Valid([]byte(lines[0])) {
			t.Errorf("%s, lines: %s", version, out)
		}
	}
}
