package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/ringmasterd/ringmaster/ipc"
)

const (
	framePrefix  = 5 // bytes before a message: compressed or not, and its length
	codingHeader = "Grpc-Encoding"
)

// grpcCall is one call by gRPC: a request of HTTP/2 whose body and answer are messages, each behind five bytes. It implements [grpc.ServerStream], and belongs to the request's handler; SendMsg is for one at a time.
type grpcCall struct {
	*exchange // its place is that of the message which was received last, unless somebody took it
	ctx       context.Context
	coding    string // of the client's messages; immutable once begun
	answers   string // of ours; set by headers
	streaming bool   // the client may take its time between messages
	begun     bool   // the headers are sent
}

type grpcCallKey struct{}

// grpcCallOf returns the call whose context ctx is.
func grpcCallOf(ctx context.Context) *grpcCall { return ctx.Value(grpcCallKey{}).(*grpcCall) }

// begin checks what the client's headers say of its messages.
func (c *grpcCall) begin() *ipc.Error {
	c.w.Header().Set("Grpc-Accept-Encoding", "identity, gzip, zstd")
	switch c.coding = c.r.Header.Get(codingHeader); c.coding {
	case "", "identity":
		c.coding = ""
	case codingGzip, codingZstd:
	default:
		return ipc.Errorf(ipc.Unimplemented, "unsupported_encoding", "the encoding is %q; it must be gzip, zstd or identity", outline([]byte(c.coding)))
	}
	return nil
}

// headers sends the headers, once.
func (c *grpcCall) headers() {
	if c.begun {
		return
	}
	c.begun = true
	c.w.Header().Set("Content-Type", "application/grpc+proto")
	if c.answers = c.answerCoding(); c.answers != "" {
		c.w.Header().Set(codingHeader, c.answers)
	}
	c.w.WriteHeader(http.StatusOK)
	_ = c.out.Flush() // an error is one that the first message meets, too
}

// answerCoding is that of the client's messages, if it takes such, too.
func (c *grpcCall) answerCoding() string {
	for one := range strings.SplitSeq(strings.Join(c.r.Header.Values("Grpc-Accept-Encoding"), ","), ",") {
		if c.coding != "" && strings.TrimSpace(one) == c.coding {
			return c.coding
		}
	}
	return ""
}

// takePlace takes over what the message holds that was received last. It is to be left.
func (c *grpcCall) takePlace() *ipc.Place {
	place := c.place
	c.place = nil
	return place
}

// Context implements [grpc.ServerStream].
func (c *grpcCall) Context() context.Context { return c.ctx }

// SetHeader implements [grpc.ServerStream].
func (c *grpcCall) SetHeader(metadata.MD) error { return nil } // what is told, exchange.tell tells

// SendHeader implements [grpc.ServerStream].
func (c *grpcCall) SendHeader(metadata.MD) error {
	c.headers()
	return nil
}

// SetTrailer implements [grpc.ServerStream].
func (c *grpcCall) SetTrailer(metadata.MD) {}

