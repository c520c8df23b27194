package gateway

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	messageMemory = 256 // bytes, at most, of an empty message, of which two bytes can make one, or of an entry of a map
	elementMemory = 48  // of a string, or of an element of a list that grows one by one
	maxNesting    = 32  // of messages in messages; none here is deeper than 4
)

var errTooDeep = errors.New("messages are nested too deep")

// memoryOf is how much memory a message takes once it is decoded, at most: it is counted before, because two bytes can become a message of a hundred. Whether the bytes are a message at all is found out by decoding.
func memoryOf(of protoreflect.MessageDescriptor, b []byte, depth int) (total int64, _ error) {
	if depth > maxNesting {
		return 0, errTooDeep
	}
	total = messageMemory
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(number, kind, b[n:])
		if size < 0 {
			return 0, protowire.ParseError(size)
		}
		value := b[n : n+size]
		b = b[n+size:]
		total += int64(n+size) + elementMemory // as it is, or as a field that is not known
		if kind != protowire.BytesType {
			continue
		}
		field := of.Fields().ByNumber(number)
		if field == nil {
			continue
		}
		inside, _ := protowire.ConsumeBytes(value)
		switch {
		case field.Message() != nil:
			more, err := memoryOf(field.Message(), inside, depth+1)
			if err != nil {
				return 0, err
			}
			total += more
		case field.IsPacked():
			total += packedFactor(field.Kind()) * int64(len(inside))
		}
	}
	return total, nil
}

// packedFactor is how many bytes an element of a packed list takes, for each byte that it may have been.
func packedFactor(kind protoreflect.Kind) int64 {
	switch kind {
	case protoreflect.BoolKind, protoreflect.FloatKind, protoreflect.DoubleKind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind, protoreflect.Sfixed32Kind, protoreflect.Sfixed64Kind:
		return 1
	case protoreflect.Int32Kind, protoreflect.Uint32Kind, protoreflect.Sint32Kind, protoreflect.EnumKind:
		return 4
	}
	return 8
}
