package ipc

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ringmasterd/ringmaster/shm"
)

// A small call as it is in everyday life.
var (
	smallRequest = &Request{ID: 123456, Pool: "minilm", Action: "embed", TraceID: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Timeout: 59_998_211_000, Credit: 1, Body: Body("\x81\xa4text\xa5hello")}
	smallReply   = &Reply{ID: 123456, End: true, Body: Body("\x81\xa1n\x03")}
)

// BenchmarkEnvelope is what the envelope of one call costs: both messages encoded and decoded, by both sides of one hop together.
func BenchmarkEnvelope(b *testing.B) {
	var there, back decoder
	b.ReportAllocs()
	for b.Loop() {
		if err := hop(&there, func(e *encoder) { e.request(smallRequest) }); err != nil {
			b.Fatal(err)
		}
		if err := hop(&back, func(e *encoder) { e.reply(smallReply) }); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTensorEnvelope is the same of a call with a small tensor each way and hardly anything else, read by a server.
func BenchmarkTensorEnvelope(b *testing.B) {
	request := &Request{ID: 123456, Pool: "echo", Action: "echo", Timeout: 59_998_211_000, Tensors: []Tensor{{Name: "x", DType: "uint8", Shape: []uint64{64}, Data: make([]byte, 64)}}}
	reply := &Reply{ID: 123456, End: true, Tensors: request.Tensors}
	there, back := decoder{serves: true}, decoder{}
	b.ReportAllocs()
	for b.Loop() {
		if err := hop(&there, func(e *encoder) { e.request(request) }); err != nil {
			b.Fatal(err)
		}
		if err := hop(&back, func(e *encoder) { e.reply(reply) }); err != nil {
			b.Fatal(err)
		}
	}
}

func hop(d *decoder, encode func(*encoder)) error {
	e := newEncoder()
	defer e.free()
	encode(e)
	parts, _ := e.message()
	_, err := d.decode(parts[0])
	return err
}

func BenchmarkScan(b *testing.B) {
	chat, err := Marshal(map[string]any{"messages": []map[string]string{{"role": "user", "content": "Why is the sky blue? Answer in one sentence."}}, "temperature": 0.7, "max_tokens": 256})
	if err != nil {
		b.Fatal(err)
	}
	numbers := make([]int, 10000)
	for i := range numbers {
		numbers[i] = i * i
	}
	many, err := Marshal(numbers)
	if err != nil {
		b.Fatal(err)
	}
	frame := append(Body{0xc6, 0, 0x5e, 0xec, 0}, make([]byte, 1920*1080*3)...)
	for _, c := range []struct {
		name string
		body Body
	}{{"chat", chat}, {"10000 numbers", many}, {"1080p frame", frame}, {"chains", repeated(2000, chain(62, "\x81\xa0", 0x80)...)}} {
		b.Run(fmt.Sprintf("%s/%d bytes", c.name, len(c.body)), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(c.body)))
			for b.Loop() {
				if err := Scan(c.body[:]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkBody(b *testing.B) {
	type args struct {
		Text  string  `msgpack:"text"`
		N     int     `msgpack:"n"`
		Score float64 `msgpack:"score"`
	}
	in := args{"hello", 3, 0.5}
	b.ReportAllocs()
	for b.Loop() {
		body, err := Marshal(&in)
		if err != nil {
			b.Fatal(err)
		}
		var out args
		if err := body.Decode(&out); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRingRoundTrip is a call through Caller, a mapped segment, Serve and back, both sides in this process. Beside it stands the same over a
// Unix socket, and the bare ring without Caller, Serve or a codec.
func BenchmarkRingRoundTrip(b *testing.B) {
	for _, size := range []int{64, 4 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("bare/%d", size), func(b *testing.B) { benchmarkBare(b, size) })
		for _, outstanding := range []int{1, 64} {
			b.Run(fmt.Sprintf("ring/%d bytes/%d outstanding", size, outstanding), func(b *testing.B) {
				supervisor, worker := segments(b, shm.Geometry{S2W: 8 << 20, W2S: 8 << 20, Eventfd: true})
				benchmarkCalls(b, SupervisorRing(supervisor, 1<<20), WorkerRing(worker, 1<<20), size, outstanding)
			})
			b.Run(fmt.Sprintf("socket/%d bytes/%d outstanding", size, outstanding), func(b *testing.B) {
				p := socketPair(b, pairOptions{askingLimit: 1 << 20, answeringLimit: 1 << 20})
				benchmarkCalls(b, p.asking, p.answering, size, outstanding)
			})
		}
	}
}

func benchmarkBare(b *testing.B, size int) {
	supervisor, worker := segments(b, shm.Geometry{S2W: 8 << 20, W2S: 8 << 20, Eventfd: true})
	asking, answering := SupervisorRing(supervisor, 1<<20), WorkerRing(worker, 1<<20)
	var echo sync.WaitGroup
	echo.Go(func() {
		for {
			m, err := answering.Recv()
			if err != nil {
				return
			}
			if _, err := answering.Send(m); err != nil {
				return
			}
		}
	})
	defer echo.Wait()
	defer func() { _ = answering.Close() }()
	message := make([]byte, size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := asking.Send(message); err != nil {
			b.Fatal(err)
		}
		if _, err := asking.Recv(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBudget is a call over a Unix socket whose server charges it to its client, beside one whose server does not.
func BenchmarkBudget(b *testing.B) {
	for _, size := range []int{64, 64 << 10, 6 << 20} {
		for _, outstanding := range []int{1, 64} {
			if size > 1<<20 && outstanding > 1 {
				continue
			}
			for _, charged := range []bool{false, true} {
				b.Run(fmt.Sprintf("%d bytes/%d outstanding/charged=%v", size, outstanding, charged), func(b *testing.B) {
					var cfg ServeConfig
					if charged {
						cfg.Account = allow(1<<30, 1<<20).account
					}
					p := socketPair(b, pairOptions{askingLimit: 8 << 20, answeringLimit: 8 << 20})
					if charged {
						p.answering.(*Socket).SetReadTimeout(10 * time.Second) // as in the gateway
					}
					b.SetBytes(int64(size))
					benchmarkServed(b, p.asking, p.answering, cfg, size, outstanding)
				})
			}
		}
	}
}

func benchmarkCalls(b *testing.B, askingEnd, answeringEnd Transport, size, outstanding int) {
	benchmarkServed(b, askingEnd, answeringEnd, ServeConfig{}, size, outstanding)
}

func benchmarkServed(b *testing.B, askingEnd, answeringEnd Transport, cfg ServeConfig, size, outstanding int) {
	serve(b, answeringEnd, cfg, echoAll)
	c := ask(b, askingEnd, Events{})
	body := append(Body{0xc6, 0, byte(size >> 16), byte(size >> 8), byte(size)}, bytes.Repeat([]byte{7}, size)...)
	b.ReportAllocs()
	b.ResetTimer()
	var group sync.WaitGroup
	for g := range outstanding {
		group.Go(func() {
			for range (b.N + outstanding - 1 - g) / outstanding {
				if _, err := unary(context.Background(), c.Caller, &Request{Pool: "p", Action: "echo", Body: body}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.StopTimer()
}
