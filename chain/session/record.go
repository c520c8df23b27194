package session

import (
	"encoding/binary"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"

	"github.com/ringmasterd/ringmaster/ipc"
)

// recordVersion is the first element of a stored record. One that is another's is not read.
const recordVersion = 1

// record is what is kept of a session: MessagePack, [1, context, [message, …], writer].
type record struct {
	context  []byte
	messages []ipc.Body // each a value, still encoded
	writer   uint64     // random: no two requests write the same record, so that a store can tell whose commit it was
}

// size is how many bytes the record has, without what stands before each part.
func (r record) size() int64 {
	n := len(r.context)
	for _, m := range r.messages {
		n += len(m)
	}
	return int64(n)
}

func (r record) encode() []byte {
	b := append(make([]byte, 0, 25+r.size()), 0x94, recordVersion)
	b = appendLength(b, len(r.context), bin)
	b = append(b, r.context...)
	b = appendLength(b, len(r.messages), array)
	for _, m := range r.messages {
		b = append(b, m...)
	}
	return binary.BigEndian.AppendUint64(append(b, msgpcode.Uint64), r.writer)
}

// decodeRecord reads what encode wrote; it refers to b.
func decodeRecord(b []byte) (r record, err error) {
	if len(b) == 0 {
		return record{}, nil
	}
	var stored []msgpack.RawMessage
	if err := ipc.Body(b).Validate(); err != nil {
		return record{}, fmt.Errorf("what is stored of the session is damaged: %w", err)
	}
	stored, err = elements(b)
	if err == nil && (len(stored) < 3 || len(stored[0]) != 1 || stored[0][0] != recordVersion) {
		err = fmt.Errorf("it is not of version %d", recordVersion)
	}
	if err == nil {
		err = msgpack.Unmarshal(stored[1], &r.context)
	}
	var messages []msgpack.RawMessage
	if err == nil {
		messages, err = elements(stored[2])
	}
	if err != nil {
		return record{}, fmt.Errorf("what is stored of the session cannot be read: %w", err)
	}
	for _, m := range messages {
		r.messages = append(r.messages, ipc.Body(m))
	}
	return r, nil
}
