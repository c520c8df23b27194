package jsonbody

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/ringmasterd/ringmaster/ipc"
)

func TestMessagesKeepTheirTensors(t *testing.T) {
	for _, s := range []string{
		`{"$tensors":[{"name":"x","dtype":"uint8","shape":[2,1],"data":"AQI="}],"a":1,"b":[2]}`,
		`{"$tensors":[{"name":"x","dtype":"float32","shape":[],"data":"AAAAAA=="},{"name":"","dtype":"bool","shape":[0],"data":""}]}`,
		`{"$tensors":[{"name":"x","dtype":"int8","shape":[1],"data":"AQ=="}],"$body":[1,2]}`,
		`{"deep":{"$tensors":"not these"}}`, `"$tensors"`, `[{"$tensors":[]}]`, `{"$body":1}`, `null`,
	} {
		b, tensors, err := DecodeMessage([]byte(s))
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		if back, err := EncodeMessage(b, tensors); err != nil || string(back) != s {
			t.Errorf("%s came back as %s, %v", s, back, err)
		}
	}
	b, tensors, err := DecodeMessage([]byte(` {"b":1, "$tensors": [{"name":"x","dtype":"int16","shape":[1],"data":"AQI="}], "a":2}`))
	want := []ipc.Tensor{{Name: "x", DType: "int16", Shape: []uint64{1}, Data: []byte{1, 2}}}
	if err != nil || !bytes.Equal(b, []byte{0x82, 0xa1, 'b', 1, 0xa1, 'a', 2}) || !reflect.DeepEqual(tensors, want) {
		t.Errorf("% x, %+v, %v", b, tensors, err)
	}
}

func TestBadTensors(t *testing.T) {
	for s, want := range map[string]string{
		`{"$tensors":1}`:              "not an array",
		`{"$tensors":[1]}`:            "a tensor is {name",
		`{"$tensors":[{"name":"x"}]}`: "unknown dtype",
		`{"$tensors":[{"name":"x","dtype":"int8","shape":[2],"data":"AQ=="}]}`: "needs 2 bytes, got 1",
		`{"$tensors":[{"dtype":"int8","shape":[-1],"data":"AQ=="}]}`:           "a tensor is {name",
		`{"$tensors":[{"dtype":"int8","shape":[1],"data":"?"}]}`:               "illegal base64",
		`{"$tensors":[],"$tensors":[]}`:                                        "twice",
		`{"$tensors":[],"$body":1,"x":2}`:                                      "beside other keys",
		`{"$tensors":[]`:                                                       "EOF",
		`{"$tensors":[]} 1`:                                                    "something follows",
	} {
		if _, _, err := DecodeMessage([]byte(s)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", s, err, want)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"$tensors":[{"name":"x","dtype":"uint8","shape":[2,1],"data":"AQI="}],"a":1}`))
	f.Add([]byte(`{"$tensors":[],"$body":[1]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, tensors, err := DecodeMessage(data)
		if err != nil {
			return
		}
		out, err := EncodeMessage(b, tensors)
		if err != nil || !json.Valid(out) {
			t.Fatalf("%q → %s, %v", data, out, err)
		}
	})
}
