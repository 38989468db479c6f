package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// jsonCodec is JSON as the native routes write it: names with underscores. It
// takes the names of either spelling, and refuses those that it does not know.
type jsonCodec struct{ name string }

func (c jsonCodec) Name() string { return c.name }

func (c jsonCodec) Marshal(message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", message)
	}
	return protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
}

func (c jsonCodec) Unmarshal(b []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", message)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return errors.New("nothing came: want a JSON object, {} at least")
	}
	return protojson.Unmarshal(b, m)
}

// shown makes the message of a view: what the native routes answer, by the same
// names. A test holds both together.
func shown[T any, M interface {
	*T
	proto.Message
}](view any) (*T, error) {
	b, err := json.Marshal(view)
	if err != nil {
		return nil, fmt.Errorf("%T as JSON: %w", view, err)
	}
	var m T
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, M(&m)); err != nil {
		return nil, fmt.Errorf("%T as %T: %w", view, &m, err)
	}
	return &m, nil
}