// RecvMsg implements [grpc.ServerStream]. What the message takes is charged, each part before it is there: its bytes, what is in them if they are compressed, and what they become.
func (c *grpcCall) RecvMsg(to any) error {
	m, ok := to.(proto.Message)
	if !ok {
		return ipc.Errorf(ipc.Internal, "internal", "%T is no message", to)
	}
	c.close() // the one before
	c.place = nil
	b, e := c.frame()
	if e != nil {
		return e
	}
	if b == nil {
		return io.EOF
	}
	size, err := memoryOf(m.ProtoReflect().Descriptor(), b, 0)
	if err == nil {
		if e := c.place.Add(size); e != nil {
			return e
		}
		err = proto.Unmarshal(b, m)
	}
	if err != nil {
		return ipc.Errorf(ipc.InvalidArgument, "bad_body", "the message is no %s: %v", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return nil
}

// frame reads the bytes of the next message, nil if there is none.
func (c *grpcCall) frame() ([]byte, *ipc.Error) {
	var prefix [framePrefix]byte
	if c.streaming {
		_ = c.out.SetReadDeadline(time.Time{})
		if c.draining() { // and whoever tells those that wait has perhaps done so
			return nil, errDraining
		}
	} else {
		_ = c.out.SetReadDeadline(time.Now().Add(c.web.srv.cfg.ReadTimeout))
	}
	switch _, err := io.ReadFull(c.r.Body, prefix[:1]); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case late(err) && c.streaming:
		return nil, errDraining
	case err != nil:
		return nil, c.broken(err)
	}
	if _, err := c.piece(c.r.Body, prefix[1:]); err != nil {
		return nil, c.broken(err)
	}
	size, limit := int64(binary.BigEndian.Uint32(prefix[1:])), int64(c.web.srv.cfg.MaxMessage)
	switch {
	case prefix[0] > 1:
		return nil, ipc.Errorf(ipc.InvalidArgument, "bad_body", "a message begins with the byte %#x; it must be 0, or 1 if the message is compressed", prefix[0])
	case prefix[0] == 1 && c.coding == "":
		return nil, ipc.Errorf(ipc.InvalidArgument, "bad_body", "a message is compressed, but there is no grpc-encoding")
	case size > limit:
		return nil, tooLarge(limit)
	}
	var e *ipc.Error
	if c.place, e = c.enter(size); e != nil {
		return nil, e
	}
	b := make([]byte, 0, size)
	for int64(len(b)) < size {
		n, err := c.piece(c.r.Body, b[len(b):min(size, int64(len(b)+readPiece))])
		if b = b[:len(b)+n]; err != nil {
			return nil, c.broken(fmt.Errorf("%d of %d bytes of a message: %w", len(b), size, err))
		}
	}
	_ = c.out.SetReadDeadline(time.Time{})
	if prefix[0] == 1 {
		return c.decompressed(b, limit)
	}
	return b, nil
}

// decompressed is what is in a compressed message.
func (c *grpcCall) decompressed(b []byte, limit int64) ([]byte, *ipc.Error) {
	in, stop, e := decompress(c.coding, bytes.NewReader(b), c.place, limit)
	if e != nil {
		return nil, e
	}
	defer stop()
	whole := []byte{}
	for {
		if len(whole) == cap(whole) {
			more := max(readPiece, len(whole))
			if e := c.place.Add(int64(more)); e != nil {
				return nil, e
			}
			whole = append(make([]byte, 0, cap(whole)+more), whole...)
		}
		n, err := in.Read(whole[len(whole):cap(whole)])
		whole = whole[:len(whole)+n]
		switch {
		case int64(len(whole)) > limit:
			return nil, tooLarge(limit)
		case errors.Is(err, io.EOF):
			return whole, nil
		case err != nil:
			return nil, c.broken(err)
		}
	}
}

// SendMsg implements [grpc.ServerStream]. The client pays for what it is sent until it has taken it; where it sends messages side by side, whoever answers them sees to that.
func (c *grpcCall) SendMsg(from any) error {
	m, ok := from.(proto.Message)
	if !ok {
		return ipc.Errorf(ipc.Internal, "internal", "%T is no message", from)
	}
	c.headers()
	size := proto.Size(m)
	if !c.streaming && c.place != nil { // else its place is the reader's, and whoever sends has charged
		if e := c.place.Add(int64(size)); e != nil {
			return e
		}
		defer c.place.Give(int64(size))
	}
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(make([]byte, framePrefix, framePrefix+size), m)
	if err != nil {
		return ipc.Errorf(ipc.Internal, "internal", "the answer cannot be encoded: %v", err)
	}
	if c.answers != "" && len(b) >= worthCompressing {
		packed := bytes.NewBuffer(make([]byte, framePrefix, framePrefix+size/2))
		if err := compress(c.answers, packed, b[framePrefix:]); err != nil {
			return ipc.Errorf(ipc.Internal, "internal", "the answer cannot be compressed: %v", err)
		}
		b = packed.Bytes()
		b[0] = 1
	}
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-framePrefix))
	taken := c.write(b) && c.out.Flush() == nil
	_ = c.out.SetWriteDeadline(time.Time{}) // the next one may be long in coming; HTTP/2 would reset the stream
	if !taken {
		return errNotTaken
	}
	return nil
}
