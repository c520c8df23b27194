package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/ringmasterd/ringmaster/ipc"
)

// zipped is so many zeros (spaces, for those who read JSON), compressed.
func zipped(t testing.TB, coding string, size int) []byte {
	t.Helper()
	return packed(t, coding, bytes.Repeat([]byte{' '}, size))
}

func packed(t testing.TB, coding string, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := compress(coding, &out, b); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestAccepted(t *testing.T) {
	for values, want := range map[string]string{
		"": "", "gzip": "gzip", "gzip, deflate, br": "gzip", "deflate, gzip;q=1.0, zstd;q=0.5": "zstd", "zstd;q=0, gzip": "gzip", "gzip;q=0": "", "identity": "", "GZIP": "gzip", "gzip;q=x": "", "*": "",
	} {
		if got := accepted([]string{values}); got != want {
			t.Errorf("%q: %q, want %q", values, got, want)
		}
	}
}

// Large answers are compressed for those who take that, small ones and streams are not; large bodies may come compressed.
func TestCompression(t *testing.T) {
	s := start(t, newBabel(), Config{})
	text := strings.Repeat("0123456789abcdef", 1<<12)
	whole := fmt.Sprintf(`{"jsonrpc":"2.0","id":7,"method":"p.echo","params":%q}`, text)
	for version := 1; version <= 2; version++ {
		c := browser(t, s.path, version)
		c.Transport.(*http.Transport).DisableCompression = true
		for _, coding := range []string{"", codingGzip, codingZstd} {
			r, err := http.NewRequestWithContext(context.Background(), "POST", "http://h/rpc", bytes.NewReader([]byte(whole)))
			if coding != "" {
				r, err = http.NewRequestWithContext(context.Background(), "POST", "http://h/rpc", bytes.NewReader(packed(t, coding, []byte(whole))))
			}
			if err != nil {
				t.Fatal(err)
			}
			if coding != "" {
				r.Header.Set("Content-Encoding", coding)
				r.Header.Set("Accept-Encoding", coding)
			}
			answer, err := c.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			if err != nil || answer.Header.Get("Content-Encoding") != coding {
				t.Fatalf("%q: %v, %v", coding, answer.Header, err)
			}
			if coding != "" && len(b) > len(text)/10 {
				t.Errorf("%s made %d bytes of %d", coding, len(b), len(text))
			}
			var reply rpcReply
			if err := json.Unmarshal(unpacked(t, coding, b), &reply); err != nil || string(reply.Result) != `"`+text+`"` {
				t.Errorf("%q: %d bytes, %v", coding, len(b), err)
			}
		}
		for _, sent := range []string{`{"jsonrpc":"2.0","id":7,"method":"p.echo","params":1}`, `{"jsonrpc":"2.0","id":7,"method":"p.count"}`} {
			if _, header, body := ask(t, c, "POST", "h/rpc", sent, "Accept-Encoding", "gzip, zstd", "Accept", "text/event-stream"); header.Get("Content-Encoding") != "" || !strings.Contains(body, "jsonrpc") {
				t.Errorf("%s: %v %s", sent, header, body)
			}
		}
	}
}

func unpacked(t testing.TB, coding string, b []byte) []byte {
	t.Helper()
	var in io.Reader = bytes.NewReader(b)
	var err error
	switch coding {
	case codingGzip:
		in, err = gzip.NewReader(in)
	case codingZstd:
		var z *zstd.Decoder
		if z, err = zstd.NewReader(in); err == nil {
			defer z.Close()
			in = z
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A body that is not what its Content-Encoding says, or far more than it looks, is refused, and costs no more than a message may.
func TestZipBombs(t *testing.T) {
	s := start(t, newBabel(), Config{MaxMessage: 1 << 20})
	c := browser(t, s.path, 2)
	call := []byte(`{"jsonrpc":"2.0","id":1,"method":"p.echo","params":[1,2,3]}`)
	for _, tt := range []struct {
		name, coding string
		body         []byte
		status       int
		want         string
	}{
		{"a bomb", codingGzip, zipped(t, codingGzip, 1<<28), 413, "too_large"},
		{"a bomb of zstd", codingZstd, zipped(t, codingZstd, 1<<28), 413, "too_large"},
		{"a bomb in a bomb", codingGzip, packed(t, codingGzip, zipped(t, codingGzip, 1<<28)), 200, "-32700"},
		{"no gzip", codingGzip, call, 200, "-32700"},
		{"no zstd", codingZstd, call, 200, "-32700"},
		{"nothing", codingGzip, nil, 200, "-32700"},
		{"half of it", codingGzip, packed(t, codingGzip, call)[:40], 200, "-32700"},
		{"half of zstd", codingZstd, packed(t, codingZstd, call)[:20], 200, "-32700"},
		{"another coding", "br", call, 415, "unsupported_encoding"},
		{"two codings", "gzip, gzip", call, 415, "unsupported_encoding"},
		{"none by name", "identity", call, 200, `"result":[1,2,3]`},
		{"gzip", codingGzip, packed(t, codingGzip, call), 200, `"result":[1,2,3]`},
	} {
		status, _, body := ask(t, c, "POST", "h/rpc", string(tt.body), "Content-Encoding", tt.coding)
		if status != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s: %d %s, want %d %s", tt.name, status, body, tt.status, tt.want)
		}
	}
	eventually(t, "everything to be given back", func() bool { return s.clients.memory.Used() == 0 })
}

// Whatever is said to be compressed, a message or an error comes of it.
func FuzzDecompress(f *testing.F) {
	f.Add(packed(f, codingGzip, []byte("hello")), true)
	f.Add(packed(f, codingZstd, []byte("hello")), false)
	f.Fuzz(func(t *testing.T, data []byte, gz bool) {
		coding := codingZstd
		if gz {
			coding = codingGzip
		}
		in, stop, e := decompress(coding, bytes.NewReader(data), nobody(t), 1<<16)
		if e != nil {
			t.Fatal(e)
		}
		defer stop()
		_, _ = io.CopyN(io.Discard, in, 1<<20)
	})
}

// nobody is a place of nobody.
func nobody(t testing.TB) *ipc.Place {
	t.Helper()
	place, e := ipc.Enter(nil, 0)
	if e != nil {
		t.Fatal(e)
	}
	return place
}
