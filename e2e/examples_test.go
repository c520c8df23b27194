package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// app runs a program in Python beside the server and returns what it printed.
func (s *server) app(t *testing.T, args ...string) string {
	t.Helper()
	app := exec.CommandContext(testContext(t), python, args...)
	app.Dir, app.Env = root, s.command().Env
	out, err := app.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v (what it needs comes with `make py`)\n%s", args, err, out)
	}
	return string(out)
}

const ocr = `
pools:
  ocr: {command: ["${PYTHON}", -m, examples.ocr], workers: 1, start_timeout: 3m}
`

// A picture is read from the shell, and by an app that draws it into its arena.
func TestOCR(t *testing.T) {
	s := serve(t, ocr, "ocr")
	shot := filepath.Join(t.TempDir(), "shot.png")
	s.app(t, "-c", `
import sys
from PIL import Image
from examples.ocr.pictures import draw
Image.fromarray(draw(["The ring goes round", "forty two 42"])).save(sys.argv[1])`, shot)
	out, errs, code := s.output("call", "ocr", "read", "--tensor", "image=@"+shot)
	if code != 0 || !strings.Contains(out, "The ring goes round") || !strings.Contains(out, "forty two 42") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	if out := s.app(t, "-m", "examples.ocr.app"); !strings.Contains(out, "  Read by a worker process\n") || !strings.Contains(out, "  from the memory of this one\n") {
		t.Errorf("a frame that the app drew: %s", out)
	}
	if out := s.app(t, "-m", "examples.ocr.app", shot); !strings.Contains(out, "  The ring goes round\n") {
		t.Errorf("the picture, from the app: %s", out)
	}
	if _, errs, code := s.output("call", "ocr", "read"); code != 1 || !strings.Contains(errs, "there is no tensor `image`") {
		t.Errorf("without a picture: exit %d: %s", code, errs)
	}
}

const wordllama = `
pools:
  wordllama: {command: ["${PYTHON}", -m, examples.wordllama], workers: 1}
`

// OpenAI's own client gets vectors of a real model.
func TestEmbeddings(t *testing.T) {
	s := serve(t, wordllama, "wordllama")
	out := s.app(t, "-c", `
import os, httpx2, openai
transport = httpx2.HTTPTransport(uds=os.environ["RINGMASTER_SOCKET"])
with openai.OpenAI(base_url="http://localhost/v1", api_key="none", http_client=httpx2.Client(transport=transport)) as c:
    print([m.id for m in c.models.list()])
    for encoding in "float", "base64":
        answer = c.embeddings.create(model="wordllama", input=["a dog in the garden", "a puppy on the lawn", "the tax return"], encoding_format=encoding)
        if encoding == "base64":
            import base64, struct
            vectors = [struct.unpack("<256f", base64.b64decode(d.embedding)) for d in answer.data]
        else:
            vectors = [d.embedding for d in answer.data]
        dog, puppy, tax = vectors
        dot = lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))
        print(len(dog), dot(dog, puppy) > dot(dog, tax) + 0.2, answer.usage.prompt_tokens > 8)`)
	if out != "['wordllama']\n256 True True\n256 True True\n" {
		t.Error(out)
	}
	if _, errs, code := s.output("call", "wordllama", "embed", "--data", `{"input": "not a list"}`); code != 1 || !strings.Contains(errs, "a list of strings that is not empty") {
		t.Errorf("a text alone: exit %d: %s", code, errs)
	}
}
