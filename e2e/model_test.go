package e2e

import (
	"bufio"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringmasterd/ringmaster/client"
)

const model = `
pools:
  smollm2: {command: ["${PYTHON}", -m, examples.smollm2], workers: 2, start_timeout: 3m, env_pass: [SMOLLM2_*], balance: hash, session: {conversation: true}}
  echo: {builtin: echo}
sessions: {store: memory}
`

// One server for all that the model answers: loading it twice takes longer than everything else.
func TestModel(t *testing.T) {
	s := serve(t, model, "smollm2", "echo")
	t.Run("answers", s.answers)
	t.Run("streams as it goes", s.streams)
	t.Run("a worker is killed in mid-stream", s.killedMidStream)
	t.Run("a bad question is the asker's error", s.badQuestion)
	t.Run("OpenAI's own client", s.openai)
	t.Run("curl", s.curls)
	t.Run("the same by JSON-RPC", s.sameByRPC)
	t.Run("metrics", s.metrics)
	t.Run("a conversation", s.converses)
}

func (s *server) answers(t *testing.T) {
	out, errs, code := s.output("call", "smollm2", "chat", "--data", question("What is the capital of France?"), "--stream")
	if code != 0 || !strings.Contains(out, "Paris") {
		t.Errorf("exit %d, answer %q, %s", code, out, errs)
	}
}

func (s *server) streams(t *testing.T) {
	c := s.command("call", "smollm2", "chat", "--data", question("Write a long story about a lighthouse keeper."), "--stream", "--json")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var first, last time.Duration
	chunks := 0
	for lines := bufio.NewScanner(out); lines.Scan(); chunks++ {
		last = time.Since(begin)
		if chunks == 0 {
			first = last
		}
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d chunks, the first after %v, the last after %v", chunks, first, last)
	if chunks < 20 || first > last/2 {
		t.Errorf("%d chunks, the first after %v, the last after %v: not as the tokens are made", chunks, first, last)
	}
}

// Two streams run, one in each worker. One worker is killed: its stream ends at once with worker_lost, the other is untouched.
func (s *server) killedMidStream(t *testing.T) {
	c := s.dial()
	ctx := testContext(t)
	type end struct {
		err    error
		at     time.Time
		chunks int
	}
	begun := make(chan struct{}, 2)
	ends := make(chan end, 2)
	for range 2 {
		go func() {
			n := 0
			body := map[string]any{
				"messages":   []map[string]string{{"role": "user", "content": "Write a long story about a lighthouse keeper."}},
				"max_tokens": 120,
			}
			for _, err := range c.Stream(ctx, "smollm2", "chat", body) {
				if n++; n == 2 {
					begun <- struct{}{}
				}
				if err != nil {
					ends <- end{err, time.Now(), n}
					return
				}
			}
			ends <- end{nil, time.Now(), n}
		}()
	}
	<-begun
	<-begun
	before := s.workers("smollm2")
	for i, w := range before {
		if w.InFlight != 1 || w.State != "ready" {
			t.Fatalf("worker %d: %+v, want one request in flight", i, w)
		}
	}
	killed := time.Now()
	if err := unix.Kill(before[0].PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	first, second := <-ends, <-ends
	var lost *client.Error
	if !errors.As(first.err, &lost) || lost.Code != "ABORTED" || lost.Reason != "worker_lost" {
		t.Fatalf("the killed worker's stream ended with %v", first.err)
	}
	if took := first.at.Sub(killed); took > time.Second {
		t.Errorf("it took %v to tell", took)
	}
	if second.err != nil || second.chunks < 20 {
		t.Errorf("the other stream ended with %v after %d chunks", second.err, second.chunks)
	}
	eventually(t, time.Minute, "the restart", func() bool { return s.workers("smollm2")[0].State == "ready" })
	after := s.workers("smollm2")
	if w := after[0]; w.Restarts != 1 || w.PID == before[0].PID || w.LastExit == nil || w.LastExit.Cause != "signal" {
		t.Errorf("the killed worker's slot: %+v, %+v", w, w.LastExit)
	}
	if w := after[1]; w.Restarts != 0 || w.PID != before[1].PID {
		t.Errorf("the other slot: %+v", w)
	}
	s.answers(t)
}

func (s *server) badQuestion(t *testing.T) {
	for _, body := range []string{`{}`, `{"messages": []}`, `{"messages": [{"role": "king", "content": "x"}]}`, `[1]`, `{"messages": "hi"}`} {
		_, errs, code := s.output("call", "smollm2", "chat", "--data", body, "--stream")
		if code != 1 || !strings.Contains(errs, "INVALID_ARGUMENT/invalid_argument") {
			t.Errorf("%s: exit %d, %s", body, code, errs)
		}
	}
	for i, w := range s.workers("smollm2") {
		if w.State != "ready" {
			t.Errorf("worker %d afterwards: %+v", i, w)
		}
	}
}

// A session's second question is asked after its first one and its answer, although the client sends neither, and of the worker that still has them in memory: it computes little more than what is new.
func (s *server) converses(t *testing.T) {
	type usage struct {
		Prompt     int `msgpack:"prompt_tokens"`
		Completion int `msgpack:"completion_tokens"`
		Details    struct {
			Cached int `msgpack:"cached_tokens"`
		} `msgpack:"prompt_tokens_details"`
	}
	ask := func(session, text string) (answer string, u usage) {
		t.Helper()
		body := map[string]any{"messages": []map[string]string{{"role": "user", "content": text}}, "temperature": 0.1, "max_tokens": 24}
		for chunk, err := range s.dial().Stream(testContext(t), "smollm2", "chat", body, client.WithSession(session)) {
			if err != nil {
				t.Fatal(err)
			}
			var part struct {
				Text  string `msgpack:"text"`
				Usage *usage `msgpack:"usage"`
			}
			if err := chunk.Decode(&part); err != nil {
				t.Fatal(err)
			}
			answer += part.Text
			if part.Usage != nil {
				u = *part.Usage
			}
		}
		return answer, u
	}
	first, before := ask("ada", "My name is Ada, and I keep a lighthouse on a small island far away. Greet me by my name.")
	second, after := ask("ada", "What is my name, and what do I keep?")
	t.Logf("%+v: %s", before, first)
	t.Logf("%+v: %s", after, second)
	if known := before.Prompt + before.Completion; after.Prompt <= known || after.Details.Cached < before.Prompt {
		t.Errorf("of the second question's %d tokens %d were there, want more than %d, and %d", after.Prompt, after.Details.Cached, known, before.Prompt)
	}
	if _, other := ask("bob", "What is my name, and what do I keep?"); other.Prompt >= after.Prompt {
		t.Errorf("another session's first question has %d tokens", other.Prompt)
	}
}
