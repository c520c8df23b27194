package gateway

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/ringmasterd/ringmaster/ipc"
)

const (
	worthCompressing = 1 << 10 // bytes: a shorter answer is sent as it is
	compressorMemory = 1 << 20 // what compressing an answer takes
	gzipMemory       = 64 << 10
	maxWindow        = 8 << 20 // bytes that what is decompressed may look back
)

// The codings there are.
const (
	codingGzip = "gzip"
	codingZstd = "zstd"
)

// plain reports whether a coding leaves bytes as they are.
func plain(coding string) bool { return coding == "" || strings.EqualFold(coding, "identity") }

// decompress reads what was coded. What it takes is charged; whoever reads charges what comes out, and bounds it. stop is to be called when nothing more is read.
func decompress(coding string, from io.Reader, place *ipc.Place, limit int64) (_ io.Reader, stop func(), e *ipc.Error) {
	in := &decompressor{from: source{Reader: from}, stop: func() {}}
	switch strings.ToLower(coding) {
	case "", "identity":
		return from, in.stop, nil
	case codingGzip, "x-gzip":
		in.begin = in.gzip
		e = place.Add(gzipMemory)
	case codingZstd:
		in.window, in.limit = uint64(min(max(limit, 64<<10), maxWindow)), uint64(limit)+1
		in.begin = in.zstd
		e = place.Add(2 * int64(in.window))
	default:
		e = ipc.Errorf(ipc.InvalidArgument, "unsupported_encoding", "the encoding is %q; it must be gzip, zstd or identity", outline([]byte(coding)))
	}
	return in, func() { in.stop() }, e
}

// decompressor tells what is wrong with the bytes from what is wrong with their way here.
type decompressor struct {
	from          source
	begin         func() error // makes to, at the first read, for that reads, too
	to            io.Reader
	stop          func()
	window, limit uint64 // of zstd
}

// source is what a decompressor reads, and knows whether the fault is there.
type source struct {
	io.Reader
	err error
}

// Read implements [io.Reader].
func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

func (d *decompressor) gzip() error {
	z, err := gzip.NewReader(&d.from)
	d.to = z
	return err
}

func (d *decompressor) zstd() error {
	z, err := zstd.NewReader(&d.from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(d.window), zstd.WithDecoderMaxMemory(d.limit))
	if err == nil {
		d.to, d.stop = z, z.Close
	}
	return err
}

// Read implements [io.Reader].
func (d *decompressor) Read(p []byte) (n int, err error) {
	if d.begin != nil {
		begin := d.begin
		d.begin = nil
		if err = begin(); errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // nothing is no compressed nothing
		}
	}
	if err == nil {
		n, err = d.to.Read(p)
	}
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return n, err
	case d.from.err != nil:
		return n, d.from.err
	case errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, zstd.ErrWindowSizeExceeded):
		return n, ipc.Errorf(ipc.InvalidArgument, "too_large", "what is compressed is larger than a message may be, or looks back more than %d bytes: %v", maxWindow, err)
	}
	return n, ipc.Errorf(ipc.InvalidArgument, "bad_body", "what was sent cannot be decompressed: %v", err)
}

// accepted is the coding in which a client that says so (Accept-Encoding, grpc-accept-encoding) gets its answers, "" for none: the better one of those that it takes.
func accepted(values []string) string {
	best := ""
	for _, value := range values {
		for one := range strings.SplitSeq(value, ",") {
			name, weight, _ := strings.Cut(one, ";")
			if q, given := strings.CutPrefix(strings.ReplaceAll(weight, " ", ""), "q="); given {
				if v, err := strconv.ParseFloat(q, 64); err != nil || v <= 0 {
					continue
				}
			}
			switch strings.ToLower(strings.TrimSpace(name)) {
			case codingZstd:
				return codingZstd
			case codingGzip, "x-gzip":
				best = codingGzip
			}
		}
	}
	return best
}

// compressor is what [gzip.Writer] and [zstd.Encoder] have in common.
type compressor interface {
	io.WriteCloser
	Reset(io.Writer)
}

// compressors are those that are not in use; making one takes longer than using it.
var compressors = map[string]*sync.Pool{
	codingGzip: {New: func() any {
		z, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
		if err != nil {
			panic(fmt.Sprintf("gzip: %v", err)) // the level is one that there is
		}
		return z
	}},
	codingZstd: {New: func() any {
		z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(256<<10), zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err != nil {
			panic(fmt.Sprintf("zstd: %v", err)) // the options are ones that there are
		}
		return z
	}},
}

// compress writes parts to a writer.
func compress(coding string, to io.Writer, parts ...[]byte) error {
	z := compressors[coding].Get().(compressor)
	defer func() {
		z.Reset(nil)
		compressors[coding].Put(z)
	}()
	z.Reset(to)
	for _, b := range parts {
		if _, err := z.Write(b); err != nil {
			return err
		}
	}
	return z.Close()
}

// compressed answers with what there is to say, compressed. It reports false, and has said nothing, if the client has no room for it.
func (x *exchange) compressed(status int, coding string, parts [][]byte) bool {
	if x.place != nil && x.place.Add(compressorMemory) != nil {
		return false
	}
	x.w.Header().Set("Content-Encoding", coding)
	x.w.WriteHeader(status)
	_ = compress(coding, exchangeWriter{x}, parts...) // an error is the client's, who has gone
	return true
}

// exchangeWriter writes an answer as [exchange.write] does.
type exchangeWriter struct{ x *exchange }

// Write implements [io.Writer].
func (w exchangeWriter) Write(p []byte) (int, error) {
	if !w.x.write(p) {
		return 0, errNotTaken
	}
	return len(p), nil
}
